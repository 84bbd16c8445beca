import hashlib
from types import SimpleNamespace

import numpy as np
import pytest

from privae.custody import keys
from privae.federated import chain
from privae.federated.chain import Account, step_of
from privae.federated.fit import Agreed, Sum
from privae.federated.study import Study
from privae.files import canonical_json
from privae.plan import Phase, Plan
from privae.privacy.ledger import Charge, Ledger
from privae.privacy.mechanism import Event

NAMES = ("oslo", "lyon", "bern")


@pytest.fixture(scope="session")
def hands(tmp_path_factory):
    """Keys of three sites, of a coordinator and of a stranger, by name."""
    folder = tmp_path_factory.mktemp("keys")
    return {name: keys.signing_key(folder / f"{name}.key") for name in (*NAMES, "desk", "stranger")}


@pytest.fixture(scope="session")
def opened():
    """A function of a path: a capped ledger there, with `spends` plans of one release each."""

    def make(path, spends=3, epsilon=4.0):
        ledger = Ledger.open(path, epsilon, 1e-5)
        for number in range(spends):
            ledger.spend([Charge(f"{number:064x}", "ab" * 32, "moments", Event(8.0), added_delta=1e-7)])
        return ledger

    return make


def plan_of(steps=4):
    phases = (
        Phase(name="norms", share=0.5, sensitivity=1.0, replace_ratio=2.0, noise_multiplier=9.0),
        Phase(
            name="gradients",
            kind="gradients",
            share=0.5,
            sensitivity=1.0,
            replace_ratio=2.0,
            noise_multiplier=4.0,
            steps=steps,
            size=9,
        ),
    )
    figures = {"rows_needed": 1, "seconds": 1.0, "megabytes": 1.0, "code_version": "0.1.0"}
    return Plan(recipe="gradients", epsilon=3.0, delta=1e-5, phases=phases, schema_hash="cd" * 32, **figures)


class Course:
    """A study as it runs: charges, rounds, the signatures of all sites, and the folder that the coordinator writes."""

    def __init__(self, hands, steps=4, block=2, content=b"a"):
        self.plan, self.hands, self.block, self.content = plan_of(steps), hands, block, content
        roster = {name: hands[name].public for name in NAMES}
        self.study = Study(
            name="ward",
            sites=roster,
            coordinator=hands["desk"].public,
            plan=self.plan.hash,
            schema_text="{}",
            min_sites=2,
            dropouts=1,
        )
        self.account = Account(self.plan, Ledger.fresh(self.plan.delta))
        self.steps, self.marks, self.model, self.ends = [], {}, "", {}

    def run(self):
        """Yields whenever something was written down."""
        for phase in self.plan.phases:
            for start in range(0, phase.steps, self.block):
                size = min(self.block, phase.steps - start)
                event = phase.mechanism().event(size, phase.sampling_rate)
                self.account.charge(phase.name, event)
                self.account.written()
                head = self.account.ledger.head
                self.marks[head] = self.signed(chain.charged(self.study, head))
                yield
                for step in range(start, start + size):
                    away = 1 if step == 1 else 0
                    ask = Sum(phase.name, step, (), 8, np.zeros(1, np.int64))
                    self.told(ask, NAMES[away:], self.content)
                    yield
            self.told(Agreed("weights", None), (), b"w")
            yield
        self.model = hashlib.sha256(b"model").hexdigest()
        self.ends = self.signed(
            chain.ended(self.study, chain.head_of(self.steps), self.account.ledger.head, self.model)
        )
        yield

    def told(self, ask, sites, content):
        self.steps.append(step_of(ask, content, sites, 8, self.steps))

    def signed(self, statement):
        return {name: self.hands[name].sign(statement) for name in NAMES}

    def write(self, folder):
        folder.mkdir(exist_ok=True)
        (folder / "study.toml").write_text(self.study.dumps())
        (folder / "plan.toml").write_text(self.plan.dumps())
        (folder / chain.BOOK).write_text(self.account.ledger.dumps())
        (folder / chain.ROUNDS).write_bytes(b"".join(step.line() for step in self.steps))
        marks = {"model": self.model, "charged": self.marks, "ended": self.ends}
        (folder / chain.SIGNATURES).write_bytes(canonical_json(marks))
        return folder


@pytest.fixture
def course(hands):
    """A function: a study that may be run, step by step."""
    return lambda **choices: Course(hands, **choices)


@pytest.fixture
def finished(course, tmp_path):
    """A study that ended, and its folder."""
    made = course()
    for _ in made.run():
        pass
    return SimpleNamespace(course=made, folder=made.write(tmp_path / "ledger"))
