"""Watchers of a fit: they see phases, public counts and the ledger's epsilon, nothing of the data."""

from typing import Protocol, runtime_checkable


@runtime_checkable
class Watch(Protocol):
    """What a progress display must understand; all that it is told may be published, except by `aside`."""

    def phase(self, name: str, total: int) -> None:
        """A phase of `total` steps begins; `total` comes from the plan."""
        ...

    def advance(self, count: int, epsilon: float | None = None) -> None:
        """`count` steps were done; `epsilon` is what the ledger says so far, if it was asked."""
        ...

    def note(self, text: str) -> None:
        """One line for the person at the terminal."""
        ...

    def aside(self, text: str) -> None:
        """One line about the data, for the data holder's own eyes: never in a log, a file or an answer."""
        ...


class Silent:
    """Watches and says nothing."""

    def phase(self, name: str, total: int) -> None:
        """Say nothing."""

    def advance(self, count: int, epsilon: float | None = None) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def aside(self, text: str) -> None:
        """Say nothing."""
