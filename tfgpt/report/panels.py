"""Which charts a page has, and what is in them: loss, learning rate, gradient norm, throughput."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tfgpt.report.chart import Layer, Panel
from tfgpt.report.history import Curve, History
from tfgpt.report.scale import Scale, short
from tfgpt.report.series import limits, smooth

POINTS = 80


def panels(histories: Sequence[History]) -> list[Panel]:
    """The charts of a page, top to bottom; one without any value is left out."""
    found = [loss(histories), *(_others(histories))]
    return [panel for panel in found if panel.name == "loss" or any(layer.values.size for layer in panel.layers)]


def loss(histories: Sequence[History]) -> Panel:
    """Training loss raw and smoothed, evaluations as points, what a crash undid as dashes; perplexity at the right."""
    layers, curves = [], []
    for run, history in enumerate(histories):
        curve, smoothed = history.loss, smooth(history.loss.values)
        evals = Curve(np.array([e.step for e in history.evals], np.int64), np.array([e.loss for e in history.evals]))
        layers += [Layer(run, *lost, "lost", 120) for lost in history.abandoned[-20:]]
        if len(histories) <= 3:
            layers.append(Layer(run, *curve, "raw"))
        layers.append(Layer(run, curve.steps, smoothed, "smooth", 300))
        layers += [Layer(run, *evals, "evals", 300)]
        # Points that touch each other would only make the line thick.
        layers += [Layer(run, *evals, "points")] if len(history.evals) <= POINTS else []
        curves += [(curve, True), (Curve(curve.steps, smoothed), False), (evals, False)]
    return Panel(
        "loss", "Loss", "nats per token", layers,
        {
            "full": Scale(*_bounds(curves)), "zoom": Scale(*_bounds(curves, start=0.1)),
            "log": Scale(*_bounds(curves, log=True), log=True),
        },
        _words("Loss", [h.loss for h in histories]),
        right=_perplexity, right_title="perplexity", tall=True,
        marks=[(run, e) for run, history in enumerate(histories) for e in history.events],
    )  # fmt: skip


def _others(histories: Sequence[History]) -> list[Panel]:
    lr = [h.lr for h in histories]
    norm = [h.grad_norm for h in histories]
    rate = [h.tokens_per_second for h in histories]
    norms = [c.values for c in norm]
    low, high = limits(norms, log=True)
    wide = high / low > 30
    share = _share_of_peak(histories)
    return [
        Panel(
            "lr", "Learning rate", "", [Layer(run, *c, "line") for run, c in enumerate(lr)],
            {"full": Scale(0.0, limits([c.values for c in lr])[1])}, _words("Learning rate", lr),
        ),
        Panel(
            "norm", "Gradient norm", "before clipping", _raw_and_smooth(norm, steep=True),
            {"full": Scale(low, high, log=True) if wide else Scale(0.0, limits(norms, robust=True)[1])},
            _words("Gradient norm", norm),
        ),
        Panel(
            "rate", "Throughput", "tokens/s", _raw_and_smooth(rate, steep=False),
            {"full": Scale(0.0, limits([c.values for c in rate])[1])}, _words("Tokens per second", rate),
            right=(lambda tick: f"{100 * tick * share:.3g} %") if share else None, right_title="share of peak",
        ),
    ]  # fmt: skip


def _bounds(curves: Sequence[tuple[Curve, bool]], *, start: float = 0.0, log: bool = False) -> tuple[float, float]:
    """What an axis must hold: all of the curves, of raw ones all but the wildest values; from the share `start` on."""
    begin = start * max((int(c.steps[-1]) for c, _ in curves if c.steps.size), default=0)
    found = []
    for wild in (False, True):
        parts = [c.values[c.steps >= begin] for c, raw in curves if raw == wild]
        if any(np.isfinite(part).any() for part in parts):
            found.append(limits(parts, log=log, robust=wild))
    return (min(a for a, _ in found), max(b for _, b in found)) if found else limits([], log=log)


def _raw_and_smooth(curves: Sequence[Curve], *, steep: bool) -> list[Layer]:
    raw = [Layer(run, *c, "raw", 400) for run, c in enumerate(curves) if len(curves) <= 3]
    return raw + [Layer(run, c.steps, smooth(c.values, steep=steep), "smooth", 250) for run, c in enumerate(curves)]


def _share_of_peak(histories: Sequence[History]) -> float:
    """Share of the machine's peak in one token a second; 0 where unknown, or where runs differ in it."""
    found = []
    for h in histories:
        both, a, b = np.intersect1d(h.peak_share.steps, h.tokens_per_second.steps, return_indices=True)
        if not both.size:
            return 0.0
        with np.errstate(divide="ignore", invalid="ignore"):
            found.append(float(np.nanmedian(h.peak_share.values[a] / h.tokens_per_second.values[b])))
    alike = found and all(math.isfinite(s) and abs(s / found[0] - 1) < 0.02 for s in found if found[0] > 0)
    return found[0] if alike and found[0] > 0 else 0.0


def _perplexity(nats: float) -> str:
    return short(float(f"{math.exp(nats):.3g}")) if nats < 300 else "∞"


def _words(what: str, curves: Sequence[Curve]) -> str:
    """A sentence for those who cannot see the chart."""
    texts = []
    for run, curve in enumerate(curves):
        known = curve.values[np.isfinite(curve.values)]
        name = f"run {run + 1}: " if len(curves) > 1 else ""
        if known.size:
            texts.append(
                f"{name}from {short(known[0])} to {short(known[-1])}, lowest {short(known.min())}, "
                f"highest {short(known.max())}, over steps {int(curve.steps[0]):,} to {int(curve.steps[-1]):,}"
            )
    return f"{what}: " + ("; ".join(texts) or "no values yet")
