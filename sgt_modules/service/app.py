"""The service's routes: the program itself, and a chat endpoint that it answers, or an upstream with a supplement."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import dspy
import httpx
from fastapi import Body, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool

from sgt_modules.errors import SetupError
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.predictor import SupplementedPredictor
from sgt_modules.prompts import without_supplement
from sgt_modules.redaction import redacted
from sgt_modules.safety import harmless
from sgt_modules.service.advice import advised, asked, prompt_of
from sgt_modules.service.answering import Answering, completion, streamed, written
from sgt_modules.service.guard import App, Guard, Limits, error_content
from sgt_modules.service.metrics import Metrics
from sgt_modules.wrapping import supplemented

logger = logging.getLogger(__name__)

_PASSED = ("content-type", "retry-after")


@dataclass(frozen=True, slots=True)
class Upstream:
    """The chat endpoint that answers: its address up to `/v1`, its key, the model to ask for (else the caller's), and
    the seconds that it may take."""

    address: str
    key: str = ""
    model: str = ""
    seconds: float = 120.0

    def headers(self) -> dict[str, str]:
        """What a request to it brings."""
        return {"authorization": f"Bearer {self.key}"} if self.key else {}


def application(
    program: dspy.Module,
    *,
    lm: dspy.LM | None = None,
    upstream: Upstream | None = None,
    predictor: str = "",
    keys: Collection[str] = (),
    limits: Limits | None = None,
) -> App:
    """The service as an ASGI application: `POST /predict`, `POST /v1/chat/completions` (streamed if asked for),
    `GET /v1/models`, `GET /health` and `GET /metrics`.

    Chats are answered by the program itself, or by an `upstream` that reads the generator's supplements.

    `lm` is the program's actor where none is configured. `predictor` names the one whose generator, instructions,
    template and gate the chat endpoint uses; the first that reads supplements by default. Raises `SetupError` where an
    upstream is given and no predictor reads any.
    """
    metrics = Metrics()
    helper = None if upstream is None else _Helper(program, predictor, metrics)
    app = FastAPI(title="dspy-sgt", docs_url=None, redoc_url=None, lifespan=_lifespan(upstream))
    _answer_errors(app)
    answering = Answering(program, lm, metrics)
    _serve_program(app, program, answering)
    app.get("/metrics", response_class=PlainTextResponse)(lambda: Response(metrics.text(), media_type="text/plain"))
    if upstream is None or helper is None:
        _serve_replies(app, answering)
    else:
        _serve_chat(app, upstream, helper)
    return Guard(cast("App", app), keys=keys, limits=limits or Limits(), metrics=metrics)


def _serve_program(app: FastAPI, program: dspy.Module, answering: Answering) -> None:
    said = {"status": "ok", "program": answering.name, "supplements": bool(supplemented(program))}

    async def predict(given: Any) -> dict[str, Any]:
        return await _answered(answering, given)

    predict.__annotations__["given"] = answering.inputs
    app.post("/predict")(predict)
    app.get("/health")(lambda: said)


def _serve_replies(app: FastAPI, answering: Answering) -> None:
    """The program as a chat model, where no upstream answers."""

    @app.post("/v1/chat/completions")
    async def chat(body: dict[str, Any] = Body()) -> Response:  # noqa: B008 - FastAPI's way
        text = asked(_messages(body))
        if not text:
            raise HTTPException(400, "Expected a chat whose last message is a user's text.")
        try:
            given = answering.read(text)
        except ValidationError as problem:
            raise HTTPException(422, _places(problem.errors())) from problem
        reply = written((await _answered(answering, given))["outputs"])
        if body.get("stream"):
            return StreamingResponse(streamed(answering.name, reply), media_type="text/event-stream")
        return JSONResponse(completion(answering.name, reply))

    models = _one_model(answering.name, "dspy-sgt")
    app.get("/v1/models")(lambda: models)


async def _answered(answering: Answering, given: BaseModel) -> dict[str, Any]:
    """What the program answers; raises `HTTPException` where it fails."""
    try:
        return await run_in_threadpool(answering.answer, given)
    except Exception as problem:
        logger.exception("The program failed.")
        told = redacted(f"{type(problem).__name__}: {problem}", [answering.lm, dspy.settings.lm])
        raise HTTPException(502, told) from problem


def _one_model(name: str, owner: str) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": owner}]}


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = body.get("messages")
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in cast("list[object]", found)):
        raise HTTPException(400, "Expected messages as a list of objects.")
    return cast("list[dict[str, Any]]", found)


def _serve_chat(app: FastAPI, upstream: Upstream, helper: _Helper) -> None:
    @app.post("/v1/chat/completions")
    async def chat(request: Request, body: dict[str, Any] = Body()) -> Response:  # noqa: B008 - FastAPI's way
        messages = _messages(body)
        supplement = await helper.supplement(messages)
        told = advised(messages, helper.shown(supplement), helper.description)
        asking = {**body, "messages": told, **({"model": upstream.model} if upstream.model else {})}
        return await _passed_on(request.app.state.client, upstream, asking, supplement.kind)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        if upstream.model:
            return JSONResponse(_one_model(upstream.model, "upstream"))
        answer = await _asked(request.app.state.client, "GET", f"{upstream.address}/models", upstream)
        async with AsyncExitStack() as closing:
            closing.push_async_callback(answer.aclose)
            return Response(await answer.aread(), answer.status_code, media_type="application/json")


class _Helper:
    """What writes a chat's supplement: one predictor's generator, behind its gate."""

    def __init__(self, program: dspy.Module, name: str, metrics: Metrics) -> None:
        found = dict(supplemented(program))
        if not found or (name and name not in found):
            raise SetupError(
                f"Expected a program with a predictor {name + ' ' if name else ''}that reads supplements, got "
                f"{sorted(found) or 'none'}. Pass the file of a compiled program that selected a trained stage."
            )
        self._predictor: SupplementedPredictor = found[name or next(iter(found))]
        self._signature = without_supplement(cast("type[dspy.Signature]", self._predictor.signature))
        self._metrics = metrics

    @property
    def description(self) -> str:
        """What the actor is told of a supplement."""
        return self._predictor.template.description

    def shown(self, supplement: Supplement) -> str:
        """A supplement as the actor reads it."""
        return self._predictor.template.shown(harmless(supplement.render(), self._signature.fields))

    async def supplement(self, messages: list[dict[str, Any]]) -> Supplement:
        """The supplement for a chat's last message; silence where that is no user's, the gate shuts, or the generator
        fails."""
        text = asked(messages)
        found = await self._written(self._prompt(text)) if text else SILENCE
        self._metrics.told(found.kind)
        return found

    def _prompt(self, text: str) -> str:
        """What the generator reads for a user's text."""
        return prompt_of(text, self._signature, self._predictor.role, generator=self._predictor.generator)

    async def _written(self, prompt: str) -> Supplement:
        gate = self._predictor.gate
        if gate is not None and not gate.familiar(prompt):
            return SILENCE
        try:
            drawn = await self._predictor.generator.adraw(prompt)
        except Exception:  # a chat without its supplement is better than none
            logger.exception("The generator failed.")
            self._metrics.unwritten.inc()
            return SILENCE
        return drawn.supplement if gate is None or gate.sure(drawn.logprob) else SILENCE


async def _passed_on(client: httpx.AsyncClient, upstream: Upstream, body: dict[str, Any], kind: str) -> Response:
    """The upstream's answer, as it comes."""
    answer = await _asked(client, "POST", f"{upstream.address}/chat/completions", upstream, body)
    headers = {name: answer.headers[name] for name in _PASSED if name in answer.headers} | {"x-sgt-kind": _header(kind)}

    async def parts() -> AsyncIterator[bytes]:
        try:
            async for part in answer.aiter_bytes():
                yield part
        finally:
            await answer.aclose()

    return StreamingResponse(parts(), answer.status_code, headers)


async def _asked(
    client: httpx.AsyncClient, method: str, address: str, upstream: Upstream, body: dict[str, Any] | None = None
) -> httpx.Response:
    """An answer that is not read yet; raises `HTTPException` where there is none."""
    request = client.build_request(method, address, json=body, headers=upstream.headers())
    try:
        return await client.send(request, stream=True)
    except httpx.TimeoutException as problem:
        raise HTTPException(504, "The upstream took too long.") from problem
    except httpx.HTTPError as problem:
        logger.warning("The upstream cannot be asked: %s", redacted(str(problem)))
        raise HTTPException(502, f"The upstream cannot be asked ({type(problem).__name__}).") from problem


def _header(kind: str) -> str:
    return kind if kind.isascii() and kind.replace("_", "").isalnum() else "other"


def _lifespan(upstream: Upstream | None) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=120.0 if upstream is None else upstream.seconds) as client:
            app.state.client = client
            yield

    return lifespan


_CODES = {
    400: "invalid_request_error",
    404: "not_found",
    422: "invalid_request_error",
    502: "upstream_error",
    504: "timeout",
}


def _answer_errors(app: FastAPI) -> None:
    """Errors as OpenAI writes them."""

    @app.exception_handler(HTTPException)
    async def refused(_: Request, problem: HTTPException) -> JSONResponse:
        code = _CODES.get(problem.status_code, "error")
        return JSONResponse(error_content(str(problem.detail), code), problem.status_code)

    @app.exception_handler(RequestValidationError)
    async def mistaken(_: Request, problem: RequestValidationError) -> JSONResponse:
        return JSONResponse(error_content(_places(problem.errors(), 1), _CODES[422]), 422)


def _places(errors: Iterable[Mapping[str, Any]], skipped: int = 0) -> str:
    """Each mistake after the field that it is in; the first parts of a field's path may be FastAPI's own."""
    return "; ".join(f"{'.'.join(map(str, each['loc'][skipped:]))}: {each['msg']}" for each in errors)
