"""One chart as HTML: an SVG that stretches to any width, and labels beside it that never do.

Lines live in an SVG of 2000 x 1000 units without a fixed aspect ratio, texts are ordinary HTML placed in percent: so a
chart is as readable on a phone as on a wide screen, without a script.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from tfgpt.report.history import AXES, Event, History
from tfgpt.report.scale import Scale, short, tick_label
from tfgpt.report.series import thin

WIDTH, HEIGHT = 2000, 1000
MARKS_DRAWN = 60  # of one kind; more would be a curtain
SIGNS = {
    "resume": "▸",
    "rollback": "↺",
    "skipped": "∅",
    "nonfinite": "×",
    "fallback": "⚑",
    "save_failed": "!",
    "stop": "■",
}


@dataclass(frozen=True)
class Layer:
    """Values of run number `run` after `steps` updates; `look` is raw, smooth, line, lost, evals or points."""

    run: int
    steps: np.ndarray
    values: np.ndarray
    look: str
    buckets: int = 500


@dataclass(frozen=True)
class Panel:
    """What one chart shows. `right` turns a tick of the left axis into a label of the right one."""

    name: str
    title: str
    unit: str
    layers: Sequence[Layer]
    scales: dict[str, Scale]  # by form ("full", "zoom", "log"); with one entry alone there is nothing to switch
    summary: str
    right: Callable[[float], str] | None = None
    right_title: str = ""
    tall: bool = False
    marks: Sequence[tuple[int, Event]] = field(default_factory=list)


def x_scales(histories: Sequence[History]) -> dict[str, Scale]:
    """The x axis in steps, tokens and time that all charts of a page share."""
    scales = {}
    for axis in AXES:
        ends = [
            float(v)
            for h in histories
            for v in h.x(axis, np.array([h.loss.steps[0] - 1 if h.loss.steps.size else h.step, h.step]))
        ]
        low, high = min(ends), max(ends)
        # A run that began far from 0, as one whose first lines are lost, gets its own window.
        low = 0.0 if low < 0.3 * high else low
        scales[axis] = Scale(low, high + 0.012 * (high - low) if high > low else low + 1.0)
    return scales


def draw(panel: Panel, histories: Sequence[History], xs: dict[str, Scale]) -> str:
    """The chart in every form the page can switch to."""
    parts = [f'<figure class="chart {panel.name}{" tall" if panel.tall else ""}">']
    right = f'<span class="right">{escape(panel.right_title)}</span>' if panel.right else ""
    parts.append(f"<figcaption><b>{escape(panel.title)}</b> <span>{escape(panel.unit)}</span>{right}</figcaption>")
    for axis in AXES:
        for form, scale in panel.scales.items():
            parts.append(_plot(panel, histories, axis, xs[axis], form if len(panel.scales) > 1 else "", scale))
    return "".join([*parts, "</figure>"])


def _plot(panel: Panel, histories: Sequence[History], axis: str, across: Scale, form: str, up: Scale) -> str:
    x_ticks = [t for t in across.ticks(8, clock=axis == "time") if t <= across.high and (axis == "time" or t % 1 == 0)]
    y_ticks = up.ticks(8 if panel.tall else 3)
    grid = "".join(f"M0 {_y(up, t)}H{WIDTH}" for t in y_ticks) + "".join(
        f"M{_x(across, t)} 0V{HEIGHT}" for t in x_ticks
    )
    parts = [
        f'<div class="plot {axis} {form}" data-axis="{axis}" data-low="{across.low:.9g}" data-high="{across.high:.9g}">',
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img">',
        f"<title>{escape(panel.title)} by {axis}</title><desc>{escape(panel.summary)}</desc>",
        f'<path class="grid" d="{grid}"/>',
    ]
    for layer in panel.layers:
        x = histories[layer.run].x(axis, layer.steps)
        kept = thin(x, layer.values, layer.buckets) if x.size else np.arange(0)
        look = layer.look if np.isfinite(layer.values).sum() > 1 or layer.look in ("raw", "points") else "dots"
        d = path(across.place(x[kept]), up.place(layer.values[kept]), dots=look in ("dots", "points"))
        if d:
            parts.append(f'<path class="{look} {color(layer.run)}" d="{d}"/>')
    drawn = _marks(panel.marks, histories, axis, across)
    lines = {}
    for place, _, event in drawn:
        lines[event.kind] = lines.get(event.kind, "") + f"M{round(place * WIDTH)} 0V{HEIGHT}"
    parts += [f'<path class="rule {kind}" d="{d}"/>' for kind, d in lines.items()]
    parts.append("</svg>")
    for tick in y_ticks:
        top = f"{100 * (1 - float(up.place(tick))):.2f}%"
        parts.append(f'<i class="y" style="top:{top}">{short(tick)}</i>')
        if panel.right:
            parts.append(f'<i class="r" style="top:{top}">{escape(panel.right(tick))}</i>')
    for n, tick in enumerate(x_ticks):
        parts.append(
            f'<i class="x{" alt" if n % 2 else ""}" style="left:{100 * float(across.place(tick)):.2f}%">{tick_label(axis, tick, across.high)}</i>'
        )
    for place, run, event in drawn:
        label = escape(f"{event.kind.replace('_', ' ')} at step {event.step:,}: {event.text}", quote=True)
        parts.append(
            f'<b class="mark {event.kind} {color(run)}" style="left:{100 * place:.2f}%" title="{label}">{SIGNS[event.kind]}</b>'
        )
    return "".join([*parts, "</div>"])


def _marks(
    marks: Sequence[tuple[int, Event]], histories: Sequence[History], axis: str, across: Scale
) -> list[tuple[float, int, Event]]:
    found, count = [], {}
    for run, event in marks:
        count[event.kind] = count.get(event.kind, 0) + 1
        if event.kind in SIGNS and count[event.kind] <= MARKS_DRAWN:
            place = float(across.place(histories[run].x(axis, np.array([event.step])))[0])
            found.append((min(max(place, 0.0), 1.0), run, event))
    return found


def path(across: np.ndarray, up: np.ndarray, *, dots: bool = False) -> str:
    """The `d` of an SVG path through places of 0..1 (0 is left, and below); NaN makes a gap.

    >>> path(np.array([0.0, 0.5, 1.0]), np.array([0.0, 0.25, 1.0]))
    'M0 1000l1000-250 1000-750'
    """
    known = np.isfinite(across) & np.isfinite(up)
    x = np.rint(across[known] * WIDTH).astype(np.int64)
    # What lies far outside is cut off by the frame; short numbers keep the file small.
    y = np.rint((1 - np.clip(up[known], -1, 2)) * HEIGHT).astype(np.int64)
    if dots:
        return "".join(f"M{a} {b}h0" for a, b in dict.fromkeys(zip(x.tolist(), y.tolist(), strict=True)))
    pieces = []
    for part in np.split(np.arange(x.size), np.flatnonzero(np.diff(np.flatnonzero(known)) > 1) + 1):
        if not part.size:
            continue
        steps = zip(np.diff(x[part]).tolist(), np.diff(y[part]).tolist(), strict=True)
        moves = " ".join(f"{a} {b}" for a, b in steps if a or b)
        # A lone value between two gaps is a dot, as a line of no length with round ends.
        pieces.append(f"M{x[part[0]]} {y[part[0]]}{'l' + moves if moves else 'h0'}")
    return "".join(pieces).replace(" -", "-")


def color(run: int) -> str:
    """The classes of run number `run`: six colours that colour-blind people tell apart, then the same ones dashed."""
    return f"r{run} c{run % 6}" + (f" d{min(run // 6, 2)}" if run >= 6 else "")


def _x(scale: Scale, value: float) -> int:
    return round(float(scale.place(value)) * WIDTH)


def _y(scale: Scale, value: float) -> int:
    return round((1 - float(scale.place(value))) * HEIGHT)
