"""The report of one or several runs as a single HTML file that needs no network."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from tfgpt import files
from tfgpt.report import tables
from tfgpt.report.chart import SIGNS, draw, x_scales
from tfgpt.report.history import History, read
from tfgpt.report.keys import config_tables
from tfgpt.report.panels import panels
from tfgpt.report.script import JS
from tfgpt.report.series import every, smooth
from tfgpt.report.style import CSS, run_switches, switches

# What can be switched, by name: the first value holds at the beginning.
SWITCHED = {"x": ("steps", "tokens", "time"), "y": ("full", "zoom", "log")}
HOVERED = 700  # points under the pointer, for each run
KEY = '<svg viewBox="0 0 26 10" aria-hidden="true"><path d="M1 5H25" fill="none" stroke="var(--c)" stroke-width="{}" {}/></svg>'
DOT = '<svg viewBox="0 0 26 10" aria-hidden="true"><circle cx="13" cy="5" r="4" fill="var(--c)"/></svg>'


def write(runs: Sequence[str], output: str) -> None:
    """Write the report of the run folders `runs` to the HTML file `output`; both may be gs:// paths.

    >>> write(["models/small", "models/large"], "both.html")         # doctest: +SKIP
    """
    files.write_text(output, page([read(run) for run in runs]))


def names_of(runs: Sequence[str]) -> list[str]:
    """What to call each run: the last part of its path, or as many parts as tell them apart.

    >>> names_of(["models/a", "models/b"]), names_of(["x/m", "y/m"])
    (['a', 'b'], ['x/m', 'y/m'])
    """
    parts = [files.text_of(run).removesuffix("/metrics.jsonl").rstrip("/").split("/") for run in runs]
    if any(p[-1] in ("", ".", "..") for p in parts):
        parts = [os.path.realpath(run).split(os.sep) for run in runs]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-count:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{'/'.join(p)} ({n})" for n, p in enumerate(parts, 1)]


def page(histories: Sequence[History]) -> str:
    """The whole HTML text."""
    names = names_of([h.run for h in histories])
    one = len(histories) == 1
    title = names[0] if one else f"{len(names)} runs"
    body = [_head(histories, names), tables.tiles(histories[0]) if one else tables.comparison(histories, names)]
    if not any(h.loss.values.size or h.evals for h in histories):
        body.append('<p class="sub">No training step has been written yet.</p>')
    xs, shown = x_scales(histories), panels(histories)
    charts = "".join(draw(panel, histories, xs) for panel in shown)
    body.append(
        f'<section class="charts {"one" if one else "many"}">{_switches(names)}{_bar(histories, names)}{charts}</section>'
    )
    for part in (
        tables.eval_table,
        tables.time_bars,
        tables.event_table,
        config_tables,
        tables.sample_list,
        tables.environment,
    ):
        body.append(part(histories, names))
    # Inside a script element only "<" could end it early.
    data = json.dumps([_hover(h, n) for h, n in zip(histories, names, strict=True)], separators=(",", ":"))
    data = data.replace("<", "\\u003c")
    version = histories[-1].facts.get("version")
    made = (
        f"Made by tfgpt {version} from metrics.jsonl."
        if isinstance(version, str)
        else "Made by tfgpt from metrics.jsonl."
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)} – tfgpt</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{CSS}{switches(SWITCHED)}{run_switches(len(names)) if not one else ''}</style></head>\n<body><main>"
        + "\n".join(part for part in body if part)
        + f'<footer>{escape(made)}</footer></main><div id="tip" hidden></div>\n'
        f'<script type="application/json" id="data">{data}</script><script>{JS}</script></body></html>\n'
    )


def _head(histories: Sequence[History], names: Sequence[str]) -> str:
    if len(histories) > 1:
        return f"<header><h1>{len(names)} runs compared</h1></header>"
    history = histories[0]
    kind, words = tables.state(history)
    facts = [history.facts.get(key) for key in ("device", "precision")]
    line = ", ".join(str(fact) for fact in (*facts, files.text_of(history.run)) if fact)
    return f'<header><h1>{escape(names[0])} <span class="state {kind}">{escape(words)}</span></h1><p class="sub">{escape(line)}</p></header>'


def _switches(names: Sequence[str]) -> str:
    axes = "".join(
        f'<input type="radio" name="{name}" id="{name}-{value}"{" checked" if not n else ""} aria-label="{value}">'
        for name, values in SWITCHED.items() for n, value in enumerate(values)
    )  # fmt: skip
    runs = "".join(
        f'<input type="checkbox" id="run{i}" checked aria-label="{escape(name, quote=True)}">'
        for i, name in enumerate(names)
    )
    return axes + (runs if len(names) > 1 else "")


def _bar(histories: Sequence[History], names: Sequence[str]) -> str:
    parts = [
        '<span class="set">' + "".join(f'<label for="{name}-{v}">{v}</label>' for v in values) + "</span>"
        for name, values in SWITCHED.items()
    ]
    if len(names) > 1:
        for i, name in enumerate(names):
            dash = 'stroke-dasharray="5 3"' if i >= 6 else ""
            parts.append(f'<label class="key c{i % 6}" for="run{i}">{KEY.format(2.5, dash)}{escape(name)}</label>')
        parts.append('<span class="key" style="--c:var(--soft)">' + DOT + "evaluation</span>")
    else:
        parts.append(f'<span class="key c0">{KEY.format(2.5, "")}training, smoothed</span>')
        if histories[0].evals:
            parts.append(f'<span class="key c1">{DOT}evaluation</span>')
    if any(h.abandoned for h in histories):
        parts.append(
            f'<span class="key c0">{KEY.format(1.3, "stroke-dasharray=" + chr(34) + "2 4" + chr(34))}made void</span>'
        )
    kinds = [kind for kind in SIGNS if any(e.kind == kind for h in histories for e in h.events)]
    parts += [f'<span class="key">{SIGNS[kind]} {kind.replace("_", " ")}</span>' for kind in kinds]
    return f'<div class="bar">{"".join(parts)}</div>'


def _hover(history: History, name: str) -> dict[str, Any]:
    """What the pointer shows of a run: columns of equal length, and the evaluations."""
    kept = every(history.loss.steps.size, HOVERED)
    steps, loss = history.loss.steps[kept], smooth(history.loss.values)[kept]

    def held(curve) -> list:
        if not curve.steps.size:
            return [None] * len(kept)
        # A line speaks for all steps up to its own, so each step asks the next line.
        return _rounded(curve.values[np.minimum(np.searchsorted(curve.steps, steps), curve.steps.size - 1)])

    evals = [history.evals[i] for i in every(len(history.evals), HOVERED)]
    return {
        "name": name, "steps": steps.tolist(), "tokens": _rounded(history.x("tokens", steps), 7),
        "time": _rounded(history.x("time", steps), 7), "loss": _rounded(loss), "lr": held(history.lr),
        "norm": held(history.grad_norm), "rate": held(history.tokens_per_second),
        "evals": [[e.step, *_rounded(np.array([e.loss]))] for e in evals],
    }  # fmt: skip


def _rounded(values: np.ndarray, digits: int = 5) -> list[float | None]:
    return [float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in values.tolist()]
