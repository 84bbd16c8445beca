"""A stream in a folder: opened with one charge, then one release a step, each exactly once whatever is killed."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from privae import files
from privae.continual import contributions, means
from privae.continual import plan as plans
from privae.continual.plan import ContinualPlan
from privae.continual.state import State
from privae.errors import ArtifactError, PrivacyRefused, UsageError
from privae.privacy.correlated import Correlated
from privae.privacy.guarantee import Guarantee
from privae.privacy.ledger import Ledger
from privae.privacy.noise import NoiseSource
from privae.sealing.identities import check_reopened

Floats = NDArray[np.float64]

PLAN, LEDGER, STATE, RELEASED = "plan.toml", "ledger.jsonl", "secret.state", "released.csv"

_LONGEST = 64  # characters of the name of a step


class Continual:
    """One stream, in its folder: plan.toml, ledger.jsonl and released.csv are public, secret.state is not.

    Guarantee: that of the plan, for everything in released.csv, over all processes and kills. Proof: steps are
        released in order, each by `Stream.release` with the next noise of `Correlated`, so all of them together are
        the one mechanism that was charged when the folder was made; provided that no noise serves two sums. `add`
        holds a lock and computes a step in memory, with coins drawn afresh from the operating system; nothing leaves
        before secret.state, which has the step's noise *and* its release, is on the disk, in one rename. Killed
        before the rename, nobody saw anything of that noise, and the next try draws other coins; killed after it,
        the step is done, and its stored release is what the next process publishes. So two releases never share
        coins, and a step that was begun in the state is never computed again, whatever data come.
    Not covered: a folder set back to an older copy. Where released.csv is ahead of the state, or the data set's
        ledger, which notes every step at no cost (`Ledger.resume`), knows a later one, it is refused. Where both
        were set back as well, it goes on and releases steps again with other noise, which nothing here can tell:
        do not restore this folder from a backup. Who can write the state can forge it.
    Errors: UsageError, PrivacyRefused for what may not be; ArtifactError for files that were changed, cut or mixed.
    """

    def __init__(self, folder: Path, plan: ContinualPlan, ledger: Ledger | None) -> None:
        self.folder, self.plan = folder, plan
        self._ledger = ledger
        self._state = self._read()

    def __repr__(self) -> str:
        return f"Continual({str(self.folder)!r}, {self.plan.unit!r}, step {self.step} of {self.plan.steps})"

    @classmethod
    def open(
        cls, folder: str | Path, plan: ContinualPlan, ledger: Ledger | str | Path | None = None
    ) -> "Continual":
        """Charge the whole stream, once, and make its folder.

        ledger: that of the data set, charged before anything else; killed in between, the charge is lost.
        Errors: PrivacyRefused past the ledger's cap; UsageError for a folder that is not empty.
        """
        check_reopened("a stream")
        folder, shared = Path(folder).absolute(), _ledger_of(ledger)
        own = Ledger.fresh(plan.delta, plan.unit)
        own.spend([plan.own_charge()])
        with _made(folder):
            reservation = "" if shared is None else _spent(shared, plan)
        files.write_atomically(folder / PLAN, lambda file: file.write(plan.dumps().encode()))
        files.write_atomically(folder / LEDGER, lambda file: file.write(own.dumps().encode()))
        begun = State(
            plan.hash,
            np.zeros((plan.bands - 1, plan.size)),
            np.zeros((0, plan.size)),
            ledger=None if shared is None else shared.place,
            reservation=reservation,
        )
        files.write_atomically(folder / RELEASED, lambda file: file.write(_text(plan, begun).encode()))
        begun.write(folder / STATE)
        return cls(folder, plan, shared)

    @classmethod
    def load(cls, folder: str | Path, ledger: Ledger | str | Path | None = None) -> "Continual":
        """The stream in a folder; ledger: where that of the data set is now, if it was moved.

        Errors: UsageError for no such folder; ArtifactError where the plan, the charge and the state do not agree.
        """
        folder = Path(folder).absolute()
        if not (folder / PLAN).is_file():
            raise UsageError(f"{folder} holds no stream; open one with: privae stream open {folder}")
        plan = plans.load(folder / PLAN)
        own = Ledger.parse(files.text_in(folder / LEDGER))
        charge = plan.own_charge()
        said = [(entry.plan_hash, entry.phase, entry.unit) for entry in own.entries]
        if said != [(plan.hash, charge.phase, plan.unit)] or own.events != (charge.event,):
            raise ArtifactError(f"{folder / LEDGER} does not say what {PLAN} says; do not trust it")
        found = cls(folder, plan, None)
        found._ledger = found._reserved(ledger)
        found._settle()
        return found

    @property
    def step(self) -> int:
        """How many steps were released."""
        return self._state.step

    @property
    def days(self) -> tuple[str, ...]:
        """The names of the released steps."""
        return self._state.days

    @property
    def released(self) -> pd.DataFrame:
        """What was released: a row a step, with noisy sums and counts."""
        return means.table(self.plan.scales(), self._state.released, self.days)

    def guarantee(self) -> Guarantee:
        """The promise of the whole stream."""
        return self.plan.guarantee()

    def add(self, values: Floats, units: Sequence[Any] | NDArray[Any] | pd.Series, day: str) -> int:
        """Release the next step and return its number, from 1.

        Shapes: values [n, d] in the plan's order, nan for a gap, units [n]: see `contributions.total`.
        day: the public name of the step. One that was released already, with the same data, gives the number of that
        release, and nothing is computed: so a day may be added again after a kill.
        Errors: UsageError for other shapes, a name that is none, or a name that was taken by other data;
            PrivacyRefused after the last step, or where this folder is an older copy.
        """
        if not 0 < len(day) <= _LONGEST or not day.isprintable():
            raise UsageError(f"the name of a step is printable, of 1 to {_LONGEST} characters")
        with self._owned() as state:
            total = contributions.total(self.plan, values, units)
            mark = state.mark(total)
            if day in state.days:
                return _again(state, day, mark)
            if state.step >= self.plan.steps:
                raise PrivacyRefused(
                    f"the stream was charged for {self.plan.steps} steps, and all are released; open a new one"
                )
            row, past = self._noisy(state, total)
            self._keep(state.after(day, mark, row, past))
            return self.step

    def means(self, last: int = 7) -> pd.DataFrame:
        """The mean of every number over the `last` steps up to each step, with its standard error: `means.means`."""
        if last < 1:
            raise UsageError("a mean is over at least one step")
        return means.means(self.plan.scales(), self._state.released, self.days, last)

    def totals(self) -> pd.DataFrame:
        """The running total of every number, with its standard error: `means.totals`."""
        return means.totals(self.plan.scales(), self._state.released, self.days)

    def _noisy(self, state: State, total: NDArray[np.int64]) -> tuple[Floats, Floats]:
        """The release of a step, and the noise that later steps need."""
        stream, source = self.plan.stream(), NoiseSource()
        if not stream.noise_multiplier:
            return np.asarray(stream.release(total, source), dtype=np.float64), state.past
        noise = Correlated(source, stream, self.plan.size)
        noise.resume(state.step, torch.from_numpy(state.past))
        row = np.asarray(stream.release(total, noise), dtype=np.float64)
        return row, noise.past.numpy()

    def _keep(self, after: State) -> None:
        """Put the state on the disk, then tell the data set's ledger, then publish."""
        # privacy: nothing of a step leaves before the state says that it was done
        if self._ledger is not None:
            after = replace(after, tokens=(after.tokens[-1], secrets.token_hex(8)))
        after.write(self.folder / STATE)
        self._state = after
        self._tell(after)
        self._publish(after)

    def _tell(self, state: State) -> None:
        """Note the latest step in the data set's ledger, where a kill came in between, too."""
        if self._ledger is None:
            return
        holder = self._ledger.holder(state.reservation)
        if holder not in state.tokens:
            raise PrivacyRefused(
                "the data set's ledger knows a later step: this folder is an older copy, and may not go on; "
                "open a new stream, which is charged again"
            )
        if holder != state.tokens[-1]:
            self._ledger.resume(state.reservation, holder, state.tokens[-1])

    def _settle(self) -> None:
        """Do what a kill left undone, or refuse, where the data set's ledger does not know the latest step."""
        if self._ledger is None or self._ledger.holder(self._state.reservation) == self._state.tokens[-1]:
            return
        # privacy: a copy of this folder may have released that step, too, with other noise: none but one is shown
        with self._owned():
            pass

    def _publish(self, state: State) -> None:
        text = _text(self.plan, state).encode()
        files.write_atomically(self.folder / RELEASED, lambda file: file.write(text))

    @contextmanager
    def _owned(self) -> Iterator[State]:
        """The state as it is on the disk, for one process at a time, after what a kill left undone is done."""
        with files.owned(self.folder / STATE):
            self._state = self._read()
            self._tell(self._state)
            self._publish(self._state)
            yield self._state

    def _read(self) -> State:
        """The state, held against what was published. Errors: ArtifactError, PrivacyRefused."""
        path = self.folder / RELEASED
        if not path.is_file():
            raise ArtifactError(f"{path} is not there, so an older state could not be told; restore it")
        # read before the state: what another process adds in between is ahead in the state, as it should be
        public = files.text_in(path).splitlines()
        shape = (self.plan.bands - 1, self.plan.size)
        state = State.read(self.folder / STATE, self.plan.hash, shape)
        known = _text(self.plan, state).splitlines()
        if len(public) > len(known):
            # privacy: going on would release steps again, with other noise, beyond what was charged
            raise PrivacyRefused(
                f"{path} has more steps than the secret state: the state is an older copy, and may not go on; "
                "open a new stream, which is charged again"
            )
        if public != known[: len(public)]:
            raise ArtifactError(f"{path} is not what was released; restore a copy")
        return state

    def _reserved(self, given: Ledger | str | Path | None) -> Ledger | None:
        """The data set's ledger that the stream was charged to."""
        state = self._state
        if state.ledger is None:
            if given is not None:
                raise UsageError("the stream was not charged to a ledger when it was opened; leave it out")
            return None
        found = _ledger_of(state.ledger if given is None else given)
        assert found is not None
        found.holder(state.reservation)
        return found


def _again(state: State, day: str, mark: str) -> int:
    """The number of the step of that name, if its data are the same."""
    place = state.days.index(day)
    if not secrets.compare_digest(state.seen[place], mark):
        raise UsageError(f"'{day}' was released already, with other data; name this step otherwise")
    return place + 1


def _text(plan: ContinualPlan, state: State) -> str:
    """The public file: the same text for the same releases."""
    return str(
        means.table(plan.scales(), state.released, state.days).to_csv(index=False, lineterminator="\n")
    )


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make the folder; away with it if the charge is refused."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists, and a stream is never overwritten; name a new folder")
    there = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {(error.strerror or 'unknown').lower()}") from None
    files.check_writable(folder / PLAN)
    try:
        yield
    except BaseException:
        if not there:
            folder.rmdir()
        raise


def _ledger_of(given: Ledger | str | Path | None) -> Ledger | None:
    return given if given is None or isinstance(given, Ledger) else Ledger.load(given)


def _spent(shared: Ledger, plan: ContinualPlan) -> str:
    """Charge the stream to the data set's ledger; the hash of the entry."""
    if shared.cap is None or shared.place is None:
        raise UsageError("this ledger has no cap; open one for the data set with: privae ledger open")
    shared.spend([plan.charge_for(shared.unit, shared.cap.epsilon)])
    return shared.head
