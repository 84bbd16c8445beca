from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from privae import VAE
from privae.data.images import ImageSchema
from privae.data.schema import Schema
from privae.federated.study import Terms
from privae.recipes.gradients import Training

NAMES = ("ares", "bion", "ceto", "doris", "eris")


@pytest.fixture(autouse=True)
def _one_thread():
    """Several places in one process: their threads are enough."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """A function of (n, seed): images of three classes, and their labels."""

    def made(count: int, seed: int = 0):
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 3, count)
        x = rng.integers(0, 60, (count, 6, 6)) + (60 * y)[:, None, None]
        return x.astype(np.uint8), y.astype(str).astype(object)

    return made


@pytest.fixture
def room(tmp_path: Path, facts: Schema) -> Callable[..., Terms]:
    """Writes plan, schema and study into a folder, and returns the study's terms."""

    def make(epsilon: float = 5.0, images: bool = False, training: Training | None = None, **study) -> Terms:
        schema: Schema | ImageSchema = facts
        if images:
            schema = ImageSchema.with_class_count(6, 6, 3)
            (tmp_path / "schema").write_text("height = 6\nwidth = 6\nclasses = 3\n")
        else:
            (tmp_path / "schema").write_text(facts.dumps())
        fidelity = training is not None or None
        model = VAE(epsilon, 1e-5, rows=600, schema=schema, classes=3 if images else None)
        model.set_params(training=training, fidelity=False if images and training is None else fidelity)
        model.plan().save(tmp_path / "plan.toml")
        count = study.pop("count", 4)
        chosen = {"min_sites": 2, "colluders": 0, **study}
        lines = [f"{k} = {str(v).lower() if isinstance(v, bool) else repr(v)}" for k, v in chosen.items()]
        roster = [f'{name} = ""' for name in NAMES[:count]]
        text = ['name = "t"', 'plan = "plan.toml"', 'schema = "schema"', *lines, "[sites]", *roster]
        (tmp_path / "study.toml").write_text("\n".join(text).replace("'", '"'))
        return Terms.load(tmp_path / "study.toml")

    return make


@pytest.fixture
def agreed(tmp_path: Path) -> Callable[..., Terms]:
    """Writes the plan of a VAE of a table and its schema into a folder; the terms of sites of one letter each."""

    def make(vae: VAE, sites: str, **study) -> Terms:
        vae.plan().save(tmp_path / "plan.toml")
        facts = vae.schema
        form = (
            f"height = {facts.height}\nwidth = {facts.width}"
            if isinstance(facts, ImageSchema)
            else facts.dumps()
        )
        (tmp_path / "schema").write_text(form)
        fields = {"name": "t", "plan": "plan.toml", "schema": "schema", "colluders": 0, "min_sites": 2}
        terms = Terms.model_validate({**fields, "sites": dict.fromkeys(sites, ""), **study})
        return terms.model_copy(update={"folder": tmp_path})

    return make
