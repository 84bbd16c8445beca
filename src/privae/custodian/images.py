"""The verb that makes images anew from their pixels: DICOM, PNG and JPEG, a file, a folder or a zip of them."""

import csv
import hashlib
import io
import json
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from privae.cli import app, examples
from privae.cli import options as given
from privae.cli.terminal import Terminal
from privae.errors import DataError, PrivacyRefused, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from privae.imaging.archives import Source
    from privae.imaging.pictures import Box, Opened
    from privae.training.watch import Watch

_TEXT = "its pixels show what looks like text"


class BurnedIn(StrEnum):
    """What is done with images that may show text."""

    KEEP = "keep"
    MASK = "mask"


@dataclass(frozen=True)
class Row:
    """What became of one file. file: its place, from 1, in the order of the paths; written: its new name, if any."""

    file: int
    kind: str
    written: str | None
    removed: tuple[str, ...]
    flags: tuple[str, ...]
    masked: int


@dataclass(frozen=True)
class Choices:
    """How to de-identify. key: secret, 32 bytes; shift_days: 0 removes dates."""

    key: bytes
    burned_in: str | None
    shift_days: int
    stack: bool

    def __repr__(self) -> str:
        return "Choices(...)"


Images = Annotated[
    Path, given.argument("SOURCE", "A DICOM, PNG or JPEG file, a folder of them, or a zip of them.")
]
NewFolder = Annotated[
    Path, given.option("--output", "-o", text="The folder to write; it must not exist, and appears whole.")
]
Stack = Annotated[
    Path | None,
    given.option(
        "--npz", text="Also write all images, gray, as one .npz for `privae fit`; of one size only."
    ),
]
Report = Annotated[
    Path | None,
    given.option(
        "--report", text="Also write what was removed and flagged (.json), for the data holder only."
    ),
]
Names = Annotated[
    Path | None,
    given.option("--names", text="Also write which file became which (.csv), for the data holder only."),
]
WithText = Annotated[
    BurnedIn | None,
    given.option(
        "--burned-in",
        text="Images that may show text are not written. keep: write them as they are, after you looked at them. "
        "mask: black out the text that was found, and write those where some was.",
    ),
]
Shift = Annotated[
    int | None,
    given.option(
        "--shift-dates",
        text="Keep dates of DICOM, moved by a secret number of days, up to so many, the same for all of a patient. "
        "Default: no dates. Times are removed.",
    ),
]
KeyFile = Annotated[
    Path | None,
    given.option(
        "--key",
        text="The secret key of pseudonyms and UIDs: 64 hexadecimal digits. Default: $PRIVAE_PSEUDONYM_KEY_FILE, "
        "or one of your own, made when it is first needed.",
    ),
]


@app.command(
    "deidentify-images",
    epilog=examples(
        "privae deidentify-images scans/ -o clean/ --report report.json",
        "privae deidentify-images scans.zip -o clean/ --npz clean.npz --burned-in mask",
        "privae fit clean.npz --epsilon 3 --rows 2000 -o scans.privae",
    ),
)
def deidentify_images(  # noqa: PLR0913  one parameter an option
    source: Images,
    output: NewFolder,
    npz: Stack = None,
    report: Report = None,
    names: Names = None,
    burned_in: WithText = None,
    shift_dates: Shift = None,
    key: KeyFile = None,
    quiet: given.Quiet = False,
    as_json: given.AsJson = False,
) -> None:
    """Make images anew from pixels and allowed facts: no metadata, no names. What may show text is not written.

    DICOM keeps numbers and words of a list (stricter than the basic profile of PS3.15); PNG and JPEG become PNG.
    """
    out = Terminal(quiet, as_json)
    if shift_dates is not None and not 1 <= shift_dates <= 36_500:
        raise UsageError("--shift-dates is a number of days from 1 to 36500")
    with out.progress(f"listing {source.name}") as watch:
        from privae.custody.pseudonyms import pseudonym_key
        from privae.imaging import archives

        _check_places(source, output, ((npz, ".npz"), (report, ".json"), (names, ".csv")))
        found = archives.source_of(source)
        if not found.names:
            raise DataError(f"{source} holds no files to read (hidden files and links are skipped)")
        secret = pseudonym_key(key)
        if secret.created:
            watch.note(
                f"a secret key was created: {secret.path} (keep it: with it, the same patient gets the same name)"
            )
        choices = Choices(
            secret.secret, None if burned_in is None else burned_in.value, shift_dates or 0, npz is not None
        )
        with archives.staged(output) as folder:
            rows, views = _all(found, source.name, folder, choices, watch)
            if npz is not None and views:
                _write_stack(npz, views)
            _write_beside(found, rows, report, names)
    _conclude(out, output, rows, found.skipped, (npz, report, names))


def _check_places(source: Path, output: Path, others: tuple[tuple[Path | None, str], ...]) -> None:
    from privae import files
    from privae.imaging import archives

    for path, ending in others:
        if path is None:
            continue
        files.check_writable(path)
        if path.suffix.lower() != ending:
            raise UsageError(f"{path.name} must end in {ending}")
        if path.exists() and path.samefile(source):
            raise UsageError(f"{path} is what is read; name another output")
    archives.check_new(output)
    if source.is_dir() and source.resolve() in output.resolve().parents:
        raise UsageError(f"{output} lies in {source}, which is read; name another place")


def _all(
    found: "Source", name: str, folder: Path, choices: Choices, watch: "Watch"
) -> tuple[list[Row], dict[str, "NDArray[np.uint8]"]]:
    """Every file, read, looked at, and written under a new name; and the gray images, by that name."""
    from privae.imaging.keyed import new_name

    rows: list[Row] = []
    views: dict[str, NDArray[np.uint8]] = {}
    seen: Counter[bytes] = Counter()
    now = time.time()
    watch.phase("de-identifying images", len(found.names))
    for at, content in enumerate(found):
        try:
            kind, opened = _opened(content, choices)
            digest = hashlib.sha256(content).digest()
            seen[digest] += 1
            target = new_name(choices.key, digest, seen[digest]) + opened.ending
            row = _one(opened, (at + 1, kind, target), folder, choices, views)
        except DataError as error:
            watch.aside(f"file {at + 1} is {found.names[at]}")
            raise DataError(f"file {at + 1} of {len(found.names)} in {name} {error}") from None
        if row.written is None:
            watch.aside(f"not written: {found.names[at]}: {'; '.join(row.flags)}")
        else:
            os.utime(folder / target, (now, now))  # the order of writing is that of the old names
        rows.append(row)
        watch.advance(1)
    return rows, views


def _opened(content: bytes, choices: Choices) -> tuple[str, "Opened"]:
    """A file by what it holds, whatever its name. Errors: DataError that wants a subject before it."""
    from privae.imaging import pictures

    kind = pictures.kind_of(content)
    if kind is not None:
        return kind, pictures.read(content)
    if content[128:132] != b"DICM":
        raise DataError("is neither DICOM, PNG nor JPEG; take it out")
    try:
        from privae.imaging import dicom
    except ModuleNotFoundError:
        raise UsageError("DICOM needs the extra deidentify: pip install 'privae[deidentify]'") from None
    return "DICOM", dicom.read(content, choices.key, choices.shift_days)


def _one(
    opened: "Opened",
    told: tuple[int, str, str],
    folder: Path,
    choices: Choices,
    views: dict[str, "NDArray[np.uint8]"],
) -> Row:
    from privae import files
    from privae.imaging.pictures import blackened, find_text

    place, kind, target = told
    boxes = find_text(opened.pixels)
    flags = (*opened.doubts, *((_TEXT,) if boxes else ()))
    masked = choices.burned_in == BurnedIn.MASK and _can_mask(opened, boxes)
    if flags and not masked and choices.burned_in != BurnedIn.KEEP:
        return Row(place, kind, None, opened.removed, flags, 0)
    pixels = blackened(opened.pixels, boxes, opened.black) if masked else opened.pixels
    says = None if masked else "YES" if boxes else opened.says
    content = opened.write(pixels, says)
    files.write_atomically(folder / target, lambda file: file.write(content))
    if choices.stack:
        views[target] = opened.view(pixels)
    return Row(place, kind, target, opened.removed, flags, len(boxes) if masked else 0)


def _can_mask(opened: "Opened", boxes: tuple["Box", ...]) -> bool:
    """Whether blackening what was found answers every doubt: not where a person can be recognized."""
    return bool(boxes) and not any("recognized" in doubt for doubt in opened.doubts)


def _write_beside(found: "Source", rows: list[Row], report: Path | None, names: Path | None) -> None:
    """The report and the map of names. Errors: PrivacyRefused, after them, where no image is left to write."""
    from privae import files

    if report is not None:
        told = {
            "for": "the data holder only",
            "skipped": found.skipped,
            "files": [asdict(row) for row in rows],
        }
        files.write_secretly(report, json.dumps(told, indent=1).encode())
    if names is not None:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(("file", "source", "written"))
        writer.writerows((row.file, found.names[row.file - 1], row.written or "") for row in rows)
        files.write_secretly(names, text.getvalue().encode("utf-8", "surrogateescape"))
    if not any(row.written for row in rows):
        raise PrivacyRefused(
            "every file may show text or a person, so nothing was written; look at them, then --burned-in mask or keep"
        )


def _write_stack(path: Path, views: dict[str, "NDArray[np.uint8]"]) -> None:
    import numpy as np

    from privae.data.images import write_images

    if len({view.shape for view in views.values()}) > 1:
        raise DataError(
            "the images have more than one size, and --npz needs one; take those of one size, or leave it out"
        )
    write_images(path, np.stack([views[name] for name in sorted(views)]))


def _conclude(
    out: Terminal, output: Path, rows: list[Row], skipped: int, others: tuple[Path | None, ...]
) -> None:
    written = sum(row.written is not None for row in rows)
    flagged = sum(bool(row.flags) for row in rows)
    lines = [f"wrote {output}: {written} of {len(rows)} files"]
    lines += [f"wrote {path}" for path in others if path is not None]
    if flagged > 0:
        left = len(rows) - written
        lines.append(
            f"{flagged} may show text or a person; {left} of them were not written (--report says which and why)"
        )
    if skipped:
        lines.append(f"{skipped} hidden files or links were skipped")
    lines.append("no search for text in pixels is sure: look at the images before they leave your hands")
    fields: dict[str, Any] = {
        "folder": output,
        "files": len(rows),
        "written": written,
        "flagged": flagged,
        "skipped": skipped,
    }
    out.report("\n".join(lines), fields)
