"""The plan of a stream: its noise spends epsilon and never more, its filter follows from public numbers."""

import math

import numpy as np
import pytest

from privae.continual.plan import Choices, load, loads, planned
from privae.errors import PrivacyRefused, UsageError
from privae.plan import sampler_delta
from privae.privacy import accountant
from privae.privacy.mechanism import Event

CHOICES = {"bounds": {"a": (0.0, 4.0), "b": (-10.0, 10.0)}, "steps": 365, "epsilon": 1.0, "units": 1000}


def plan_of(protect="step", **choices):
    return planned(**CHOICES | {"protect": protect} | choices)


@pytest.mark.parametrize("protect", ["unit", "step"])
@pytest.mark.parametrize("epsilon", [0.1, 1, 10])
@pytest.mark.parametrize("steps", [1, 30, 3000])
def test_the_noise_spends_epsilon_and_never_more(protect, epsilon, steps):
    plan = plan_of(protect, epsilon=epsilon, steps=steps)
    rest = plan.delta - sampler_delta(plan.epsilon)
    found = accountant.epsilon([plan.event()], rest)
    assert 0.9999 * epsilon < found <= epsilon
    promise = plan.guarantee()
    assert promise.epsilon == found
    assert promise.delta_accountant + promise.delta_sampler == pytest.approx(plan.delta)
    assert promise.epsilon <= promise.epsilon_replace_one


@pytest.mark.parametrize("protect", ["unit", "step"])
@pytest.mark.parametrize("gaps", [True, False])
def test_the_std_is_the_multiplier_times_what_a_unit_moves(protect, gaps):
    plan = plan_of(protect, gaps=gaps)
    stream, d = plan.stream(), 2
    column = np.array(stream.filter) / 256
    moved = math.sqrt(365) if protect == "unit" else np.linalg.norm(column)
    norm = math.sqrt(d * plan.levels**2 + d * gaps * plan.mark**2 + plan.counted**2)
    assert plan.bands == (1 if protect == "unit" else 4)
    assert stream.std == pytest.approx(plan.noise_multiplier * norm * moved, rel=1e-12)


def test_rounding_is_far_below_the_noise():
    for choices in ({}, {"protect": "unit"}, {"epsilon": 10.0}, {"bounds": {"x": (0, 1)}}, {"epsilon": 0.01}):
        plan = plan_of(**choices)
        assert plan.stream().std > 100 * 1e6  # a million units, each rounded by less than one


def test_the_words_say_whom_it_protects():
    assert "one home with all of its days" in plan_of("unit").guarantee().sentence()
    text = str(plan_of("step", who="meter", when="hour").guarantee())
    assert "Adding or removing one hour of one meter" in text
    assert "over several hours" in text


def test_the_filter_is_the_best_for_the_window_and_independent_where_a_unit_is_always_there():
    assert [plan_of(window=window).bands for window in (1, 7, 30, 365)] == [1, 4, 16, 256]
    assert [plan_of("unit", window=window).bands for window in (1, 7, 30, 365)] == [1, 1, 1, 1]
    for window in (7, 30, 365):
        plan = plan_of(window=window)
        assert plan.standard_error(window) < plan.standard_error(window, independent=True)
        assert all(
            plan.standard_error(window) <= plan_of(bands=bands).standard_error(window)
            for bands in (1, 2, 8, 64)
        )


def test_a_replaced_unit_moves_a_step_by_the_ratio():
    for gaps in (True, False):
        plan = plan_of("unit", gaps=gaps)
        apart = 2 * plan.levels * math.sqrt(2)
        assert apart <= plan.replace_ratio * plan.norm <= max(apart, plan.norm) * (1 + 1e-9)
    assert plan_of("step").stream().replace_ratio == 2


def test_a_ledger_of_persons_or_records_is_charged_for_them():
    unit, step = plan_of("unit"), plan_of("step")
    assert unit.event_for("person") == unit.event()
    always = plan_of("unit", bands=4)
    moved = step.stream().sensitivity() / step.levels, always.stream().sensitivity() / always.levels
    expected = step.noise_multiplier * moved[0] / moved[1]
    assert step.event_for("person").noise_multiplier == pytest.approx(expected, rel=1e-6)
    for plan in (unit, step):
        stream = plan.stream()
        one = np.linalg.norm(np.array(stream.filter) / 256) * plan.norm * plan.replace_ratio
        event = plan.event_for("record")
        assert event == Event(event.noise_multiplier)
        assert event.noise_multiplier == pytest.approx(stream.std / one, rel=1e-9)
    with pytest.raises(PrivacyRefused, match="records or of persons"):
        unit.event_for("client")
    assert plan_of(epsilon=math.inf).event_for("record").noise_multiplier == 0


def test_a_plan_survives_its_file_and_choices_alone_give_the_same(tmp_path):
    plan = plan_of(gaps=False)
    (tmp_path / "p.toml").write_text(plan.dumps())
    assert load(tmp_path / "p.toml") == plan
    assert load(tmp_path / "p.toml").hash == plan.hash
    text = 'steps = 365\nepsilon = 1.0\nunits = 1000\nprotect = "step"\ngaps = false\n'
    assert loads(f"{text}[bounds]\na = [0, 4]\nb = [-10, 10]\n") == plan
    assert plan_of(bounds={"b": (-10, 10), "a": (0, 4)}).hash != plan_of().hash
    assert loads(plan_of(epsilon=math.inf).dumps()).noise_multiplier == 0


def test_less_noise_than_epsilon_needs_is_refused():
    plan = plan_of()
    for multiplier in (0.0, plan.noise_multiplier * 0.999):
        forged = plan.model_copy(update={"noise_multiplier": multiplier})
        with pytest.raises(UsageError, match="too small for this epsilon"):
            loads(forged.dumps())
    with pytest.raises(UsageError, match="power of two"):
        loads(plan.model_copy(update={"levels": 1000}).dumps())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"bounds": {}}, "at least one number"),
        ({"bounds": {"": (0, 1)}}, "each has a name"),
        ({"bounds": {"a": (1, 1)}}, "lower one first"),
        ({"bounds": {"a": (0, math.inf)}}, "bounds are finite"),
        ({"bounds": {"a": (0, math.nan)}}, "bounds are finite"),
        ({"steps": 0}, "steps"),
        ({"epsilon": 0}, "epsilon must be greater"),
        ({"epsilon": math.nan}, "epsilon must be greater"),
        ({"delta": 0.0}, "delta must lie"),
        ({"units": 0}, "units must be at least 1"),
        ({"protect": "nobody"}, "protect"),
        ({"bands": 366}, "as many bands"),
        ({"steps": 2**20, "bounds": {f"x{i}": (0, 1) for i in range(2**15)}}, "more noise would be drawn"),
        ({"epsilon": 1e-8, "protect": "unit", "steps": 2**20}, "fits no grid"),
    ],
)
def test_choices_that_cannot_be_meant_are_refused_in_one_line(wrong, said):
    with pytest.raises(UsageError, match=said) as caught:
        plan_of(**wrong)
    assert "\n" not in str(caught.value)


def test_a_broken_file_is_refused():
    with pytest.raises(UsageError, match="not valid TOML"):
        loads("steps = ")
    with pytest.raises(UsageError, match="extra"):
        loads(plan_of().dumps() + "\n[more]\nx = 1")


def test_choices_say_their_size():
    assert Choices(**CHOICES, protect="step").size == 5
    assert Choices(**CHOICES, protect="step", gaps=False).size == 3
