"""DICOM: nothing planted survives, the image does, and broken files are refused in one line."""

import io
import json
import logging
import re
import struct
import zlib

import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLosslessSV1,
    RLELossless,
    UltrasoundImageStorage,
)

from privae.errors import DataError
from privae.imaging import dicom, keyed

KEY = bytes(range(32))
PLANTED = "ZZPLANTED"


def scan(pixels=None, *, syntax=ExplicitVRLittleEndian, sop=CTImageStorage, **facts) -> Dataset:
    """A small CT image; facts by keyword."""
    pixels = np.arange(48, dtype=np.uint16).reshape(6, 8) if pixels is None else pixels
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = sop, "1.2.3.4.5"
    made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = "1.2.3", "1.2.3.4", "1.2.9"
    made.Modality, made.PatientID, made.PatientName = "CT", "4711", "Doe^Jane"
    made.Rows, made.Columns = pixels.shape[:2]
    made.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    made.PhotometricInterpretation = "RGB" if pixels.ndim == 3 else "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 8 * pixels.itemsize
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    made.add_new(
        "PixelData",
        "OW" if pixels.itemsize == 2 else "OB",
        pixels.astype(pixels.dtype.newbyteorder(order)).tobytes(),
    )
    for keyword, value in facts.items():
        setattr(made, keyword, value)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.file_meta.MediaStorageSOPClassUID = sop
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


def packed(made: Dataset, preamble: bytes = bytes(128)) -> bytes:
    file = io.BytesIO()
    made.preamble = preamble
    pydicom.dcmwrite(file, made, enforce_file_format=True)
    return file.getvalue()


def cleaned(content: bytes, **options) -> tuple[FileDataset, bytes, tuple[str, ...]]:
    opened = dicom.read(content, KEY, **options)
    written = opened.write(opened.pixels, opened.says)
    return pydicom.dcmread(io.BytesIO(written)), written, opened.removed


TEXT = {"AE", "CS", "LO", "LT", "SH", "ST", "UC", "UR", "UT", "PN"}
OTHER = {
    "AS": "073Y",
    "DA": "19740312",
    "DT": "19740312112233",
    "TM": "112233.4455",
    "UI": "1.2.840.99999.73010599",
}


def plant(made: Dataset) -> int:
    """One value in every attribute of the dictionary that holds text, dates or UIDs; how many."""
    counted = 0
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if tag >> 16 in (0, 2, 0xFFFE) or tag == 0x00080005 or not keyword or keyword in made:
            continue
        if vr in TEXT or vr in OTHER:
            made.add_new(tag, vr, OTHER.get(vr) or PLANTED)
            counted += 1
    return counted


def test_nothing_planted_in_any_attribute_of_the_dictionary_survives() -> None:
    made = scan(PatientID=f"{PLANTED} 1", PatientName=f"{PLANTED}^2", StudyDate="19740312")
    counted = plant(made)
    assert counted > 1500
    inner = Dataset()
    inner.PatientName, inner.PatientComments = f"{PLANTED}^N", PLANTED
    nest = Dataset()
    nest.ReferencedStudySequence = [inner]
    made.RequestAttributesSequence = [nest]
    block = made.private_block(0x0029, f"{PLANTED} CO", create=True)
    block.add_new(0x01, "LO", PLANTED)
    made.add_new(0x60003000, "OW", PLANTED.encode() * 4)
    made.add_new(0x60004000, "LT", PLANTED)
    made.add_new(0x50003000, "OW", PLANTED.encode() * 4)
    made.add_new(0xFFFCFFFC, "OB", PLANTED.encode())
    made.add_new(0x00091001, "UN", PLANTED.encode())
    made.PixelData += PLANTED.encode() * 2
    made.file_meta.SourceApplicationEntityTitle = PLANTED
    made.file_meta.PrivateInformationCreatorUID = OTHER["UI"]
    made.file_meta.PrivateInformation = PLANTED.encode()
    content = packed(made, (PLANTED.encode() * 15)[:128])
    assert content.count(PLANTED.encode()) > 1000

    found, written, removed = cleaned(content)
    for value in (PLANTED, *OTHER.values(), "1.2.3.4", "Doe"):
        assert value.encode() not in written, value
    assert {"preamble", "private elements", "overlays", "curves", "bytes after the pixels"} <= set(removed)
    assert PLANTED not in json.dumps(removed)
    np.testing.assert_array_equal(found.pixel_array, made_pixels())
    assert found.preamble == bytes(128)


def made_pixels() -> np.ndarray:
    return np.arange(48, dtype=np.uint16).reshape(6, 8)


def test_what_is_kept_is_a_list_of_known_attributes_without_one_of_the_profile() -> None:
    allowed = dicom._allowed()
    known = {keyword_for_tag(tag) for tag in DicomDictionary}
    kept = {*allowed["numbers"], *allowed["words"]}
    assert kept <= known
    assert kept.isdisjoint(
        {*allowed["uids"], *allowed["dates"], "PatientAge", "PatientWeight", "PatientSize"}
    )
    for keyword in kept:
        vr = DicomDictionary[tag_for_keyword(keyword)][0]
        assert vr in (
            {"CS", "LO", "SH"} if keyword in allowed["words"] else {"DS", "IS", "FD", "FL", "US", "US or SS"}
        )


def test_required_attributes_are_there_and_the_profile_is_named() -> None:
    found, _, removed = cleaned(packed(scan(KVP=120.0, SliceThickness="2.5", PatientPosition="HFS")))
    assert (found.KVP, found.SliceThickness, found.PatientPosition) == (120, 2.5, "HFS")
    assert found.PatientIdentityRemoved == "YES"
    assert found.LongitudinalTemporalInformationModified == "REMOVED"
    assert [item.CodeValue for item in found.DeidentificationMethodCodeSequence] == ["113100"]
    for keyword in (
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "PatientBirthDate",
        "ReferringPhysicianName",
    ):
        assert found[keyword].is_empty
    assert found.file_meta.MediaStorageSOPInstanceUID == found.SOPInstanceUID
    assert found.PatientID == found.PatientName == keyed.pseudonym(KEY, "4711")
    assert set(removed) >= {"PatientID", "PatientName", "StudyInstanceUID"}
    assert "KVP" not in removed


def test_uids_are_the_same_in_all_files_and_others_under_another_key() -> None:
    one, _, _ = cleaned(packed(scan(SOPInstanceUID="1.2.3.4.6")))
    two, _, _ = cleaned(packed(scan(SOPInstanceUID="1.2.3.4.7")))
    assert one.StudyInstanceUID == two.StudyInstanceUID
    assert one.SOPInstanceUID != two.SOPInstanceUID
    assert re.fullmatch(r"2\.25\.[1-9]\d{1,38}", one.SOPInstanceUID)
    assert keyed.new_uid(bytes(32), "1.2.3") != one.StudyInstanceUID
    nothing = scan()
    del nothing.StudyInstanceUID
    assert cleaned(packed(nothing))[0].StudyInstanceUID.startswith("2.25.")


def test_words_that_are_not_of_the_list_and_long_numbers_go() -> None:
    facts = {"BodyPartExamined": "JANE DOE", "ScanningSequence": ["SE", "DOE"], "InstanceNumber": 73010599}
    found, written, removed = cleaned(packed(scan(**facts, SeriesNumber=7, ImageType=["ORIGINAL", "DOE"])))
    assert b"DOE" not in written
    assert b"73010599" not in written
    assert found.InstanceNumber is None
    assert found.SeriesNumber == 7
    assert list(found.ImageType) == ["DERIVED", "SECONDARY"]
    assert {"BodyPartExamined", "ScanningSequence", "InstanceNumber", "ImageType"} <= set(removed)


def test_no_number_is_long_enough_to_name_somebody():
    made = scan(
        SliceLocation="77712345678", TableHeight="0.77712345678", ImagePositionPatient=["7", "19800101", "1"]
    )
    made.CTDIvol, made.RescaleSlope, made.SAR = 77712345678.0, "0.0012345678912", 1.77712345678
    new, content, _ = cleaned(packed(made))
    assert not {"SliceLocation", "ImagePositionPatient", "CTDIvol"} & set(new.dir())
    assert (new.TableHeight, new.SAR) == (0.7771235, 1.777123)
    assert float(new.RescaleSlope) == pytest.approx(0.0012345678912, rel=1e-6)
    assert b"77712345678" not in content


def test_numbers_out_of_range_are_removed_or_refused() -> None:
    from pydicom.dataelem import DataElement

    made = scan()
    made.add(DataElement("PixelPaddingValue", "SS", -2000))
    assert "PixelPaddingValue" not in cleaned(packed(made))[0]
    made = scan(np.array([[-3, 4]], dtype=np.int16))
    made.add(DataElement("PixelPaddingValue", "SS", -2000))
    assert cleaned(packed(made))[0].PixelPaddingValue == -2000
    made.add(DataElement("AcquisitionMatrix", "SL", 70_000))
    with pytest.raises(DataError, match="cannot hold"):
        cleaned(packed(made))


def test_dates_move_together_for_a_patient_and_only_if_asked() -> None:
    first = scan(StudyDate="20240101", AcquisitionDate="20240111", StudyTime="112233")
    second = scan(StudyDate="20240501")
    one, written, _ = cleaned(packed(first), shift_days=100)
    two, _, _ = cleaned(packed(second), shift_days=100)

    def day(text):
        return np.datetime64(f"{text[:4]}-{text[4:6]}-{text[6:]}")

    moved = int((day(one.StudyDate) - day("20240101")).astype(int))
    assert 1 <= abs(moved) <= 100
    assert int((day(one.AcquisitionDate) - day(one.StudyDate)).astype(int)) == 10
    assert int((day(two.StudyDate) - day("20240501")).astype(int)) == moved
    assert one.LongitudinalTemporalInformationModified == "MODIFIED"
    assert "113107" in [item.CodeValue for item in one.DeidentificationMethodCodeSequence]
    assert b"112233" not in written
    nobody, _, _ = cleaned(packed(scan(PatientID="", PatientName="", StudyDate="20240101")), shift_days=100)
    assert nobody["StudyDate"].is_empty
    days = {keyed.offset(KEY, str(who), 3).days for who in range(100)}
    assert days == {-3, -2, -1, 1, 2, 3}
    assert keyed.moved_date("00010101", keyed.offset(KEY, "x", 3)) in (
        None,
        "00010102",
        "00010103",
        "00010104",
    )
    assert keyed.moved_date("Jane", keyed.offset(KEY, "x", 3)) is None


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_other_encodings_read(syntax) -> None:
    found, _, _ = cleaned(packed(scan(syntax=syntax)))
    assert found.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    np.testing.assert_array_equal(found.pixel_array, made_pixels())


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16"])
def test_pixels_are_the_same(dtype) -> None:
    pixels = np.random.default_rng(0).integers(-100 if dtype == "int16" else 0, 255, (5, 7)).astype(dtype)
    np.testing.assert_array_equal(cleaned(packed(scan(pixels)))[0].pixel_array, pixels)
    if dtype == "uint8":
        color = np.random.default_rng(0).integers(0, 255, (5, 7, 3)).astype(dtype)
        planes = scan(color, PlanarConfiguration=1)
        planes.PixelData = np.moveaxis(color, -1, 0).tobytes() + b"\0"
        np.testing.assert_array_equal(cleaned(packed(planes))[0].pixel_array, color)


def test_bits_that_are_not_in_use_are_cleared() -> None:
    hidden = made_pixels() | 0x8000
    found, _, removed = cleaned(packed(scan(hidden, BitsStored=12, HighBit=11)))
    np.testing.assert_array_equal(found.pixel_array, made_pixels())
    assert "unused bits" in removed
    signed = np.array([[-5, 5]], dtype=np.int16)
    assert cleaned(packed(scan(signed, BitsStored=12, HighBit=11)))[0].pixel_array.tolist() == [[-5, 5]]


def test_compressed_pixels_are_unpacked_or_refused() -> None:
    made = scan()
    made.compress(RLELossless, generate_instance_uid=False)
    np.testing.assert_array_equal(cleaned(packed(made))[0].pixel_array, made_pixels())
    from PIL import Image

    frame = io.BytesIO()
    Image.fromarray(np.full((16, 16), 90, np.uint8)).save(frame, "JPEG", comment=PLANTED)
    jpeg = scan(np.zeros((16, 16), np.uint8), syntax=pydicom.uid.JPEGBaseline8Bit)
    jpeg.PixelData = encapsulate([frame.getvalue()])
    jpeg["PixelData"].is_undefined_length = True
    found, written, _ = cleaned(packed(jpeg))
    assert (found.pixel_array == 90).all()
    assert PLANTED.encode() not in written
    jpeg.Rows = 8
    refused(packed(jpeg), "compressed")
    lossless = scan(syntax=JPEGLosslessSV1)
    lossless.PixelData = encapsulate([b"\xff\xd8" + PLANTED.encode() + b"\xff\xd9"])
    lossless["PixelData"].is_undefined_length = True
    refused(packed(lossless), "cannot be inspected")


def test_headers_that_make_text_likely_are_doubts() -> None:
    assert dicom.read(packed(scan()), KEY).doubts == ()
    assert dicom.read(packed(scan(BurnedInAnnotation="YES")), KEY).doubts
    assert dicom.read(packed(scan(Modality="OT")), KEY).doubts
    assert dicom.read(packed(scan(sop=UltrasoundImageStorage)), KEY).doubts
    assert not dicom.read(packed(scan(sop=UltrasoundImageStorage, BurnedInAnnotation="NO")), KEY).doubts
    assert dicom.PERSON in dicom.read(packed(scan(RecognizableVisualFeatures="YES")), KEY).doubts


def test_gray_follows_the_window_and_the_bits() -> None:
    def seen(made):
        opened = dicom.read(packed(made), KEY)
        return opened.view(opened.pixels)

    ramp = np.array([[0, 1000, 2000, 3000, 4095]], dtype=np.uint16)
    bits = {"BitsStored": 12, "HighBit": 11}
    assert seen(scan(ramp, **bits)).tolist() == [[0, 62, 125, 187, 255]]
    assert seen(scan(ramp, **bits, PhotometricInterpretation="MONOCHROME1"))[0, 0] == 255
    window = {"WindowCenter": 1000, "WindowWidth": 2001, "RescaleSlope": 1, "RescaleIntercept": -1000}
    assert seen(scan(ramp, **bits, **window)).tolist() == [[0, 0, 128, 255, 255]]
    assert seen(scan(np.full((1, 2, 3), 7, np.uint8))).tolist() == [[7, 7]]


def refused(content: bytes, part: str) -> None:
    with pytest.raises(DataError) as error:
        dicom.read(content, KEY)
    assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert PLANTED not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_broken_and_hostile_files_are_refused_in_one_line(caplog) -> None:
    caplog.set_level(logging.DEBUG)
    whole = packed(scan(PatientComments=PLANTED))
    refused(whole[128:], "no DICOM sign")
    refused(b"", "no DICOM sign")
    refused(whole[:-5], "truncated")
    refused(whole[:200], "")
    large = whole[: -96 - 4] + struct.pack("<L", 0xFFFFFFF0) + whole[-96:]
    refused(large, "truncated")
    refused(packed(scan(NumberOfFrames=2)), "several frames")
    refused(packed(scan(sop="1.2.840.10008.5.1.4.1.1.104.1")), "no single image")
    refused(packed(scan(PhotometricInterpretation="PALETTE COLOR")), "colors")
    refused(packed(scan(BitsStored=12, HighBit=15)), "bits")
    refused(packed(scan(Rows=60_000, Columns=60_000)), "pixels")
    refused(packed(scan(Rows=7)), "fewer pixels")
    nothing = scan()
    del nothing.PixelData
    refused(packed(nothing), "no pixels")
    assert PLANTED not in caplog.text


def test_deep_nesting_and_bombs_are_refused(monkeypatch) -> None:
    head = packed(scan())
    deep = struct.pack("<HH2sHL", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    at = head.index(struct.pack("<HH", 0x7FE0, 0x0010))
    refused(head[:at] + deep * 5000 + head[at:], "deeply")
    meta_end = head.index(struct.pack("<HH", 0x0008, 0x0016))
    monkeypatch.setattr(dicom, "_MOST", 2**16)
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    zipped = bomb.compress(bytes(2**20)) + bomb.flush()
    text = packed(scan(syntax=DeflatedExplicitVRLittleEndian))
    start = 132 + 12 + struct.unpack("<L", text[140:144])[0]
    assert meta_end > 132
    refused(text[:start] + zipped, "unpacks to more")


def test_more_elements_than_an_image_has_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(dicom._Counted, "left", 1000)
    head = packed(scan())
    at = head.index(struct.pack("<HH", 0x7FE0, 0x0010))
    items = struct.pack("<HH2sHL", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF)
    items += struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 2000 + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
    refused(head[:at] + items + head[at:], "more elements")
    assert dicom.read(head, KEY).ending == ".dcm"


def test_the_first_bytes_alone_decide_and_any_cut_is_refused_or_read() -> None:
    whole = packed(scan())
    for cut in range(132, len(whole) - 96, 7):
        refused(whole[:cut], "")
