"""Law: one record moves the counts of an evaluation by one in one cell, whatever is beside it and the model is.

A score in a batch differs in its last bits from the score of the record alone, so edges are put right onto scores.
"""

import numpy as np
import pytest
import torch

from privae import VAE
from privae.evaluate import released
from privae.evaluate.released import Evaluation
from privae.privacy.noise import NoiseSource
from privae.recipes.gradients import Training
from privae.recipes.phases import Run
from privae.training.watch import Silent

INF = float("inf")
SMALL = Training(latent=2, hidden=(8,), steps=3)


@pytest.fixture(scope="module")
def models(tiny, facts, people, pictures, tmp_path_factory):
    """Each kind of model, as a file, and records for it."""
    folder = tmp_path_factory.mktemp("models")
    x, y = pictures(60)
    frame = people(60)
    made = {
        "table": (VAE(INF, 1e-5, 60, schema=facts), frame, None),
        "table by gradients": (VAE(INF, 1e-5, 60, "gradients", facts, training=SMALL), frame, None),
        "images": (VAE(INF, 1e-5, 60, classes=2, fidelity=False), x, y),
        "images by gradients": (VAE(INF, 1e-5, 60, "gradients", classes=2, training=SMALL), x, y),
    }
    for name, (model, records, labels) in made.items():
        model.fit(records, labels).save(folder / name)
    return {name: (folder / name, records, labels) for name, (_, records, labels) in made.items()}


@pytest.mark.parametrize("kind", ["table", "table by gradients", "images", "images by gradients"])
def test_without_a_record_one_count_is_one_less(models, kind) -> None:
    path, records, labels = models[kind]
    fitted = released.load_members(path.read_bytes(), kind)
    plan = released.planned(path, INF, 1e-5, 60)
    _, scores = released._scores(fitted, records, labels)
    ascending = np.sort(np.fromiter(scores, float))

    def counts(rows):
        class Edged(Run):
            def agreed(self, name, make):
                told = make()
                if name != "edges":
                    return told
                # every edge is the score of a record, which an error in the last bit would carry across
                edges = np.sort(np.resize(ascending, len(told["edges"])))
                told["edges"].copy_(torch.from_numpy(edges))
                return told

        run = Edged(plan, lambda phase, event: None, NoiseSource(), Silent())
        x = records.iloc[rows] if labels is None else records[rows]
        y = None if labels is None else labels[rows]
        return Evaluation.of(fitted.schema, plan, path.read_bytes()).fit(run, x, y).counts

    everyone = np.arange(60)
    whole = counts(everyone)
    assert whole.sum() == 60
    for gone in range(0, 60, 7):
        moved = whole - counts(np.delete(everyone, gone))
        assert moved.sum() == 1
        assert np.count_nonzero(moved) == 1
    np.testing.assert_array_equal(whole, counts(everyone[::-1]))
