"""The report as a picture: loss, learning rate and throughput in one PNG, drawn by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from tfgpt import files
from tfgpt.errors import UserError
from tfgpt.report.chart import MARKS_DRAWN, Layer, Panel
from tfgpt.report.history import read
from tfgpt.report.page import names_of
from tfgpt.report.panels import panels
from tfgpt.report.scale import short
from tfgpt.report.series import thin

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07a00", "#56b4e9")


def write_png(runs: Sequence[str], output: str) -> None:
    """Draw the run folders `runs` into the PNG file `output`; it needs matplotlib.

    >>> write_png(["models/mine"], "mine.png")                       # doctest: +SKIP
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter
    except ImportError as error:
        raise UserError("a PNG needs matplotlib, which is not installed", fix='pip install "tfgpt[plot]"') from error
    histories, names = [read(run) for run in runs], names_of(runs)
    shown = [panel for panel in panels(histories) if panel.name in ("loss", "lr", "rate")]
    figure = Figure(figsize=(10, 4.2 + 1.6 * (len(shown) - 1)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        len(shown), 1, sharex=True, squeeze=False, height_ratios=[3 if panel.tall else 1 for panel in shown]
    )[:, 0]
    for axis, panel in zip(axes, shown, strict=True):
        for layer in panel.layers:
            kept = thin(layer.steps.astype(np.float64), layer.values, 1000) if layer.steps.size else np.arange(0)
            axis.plot(layer.steps[kept], layer.values[kept], **_look(layer, one=len(runs) == 1))
        scale = panel.scales["full"]
        axis.set_ylim(scale.low, scale.high)
        axis.set_ylabel(f"{panel.title}\n({panel.unit})" if panel.unit else panel.title)
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axis.grid(color="#e6eaee", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color("#aab2bb")
        axis.tick_params(color="#aab2bb", labelsize=9)
        for (run, step), kinds in _marks(panel).items():
            axis.axvline(step, color="#8b949e", linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)
            axis.annotate(
                ", ".join(kinds), (step, 0.99), xycoords=("data", "axes fraction"), rotation=90,
                va="top", ha="right", fontsize=7, color="#57606a" if len(runs) == 1 else COLORS[run % 6],
            )  # fmt: skip
        if panel.right and panel.name == "loss":
            right = axis.secondary_yaxis("right")
            right.set_ylabel("perplexity")
            right.yaxis.set_major_formatter(FuncFormatter(lambda value, _, label=panel.right: label(value)))
            right.spines[["right"]].set_visible(False)
            right.tick_params(color="#aab2bb", labelsize=9)
    axes[-1].set_xlabel("steps")
    axes[-1].xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    figure.align_ylabels(axes)
    _legend(axes[0], names, evals=any(h.evals for h in histories))
    best = histories[0].best_eval
    title = names[0] + (f": best evaluation loss {best.loss:.4f} at step {best.step:,}" if best else "")
    # A name is the user's: a dollar sign in it must not begin a formula.
    axes[0].set_title((title if len(runs) == 1 else f"{len(runs)} runs").replace("$", r"\$"), loc="left", fontsize=12)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    files.write_bytes(output, picture.getvalue())


def _marks(panel: Panel) -> dict[tuple[int, int], list[str]]:
    """Kinds of events by run and step; a run that simply ended well needs no mark."""
    found: dict[tuple[int, int], list[str]] = {}
    for run, event in panel.marks:
        if event.kind != "note" and event.text != "done" and len(found) < MARKS_DRAWN:
            kinds = found.setdefault((run, event.step), [])
            if (kind := event.kind.replace("_", " ")) not in kinds:
                kinds.append(kind)
    return found


def _look(layer: Layer, *, one: bool) -> dict:
    color = COLORS[layer.run % 6]
    style = ("-", "--", ":")[min(layer.run // 6, 2)]
    if layer.look in ("evals", "points"):
        color = COLORS[1] if one else color
    return {
        "raw": {"color": color, "alpha": 0.3, "linewidth": 0.7},
        "smooth": {"color": color, "linewidth": 1.8, "linestyle": style},
        "line": {"color": color, "linewidth": 1.8, "linestyle": style},
        "lost": {"color": color, "linewidth": 0.9, "linestyle": ":", "alpha": 0.8},
        "evals": {"color": color, "linewidth": 1.0, "alpha": 0.8},
        "points": {"color": color, "linestyle": "", "marker": "o", "markersize": 4.5},
    }[layer.look] | ({"marker": "o", "markersize": 4} if layer.steps.size == 1 else {})


def _legend(axis, names: Sequence[str], *, evals: bool) -> None:
    from matplotlib.lines import Line2D

    if len(names) == 1:
        entries = [(Line2D([], [], color=COLORS[0], linewidth=1.8), "training, smoothed")]
        entries += [(Line2D([], [], color=COLORS[1], marker="o", linewidth=1), "evaluation")] if evals else []
    else:
        styles = ("-", "--", ":")
        entries = [
            (
                Line2D([], [], color=COLORS[i % 6], linewidth=1.8, linestyle=styles[min(i // 6, 2)]),
                name.replace("$", r"\$"),
            )
            for i, name in enumerate(names)
        ]
        entries += [(Line2D([], [], color="#57606a", marker="o", linestyle=""), "evaluation")] if evals else []
    axis.legend(
        [line for line, _ in entries], [label for _, label in entries], frameon=False, loc="upper right", fontsize=9
    )
