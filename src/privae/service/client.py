"""The other side of `web`: a holder of records that asks a service, and trusts it with ciphertexts only."""

import httpx

from privae.ckks.container import Container, loads
from privae.encrypted.offer import Offer
from privae.errors import ArtifactError, ProtocolError, ResourceError, UsageError

_SECONDS = 1800.0
_KINDS = {400: ArtifactError, 404: UsageError, 413: UsageError, 422: UsageError}


def offered(url: str) -> Offer:
    """The offer of a service. Errors: UsageError where none answers; ArtifactError for no offer."""
    answer = _sent(url, "GET", "/v1/model")
    try:
        stored = answer.json()
    except ValueError:
        raise ArtifactError(f"{url} answers with no offer; check the address") from None
    return Offer.from_dict(stored if isinstance(stored, dict) else {})


def scored(url: str, keys: Container, records: Container) -> Container:
    """Send keys, which a service that has them keeps, and records; the results.

    Errors: UsageError where none answers, or for what the service does not take; ResourceError where it is busy.
    """
    _sent(url, "POST", "/v1/keys", keys.dumps())
    answer = _sent(url, "POST", "/v1/score", records.dumps())
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
        raise ResourceError(f"the service is busy: {line}")
    raise _KINDS.get(answer.status_code, ProtocolError)(f"the service refuses: {line}")
