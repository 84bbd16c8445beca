import contextlib
import math
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from privae.errors import PrivacyRefused, UsageError
from privae.plan import MOST_NUMBERS, THRESHOLD_SHARE
from privae.privacy.mechanism import Mechanism
from privae.privacy.noise import NoiseSource
from privae.recipes.phases import CATEGORIES, Budget, Draft, Run, budget_of, check_plan, plan_of, statistics
from privae.training.watch import Silent


def planned(*names, epsilon=1.0, rows=None, needed=100.0):
    phases = tuple(statistics(name, 1 / len(names), 2.0, math.sqrt(2)) for name in names)
    draft = Draft("table", phases, {}, lambda noisy: needed, 1.0, 1.0, ("a note",))
    return plan_of(draft, Budget(epsilon, 1e-5, rows), "schema", "source")


def started(plan, charge=lambda phase, event: None):
    return Run(plan, charge, NoiseSource(bytes(32)), Silent())


def test_a_release_is_charged_before_its_noise_is_drawn():
    noise, drawn = NoiseSource(bytes(32)), []
    run = Run(planned("a"), lambda phase, event: drawn.append(noise.numbers_drawn), noise, Silent())
    run.release("a", [(np.zeros(3, np.int64), 1.0)])
    assert drawn == [0]
    assert noise.numbers_drawn == 3


def test_a_refused_charge_releases_nothing():
    def refuse(phase, event):
        raise PrivacyRefused("no")

    run = started(planned("a"), refuse)
    with pytest.raises(PrivacyRefused):
        run.release("a", [(np.zeros(3, np.int64), 1.0)])
    assert run.noise.numbers_drawn == 0


def test_every_block_gets_the_noise_of_the_phase_over_its_weight(monkeypatch):
    """The weighted blocks together move by at most the sensitivity; so a block of weight w moves by it over w."""
    stds = []
    monkeypatch.setattr(Mechanism, "release", lambda self, total, noise: stds.append((self.std, self.grid)))
    run = started(planned("a"))
    run.release("a", [(np.zeros(1, np.int64), w) for w in (1.0, 0.1, math.sqrt(2) / 2**40)])
    multiplier = run.plan.phases[0].noise_multiplier
    assert [std * w for (std, _), w in zip(stds, (1.0, 0.1, math.sqrt(2) / 2**40), strict=True)] == (
        pytest.approx([2.0 * multiplier] * 3, rel=1e-12)
    )
    assert all(std * w >= 2.0 * multiplier for (std, _), w in zip(stds, (1.0, 0.1), strict=False))
    assert all(grid == 1.0 for _, grid in stds)
    assert run.deviation("a") == pytest.approx(2.0 * multiplier)


def test_the_watcher_is_told_the_epsilon_that_the_charge_returns():
    class Watch(Silent):
        told = ()

        def advance(self, count, epsilon=None):
            self.told = (*self.told, (count, epsilon))

    watch = Watch()
    Run(planned("a"), lambda phase, event: 0.5, NoiseSource(bytes(32)), watch).release("a", [])
    assert watch.told == ((0, 0.5),)


class Memory:
    """A keeper in memory, and what it was asked."""

    def __init__(self, **kept):
        self.kept, self.log = kept, []

    def recall(self, phase):
        self.log.append("recall")
        return self.kept.get(phase)

    def remember(self, phase, released):
        self.log.append("remember")
        self.kept[phase] = released


def test_a_release_is_kept_after_it_was_charged_and_before_anyone_sees_it():
    keeper = Memory()
    charge = lambda phase, event: keeper.log.append("charge")  # noqa: E731
    run = Run(planned("a"), charge, NoiseSource(bytes(32)), Silent(), keeper)
    released = run.release("a", [(np.zeros(3, np.int64), 1.0)])
    assert keeper.log == ["recall", "charge", "remember"]
    assert keeper.kept["a"] is released


def test_ctrl_c_waits_until_what_was_charged_is_kept():
    class Pressed(Memory):
        def remember(self, phase, released):
            os.kill(os.getpid(), signal.SIGINT)
            super().remember(phase, released)

    before, keeper = signal.getsignal(signal.SIGINT), Pressed()
    charge = lambda phase, event: os.kill(os.getpid(), signal.SIGINT)  # noqa: E731
    run = Run(planned("a"), charge, NoiseSource(bytes(32)), Silent(), keeper)
    with pytest.raises(KeyboardInterrupt):
        run.release("a", [(np.zeros(3, np.int64), 1.0)])
    assert keeper.kept["a"][0].shape == (3,)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_release_in_a_thread_leaves_signals_alone():
    run = started(planned("a"))
    with ThreadPoolExecutor(1) as pool:
        released = pool.submit(run.release, "a", [(np.zeros(3, np.int64), 1.0)]).result()
    assert released[0].shape == (3,)


def test_what_was_released_is_not_released_again():
    """Neither charged nor drawn: the same bytes, whatever the sums are by now."""
    earlier = [np.arange(3.0)]

    def refuse(phase, event):
        raise PrivacyRefused("charged again")

    run = Run(planned("a"), refuse, NoiseSource(bytes(32)), Silent(), Memory(a=earlier))
    assert run.release("a", [(np.full(3, 9), 1.0)]) is earlier
    assert run.noise.numbers_drawn == 0


def test_only_what_leaves_is_kept_where_the_form_of_the_sums_is_a_secret():
    """Noisy counts of undeclared texts: their number is that of the texts, which nobody was charged for."""
    totals = [(np.array([0, 50, 0, 70]), 1.0)]

    def texts(noisy):
        return [np.flatnonzero(noisy[0] > 25)]

    keeper = Memory()
    run = Run(planned(CATEGORIES, "a"), lambda *_: None, NoiseSource(bytes(32)), Silent(), keeper)
    assert run.release(CATEGORIES, totals, texts)[0].tolist() == [1, 3]
    assert keeper.kept[CATEGORIES][0].tolist() == [1, 3]
    keeper = Memory()
    run = Run(planned(CATEGORIES, "a"), lambda *_: None, NoiseSource(bytes(32)), Silent(), keeper)
    assert run.release(CATEGORIES, totals)[0].shape == (4,)
    assert keeper.kept == {}


def test_of_several_processes_one_charges_draws_and_keeps():
    class Second:
        first = False

        def same(self, make):
            return "what the first one made"

    keeper = Memory()
    charge = lambda phase, event: keeper.log.append("charge")  # noqa: E731
    run = Run(planned("a"), charge, NoiseSource(bytes(32)), Silent(), keeper, Second())
    assert run.release("a", [(np.zeros(3, np.int64), 1.0)]) == "what the first one made"
    assert keeper.log == []
    assert run.noise.numbers_drawn == 0


def test_gradients_are_trained_by_the_hands_of_the_run():
    run = Run(planned("a"), None, NoiseSource(bytes(32)), Silent(), Memory(), device=torch.device("meta"))
    hands = run.hands("a")
    assert (hands.keeper, hands.group, hands.phase) == (run.keeper, run.group, "a")
    assert hands.device == torch.device("meta")


def test_a_phase_that_was_not_planned_is_refused():
    run = started(planned("a"))
    for ask in (lambda: run.release("b", []), lambda: run.deviation("b")):
        with pytest.raises(PrivacyRefused, match="no phase 'b'"):
            ask()


def test_more_noise_than_charged_is_refused():
    run = started(planned("a"))
    run.finish()
    run.noise.numbers_drawn = MOST_NUMBERS + 1
    with pytest.raises(PrivacyRefused, match="more noise"):
        run.finish()
    before = {"drawn_before": MOST_NUMBERS - 2}
    for more, fits in ((2, True), (3, False)):
        run = Run(planned("a"), lambda *_: None, NoiseSource(bytes(32)), Silent(), **before)
        run.release("a", [(np.zeros(more, np.int64), 1.0)])
        with contextlib.nullcontext() if fits else pytest.raises(PrivacyRefused, match="more noise"):
            run.finish()


def test_shares_are_shares_of_mu_squared():
    phases = planned("a", "b", "c", "d").phases
    assert sum(1 / phase.noise_multiplier**2 for phase in phases) == pytest.approx(
        1 / planned("a").phases[0].noise_multiplier ** 2
    )


def test_only_a_plan_that_buys_takes_the_thresholds_share_of_delta():
    assert planned("a").delta_threshold == 0
    assert planned(CATEGORIES).delta_threshold == THRESHOLD_SHARE * 1e-5
    assert planned(CATEGORIES, epsilon=math.inf).delta_threshold == 0


def test_a_weak_plan_says_so_from_declared_rows_alone():
    assert planned("a", rows=100).notes == ("a note",)
    weak = planned("a", rows=99).notes
    assert "99 rows" in weak[1]
    assert "100 rows" in weak[1]
    assert planned("a", rows=None).notes == ("a note",)
    assert planned("a", epsilon=math.inf, rows=1).rows_needed == 1


def test_neither_key_nor_charge_is_in_the_repr_of_a_run():
    shown = repr(started(planned("a")))
    assert "NoiseSource" not in shown
    assert "charge=" not in shown


@pytest.mark.parametrize(
    "budget", [Budget(1.0, 1e-5), Budget(math.inf, 1e-6, 300, True), Budget(2.0, 1e-5, 9)]
)
def test_a_plan_tells_the_budget_that_it_was_made_for(budget):
    phases = (statistics("a", 1.0, 2.0, math.sqrt(2)),)
    for fidelity in (None, True, False):
        settings = {} if fidelity is None else {"fidelity": fidelity}
        draft = Draft("table", phases, settings, lambda noisy: 1.0, 1.0, 1.0)
        assert budget_of(plan_of(draft, budget, "schema", "source")) == replace(budget, fidelity=fidelity)


def drafted(**changes):
    phase = statistics("a", 1.0, 2.0, math.sqrt(2), size=3)
    return Draft("table", (phase.model_copy(update=changes),), {"k": 1}, lambda noisy: 1.0, 1.0, 1.0)


def test_a_plan_of_this_recipe_passes_and_any_other_bound_is_refused():
    plan = plan_of(drafted(), Budget(1.0, 1e-5), "schema", "source")
    check_plan(plan, drafted())
    for changes in ({"size": 4}, {"sensitivity": 1.0}, {"replace_ratio": 1.0}, {"kind": "gradients"}):
        with pytest.raises(PrivacyRefused, match="do not hold"):
            check_plan(plan, drafted(**changes))
    for other in (drafted(name="b"), replace(drafted(), settings={}), replace(drafted(), phases=())):
        with pytest.raises(UsageError, match="other phases or settings"):
            check_plan(plan, other)


def test_a_plan_that_costs_more_than_it_says_is_refused():
    plan = plan_of(drafted(), Budget(1.0, 1e-5), "schema", "source")
    with pytest.raises(PrivacyRefused, match="cost more"):
        check_plan(plan.model_copy(update={"epsilon": 0.5}), drafted())
    with pytest.raises(PrivacyRefused, match="delta_threshold"):
        check_plan(plan.model_copy(update={"delta_threshold": 1e-7}), drafted())
    with pytest.raises(UsageError, match="no noise"):
        check_plan(plan.model_copy(update={"epsilon": math.inf}), drafted())
