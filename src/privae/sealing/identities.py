"""Where keys of sealed files come from: files of mode 0600, the environment, the keyring of the operating system."""

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from privae.errors import ArtifactError, UsageError
from privae.sealing import envelope
from privae.sealing.envelope import Keys
from privae.sealing.secrets import SecretFile

SECRET = "PRIVAE_IDENTITY"  # noqa: S105  a name
"""The environment variable that holds a secret key itself."""
PLACE = "PRIVAE_IDENTITY_FILE"
"""The one that names a file of secret keys, or an entry of the keyring (keyring:NAME)."""
PASSPHRASE = "PRIVAE_PASSPHRASE"  # noqa: S105  a name
"""The one that holds a passphrase, where nobody is there to type one."""
SEAL_TO = "PRIVAE_SEAL_TO"
"""The one that names public keys, or files of them, between commas or spaces: what is written is sealed to these."""

SHORTEST = 12
_KEYRING, _SERVICE = "keyring:", "privae"
_SECRET_KEY = "AGE-SECRET-KEY-"  # noqa: S105  how secret keys begin
_MOST = 2**20  # bytes of a file of public keys


def at_hand() -> Keys:
    """The keys that the environment gives. Errors: those of `from_place`; ArtifactError for a text that is no key."""
    named = os.environ.get(PLACE)
    kept = from_place(named).secrets if named else ()
    return Keys(
        (*_secrets(os.environ.get(SECRET, ""), f"${SECRET}"), *kept), os.environ.get(PASSPHRASE) or None
    )


def from_place(place: str | Path) -> Keys:
    """The secret keys in a file (age's format: one a line, # before comments), or in the keyring (keyring:NAME).

    Errors: UsageError for a file that cannot be read, or that others may read; ArtifactError for one without keys.
    """
    text = str(place)
    if text.strip().upper().startswith(_SECRET_KEY):
        raise UsageError(f"name the file of the key, not the key itself, which others see; or set {SECRET}")
    if text.startswith(_KEYRING):
        with _keyring() as ring:
            found = ring.get_password(_SERVICE, text.removeprefix(_KEYRING))
        if found is None:
            raise UsageError(f"there is no {text}; make it with: privae keys new -o {text}")
    else:
        try:
            found = SecretFile(Path(text), PLACE).read().decode()
        except UnicodeDecodeError:
            raise ArtifactError(f"{text} holds no secret key; it is text, of: privae keys new") from None
    secrets = _secrets(found, text)
    if not secrets:
        raise ArtifactError(
            f"{text} holds no secret key (AGE-SECRET-KEY-1...); make one with: privae keys new"
        )
    return Keys(secrets)


def keep(secret: str, place: str | Path) -> str:
    """Keep a new secret key in a file of mode 0600, or in the keyring; its public key. Never over another.

    Errors: UsageError for a place that is taken, or that cannot be written; ResourceError for a full disk.
    """
    text, public = str(place), envelope.public_of(secret)
    if text.startswith(_KEYRING):
        name = text.removeprefix(_KEYRING)
        with _keyring() as ring:
            taken = ring.get_password(_SERVICE, name) is not None
            if not taken:
                ring.set_password(_SERVICE, name, secret)
    else:
        content = (
            f"# a secret key of privae, which the tool age reads, too\n# public key: {public}\n{secret}\n"
        )
        taken = not SecretFile(Path(text), PLACE).create(content.encode())
    if taken:
        raise UsageError(
            f"{text} exists, and a key is never overwritten: its files would be lost; name another"
        )
    return public


def recipients(texts: Iterable[str | Path]) -> tuple[str, ...]:
    """Public keys, given as such (age1...) or as files of them: one a line, # before comments. Each one once.

    Errors: UsageError for what is neither.
    """
    found = [key for text in map(str, texts) for key in _publics(text.strip())]
    return tuple(dict.fromkeys(map(envelope.public, found)))


def towards() -> tuple[str, ...]:
    """To whom the environment says that what is written is sealed; () for nobody. Errors: those of `recipients`."""
    return recipients(os.environ.get(SEAL_TO, "").replace(",", " ").split())


def check_reopened(what: str) -> None:
    """Raise UsageError where what is about to be sealed is read again in its use, and no key at hand would open it."""
    named = towards()
    if named and not set(named) & set(at_hand().publics):
        raise UsageError(
            f"{what} is read again in its use: name the key of one of --seal-to, too, with --identity"
        )


def check_passphrase(passphrase: str) -> None:
    """Errors: UsageError for a passphrase of less than 12 characters."""
    if len(passphrase) < SHORTEST:
        raise UsageError(f"a passphrase has at least {SHORTEST} characters; several words do well")


def passphrase_from(file: Path | None) -> str | None:
    """A passphrase from a file that only its owner reads, or from the environment; None where there is neither.

    Errors: UsageError for a file that others may read, or that cannot be read.
    """
    if file is None:
        return os.environ.get(PASSPHRASE)
    try:
        if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UsageError(f"others may read the passphrase {file}: chmod 600 {file}")
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"the passphrase {file} cannot be read; it is one line of text") from None


def _secrets(text: str, where: str) -> tuple[str, ...]:
    lines = tuple(_lines(text))
    try:
        Keys(lines).publics  # noqa: B018  each one is read
    except ArtifactError:
        # privacy: the line is not shown, for it may be a part of a key
        raise ArtifactError(
            f"{where} holds a line that is no secret key of age (AGE-SECRET-KEY-1...)"
        ) from None
    return lines


def _publics(text: str) -> Iterator[str]:
    if text.startswith("age1"):
        yield text
        return
    if text.upper().startswith(_SECRET_KEY):
        raise UsageError("this is a secret key; seal to its public key (age1...), of: privae keys public")
    try:
        with Path(text).open("rb") as file:
            lines = list(_lines(file.read(_MOST).decode()))
    except (OSError, UnicodeDecodeError):
        raise UsageError(
            f"{text} is neither a public key (age1...) nor a file of such that can be read"
        ) from None
    if any(line.upper().startswith(_SECRET_KEY) for line in lines):
        raise UsageError(f"{text} holds a secret key; seal to its public key, of: privae keys public {text}")
    if not lines:
        raise UsageError(f"{text} holds no public key; it has one a line (age1...)")
    yield from lines


def _lines(text: str) -> Iterator[str]:
    """Lines without spaces around, but blank ones and comments."""
    return (line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#"))


@contextmanager
def _keyring() -> Iterator[Any]:
    """The keyring of the operating system. Errors: UsageError without its extra, and for whatever goes wrong in it."""
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        raise UsageError("the keyring of the system needs an extra: pip install 'privae[keyring]'") from None
    try:
        yield keyring
    except KeyringError:
        raise UsageError(
            "the keyring of the system does not answer; unlock it, or keep keys in files"
        ) from None
