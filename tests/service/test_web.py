"""The service: an offer, keys under their content's name, scores, and one line with a status for everything else."""

import asyncio
import hashlib
import json
from dataclasses import replace

import httpx
import numpy as np
import pytest

from privae.ckks import container
from privae.encrypted import keys, offer, scoring
from privae.encrypted.offer import Offer, numbers_of
from privae.service import web
from privae.service.web import Limits, service


class TestClient:
    """Requests to an application in this process."""

    __test__ = False

    def __init__(self, application):
        self._transport = httpx.ASGITransport(app=application)

    def request(self, method, path, content=None):
        async def asked():
            async with httpx.AsyncClient(transport=self._transport, base_url="http://here") as client:
                return await client.request(method, path, content=content)

        return asyncio.run(asked())

    def get(self, path):
        return self.request("GET", path)

    def post(self, path, content):
        return self.request("POST", path, content)


@pytest.fixture(scope="module")
def place():
    """A linear model of random images, a key that rotates nothing, and the service."""
    from types import SimpleNamespace

    from privae import VAE

    draw = np.random.default_rng(0)
    x = (draw.random((300, 3, 3)) * draw.random((300, 1, 1)) * 255).astype(np.uint8)
    model = VAE(20.0, 1e-5, fidelity=False).fit(x)
    served = offer.served(model.fitted_, model.identity)
    ring, public = keys.KeyRing.made(served.offer.parameters)
    return SimpleNamespace(x=x, served=served, ring=ring, public=public)


@pytest.fixture
def client(place):
    return TestClient(service(place.served))


@pytest.fixture(scope="module")
def records(place):
    return scoring.pack(place.served.offer, place.ring, place.x[:5], 0)


def line(answer):
    assert set(answer.json()) == {"error"}
    assert "\n" not in answer.json()["error"]
    return answer.status_code, answer.json()["error"]


def test_from_the_offer_to_scores(place, client, records):
    known = Offer.from_dict(client.get("/v1/model").json())
    assert known == place.served.offer
    assert client.post("/v1/keys", content=place.public.dumps()).json() == {"key": place.ring.name}
    answer = client.post("/v1/score", content=records.dumps())
    assert answer.status_code == 200
    found = scoring.unpack(known, place.ring, container.loads(answer.content, "a", "results"))
    right = place.served.compiled.evaluate(numbers_of(known.schema, place.x[:5]))
    assert np.abs(found["score"] - right["score"]).max() <= known.outputs["score"].error


def test_records_without_keys_are_told_so(client, records):
    assert line(client.post("/v1/score", content=records.dumps())) == (
        404,
        "the keys of these records are not here; send them to /v1/keys first",
    )


@pytest.mark.parametrize("path", ["/v1/keys", "/v1/score"])
@pytest.mark.parametrize("content", [b"", b"x", b"{}", bytes(5000)])
def test_what_is_no_file_is_refused(client, path, content):
    assert line(client.post(path, content=content))[0] == 400


def test_what_was_tampered_with_or_is_foreign_is_refused(place, client, records):
    assert client.post("/v1/keys", content=place.public.dumps()).status_code == 200
    content = bytearray(records.dumps())
    content[-100] ^= 1
    assert line(client.post("/v1/score", content=bytes(content)))[0] == 400
    for wrong in (
        replace(records, about={**records.about, "model": "0"}),
        replace(records, body=records.body[:-1]),
        replace(records, body=records.body[:-4] + b"\xff" * 4),
        replace(records, kind="results"),
        replace(records, parameters=replace(records.parameters, degree=32768)),
    ):
        assert line(client.post("/v1/score", content=wrong.dumps()))[0] == 400
    assert line(client.post("/v1/keys", content=records.dumps()))[0] == 400
    half = scoring.pack(place.served.offer, place.ring, place.x[:1], min(place.served.offer.layouts))
    assert line(client.post("/v1/score", content=half.dumps()))[0] == 422


def test_what_is_too_large_is_refused_before_it_is_read(place, records):
    small = TestClient(service(place.served, Limits(records=4)))
    most = scoring.expected_key_bytes(place.served.offer) + web._ROOM
    assert line(small.post("/v1/keys", content=bytes(most + 1))) == (
        413,
        f"a request here has at most {most} bytes",
    )
    assert len(place.public.dumps()) < most < 1e8

    async def endless():
        for _ in range(3):
            yield bytes(most // 2)
        raise AssertionError("read on")

    assert line(small.post("/v1/keys", content=endless()))[0] == 413
    small.post("/v1/keys", content=place.public.dumps())
    status, said = line(small.post("/v1/score", content=records.dumps()))
    assert (status, said) == (413, "a request here has at most 4 records")


def test_what_comes_in_too_slowly_is_refused(place):
    async def slow():
        yield b"x"
        await asyncio.sleep(5)

    quick = TestClient(service(place.served, Limits(seconds=0.05)))
    assert line(quick.post("/v1/keys", content=slow()))[0] == 408


def test_ciphertexts_of_an_hour_are_counted_whoever_asks_and_whatever_they_say(place, records):
    now = [0.0]
    client = TestClient(service(place.served, Limits(hourly=2), clock=lambda: now[0]))
    client.post("/v1/keys", content=place.public.dumps())
    fewer = replace(
        records, about={**records.about, "rows": 1}
    )  # a claim: the ciphertexts are as full as before
    assert [client.post("/v1/score", content=fewer.dumps()).status_code for _ in range(2)] == [200, 200]
    answer = client.post("/v1/score", content=records.dumps())
    assert line(answer) == (429, "at most 2 ciphertexts of scores leave here in an hour")
    assert int(answer.headers["retry-after"]) == 3601
    now[0] = 3601.0
    assert client.post("/v1/score", content=records.dumps()).status_code == 200


def test_what_is_refused_is_not_counted(place, records):
    client = TestClient(service(place.served, Limits(hourly=1)))
    client.post("/v1/keys", content=place.public.dumps())
    empty = replace(records, body=b"", about={**records.about, "rows": 7000})
    assert [client.post("/v1/score", content=empty.dumps()).status_code for _ in range(3)] == [400] * 3
    assert client.post("/v1/score", content=records.dumps()).status_code == 200


def test_those_who_are_too_many_are_sent_away_before_they_are_read(place):
    async def crowd():
        transport = httpx.ASGITransport(app=service(place.served, Limits(waiting=1)))

        async def body():
            yield b"x"
            await asyncio.sleep(0.1)

        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            asked = [client.post("/v1/keys", content=body()) for _ in range(5)]
            return sorted(answer.status_code for answer in await asyncio.gather(*asked))

    assert asyncio.run(crowd()) == [400, 400, 503, 503, 503]


def hostile(records, text):
    """Records whose header is this text, under a right hash."""
    body = container.MAGIC + len(text).to_bytes(4, "big") + text + records.body
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize("path", ["/v1/keys", "/v1/score"])
@pytest.mark.parametrize(
    "text",
    [b"[" * 900_000, b'{"bytes": Infinity}', b'{"kind": NaN}', b"\xff", b'{"parameters": {"degree": 1e400}}'],
)
def test_headers_made_to_break_are_refused(client, records, path, text):
    assert line(client.post(path, content=hostile(records, text)))[0] == 400


def test_infinite_parameters_are_refused(client, records):
    header = json.dumps({**records.header(), "bytes": 1e400}).encode()
    assert line(client.post("/v1/score", content=hostile(records, header)))[0] == 400
    header = records.header()
    header["parameters"]["degree"] = 1e308
    assert line(client.post("/v1/score", content=hostile(records, json.dumps(header).encode())))[0] == 400


def test_keys_that_rotate_other_steps_are_told_so(place, client):
    known = place.served.offer
    ring, public = keys.KeyRing.made(known.parameters, [1])
    claimed = replace(public, about={**public.about, "rotations": sorted(known.rotations[1])})
    assert client.post("/v1/keys", content=claimed.dumps()).status_code == 200
    one = scoring.pack(known, ring, place.x[:1], 1)
    assert line(client.post("/v1/score", content=one.dumps()))[0] == 422


def test_the_keys_of_few_are_kept(place, records):
    client = TestClient(service(place.served, Limits(keys=1)))
    client.post("/v1/keys", content=place.public.dumps())
    _, other = keys.KeyRing.made(place.served.offer.parameters)
    client.post("/v1/keys", content=other.dumps())
    assert client.post("/v1/score", content=records.dumps()).status_code == 404


def test_those_who_ask_keep_their_keys(place, records):
    client = TestClient(service(place.served, Limits(keys=2)))
    client.post("/v1/keys", content=place.public.dumps())
    for _ in range(2):
        _, other = keys.KeyRing.made(place.served.offer.parameters)
        client.post("/v1/keys", content=other.dumps())
        assert client.post("/v1/score", content=records.dumps()).status_code == 200


def test_nothing_else_is_served(client):
    assert client.get("/docs").status_code == client.get("/openapi.json").status_code == 404
    assert "nothing else" in client.get("/v1/none").json()["error"]
    assert client.get("/v1/keys").status_code == 405
    assert client.get("/v1/score").status_code == 405
