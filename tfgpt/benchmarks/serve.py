"""`tfgpt serve` beside what people write first: transformers' `generate` behind a route, one text at a time.

Both load the same folder and get the same requests from the same clients over HTTP; each is a fresh process, one after the other,
alternating.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from tfgpt.benchmarks import serve_work
from tfgpt.benchmarks.processes import Broken, result_of
from tfgpt.benchmarks.serve_figures import Row, figures, medians
from tfgpt.benchmarks.serve_load import MODEL, TOP_K, Load
from tfgpt.benchmarks.serve_processes import Running, peak_bytes, serving
from tfgpt.errors import Failure, UserError
from tfgpt.machine import cores

INSTALL = 'pip install "tfgpt[serve,bench]" --extra-index-url https://download.pytorch.org/whl/cpu'
PEER = "transformers"
WARM = 6  # the load runs for a sixth of the window before the window begins
POOL = 1024  # requests that are drawn; after the last one they begin again


@dataclass(frozen=True)
class Asked:
    """What the command line says."""

    shape: str
    dtype: str
    slots: int | None
    clients: list[int]
    rate: float | None
    prompt_tokens: int | None
    new_tokens: int | None
    seconds: float

    @property
    def loads(self) -> dict[str, tuple[int | None, float | None]]:
        """Clients or rate of each load, by its name."""
        found: dict[str, tuple[int | None, float | None]] = {f"{_many(n, 'client')}": (n, None) for n in self.clients}
        return found | ({} if self.rate is None else {f"{self.rate:g} requests/s": (None, self.rate)})

    def checked(self) -> Asked:
        """Itself, if there is room for the longest text."""
        room = serve_work.SIZES["n_ctx"]
        longest = (self.prompt_tokens or serve_work.LONGEST_PROMPT) + (self.new_tokens or serve_work.MOST_NEW)
        if longest > room:
            raise UserError(
                f"{longest:,} tokens of prompt and answer do not fit into the context of {room:,}",
                where="--prompt_tokens, --new_tokens",
                fix="ask for fewer",
            )
        return self


def run(asked: Asked, *, peers: str, repeats: int) -> None:
    """Time all, print a table and one JSON line."""
    asked.checked()
    needs = ("starlette", "uvicorn", *(("torch", "transformers") if peers == "all" else ()))
    if missing := [need for need in needs if not importlib.util.find_spec(need)]:
        nearest = "none" if set(missing) <= {"torch", "transformers"} else ""
        where = "--peers" if nearest else ""
        raise UserError(f"this needs {', '.join(missing)}", where=where, nearest=nearest, fix=INSTALL)
    ours = f"tfgpt {asked.dtype}"
    names = [ours, PEER] if peers == "all" else [ours]
    print(_headline(asked), flush=True)
    runs: dict[tuple[str, str], list[Row]] = {}
    with tempfile.TemporaryDirectory(prefix="tfgpt-bench-") as scratch:
        folder = Path(scratch)
        tokenizer = serve_work.write_model(folder / "model", asked.shape)
        mix = {"prompt_tokens": asked.prompt_tokens, "new_tokens": asked.new_tokens}
        requests = serve_work.requests(tokenizer, POOL, **mix)
        (folder / "requests.json").write_text(json.dumps([asdict(request) for request in requests]))
        for number in range(repeats):
            for name in names:
                for load, row in _contestant(name, asked, folder).items():
                    runs.setdefault((load, name), []).append(row)
                    speed = row["tokens_per_s"]
                    print(f"  run {number + 1} of {repeats}  {load}  {name:<16} {speed:8.1f} tokens/s", flush=True)
    results = {key: medians(rows) for key, rows in runs.items()}
    for load in asked.loads:
        _print_table(load, {name: results[load, name] for name in names})
    summary: Row = {"bench": "serve", "threads": cores(), "repeats": repeats} | asdict(asked)
    if peers == "all":
        for load in asked.loads:
            pairs = zip(runs[load, ours], runs[load, PEER], strict=True)
            ratios = [_ratio(mine["tokens_per_s"], theirs["tokens_per_s"]) for mine, theirs in pairs]
            whole = _ratio(results[load, ours]["tokens_per_s"], results[load, PEER]["tokens_per_s"])
            summary[load] = {"tokens_per_s_x_transformers": whole, "of_each_run": ratios}
            print(f"  {load}: {whole or 'more than any number of'} times the tokens/s of {PEER}")
    print(json.dumps(summary | {"results": {f"{name}, {load}": row for (load, name), row in results.items()}}))


def _headline(asked: Asked) -> str:
    prompts = asked.prompt_tokens or f"{serve_work.SHORTEST_PROMPT} to {serve_work.LONGEST_PROMPT}"
    if asked.prompt_tokens is None:
        prompts = f"{prompts} (half of them under {serve_work.USUAL_PROMPT})"
    new = asked.new_tokens or f"{serve_work.FEWEST_NEW} to {serve_work.MOST_NEW}"
    slots = "" if asked.slots is None else f", {asked.slots} slots"
    return (
        f"GPT-2 {asked.shape}, prompts of {prompts} tokens, {new} new ones, top-k {TOP_K}, streamed; {_many(cores(), 'core')}"
        f"{slots}\n  each load: {asked.seconds / WARM:.1f} s to warm up, {asked.seconds:g} s that count, and up to"
        f" {asked.seconds:g} s in which what has begun may end;\n  '>': what was cut off then had waited so long, at least"
    )


def _contestant(name: str, asked: Asked, folder: Path) -> dict[str, Row]:
    """All loads on one fresh process."""
    if name == PEER:
        words = ["-m", "tfgpt.benchmarks.serve_peer", str(folder / "model"), str(cores())]
    else:
        settings: Row = {"port": 0, "models": [{"key": MODEL, "path": str(folder / "model"), "dtype": asked.dtype}]}
        settings |= {} if asked.slots is None else {"slots": asked.slots}
        (folder / "server.json").write_text(json.dumps(settings))
        words = ["-m", "tfgpt", "serve", str(folder / "server.json"), "--grace", "5"]
    found = {}
    with serving(name, [sys.executable, *words], folder / "log.txt", threads=cores()) as server:
        for load, (clients, rate) in asked.loads.items():
            work = Load(
                host=server.host,
                port=server.port,
                requests=str(folder / "requests.json"),
                seconds=asked.seconds,
                warm=asked.seconds / WARM,
                clients=clients,
                rate=rate,
            )
            row = figures(_clients(work, server), clients=clients, seconds=asked.seconds)
            peak = peak_bytes(server.process.pid)
            found[load] = row | {"peak_mb": None if peak is None else round(peak / 1e6)}
            if not row["tokens_per_s"] and row["errors"]:
                raise server.failed(f"answered nothing: {row['first_errors'][0]}")
    return found


def _clients(work: Load, server: Running) -> Row:
    try:
        found = result_of("serve_load", asdict(work), threads=1)
    except Broken as error:
        raise Failure(f"the clients failed: {error}", where="tfgpt.benchmarks.serve_load") from None
    if server.process.poll() is not None:
        raise server.failed("ended in the middle of a load")
    return found


def _print_table(load: str, rows: dict[str, Row]) -> None:
    print(
        f"  {load:<16} {'tokens/s':>9} {'req./s':>7} {'first token, ms: p50':>21} {'p95':>8} {'p99':>8}"
        f" {'a token, ms: p50':>17} {'p95':>7} {'all of it, s: p50':>18} {'p95':>7} {'errors':>7} {'429':>5}"
        f" {'fair':>5} {'MB':>6} {'clients':>8}"
    )
    for name, row in rows.items():
        first, token, whole = (
            [_shown(row, part, p) for p in row[part]] for part in ("first_ms", "token_ms", "whole_ms")
        )
        fair = "" if row.get("fairness") is None else f"{row['fairness']:.2f}"
        memory = "" if row["peak_mb"] is None else f"{row['peak_mb']:,}"
        print(
            f"  {name:<16} {row['tokens_per_s']:>9,.1f} {row['requests_per_s']:>7.2f} {first[0]:>21} {first[1]:>8} {first[2]:>8}"
            f" {token[0]:>17} {token[1]:>7} {whole[0]:>18} {whole[1]:>7} {row['errors']:>7} {row['refused']:>5}"
            f" {fair:>5} {memory:>6} {row['client_cpu']:>8.0%}"
        )


def _shown(row: Row, part: str, p: str) -> str:
    value = row[part][p]
    if value is None:
        return "-"
    scaled = f"{value / 1e3:,.1f}" if part == "whole_ms" else f"{value:,.0f}" if part == "first_ms" else f"{value:,.1f}"
    return (">" if f"{part} {p}" in row["at_least"] else "") + scaled


def _ratio(ours: float, theirs: float) -> float | None:
    return round(ours / theirs, 2) if theirs else None


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
