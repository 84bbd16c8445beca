"""Every error that privae raises, as one tree.

PrivaeError
 + UsageError      exit 2   the call is wrong
 + DataError       exit 3   the data do not read, or do not fit the schema
 + PrivacyRefused  exit 4   going on would break a promise
 + AuditFailed     exit 5   the audit contradicts the guarantee, or found copies
 + ArtifactError   exit 6   one of our own files is tampered with, truncated, or of another version
 + ResourceError   exit 7   disk or memory would not do; nothing was half-written
 + ProtocolError   exit 8   another site, or the coordinator, does not keep to the protocol of the federation

A message says what is wrong, where, and what to do. It never contains a data value or a count of one.
"""

from typing import Any


class PrivaeError(Exception):
    """Root of the tree; `exit_code` is what the command line returns."""

    exit_code: int = 1


class UsageError(PrivaeError, ValueError):
    """The call is wrong: an argument, a plan or a schema that its author can mend."""

    exit_code = 2


class DataError(PrivaeError):
    """The data do not read, or do not fit the schema."""

    exit_code = 3


class PrivacyRefused(PrivaeError):
    """Going on would break a promise, so nothing was released."""

    exit_code = 4


class AuditFailed(PrivaeError):
    """An audit contradicts the guarantee, or found copies of records."""

    exit_code = 5


class ArtifactError(PrivaeError):
    """A file that privae wrote does not verify: tampered, truncated, or of another version."""

    exit_code = 6


class ResourceError(PrivaeError):
    """Disk or memory would not do; nothing was half-written."""

    exit_code = 7


class ProtocolError(PrivaeError):
    """A peer misbehaved: version, size, shape, order or signature of what it sent."""

    exit_code = 8


def first_fault(error: Any) -> tuple[tuple[Any, ...], str]:  # noqa: ANN401  pydantic is no door of this floor
    """Of a pydantic ValidationError, where its first fault is and what is wrong there, without the input.

    >>> from pydantic import TypeAdapter, ValidationError
    >>> try:
    ...     TypeAdapter(list[int]).validate_python(["secret"])
    ... except ValidationError as error:
    ...     first_fault(error)
    ((0,), 'input should be a valid integer, unable to parse string as an integer')
    """
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    said = str(first["msg"]).removeprefix("Value error, ")
    return tuple(first["loc"]), said[:1].lower() + said[1:]
