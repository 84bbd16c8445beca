"""Pictures: only pixels are left, text in them is found, and bombs and broken files are refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin
from scipy import ndimage

from privae.errors import DataError
from privae.imaging import pictures

PLANTED = b"ZZPLANTED"
SMOOTH = np.add.outer(np.arange(40), np.arange(30)).astype(np.uint8)


def rewritten(content: bytes) -> tuple[Image.Image, bytes]:
    opened = pictures.read(content)
    made = opened.write(opened.pixels, None)
    return Image.open(io.BytesIO(made)), made


def exif(orientation: int = 1) -> Image.Exif:
    found = Image.Exif()
    found[0x0112], found[0x010E], found[0x013B] = orientation, PLANTED.decode(), PLANTED.decode()
    found.get_ifd(0x8825)[29] = PLANTED.decode()
    return found


def png(pixels=SMOOTH, **options) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Patient", PLANTED.decode())
    info.add_text(PLANTED.decode(), "x", zip=False)
    info.add_itxt("XML:com.adobe.xmp", PLANTED.decode())
    info.add(b"prVt", PLANTED)
    file = io.BytesIO()
    Image.fromarray(pixels).save(
        file, "PNG", pnginfo=info, exif=exif(), icc_profile=PLANTED * 20, dpi=(72, 72), **options
    )
    return file.getvalue() + PLANTED


def jpeg(pixels=SMOOTH, orientation=1) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(
        file,
        "JPEG",
        quality=95,
        exif=exif(orientation),
        comment=PLANTED,
        icc_profile=PLANTED * 20,
        xmp=PLANTED,
    )
    photoshop = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">L", 14) + b"\x1c\x02\x50\0\x09" + PLANTED
    content = file.getvalue()
    thumbnail = b"\xff\xed" + struct.pack(">H", len(photoshop) + 2) + photoshop
    return content[:2] + thumbnail + content[2:] + PLANTED


@pytest.mark.parametrize("content", [png(), jpeg()], ids=["png", "jpeg"])
def test_nothing_planted_in_metadata_survives(content) -> None:
    assert content.count(PLANTED) > 4
    image, made = rewritten(content)
    assert PLANTED not in made
    assert [made[at : at + 4] for at in chunks(made)] in (
        [b"IHDR", b"IDAT", b"IEND"],
        [b"IHDR", b"IDAT", b"IDAT", b"IEND"],
    )
    before = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(np.asarray(image), before)
    removed = pictures.read(content).removed
    assert {"EXIF", "ICC profile", "XMP"} <= set(removed)
    assert PLANTED.decode() not in " ".join(removed)


def chunks(content: bytes):
    """Where the names of a PNG's chunks begin."""
    at = 8
    while at < len(content):
        yield at + 4
        at += 12 + struct.unpack(">L", content[at : at + 4])[0]


def test_the_orientation_is_applied() -> None:
    image, _ = rewritten(jpeg(orientation=6))
    assert image.size == SMOOTH.shape
    np.testing.assert_allclose(np.asarray(image), np.rot90(SMOOTH, -1), atol=8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_reads_and_hidden_colors_show(mode) -> None:
    image = Image.fromarray(SMOOTH)
    image = Image.fromarray(SMOOTH.astype(np.uint16) * 300) if mode == "I;16" else image.convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(0)
    file = io.BytesIO()
    image.save(file, "PNG")
    found = pictures.read(file.getvalue())
    assert found.pixels.dtype == (np.uint16 if mode == "I;16" else np.uint8)
    assert found.view(found.pixels).shape == SMOOTH.shape
    if mode in ("L", "LA", "RGBA"):
        np.testing.assert_array_equal(found.view(found.pixels), SMOOTH)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GIF89a" + bytes(40),
        png()[:300],
        jpeg()[:-400],
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0" + bytes(90),
    ],
    ids=["empty", "gif", "cut png", "cut jpeg", "sign alone", "no jpeg"],
)
def test_what_is_no_whole_picture_is_refused(content) -> None:
    with pytest.raises(DataError, match="damaged or truncated") as error:
        pictures.read(content)
    assert error.value.__cause__ is None


def test_bombs_and_several_frames_are_refused() -> None:
    def chunk(name, body):
        return struct.pack(">L", len(body)) + name + body + struct.pack(">L", zlib.crc32(name + body))

    head = struct.pack(">LLBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10**5)))
    with pytest.raises(DataError, match="more than"):
        pictures.read(bomb + chunk(b"IEND", b""))
    head = struct.pack(">LLBBBBB", 9000, 9000, 8, 0, 0, 0, 0)
    with pytest.raises(DataError, match="more than"):
        pictures.read(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IEND", b""))
    frames, file = (
        [Image.fromarray(SMOOTH), Image.fromarray(SMOOTH.T[:30].repeat(2, 0)[:40, :30])],
        io.BytesIO(),
    )
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="several frames"):
        pictures.read(file.getvalue())


def drawn(text="MUELLER, ANNA 1974-03-12", size=16, color=255, ground=None):
    ground = np.full((80, 300), 20, np.uint8) if ground is None else ground
    image = Image.fromarray(ground)
    ImageDraw.Draw(image).text((12, 30), text, fill=color, font=ImageFont.load_default(size))
    return np.asarray(image)


@pytest.mark.parametrize("size", [10, 12, 16, 24, 32])
def test_drawn_text_is_found_and_masked(size) -> None:
    plain = drawn(size=size)
    boxes = pictures.find_text(plain)
    assert boxes
    rest = pictures.blackened(plain, boxes, 0)
    assert (rest > 150).sum() < 0.1 * (plain > 150).sum()
    assert pictures.find_text(255 - plain)
    deep = plain.astype(np.uint16) * 16
    assert pictures.find_text(deep)


def test_colored_text_and_text_on_structure_are_found() -> None:
    color = np.asarray(Image.fromarray(np.full((80, 300), 60, np.uint8)).convert("RGB"))
    for shade in ((0, 255, 0), (255, 255, 0), (255, 80, 80)):
        assert pictures.find_text(drawn(color=shade, ground=color))
    rng = np.random.default_rng(0)
    speckle = ndimage.gaussian_filter(rng.rayleigh(60, (80, 300)), 1).clip(0, 200).astype(np.uint8)
    assert pictures.find_text(drawn(ground=speckle))


def test_images_without_text_are_left_alone() -> None:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[-1:1:160j, -1:1:160j]
    phantom = sum(
        60.0 * ((x / a) ** 2 + ((y - c) / b) ** 2 < 1) for a, b, c in [(0.9, 0.8, 0), (0.2, 0.3, 0.2)]
    )
    grounds = [
        np.zeros((50, 50), np.uint8),
        np.full((50, 50), 9, np.int16),
        (x * 100 + 128).astype(np.uint8),
        (phantom + rng.normal(0, 4, x.shape)).clip(0, 255).astype(np.uint8),
        ndimage.gaussian_filter(rng.normal(0, 1, (160, 160)), 4) * 1000,
        rng.normal(100, 10, (160, 160)).astype(np.int16),
        rng.integers(0, 256, (1, 1)).astype(np.uint8),
    ]
    assert [pictures.find_text(ground) for ground in grounds] == [()] * len(grounds)
