"""A server that sees ciphertexts only: what it costs, how exact it is, and whether it finds what the clear model finds.

Parts (--only NAME measures one again, in the place of what results/encrypted.json holds of it):
  single      one record through a 784-128-32 encoder, TenSEAL's `mm` at the same parameters beside it
  batch       a 784x128 layer of a batch, SEAL's multiply_plain at the same parameters beside it
  pipeline    encoder, decoder and score of 8,192 digits by files: milliseconds, errors, the AUC of unseen digits
  linear      the linear model of chest X-rays, the same way
  statistics  the digits fit from ciphertexts beside the clear fit
  aggregation updates of ten sites added as ciphertexts, and their traffic
Every figure is processor time of one thread. TenSEAL is asked for beside privae (requirements-encrypted.txt).
Data: ../shared/data.
"""

from collections.abc import Callable
from typing import Any

import encrypted_aggregation
import encrypted_scoring
import encrypted_statistics
import torch
from harness import SHARED, Report, kept, measured, parser

Part = Callable[[Report, Any], None]
PARTS: tuple[Part, ...] = (
    encrypted_scoring.single,
    encrypted_scoring.batch,
    encrypted_scoring.pipeline,
    encrypted_scoring.linear,
    encrypted_statistics.statistics,
    encrypted_aggregation.aggregation,
)


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--only", metavar="PART", choices=[part.__name__ for part in PARTS])
    chosen = options.parse_args()
    torch.set_num_threads(1)
    report = Report("encrypted", chosen.quick)
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
