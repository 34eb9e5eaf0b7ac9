"""What `tfgpt bench growth` found, as tables of Markdown and as a picture."""

from __future__ import annotations

import os

from tfgpt.benchmarks import history, past
from tfgpt.benchmarks.growth_points import KEY_OF, MIDDLE, SPAN, Axis, Point
from tfgpt.benchmarks.processes import Result

KEYS = (
    "tokens_per_s",
    "lowest",
    "highest",
    "steps",
    "peak_mb",
    "import_s",
    "build_s",
    "compile_s",
    "parameters",
    "date",
)
TITLES = {
    "n_ctx": "context, tokens",
    "batch": "windows a step",
    "n_layer": "blocks",
    "width": "width",
    "vocabulary": "vocabulary",
}


def text(wanted: dict[str, Axis], found: dict[Point, Result], same: Result) -> str:
    """A table an axis, below a line that says what the middle is and where it was measured."""
    versions = same["versions"]
    days = sorted({row["date"][:10] for row in found.values()})
    parts = [
        f"The middle: {MIDDLE.n_layer} blocks of width {MIDDLE.n_embd}, context {MIDDLE.n_ctx}, {MIDDLE.rows} windows a step, "
        f"vocabulary {MIDDLE.n_vocab:,}, {same['precision']}; each table changes one thing. Along the contexts a step has "
        f"{MIDDLE.tokens:,} tokens; local attention has spans of {SPAN}. {history.where(same)}; TensorFlow "
        f"{versions.get('tensorflow', '?')}, Keras {versions.get('keras', '?')}; {' to '.join(days[:1] + days[1:][-1:])}.\n"
    ]
    parts += [_table(TITLES[name], axis, found) for name, axis in wanted.items()]
    return "\n".join(parts)


def _table(title: str, axis: Axis, found: dict[Point, Result]) -> str:
    lines = [
        f"| {title} | parameters, M | tokens/s (lowest, highest) | memory, MB | import, s | build, s | compile, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for label, point in axis:
        if row := found.get(point):
            speed = f"{row['tokens_per_s']:,.0f} ({row['lowest']:,.0f}, {row['highest']:,.0f})"
            lines.append(
                f"| {label} | {row['parameters'] / 1e6:.1f} | {speed} | {row['peak_mb']:,} | {row['import_s']:.1f} "
                f"| {row['build_s']:.1f} | {row['compile_s']:.1f} |"
            )
        else:
            lines.append(f"| {label} | | could not be measured | | | | |")
    return "\n".join(lines) + "\n"


def link(output: str, into: str) -> str:
    """The picture as the page shows it."""
    path = os.path.relpath(output, os.path.dirname(into) or ".").replace(os.sep, "/")
    return f"\n![Tokens a second and memory along each axis]({path})\n"


def check() -> None:
    """Say before anything is measured that nothing could be drawn."""
    past.canvas()


def draw(wanted: dict[str, Axis], found: dict[Point, Result], output: str) -> None:
    """Tokens a second, and memory below, along each axis, into the PNG file `output`."""
    figure, colors = past.canvas()
    figure.set_size_inches(3.0 * len(wanted), 5.0)
    grid = figure.subplots(2, len(wanted), squeeze=False)
    for column, (name, axis) in enumerate(wanted.items()):
        key = KEY_OF.get(name, name)
        points = [point for _, point in axis if point in found]
        for one, measure in zip(grid[:, column], ("tokens_per_s", "peak_mb"), strict=True):
            for number, local in enumerate((False, True)):
                mine = [point for point in points if point.local == local]
                at, values = [point.sizes[key] for point in mine], [found[point][measure] for point in mine]
                label = f"{'local' if local else 'dense'} attention"
                one.plot(at, values, marker="o", color=colors[number], label=label)
            ticks = sorted({point.sizes[key] for point in points})
            one.set_xscale("log", base=2)
            one.set_xticks(ticks, [f"{value:,}" for value in ticks], rotation=60)
            one.minorticks_off()
            past.plain(one, top=max((found[point][measure] for point in points), default=1.0), legend=False)
        grid[1, column].set_xlabel(TITLES[name], fontsize=9)
        if name == "n_ctx":
            grid[0, column].legend(frameon=False, fontsize=8)
    grid[0, 0].set_ylabel("tokens/s", fontsize=9)
    grid[1, 0].set_ylabel("memory, MB", fontsize=9)
    past.write(figure, output)
