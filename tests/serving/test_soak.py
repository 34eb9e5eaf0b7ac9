"""Thousands of requests of all kinds leave nothing behind: memory, descriptors and threads stay as they are (row S7).

Some dozens by default, which tell of descriptors and threads alone; `TFGPT_REQUESTS=10000 pytest tests/serving/test_soak.py`
sends that many, and looks at memory too.
"""

from __future__ import annotations

import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

REQUESTS = int(os.environ.get("TFGPT_REQUESTS", "200"))
EACH = 1000  # requests between two looks at memory
GROWTH = 0.01  # of memory, for each thousand


def held(server):
    """Resident bytes, descriptors and threads of the server and its processes."""
    size, descriptors, threads = 0, 0, 0
    for pid in (server.process.pid, *server.children()):
        proc = Path(f"/proc/{pid}")
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        size += int(status["VmRSS"].split()[0]) * 1024
        threads += int(status["Threads"])
        descriptors += len(list((proc / "fd").iterdir()))
    return size, descriptors, threads


def one(server, client, number):
    """A request of the kind that the number says; its status, or 0 for who leaves."""
    draw = random.Random(number)
    words = " ".join("".join(draw.choices("abcdefghij é", k=draw.randint(1, 9))) for _ in range(draw.randint(1, 60)))
    ask = {"model": "general", "prompt": words, "max_tokens": draw.randint(1, 12), "seed": number}
    kind = number % 6
    if kind == 0:
        return client.post("/v1/completions", json=ask | {"n": 2, "logprobs": 1}).status_code
    if kind == 1:
        said = client.post("/v1/completions", json=ask | {"stream": True})
        return said.status_code if said.text.endswith("data: [DONE]\n\n") else 0
    if kind == 2:
        chat = {"messages": [{"role": "user", "content": words}], "max_tokens": 4, "stream": number % 4 == 0}
        return client.post("/v1/chat/completions", json=chat).status_code
    if kind == 3:
        wrong = draw.choice([{"temperature": -1}, {words[:20]: 1}, {"model": words[:30]}, {"prompt": [10**9]}])
        code = client.post(f"/v1/completions?{number}", json=ask | wrong).status_code
        return 200 if code in (400, 404) else code
    if kind == 4:
        return client.post("/invocations", json={"model_key": "general", "raw_text": words, "length": 5}).status_code
    with server.connect() as rude:
        body = json.dumps(ask | {"max_tokens": 500, "stream": True, "ignore_eot": True}).encode()
        rude.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        return 200 if b" 200 " in rude.recv(200) else 0


def send(server, numbers):
    """Eight clients at a time; all are answered as they should be."""
    with httpx.Client(base_url=server.url, timeout=120) as client, ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda number: one(server, client, number), numbers)) == {200}
    server.settled("tfgpt_waiting")
    time.sleep(0.3)  # the last connections close


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_requests_leave_nothing_behind(server):
    server.settled("tfgpt_waiting")
    warm = min(REQUESTS // 4, EACH)
    send(server, range(warm))
    _, descriptors, threads = held(server)
    sizes = []
    for first in range(warm, warm + REQUESTS, EACH):
        send(server, range(first, min(first + EACH, warm + REQUESTS)))
        size, *rest = held(server)
        sizes.append(size)
        print(f"{first + EACH:>6} requests: {size / 1e6:.1f} MB, {rest[0]} descriptors, {rest[1]} threads")
        assert rest[0] <= descriptors and rest[1] <= threads
    if len(sizes) > 2:
        assert sizes[-1] <= sizes[0] * (1 + GROWTH * (len(sizes) - 1)), sizes
