"""Law: a plan never costs more than was asked for, and its delta is the sum of its stated parts."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae import VAE, ImageSchema, Training
from privae.errors import PrivacyRefused, UsageError
from privae.privacy import accountant
from privae.privacy.noise import NoiseSource
from privae.training.books import Books, Places

epsilons, deltas = st.floats(0.01, 10.0), st.floats(1e-8, 1e-3)


def obeys(plan, epsilon, delta):
    guarantee = plan.guarantee()
    assert guarantee.epsilon <= epsilon
    assert guarantee.epsilon >= 0.98 * epsilon  # and hardly less: what was asked for is used
    assert guarantee.delta == delta
    parts = (guarantee.delta_accountant, guarantee.delta_threshold, guarantee.delta_sampler)
    assert math.fsum(parts) == pytest.approx(delta, rel=1e-12)
    assert all(part >= 0 for part in parts)
    assert guarantee.delta_sampler >= (1 + math.exp(epsilon)) * 2.0**-64
    assert guarantee.epsilon_replace_one >= guarantee.epsilon
    assert accountant.epsilon(plan.events, guarantee.delta_accountant) <= epsilon
    books = Books(plan, NoiseSource(bytes(32)), Places())
    books.charge(plan.phases[0].name, plan.phases[0].event())
    added = books.own.entries[0].event["added_delta"]
    assert added == pytest.approx(guarantee.delta_threshold + guarantee.delta_sampler)


@settings(max_examples=30, deadline=None)
@given(epsilon=epsilons, delta=deltas, purchases=st.integers(0, 2), rows=st.none() | st.integers(1, 10**9))
def test_plans_of_tables(facts, epsilon, delta, purchases, rows):
    schema = facts
    if purchases:
        job = facts.columns[1].model_copy(update={"categories": "bought"})
        rest = facts.columns[0] if purchases == 1 else facts.columns[0].model_copy(update={"action": "drop"})
        schema = facts.model_copy(update={"columns": (rest, job, *facts.columns[2:])})
    obeys(VAE(epsilon, delta, rows).plan(schema), epsilon, delta)


@settings(max_examples=30, deadline=None)
@given(
    epsilon=epsilons,
    delta=deltas,
    classes=st.none() | st.just("bought") | st.integers(1, 30),
    side=st.integers(1, 40),
)
def test_plans_of_images_in_closed_form(epsilon, delta, classes, side):
    if isinstance(classes, int):
        schema = ImageSchema.with_class_count(side, side, classes)
    else:
        schema = ImageSchema(height=side, width=side, classes=classes)
    obeys(VAE(epsilon, delta, fidelity=False).plan(schema), epsilon, delta)


@pytest.mark.parametrize(
    ("epsilon", "delta", "options"),
    [
        (2.0, 1e-6, {"rows": 2000, "recipe": "gradients", "training": Training(steps=40, batch=100)}),
        (8.0, 1e-6, {"rows": 50, "recipe": "gradients", "training": Training(steps=3, batch=50)}),
    ],
)
def test_plans_with_gradients(facts, epsilon, delta, options):
    obeys(VAE(epsilon, delta, **options).plan(facts), epsilon, delta)


def test_plans_of_statistics_and_gradients():
    plan = VAE(3.0, 1e-5, rows=3000, classes=2).plan(ImageSchema.with_class_count(4, 4, 2))
    assert [phase.kind for phase in plan.phases] == ["statistics"] * 3 + ["gradients"]
    obeys(plan, 3.0, 1e-5)


def test_replacing_a_record_that_alone_holds_texts_counts_two_of_them(facts):
    job = facts.columns[1].model_copy(update={"categories": "bought"})
    plan = VAE(1.0).plan(facts.model_copy(update={"columns": (facts.columns[0], job, *facts.columns[2:])}))
    guarantee = plan.guarantee()
    alone = accountant.epsilon(plan.events, guarantee.delta_accountant, "replace_one")
    assert guarantee.epsilon_replace_one > alone


def test_an_edited_plan_is_refused(facts, people):
    vae = VAE(1.0)
    plan = vae.plan(facts)
    phase = plan.phases[0]
    for change in (
        {"noise_multiplier": phase.noise_multiplier * 0.999},
        {"noise_multiplier": 0.0},
        {"sensitivity": phase.sensitivity / 2},
        {"replace_ratio": 1.0},
        {"size": 1},
        {"name": "other"},
    ):
        edited = plan.model_copy(update={"phases": (phase.model_copy(update=change),)})
        with pytest.raises((PrivacyRefused, UsageError)):
            vae.fit(people(50), schema=facts, plan=edited)
    for phases in ((), (phase, phase)):
        with pytest.raises((PrivacyRefused, UsageError)):
            vae.fit(people(50), schema=facts, plan=plan.model_copy(update={"phases": phases}))
