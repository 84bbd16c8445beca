"""A model over HTTP that is computed on ciphertexts: the process holds public keys only.

GET /v1/model: the offer. POST /v1/keys: a client's public keys, kept under the SHA-256 of their content. POST
/v1/score: packed records to results. What a client sends is refused in one line: 400 what is no ciphertext of this
model, 404 keys that are not here, 413 what is too large, 422 what could not be meant, 429 too many records, 503 while
others are served. Who may ask is decided before it: by a proxy that knows its users.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from privae.ckks.container import Container, loads
from privae.encrypted.offer import Served
from privae.encrypted.scoring import Keys, expected_bytes, score
from privae.errors import ArtifactError, PrivaeError, UsageError

_MEDIA = "application/vnd.privae.pvhe"
_ROOM = 2**16  # bytes of a header and a frame, beside the body
_STATUS: dict[type[Exception], int] = {ArtifactError: 400, UsageError: 422}
_HOUR = 3600.0


@dataclass(frozen=True)
class Limits:
    """What one service takes. records: most of one request. hourly: most of all requests in an hour.

    keys: clients whose keys are kept. waiting: requests that wait for the one that is computed; more are sent away.
    """

    records: int = 8192
    hourly: int = 50_000
    keys: int = 8
    key_bytes: int = 2**30
    waiting: int = 4


@dataclass
class _State:
    """What changes: clients' keys, the latest last; how many records were scored, and when."""

    keys: "OrderedDict[str, Keys]" = field(default_factory=OrderedDict)
    used: deque[tuple[float, int]] = field(default_factory=deque)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


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
    offer = model.offer.to_dict()

    @app.get("/v1/model")
    async def described() -> JSONResponse:
        return JSONResponse(offer)

    @app.post("/v1/keys")
    async def keep(request: Request) -> JSONResponse:
        content = await _body(request, bounds.key_bytes)
        async with _turn(state, bounds):
            found = await asyncio.to_thread(_keys, content, model)
        state.keys[found.name] = found
        state.keys.move_to_end(found.name)
        while len(state.keys) > bounds.keys:
            state.keys.popitem(last=False)
        return JSONResponse({"key": found.name})

    @app.post("/v1/score")
    async def scored(request: Request) -> Response:
        content = await _body(request, expected_bytes(model.offer, bounds.records, 0) + _ROOM)
        records = await asyncio.to_thread(loads, content, "the request", "records")
        keys = state.keys.get(records.key)
        if keys is None:
            raise Refused(404, "the keys of these records are not here; send them to /v1/keys first")
        _admit(state, bounds, records, clock())
        async with _turn(state, bounds):
            results = await asyncio.to_thread(score, model, keys, records)
        return Response(results.dumps(), media_type=_MEDIA)

    return app


async def _refused(_: Request, error: Exception) -> Response:
    """One line, and its status."""
    status = error.status if isinstance(error, Refused) else _STATUS.get(type(error), 500)
    again = error.again if isinstance(error, Refused) else None
    headers = {} if again is None else {"Retry-After": str(again)}
    return JSONResponse({"error": str(error)}, status, headers)


def _keys(content: bytes, model: Served) -> Keys:
    return Keys.of(loads(content, "the request", "keys"), model.offer)


async def _body(request: Request, most: int) -> bytes:
    """A request's body, read no further than it may be long."""
    stated = request.headers.get("content-length", "0")
    if not stated.isdigit() or int(stated) > most:
        raise Refused(413, f"a request here has at most {most} bytes")
    parts, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise Refused(413, f"a request here has at most {most} bytes")
        parts.append(chunk)
    return b"".join(parts)


class _turn:
    """One computation at a time; a few wait, others are told to come again."""

    def __init__(self, state: _State, bounds: Limits) -> None:
        self._state, self._most = state, bounds.waiting

    async def __aenter__(self) -> None:
        if self._state.waiting > self._most:
            raise Refused(503, "others are being served; try again", again=30)
        self._state.waiting += 1
        try:
            await self._state.lock.acquire()
        except BaseException:
            self._state.waiting -= 1
            raise

    async def __aexit__(self, *_: object) -> None:
        self._state.lock.release()
        self._state.waiting -= 1


def _admit(state: _State, bounds: Limits, records: Container, now: float) -> None:
    """Count records, of whichever key: keys cost nothing. privacy: whoever asks without end learns the weights."""
    rows = records.about.get("rows")
    if type(rows) is not int or not 0 < rows <= bounds.records:
        raise Refused(413, f"a request here has 1 to {bounds.records} records")
    used = state.used
    while used and used[0][0] < now - _HOUR:
        used.popleft()
    if sum(count for _, count in used) + rows > bounds.hourly:
        again = int(used[0][0] + _HOUR - now) + 1 if used else int(_HOUR)
        raise Refused(429, f"at most {bounds.hourly} records are scored here in an hour", again)
    used.append((now, rows))
