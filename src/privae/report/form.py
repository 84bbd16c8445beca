"""The form of a certificate: one text for one content, the objects of the library behind it, and nothing else."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from privae import files
from privae.attacks.finding import Finding
from privae.errors import ArtifactError
from privae.plan import Plan, finite
from privae.privacy.guarantee import Guarantee
from privae.privacy.ledger import Ledger

FORMAT = "privae-certificate/1"
_SHOWN = 200  # characters of somebody else's text that are shown
_Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


class Model(BaseModel):
    """Which model file it is about; schema_hash is that of the schema in it, which may have bought categories."""

    model_config = _STRICT

    kind: Literal["table", "image", "ratings", "series"]
    sha256: _Hash
    schema_hash: _Hash


class Canaries(BaseModel):
    """What attacks on planted canaries found."""

    model_config = _STRICT

    findings: list[dict[str, Any]]
    sentence: str


class Versions(BaseModel):
    """What the signer ran when the certificate was issued."""

    model_config = _STRICT

    privae: str
    python: str
    torch: str
    dp_accounting: str


class Body(BaseModel):
    """The fields of a certificate, each of its type. events: every entry of the model's ledger, whole."""

    model_config = _STRICT

    format: str
    issued: str = Field(pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$")
    claims: dict[str, Any]
    model: Model
    schema_hash: _Hash
    plan_hash: _Hash
    plan: dict[str, Any]
    events: list[dict[str, Any]] = Field(min_length=1, max_length=256)
    ledger_head: _Hash
    canaries: Canaries
    versions: Versions
    public_key: str
    signature: str

    @field_validator("issued")
    @classmethod
    def _a_day(cls, value: str) -> str:
        date.fromisoformat(value)
        return value

    def signed(self) -> bytes:
        """What the signature is over: the canonical JSON of everything else."""
        return files.canonical_json(self.model_dump(exclude={"signature"}))


@dataclass(frozen=True)
class Opened:
    """A certificate as objects of the library."""

    body: Body
    plan: Plan
    ledger: Ledger
    claims: Guarantee
    findings: tuple[Finding, ...]


def dumps(certificate: Mapping[str, Any]) -> str:
    """The one text of a certificate: JSON with sorted keys, a line a value; any other text of it is refused."""
    return json.dumps(certificate, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read(content: bytes | str) -> Body:
    """Inverse of `dumps`. ArtifactError for other keys, types, numbers or spaces than `dumps` writes."""
    try:
        text = content if isinstance(content, str) else content.decode()
        value = json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
        body = Body.model_validate(value)
        same = dumps(value) == text
    except (ValueError, TypeError, RecursionError):
        raise ArtifactError("it is not a certificate, or its text was changed") from None
    demand(body.format == FORMAT, f"it is of another format version; this privae reads {FORMAT}")
    demand(same, "its text is not the one that privae writes, so it was changed")
    return body


def opened(body: Body) -> Opened:
    """The objects behind the form. ArtifactError unless each gives back the same JSON, and the ledger's chain holds."""
    lines = b"".join(files.canonical_json(event) + b"\n" for event in body.events).decode()
    try:
        plan = Plan.model_validate(body.plan)
        ledger = Ledger.parse(lines)
        claims = Guarantee.from_dict({k: v for k, v in body.claims.items() if k != "sentence"})
        claims = TypeAdapter(Guarantee).validate_python(asdict(claims))
        findings = [Finding.from_dict(fields) for fields in body.canaries.findings]
        findings = [TypeAdapter(Finding).validate_python(asdict(f)) for f in findings]
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ArtifactError(f"'{shown(place)}' is missing, unknown, or of another type") from None
    again = [planned(plan), claimed(claims), written(findings)]
    given = [body.plan, body.claims, body.canaries.findings]
    same = files.canonical_json(again) == files.canonical_json(given)
    demand(same, "its plan, claims or findings are not as privae writes them")
    demand(ledger.head == body.ledger_head, "the chain of its events does not end in its ledger head")
    return Opened(body, plan, ledger, claims, tuple(findings))


def planned(plan: Plan) -> Any:  # noqa: ANN401  any JSON value
    """A plan as a certificate writes it: whole, so that its hash and its cost can be recomputed."""
    return finite(Plan.model_validate(plan.model_dump()).model_dump())


def claimed(guarantee: Guarantee) -> dict[str, Any]:
    """A guarantee as a certificate writes it."""
    return {"sentence": guarantee.sentence(), **guarantee.to_dict()}


def charged(ledger: Ledger) -> list[dict[str, Any]]:
    """The entries of a ledger as a certificate writes them."""
    return [json.loads(entry.line()) for entry in ledger.entries]


def written(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Findings as a certificate writes them."""
    return [Finding.from_dict(finding.to_dict()).to_dict() for finding in findings]


def demand(held: bool, otherwise: str) -> None:
    """Raise ArtifactError unless something holds."""
    if not held:
        raise ArtifactError(otherwise)


def shown(text: str) -> str:
    """Somebody else's text, short and harmless for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:_SHOWN]


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_number(text: str) -> float:
    raise ValueError(text)
