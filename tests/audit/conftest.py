"""A fitted VAE as an audit sees it."""

import pytest


@pytest.fixture(scope="session")
def own_of():
    """A function of a fitted VAE: the model, its plan and recipe, and how to fit the same again."""
    from privae.audit.case import Own

    return lambda vae: Own(vae.fitted_, vae.plan_, vae._recipe(vae.fitted_.schema, vae.plan_), vae._again)
