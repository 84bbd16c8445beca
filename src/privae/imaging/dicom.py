"""DICOM images made anew from their pixels and a list of allowed facts; the one door to pydicom."""

import contextlib
import hashlib
import io
import json
import logging
import zlib
from collections.abc import Iterator, Mapping
from functools import cache, partial
from importlib import resources
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.pixels.utils import pixel_array
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import DSfloat

from privae.errors import DataError
from privae.imaging.keyed import moved_date, new_uid, offset, pseudonym
from privae.imaging.pictures import MOST_PIXELS, Layout, Opened, limited, shown, unpacked

PERSON = "its header says that a person can be recognized"
"""A doubt that blackened text does not remove."""

_START = 128  # bytes before the sign
_SIGN = b"DICM"
_MOST = 2**29  # bytes of an inflated data set
_UNDEFINED = 0xFFFFFFFF
_LARGEST, _DIGITS = 999_999, 7  # of a number, and its digits that count: a longer one may be an identifier
_NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
)
_GRAY, _COLOR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL")
_PACKED = ("YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # colors that come out of a decoder as RGB
_SHAPE = (
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)
_METHOD = "Allowed attributes only, DICOM PS3.15 E"
_PROFILE = ("113100", "Basic Application Confidentiality Profile")
_SHIFTED = ("113107", "Retain Longitudinal Temporal Information Modified Dates Option")


def is_dicom(content: bytes) -> bool:
    """Whether bytes have the sign of a DICOM file."""
    return content[_START : _START + len(_SIGN)] == _SIGN


def read(content: bytes, key: bytes, shift_days: int = 0) -> Opened:
    """An image with allowed facts only (`allowed.json`); UIDs, patient and dates are replaced with a secret key.

    shift_days: 0 removes all dates; else those of a patient move together by up to so many days, times are removed.
    Guarantee: of the input the written file holds pixels, numbers and words of the list, and standard UIDs (numbers up
        to 999,999 in size and of 7 digits that count, for a longer one could name somebody); no other text, no private,
        nested, overlay or unknown element, no byte of the preamble or of the file meta.
    Errors: DataError, in one line, without a value or a name. Source: DICOM PS3.15 Annex E; PS3.5 B.2 for UIDs.
    """
    with _quiet():
        try:
            return _opened(content, key, shift_days)
        except (DataError, MemoryError):
            raise
        except RecursionError:
            raise DataError("nests sequences too deeply; it is no image as a device writes it") from None
        except Exception:  # noqa: BLE001  privacy: pydicom raises of many kinds, and its texts quote values
            raise DataError("is a damaged DICOM file; restore a copy") from None


def _opened(content: bytes, key: bytes, shift_days: int) -> Opened:
    source, syntax = _parsed(content)
    kinds: Mapping[str, str] = _allowed()["classes"]
    sop = _text(source, "SOPClassUID")
    if sop not in kinds:
        raise DataError(
            "is no single image of a kind that is read (no report, PDF, video or multi-frame object)"
        )
    layout = _layout(source, packed=syntax not in _NATIVE)
    pixels, odd = _pixels(source, syntax, layout)
    facts, kept = _kept(source)
    _identity(facts, source, content, key, shift_days)
    facts.SOPClassUID = UID(sop)
    _describe(facts, layout)
    says = _text(source, "BurnedInAnnotation").upper()
    return Opened(
        ".dcm",
        pixels,
        int(pixels.max() if layout.colors == "MONOCHROME1" else pixels.min() if layout.samples == 1 else 0),
        (*(["preamble"] if any(content[:_START]) else []), *odd, *_gone(source, kept)),
        _doubts(source, kinds[sop], says),
        says if says in ("YES", "NO") else None,
        partial(_view, facts, layout),
        partial(_written, facts),
    )


class _Counted(io.BytesIO):
    """Bytes that are read no more than so many times: a small file can say that it has a billion elements."""

    left = 500_000

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise DataError("holds more elements than an image does; do not trust it")
        return super().read(size)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep pydicom from logging and warning: it quotes what it reads."""
    logger = logging.getLogger("pydicom")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with limited():
            yield
    finally:
        logger.setLevel(before)


@cache
def _allowed() -> dict[str, Any]:
    text = resources.files("privae.imaging").joinpath("allowed.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _parsed(content: bytes) -> tuple[Dataset, str]:
    """The elements of a file, whole, and its transfer syntax."""
    if not is_dicom(content):
        raise DataError("has no DICOM sign after a preamble of 128 bytes")
    file = _Counted(content)
    file.seek(_START + len(_SIGN))
    meta = read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag >> 16 != 2)
    _check_whole(meta)
    syntax = _text(meta, "TransferSyntaxUID")
    if not syntax:
        raise DataError("does not say its transfer syntax; write it again with its device's software")
    if syntax == DeflatedExplicitVRLittleEndian:
        file = _Counted(_inflated(file.read()))
    found = read_dataset(file, syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian)
    _check_whole(found)
    return found, syntax


def _inflated(packed: bytes) -> bytes:
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    content = machine.decompress(packed, _MOST)
    if machine.unconsumed_tail or not machine.eof:
        raise DataError(f"is cut off, or unpacks to more than {_MOST:,} bytes; do not trust it")
    return content


def _check_whole(found: Dataset) -> None:
    for tag in found.keys():  # noqa: SIM118  iterating the data set itself would convert every value
        raw = found.get_item(tag)
        length, value = getattr(raw, "length", _UNDEFINED), getattr(raw, "value", b"")
        if length != _UNDEFINED and len(value or b"") != length:
            raise DataError("is truncated: an element says that it is longer than the file")


def _text(source: Dataset, keyword: str) -> str:
    """A value as text; by its bytes where it does not read."""
    try:
        return str(source.get(keyword, "") or "").strip(" \0")
    except Exception:  # noqa: BLE001  whatever a value is
        raw = getattr(source.get_item(keyword), "value", b"")
        return raw.decode("latin-1").strip(" \0") if isinstance(raw, bytes) else ""


def _layout(source: Dataset, *, packed: bool) -> Layout:
    if _text(source, "NumberOfFrames") not in ("", "0", "1"):
        raise DataError("holds several frames; save each as a file of its own")
    if "PixelData" not in source:
        raise DataError("holds no pixels that are whole numbers")
    rows, columns, samples, allocated, stored, high, signed = (int(source[name].value) for name in _SHAPE)
    colors = _text(source, "PhotometricInterpretation")
    if colors not in (_GRAY if samples == 1 else (*_COLOR, *(_PACKED if packed else ()))):
        raise DataError("has colors that are not read (only gray, RGB and YBR_FULL); convert it first")
    if (
        allocated not in (8, 16)
        or not 1 <= stored <= allocated
        or high != stored - 1
        or samples not in (1, 3)
    ):
        raise DataError("lays out its bits in a way that is not read (8 or 16 a value, from the lowest)")
    if rows < 1 or columns < 1 or rows * columns > MOST_PIXELS:
        raise DataError(f"has no pixels, or more than {MOST_PIXELS:,}")
    planar = samples == 3 and _text(source, "PlanarConfiguration") == "1"
    return Layout(rows, columns, samples, allocated, stored, bool(signed), planar, colors)


def _pixels(source: Dataset, syntax: str, layout: Layout) -> tuple[NDArray[Any], list[str]]:
    """Layout, [h, w] or [h, w, 3], little-endian, and what was cleared around and inside of them."""
    odd = []
    if syntax in _NATIVE:
        whole = unpacked(source["PixelData"].value, layout, ">" if syntax == ExplicitVRBigEndian else "<")
        if len(source["PixelData"].value) > whole.nbytes + 1:
            odd.append("bytes after the pixels")
    else:
        whole = _decoded(source, syntax, layout)
    unused = layout.allocated - layout.stored
    # privacy: bits above those in use held overlays once, and can hold anything
    clean = (whole << unused) >> unused
    if not np.array_equal(clean, whole):
        odd.append("unused bits")
    return clean, odd


def _decoded(source: Dataset, syntax: str, layout: Layout) -> NDArray[Any]:
    """Compressed pixels, by a decoder that pydicom finds."""
    packed = Dataset()
    for name in (*_SHAPE, "PhotometricInterpretation", "PlanarConfiguration"):
        if name in source:
            packed[name] = source[name]
    packed["PixelData"] = source["PixelData"]
    packed.file_meta = FileMetaDataset()
    packed.file_meta.TransferSyntaxUID = UID(syntax)
    try:
        found: NDArray[Any] = pixel_array(packed)
    except Exception:  # noqa: BLE001  a missing decoder, or a damaged frame
        raise DataError(
            "is compressed, and was not decoded, so that its pixels cannot be inspected; unpack it first"
        ) from None
    shape = (layout.rows, layout.columns, 3)[: 2 + (layout.samples == 3)]
    if found.shape != shape or found.dtype.itemsize * 8 != layout.allocated:
        raise DataError("is compressed, and unpacks to other pixels than it says")
    return np.ascontiguousarray(found)


def _kept(source: Dataset) -> tuple[Dataset, set[str]]:
    """The numbers and words of the list, and the keywords of those that are as they were."""
    made, allowed = Dataset(), _allowed()
    for keyword in (*allowed["numbers"], *allowed["words"]):
        with contextlib.suppress(
            Exception
        ):  # a value that does not read is removed like one that is not allowed
            value = source[keyword].value if keyword in source else None
            words = allowed["words"].get(keyword)
            clean = _numbers(keyword, value) if words is None else _words(value, words)
            if clean:
                setattr(made, keyword, clean if len(clean) > 1 else clean[0])
    kept = {keyword_for_tag(element.tag) for element in made}
    if "ImageType" not in made:
        made.ImageType = ["DERIVED", "SECONDARY"]
    return made, kept


def _numbers(keyword: str, value: Any) -> list[Any]:  # noqa: ANN401  any element's value
    given = _each(value)
    if not all(isinstance(one, int | float) and abs(one) <= _LARGEST for one in given):  # nan is not, either
        return []
    if dictionary_VR(keyword) == "IS" or all(isinstance(one, int) for one in given):
        return [int(one) for one in given]
    # privacy: a number of a phone, an insurance or a person has more digits than an image needs
    short = [float(f"{one:.{_DIGITS}g}") for one in given]
    return [DSfloat(one, auto_format=True) for one in short] if dictionary_VR(keyword) == "DS" else [*short]


def _words(value: Any, words: list[str]) -> list[str]:  # noqa: ANN401
    given = [str(one).strip() for one in _each(value)]
    return given if all(one in words for one in given) else []


def _each(value: Any) -> list[Any]:  # noqa: ANN401
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, pydicom.multival.MultiValue | list | tuple) else [value]


def _identity(made: Dataset, source: Dataset, content: bytes, key: bytes, shift_days: int) -> None:
    """Who, when and which: pseudonyms, moved dates or none, and new UIDs."""
    allowed = _allowed()
    for keyword in allowed["empty"]:
        if keyword not in made:
            setattr(made, keyword, None)
    who = _text(source, "PatientID") or _text(source, "PatientName")
    made.PatientID = made.PatientName = pseudonym(key, who) if who else ""
    for keyword in allowed["uids"]:
        given = _text(source, keyword)
        if given or keyword != "FrameOfReferenceUID":
            setattr(
                made, keyword, new_uid(key, given or f"{keyword} of {hashlib.sha256(content).hexdigest()}")
            )
    moved = bool(shift_days and who)
    if moved:
        for keyword in allowed["dates"]:
            date = moved_date(_text(source, keyword), offset(key, who, shift_days))
            if date:
                setattr(made, keyword, date)
    made.PatientIdentityRemoved = "YES"
    made.DeidentificationMethod = _METHOD
    made.DeidentificationMethodCodeSequence = [_code(*_PROFILE), *([_code(*_SHIFTED)] if moved else [])]
    made.LongitudinalTemporalInformationModified = "MODIFIED" if moved else "REMOVED"


def _code(value: str, meaning: str) -> Dataset:
    made = Dataset()
    made.CodeValue, made.CodingSchemeDesignator, made.CodeMeaning = value, "DCM", meaning
    return made


def _describe(made: Dataset, layout: Layout) -> None:
    made.Rows, made.Columns, made.SamplesPerPixel = layout.rows, layout.columns, layout.samples
    made.BitsAllocated, made.BitsStored, made.HighBit = layout.allocated, layout.stored, layout.stored - 1
    made.PixelRepresentation = int(layout.signed)
    made.PhotometricInterpretation = "RGB" if layout.colors in _PACKED else layout.colors
    if layout.samples == 3:
        made.PlanarConfiguration = 0
    lowest, most = (-(2**15), 2**15) if layout.signed else (0, 2**16)
    if "PixelPaddingValue" in made and not lowest <= int(made.PixelPaddingValue) < most:
        del made.PixelPaddingValue


def _gone(source: Dataset, kept: set[str]) -> tuple[str, ...]:
    """Keywords of the dictionary, never values; what is not in the dictionary, by its kind."""
    as_is = {*kept, *_SHAPE, "PixelData", "PhotometricInterpretation", "PlanarConfiguration", "SOPClassUID"}
    filled = (tag for tag in source.keys() if getattr(source.get_item(tag), "value", None))  # noqa: SIM118
    names = {_name(tag) for tag in filled}
    return tuple(sorted(names - as_is))


def _name(tag: BaseTag) -> str:
    if tag.is_private:
        return "private elements"
    repeated = {0x50: "curves", 0x60: "overlays"}.get(tag.group >> 8)
    return repeated or keyword_for_tag(tag) or "unknown elements"


def _doubts(source: Dataset, kind: str, says: str) -> tuple[str, ...]:
    clear = _allowed()["clear"]
    found = []
    if says == "YES":
        found.append("its header says that text is burned in")
    elif says != "NO" and (kind not in clear or _text(source, "Modality") not in clear):
        found.append("its header does not say NO, and images of its kind often hold text")
    if _text(source, "RecognizableVisualFeatures").upper() == "YES":
        found.append(PERSON)
    return tuple(found)


def _view(facts: Dataset, layout: Layout, pixels: NDArray[Any]) -> NDArray[np.uint8]:
    center, width = _first(facts, "WindowCenter"), _first(facts, "WindowWidth")
    window = None if center is None or width is None else (center, width)
    return shown(
        pixels,
        layout,
        window,
        (_first(facts, "RescaleSlope") or 1.0, _first(facts, "RescaleIntercept") or 0.0),
    )


def _first(facts: Dataset, keyword: str) -> float | None:
    given = _each(facts.get(keyword))
    return float(given[0]) if given else None


def _written(facts: Dataset, pixels: NDArray[Any], says: str | None) -> bytes:
    """The bytes of a file with these pixels. says: YES or NO to burned-in text, or nothing."""
    made = Dataset(facts)
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    made.add_new("PixelData", "OW" if pixels.dtype.itemsize == 2 else "OB", data + bytes(len(data) % 2))
    if says is not None:
        made.BurnedInAnnotation = says
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = facts.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = facts.SOPInstanceUID
    file = io.BytesIO()
    try:
        with _quiet():
            pydicom.dcmwrite(file, made, enforce_file_format=True)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  privacy: the text of what pydicom raises quotes values
        raise DataError("holds a number that its attribute cannot hold; correct or remove it") from None
    return file.getvalue()
