"""The parts of the page that are words and numbers: headline, where the time went, events, evaluations, samples, keys."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import datetime
from html import escape
from typing import Any

import numpy as np

from tfgpt.report.history import PARTS, Event, History
from tfgpt.report.lines import number
from tfgpt.report.scale import count, duration, short, units

ROWS = 200
SAMPLES = 40
BAD = ("rollback", "nonfinite", "fallback", "save_failed", "skipped")
WORDS = {
    "step": "training steps", "data": "waiting for data", "compile": "compiling", "eval": "evaluating",
    "save": "saving", "lost": "work done again after a crash or rollback", "other": "everything else",
}  # fmt: skip


def state(history: History) -> tuple[str, str]:
    """How the run stands, as a class of the style sheet and in words."""
    if history.stop is None:
        return "open", "unfinished"
    return ("done", "finished") if history.stop.text == "done" else ("stop", f"stopped: {history.stop.text}")


def facts(history: History) -> list[tuple[str, str, str]]:
    """The headline: label, value, and a smaller line below it."""
    best, last = history.best_eval, history.evals[-1] if history.evals else None
    rows = []
    if best and last:
        rows.append(
            (
                "best evaluation loss",
                _fixed(best.loss),
                f"step {best.step:,}, the last" if best is last else f"step {best.step:,}; last {_fixed(last.loss)}",
            )
        )
        rows.append(("perplexity", short(best.perplexity), "" if best is last else f"last {short(last.perplexity)}"))
        if math.isfinite(best.bits_per_byte):
            rows.append(
                (
                    "bits per byte",
                    _fixed(best.bits_per_byte),
                    "" if best is last else f"last {_fixed(last.bits_per_byte)}",
                )
            )
    tail = history.loss.values[-max(1, min(100, history.loss.values.size // 10 or 1)) :]
    tail = tail[np.isfinite(tail)]
    if tail.size:
        rows.append(
            (
                "training loss",
                _fixed(float(tail.mean())),
                f"mean of the last {tail.size:,} steps" if tail.size > 1 else "the last step",
            )
        )
    wanted = number(history.config.get("max_steps"))
    rows.append(("steps", f"{history.step:,}", f"of {wanted:,.0f}" if math.isfinite(wanted) else ""))
    tokens, seconds = (float(history.x(axis, np.array([history.step]))[0]) for axis in ("tokens", "time"))
    there = number(history.facts.get("train_tokens"))
    rows.append(("tokens", count(tokens), f"{tokens / there:.3g} epochs of {count(there)}" if there > 0 else ""))
    wall = sum(history.shares.values())
    rows.append(("time", duration(seconds), f"{duration(wall)} in all" if wall > 1.02 * seconds else ""))
    if history.tokens_per_second.values.size:
        flops = history.flops_per_second.values
        below = f"{units(float(np.median(flops)))}FLOP/s" if flops.size else ""
        rows.append(("tokens per second", short(float(np.median(history.tokens_per_second.values))), below))
    if history.peak_share.values.size:
        peak = number(history.facts.get("peak_flops"))
        below = f"of {units(peak)}FLOP/s" if peak > 0 else ""
        rows.append(("share of peak", f"{100 * float(np.median(history.peak_share.values)):.1f} %", below))
    size = number(history.facts.get("parameters"))
    if size > 0:
        rows.append(("parameters", count(size), ""))
    return rows


def tiles(history: History) -> str:
    """The headline of one run."""
    cells = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}<small>{escape(below)}</small></dd></div>"
        for label, value, below in facts(history)
    )
    return f'<dl class="tiles">{cells}</dl>'


def comparison(histories: Sequence[History], names: Sequence[str]) -> str:
    """The headlines of several runs in one table."""
    columns = [{label: value for label, value, _ in facts(h)} for h in histories]
    labels = list(dict.fromkeys(label for column in columns for label in column))
    head = "".join(f'<th class="n">{escape(label)}</th>' for label in labels)
    rows = "".join(
        f'<tr><td class="name"><span class="swatch c{run % 6}"></span>{escape(names[run])}<br><small>{escape(state(h)[1])}</small></td>'
        + "".join(f'<td class="n">{escape(columns[run].get(label, "–"))}</td>' for label in labels)
        + "</tr>"
        for run, h in enumerate(histories)
    )
    return f'<div class="scroll"><table><tr><th>run</th>{head}</tr>{rows}</table></div>'


def time_bars(histories: Sequence[History], names: Sequence[str]) -> str:
    """Where the wall time went: a bar a run, and the numbers."""
    totals = [sum(h.shares.values()) for h in histories]
    if not any(totals):
        return ""
    parts = [part for part in PARTS if any(h.shares[part] > 0 for h in histories)]
    out = ["<h2>Where the time went</h2>"]
    for history, name, total in zip(histories, names, totals, strict=True):
        shown = [(p, history.shares[p]) for p in parts if history.shares[p] > 0]
        spans = "".join(
            f'<span class="p-{p}" style="width:{100 * s / total:.3f}%" title="{WORDS[p]}: {duration(s)}"></span>'
            for p, s in shown
        )
        caption = f"{escape(name)}, {duration(total)}" if len(names) > 1 else duration(total)
        words = escape("; ".join(f"{WORDS[p]} {100 * s / total:.1f} %" for p, s in shown), quote=True)
        out.append(f'<div>{caption}</div><div class="share" role="img" aria-label="{words}">{spans}</div>')
    head = "".join(f'<th class="n" colspan="2">{escape(name) if len(names) > 1 else ""}</th>' for name in names)
    rows = []
    for p in parts:
        cells = "".join(
            f'<td class="n">{duration(h.shares[p])}</td><td class="n">{100 * h.shares[p] / (t or 1):.1f} %</td>'
            for h, t in zip(histories, totals, strict=True)
        )
        rows.append(f'<tr><td class="part"><span class="swatch p-{p}"></span>{WORDS[p]}</td>{cells}</tr>')
    table_head = f"<tr><th></th>{head}</tr>" if len(names) > 1 else ""
    return "".join([*out, f'<div class="scroll narrow"><table>{table_head}{"".join(rows)}</table></div>'])


def event_table(histories: Sequence[History], names: Sequence[str]) -> str:
    """What happened besides training, oldest first."""
    rows: list[tuple[Event, str]] = [(e, name) for h, name in zip(histories, names, strict=True) for e in h.events]
    broken = [f"{h.broken:,} line{'s' * (h.broken > 1)} of metrics.jsonl could not be read" + (f" ({name})" if len(names) > 1 else "")
              for h, name in zip(histories, names, strict=True) if h.broken]  # fmt: skip
    if not rows and not broken:
        return ""
    many = len(names) > 1
    body = "".join(
        f'<tr>{f"<td>{escape(name)}</td>" if many else ""}<td class="kind{" bad" if e.kind in BAD else ""}">'
        f'{escape(e.kind.replace("_", " "))}</td><td class="n">{e.step:,}</td><td class="name">{_date(e.time)}</td><td>{escape(e.text)}</td></tr>'
        for e, name in rows[:ROWS]
    )
    more = [f"and {len(rows) - ROWS:,} more"] if len(rows) > ROWS else []
    notes = "".join(f'<p class="sub">{escape(text)}</p>' for text in more + broken)
    head = ("<th>run</th>" if many else "") + '<th>event</th><th class="n">step</th><th>when</th><th></th>'
    return f'<h2>Events</h2><div class="scroll"><table><tr>{head}</tr>{body}</table></div>{notes}'


def eval_table(histories: Sequence[History], names: Sequence[str]) -> str:
    """All evaluations as numbers, folded away."""
    rows = [(name, e, h.best_eval is e) for h, name in zip(histories, names, strict=True) for e in h.evals]
    if not rows:
        return ""
    picked = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).astype(int))]
    body = "".join(
        f'<tr><td>{escape(name) if len(names) > 1 else ""}</td><td class="n">{e.step:,}</td><td class="n">{_fixed(e.loss)}</td>'
        f'<td class="n">{short(e.perplexity)}</td><td class="n">{_fixed(e.bits_per_byte)}</td><td>{"best" if best else ""}</td></tr>'
        for name, e, best in picked
    )
    words = f"{len(rows):,} evaluations" + (f", {len(picked)} shown" if len(picked) < len(rows) else "")
    head = '<th></th><th class="n">step</th><th class="n">loss</th><th class="n">perplexity</th><th class="n">bits per byte</th><th></th>'
    return (
        f'<details><summary>{words}</summary><div class="scroll"><table><tr>{head}</tr>{body}</table></div></details>'
    )


def sample_list(histories: Sequence[History], names: Sequence[str]) -> str:
    """What the model wrote over time; of many samples, some evenly spread and the last."""
    rows = [(name, s) for h, name in zip(histories, names, strict=True) for s in h.samples]
    if not rows:
        return ""
    picked = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, min(SAMPLES, len(rows))).astype(int))]
    out = []
    for name, sample in picked:
        # Some loops write the prompt as the beginning of the text, some leave it out.
        rest = sample.text[len(sample.prompt) :] if sample.text.startswith(sample.prompt) else sample.text
        head = (f"{name}, " if len(names) > 1 else "") + f"step {sample.step:,}"
        out.append(
            f'<div class="sample"><p>{escape(head)}</p><pre><b>{escape(sample.prompt)}</b>{escape(rest[:4000])}</pre></div>'
        )
    note = f" <small>({len(picked)} of {len(rows):,})</small>" if len(picked) < len(rows) else ""
    return f"<h2>Samples{note}</h2>" + "".join(out)


def environment(histories: Sequence[History], names: Sequence[str]) -> str:
    """What the run ran on, from its start lines."""
    keys = [
        key for key in dict.fromkeys(k for h in histories for k in h.facts)
        if key not in ("event", "step", "time", "config") and any(h.facts.get(key) not in (None, "") for h in histories)
    ]  # fmt: skip
    if not keys and not any(h.sessions for h in histories):
        return ""
    rows = [(key.replace("_", " "), [_value(h.facts.get(key)) for h in histories]) for key in keys]
    rows.append(("sessions", [f"{len(h.sessions):,}" for h in histories]))
    rows.append(("began", [_date(h.sessions[0].begin) if h.sessions else "–" for h in histories]))
    rows.append(("last line", [_date(h.sessions[-1].end) if h.sessions else "–" for h in histories]))
    return "<h2>Environment</h2>" + grid(["", *names] if len(names) > 1 else [], rows)


def grid(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table of names and values, one column a run."""
    top = "<tr>" + "".join(f"<th>{escape(name)}</th>" for name in head) + "</tr>" if head else ""
    body = "".join(
        f"<tr><td>{escape(name)}</td>" + "".join(f'<td class="v">{escape(v)}</td>' for v in values) + "</tr>"
        for name, values in rows
    )
    return f'<div class="scroll narrow"><table>{top}{body}</table></div>'


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) >= 1e6:
        return f"{count(value)}  ({value:,.0f})" if value < 1e12 else short(value)
    return "–" if value is None else json.dumps(value, ensure_ascii=False)


def _fixed(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) and abs(value) < 1e4 else short(value)


def _date(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "–"
