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

import encrypted_aggregation
import encrypted_scoring
import encrypted_statistics
from harness import Part, parser, run

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
    run("encrypted", PARTS, options)


if __name__ == "__main__":
    main()
