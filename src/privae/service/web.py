"""A model over HTTP that is computed on ciphertexts: the process holds public keys only.

GET /v1/model: the offer. POST /v1/keys: a client's public keys, kept under the SHA-256 of their content. POST
/v1/score: packed records to results. What a client sends is refused in one line: 400 what is no ciphertext of this
model, 404 keys that are not here, 408 what is too slow, 413 too large, 422 what could not be meant, 429 too many
scores, 503 while others are served. Who may ask is decided before it: by a proxy that knows its users.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from privae.ckks.container import loads
from privae.encrypted.offer import Served
from privae.encrypted.scoring import Keys, blocks_of, check, expected_bytes, expected_key_bytes, score
from privae.errors import ArtifactError, PrivaeError, UsageError

_MEDIA = "application/vnd.privae.pvhe"
_ROOM = 2**16  # bytes of a header and a frame, beside the body
_STATUS: dict[type[Exception], int] = {ArtifactError: 400, UsageError: 422}
_HOUR = 3600.0
_NAME = "the request"
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Limits:
    """What one service takes. records: most of one request. keys: clients whose keys are kept.

    hourly: ciphertexts of scores that leave in an hour, whoever asks; each carries N / 2 numbers at most, whatever its
    sender says of its records. waiting: requests that are read or wait while one is computed; more are sent away before
    they are read. seconds: how long a request may take to come in.
    """

    records: int = 8192
    hourly: int = 500
    keys: int = 8
    waiting: int = 4
    seconds: float = 900.0


@dataclass
class _State:
    """What changes: clients' keys, the latest used last; when ciphertexts were scored; requests that are open.

    One thread computes, and goes on if whoever asked is gone.
    """

    keys: "OrderedDict[str, Keys]" = field(default_factory=OrderedDict)
    used: deque[float] = field(default_factory=deque)
    open: int = 0
    worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))


class Refused(Exception):
    """An answer of one line. again: seconds after which the same request may do."""

    def __init__(self, status: int, line: str, again: int | None = None) -> None:
        super().__init__(line)
        self.status, self.again = status, again


def service(
    model: Served, limits: Limits | None = None, clock: Callable[[], float] = time.monotonic
) -> FastAPI:
    """The application that serves one model. clock: for tests.

    privacy: requests are not logged, and nothing of them but the public keys outlives its answer.
    """
    bounds, state = limits or Limits(), _State()
    app = FastAPI(title="privae", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(PrivaeError, _refused)
    app.add_exception_handler(HTTPException, _unknown)
    offer = model.offer.to_dict()

    @app.get("/v1/model")
    async def described() -> JSONResponse:
        return JSONResponse(offer)

    @app.post("/v1/keys")
    async def keep(request: Request) -> JSONResponse:
        with _place(state, bounds):
            content = await _body(request, (expected_key_bytes(model.offer) + _ROOM, bounds.seconds))
            found = await _computed(state, lambda: Keys.of(loads(content, _NAME, "keys"), model.offer))
        state.keys[found.name] = found
        state.keys.move_to_end(found.name)
        while len(state.keys) > bounds.keys:
            state.keys.popitem(last=False)
        return JSONResponse({"key": found.name})

    @app.post("/v1/score")
    async def scored(request: Request) -> Response:
        with _place(state, bounds):
            most = expected_bytes(model.offer, bounds.records, 0) + _ROOM
            content = await _body(request, (most, bounds.seconds))
            records = await _computed(state, lambda: loads(content, _NAME, "records"))
            keys = _known(state, records.key)
            rows, lanes = check(model, keys, records)
            _admit(state, bounds, (rows, blocks_of(model.offer, rows, lanes)), clock())
            results = await _computed(state, lambda: score(model, keys, records))
        return Response(results.dumps(), media_type=_MEDIA)

    return app


async def _computed(state: _State, work: Callable[[], _Made]) -> _Made:
    return await asyncio.get_running_loop().run_in_executor(state.worker, work)


@contextmanager
def _place(state: _State, bounds: Limits) -> Iterator[None]:
    """A place among the few requests that are read, wait or are computed. Errors: Refused where there is none."""
    if state.open > bounds.waiting:
        raise Refused(503, "others are being served; try again", again=30)
    state.open += 1
    try:
        yield
    finally:
        state.open -= 1


async def _refused(_: Request, error: Exception) -> Response:
    """One line, and its status."""
    status = error.status if isinstance(error, Refused) else _STATUS.get(type(error), 500)
    again = error.again if isinstance(error, Refused) else None
    headers = {} if again is None else {"Retry-After": str(again)}
    return JSONResponse({"error": str(error)}, status, headers)


async def _unknown(_: Request, error: Exception) -> Response:
    """One line for a path or a method that is not served."""
    assert isinstance(error, HTTPException)
    line = "here are GET /v1/model, POST /v1/keys and POST /v1/score, and nothing else"
    return JSONResponse({"error": line}, error.status_code, error.headers)


async def _body(request: Request, bounds: tuple[int, float]) -> bytes:
    """A request's body, read no further than it may be long, in bytes and in seconds."""
    most, seconds = bounds
    stated = request.headers.get("content-length", "0")
    if not stated.isdigit() or int(stated) > most:
        raise Refused(413, f"a request here has at most {most} bytes")
    content = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                content += chunk
                if len(content) > most:
                    raise Refused(413, f"a request here has at most {most} bytes")
    except TimeoutError:
        raise Refused(408, f"a request here comes in within {seconds:g} seconds") from None
    return bytes(content)


def _known(state: _State, name: str) -> Keys:
    """A client's keys, used now."""
    if name not in state.keys:
        raise Refused(404, "the keys of these records are not here; send them to /v1/keys first")
    state.keys.move_to_end(name)
    return state.keys[name]


def _admit(state: _State, bounds: Limits, asked: tuple[int, int], now: float) -> None:
    """Count ciphertexts of scores, of whichever key: keys cost nothing. asked: records, and ciphertexts.

    privacy: whoever asks without end learns the weights; this slows it, and a private fit is what protects.
    """
    rows, blocks = asked
    if rows > bounds.records:
        raise Refused(413, f"a request here has at most {bounds.records} records")
    while state.used and state.used[0] < now - _HOUR:
        state.used.popleft()
    if len(state.used) + blocks > bounds.hourly:
        again = int(state.used[0] + _HOUR - now) + 1 if state.used else int(_HOUR)
        raise Refused(429, f"at most {bounds.hourly} ciphertexts of scores leave here in an hour", again)
    state.used.extend([now] * blocks)
