"""How often text that is drawn into images is found, and how often images without any are flagged.

`python benchmarks/burned_in.py` prints both, and writes benchmarks/results/burned_in.json. Grounds are made here, with
a fixed seed; text is drawn in Pillow's own font. They are no scans: the figures compare sizes and grounds, no more.
"""

import argparse
from collections.abc import Callable

import numpy as np
from harness import Report
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from privae.imaging.pictures import find_text

SIZES = (8, 10, 12, 16, 24, 32)
TEXTS = ("MUELLER, ANNA", "ID 48213-77", "1974-03-12", "St. Mary Hospital 14:22", "Smith^John", "4711 0815")
SIDE = 256
WHY = "noise of every brightness holds as many short, sharp strokes as text does"
Pixels = NDArray[np.uint8]


def scaled(values: NDArray[np.float64], top: float) -> Pixels:
    return ((values - values.min()) / max(np.ptp(values), 1e-9) * top).astype(np.uint8)


def phantom(rng: np.random.Generator) -> Pixels:
    """Ellipses of different brightness, blurred, with some noise."""
    y, x = np.mgrid[-0.5 : 0.5 : SIDE * 1j, -0.5 : 0.5 : SIDE * 1j]
    made = np.zeros((SIDE, SIDE))
    for _ in range(8):
        (cx, cy), (a, b), turn = rng.uniform(-0.3, 0.3, 2), rng.uniform(0.03, 0.4, 2), rng.uniform(0, 3)
        u = (x - cx) * np.cos(turn) + (y - cy) * np.sin(turn)
        v = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        made += rng.uniform(-0.3, 1) * ((u / a) ** 2 + (v / b) ** 2 < 1)
    made = ndimage.gaussian_filter(made.clip(0), rng.uniform(0, 2))
    return scaled(
        (made / max(made.max(), 1e-9) + rng.normal(0, rng.uniform(0, 0.05), made.shape)).clip(0), 200
    )


GROUNDS: dict[str, Callable[[np.random.Generator], Pixels]] = {
    "black": lambda _: np.zeros((SIDE, SIDE), np.uint8),
    "phantom": phantom,
    "speckle": lambda rng: scaled(
        ndimage.gaussian_filter(rng.rayleigh(1, (SIDE, SIDE)), rng.uniform(0.5, 2)), 220
    ),
    "clouds": lambda rng: scaled(
        ndimage.gaussian_filter(rng.normal(0, 1, (SIDE, SIDE)), rng.uniform(2, 20)), 255
    ),
    "normal noise": lambda rng: (
        rng.normal(100, rng.uniform(5, 60), (SIDE, SIDE)).clip(0, 255).astype(np.uint8)
    ),
    "uniform noise": lambda rng: rng.integers(0, 256, (SIDE, SIDE)).astype(np.uint8),
}


def with_text(ground: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    image = Image.fromarray(ground)
    at = int(rng.integers(3, 20)), int(rng.integers(3, SIDE - 2 * size))
    ImageDraw.Draw(image).text(at, str(rng.choice(TEXTS)), fill=255, font=ImageFont.load_default(size))
    return np.asarray(image)


def measured(count: int) -> dict[str, dict[str, float]]:
    """By ground: the share of images without text that are flagged, and that with text of each size."""
    rng = np.random.default_rng(0)
    found = {}
    for name, ground in GROUNDS.items():
        row = {"none": float(np.mean([bool(find_text(ground(rng))) for _ in range(count)]))}
        for size in SIZES:
            row[str(size)] = float(
                np.mean([bool(find_text(with_text(ground(rng), size, rng))) for _ in range(count)])
            )
        found[name] = row
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=20, help="images of each kind")
    parser.add_argument("--quick", action="store_true", help="two images of each kind")
    options = parser.parse_args()
    report = Report("burned_in", options.quick)
    found = measured(2 if options.quick else options.count)
    for name, row in found.items():
        report.row(ground=name, images=options.count, side=SIDE, **{f"size {k}": v for k, v in row.items()})
    large = [(row[str(size)], name) for name, row in found.items() for size in SIZES if size >= 12]
    report.check(
        "share found of text of 12 pixels and more, least of all grounds", min(large)[0], 0.9, "at_least"
    )
    without = max(row["none"] for row in found.values())
    report.check("share flagged without text, most of all grounds", without, 0.05, "at_most")
    for check in report.checks:
        if not check["met"]:
            check["reason"] = WHY
    report.write()


if __name__ == "__main__":
    main()
