"""The service's routes: the program, and a chat endpoint answered by the program or by an upstream with supplements."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import dspy
import httpx
from fastapi import Body, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as AnyHTTPException

from sgt_modules.choosing import adraw_note
from sgt_modules.errors import SetupError
from sgt_modules.kinds import SILENCE, Supplement
from sgt_modules.predictor import SupplementedPredictor
from sgt_modules.prompts import without_supplement
from sgt_modules.safety import harmless
from sgt_modules.saving.redaction import redact
from sgt_modules.service.advice import add_supplement, last_user_text, prompt_of
from sgt_modules.service.error_answers import RefusalError, answer_errors, describe_mistakes
from sgt_modules.service.guard import App, Guard, RequestLimits
from sgt_modules.service.metrics import Metrics
from sgt_modules.service.page import (
    POLICY,
    Column,
    Field,
    Result,
    SentForm,
    docs_page,
    fields_of,
    page,
    read_form,
    read_values,
)
from sgt_modules.service.served_program import (
    ServedAnswer,
    ServedProgram,
    build_completion,
    format_outputs,
    stream_completion,
)
from sgt_modules.wrapping import supplemented_predictors

_FORWARDED_HEADERS = ("content-type", "retry-after")


@dataclass(frozen=True, slots=True)
class Upstream:
    """The chat endpoint that answers: its address up to `/v1`, its key, its model (else the caller's), and its time
    limit in seconds."""

    address: str
    key: str = ""
    model: str = ""
    seconds: float = 120.0


def application(
    program: dspy.Module,
    *,
    lm: dspy.LM | None = None,
    upstream: Upstream | None = None,
    predictor: str = "",
    keys: Collection[str] = (),
    limits: RequestLimits | None = None,
) -> App:
    """Build the service as an ASGI application: `POST /predict`, `POST /v1/chat/completions` (streamed on request),
    `GET /v1/models`, `GET /health`, `GET /metrics`, and for people a page at `/` and the API's description at `/docs`.

    Chats are answered by the program, or by an `upstream` that reads the generator's supplements.

    `lm` is the program's actor if none is configured. `predictor` names the predictor whose generator, instructions,
    template and gate the chat endpoint uses; by default the first one that reads supplements. Raises `SetupError` if
    there is an upstream and no predictor reads supplements.
    """
    metrics = Metrics()
    writer = None if upstream is None else _SupplementWriter(program, predictor, upstream, metrics)
    app = FastAPI(title="dspy-sgt", docs_url=None, redoc_url=None, lifespan=_lifespan(upstream))
    answer_errors(app)
    served_program = ServedProgram(program, lm, metrics)
    _serve_program(app, served_program)
    _serve_pages(app, served_program, writer, keyed=bool(keys))
    app.get("/metrics", response_class=PlainTextResponse)(lambda: Response(metrics.text(), media_type="text/plain"))
    if writer is None:
        _serve_replies(app, served_program)
    else:
        _serve_chat(app, writer)
    return Guard(cast("App", app), keys=keys, limits=limits or RequestLimits(), metrics=metrics)


def _serve_program(app: FastAPI, served_program: ServedProgram) -> None:
    health = {"status": "ok", "program": served_program.name, "supplements": served_program.supplements}

    async def predict(inputs: Any) -> dict[str, Any]:
        return (await _answer(served_program, inputs)).content()

    predict.__annotations__["inputs"] = served_program.inputs
    app.post("/predict")(predict)
    app.get("/health")(lambda: health)


def _serve_replies(app: FastAPI, served_program: ServedProgram) -> None:
    """Add the routes of the program as a chat model, for a service without an upstream."""

    @app.post("/v1/chat/completions")
    async def chat(body: dict[str, Any] = Body()) -> Response:  # noqa: B008 - FastAPI's way
        _check_model(body.get("model"), served_program.name)
        text = last_user_text(_read_messages(body))
        if not text:
            raise HTTPException(400, "Expected a chat whose last message is a user's text.")
        try:
            inputs = served_program.read(text)
        except ValidationError as problem:
            raise HTTPException(422, describe_mistakes(problem.errors())) from problem
        answer = await _answer(served_program, inputs)
        reply = format_outputs(answer.outputs)
        if body.get("stream"):
            usage = answer.usage if _wants_usage(body) else None
            return StreamingResponse(
                stream_completion(served_program.name, reply, usage), media_type="text/event-stream"
            )
        return JSONResponse(build_completion(served_program.name, reply, answer.usage))

    models = _one_model(served_program.name, "dspy-sgt")
    app.get("/v1/models")(lambda: models)


def _check_model(model: object, name: str) -> None:
    if model is not None and model != name:
        message = f"The model {str(model)[:100]!r} does not exist here. Expected {name!r}, which GET /v1/models lists."
        raise RefusalError(404, message, "model_not_found", "model")


def _wants_usage(body: Mapping[str, Any]) -> bool:
    options = body.get("stream_options")
    return isinstance(options, dict) and bool(cast("dict[str, object]", options).get("include_usage"))


async def _answer(served_program: ServedProgram, inputs: BaseModel, *, with_supplements: bool = True) -> ServedAnswer:
    """Run the program, with or without its supplements. Raises `HTTPException` if it fails."""
    try:
        answer = served_program.answer if with_supplements else served_program.answer_without
        return await run_in_threadpool(answer, inputs)
    except Exception as problem:
        logging.getLogger(__name__).exception("The program failed.")
        message = redact(f"{type(problem).__name__}: {problem}", [served_program.lm, dspy.settings.lm])
        raise HTTPException(502, message) from problem


def _one_model(name: str, owner: str) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": owner}]}


def _read_messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in cast("list[object]", messages)):
        raise HTTPException(400, "Expected messages as a list of objects.")
    return cast("list[dict[str, Any]]", messages)


def _serve_chat(app: FastAPI, writer: _SupplementWriter) -> None:
    upstream = writer.upstream

    @app.post("/v1/chat/completions")
    async def chat(request: Request, body: dict[str, Any] = Body()) -> Response:  # noqa: B008 - FastAPI's way
        messages = _read_messages(body)
        supplement = await writer.supplement(messages)
        advised = add_supplement(messages, writer.render(supplement), writer.description)
        asking = {**body, "messages": advised, **({"model": upstream.model} if upstream.model else {})}
        return await _forward(request.app.state.client, upstream, asking, supplement.kind)

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        if upstream.model:
            return JSONResponse(_one_model(upstream.model, "upstream"))
        answer = await _send(request.app.state.client, "GET", f"{upstream.address}/models", upstream)
        async with AsyncExitStack() as closing:
            closing.push_async_callback(answer.aclose)
            return Response(await answer.aread(), answer.status_code, media_type="application/json")


def _serve_pages(app: FastAPI, served_program: ServedProgram, writer: _SupplementWriter | None, *, keyed: bool) -> None:
    """Add the page with a form, the supplement and the answers with and without it, and the page about the API."""
    fields = fields_of(served_program.inputs)
    chat_writer = None if served_program.acts else writer
    form_fields = fields if chat_writer is None else _chat_fields(chat_writer.upstream)
    api_page = docs_page(served_program.name, fields, upstream=writer is not None, keyed=keyed)

    async def result_of(request: Request, values: Mapping[str, str]) -> Result:
        if chat_writer is not None:
            return await _chat(request.app.state.client, chat_writer, values)
        return await _compare(served_program, served_program.inputs(**read_values(values, form_fields)))

    @app.get("/", include_in_schema=False)
    async def empty() -> Response:
        return _html(page(served_program.name, form_fields, supplements=served_program.supplements))

    @app.post("/", include_in_schema=False)
    async def filled(request: Request) -> Response:
        values = read_form(await request.body(), form_fields)
        problem, status, result = "", 200, None
        try:
            result = await result_of(request, values)
        except ValidationError as fault:
            problem, status = describe_mistakes(fault.errors()), 422
        except AnyHTTPException as fault:
            problem, status = str(fault.detail), fault.status_code
        sent_form = SentForm(values, result, problem)
        return _html(page(served_program.name, form_fields, sent_form, supplements=served_program.supplements), status)

    app.get("/docs", include_in_schema=False)(lambda: _html(api_page))


def _html(text: str, status: int = 200) -> Response:
    headers = {"content-security-policy": POLICY, "x-content-type-options": "nosniff", "cache-control": "no-store"}
    return HTMLResponse(text, status, headers)


def _chat_fields(upstream: Upstream) -> list[Field]:
    model_field = [] if upstream.model else [Field("model", "str", "The upstream's model to ask.")]
    return [Field("message", "str", "What a user asks."), *model_field]


async def _compare(served_program: ServedProgram, inputs: BaseModel) -> Result:
    """Return the program's answers with and without supplements; one answer if it reads none."""
    answer = await _answer(served_program, inputs)
    heads = [f"{each['predictor']}, call {number}" for number, each in enumerate(answer.supplements, 1)]
    read = [
        Column(head, str(each["text"]), str(each["kind"])) for head, each in zip(heads, answer.supplements, strict=True)
    ]
    if not served_program.supplements:
        return Result((), [Column("Answer", format_outputs(answer.outputs))])
    plain = await _answer(served_program, inputs, with_supplements=False)
    columns = [
        Column("With the supplement", format_outputs(answer.outputs)),
        Column("Without it", format_outputs(plain.outputs)),
    ]
    return Result(read, columns)


async def _chat(client: httpx.AsyncClient, writer: _SupplementWriter, values: Mapping[str, str]) -> Result:
    """Return the upstream's answers to a message with and without its supplement."""
    upstream = writer.upstream
    messages = [{"role": "user", "content": values.get("message", "")}]
    supplement = await writer.supplement(messages)
    advised = add_supplement(messages, writer.render(supplement), writer.description)
    model = upstream.model or values.get("model", "")
    replies = [await _reply(client, upstream, {"model": model, "messages": each}) for each in (advised, messages)]
    read = [Column("The chat's supplement", supplement.text, supplement.kind)]
    return Result(read, [Column("With the supplement", replies[0]), Column("Without it", replies[1])])


async def _reply(client: httpx.AsyncClient, upstream: Upstream, body: dict[str, Any]) -> str:
    """Return the text of the upstream's answer; raise `HTTPException` if it refuses."""
    answer = await _send(client, "POST", f"{upstream.address}/chat/completions", upstream, body)
    try:
        content = json.loads(await answer.aread())
        if answer.is_error:
            raise HTTPException(502, f"The upstream refuses: {content['error']['message']}")
        return str(content["choices"][0]["message"]["content"])
    except (ValueError, LookupError, TypeError) as problem:
        raise HTTPException(502, f"The upstream's answer is no chat completion ({answer.status_code}).") from problem
    finally:
        await answer.aclose()


class _SupplementWriter:
    """Writes the supplement of a chat with the upstream, with one predictor's generator and gate."""

    def __init__(self, program: dspy.Module, name: str, upstream: Upstream, metrics: Metrics) -> None:
        predictors = dict(supplemented_predictors(program))
        if not predictors or (name and name not in predictors):
            raise SetupError(
                f"Expected a program with a predictor {name + ' ' if name else ''}that reads supplements, got "
                f"{sorted(predictors) or 'none'}. Pass the file of a compiled program that selected a trained stage."
            )
        self._predictor: SupplementedPredictor = predictors[name or next(iter(predictors))]
        if self._predictor.draft:
            raise SetupError(
                "Expected a program without drafts for an upstream, got one whose generator reads the actor's unaided "
                "answer, which a chat does not have. Serve the program without an upstream, or compile without draft."
            )
        self._signature = without_supplement(cast("type[dspy.Signature]", self._predictor.signature))
        self.upstream, self._metrics = upstream, metrics

    @property
    def description(self) -> str:
        """The sentence that introduces the supplement to the actor."""
        return self._predictor.template.description

    def render(self, supplement: Supplement) -> str:
        """Return a supplement as the actor reads it."""
        return self._predictor.template.shown(harmless(supplement.render(), self._signature.fields))

    async def supplement(self, messages: list[dict[str, Any]]) -> Supplement:
        """Return the supplement for a chat's last message; `SILENCE` if that is not a user's message, the gate drops
        the supplement, or the generator fails."""
        text = last_user_text(messages)
        supplement = await self._generate(text) if text else SILENCE
        self._metrics.count_supplement(supplement.kind)
        return supplement

    async def _generate(self, text: str) -> Supplement:
        generator, gate = self._predictor.generator, self._predictor.gate
        prompt = prompt_of(text, self._signature, self._predictor.role, generator=generator)
        if gate is not None and not gate.familiar(prompt):
            return SILENCE
        try:
            sample = await adraw_note(self._predictor.choice, generator, prompt)
        except Exception:  # a chat without its supplement is better than none
            logging.getLogger(__name__).exception("The generator failed.")
            self._metrics.unwritten.inc()
            return SILENCE
        return sample.supplement if gate is None or gate.sure(sample.logprob) else SILENCE


async def _forward(client: httpx.AsyncClient, upstream: Upstream, body: dict[str, Any], kind: str) -> Response:
    """Stream the upstream's answer to the caller."""
    answer = await _send(client, "POST", f"{upstream.address}/chat/completions", upstream, body)
    headers = {name: answer.headers[name] for name in _FORWARDED_HEADERS if name in answer.headers}
    headers["x-sgt-kind"] = kind if kind.isascii() and kind.replace("_", "").isalnum() else "other"

    async def parts() -> AsyncIterator[bytes]:
        try:
            async for part in answer.aiter_bytes():
                yield part
        finally:
            await answer.aclose()

    return StreamingResponse(parts(), answer.status_code, headers)


async def _send(
    client: httpx.AsyncClient, method: str, address: str, upstream: Upstream, body: dict[str, Any] | None = None
) -> httpx.Response:
    """Send a request and return the open response; raise `HTTPException` if there is none."""
    headers = {"authorization": f"Bearer {upstream.key}"} if upstream.key else {}
    request = client.build_request(method, address, json=body, headers=headers)
    try:
        return await client.send(request, stream=True)
    except httpx.TimeoutException as problem:
        raise HTTPException(504, "The upstream took too long.") from problem
    except httpx.HTTPError as problem:
        logging.getLogger(__name__).warning("The upstream cannot be asked: %s", redact(str(problem)))
        raise HTTPException(502, f"The upstream cannot be asked ({type(problem).__name__}).") from problem


def _lifespan(upstream: Upstream | None) -> Any:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(timeout=120.0 if upstream is None else upstream.seconds) as client:
            app.state.client = client
            yield

    return lifespan
