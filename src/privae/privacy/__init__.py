"""Privacy: bounded contributions, their sums, the noise, what it costs, and the ledger it is written in.

The names below serve a model and a loop of one's own (docs/how-to/bring-your-own-model.md). They are imported
when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privae.privacy.accountant import calibrate, epsilon
    from privae.privacy.clipping import Clipping, Quantile
    from privae.privacy.gradients import (
        Summation,
        clipped_gradient_sum,
        refuse_mixing,
        refuse_mixing_in_blocks,
        supported,
        trainable,
    )
    from privae.privacy.guarantee import Guarantee
    from privae.privacy.ledger import Charge, Ledger
    from privae.privacy.mechanism import Event, Mechanism, for_gradients, for_sums
    from privae.privacy.noise import NoiseSource, ahead
    from privae.privacy.sampling import FullBatch, Persons, Poisson, TruncatedPoisson

__all__ = [
    "Charge",
    "Clipping",
    "Event",
    "FullBatch",
    "Guarantee",
    "Ledger",
    "Mechanism",
    "NoiseSource",
    "Persons",
    "Poisson",
    "Quantile",
    "Summation",
    "TruncatedPoisson",
    "ahead",
    "calibrate",
    "clipped_gradient_sum",
    "epsilon",
    "for_gradients",
    "for_sums",
    "refuse_mixing",
    "refuse_mixing_in_blocks",
    "supported",
    "trainable",
]

_HOMES = {
    "accountant": ("calibrate", "epsilon"),
    "clipping": ("Clipping", "Quantile"),
    "gradients": (
        "Summation",
        "clipped_gradient_sum",
        "refuse_mixing",
        "refuse_mixing_in_blocks",
        "supported",
        "trainable",
    ),
    "guarantee": ("Guarantee",),
    "ledger": ("Charge", "Ledger"),
    "mechanism": ("Event", "Mechanism", "for_gradients", "for_sums"),
    "noise": ("NoiseSource", "ahead"),
    "sampling": ("FullBatch", "Persons", "Poisson", "TruncatedPoisson"),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  a module's attribute
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
