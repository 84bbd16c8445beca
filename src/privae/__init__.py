"""privae: variational autoencoders on data that must not leak, with a printed guarantee."""

from privae.data.images import ImageSchema
from privae.data.schema import Schema
from privae.errors import PrivaeError
from privae.plan import Plan
from privae.privacy.guarantee import Guarantee
from privae.privacy.ledger import Ledger
from privae.recipes.gradients import Training
from privae.vae import VAE

__all__ = ["VAE", "Guarantee", "ImageSchema", "Ledger", "Plan", "PrivaeError", "Schema", "Training"]
