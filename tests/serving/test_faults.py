"""What breaks, and who is slow: faults inside a running server, and people at its wire (rows S2, S5 and S6 of the fault list)."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.conftest import ROOT
from tests.serving.conftest import Served

PATIENCE = 1.5
LONG = {"model": "general", "prompt": "Once upon", "max_tokens": 20_000, "ignore_eot": True, "seed": 1}
TOKENS = 'tfgpt_generated_tokens_total{model="general"}'


@pytest.fixture(scope="module")
def faulty(models, tmp_path_factory):
    """A server whose models can be told to break, and which has little patience."""
    folder = tmp_path_factory.mktemp("faulty")
    one = {"key": "general", "path": str(models / "one"), "dtype": "float32"}
    settings = {"models": [one | {"sanitizer": "tests.serving.faulty.sanitizer"}], "patience": PATIENCE}
    os.environ["PYTHONPATH"] = str(ROOT)
    try:
        found = Served(models, folder, script=(str(ROOT / "tests/serving/faulty.py"), str(folder)), grace=6, **settings)
    finally:
        del os.environ["PYTHONPATH"]
    found.folder = folder
    yield found.ready()
    found.kill()


def test_what_fails_in_one_request_fails_that_request_alone(faulty):  # S6
    asks = [{"prompt": f"Text {i}", "max_tokens": 300, "seed": i, "ignore_eot": True} for i in range(4)]

    def text(ask):
        return faulty.post("/v1/completions", ask).json()["choices"][0]["text"]

    alone = [text(ask) for ask in asks]
    process = faulty.children()
    short = {"max_tokens": 20, "ignore_eot": True, "seed": 1}
    broken = {
        "the sampling": ("/v1/completions", {"prompt": "x", "top_k": 666}),
        "OOM when allocating a prompt": ("/v1/completions", {"prompt": [7, 7, 7]}),
        "the tokenizer": ("/v1/completions", {"prompt": "PANIC"}),
        "the text": ("/v1/completions", {"prompt": "x", "stop": ["BREAK"]}),
        "the template": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "BREAK"}]}),
    }
    with ThreadPoolExecutor(9) as pool:
        going = [pool.submit(text, ask) for ask in asks]
        found = {said: pool.submit(faulty.post, path, body | short) for said, (path, body) in broken.items()}
        together = [one.result() for one in going]
    assert together == alone
    for said, future in found.items():
        answer = future.result()
        error = answer.json()["error"]
        assert answer.status_code in (500, 503) and said in error["message"], answer.text
        assert error["type"] in ("server_error", "service_unavailable_error") and "Traceback" not in answer.text
    stream = httpx.post(faulty.url + "/v1/completions", json=short | {"prompt": [7, 7, 7], "stream": True}, timeout=60)
    events = [line[6:] for line in stream.text.splitlines() if line]
    assert "OOM" in json.loads(events[0])["error"]["message"] and events[-1] == "[DONE]"
    (faulty.folder / "sanitizer").touch()
    failed = faulty.post("/invocations", {"raw_text": "a secret", "model_key": "general"})
    (faulty.folder / "sanitizer").unlink()
    assert failed.status_code == 500 and "the sanitizer of model" in failed.json()["error"]["message"]
    assert [text(ask) for ask in asks] == alone and faulty.children() == process
    log = faulty.log.read_text("utf-8")
    assert "KeyError at faulty.py:" in log and "Traceback" not in log and "secret" not in log


def test_who_sends_slowly_is_sent_away(faulty):  # S2
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"
    first = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
    cases = {
        "nothing": (b"", b""),
        "headers": (head, b"X"),
        "headers of a second request": (first + head, b"X"),
        "body": (head + b"Content-Length: 50\r\n\r\n{", b" "),
    }

    def slow(case):
        begin, drop = case
        with faulty.connect() as there:
            there.sendall(begin)
            there.settimeout(0.2)
            began, said = time.monotonic(), b""
            while time.monotonic() < began + 20:
                try:
                    part = there.recv(10_000)
                    said += part
                    if not part:
                        break
                except TimeoutError:
                    pass
                except OSError:
                    break
                try:
                    there.sendall(drop)
                except OSError:
                    pass
            return said, time.monotonic() - began

    with ThreadPoolExecutor(4) as pool:
        found = dict(zip(cases, pool.map(slow, cases.values()), strict=True))
        assert faulty.post("/v1/completions", {"prompt": "x", "max_tokens": 2}).status_code == 200
    for name, (said, seconds) in found.items():
        assert b" 408 " in said and seconds < 15, (name, said, seconds)
        assert b"did not come within 1.5 seconds" in said and b'"error"' in said
    assert b"Pong!" in found["headers of a second request"][0]


def test_what_is_no_http_is_told_so(faulty):
    with faulty.connect() as there:
        there.sendall(b"\x16\x03\x01 what is this\r\n\r\n")
        said = there.recv(10_000)
    assert b" 400 " in said and json.loads(said.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


def streaming(served, **more):
    """A socket on which a stream has begun."""
    there = served.connect(SO_RCVBUF=4096)
    body = json.dumps(LONG | {"stream": True} | more).encode()
    there.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    said = b""
    while b"data: " not in said:
        said += there.recv(2000)
    assert b" 200 " in said
    return there


def test_a_reader_who_takes_a_byte_a_second_holds_nothing_for_ever(faulty):  # S2
    began = time.monotonic()
    with streaming(faulty, max_tokens=3000, n=2) as there:
        assert faulty.metric("tfgpt_waiting") == 2
        while faulty.metric("tfgpt_waiting"):
            assert time.monotonic() < began + 40
            assert faulty.post("/v1/completions", {"prompt": "x", "max_tokens": 2}).status_code == 200
            there.recv(1)
            time.sleep(0.3)
        received = 0
        try:
            while part := there.recv(1 << 20):
                received += len(part)
        except OSError:
            pass
    assert received < 1_000_000  # what buffers held; the whole is more than a megabyte


@pytest.mark.parametrize("how", ["half-closed", "reset"])
def test_who_hangs_up_in_mid_stream_frees_the_slot(faulty, how):  # S2
    faulty.settled("tfgpt_waiting")
    before = faulty.metric(TOKENS)
    there = streaming(faulty)
    with there:
        if how == "reset":
            there.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            there.close()
        else:
            there.shutdown(socket.SHUT_WR)
        faulty.settled("tfgpt_waiting", seconds=5)
    written = faulty.metric(TOKENS) - before
    time.sleep(0.3)
    assert 0 < written < 15_000 and faulty.metric(TOKENS) - before == written


def health(served):
    return [httpx.get(served.url + path).status_code for path in ("/health", "/ready")]


def test_a_step_that_fails_ends_its_texts_and_the_model_comes_back_but_not_for_ever(faulty):  # S6
    short = {"prompt": "x", "max_tokens": 5, "seed": 1, "ignore_eot": True}
    right = faulty.post("/v1/completions", short).json()["choices"]
    assert health(faulty) == [200, 200]
    for row in (1, 2):
        with ThreadPoolExecutor(3) as pool:
            running = [pool.submit(faulty.post, "/v1/completions", LONG | {"seed": i}) for i in range(3)]
            faulty.settled("tfgpt_waiting", 3.0)
            (faulty.folder / "step").touch()
            found = [one.result() for one in running]
        for answer in found:
            assert answer.status_code == 503 and "OOM when allocating a step" in answer.json()["error"]["message"]
        assert health(faulty) == [503, 503]
        if row == 2:  # soon after the first time, so it rests for a while
            refused = faulty.post("/v1/completions", short)
            assert refused.status_code == 503 and "2 times in a row" in refused.json()["error"]["message"]
            assert 1 <= int(refused.headers["retry-after"]) <= 5
        faulty.ready()
        assert health(faulty) == [200, 200]
        assert faulty.post("/v1/completions", short).json()["choices"] == right
    assert faulty.metric('tfgpt_falls_total{model="general"}') == 2
    faulty.settled("tfgpt_waiting")


def test_when_the_time_is_up_texts_end_as_aborted(faulty):  # S5; the last of this file, as it ends the server
    children = faulty.children()

    def stream(i):
        with httpx.stream("POST", faulty.url + "/v1/completions", json=LONG | {"stream": True, "seed": i}) as answer:
            return [line[6:] for line in answer.iter_lines() if line]

    with ThreadPoolExecutor(4) as pool:
        streams = [pool.submit(stream, i) for i in range(2)]
        whole = pool.submit(faulty.post, "/v1/completions", LONG)
        older = pool.submit(
            faulty.post, "/invocations", {"model_key": "general", "raw_text": "x", "length": 20_000, "ignore_eot": True}
        )
        faulty.settled("tfgpt_waiting", 4.0)
        os.killpg(faulty.process.pid, signal.SIGTERM)  # as systemd does: to the models' processes too
        time.sleep(0.4)
        assert httpx.get(faulty.url + "/ready").status_code == 503
        refused = faulty.post("/v1/completions", LONG)
        assert refused.status_code == 503 and "retry-after" in refused.headers
        for one in streams:
            *events, last, done = one.result(30)
            assert done == "[DONE]" and json.loads(last)["choices"][0]["finish_reason"] == "abort" and len(events) > 9
        (choice,) = whole.result().json()["choices"]
        assert choice["finish_reason"] == "abort" and len(choice["text"]) > 9
        assert older.result().status_code == 503
    assert faulty.process.wait(20) == 0
    faulty.gone(children)
    assert "Traceback" not in faulty.log.read_text("utf-8")
