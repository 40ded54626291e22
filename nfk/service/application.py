"""The addresses of the service and what they answer; `/openapi.json` describes them for machines.

    GET  /health       at once, whatever else goes on
    GET  /info         the embedder: image shape, rank, digests, what it was made from, the limits
    POST /embed        images in, vectors out; ?k=32 for the leading 32 numbers, ?resize=true for images of other sizes
    POST /neighbours   images in, the nearest of the index out; ?count=10

This process only passes requests on: what takes time is done by `nfk.service.worker`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from nfk.progress import told
from nfk.service.gate import HEALTH, Gate, Limits
from nfk.service.images import MOST_IMAGES, MOST_JSON
from nfk.service.remote import Remote

MOST_NEIGHBOURS = 1000
_FILE = {"type": "string", "format": "binary"}
_BODY = {"requestBody": {"required": True, "content": {
    "multipart/form-data": {"schema": {"type": "object", "additionalProperties": _FILE}},
    "image/png": {"schema": _FILE},
    "image/jpeg": {"schema": _FILE},
    "application/json": {"schema": {"type": "array", "description": "images of numbers in [0, 1], each (h, w, c)",
                                    "items": {"type": "array", "items": {}}}}}}}


def application(remote: Remote, limits: Limits, *, token: str | None, hosts: tuple[str, ...]) -> Gate:
    """The whole service as one ASGI application."""
    app = FastAPI(title="nfk serve", version=remote.info["version"], docs_url=None, redoc_url=None)
    rank = remote.info["rank"]
    info = orjson.dumps({**remote.info, "limits": {**asdict(limits), "images": MOST_IMAGES, "json": MOST_JSON}})

    async def passed_on(request: Request, path: str, resize: bool, **options: int) -> Response:
        kind = request.headers.get("content-type", "")
        answer = await remote.ask({"path": path, "type": kind, "resize": resize, **options}, await request.body())
        headers = {"Retry-After": str(remote.seconds_left)} if answer.status == 503 else None
        return Response(answer.body, answer.status, headers, media_type="application/json")

    @app.get(HEALTH)
    async def health() -> Response:
        """Whether the embedder is there."""
        return _json({"error": "the embedder has ended"}, 503) if remote.ended else _json({"status": "ok"})

    @app.get("/info")
    async def information() -> Response:
        """The embedder: image shape, rank, digests, what it was made from, the limits."""
        return Response(info, media_type="application/json")

    @app.post("/embed", openapi_extra=_BODY)
    async def embed(request: Request, k: int | None = None, resize: bool = False) -> Response:
        """The vectors of the images, in order."""
        k = rank if k is None else k
        if not 1 <= k <= rank:
            return _json({"error": f"k={k}: must be between 1 and {rank}, the rank of this embedder"}, 422)
        return await passed_on(request, "embed", resize, k=k)

    @app.post("/neighbours", openapi_extra=_BODY)
    async def neighbours(
        request: Request, count: Annotated[int, Query(ge=1, le=MOST_NEIGHBOURS)] = 10, resize: bool = False
    ) -> Response:
        """For each image the nearest of the index, nearest first."""
        if remote.info["index"] is None:
            return _json({"error": "there is no index to search; start the service with --index"}, 404)
        return await passed_on(request, "neighbours", resize, count=count)

    for fault, handler in _HANDLERS.items():
        app.add_exception_handler(fault, handler)
    return Gate(app, token=token, hosts=hosts, limits=limits, retry_after=lambda: remote.seconds_left)


def _json(content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, media_type="application/json")


def _invalid(request: Request, error: RequestValidationError) -> Response:
    fault = error.errors()[0]
    return _json({"error": f"{fault['loc'][-1]}={str(fault['input'])[:80]}: {fault['msg']}"}, 422)


def _http(request: Request, error: HTTPException) -> Response:
    known = "GET /health, GET /info, POST /embed, POST /neighbours"
    return _json({"error": f"{error.detail}: there are {known}"}, error.status_code, error.headers)


def _unforeseen(request: Request, error: Exception) -> Response:
    told("nfk serve", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", warning=True)
    return _json({"error": f"an internal fault ({type(error).__name__}); the service's log has more"}, 500)


_HANDLERS: dict[Any, Any] = {RequestValidationError: _invalid, HTTPException: _http, Exception: _unforeseen}
