"""privae: variational autoencoders on data that must not leak, with a printed guarantee.

The names below are imported when they are first used, so that `privae --help` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privae.data.images import ImageSchema
    from privae.data.ratings import RatingSchema
    from privae.data.schema import Schema
    from privae.errors import PrivaeError
    from privae.plan import Plan
    from privae.privacy.guarantee import Guarantee
    from privae.privacy.ledger import Ledger
    from privae.recipes.gradients import Training
    from privae.series.schema import SeriesSchema
    from privae.vae import VAE

__all__ = [
    "VAE",
    "Guarantee",
    "ImageSchema",
    "Ledger",
    "Plan",
    "PrivaeError",
    "RatingSchema",
    "Schema",
    "SeriesSchema",
    "Training",
]

_HOMES = {
    "VAE": "privae.vae",
    "Guarantee": "privae.privacy.guarantee",
    "ImageSchema": "privae.data.images",
    "Ledger": "privae.privacy.ledger",
    "Plan": "privae.plan",
    "PrivaeError": "privae.errors",
    "RatingSchema": "privae.data.ratings",
    "Schema": "privae.data.schema",
    "SeriesSchema": "privae.series.schema",
    "Training": "privae.recipes.gradients",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  a module's attribute
    if name not in _HOMES:
        raise AttributeError(f"module 'privae' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
