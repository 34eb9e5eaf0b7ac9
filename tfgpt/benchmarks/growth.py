"""How cost grows: tokens/s, memory and start of training against context, batch, depth, width and vocabulary.

Each point is a fresh process and is appended to a file as soon as it is known, so that an end at any moment loses one point at most;
the same command goes on where it was ended.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tfgpt import files
from tfgpt.benchmarks import growth_tables, history, pages
from tfgpt.benchmarks.growth_points import SPAN, Axis, Point, axes
from tfgpt.benchmarks.processes import Broken, Result, result_of
from tfgpt.errors import Failure
from tfgpt.machine import cores
from tfgpt.progress import clock

NAME = "benchmarks/growth.jsonl"
ROOMS = ("config", "model", "optimizers", "training")  # what a step is made of
GUESS = 12.0  # seconds that one unit of `Point.cost` takes, until it is known


def run(
    *,
    quick: bool,
    precision: str,
    only: Sequence[str] | None,
    seconds: float,
    points: str | None,
    anew: bool,
    into: str | None,
    output: str | None,
) -> None:
    """Measure what is not known yet, print the tables and one JSON line; see the flags of `tfgpt bench growth`."""
    wanted = axes(quick=quick, only=only)
    path = Path(points) if points else files.cache_folder() / NAME
    history.check(path)
    if into:
        pages.check(into, "growth")
    if output:
        growth_tables.check()
    same = {"precision": precision, "threads": cores(), "code": _code()} | history.about()
    known = {} if anew else _known(path, same)
    measured = _measure(wanted, known, path, same, seconds)
    text = growth_tables.text(wanted, measured, same)
    print(text)
    if output:
        growth_tables.draw(wanted, measured, output)
        print(f"drawn in {output}")
    if into:
        picture = growth_tables.link(output, into) if output else ""
        pages.fill(into, "growth", text + picture)
        print(f"put into {into}")
    rows = {
        f"{name} {label}": measured[point]
        for name, axis in wanted.items()
        for label, point in axis
        if point in measured
    }
    print(json.dumps({"bench": "growth", "precision": precision, "threads": cores(), "results": rows}))


def _measure(
    wanted: dict[str, Axis], known: dict[Point, Result], path: Path, same: Result, seconds: float
) -> dict[Point, Result]:
    """What the process of each point found; those of `known` are not asked again."""
    names: dict[Point, str] = {}
    for name, axis in wanted.items():
        for label, point in axis:
            names.setdefault(point, f"{name} {label}")  # the middle is on every axis and is measured once
    left = [point for point in names if point not in known]
    if taken := len(names) - len(left):
        print(f"{taken} of {len(names)} points are known from before ({path})", flush=True)
    found = {point: known[point] for point in names if point in known}
    started, spent = time.monotonic(), 0.0
    for number, point in enumerate(left, 1):
        pace = (time.monotonic() - started) / spent if spent else GUESS
        rest = clock(pace * sum(p.cost for p in left[number - 1 :]))
        print(f"  {number:>2} of {len(left)}  {names[point]:<18} {rest:>6} left", end="", flush=True)
        spent += point.cost
        work = {"sizes": point.sizes, "local": point.local, "span": SPAN, "seconds": seconds} | same
        try:
            result = result_of("growth_ours", work, threads=cores())
        except Broken as error:
            print(f"  failed: {error}", flush=True)  # the largest may not fit; that must not cost the others
            continue
        result["date"] = history.now()
        history.append(path, {"bench": "growth", "point": asdict(point)} | same | result)
        found[point] = result
        print(f"  {result['tokens_per_s']:>9,.0f} tokens/s {result['peak_mb']:>6,} MB", flush=True)
    if not found:
        raise Failure("not one point could be measured", fix="tfgpt bench growth --only batch --debug")
    return found


def _known(path: Path, same: Result) -> dict[Point, Result]:
    """Points that were measured before, by the same code with the same libraries on the same machine."""
    found = {}
    for record in history.read(path):
        if record["bench"] == "growth" and _mark(record) == _mark(same):
            found[Point(**record["point"])] = {key: record[key] for key in growth_tables.KEYS}
    return found


def _mark(record: Result) -> list[object]:
    machine, versions = record["machine"], record["versions"]
    kept = [versions.get(name) for name in ("python", "tensorflow", "keras", "numpy")]
    return [record["precision"], record["code"], machine["cores"], machine["cpu"], *kept]


def _code() -> str:
    """The commit would not do: it stays the same while somebody makes the step faster."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(
        [*(p for room in ROOMS for p in (package / room).glob("*.py")), *Path(__file__).parent.glob("growth_ours.py")]
    ):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:12]
