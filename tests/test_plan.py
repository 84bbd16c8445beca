import math

import pytest

from privae.errors import PrivacyRefused, UsageError
from privae.plan import MICRO_BATCH, MOST_NUMBERS, Phase, Plan, calibrated, check_budget, sampler_delta
from privae.privacy import accountant
from privae.privacy.gradients import slack
from privae.privacy.noise import NoiseSource

STATISTICS = Phase(name="a", share=0.25, sensitivity=3.0, replace_ratio=1.4, noise_multiplier=2.0, size=7)
GRADIENTS = Phase(
    name="g", kind="gradients", share=0.75, sensitivity=0.5, replace_ratio=2.0, noise_multiplier=1.5, steps=9,
    sampling_rate=0.1, size=100,
)  # fmt: skip


def made(**changes):
    fields = {
        "recipe": "table",
        "epsilon": 1.0,
        "delta": 1e-5,
        "phases": (STATISTICS,),
        "schema_hash": "s",
        "rows_needed": 10,
        "seconds": 1.5,
        "megabytes": 2.0,
        "code_version": "0",
        "settings": {"split": True, "size": 3, "rate": 0.5, "name": "x"},
        "notes": ("one", "two"),
    }
    return Plan(**{**fields, **changes})


@pytest.mark.parametrize("epsilon", [1.0, 0.1 + 0.2, math.inf])
@pytest.mark.parametrize("rows", [None, 20_000])
def test_a_plan_survives_toml_to_the_last_bit(epsilon, rows, tmp_path):
    plan = made(epsilon=epsilon, rows=rows, phases=(STATISTICS, GRADIENTS))
    assert Plan.loads(plan.dumps()) == plan
    plan.save(tmp_path / "plan.toml")
    assert Plan.load(tmp_path / "plan.toml").hash == plan.hash


def test_every_choice_is_in_the_hash():
    plan = made()
    changes = {
        "epsilon": 2.0, "delta": 1e-6, "rows": 5, "strict": True, "phases": (GRADIENTS,), "settings": {},
        "schema_hash": "t", "delta_threshold": 1e-9, "notes": (), "code_version": "1", "recipe": "image",
    }  # fmt: skip
    hashes = {made(**{name: value}).hash for name, value in changes.items()}
    assert len(hashes | {plan.hash}) == len(changes) + 1
    assert made().hash == plan.hash
    assert made(epsilon=math.inf).hash != plan.hash


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("epsilon = 1.0", "epsilon = -1.0"),
        ("epsilon = 1.0", "epsilon = nan"),
        ("delta = 1e-05", "delta = 1.0"),
        ("delta = 1e-05", ""),
        ("sensitivity = 3.0", "sensitivity = 0.0"),
        ("replace_ratio = 1.4", "replace_ratio = 2.5"),
        ("noise_multiplier = 2.0", "noise_multiplier = -2.0"),
        ("noise_multiplier = 2.0", "noise_multiplier = inf"),
        ("steps = 1", "steps = 0"),
        ("recipe", "surprise"),
        ('kind = "statistics"', 'kind = "other"'),
        ("[[phases]]", "[[phases"),
    ],
)
def test_a_broken_plan_is_refused_in_one_line(old, new):
    text = made().dumps()
    assert old in text
    with pytest.raises(UsageError) as caught:
        Plan.loads(text.replace(old, new, 1)).guarantee()
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_plan_is_refused(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "absent", tmp_path / "binary", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            Plan.load(path)


@pytest.mark.parametrize(
    ("epsilon", "delta", "rows"),
    [(0.0, 1e-6, None), (-1, 1e-6, None), (math.nan, 1e-6, None), (1, 0.0, None), (1, 1.0, None), (1, math.nan, None),
     (1, 1e-6, 0), (50.0, 1e-6, None), (1.0, 1e-17, None)],
)  # fmt: skip
def test_a_budget_that_cannot_be_meant_is_refused(epsilon, delta, rows):
    with pytest.raises(UsageError):
        check_budget(epsilon, delta, rows)


def test_ordinary_budgets_pass():
    for epsilon in (0.01, 1, 10.0, math.inf):
        check_budget(epsilon, 1e-6, 1)


def test_the_samplers_share_is_that_of_rule_5():
    assert sampler_delta(1.0) == pytest.approx((1 + math.e) * MOST_NUMBERS * NoiseSource.TV_PER_NUMBER)
    assert sampler_delta(math.inf) == 0
    assert made().delta_sampler == sampler_delta(1.0)


def test_the_mechanism_of_a_phase():
    mechanism = STATISTICS.mechanism()
    assert (mechanism.sensitivity(), mechanism.grid, mechanism.noise_multiplier) == (3.0, 1.0, 2.0)
    trained = GRADIENTS.mechanism()
    worst = max(slack("proved", block) for block in MICRO_BATCH)
    assert trained.slack == worst
    assert trained.sensitivity() >= 0.5 * (1 + worst) + trained.grid * 10
    assert trained.event(9, 0.1) == GRADIENTS.event()
    free = GRADIENTS.model_copy(update={"noise_multiplier": 0.0}).mechanism()
    assert math.isinf(free.clip_norm)


def test_gradients_take_what_the_statistics_leave():
    phases = calibrated([STATISTICS, GRADIENTS], 2.0, 1e-5)
    mu = accountant.gaussian_mu(2.0, 1e-5)
    assert phases[0].noise_multiplier == pytest.approx(1 / (mu * 0.5))
    assert 1.97 < accountant.epsilon([p.event() for p in phases], 1e-5) <= 2.0


def test_without_privacy_no_phase_has_noise():
    assert [p.noise_multiplier for p in calibrated([STATISTICS, GRADIENTS], math.inf, 1e-5)] == [0.0, 0.0]


def test_shares_that_leave_nothing_are_refused():
    greedy = STATISTICS.model_copy(update={"share": 1.0})
    with pytest.raises(PrivacyRefused):
        calibrated([greedy, greedy.model_copy(update={"name": "b"}), GRADIENTS], 1.0, 1e-5)


def test_the_fine_print_names_what_is_not_covered():
    plain = "".join(made().guarantee().not_covered)
    assert "strict" not in plain
    assert "float32" not in plain
    assert "strict" in "".join(made(strict=True).guarantee().not_covered)
    loose = GRADIENTS.model_copy(update={"precision": "float32", "sampling_rate": 1.0})
    assert "float32" in "".join(made(phases=(loose,)).guarantee().not_covered)


def test_the_promise_of_a_plan_without_noise_is_none():
    plan = made(epsilon=math.inf, phases=(STATISTICS.model_copy(update={"noise_multiplier": 0.0}),))
    assert not plan.guarantee().holds
    assert "NOT PRIVATE" in str(plan.guarantee())


def test_phases_are_found_by_name():
    plan = made(phases=(STATISTICS, GRADIENTS))
    assert plan.phase("g") == GRADIENTS
    assert plan.phase("h") is None
    assert plan.events == (STATISTICS.event(), GRADIENTS.event())
