"""Writes a service's errors as OpenAI writes them, so that its clients read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as AnyHTTPException

_CODES = {
    400: "invalid_request_error",
    404: "not_found",
    405: "method_not_allowed",
    422: "invalid_request_error",
    502: "upstream_error",
    504: "timeout",
}


class RefusalError(HTTPException):
    """A refusal with its own code, and the name of the wrong field."""

    def __init__(self, status: int, message: str, code: str, param: str) -> None:
        super().__init__(status, message)
        self.code, self.param = code, param


def error_content(message: str, code: str, param: str | None = None) -> dict[str, object]:
    """Return an error in OpenAI's form; `param` names the wrong field of the request."""
    kind = "invalid_request_error" if param else code
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def answer_errors(app: FastAPI) -> None:
    """Add handlers that write errors in OpenAI's form."""

    @app.exception_handler(AnyHTTPException)
    async def answer_refusal(request: Request, problem: AnyHTTPException) -> JSONResponse:
        code, message = _CODES.get(problem.status_code, "error"), str(problem.detail)
        if isinstance(problem, RefusalError):
            return JSONResponse(error_content(message, problem.code, problem.param), problem.status_code)
        if problem.status_code in (404, 405):
            message = f"There is no {request.method} {request.url.path[:100]} here. GET /docs describes what there is."
        return JSONResponse(error_content(message, code), problem.status_code, headers=problem.headers)

    @app.exception_handler(Exception)
    async def answer_failure(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse(error_content("The service failed; its log says why.", "server_error"), 500)

    @app.exception_handler(RequestValidationError)
    async def answer_mistake(_: Request, problem: RequestValidationError) -> JSONResponse:
        return JSONResponse(error_content(describe_mistakes(problem.errors(), 1), _CODES[422]), 422)


def describe_mistakes(errors: Iterable[Mapping[str, Any]], skipped: int = 0) -> str:
    """Describe each mistake with its field; `skipped` parts of the field's path are FastAPI's own."""
    return "; ".join(f"{'.'.join(map(str, each['loc'][skipped:]))}: {each['msg']}" for each in errors)
