"""Several sites, one model: is it the central fit's, what can be read off, what does it cost, and does it survive?

Parts (--only NAME measures one again, in the place of what results/federated.json holds of it):
  equality  heart disease at four hospitals, and MNIST with two digits a site: number by number against a central fit
  utility   train on synthetic, test on real, federated and central, at epsilon 1
  digits    the main job's CNN, trained on what five sites of two digits each made, at epsilon 1
  drift     federated averaging with local steps beside it: the ELBO of held-out digits
  evaluation  a released model evaluated by five sites at epsilon 0.5: noisy figures beside exact ones
  leak      records read off a site's message: plain, decoder only, masked, encrypted, noised
  cost      secure aggregation of 652,824 numbers at ten sites: processor time and traffic
  engine    a masked round of five sites over NVFlare with mTLS on loopback, and Flower's plain round beside it
  kills     places killed at every write, and messages that are late, doubled, reordered or forged
Flower is asked for in an environment of its own (requirements-federated.txt): --flower PYTHON.
Data: ../shared/data; census rows are packaged.
"""

import os
from pathlib import Path

import federated_engine
import federated_evaluation
import federated_fits
import federated_kills
import federated_masks
from harness import Part, parser, run

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


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    options.add_argument("--flower", type=Path, default=os.environ.get("FEDERATED_FLOWER_PYTHON"))
    run("federated", PARTS, options)


if __name__ == "__main__":
    main()
