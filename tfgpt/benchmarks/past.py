"""`tfgpt bench report`: the ratios of all kept results over time, as a table and as a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

from tfgpt import files
from tfgpt.benchmarks import history, latest, pages, ratios
from tfgpt.errors import UserError

SHOWN = 5  # latest values in a line of the table
Key = tuple[str, str]  # machine, name of the ratio


class Value(NamedTuple):
    """One ratio of one result."""

    date: str
    commit: str
    value: float


def run(path: Path, *, output: str | None, into: str | None) -> None:
    """Print the table; draw the picture and fill the page where that is asked for."""
    records = history.read(path)
    found = series(records)
    if not found:
        what = "holds no ratio yet" if records else "holds no result yet"
        raise UserError(f"the history {what}", where=str(path), fix="tfgpt bench train --save")
    print(f"{path}: {len(records)} result{'' if len(records) == 1 else 's'}; the higher, the better")
    for machine in dict.fromkeys(where for where, _ in found):
        rows = {name: values for (where, name), values in found.items() if where == machine}
        width = max(map(len, rows))
        print(f"\n{machine}\n  {'':<{width}}  {'latest':>8}  before that, back to")
        for name, values in rows.items():
            earlier = "".join(f"{v.value:>8.3g}" for v in reversed(values[-SHOWN:-1]))
            print(f"  {name:<{width}}  {values[-1].value:>8.3g}{earlier:<{8 * (SHOWN - 1)}}  {_since(values)}".rstrip())
    if output:
        draw(found, output)
        print(f"\ndrawn in {output}")
    if into:
        pages.fill(into, "report", latest.text(records))
        print(f"put into {into}")


def series(records: list[history.Record]) -> dict[Key, list[Value]]:
    """Every ratio over time, apart for each machine, as one machine's ratios say nothing about another's."""
    found: dict[Key, list[Value]] = {}
    for record in records:
        for name, value in ratios.of(record).items():
            point = Value(record.get("date", ""), record.get("commit", ""), value)
            found.setdefault((history.where(record), name), []).append(point)
    return found


def _since(values: list[Value]) -> str:
    if len(values) == 1:
        return " ".join([values[0].date[:10], values[0].commit])
    first = values[0]
    return f"{first.value:.3g} of {first.date[:10]} ({len(values)})"


def draw(found: dict[Key, list[Value]], output: str) -> None:
    """A chart for each benchmark into the PNG file `output`."""
    figure, colors = canvas()
    charts: dict[str, dict[Key, list[Value]]] = {}
    for (machine, name), values in found.items():
        charts.setdefault(f"{name.split(',')[0]}; {machine}", {})[machine, name] = values
    figure.set_size_inches(10, 2.8 * len(charts))
    for axis, (title, lines) in zip(figure.subplots(len(charts), 1, squeeze=False)[:, 0], charts.items(), strict=True):
        days = sorted({value.date for values in lines.values() for value in values})
        for number, ((_, name), values) in enumerate(lines.items()):
            label = name.partition(", ")[2] or name
            places = [days.index(value.date) for value in values]
            axis.plot(places, [v.value for v in values], marker="o", color=colors[number % len(colors)], label=label)
        axis.set_title(title.replace("$", r"\$"), loc="left", fontsize=10)
        axis.set_xticks(range(len(days)), [day[:10] for day in days], fontsize=8)
        plain(axis, top=max(value.value for values in lines.values() for value in values))
    write(figure, output)


def canvas():
    """An empty figure of matplotlib, and the colours of our reports."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("a PNG needs matplotlib, which is not installed", fix='pip install "tfgpt[plot]"') from error
    from tfgpt.report.image import COLORS

    figure = Figure(dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, COLORS


def plain(axis, *, top: float, legend: bool = True) -> None:
    """The looks of the report's charts, from nothing to `top` and a little more."""
    axis.set_ylim(0, 1.08 * top)
    axis.grid(color="#e6eaee", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#aab2bb")
    axis.tick_params(color="#aab2bb", labelsize=8)
    if legend:
        axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def write(figure, output: str) -> None:
    """The figure as a PNG file that is whole or not there."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    files.write_bytes(output, picture.getvalue())
