import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from privae.data.column import Column
from privae.data.images import ImageSchema
from privae.data.ratings import RatingSchema
from privae.data.schema import Schema
from privae.errors import DataError, PrivacyRefused, UsageError
from privae.models.likelihoods import Gaussian
from privae.privacy.noise import NoiseSource
from privae.recipes.gradients import Training
from privae.recipes.modality import (
    ImageRecipe,
    RatingRecipe,
    TableRecipe,
    from_members,
    needs_network,
    recipe_of,
    to_members,
)
from privae.recipes.phases import Budget, Run, plan_of
from privae.training.watch import Silent

pytestmark = pytest.mark.usefixtures("tiny")
SMALL = Training(latent=2, hidden=(4,), steps=2, batch=30)
SQUARE = replace(SMALL, activation="square")
BUDGET = Budget(5.0, 1e-6, 30)


def fitted(recipe, *data, budget=BUDGET):
    plan = plan_of(recipe.draft(budget), budget, recipe.schema.hash, "source")
    return recipe.fit(Run(plan, lambda *_: None, NoiseSource(bytes(32)), Silent()), *data)


CLOSED = Budget(5.0, 1e-6, None, fidelity=False)


@pytest.mark.parametrize("by_gradients", [False, True])
def test_a_fitted_table_speaks_frames(facts, people, by_gradients):
    made = fitted(TableRecipe(facts, by_gradients, SMALL), people(2000))
    sample = made.sample(70, 0)
    assert list(sample) == ["age", "job", "height", "ill"]
    assert len(sample) == 70
    assert made.score(people(7)).shape == (7,)
    assert made.embed(people(7)).shape == (7, 2)
    assert np.isfinite(made.score(people(7))).all()
    without = people(7).drop(columns="ill")
    assert made.embed(without) == pytest.approx(made.embed(people(7)))
    assert made.sampled_scores(50, without).shape == (50,)
    assert made.score(people(0)).shape == (0,)
    assert set(made.parts(people(7))) == {"reconstruction", "kl", "norm", "distance"}
    assert all(part.shape == (7,) and np.isfinite(part).all() for part in made.parts(people(7)).values())
    assert made.parts(people(7))["norm"].dtype == np.float64
    assert len(made.sample(0, 0)) == 0


@pytest.mark.parametrize(
    ("by_gradients", "classes"), [(False, ("0", "1")), (False, None), (True, ("0", "1"))]
)
def test_fitted_images_speak_arrays(pictures, by_gradients, classes):
    schema = ImageSchema(height=4, width=4, classes=classes)
    made = fitted(
        ImageRecipe(schema, by_gradients, SMALL), *pictures(2000), budget=BUDGET if by_gradients else CLOSED
    )
    x, y = made.sample(20, 0)
    assert (x.shape, x.dtype) == ((20, 4, 4), np.uint8)
    assert y is None if classes is None else set(y) <= {"0", "1"}
    assert made.score(x).shape == made.sampled_scores(20, x).shape == (20,)
    assert made.embed(x).shape[0] == 20
    assert "distance" in made.parts(x)
    assert all(part.shape == (20,) and np.isfinite(part).all() for part in made.parts(x).values())
    assert made.sample(0, 0)[0].shape == (0, 4, 4)
    for wrong in (x[:, :3], x.astype(float), x[0]):
        with pytest.raises(UsageError, match=r"uint8 \[n, 4, 4\]"):
            made.score(wrong)
        with pytest.raises(UsageError, match=r"uint8 \[n, 4, 4\]"):
            made.parts(wrong)


def test_what_cannot_be_fitted_is_refused_by_the_plan(facts):
    one = Schema(columns=(facts.columns[0],))
    person = facts.model_copy(update={"person": "who"})
    job = facts.columns[1].model_copy(update={"categories": "bought"})
    bought = facts.model_copy(update={"columns": (job, *facts.columns[2:])})
    undeclared = facts.model_copy(update={"columns": (*facts.columns, Column(name="x", kind="numeric"))})
    for recipe, error in (
        (TableRecipe(one), UsageError),
        (TableRecipe(person), PrivacyRefused),
        (TableRecipe(bought, True), UsageError),
        (TableRecipe(undeclared), UsageError),
        (ImageRecipe(ImageSchema(height=4, width=4, classes="bought"), True), UsageError),
        (ImageRecipe(ImageSchema(height=0, width=4)), UsageError),
        (ImageRecipe(ImageSchema(height=4, width=4, classes=("a", "a"))), UsageError),
    ):
        with pytest.raises(error):
            recipe.draft(BUDGET)


@pytest.mark.parametrize("form", ["convolution", "recurrent"])
def test_networks_of_windows_are_for_series(facts, form):
    training = Training(network=form)
    for recipe in (
        TableRecipe(facts, training=training),
        TableRecipe(facts, True, training),
        ImageRecipe(ImageSchema(height=4, width=4), training=training),
        ImageRecipe(ImageSchema(height=4, width=4), True, training),
        RatingRecipe(RatingSchema(person="who", item="what", items=("a", "b")), True, training),
    ):
        with pytest.raises(UsageError, match="networks are for series"):
            recipe.draft(BUDGET)


def test_what_does_not_fit_the_schema_is_refused_before_the_charge(pictures):
    x, y = pictures(10)
    recipe = ImageRecipe(ImageSchema(height=4, width=4, classes=("0", "1")))
    recipe.check(x, y, False)
    for data, labels in ((x, None), (x, y[:9]), (x[:, :3], y), (x[0], y)):
        with pytest.raises(UsageError):
            recipe.check(data, labels, False)


def test_strict_refuses_before_the_charge_where_the_categories_are_known(facts, people):
    TableRecipe(facts).check(people(20), None, True)
    TableRecipe(facts).check(people(20).assign(age=1000), None, False)
    with pytest.raises(DataError, match="column 'age'"):
        TableRecipe(facts).check(people(20).assign(age=1000), None, True)


def test_bought_labels_are_a_phase_and_become_the_classes(pictures):
    x, y = pictures(3000)
    recipe = ImageRecipe(ImageSchema(height=4, width=4, classes="bought"))
    assert [p.name for p in recipe.draft(CLOSED).phases] == ["categories", "norms", "axes", "class prior"]
    assert sum(p.share for p in recipe.draft(CLOSED).phases) == pytest.approx(1)
    labels = np.where(np.arange(3000) == 7, "held by one", np.where(y, "right", "left")).astype(object)
    made = fitted(recipe, x, labels, budget=CLOSED)
    assert made.schema.classes == ("left", "right")
    with pytest.raises(DataError, match="no label passed"):
        fitted(recipe, x, np.arange(3000), budget=CLOSED)


def test_strict_names_the_column_and_nothing_else(facts, people):
    strict = Budget(5.0, 1e-6, None, strict=True)
    assert fitted(TableRecipe(facts), people(2000).assign(job="nurse"), budget=strict)
    with pytest.raises(DataError, match="column 'age'"):
        fitted(TableRecipe(facts), people(2000).assign(age=1000), budget=strict)


def test_a_network_of_ones_own_is_copied_and_never_trained_in_place(facts, people):
    """Else weights fitted without privacy would be the public start of the next, private fit."""
    from privae.recipes.gradients import default_network

    own = default_network(13, 1, SMALL)
    before = {name: value.clone() for name, value in own.state_dict().items()}
    recipe = TableRecipe(facts, True, SMALL, own)
    made = fitted(recipe, people(300))
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    trained = made.model.network.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in trained.items())


def models(facts, people, pictures):
    schema = ImageSchema(height=4, width=4, classes=("0", "1"))
    yield fitted(TableRecipe(facts), people(2000)), people(5)
    yield fitted(TableRecipe(facts, True, SMALL), people(300)), people(5)
    yield fitted(ImageRecipe(schema), *pictures(2000), budget=CLOSED), pictures(5)[0]
    yield fitted(ImageRecipe(schema, True, SMALL), *pictures(300)), pictures(5)[0]
    yield fitted(TableRecipe(facts, training=SQUARE), people(2000)), people(5)
    yield fitted(TableRecipe(facts, True, SQUARE), people(300)), people(5)
    yield fitted(ImageRecipe(schema, True, SQUARE), *pictures(300)), pictures(5)[0]


def test_every_model_comes_back_from_its_members(facts, people, pictures):
    for made, data in models(facts, people, pictures):
        members, state = to_members(made)
        assert not needs_network(members)
        again = from_members(members, {name: value.clone() for name, value in state.items()})
        assert again.schema == made.schema
        assert (again.score(data) == made.score(data)).all()
        assert (again.embed(data) == made.embed(data)).all()
        one, other = made.sample(9, 3), again.sample(9, 3)
        if isinstance(one, pd.DataFrame):
            pd.testing.assert_frame_equal(one, other)
        else:
            assert (one[0] == other[0]).all()


def test_a_network_of_ones_own_is_not_in_the_file():
    stored = {"model": "LatentModel", "config": {"network": None}}
    assert needs_network({"model.json": json.dumps(stored).encode()})


@pytest.mark.parametrize(("by_gradients", "fidelity"), [(False, None), (False, True), (True, None)])
@pytest.mark.parametrize("share", ["all", "decoder"])
def test_every_fit_of_a_table_can_keep_its_network_a_polynomial(facts, people, by_gradients, fidelity, share):
    """Its likelihood stays that of columns: logits are finished by whoever decrypts them."""
    if by_gradients and share == "decoder":
        pytest.skip("refused in any case")
    recipe = TableRecipe(facts, by_gradients, replace(SQUARE, share=share))
    budget = replace(BUDGET, fidelity=fidelity)
    plan = plan_of(recipe.draft(budget), budget, recipe.schema.hash, "source")
    assert plan.settings["activation"] == "square"
    assert recipe_of(facts, plan).training.activation == "square"
    model = fitted(recipe, people(2000), budget=budget).model
    assert model.network.config.activation == "square"
    assert not any(layer.training for layer in model.network.modules())


def test_images_that_are_encoded_linearly_take_no_activation():
    recipe = ImageRecipe(ImageSchema(height=4, width=4), training=SQUARE)
    with pytest.raises(UsageError, match='activations are for recipe="gradients"'):
        recipe.draft(CLOSED)


def test_polynomial_images_are_clamped_pixels(pictures):
    made = fitted(ImageRecipe(ImageSchema(height=4, width=4), True, SQUARE), pictures(300)[0])
    assert isinstance(made.model.likelihood, Gaussian)
    with torch.no_grad():
        made.model.network.decoder.logits.bias.copy_(torch.linspace(-9, 9, 16))
    x, _ = made.sample(20, 0)
    assert (x.dtype, x[:, 0, 0].max(), x[:, 3, 3].min()) == (np.uint8, 0, 255)
