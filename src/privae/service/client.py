"""The other side of `web`: a holder of records that asks a service, and trusts it with ciphertexts only."""

import httpx

from privae.ckks.container import Container, loads
from privae.encrypted.offer import Offer
from privae.errors import ArtifactError, ProtocolError, ResourceError, UsageError

_SECONDS = 1800.0


class KeysWanted(UsageError):
    """A service that does not have the keys of these records."""


_KINDS = {400: ArtifactError, 404: KeysWanted, 413: UsageError, 422: UsageError}


def offered(url: str) -> Offer:
    """The offer of a service. Errors: UsageError where none answers; ArtifactError for no offer."""
    answer = _sent(url, "GET", "/v1/model")
    try:
        stored = answer.json()
    except ValueError:
        raise ArtifactError(f"{url} answers with no offer; check the address") from None
    return Offer.from_dict(stored if isinstance(stored, dict) else {})


def scored(url: str, keys: Container, records: Container) -> Container:
    """Send records, and keys to a service that does not have them yet; the results.

    Errors: UsageError where none answers, or for what the service does not take; ResourceError where it is busy.
    """
    content = records.dumps()
    try:
        answer = _sent(url, "POST", "/v1/score", content)
    except KeysWanted:
        _sent(url, "POST", "/v1/keys", keys.dumps())
        answer = _sent(url, "POST", "/v1/score", content)
    return loads(answer.content, "the answer", "results")


def _sent(url: str, method: str, path: str, content: bytes | None = None) -> httpx.Response:
    try:
        answer = httpx.request(method, url.rstrip("/") + path, content=content, timeout=_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL):
        raise UsageError(
            f"no service answers at {url}; check the address, or start it: privae encrypted serve"
        ) from None
    if answer.is_success:
        return answer
    try:
        line = "".join(filter(str.isprintable, str(answer.json()["error"])))[:200]
    except (ValueError, KeyError, TypeError):
        line = f"status {answer.status_code}"
    if answer.status_code in {429, 503}:
        raise ResourceError(f"the service takes no more now: {line}; again in {_again(answer)} seconds")
    raise _KINDS.get(answer.status_code, ProtocolError)(f"the service refuses: {line}")


def _again(answer: httpx.Response) -> int:
    stated = answer.headers.get("retry-after", "")
    return int(stated) if stated.isdigit() and len(stated) < 6 else 60
