"""The clients of `tfgpt bench serve`, all in one process: they ask over HTTP, and note when each token comes.

Nothing but asyncio and a reader of HTTP small enough that the clients are not what is measured: they share the machine with the
server. How much of a core they took is part of what they report.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MODEL = "model"  # the key by which a contestant knows its only model
TOP_K = 40
AGAIN = 0.2  # seconds before the next request after one that failed, or a dead server would be asked a thousand times a second


@dataclass
class Load:
    """How much is asked; travels to the clients' process as JSON. `clients` that wait for their answers, or else a `rate`."""

    host: str
    port: int
    requests: str  # a JSON file: [{prompt, new_tokens}]
    seconds: float  # of the window that counts
    warm: float  # seconds of the same load before it
    clients: int | None = None
    rate: float | None = None  # requests a second, at random times
    seed: int = 0


@dataclass
class Record:
    """One request. Times are in seconds from the beginning of the window."""

    client: int
    begun: float
    wanted: int  # tokens
    times: list[float] = field(default_factory=list)  # of each token
    ended: float | None = None  # None: cut off, nothing wrong until then
    status: int = 0
    error: str = ""
    again: float = AGAIN  # seconds after which a refused client may come again


class Clients:
    """All clients of one load."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.requests: list[dict[str, Any]] = json.loads(Path(load.requests).read_text("utf-8"))
        self.records: list[Record] = []
        self._zero = time.perf_counter() + load.warm

    def now(self) -> float:
        """Seconds since the window began."""
        return time.perf_counter() - self._zero

    async def run(self) -> dict[str, Any]:
        """Ask until the window ends; what has begun by then may end, for as long again, and is then cut off."""
        load, cpu = self.load, asyncio.create_task(self._cpu())
        if load.clients is not None:
            tasks = {asyncio.create_task(self._client(number)) for number in range(load.clients)}
        else:
            tasks = await self._arrivals()
        await asyncio.wait(tasks, timeout=2 * load.seconds - self.now())
        until = self.now()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return {"records": [asdict(record) for record in self.records], "until": until, "cpu": await cpu}

    async def _cpu(self) -> float:
        """Share of one core that this process took in the window."""
        await asyncio.sleep(-self.now())
        began, at = time.process_time(), self.now()
        await asyncio.sleep(self.load.seconds - at)
        return (time.process_time() - began) / (self.now() - at)

    async def _client(self, number: int) -> None:
        """Closed loop: each answer is followed by the next request."""
        assert self.load.clients is not None
        place = number
        while self.now() < self.load.seconds:
            record = await self._ask(number, self.requests[place % len(self.requests)])
            place += self.load.clients
            if record.error:
                await asyncio.sleep(record.again)

    async def _arrivals(self) -> set[asyncio.Task[Record]]:
        """Open loop: requests come as they come (Poisson), whether those before are answered or not."""
        assert self.load.rate is not None
        draw, tasks, at = random.Random(self.load.seed), set(), -self.load.warm
        while (at := at + draw.expovariate(self.load.rate)) < self.load.seconds:
            await asyncio.sleep(at - self.now())
            tasks.add(asyncio.create_task(self._ask(len(tasks), self.requests[len(tasks) % len(self.requests)])))
        tasks.add(asyncio.create_task(asyncio.sleep(self.load.seconds - self.now())))
        return tasks

    async def _ask(self, client: int, request: dict[str, Any]) -> Record:
        record = Record(client, self.now(), request["new_tokens"])
        self.records.append(record)
        try:
            await self._answer(record, request)
            if not record.error and len(record.times) != record.wanted:
                record.error = f"{len(record.times)} tokens instead of {record.wanted}"
        except (OSError, ValueError, EOFError) as error:
            record.error = f"{type(error).__name__}: {error}"
        record.ended = self.now()
        return record

    async def _answer(self, record: Record, request: dict[str, Any]) -> None:
        body = {"model": MODEL, "prompt": request["prompt"], "max_tokens": record.wanted, "stream": True}
        body |= {"temperature": 1.0, "top_k": TOP_K, "ignore_eot": True, "seed": len(self.records)}
        reader, writer = await asyncio.open_connection(self.load.host, self.load.port)
        try:
            writer.write(post("/v1/completions", self.load.host, json.dumps(body).encode()))
            record.status, headers = await head(reader)
            if record.status != 200:
                record.error = (await reader.read(1000)).decode("utf-8", "replace") or f"status {record.status}"
                record.again = float(headers.get("retry-after", AGAIN))
                return
            async for event in events(reader):
                if event == b"[DONE]":
                    return
                if event.startswith(b'{"error"'):
                    record.error = event.decode("utf-8", "replace")
                    return
                record.times.append(self.now())
            record.error = f"the stream ended after {len(record.times)} tokens"
        finally:
            writer.close()


def post(path: str, host: str, body: bytes) -> bytes:
    """A request, as bytes; each has a connection of its own."""
    lines = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{lines}Connection: close\r\n\r\n".encode() + body


async def head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers of an answer."""
    words = (await reader.readline()).split()
    if len(words) < 2:
        raise EOFError("no answer")
    headers = {}
    while line := (await reader.readline()).decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return int(words[1]), headers


async def events(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Server-sent events out of a chunked body, wherever it was cut into chunks."""
    rest = b""
    while size := int(await reader.readline(), 16):
        rest += (await reader.readexactly(size + 2))[:-2]
        *whole, rest = rest.split(b"\n\n")
        for event in whole:
            yield event.removeprefix(b"data: ")


def main() -> None:
    """Do the load that the first argument tells, print one JSON line."""
    print(json.dumps(asyncio.run(Clients(Load(**json.loads(sys.argv[1]))).run())))


if __name__ == "__main__":
    main()
