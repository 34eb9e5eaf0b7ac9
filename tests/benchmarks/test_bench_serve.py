"""`tfgpt bench serve`: its clients against servers that misbehave in known ways, its figures by hand, and the whole in one real run."""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import numpy as np
import pytest

from tfgpt.benchmarks import serve, serve_figures, serve_load, serve_processes, serve_work
from tfgpt.errors import Failure, UserError

EVENT = b'data: {"choices": [{"text": "\xc3\xa9"}]}\n\n'


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


# --- the clients ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def a_server(answer):
    """Calls `answer(number, body, write)` for each request; what it returns is the end of the connection."""
    seen = []

    async def handle(reader, writer):
        try:
            asked = await reader.readuntil(b"\r\n\r\n")
            size = next(int(line.split(b":")[1]) for line in asked.split(b"\r\n") if line.startswith(b"Content-Length"))
            body = json.loads(await reader.readexactly(size))
            seen.append(body)
            await answer(len(seen), body, writer.write)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], seen


def loaded(answer, tmp_path, **how):
    """What the clients report of a load on such a server, and what the server saw."""
    (tmp_path / "requests.json").write_text(json.dumps([{"prompt": f"text {n}", "new_tokens": 3} for n in range(50)]))

    async def go():
        async with a_server(answer) as (port, seen):
            given = {"seconds": 0.5, "warm": 0.1, "requests": str(tmp_path / "requests.json")} | how
            clients = serve_load.Clients(serve_load.Load(host="127.0.0.1", port=port, **given))
            return await clients.run(), seen

    return asyncio.run(go())


async def good(number, body, write, *, between=0.02):
    write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(body["max_tokens"]):
        await asyncio.sleep(between)
        write(chunk(EVENT))
    write(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


def test_a_closed_loop_asks_again_when_it_was_answered(tmp_path):
    found, seen = loaded(good, tmp_path, clients=2)
    row = serve_figures.figures(found, clients=2, seconds=0.5)
    assert row["errors"] == row["refused"] == 0 and row["fairness"] > 0.9
    mine = [r for r in found["records"] if r["client"] == 1]
    assert len(mine) >= 3 and [body["prompt"] for body in seen[:2]] == ["text 0", "text 1"]
    for before, after in zip(mine, mine[1:], strict=False):
        assert before["ended"] <= after["begun"]
    # Each token takes 20 ms and each text 60 ms, whoever measures it; more only where the machine is busy.
    assert row["token_ms"]["p50"] >= 19 and row["whole_ms"]["p50"] >= 58 and row["first_ms"]["p50"] >= 19
    assert {body["ignore_eot"] for body in seen} == {True} and len({body["seed"] for body in seen}) == len(seen)


def test_an_open_loop_does_not_wait_for_answers(tmp_path):
    async def slow(number, body, write):
        await good(number, body, write, between=0.15)

    found, _ = loaded(slow, tmp_path, rate=40.0)
    records = found["records"]
    assert 10 <= len(records) <= 45  # 0.6 s at 40 a second, at random times
    # On a machine that stands still for a moment, none may be answered before all are cut off.
    answered = min((r["ended"] for r in records if r["ended"] is not None), default=math.inf)
    assert sum(r["begun"] < answered for r in records) > 5
    again, _ = loaded(slow, tmp_path, rate=40.0)
    assert abs(len(again["records"]) - len(records)) <= 1  # the times are drawn, and by a seed
    assert "fairness" not in serve_figures.figures(found, clients=None, seconds=0.5)


def test_who_never_answers_is_cut_off_and_counted_as_waiting(tmp_path):
    async def never(number, body, write):
        await asyncio.sleep(60)

    async def half(number, body, write):
        write(b"HTTP/1.1 200 OK\r\n\r\n" + chunk(EVENT))
        await asyncio.sleep(60)

    began = time.monotonic()
    found, _ = loaded(never, tmp_path, rate=20.0)
    assert time.monotonic() - began < 5 and {r["ended"] for r in found["records"]} == {None}
    row = serve_figures.figures(found, clients=None, seconds=0.5)
    assert row["unanswered"] > 0 and row["errors"] == 0 and row["tokens_per_s"] == 0
    assert "first_ms p50" in row["at_least"] and row["first_ms"]["p99"] <= 1100
    row = serve_figures.figures(loaded(half, tmp_path, rate=20.0)[0], clients=None, seconds=0.5)
    assert row["unanswered"] == 0 and row["tokens_per_s"] > 0
    assert row["at_least"] == ["whole_ms p50", "whole_ms p95"]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(429, "refused"), (500, "errors")],
)
def test_refusals_and_errors_are_told_apart(status, kind, tmp_path):
    async def refuse(number, body, write):
        write(b"HTTP/1.1 %d X\r\nRetry-After: 0.2\r\nContent-Length: 4\r\n\r\nbusy" % status)

    found, seen = loaded(refuse, tmp_path, clients=1)
    row = serve_figures.figures(found, clients=1, seconds=0.5)
    assert row[kind] == len(seen) and row["refused"] + row["errors"] == len(seen)
    assert 2 <= len(seen) <= 4  # it came again when it was told to, not at once
    assert row["first_ms"] == {"p50": None, "p95": None, "p99": None} and row["fairness"] is None


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (chunk(EVENT) + chunk(b"data: [DONE]\n\n"), "1 tokens instead of 3"),
        (chunk(EVENT) * 3 + b"0\r\n\r\n", "the stream ended after 3 tokens"),
        (chunk(EVENT) + b"40\r\ndata: {", "IncompleteReadError"),
        (chunk(EVENT) + chunk(b'data: {"error": {"message": "lost"}}\n\n'), "lost"),
        (b"no number\r\n", "ValueError"),
    ],
)
def test_a_stream_that_is_not_what_was_asked_for_is_an_error(sent, said, tmp_path):
    async def wrong(number, body, write):
        write(b"HTTP/1.1 200 OK\r\n\r\n" + sent)

    found, _ = loaded(wrong, tmp_path, clients=1, seconds=0.1)
    row = serve_figures.figures(found, clients=1, seconds=0.1)
    assert row["errors"] == len(found["records"]) and said in row["first_errors"][0]


def test_events_are_found_however_they_are_cut_into_chunks(tmp_path):
    stream, draw = EVENT * 3 + b"data: [DONE]\n\n", np.random.default_rng(0)

    async def cut(number, body, write):
        write(b"HTTP/1.1 200 OK\r\n\r\n")
        ends = [0, *sorted(draw.choice(range(1, len(stream)), 7, replace=False)), len(stream)]
        for first, behind in zip(ends, ends[1:], strict=False):
            write(chunk(stream[first:behind]))
            await asyncio.sleep(0)
        write(b"0\r\n\r\n")

    found, seen = loaded(cut, tmp_path, clients=2, seconds=0.2)
    assert len(seen) > 10 and not any(r["error"] for r in found["records"])


# --- figures -------------------------------------------------------------------------------------------------------------


def record(begun, times, ended, client=0, **more):
    return {"client": client, "begun": begun, "times": times, "ended": ended, "status": 200, "error": ""} | more


def test_what_belongs_to_the_window():
    records = [
        record(-1.0, [-0.5, 0.5, 1.0], 1.0),  # begun before: tokens and its end count, its waits do not
        record(1.0, [3.0, 4.0, 11.0], 11.0, client=1),  # ends after the window
        record(9.0, [], None, client=1),  # cut off at 15
        record(-3.0, [11.0], 13.0, client=1),  # stood waiting when it began
        record(2.0, [], 2.0, status=429, error="busy"),
        record(3.0, [4.0], 5.0, status=200, error="lost"),
    ]
    row = serve_figures.figures({"records": records, "until": 15.0, "cpu": 0.1}, clients=2, seconds=10.0)
    assert row["tokens_per_s"] == 0.5 and row["requests_per_s"] == 0.1  # 2 + 2 + 1 tokens; one good end
    assert row["first_ms"] == {"p50": 6000.0, "p95": 14000.0, "p99": 14000.0} and row["unanswered"] == 1
    assert row["whole_ms"] == {"p50": 10000.0, "p95": 16000.0} and row["token_ms"] == {"p50": 1000.0, "p95": 1000.0}
    assert row["at_least"] == ["first_ms p50", "first_ms p95", "first_ms p99", "whole_ms p50", "whole_ms p95"]
    assert (row["errors"], row["refused"], row["first_errors"]) == (1, 1, ["lost"])
    assert row["fairness"] == round(25 / (2 * (9 + 4)), 3)


def test_percentiles_are_those_of_numpy():
    draw = np.random.default_rng(0)
    for size in (1, 2, 7, 100):
        waits = draw.exponential(size=size)
        for share in (0.5, 0.95, 0.99):
            found, cut = serve_figures.percentile([(wait, False) for wait in waits], share)
            assert found == np.quantile(waits, share, method="inverted_cdf") and not cut


def test_a_percentile_of_waits_that_were_cut_off_is_a_bound_and_says_so():
    draw = np.random.default_rng(0)
    for _ in range(200):
        truth, until = draw.exponential(size=20), draw.exponential(size=20)
        waits = [(min(wait, end), bool(end < wait)) for wait, end in zip(truth, until, strict=True)]
        exact = np.quantile(truth, 0.5, method="inverted_cdf")
        found, cut = serve_figures.percentile(waits, 0.5)
        assert found == exact if not cut else found <= exact


# --- what is served and asked for ----------------------------------------------------------------------------------------


def test_both_sides_read_the_same_prompts(tmp_path):
    from tokenizers import Tokenizer  # what transformers reads a prompt with

    tokenizer = serve_work.write_model(tmp_path / "model", "S")
    theirs = Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
    mixed = serve_work.requests(tokenizer, 300, prompt_tokens=None, new_tokens=None)
    assert [len(theirs.encode(r.prompt).ids) for r in mixed] == [r.prompt_tokens for r in mixed]
    lengths = sorted(r.prompt_tokens for r in mixed)
    assert lengths[0] >= 8 and lengths[-1] <= 256 and lengths[-1] > 100 and 25 <= lengths[150] <= 40
    assert {16, 128} <= {r.new_tokens for r in mixed} <= set(range(16, 129))
    assert mixed == serve_work.requests(tokenizer, 300, prompt_tokens=None, new_tokens=None)
    fixed = serve_work.requests(tokenizer, 20, prompt_tokens=40, new_tokens=5)
    assert {len(tokenizer.encode(r.prompt)) for r in fixed} == {40} and {r.new_tokens for r in fixed} == {5}
    assert tokenizer.n_vocab == theirs.get_vocab_size() == 50257  # as many to draw from as GPT-2 has


# --- processes -----------------------------------------------------------------------------------------------------------

LITTLE = """
import http.server, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; waste = bytearray(60_000_000); time.sleep(60)"])
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", 0), Ready)
print(f"child {child.pid}\\nserving on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="processes are weighed where /proc tells")
def test_a_server_is_weighed_with_its_children_and_leaves_none(tmp_path):
    log = tmp_path / "log.txt"
    with serve_processes.serving("little", [sys.executable, "-c", LITTLE], log, threads=1) as running:
        child = int(log.read_text().split()[1])
        assert 0.01 < serve_processes.cpu_seconds(running.process.pid) < 10
        assert serve_processes.tree(running.process.pid) == [running.process.pid, child]
        end = time.monotonic() + 10
        while serve_processes.peak_bytes(running.process.pid) < 65_000_000 and time.monotonic() < end:
            time.sleep(0.05)
        assert 65_000_000 < serve_processes.peak_bytes(running.process.pid) < 300_000_000
    end = time.monotonic() + 10
    while os.path.exists(f"/proc/{child}/exe") and time.monotonic() < end:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{child}/exe") and running.process.returncode is not None


def test_a_server_is_left_to_do_what_its_start_brings(monkeypatch, tmp_path):
    times = iter([0.0, 0.4, 0.41, 0.9, 0.91, 0.92, 7.0])
    monkeypatch.setattr(serve_processes, "cpu_seconds", lambda pid: next(times))
    monkeypatch.setattr(serve_processes.time, "sleep", lambda seconds: None)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        serve_processes.Running("it", process, tmp_path / "log.txt").settle()
    assert next(times) == 7.0  # two looks in a row had found it quiet


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="time is told by /proc")
def test_processor_time_is_that_of_the_clock():
    before, own = serve_processes.cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() - own < 0.3:
        pass
    assert abs(serve_processes.cpu_seconds(os.getpid()) - before - (time.process_time() - own)) < 0.1


def test_a_server_that_does_not_start_says_why(tmp_path):
    command = [sys.executable, "-c", "raise SystemExit('no such model')"]
    with (
        pytest.raises(Failure) as caught,
        serve_processes.serving("little", command, tmp_path / "log.txt", threads=1),
    ):
        pass
    assert "exit code 1" in str(caught.value) and "no such model" in str(caught.value)


def test_the_peer_writes_one_text_at_a_time_and_none_for_who_has_left():
    pytest.importorskip("torch")
    from tfgpt.benchmarks.serve_peer import Left, Wrapper

    told = []

    class Model:
        def generate(self, *, ids, max_new_tokens, streamer, **how):
            told.append(f"begin {ids}")
            if ids == "bad":
                raise RuntimeError("no memory")
            try:
                streamer.put([0, 0])
                for token in range(max_new_tokens):
                    time.sleep(0.01)
                    streamer.put(token)
                streamer.end()
            except Left:
                told.append(f"left {ids}")
                raise
            told.append(f"end {ids}")

    class Tokenizer:
        def __call__(self, text, **how):
            return {"ids": text}

        def decode(self, ids):
            return str(ids)

    wrapper = Wrapper(Model(), Tokenizer())

    def ask(text, tokens=5):
        return wrapper._events({"prompt": text, "max_tokens": tokens, "temperature": 1.0, "top_k": 4})

    async def everything(text):
        return [event async for event in ask(text)]

    async def go():
        first = ask("one", 1000)
        assert [await first.__anext__() for _ in range(2)] == [
            f'data: {{"choices": [{{"text": "[{n}]"}}]}}\n\n' for n in (0, 1)
        ]
        others = [asyncio.create_task(everything(text)) for text in ("two", "bad", "three")]
        await asyncio.sleep(0.1)
        assert told == ["begin one"]
        await first.aclose()
        return await asyncio.gather(*others, return_exceptions=True)

    two, bad, three = asyncio.run(go())
    assert len(two) == len(three) == 6 and two[-1] == "data: [DONE]\n\n" and "no memory" in str(bad)
    assert told == ["begin one", "left one", "begin two", "end two", "begin bad", "begin three", "end three"]


# --- the whole -----------------------------------------------------------------------------------------------------------


def asked(**more):
    plain = {"shape": "S", "dtype": "float32", "slots": None, "clients": [1, 16], "rate": None, "prompt_tokens": 32,
             "new_tokens": 4, "seconds": 1.0}  # fmt: skip
    return serve.Asked(**plain | more)


@pytest.fixture
def canned(monkeypatch):
    """No processes: ours writes 30 tokens a second for each client, transformers 20 in all, then 10."""
    turns = []

    def answer(name, asked, folder):
        turns.append(name)
        found = {}
        for load, (clients, _) in asked.loads.items():
            speed = 30.0 * (clients or 2) if name.startswith("tfgpt") else 20.0 if turns.count(name) == 1 else 10.0
            records = [record(0.0, [n / speed for n in range(round(speed * asked.seconds))], asked.seconds)]
            row = serve_figures.figures(
                {"records": records, "until": 2.0, "cpu": 0.1}, clients=clients, seconds=asked.seconds
            )
            found[load] = row | {"peak_mb": 100 * len(turns)}
        return found

    monkeypatch.setattr(serve, "_contestant", answer)
    monkeypatch.setattr(serve.serve_work, "write_model", lambda folder, shape: None)
    monkeypatch.setattr(serve.serve_work, "requests", lambda tokenizer, count, **mix: [])
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: True)
    return turns


def test_ratios_turns_and_the_last_line(canned, capsys):
    serve.run(asked(rate=2.5), peers="all", repeats=2)
    lines = capsys.readouterr().out.splitlines()
    summary = json.loads(lines[-1])
    assert canned == ["tfgpt float32", "transformers"] * 2
    assert summary["16 clients"] == {"tokens_per_s_x_transformers": 32.0, "of_each_run": [24.0, 48.0]}
    assert summary["2.5 requests/s"]["tokens_per_s_x_transformers"] == 4.0
    row = summary["results"]["tfgpt float32, 16 clients"]
    assert row["tokens_per_s"] == 480.0 and row["peak_mb"] == 300 and row["fairness"] == 0.062
    assert any("32.0 times the tokens/s" in line for line in lines)


def test_alone(canned, capsys):
    serve.run(asked(clients=[3]), peers="none", repeats=1)
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(summary["results"]) == ["tfgpt float32, 3 clients"] and "3 clients" not in summary


def test_what_cannot_be_is_said_before_anything_starts(monkeypatch):
    with pytest.raises(UserError, match="do not fit into the context"):
        serve.run(asked(prompt_tokens=1000, new_tokens=100), peers="none", repeats=1)
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None if name == "torch" else True)
    with pytest.raises(UserError, match="torch") as caught:
        serve.run(asked(), peers="all", repeats=1)
    assert "pip install" in str(caught.value) and "none" in str(caught.value)


def test_flags(monkeypatch):
    from tfgpt.cli import bench

    given = []
    monkeypatch.setattr(
        serve, "run", lambda asked, **more: given.append((asked.shape, asked.clients, asked.rate, more))
    )

    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    for line in ("", "--clients 4,64 --shape L --repeats 2", "--rate 2 --peers none", "--rate 2 --clients 3"):
        bench.run(parser.parse_args(["serve", *line.split()]))
    assert given == [
        ("124M", [1, 16], None, {"peers": "all", "repeats": 3}),
        ("124M", [4, 64], None, {"peers": "all", "repeats": 2}),
        ("124M", [], 2.0, {"peers": "none", "repeats": 3}),
        ("124M", [3], 2.0, {"peers": "all", "repeats": 3}),
    ]
    for line in ("--clients 1,0", "--clients many", "--rate 0", "--seconds -1", "--rate nan", "--batch 2"):
        with pytest.raises(SystemExit):
            parser.parse_args(["serve", *line.split()])


@pytest.mark.skipif("TFGPT_LONG" not in os.environ, reason="half a minute beside PyTorch; TFGPT_LONG=1 runs it")
def test_one_real_run_of_both(tmp_path):
    """Real servers, real clients: every stream has as many tokens as it was asked for, and nothing is left running."""
    for need in ("torch", "transformers", "starlette", "uvicorn"):
        pytest.importorskip(need)
    words = (
        "bench serve --shape S --dtype float32 --clients 2 --prompt_tokens 16 --new_tokens 3 --seconds 3 --repeats 1"
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "tfgpt", *words.split()], capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    for name in ("tfgpt float32", "transformers"):
        row = summary["results"][f"{name}, 2 clients"]
        assert row["errors"] == row["refused"] == 0 and row["tokens_per_s"] > 0, summary
        assert row["peak_mb"] is None or row["peak_mb"] > 200
        assert 0 <= row["client_cpu"] < 1
    assert summary["2 clients"]["tokens_per_s_x_transformers"] > 0
    assert not list(tmp_path.glob("tfgpt-bench-*"))
