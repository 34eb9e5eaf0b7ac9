"""The peer of `tfgpt bench serve`, in a process of its own: what people write first, transformers' `generate` behind a route.

One text at a time; the others wait in the order in which they came. It is kinder to its clients than most such wrappers: each
token is sent as soon as it is there (transformers' own TextIteratorStreamer waits for the next space), and who leaves is not
written for any longer.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Left(Exception):
    """Nobody waits for this text any more."""


class Tokens:
    """What `generate` calls a streamer: first it puts the prompt there, then each token."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[int | None] = asyncio.Queue()
        self.left = False
        self._loop, self._begun = asyncio.get_running_loop(), False

    def put(self, ids: Any) -> None:
        """Called by the thread that generates."""
        if self.left:
            raise Left
        if self._begun:
            self._loop.call_soon_threadsafe(self.queue.put_nowait, int(ids))
        self._begun = True

    def end(self) -> None:
        """The text has ended, or failed."""
        self._loop.call_soon_threadsafe(self.queue.put_nowait, None)


class Wrapper:
    """A model, its tokenizer and the one thread that uses them."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._one = ThreadPoolExecutor(1)

    async def ready(self, request):
        """GET /ready"""
        from starlette.responses import PlainTextResponse

        return PlainTextResponse("ready")

    async def completions(self, request):
        """POST /v1/completions, of which it knows prompt, max_tokens, temperature and top_k, and always streams."""
        from starlette.responses import StreamingResponse

        return StreamingResponse(self._events(await request.json()), media_type="text/event-stream")

    async def _events(self, values: dict[str, Any]) -> AsyncIterator[str]:
        tokens = Tokens()
        written = asyncio.get_running_loop().run_in_executor(self._one, self._write, values, tokens)
        try:
            while (token := await tokens.queue.get()) is not None:
                yield f"data: {json.dumps({'choices': [{'text': self.tokenizer.decode([token])}]})}\n\n"
            await written
        finally:
            tokens.left = True
            written.cancel()
        yield "data: [DONE]\n\n"

    def _write(self, values: dict[str, Any], tokens: Tokens) -> None:
        import torch

        new = values["max_tokens"]
        how = {"do_sample": True, "temperature": values["temperature"], "top_k": values["top_k"], "pad_token_id": 0}
        try:
            given = self.tokenizer(values["prompt"], return_tensors="pt")
            with torch.inference_mode():
                self.model.generate(**given, **how, max_new_tokens=new, min_new_tokens=new, streamer=tokens)
        except Left:
            pass
        except BaseException:
            tokens.end()  # generate says this only where all went well
            raise


def main() -> None:
    """Serve the model in the folder that is the first argument, with as many threads as the second says."""
    import torch
    import transformers
    import uvicorn
    from starlette.applications import Starlette
    from starlette.routing import Route

    folder, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    wrapper = Wrapper(model, transformers.AutoTokenizer.from_pretrained(folder))
    routes = [Route("/ready", wrapper.ready), Route("/v1/completions", wrapper.completions, methods=["POST"])]
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    print(f"serving on http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    config = uvicorn.Config(Starlette(routes=routes), log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
