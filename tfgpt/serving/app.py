"""The routes: dixie's own, OpenAI's, and what operators look at."""

from __future__ import annotations

import asyncio
import hmac
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tfgpt.errors import Failure, UserError
from tfgpt.serving import asking
from tfgpt.serving.answering import Answering, Session, within
from tfgpt.serving.asking import Ask
from tfgpt.serving.faults import Broken, guarded, place
from tfgpt.serving.metrics import Metrics
from tfgpt.serving.openai_form import Form
from tfgpt.serving.openapi import document
from tfgpt.serving.registry import Registry
from tfgpt.serving.responses import Events, Gone, body_of, error_body, refusal, unless_gone
from tfgpt.serving.settings import ServerSettings
from tfgpt.serving.templates import TEMPLATES

OPEN = ("/ping", "/health", "/ready", "/")  # without a token: these say nothing
PAGE = Path(__file__).parent / "page.html"


class Server:
    """All that the routes share."""

    def __init__(self, settings: ServerSettings, say: Callable[[str], None] | None = None) -> None:
        self.settings = settings
        self.say = say or partial(print, file=sys.stderr, flush=True)
        self.cleaners, self.templates = {}, {}
        for model in settings.models:
            of = f'of model "{model.key}"'
            self.cleaners[model.key] = guarded(model.clean(), f"the sanitizer {of}")
            self.templates[model.key] = guarded(TEMPLATES[model.template], f"the template {of}")
        self.metrics = Metrics()
        self.registry: Registry
        self.answering: Answering

    def app(self) -> ASGIApp:
        """The application, for uvicorn or any other ASGI server."""
        get, post = ["GET"], ["POST"]
        routes = [
            Route("/", self.page, methods=get),
            Route("/ping", self.ping, methods=get),
            Route("/invocations", self.invocations, methods=post),
            Route("/prime", self.prime, methods=post),
            Route("/models/list", self.models_list, methods=get),
            Route("/gputemp", self.gpu_temperatures, methods=get),
            Route("/v1/models", self.v1_models, methods=get),
            Route("/v1/models/{key:path}", self.v1_model, methods=get),
            Route("/v1/completions", self.v1_completions, methods=post),
            Route("/v1/chat/completions", self.v1_chat, methods=post),
            Route("/health", self.health, methods=get),
            Route("/ready", self.ready, methods=get),
            Route("/metrics", self.prometheus, methods=get),
            Route("/openapi.json", self.openapi, methods=get),
        ]
        handlers: dict[Any, Any] = {HTTPException: _http_error, UserError: self._error, Gone: _nobody}
        handlers[Exception] = self._error  # which comes out again, behind the answer
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)
        return _Watched(app, self)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.registry = Registry(self.settings, self.say)
        self.answering = Answering(self.registry, self.metrics)
        await self.registry.start()
        if self.settings.preload:
            first = self.settings.models[0].key
            self._loading = asyncio.create_task(self._load(first))
        try:
            yield
        finally:
            await self.registry.close()

    async def _load(self, key: str) -> None:
        try:
            async with self.registry.lease(key):
                pass
        except Exception:
            pass  # the registry has said it, and whoever asks hears it again

    # dixie's routes

    async def page(self, request: Request) -> Response:
        """GET /"""
        return HTMLResponse(PAGE.read_text("utf-8") if PAGE.exists() else "<!doctype html><title>tfgpt</title><p>tfgpt")

    async def ping(self, request: Request) -> Response:
        """GET /ping"""
        return PlainTextResponse("Pong!")

    async def invocations(self, request: Request) -> Response:
        """POST /invocations: the continuation as plain text, or as JSON for who accepts only that."""
        ask = asking.invocation(asking.read(await self._body(request)), longest=self.settings.longest)

        async def work() -> Response:
            async with self.answering.session(ask) as session:
                (text,) = await session.whole()
                if text.finish == "abort":
                    raise Failure("the server ended before this text did", fix="ask again")  # nothing here could say so
                key = session.model.settings.key
                answer = self.cleaners[key](text.text)
                headers = _marks(session)
                if request.headers.get("accept", "").startswith("application/json"):
                    return JSONResponse({"model_key": key, "text": answer, "tokens": text.tokens}, headers=headers)
                return PlainTextResponse(answer, headers=headers)

        return await unless_gone(request, work())

    async def prime(self, request: Request) -> Response:
        """POST /prime: load a model before it is needed."""
        values = asking.read(await self._body(request))
        name = values.get("model_key", "chatbot")
        key = self.answering.key(name if isinstance(name, str) else repr(name))

        async def work() -> None:
            async with self.registry.lease(key):
                pass

        deadline = time.monotonic() + self.settings.deadline
        await unless_gone(request, within(deadline, work()))
        return PlainTextResponse(f"primed {key}")

    async def models_list(self, request: Request) -> Response:
        """GET /models/list"""
        models = self.registry.models
        rows = [{"model_key": key, "num_inferences": model.count} for key, model in models.items()]
        active = max((m for m in models.values() if m.worker), key=lambda m: m.used, default=None)
        return JSONResponse({"models": rows, "active_model": {"key": active.settings.key if active else None}})

    async def gpu_temperatures(self, request: Request) -> Response:
        """GET /gputemp: degrees of each GPU; none where there is none."""
        program = shutil.which("nvidia-smi")
        if program is None:
            return JSONResponse([])
        words = (program, "--query-gpu=temperature.gpu", "--format=csv,noheader")
        child = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
        out, _ = await asyncio.wait_for(child.communicate(), 10)
        return JSONResponse([int(line) for line in out.decode().split() if line.isdecimal()])

    # OpenAI's routes

    async def v1_models(self, request: Request) -> Response:
        """GET /v1/models"""
        return JSONResponse({"object": "list", "data": [_model(key) for key in self.registry.models]})

    async def v1_model(self, request: Request) -> Response:
        """GET /v1/models/KEY"""
        return JSONResponse(_model(self.answering.key(request.path_params["key"])))

    async def v1_completions(self, request: Request) -> Response:
        """POST /v1/completions"""
        values = asking.read(await self._body(request))
        return await self._answer(request, asking.completion(values, longest=self.settings.longest), chat=False)

    async def v1_chat(self, request: Request) -> Response:
        """POST /v1/chat/completions"""
        values = asking.read(await self._body(request))
        name = values.get("model")
        key = self.answering.key(name if isinstance(name, str) else "")
        ask = asking.chat(values, self.templates[key], longest=self.settings.longest)
        return await self._answer(request, ask, chat=True)

    async def _body(self, request: Request) -> bytes:
        return await body_of(request, self.settings.patience)

    async def _answer(self, request: Request, ask: Ask, *, chat: bool) -> Response:
        key = self.answering.key(ask.key)
        clean = self.cleaners[key]
        if not ask.stream:

            async def work() -> Response:
                async with self.answering.session(ask) as session:
                    texts = await session.whole()
                    return JSONResponse(Form(session, chat=chat, clean=clean).whole(texts), headers=_marks(session))

            return await unless_gone(request, work())
        stack = AsyncExitStack()
        try:
            # Before the first byte is sent: what goes wrong until here still has a status of its own.
            session = await unless_gone(request, stack.enter_async_context(self.answering.session(ask)))
        except BaseException:
            await stack.aclose()
            raise
        return Events(_events(session, chat=chat), stack, _marks(session))

    async def _error(self, request: Request, error: Exception) -> Response:
        if isinstance(error, Broken) or not isinstance(error, UserError):
            self.say(f"a request failed: {place(error)}")
        return refusal(error)

    # What operators look at

    async def health(self, request: Request) -> Response:
        """GET /health: all is well, or a model's process has ended and is not back yet."""
        down = self.registry.down
        return JSONResponse({"status": "down" if down else "ok", "down": down}, 503 if down else 200)

    async def ready(self, request: Request) -> Response:
        """GET /ready: a model is in memory and texts are taken."""
        loaded = [key for key, model in self.registry.models.items() if model.worker and model.worker.alive]
        up = not self.registry.draining and not self.registry.down
        good = up and bool(loaded or not self.settings.preload)
        return JSONResponse({"ready": good, "loaded": loaded}, status_code=200 if good else 503)

    async def prometheus(self, request: Request) -> Response:
        """GET /metrics"""
        self.metrics.gauge("tfgpt_waiting", self.answering.waiting)
        self.metrics.gauge("tfgpt_model_memory_bytes", self.registry.memory)
        self.metrics.gauge("tfgpt_loads_total", self.registry.swaps)
        for key, model in self.registry.models.items():
            self.metrics.gauge("tfgpt_model_loaded", float(model.worker is not None), model=key)
            self.metrics.gauge("tfgpt_falls_total", model.falls.total, model=key)
        return PlainTextResponse("\n".join(self.metrics.lines()) + "\n", media_type="text/plain; version=0.0.4")

    async def openapi(self, request: Request) -> Response:
        """GET /openapi.json"""
        return JSONResponse(document())


class _Watched:
    """Around the application: the token, the access log and the count of requests. Prompts are in none of them."""

    def __init__(self, app: ASGIApp, server: Server) -> None:
        self._app, self._server = app, server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, server = time.monotonic(), 0, self._server

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        path = scope["path"]
        try:
            if server.settings.token and path not in OPEN and not self._allowed(scope):
                body = error_body(401, "a token is needed: Authorization: Bearer ...")
                await JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, noting)
            else:
                await self._app(scope, receive, noting)
        except Exception:
            pass  # has been answered and logged; a traceback might show what somebody wrote
        finally:
            known = path if path.split("?")[0] in KNOWN else "other"
            server.metrics.count("tfgpt_requests_total", path=known, status=str(status))
            seconds = time.monotonic() - started
            if path not in ("/health", "/ready", "/ping", "/metrics"):
                shown = path.encode("unicode_escape").decode()[:80]
                server.say(f"{scope['method']} {shown} {status or 'gone'} {seconds:.3f} s")

    def _allowed(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(given, f"Bearer {self._server.settings.token}".encode())


KNOWN = frozenset(
    "/ /ping /invocations /prime /models/list /gputemp /v1/models /v1/completions /v1/chat/completions /health /ready"
    " /metrics /openapi.json".split()
)


async def _events(session: Session, *, chat: bool) -> AsyncIterator[dict[str, Any]]:
    form = Form(session, chat=chat)
    for number in range(len(session.writings)):
        if (event := form.first(number)) is not None:
            yield event
    async for number, piece in session.each():
        yield form.piece(number, piece)
    if session.ask.usage:
        yield form.last()


def _marks(session: Session) -> dict[str, str]:
    return {"X-Model-Fingerprint": session.worker.fingerprint}


def _model(key: str) -> dict[str, Any]:
    return {"id": key, "object": "model", "created": 0, "owned_by": "tfgpt"}


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(error_body(error.status_code, str(error.detail)), error.status_code, error.headers)


async def _nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=499)
