"""The verb for images: what it writes, names, refuses and leaves out."""

import csv
import hashlib
import io
import json
import stat
import zipfile

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from privae.cli import main
from privae.data.images import read_images

NAME = "ZZPLANTED"


@pytest.fixture(autouse=True)
def _own_key(tmp_path, monkeypatch):
    path = tmp_path / "key"
    path.write_text(bytes(range(32)).hex())
    path.chmod(0o600)
    monkeypatch.setenv("PRIVAE_PSEUDONYM_KEY_FILE", str(path))


def ramp(seed: int = 0) -> np.ndarray:
    return np.add.outer(np.arange(60), np.arange(200) + seed).astype(np.uint8)


def with_text(color: int = 255) -> np.ndarray:
    image = Image.fromarray(ramp() // 8)
    ImageDraw.Draw(image).text((10, 20), "MUELLER, ANNA", fill=color, font=ImageFont.load_default(16))
    return np.asarray(image)


def ct(pixels: np.ndarray, **facts) -> bytes:
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID, made.StudyInstanceUID = CTImageStorage, "1.2.3", "1.2"
    made.SeriesInstanceUID, made.Modality, made.PatientName, made.PatientID = "1.2.9", "CT", NAME, NAME
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit = 7
    made.add_new("PixelData", "OB", pixels.tobytes())
    for keyword, value in facts.items():
        setattr(made, keyword, value)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = io.BytesIO()
    pydicom.dcmwrite(file, made, enforce_file_format=True)
    return file.getvalue()


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def scans(tmp_path):
    """A folder with a CT, a PNG, a JPEG, and a PNG that shows a name."""
    folder = tmp_path / "scans"
    (folder / f"{NAME}^Jane").mkdir(parents=True)
    (folder / f"{NAME}^Jane" / "a.dcm").write_bytes(ct(ramp()))
    (folder / f"{NAME}.png").write_bytes(png(ramp(3)))
    file = io.BytesIO()
    Image.fromarray(ramp(9)).save(file, "JPEG", comment=NAME.encode())
    (folder / "c.bin").write_bytes(file.getvalue())
    (folder / "d.png").write_bytes(png(with_text()))
    return folder


def test_a_folder_is_cleaned_and_what_shows_text_is_left_out(scans, tmp_path, capsys) -> None:
    out, report, names = tmp_path / "clean", tmp_path / "r.json", tmp_path / "names.csv"
    arguments = [
        "deidentify-images",
        str(scans),
        "-o",
        str(out),
        "--report",
        str(report),
        "--names",
        str(names),
    ]
    assert main([*arguments, "--npz", str(tmp_path / "x.npz")]) == 0
    text = capsys.readouterr()
    assert "3 of 4 files" in text.out
    assert "1 may show text" in text.out
    assert NAME not in text.out + text.err
    written = sorted(path.name for path in out.iterdir())
    assert len(written) == 3
    assert all(len(name) == 24 for name in written)
    for path in (*out.iterdir(), tmp_path / "x.npz", report):
        assert NAME.encode() not in path.read_bytes(), path
    told = json.loads(report.read_text())
    flagged = [row for row in told["files"] if row["flags"]]
    assert [row["file"] for row in flagged] == [4]
    assert flagged[0]["written"] is None
    assert "PatientName" in next(row for row in told["files"] if row["kind"] == "DICOM")["removed"]
    rows = list(csv.DictReader(io.StringIO(names.read_text())))
    assert {row["written"] for row in rows} - {""} == set(written)
    assert rows[0]["source"] == f"{NAME}.png"
    for path in (report, names):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    x, y = read_images(tmp_path / "x.npz")
    assert x.shape == (3, 60, 200)
    assert y is None


def test_mask_and_keep_write_what_shows_text(scans, tmp_path, capsys) -> None:
    for choice in ("mask", "keep"):
        out = tmp_path / choice
        assert (
            main(["deidentify-images", str(scans / "d.png"), "-o", str(out), "--burned-in", choice, "--json"])
            == 0
        )
        said = json.loads(capsys.readouterr().out)
        assert (said["written"], said["flagged"]) == (1, 1)
        (path,) = out.iterdir()
        pixels = np.asarray(Image.open(path))
        assert (pixels.max() > 200) == (choice == "keep")
    (tmp_path / "us.dcm").write_bytes(ct(ramp(), Modality="US"))
    assert main(["deidentify-images", str(tmp_path / "us.dcm"), "-o", str(tmp_path / "us")]) == 4
    assert (
        main(
            ["deidentify-images", str(tmp_path / "us.dcm"), "-o", str(tmp_path / "us"), "--burned-in", "mask"]
        )
        == 4
    )
    assert not (tmp_path / "us").exists()
    (tmp_path / "ct.dcm").write_bytes(ct(with_text(), BurnedInAnnotation="YES"))
    for choice in ("mask", "keep"):
        out = tmp_path / f"ct {choice}"
        assert (
            main(["deidentify-images", str(tmp_path / "ct.dcm"), "-o", str(out), "--burned-in", choice]) == 0
        )
        (path,) = out.iterdir()
        found = pydicom.dcmread(path)
        assert found.get("BurnedInAnnotation") == ("YES" if choice == "keep" else None)
        assert (found.pixel_array.max() > 200) == (choice == "keep")
    (tmp_path / "face.dcm").write_bytes(ct(with_text(), RecognizableVisualFeatures="YES"))
    face = [
        "deidentify-images",
        str(tmp_path / "face.dcm"),
        "-o",
        str(tmp_path / "face"),
        "--burned-in",
        "mask",
    ]
    assert main(face) == 4


def test_a_zip_gives_the_same_files_and_another_key_other_names(scans, tmp_path, monkeypatch) -> None:
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as archive:
        for path in scans.rglob("*.*"):
            if path.is_file():
                archive.write(path, path.relative_to(scans))
    assert main(["deidentify-images", str(scans), "-o", str(tmp_path / "one"), "-q"]) == 0
    assert main(["deidentify-images", str(tmp_path / "scans.zip"), "-o", str(tmp_path / "two"), "-q"]) == 0

    def hashes(folder):
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}

    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    monkeypatch.delenv("PRIVAE_PSEUDONYM_KEY_FILE")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    assert main(["deidentify-images", str(scans), "-o", str(tmp_path / "three"), "-q"]) == 0
    key = tmp_path / "settings" / "privae" / "pseudonyms.key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not set(hashes(tmp_path / "three")) & set(hashes(tmp_path / "one"))
    again = ["deidentify-images", str(scans), "-o", str(tmp_path / "four"), "-q", "--key", str(key)]
    assert main(again) == 0
    assert hashes(tmp_path / "three") == hashes(tmp_path / "four")


def test_equal_files_are_two_and_unequal_sizes_make_no_stack(tmp_path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "ab":
        (folder / name).write_bytes(png(ramp()))
    assert main(["deidentify-images", str(folder), "-o", str(tmp_path / "out"), "-q"]) == 0
    assert len(list((tmp_path / "out").iterdir())) == 2
    (folder / "c").write_bytes(png(ramp()[:50]))
    stack = [
        "deidentify-images",
        str(folder),
        "-o",
        str(tmp_path / "x"),
        "--npz",
        str(tmp_path / "x.npz"),
        "-q",
    ]
    assert main(stack) == 3
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "x.npz").exists()


def failed(capsys, *arguments) -> str:
    code = main(["deidentify-images", *map(str, arguments)])
    text = capsys.readouterr().err
    assert code in (2, 3, 6)
    assert text.count("\n") == text.count(" ...\n") + 1, text
    return text


def test_wrong_calls_and_files_are_refused_in_one_line(scans, tmp_path, capsys, monkeypatch) -> None:
    out = tmp_path / "out"
    (scans / "e.txt").write_text(f"{NAME} 1974")
    text = failed(capsys, scans, "-o", out)
    assert "file 5 of 5" in text
    assert "neither DICOM" in text
    assert NAME not in text
    (scans / "e.txt").write_bytes(ct(ramp())[:-9])
    assert "truncated" in failed(capsys, scans, "-o", out)
    (scans / "e.txt").unlink()
    assert not out.exists()
    assert "exists" in failed(capsys, scans, "-o", tmp_path)
    assert "lies in" in failed(capsys, scans, "-o", scans / "out")
    assert "does not exist" in failed(capsys, scans, "-o", out, "--npz", out / "x.npz")
    assert "must end in" in failed(capsys, scans, "-o", out, "--npz", tmp_path / "x.csv")
    assert "--shift-dates" in failed(capsys, scans, "-o", out, "--shift-dates", 0)
    assert "does not exist" in failed(capsys, tmp_path / "none", "-o", out)
    (tmp_path / "empty").mkdir()
    assert "no files" in failed(capsys, tmp_path / "empty", "-o", out)
    key = tmp_path / "key"
    key.chmod(0o644)
    assert "chmod 600" in failed(capsys, scans, "-o", out)
    key.chmod(0o600)
    key.write_text("xyz")
    assert "holds no key" in failed(capsys, scans, "-o", out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "key", "scans"]


def test_help_teaches(capsys) -> None:
    assert main(["deidentify-images", "--help"]) == 0
    text = capsys.readouterr().out
    for part in ("  privae deidentify-images", "--quiet", "--json", "--burned-in"):
        assert part in text
