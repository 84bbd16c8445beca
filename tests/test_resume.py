"""A fit that is killed at any moment goes on: its ledger is never behind, and no noise is drawn twice."""

import json
import math
import os
import random
import select
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from privae import VAE, Training
from privae.cli import main
from privae.cli.terminal import Lines
from privae.errors import DataError, PrivacyRefused, UsageError
from privae.privacy.ledger import Ledger
from privae.privacy.mechanism import Mechanism
from privae.privacy.noise import NoiseSource
from privae.recipes import table
from privae.recipes.modality import image_schema
from privae.recipes.phases import Run
from privae.training.books import charges_of, follows
from privae.training.state import Checkpoint
from privae.training.watch import Silent

KILLS, STEPS = 9, 40

# A process that forks a `privae` for every line that it reads, so that torch and its plan are read once. It notes
# every release before it is handed out, and the first words of every key, where a kill cannot undo it.
NURSERY = """
import json, os, sys
from privae.cli import main
from privae.privacy.mechanism import Mechanism
from privae.privacy.noise import NoiseSource
from privae.plan import Plan
import privae.vae, torch._dynamo  # functorch loads it in the midst of a fit, for seconds

log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
release, begin = Mechanism.release, NoiseSource.__init__

def releasing(self, total, *args, **options):
    made = release(self, total, *args, **options)
    os.write(log, f"release {total.size if isinstance(total.size, int) else total.numel()}\\n".encode())
    return made

def beginning(self, key=None):
    begin(self, key)
    if key is None:
        os.write(log, f"key {self.words(2).tobytes().hex()}\\n".encode())

Mechanism.release, NoiseSource.__init__ = releasing, beginning
with open(sys.argv[3]) as file:
    Plan.loads(file.read()).guarantee()
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if not child:
        said = os.open(sys.argv[2], os.O_WRONLY | os.O_TRUNC | os.O_CREAT)
        os.dup2(said, 1), os.dup2(said, 2)
        os._exit(main(json.loads(line)))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """Runs one `privae` after the other, and kills it after a while."""

    def __init__(self, folder, plan):
        self.log, self.said = folder / "log", folder / "said"
        command = [sys.executable, "-c", NURSERY, str(self.log), str(self.said), str(plan)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self.process.stdout.readline() == b"ready\n"

    def run(self, arguments, seconds=None):
        """The exit code; -9 if it was killed after so many seconds."""
        self.process.stdin.write(json.dumps(arguments).encode() + b"\n")
        child = int(self.process.stdout.readline())
        if not select.select([self.process.stdout], [], [], seconds)[0]:
            os.kill(child, signal.SIGKILL)
        return int(self.process.stdout.readline())

    def noted(self, kind):
        return [line.split()[1] for line in self.log.read_text().splitlines() if line.startswith(kind)]

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def with_noise(plan, epsilon, *multipliers):
    """A plan without noise, given some: a search for the least would take seconds."""
    phases = zip(plan.phases, multipliers, strict=True)
    noisy = tuple(phase.model_copy(update={"noise_multiplier": s}) for phase, s in phases)
    return plan.model_copy(update={"epsilon": epsilon, "phases": noisy})


@pytest.fixture(scope="module")
def plan():
    """Few steps for small images."""
    vae = VAE(math.inf, 1e-5, 400, "gradients", training=Training(steps=STEPS))
    return with_noise(vae.plan(image_schema((4, 4), 2, labelled=True)), 2.0, 10.0, 2.0)


@pytest.fixture
def asked(tmp_path, pictures, plan):
    """The command that fits images, and a ledger with room for many such fits."""
    x, y = pictures(400)
    np.savez(tmp_path / "x.npz", x=x, y=y)
    plan.save(tmp_path / "plan.toml")
    Ledger.open(tmp_path / "h.ledger", 30.0, 1e-3)
    model = tmp_path / "m.privae"
    fit = ["fit", tmp_path / "x.npz", "--classes", "2", "--plan", tmp_path / "plan.toml", "-o", model]
    return SimpleNamespace(
        fit=[str(word) for word in (*fit, "--ledger", tmp_path / "h.ledger")],
        plan=plan,
        model=model,
        kept=tmp_path / "m.privae.checkpoint",
        ledger=tmp_path / "h.ledger",
        sizes={str(phase.size): phase.name for phase in plan.phases},
    )


@pytest.fixture
def nursery(tmp_path, asked):
    made = Nursery(tmp_path, tmp_path / "plan.toml")
    yield made
    made.close()


def check_never_behind(asked, released):
    """The checkpoint is whole, follows the plan, and was charged for at least all that was released."""
    kept = Checkpoint.load(asked.kept, NoiseSource())
    assert follows(charges_of(kept.ledger), asked.plan)
    for phase in ("gradients", "label counts"):
        assert kept.ledger.charged(phase) >= released.count(phase)
    assert kept.updates.get("gradients", 0) <= released.count("gradients")
    assert kept.ledger.epsilon <= asked.plan.guarantee().epsilon + 1e-12
    return kept


def check_finished(asked, released):
    """The model verifies, was charged for the whole plan, and nothing is left of its checkpoint."""
    model = VAE.load(asked.model)
    assert follows(charges_of(model.ledger), asked.plan, whole=True)
    assert model.ledger.charged("gradients") == STEPS >= released.count("gradients")
    assert model.ledger.epsilon <= model.guarantee.epsilon <= 2.0
    assert not asked.kept.exists()
    assert model.sample(3)[0].shape == (3, 4, 4)


def test_a_fit_killed_at_random_moments_is_never_behind_its_ledger_and_ends(nursery, asked):
    """Kills fall anywhere in the time that a whole fit takes; what is asserted holds wherever they fall."""
    since = time.monotonic()
    assert nursery.run(asked.fit) == 0, nursery.said.read_text()
    whole = time.monotonic() - since
    released = [asked.sizes[size] for size in nursery.noted("release")]
    assert released == ["label counts"] + ["gradients"] * STEPS  # a clean end: charged == updates == planned
    check_finished(asked, released)

    chance, kills, starts, before, cut = random.Random(20), 0, 1, len(released), 0
    while kills < KILLS or asked.kept.exists():
        resume = asked.kept.exists()
        if not resume:
            asked.model.unlink(missing_ok=True)
            before, starts = len(nursery.noted("release")), starts + 1
        code = nursery.run(
            [*asked.fit, *(["--resume"] if resume else [])],
            chance.uniform(0, whole) if kills < KILLS else None,
        )
        kills += code == -9
        released = [asked.sizes[size] for size in nursery.noted("release")[before:]]
        if code == 4:
            assert "killed before its release was kept" in nursery.said.read_text()
            asked.kept.unlink()
        elif asked.kept.exists():
            cut += 0 < check_never_behind(asked, released).ledger.charged("gradients") < STEPS
        elif asked.model.exists():
            check_finished(asked, released)
        assert code in (-9, 0, 4), nursery.said.read_text()

    assert cut > 0  # kills did fall among the steps
    keys = nursery.noted("key")
    assert len(set(keys)) == len(keys) > KILLS / 4
    shared = Ledger.load(asked.ledger)
    attempts = {entry.attempt for entry in shared.entries[1:]}
    assert attempts == set(range(1, max(attempts) + 1))
    assert len(attempts) <= starts
    assert len([event for event in shared.events if event.steps]) == 2 * len(attempts)


# --- in one process ---------------------------------------------------------------------------------------


class Interrupting(Silent):
    """A person who presses Ctrl-C after so many steps of a phase."""

    def __init__(self, phase="gradients", steps=7):
        self.wanted, self.left, self.now = phase, steps, ""

    def phase(self, name, total):
        self.now = name

    def advance(self, count, epsilon=None):
        self.left -= count if self.now == self.wanted else 0
        if self.now == self.wanted and self.left <= 0:
            raise KeyboardInterrupt


SMALL = Training(latent=2, hidden=(4,), steps=20, batch=30)


@pytest.fixture(scope="module")
def refined(facts):
    """A plan of statistics and a few steps of gradients, for a table."""
    return with_noise(VAE(math.inf, rows=2000, fidelity=True, training=SMALL).plan(facts), 3.0, 3.0, 3.0)


@pytest.fixture
def interrupted(tmp_path, tiny, people, facts, refined):
    """The checkpoint of a fit that was interrupted in its gradients, and a function that goes on with it."""
    path = tmp_path / "m.checkpoint"

    def fit(**options):
        given = {"schema": facts, "plan": refined, "checkpoint": path} | options
        return VAE(3.0, rows=2000, fidelity=True, training=SMALL).fit(people(2000), **given)

    with pytest.raises(KeyboardInterrupt):
        fit(watch=Interrupting())
    return path, fit


def test_a_resumed_fit_replays_its_statistics_and_runs_only_the_steps_left(
    interrupted, monkeypatch, tmp_path
):
    """7 of 20 steps were done, 5 of them kept, and two blocks of 5 charged: 10 to 19 are left."""
    path, fit = interrupted
    kept = Checkpoint.load(path, NoiseSource())
    tables = kept.recall("pair tables")
    assert (kept.ledger.charged("gradients"), kept.updates) == (10, {"gradients": 5})
    sizes, real, answers = [], Mechanism.release, []

    def release(self, total, *more, **options):
        sizes.append(total.shape if self.noise_multiplier else None)  # the warm start has none
        return real(self, total, *more, **options)

    monkeypatch.setattr(Mechanism, "release", release)
    recall = Checkpoint.recall
    monkeypatch.setattr(Checkpoint, "recall", lambda *a: answers.append(recall(*a)) or answers[-1])
    watch = SimpleNamespace(phase=lambda *a: None, advance=lambda *a: None, aside=print, said=[])
    watch.note = watch.said.append
    vae = fit(resume=True, watch=watch)
    size = vae.plan_.phase("gradients").size
    assert sizes.count((size,)) == 10
    assert (vae.ledger.charged("gradients"), Checkpoint.load(path, NoiseSource()).lost()) == (20, 5)
    assert [a.tobytes() for a in answers[0]] == [a.tobytes() for a in tables]
    assert "5 steps were killed" in watch.said[0]
    vae.save(tmp_path / "m.privae")
    assert VAE.load(tmp_path / "m.privae").ledger.dumps() == vae.ledger.dumps()
    assert not path.exists()


def test_a_resumed_fit_goes_on_from_the_weights_that_were_kept(interrupted, monkeypatch):
    """Without another step the result is what was kept: here, the average of the first five steps."""
    path, fit = interrupted
    kept = Checkpoint.load(path, NoiseSource())
    values = kept.restore("gradients").tensors["values"]
    seen = []
    from privae.training import loop

    begin = loop._Progress.begin
    monkeypatch.setattr(
        loop._Progress, "begin", lambda self, now: (begin(self, now), seen.append(now.clone()))[0]
    )
    fit(resume=True)
    assert any(len(one) == len(values) and torch.equal(one, values) for one in seen)


def test_every_life_draws_under_a_key_of_its_own(tmp_path, pictures, plan, monkeypatch):
    """Real keys: no word of one life's coins is in another's (by chance: 2^-64 a pair)."""
    x, y = pictures(400)
    lives, words = [], NoiseSource.words
    monkeypatch.setattr(
        NoiseSource,
        "words",
        lambda self, count: (drawn := words(self, count), lives[-1].update(drawn.tolist()))[0],
    )

    def fit(**options):
        lives.append(set())
        vae = VAE(2.0, 1e-5, 400, "gradients", classes=2)
        return vae.fit(x, y, plan=plan, checkpoint=tmp_path / "c", **options)

    for options in ({}, {"resume": True}, {"resume": True}):
        with pytest.raises(KeyboardInterrupt):
            fit(watch=Interrupting(steps=1), **options)
    assert all(len(life) > 50 for life in lives)
    assert len(set.union(*lives)) == sum(len(life) for life in lives)


def test_texts_that_were_bought_are_kept_and_the_others_leave_no_trace(
    tmp_path, tiny, people, facts, monkeypatch
):
    """Interrupted after the purchase: the texts come from the file, which knows neither a rare one nor a count."""
    job = facts.columns[1].model_copy(update={"categories": "bought"})
    schema = facts.model_copy(update={"columns": (facts.columns[0], job, *facts.columns[2:])})
    frame = people(2000)
    frame.loc[0, "job"] = "astronaut"

    def fit(**options):
        return VAE(2.0).fit(frame, schema=schema, checkpoint=tmp_path / "c", **options)

    with pytest.raises(KeyboardInterrupt):
        fit(watch=Interrupting("categories", 1))
    content = (tmp_path / "c").read_bytes()
    assert b"nurse" in content
    assert b"astronaut" not in content
    kept = Checkpoint.load(tmp_path / "c", NoiseSource()).recall("categories")
    assert [(array.dtype, array.tobytes()) for array in kept] == [(np.uint8, b'[["cook", "nurse"]]')]
    counted = []
    monkeypatch.setattr(table, "threshold", lambda *_: counted.append(1))
    vae = fit(resume=True)
    assert counted == []
    assert [entry.phase for entry in vae.ledger.entries] == ["categories", "pair tables"]
    assert vae.fitted_.schema.columns[1].categories == ("cook", "nurse")


def test_a_fit_that_ended_is_resumed_without_a_release(tmp_path, tiny, people, facts, monkeypatch):
    def fit(**options):
        return VAE(3.0).fit(people(2000), schema=facts, checkpoint=tmp_path / "c", **options)

    first = fit()
    monkeypatch.setattr(Run, "_mechanism", None)
    again = fit(resume=True)
    assert again.ledger.dumps() == first.ledger.dumps()
    for one, other in zip(
        again.fitted_.model.state().values(), first.fitted_.model.state().values(), strict=True
    ):
        assert torch.equal(one, other)
    with pytest.raises(UsageError, match="interrupted"):
        VAE.load(tmp_path / "c")


def test_a_release_that_was_lost_is_refused_and_said_to_cost_again(
    tmp_path, tiny, people, facts, monkeypatch
):
    def fit(**options):
        return VAE(3.0).fit(people(2000), schema=facts, checkpoint=tmp_path / "c", **options)

    def die(self, phase, released):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "remember", die)
        with pytest.raises(KeyboardInterrupt):
            fit()
    noise = NoiseSource()
    with pytest.raises(PrivacyRefused, match="charged again"):
        fit(resume=True, noise=noise)
    assert noise.numbers_drawn == 0
    (tmp_path / "c").unlink()
    fit()


def test_a_fit_whose_releases_say_that_there_is_nothing_to_learn_leaves_no_checkpoint(
    tmp_path, tiny, people, facts
):
    with pytest.raises(DataError, match="released"):
        VAE(0.01).fit(people(5), schema=facts, checkpoint=tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_another_plan_does_not_resume_a_fit(interrupted, refined):
    path, fit = interrupted
    before = path.read_bytes()
    with pytest.raises(UsageError, match="options or the plan"):
        fit(resume=True, plan=refined.model_copy(update={"notes": ("another",)}))
    assert path.read_bytes() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_with_130_an_honest_ledger_and_the_way_on(asked, monkeypatch, capsys, number):
    fit, steps = asked.fit, []

    def press(self, count, epsilon=None):
        steps.append(count)
        if len(steps) == 12:
            signal.raise_signal(number)

    monkeypatch.setattr(Lines, "advance", press)
    assert main(fit) == 130
    err = capsys.readouterr().err
    assert "repeat the command with --resume" in err
    assert "Traceback" not in err
    charged = Checkpoint.load(asked.kept, NoiseSource()).ledger.charged("gradients")
    assert 0 < charged < STEPS
    assert main(fit) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*fit, "--resume"]) == 0
    assert not asked.kept.exists()
    assert VAE.load(asked.model).ledger.charged("gradients") == STEPS
    assert main([*fit, "--resume"]) == 2
    assert "no fit to resume" in capsys.readouterr().err
    attempts = [entry.attempt for entry in Ledger.load(asked.ledger).entries[1:]]
    assert attempts == [1, 1, 1, 1]  # two phases, and notes of the resumption, and of the model
