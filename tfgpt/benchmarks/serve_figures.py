"""What the records of clients come to: rates, percentiles that know what was cut off, and fairness. Standard library alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

Row = dict[str, Any]
PARTS = {"first_ms": ("p50", "p95", "p99"), "token_ms": ("p50", "p95"), "whole_ms": ("p50", "p95")}


def figures(found: dict[str, Any], *, clients: int | None, seconds: float) -> Row:
    """One run of one load.

    Tokens and ended requests are those of the window. Times are those of requests that began in it, or stood waiting for their
    first token when it began; what had no first token, or no end, when it was cut off has waited at least so long, and a
    percentile that hangs on such a wait is in `at_least`.
    """
    records, until = found["records"], found["until"]
    good = [r for r in records if not r["error"]]
    came = [sum(0 <= t < seconds for t in r["times"]) for r in records]
    began = [r for r in good if r["begun"] < seconds and (r["begun"] >= 0 or not r["times"] or r["times"][0] >= 0)]
    ended = [r for r in good if r["ended"] is not None and 0 <= r["ended"] < seconds]
    firsts = [(r["times"][0] if r["times"] else until) - r["begun"] for r in began]
    wholes = [(until if r["ended"] is None else r["ended"]) - r["begun"] for r in began]
    gaps = [b - a for r in good for a, b in zip(r["times"], r["times"][1:], strict=False) if 0 <= b < seconds]
    row: Row = {
        "tokens_per_s": round(sum(came) / seconds, 2),
        "requests_per_s": round(len(ended) / seconds, 3),
        "errors": sum(bool(r["error"]) and r["status"] != 429 for r in records),
        "refused": sum(r["status"] == 429 for r in records),
        "unanswered": sum(not r["times"] for r in began),
        "client_cpu": round(found["cpu"], 4),
        "at_least": [],
    }
    waits: dict[str, list[tuple[float, bool]]] = {
        "first_ms": list(zip(firsts, (not r["times"] for r in began), strict=True)),
        "token_ms": [(gap, False) for gap in gaps],
        "whole_ms": list(zip(wholes, (r["ended"] is None for r in began), strict=True)),
    }
    for name, parts in PARTS.items():
        row[name] = {}
        for part in parts:
            value, cut = percentile(waits[name], int(part[1:]) / 100)
            row[name][part] = None if value is None else round(1e3 * value, 1)
            if cut:
                row["at_least"].append(f"{name} {part}")
    if clients is not None:
        counts = [0] * clients
        for record, tokens in zip(records, came, strict=True):
            counts[record["client"]] += tokens
        row["fairness"] = jain(counts)
    if said := sorted({r["error"] for r in records if r["error"] and r["status"] != 429}):
        row["first_errors"] = said[:3]
    return row


def percentile(waits: Sequence[tuple[float, bool]], share: float) -> tuple[float | None, bool]:
    """The smallest wait that `share` of all do not exceed, and whether it is only a lower bound, (wait, was cut off) given.

    >>> percentile([(1.0, False), (2.0, False), (3.0, False), (4.0, False)], 0.5)
    (2.0, False)
    >>> percentile([(1.0, True), (2.0, False), (3.0, False)], 0.5)
    (2.0, True)
    """
    if not waits:
        return None, False
    up_to = sorted(waits)[: max(1, math.ceil(share * len(waits)))]
    return up_to[-1][0], any(cut for _, cut in up_to)


def jain(counts: Sequence[int]) -> float | None:
    """Jain's index of fairness: 1 if all have the same, 1/n if one of n has all.

    >>> jain([5, 5]), jain([9, 0, 0])
    (1.0, 0.333)
    """
    squares = len(counts) * sum(count**2 for count in counts)
    return round(sum(counts) ** 2 / squares, 3) if squares else None


def medians(rows: Sequence[Row]) -> Row:
    """Several runs of one load as one row: medians, but all errors together, and the highest memory."""
    found: Row = {"at_least": sorted({name for row in rows for name in row["at_least"]})}
    for name in ("tokens_per_s", "requests_per_s", "client_cpu", "fairness"):
        if name in rows[0]:
            found[name] = _median(row[name] for row in rows)
    for name, parts in PARTS.items():
        found[name] = {part: _median(row[name][part] for row in rows) for part in parts}
    for name in ("errors", "refused", "unanswered"):
        found[name] = sum(row[name] for row in rows)
    found["peak_mb"] = max((row["peak_mb"] for row in rows if row["peak_mb"] is not None), default=None)
    return found


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 3) if known else None
