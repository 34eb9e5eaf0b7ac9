"""A guard against losing speed: a fresh run's ratios beside the last ones that the history holds for this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tfgpt.benchmarks import everything, history, past, ratios
from tfgpt.errors import UserError


def run(path: Path, *, recorded: bool, only: list[str] | None, allowed: float) -> int:
    """Measure again what was kept, and say what fell; 1 if a ratio fell by more than `allowed` percent.

    recorded  compare the last two kept results of each instead, and measure nothing; that is never a failure
    """
    mine = history.where({"machine": history.machine()})
    records = [record for record in history.read(path) if history.where(record) == mine]
    if only:
        records = [record for record in records if record["bench"] in only]
    if recorded:
        pairs = {name: values[-2:] for (_, name), values in past.series(records).items()}
        print(f"ratios kept in {path} for {mine}: {len(pairs)}" + ("" if pairs else "; nothing to compare"))
        compare(
            {n: v[0].value for n, v in pairs.items() if len(v) == 2},
            {n: v[-1].value for n, v in pairs.items()},
            allowed,
        )
        return 0
    if not (kept := last_of_each(records)):
        raise UserError(f"nothing was kept for {mine}", where=str(path), fix="tfgpt bench train --save")
    fallen: list[str] = []
    for record in kept:
        bad: set[str] = set(ratios.of(record))
        for _ in range(2):  # what fell is measured once more: chance does not strike twice as easily
            found = _again(record)
            if found is None:
                return 1
            bad &= set(compare(ratios.of(record), ratios.of(found), allowed))
            if not bad:
                break
        fallen += sorted(bad)
    print(json.dumps({"fallen": fallen, "allowed_percent": allowed}))
    return int(bool(fallen))


def _again(record: history.Record) -> history.Record | None:
    words = [record["bench"], *words_of(record["asked"])]
    print(f"== tfgpt bench {' '.join(words)}", flush=True)
    code, found = everything.one(words)
    if found is None:
        print(f"tfgpt bench {record['bench']} ended with exit code {code}", file=sys.stderr)
    return found


def compare(before: ratios.Ratios, now: ratios.Ratios, allowed: float) -> list[str]:
    """Print each ratio that both have; the names of those that fell by more than `allowed` percent."""
    fallen = []
    width = max(map(len, before), default=0)
    for name, value in before.items():
        if name not in now:
            continue
        change = 100 * (now[name] / value - 1)
        bad = change < -allowed
        fallen += [name] if bad else []
        print(f"  {name:<{width}}  {value:8.3g} -> {now[name]:8.3g}  {change:+5.0f} %{'   FELL' if bad else ''}")
    return fallen


def last_of_each(records: list[history.Record]) -> list[history.Record]:
    """The last result that was asked for in each way, where it has ratios to hold on to."""
    found: dict[str, history.Record] = {}
    for record in records:
        if "asked" in record and ratios.of(record):
            found[json.dumps([record["bench"], record["asked"]], sort_keys=True)] = record
    return list(found.values())


def words_of(asked: dict[str, object]) -> list[str]:
    """Flags as they were typed.

    >>> words_of({"shape": ["S", "M"], "repeats": 3, "steps": None})
    ['--shape', 'S', '--shape', 'M', '--repeats', '3']
    """
    found = []
    for key, value in asked.items():
        for item in value if isinstance(value, list) else [value]:
            if item is not None and item is not False:
                found += [f"--{key}"] if item is True else [f"--{key}", str(item)]
    return found
