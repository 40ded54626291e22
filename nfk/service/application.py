"""The addresses of the service and what they answer; `/openapi.json` describes them for machines.

    GET  /health       at once, whatever else goes on
    GET  /info         the embedder: image shape, rank, digests, what it was made from, the limits
    POST /embed        images in, vectors out; ?k=32 for the leading 32 numbers, ?resize=true for images of other sizes
    POST /neighbours   images in, the nearest of the index out; ?count=10
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import orjson
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from jaxtyping import Float
from starlette.exceptions import HTTPException

from nfk.embedder import EmbedderError
from nfk.fisher.scores import ScoreError
from nfk.progress import told
from nfk.service.batches import Batches, Busy, Ended
from nfk.service.gate import HEALTH, Gate, Limits
from nfk.service.images import MOST_IMAGES, MOST_JSON, Given, Refused, read
from nfk.service.neighbours import Neighbours
from nfk.stages.registered import Opened

MOST_NEIGHBOURS = 1000
_THREADS = 2  # decode; more would only take turns with the embedder
_FILE = {"type": "string", "format": "binary"}
_BODY = {"requestBody": {"required": True, "content": {
    "multipart/form-data": {"schema": {"type": "object", "additionalProperties": _FILE}},
    "image/png": {"schema": _FILE},
    "image/jpeg": {"schema": _FILE},
    "application/json": {"schema": {"type": "array", "description": "images of numbers in [0, 1], each (h, w, c)",
                                    "items": {"type": "array", "items": {}}}}}}}


@dataclass(frozen=True)
class Service:
    """All that an answer needs."""

    opened: Opened
    batches: Batches
    index: Neighbours | None
    limits: Limits

    @property
    def model(self) -> dict[str, Any]:
        """Which embedder an answer is by."""
        return {"model": self.opened.name, "version": self.opened.version, "digest": self.opened.digest,
                "rank": self.opened.embedder.rank}

    @property
    def info(self) -> dict[str, Any]:
        return {**self.model, "image_shape": self.opened.embedder.image_shape,
                "scaling": self.opened.embedder.settings["scaling"],
                "inputs": dict(self.opened.embedder.inputs), "lineage": dict(self.opened.lineage),
                "limits": {**asdict(self.limits), "images": MOST_IMAGES, "json": MOST_JSON},
                "index": None if self.index is None else {"path": str(self.index.path), "vectors": len(self.index)}}


def application(service: Service, *, token: str | None, hosts: tuple[str, ...]) -> Gate:
    """The whole service as one ASGI application."""
    app = FastAPI(title="nfk serve", version=service.opened.version, docs_url=None, redoc_url=None)
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="nfk-decode")
    shape, rank = service.opened.embedder.image_shape, service.opened.embedder.rank
    info = orjson.dumps(service.info)

    async def in_pool(function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)

    async def vectors(request: Request, resize: bool) -> tuple[Given, Float[np.ndarray, "n k"]]:
        body = await request.body()
        given = await in_pool(lambda: read(body, request.headers.get("content-type", ""), shape, resize=resize))
        return given, await asyncio.wrap_future(service.batches.submit(given.images))

    @app.get(HEALTH)
    async def health() -> Response:
        """Whether the embedder is at work."""
        return _json({"status": "ok"}) if service.batches.alive else _json({"error": "the embedder has ended"}, 503)

    @app.get("/info")
    async def information() -> Response:
        """The embedder: image shape, rank, digests, what it was made from, the limits."""
        return Response(info, media_type="application/json")

    @app.post("/embed", openapi_extra=_BODY)
    async def embed(request: Request, k: int | None = None, resize: bool = False) -> Response:
        """The vectors of the images, in order."""
        k = rank if k is None else k
        if not 1 <= k <= rank:
            raise Refused(422, f"k={k}: must be between 1 and {rank}, the rank of this embedder")
        given, found = await vectors(request, resize)
        return _json({**service.model, "names": given.names, "vectors": np.ascontiguousarray(found[:, :k])})

    @app.post("/neighbours", openapi_extra=_BODY)
    async def neighbours(
        request: Request, count: Annotated[int, Query(ge=1, le=MOST_NEIGHBOURS)] = 10, resize: bool = False
    ) -> Response:
        """For each image the nearest of the index, nearest first."""
        if service.index is None:
            raise Refused(404, "there is no index to search; start the service with --index")
        given, found = await vectors(request, resize)
        near = await in_pool(service.index.nearest, found, count)
        return _json({**service.model, "names": given.names,
                      "neighbours": [[neighbour._asdict() for neighbour in each] for each in near]})

    for fault, handler in _HANDLERS.items():
        app.add_exception_handler(fault, handler)
    return Gate(app, token=token, hosts=hosts, limits=service.limits, retry_after=service.batches.seconds_left)


def _json(content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), status, headers,
                    media_type="application/json")


def _refused(request: Request, error: Refused) -> Response:
    return _json({"error": str(error)}, error.status)


def _unsuitable(request: Request, error: EmbedderError | ScoreError) -> Response:
    return _json({"error": str(error)}, 422)


def _busy(request: Request, error: Busy) -> Response:
    return _json({"error": str(error)}, 503, {"Retry-After": str(error.seconds)})


def _ended(request: Request, error: Ended) -> Response:
    return _json({"error": "the service ends; ask again in a moment"}, 503, {"Retry-After": "1"})


def _invalid(request: Request, error: RequestValidationError) -> Response:
    fault = error.errors()[0]
    return _json({"error": f"{fault['loc'][-1]}={str(fault['input'])[:80]}: {fault['msg']}"}, 422)


def _http(request: Request, error: HTTPException) -> Response:
    known = "GET /health, GET /info, POST /embed, POST /neighbours"
    return _json({"error": f"{error.detail}: there are {known}"}, error.status_code, error.headers)


def _unforeseen(request: Request, error: Exception) -> Response:
    told("nfk serve", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", warning=True)
    return _json({"error": f"an internal fault ({type(error).__name__}); the service's log has more"}, 500)


_HANDLERS: dict[Any, Any] = {
    Refused: _refused, EmbedderError: _unsuitable, ScoreError: _unsuitable, Busy: _busy, Ended: _ended,
    RequestValidationError: _invalid, HTTPException: _http,
    Exception: _unforeseen}
