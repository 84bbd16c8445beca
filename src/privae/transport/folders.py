"""The folders of those who take part: which is whose, what a job finds in it, and what it hands on."""

import os
import re
import shutil
import traceback
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from privae import files
from privae.errors import PrivaeError, UsageError
from privae.federated import EVALUATED
from privae.sealing import is_sealed
from privae.transport.jobs import STATUS, TOPIC, Status

KIT = "PRIVAE_KIT"
"""The environment variable with this participant's folder; its startup/start.sh sets it."""
KITS = "PRIVAE_KITS"
"""The same for a simulation: a folder with the folders of all participants."""
SERVER = "coordinator"
"""The server's name among the participants; its folder is named so, too."""
RESULTS = ("model.privae", "evaluation.json", "study.toml", "plan.toml", "ledger")
"""What a job hands to the admin, of what lies in the coordinator's folder."""
_DIGEST = re.compile(r"[0-9a-f]{8,64}")


def kit_of(name: str) -> Path:
    """A participant's folder. Errors: UsageError if the participant was not started as it should be."""
    if os.environ.get(KIT):
        return Path(os.environ[KIT])
    if os.environ.get(KITS):
        return Path(os.environ[KITS]) / name
    raise UsageError(f"{KIT} is not set; start this participant with its startup/start.sh")


def prepared(kit: Path, digest: str, texts: Mapping[str, bytes]) -> Path:
    """The folder in which the coordinator of a study keeps its state, over all of the study's jobs.

    digest: the study's hash. Errors: UsageError if it holds other texts than these.
    """
    if not _DIGEST.fullmatch(digest):
        raise UsageError("a study's hash is 8 to 64 hexadecimal digits")
    folder = kit / TOPIC / digest
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for source, target in (("coordinator.key", "coordinator.key"), (EVALUATED, f"state/{EVALUATED}")):
        own = kit / "local" / source
        if own.is_file() and not (folder / target).exists():
            (folder / target).parent.mkdir(mode=0o700, exist_ok=True)
            files.write_secretly(folder / target, files.content(own), sealed=own.suffix != ".key")
    for name, text in texts.items():
        if not (folder / name).exists():
            files.write_secretly(folder / name, text)
        elif files.content(folder / name) != text:
            raise UsageError(f"the coordinator has another {name} for the study of this job")
    return folder


def hand_over(folder: Path, results: Path, status: Status) -> None:
    """Copy the results into the job's folder, which the admin may fetch when the job is over."""
    take(folder, results)
    (results / STATUS).write_bytes(files.canonical_json(status))


def take(source: Path, out: Path) -> None:
    """Copy results, each whole or not at all. Edges: a link is not followed, and not copied."""
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    for top in (source / name for name in RESULTS):
        inside = sorted(top.rglob("*")) if top.is_dir() and not top.is_symlink() else [top]
        for file in (path for path in inside if path.is_file() and not path.is_symlink()):
            target = out / file.relative_to(source)
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _copied(file, target)


def _copied(source: Path, target: Path) -> None:
    with source.open("rb") as content:
        # what is sealed is copied as it is, for whoever opens it has the key of that seal
        copy = partial(shutil.copyfileobj, content)
        files.write_atomically(target, copy, sealed=not is_sealed(source))


def said(error: BaseException) -> str:
    """An error in one line, without what it holds of data: ours say none, of others only kind and place."""
    if isinstance(error, PrivaeError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1:]
    return type(error).__name__ + "".join(f" in {Path(at.filename).name}, line {at.lineno}" for at in last)
