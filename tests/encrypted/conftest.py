"""A linear model of small digits and a polynomial network, compiled once, and keys for them."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from privae import VAE
from privae.encrypted import keys, offer
from privae.recipes.gradients import Training


@pytest.fixture(scope="session")
def digits():
    found = load_digits()
    return SimpleNamespace(x=(found.images[:, ::2, ::2] * 15.9).astype(np.uint8), y=found.target % 3)


@pytest.fixture(scope="session")
def linear(digits):
    return VAE(20.0, 1e-5, classes=3, fidelity=False).fit(digits.x[:1500], digits.y[:1500])


@pytest.fixture(scope="session")
def square(digits):
    training = Training(latent=3, hidden=(8,), activation="square", steps=5)
    return VAE(math.inf, rows=1500, recipe="gradients", training=training).fit(digits.x[:1500])


@pytest.fixture(scope="session")
def place(linear):
    """The linear model served with all outputs, with a key, its public file, and those of someone else."""
    served = offer.served(linear.fitted_, linear.identity, ("score", "codes", "reconstruction"))
    ring, public = keys.KeyRing.made(served.offer.parameters, served.offer.steps)
    other, others = keys.KeyRing.made(served.offer.parameters)
    return SimpleNamespace(served=served, ring=ring, public=public, other=other, others=others)
