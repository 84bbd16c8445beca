"""Several sites, one model: is it the central fit's, what can be read off, what does it cost, and does it survive?

Parts (--only NAME measures one again, in the place of what results/federated.json holds of it):
  equality  heart disease at four hospitals, and MNIST with two digits a site: number by number against a central fit
  utility   train on synthetic, test on real, federated and central, at epsilon 1
  digits    the main job's CNN, trained on what five sites of two digits each made, at epsilon 1
  drift     federated averaging with local steps beside it: the ELBO of held-out digits
  evaluation  a released model evaluated by five sites at epsilon 0.5: noisy figures beside exact ones
  leak      records read off a site's message: plain, decoder only, masked, noised
  cost      secure aggregation of 652,824 numbers at ten sites: processor time and traffic
  engine    a masked round of five sites over NVFlare with mTLS on loopback, and Flower's plain round beside it
  kills     places killed at every write, and messages that are late, doubled, reordered or forged
Flower is asked for in an environment of its own (requirements-federated.txt): --flower PYTHON.
Data: ../shared/data; census rows are packaged.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import federated_engine
import federated_evaluation
import federated_fits
import federated_kills
import federated_masks
import torch
from harness import RESULTS, SHARED, Report, parser

from privae.files import code_version

Part = Callable[[Report, Any], None]
PARTS: tuple[Part, ...] = (
    federated_fits.equality,
    federated_fits.utility,
    federated_fits.digits,
    federated_fits.drift,
    federated_evaluation.evaluation,
    federated_masks.leak,
    federated_masks.cost,
    federated_engine.engine,
    federated_kills.kills,
)


def measured(report: Report, part: Part, options: Any) -> None:
    """Run one part; its checks and what it did not measure bear its name, and its time the version of the code."""
    start, known = time.monotonic(), (len(report.checks), len(report.not_measured))
    part(report, options)
    for found, before in zip((report.checks, report.not_measured), known, strict=True):
        for one in found[before:]:
            one["part"] = part.__name__
    seconds = time.monotonic() - start
    report.row(part="seconds", of=part.__name__, seconds=seconds, privae=code_version())


def kept(report: Report, again: str) -> None:
    """Put what was measured of one part in the place of what the results hold of it."""
    path = RESULTS / f"federated{'.quick' if report.quick else ''}.json"
    before = json.loads(path.read_text(encoding="utf-8"))
    for name in ("rows", "checks", "not_measured"):
        old = [one for one in before[name] if again not in (one["part"], one.get("of"))]
        getattr(report, name)[:] = [*old, *getattr(report, name)]
    report.started = time.time() - sum(row["seconds"] for row in report.rows if row["part"] == "seconds")
    report.write()


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--only", metavar="PART", choices=[part.__name__ for part in PARTS])
    options.add_argument("--flower", type=Path, default=os.environ.get("FEDERATED_FLOWER_PYTHON"))
    chosen = options.parse_args()
    torch.set_num_threads(1)
    report = Report("federated", chosen.quick)
    if not SHARED.is_dir():
        raise SystemExit("the data folder ../shared/data is not here")
    for part in PARTS:
        if chosen.only in (None, part.__name__):
            measured(report, part, chosen)
    if chosen.only:
        kept(report, chosen.only)
    else:
        report.write()


if __name__ == "__main__":
    main()
