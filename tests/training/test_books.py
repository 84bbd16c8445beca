"""What a fit is charged, in which order, and when it may go on."""

import math
import shutil

import pytest

from privae import files
from privae.errors import ArtifactError, DataError, PrivacyRefused, ResourceError, UsageError
from privae.plan import Phase, Plan
from privae.privacy import accountant
from privae.privacy.ledger import Ledger
from privae.privacy.mechanism import Event
from privae.privacy.noise import NoiseSource
from privae.training.books import Books, Places, charges_of, check_checkpoint, follows
from privae.training.state import FORGETFUL, Checkpoint, State
from privae.training.watch import Silent

SUMS = Event(3.0, replace_ratio=1.5)


def steps(count):
    return Event(2.0, 0.01, count)


def plan(**changes):
    gradients = {"kind": "gradients", "noise_multiplier": 2.0, "sampling_rate": 0.01, "steps": 20}
    phases = (
        Phase(name="sums", share=0.5, sensitivity=1.0, replace_ratio=1.5, noise_multiplier=3.0),
        Phase(name="gradients", share=0.5, sensitivity=1.0, replace_ratio=2.0, **gradients),
    )
    numbers = {"epsilon": 3.0, "delta": 1e-5, "rows_needed": 1, "seconds": 1.0, "megabytes": 1.0}
    texts = {"recipe": "gradients", "schema_hash": "s", "code_version": "v"}
    return Plan(**numbers, **texts, phases=phases).model_copy(update=changes)


def books(path=None, *, resume=False, ledger=None, made=None, noise=None):
    return Books(made or plan(), noise or NoiseSource(), Places(ledger, path, resume))


def killed(path, *charges, **options):
    """A fit that wrote these charges and was killed."""
    life = books(path, **options)
    with life.open():
        for phase, event in charges:
            life.charge(phase, event)
    return life


@pytest.fixture
def cap(tmp_path):
    Ledger.open(tmp_path / "h.ledger", 9.0, 1e-4)
    return tmp_path / "h.ledger"


# --- charges ----------------------------------------------------------------------------------------------


def test_blocks_together_cost_what_the_plan_costs():
    life = books()
    with life.open():
        told = [life.charge("sums", SUMS), *(life.charge("gradients", steps(5)) for _ in range(4))]
    whole = plan()
    assert follows(charges_of(life.own), whole, whole=True)
    assert told == sorted(told)
    assert told[-1] == life.own.entries[-1].epsilon
    assert life.own.epsilon <= whole.guarantee().epsilon <= 3.0
    assert life.own.epsilon == pytest.approx(whole.guarantee().epsilon, rel=1e-9)
    assert life.keeper is FORGETFUL


def test_what_a_plan_adds_to_delta_is_charged_once_and_first():
    made = plan(delta_threshold=1e-6)
    life = books(made=made)
    with life.open():
        life.charge("sums", SUMS)
        life.charge("gradients", steps(5))
        life.charge("gradients", steps(15))
    added = [entry.event["added_delta"] for entry in life.own.entries]
    assert added == [made.delta_threshold + made.delta_sampler, 0.0, 0.0]


@pytest.mark.parametrize(
    ("charged", "whole"),
    [
        ([], False),
        ([("sums", SUMS)], False),
        ([("sums", SUMS), ("gradients", steps(5))], True),
        ([("sums", SUMS), ("gradients", steps(20))], True),
        ([("sums", SUMS), ("gradients", steps(7)), ("gradients", steps(13))], True),
    ],
)
def test_a_plan_is_followed_in_order_and_in_any_blocks(charged, whole):
    assert follows(charged, plan())
    assert follows(charged, plan(), whole=True) is whole


@pytest.mark.parametrize(
    "charged",
    [
        [("gradients", steps(5))],
        [("sums", SUMS), ("gradients", steps(5)), ("sums", SUMS)],
        [("sums", SUMS), ("sums", SUMS)],
        [("sums", Event(3.0, replace_ratio=1.4))],
        [("sums", Event(3.0, steps=2, replace_ratio=1.5))],
        [("sums", SUMS), ("gradients", steps(21))],
        [("sums", SUMS), ("gradients", steps(20)), ("gradients", steps(1))],
        [("sums", SUMS), ("gradients", Event(1.9, 0.01, 5))],
        [("sums", SUMS), ("gradients", Event(2.0, 0.02, 5))],
        [("sums", SUMS), ("gradients", steps(0))],
        [("other", SUMS)],
    ],
)
def test_what_the_plan_does_not_say_is_refused_and_not_charged(charged):
    assert not follows(charged, plan())
    life = books()
    with life.open():
        for phase, event in charged[:-1]:
            if follows([*charges_of(life.own), (phase, event)], plan()):
                life.charge(phase, event)
        before = life.own.entries
        with pytest.raises(PrivacyRefused, match="than was planned"):
            life.charge(*charged[-1])
        assert life.own.entries == before


def test_a_charge_is_on_disk_when_it_returns(tmp_path):
    life = books(tmp_path / "c")
    with life.open():
        assert not (tmp_path / "c").exists()  # nothing is charged, so nothing is lost
        life.charge("sums", SUMS)
        assert charges_of(Checkpoint.load(tmp_path / "c", NoiseSource()).ledger) == [("sums", SUMS)]


def test_a_charge_that_cannot_be_written_is_raised(tmp_path, monkeypatch):
    life = books(tmp_path / "c")

    def full(*_, **__):
        raise ResourceError("the disk is full")

    with life.open():
        monkeypatch.setattr(files, "write_atomically", full)
        with pytest.raises(ResourceError):
            life.charge("sums", SUMS)
    assert not (tmp_path / "c").exists()


def test_without_noise_every_figure_is_infinite(tmp_path):
    free = tuple(phase.model_copy(update={"noise_multiplier": 0.0}) for phase in plan().phases)
    life = books(tmp_path / "c", made=plan(epsilon=math.inf, phases=free))
    with life.open():
        assert life.charge("sums", Event(0.0, replace_ratio=1.5)) == math.inf
    with books(tmp_path / "c", made=plan(epsilon=math.inf, phases=free), resume=True).open():
        pass


# --- lives ------------------------------------------------------------------------------------------------


def test_a_fit_goes_on_where_it_was_charged_up_to(tmp_path):
    killed(tmp_path / "c", ("sums", SUMS), ("gradients", steps(5)))
    life = books(tmp_path / "c", resume=True)
    with life.open():
        assert life.keeper.restore("gradients") == State(5, {})
        life.charge("gradients", steps(15))
        with pytest.raises(PrivacyRefused, match="than was planned"):
            life.charge("gradients", steps(1))
    assert [entry.index for entry in life.own.entries] == [0, 1, 2]
    assert life.own.epsilon == pytest.approx(plan().guarantee().epsilon, rel=1e-9)


def test_what_kills_cost_is_told_in_public_numbers(tmp_path):
    class Watch(Silent):
        said = ""

        def note(self, text):
            self.said += text

    killed(tmp_path / "c", ("sums", SUMS), ("gradients", steps(5)))
    watch, life = Watch(), books(tmp_path / "c", resume=True)
    with life.open():
        life.tell(watch)
    assert watch.said.startswith("5 steps were killed")
    books().tell(watch)
    assert watch.said.count("killed") == 1


def test_a_fit_neither_begins_over_a_checkpoint_nor_resumes_without_one(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        killed(tmp_path / "c", resume=True)
    with pytest.raises(UsageError, match="name the checkpoint"):
        killed(None, resume=True)
    with pytest.raises(UsageError, match="folder"):
        killed(tmp_path / "no" / "c")
    killed(tmp_path / "c", ("sums", SUMS))
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(UsageError, match=r"--resume.*charged again"):
        killed(tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == before
    check_checkpoint(tmp_path / "c", resume=True)
    check_checkpoint(tmp_path / "d", resume=False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema_hash": "t"}, "schema"),
        ({"delta": 1e-6}, "options or the plan"),
        ({"settings": {"latent": 3}}, "options or the plan"),
        ({"code_version": "w"}, "options or the plan"),
    ],
)
def test_another_plan_does_not_resume_a_fit(tmp_path, changes, said):
    killed(tmp_path / "c", ("sums", SUMS))
    before = (tmp_path / "c").read_bytes()
    with pytest.raises(UsageError, match=said):
        killed(tmp_path / "c", resume=True, made=plan(**changes))
    assert (tmp_path / "c").read_bytes() == before


def test_another_version_does_not_resume_a_fit(tmp_path, monkeypatch):
    killed(tmp_path / "c", ("sums", SUMS))
    monkeypatch.setattr(files, "version", lambda name: "99.9")
    with pytest.raises(UsageError, match="begun by privae"):
        killed(tmp_path / "c", resume=True)


def test_a_known_key_does_not_resume_a_fit_for_it_would_draw_the_same_coins(tmp_path):
    killed(tmp_path / "c", ("sums", SUMS), noise=NoiseSource(bytes(32)))
    with pytest.raises(UsageError, match="same noise again"):
        killed(tmp_path / "c", resume=True, noise=NoiseSource(bytes(32)))
    life = killed(tmp_path / "c", resume=True)
    assert life.fixed
    assert not life.noise.fixed


def test_a_checkpoint_whose_ledger_does_not_follow_its_plan_is_refused(tmp_path):
    kept = Checkpoint(tmp_path / "c", plan(), NoiseSource())
    wrong = books(made=plan(phases=(plan().phases[0].model_copy(update={"noise_multiplier": 9.0}),)))
    with wrong.open():
        wrong.charge("sums", Event(9.0, replace_ratio=1.5))
    kept.ledger = wrong.own
    kept.write()
    with pytest.raises(ArtifactError, match="does not follow"):
        killed(tmp_path / "c", resume=True)


def test_a_checkpoint_has_one_user_and_leaves_no_lock(tmp_path):
    life = books(tmp_path / "c")
    with life.open():
        life.charge("sums", SUMS)
        with pytest.raises(UsageError, match="in use"):
            killed(tmp_path / "c", resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_what_killed_writes_left_behind_is_swept(tmp_path):
    killed(tmp_path / "c", ("sums", SUMS))
    (tmp_path / ".c.x1y2z3").write_bytes(b"half a checkpoint")
    (tmp_path / ".other.x1y2z3").write_bytes(b"another's")
    killed(tmp_path / "c", resume=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.x1y2z3", "c"]


@pytest.mark.parametrize(("error", "stays"), [(DataError, False), (ResourceError, True), (ValueError, True)])
def test_a_fit_that_its_releases_showed_to_be_hopeless_is_not_kept(tmp_path, error, stays):
    def fit(life):
        with life.open():
            life.charge("sums", SUMS)
            raise error("the released count cannot be told from none")

    with pytest.raises(error):
        fit(books(tmp_path / "c"))
    assert (tmp_path / "c").exists() is stays


# --- the data set's ledger --------------------------------------------------------------------------------


def test_a_data_sets_ledger_is_charged_once_with_the_whole_plan_and_first(tmp_path, cap):
    life = books(tmp_path / "c", ledger=cap)
    with life.open():
        assert Ledger.load(cap).events == plan().events
        assert (tmp_path / "c").exists()
        life.charge("sums", SUMS)
    spent = Ledger.load(cap)
    killed(tmp_path / "c", ("gradients", steps(5)), resume=True, ledger=str(cap))
    killed(tmp_path / "c", ("gradients", steps(15)), resume=True, ledger=Ledger.load(cap))
    resumed = Ledger.load(cap)
    notes = resumed.entries[len(spent.entries) :]
    assert [entry.phase.split()[0] for entry in notes] == ["resumed", "resumed"]
    assert {entry.event["steps"] for entry in notes} == {0}
    assert (resumed.epsilon, resumed.remaining) == (spent.epsilon, spent.remaining)
    assert resumed.epsilon == accountant.epsilon(
        plan().events, 1e-4 - 2 * plan().delta_sampler, fine=True
    ) or (resumed.epsilon == spent.entries[-1].epsilon)


def test_a_ledger_without_a_cap_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UsageError, match="no cap"):
        killed(tmp_path / "c", ledger=Ledger.fresh(1e-5))
    assert list(tmp_path.iterdir()) == []


def test_past_the_cap_there_is_no_checkpoint(tmp_path):
    Ledger.open(tmp_path / "h", 0.1, 1e-5)
    with pytest.raises(PrivacyRefused):
        killed(tmp_path / "c", ledger=tmp_path / "h")
    assert not (tmp_path / "c").exists()


def test_a_kill_between_ledger_and_checkpoint_loses_budget_and_counts_it(tmp_path, cap, monkeypatch):
    def die(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "write", die)
    with pytest.raises(KeyboardInterrupt):
        killed(tmp_path / "c", ledger=cap)
    monkeypatch.undo()
    assert Ledger.load(cap).events == plan().events
    killed(tmp_path / "c", ledger=cap)
    assert Ledger.load(cap).events == plan().events * 2


def test_a_fit_is_resumed_with_the_ledger_it_was_charged_to(tmp_path, cap):
    Ledger.open(tmp_path / "other", 9.0, 1e-4)
    killed(tmp_path / "c", ledger=cap)
    killed(tmp_path / "d", ("sums", SUMS))
    with pytest.raises(UsageError, match="was charged to a ledger"):
        killed(tmp_path / "c", resume=True)
    with pytest.raises(UsageError, match="was not charged"):
        killed(tmp_path / "d", resume=True, ledger=cap)
    with pytest.raises(PrivacyRefused, match="another ledger"):
        killed(tmp_path / "c", resume=True, ledger=tmp_path / "other")


def test_of_two_copies_one_goes_on(tmp_path, cap):
    killed(tmp_path / "c", ("sums", SUMS), ledger=cap)
    shutil.copy(tmp_path / "c", tmp_path / "copy")
    killed(tmp_path / "c", resume=True, ledger=cap)
    before = cap.read_bytes()
    with pytest.raises(PrivacyRefused, match="resumed before"):
        killed(tmp_path / "copy", resume=True, ledger=cap)
    assert cap.read_bytes() == before
    killed(tmp_path / "c", ("gradients", steps(20)), resume=True, ledger=cap)


def test_two_runs_of_one_plan_are_told_apart(tmp_path, cap):
    killed(tmp_path / "c", ("sums", SUMS), ledger=cap)
    killed(tmp_path / "d", ("sums", SUMS), ledger=cap)
    for name in ("c", "d", "c", "d"):
        killed(tmp_path / name, resume=True, ledger=cap)


def test_a_life_that_was_taken_over_ends_at_its_next_charge(tmp_path, cap):
    life = books(tmp_path / "c", ledger=cap)
    with life.open():
        life.charge("sums", SUMS)
        shutil.copy(tmp_path / "c", tmp_path / "copy")
        killed(tmp_path / "copy", resume=True, ledger=cap)
        before = (tmp_path / "c").read_bytes()
        with pytest.raises(PrivacyRefused, match="resumed elsewhere"):
            life.charge("gradients", steps(5))
        assert (tmp_path / "c").read_bytes() == before


@pytest.mark.parametrize("after", ["write", "note"])
def test_a_kill_while_a_fit_is_taken_over_leaves_it_resumable_and_its_copies_not(
    tmp_path, cap, monkeypatch, after
):
    killed(tmp_path / "c", ("sums", SUMS), ledger=cap)
    shutil.copy(tmp_path / "c", tmp_path / "old")
    resume = Ledger.resume

    def die(self, *tokens):
        if after == "note":
            resume(self, *tokens)
        raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "resume", die)
    with pytest.raises(KeyboardInterrupt):
        killed(tmp_path / "c", resume=True, ledger=cap)
    monkeypatch.undo()
    shutil.copy(tmp_path / "c", tmp_path / "copy")
    killed(tmp_path / "c", resume=True, ledger=cap)
    for name in ("copy", "old"):
        with pytest.raises(PrivacyRefused, match="resumed before"):
            killed(tmp_path / name, resume=True, ledger=cap)
