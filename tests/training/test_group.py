"""Two processes and one: run as a program, this file is one of the two (gloo, on the loopback interface)."""

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from privae.errors import DataError, PrivacyRefused, UsageError
from privae.privacy.gradients import Summation, clipped_gradient_sum
from privae.privacy.mechanism import for_gradients
from privae.privacy.noise import NoiseSource
from privae.privacy.sampling import Poisson
from privae.training import group as grouping
from privae.training.group import ALONE, Group, processes, share
from privae.training.launch import TOLD, told
from privae.training.loop import Hands, Objective, Release, Schedule, train

JOB = {
    "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "TORCHELASTIC_USE_AGENT_STORE": "True",  # the test's store, which knows a free port, as torchrun's does
    "OMP_NUM_THREADS": "1",
}
BLOCK = 4
COUNTS = (0, 1, 5, 11)
PROVED = Summation("by rule", "proved", BLOCK)
SECRET = "Jane Doe, 1970"  # a foreign error may quote a cell
FIRST_FAILED = "process 0 of this job failed; its own message says how"


def distance(model, parts):
    return (model(parts[0]) - parts[1]).square().sum(-1)


def moved(model, parts):
    """A loss with a latent draw, whose numbers come last."""
    return (model(parts[0] + parts[2]) - parts[1]).square().sum(-1)


def small_model() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    public = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=public))
    return model


def records(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    public = torch.Generator().manual_seed(4)
    return torch.randn(count, 6, generator=public), torch.randn(count, 3, generator=public)


def clipped_sums(group: Group) -> list[torch.Tensor]:
    """The clipped sum of batches of every size, each in shares."""
    sums = []
    for count in COUNTS:
        mine = group.part(count, BLOCK)
        parts = tuple(part[mine] for part in records(count))
        sums.append(group.sum(clipped_gradient_sum(small_model(), distance, parts, 0.5, PROVED)))
    return sums


def trained(group: Group) -> dict[str, torch.Tensor]:
    """Weights after steps with coins, latent draws and noise; only the first process's key is the right one."""
    model = small_model()
    with torch.no_grad():
        model[0].bias += group.rank  # the first one's weights are what all begin with
    charged: list[object] = []
    noise = NoiseSource(bytes([7 + group.rank]) * 32)
    mechanism = for_gradients(0.5, 0.8, sum(p.numel() for p in model.parameters()), PROVED.slack)
    release = Release(Poisson(0.3), mechanism, noise, charged.append)
    schedule = Schedule(6, 12.0, 1e-2, block=2, average=0.5)
    train(model, Objective(moved, 6, PROVED), records(40), release, schedule, hands=Hands(group))
    return {
        **{name: weight.detach() for name, weight in model.named_parameters()},
        "charged": torch.tensor(len(charged)),
        "drawn": torch.tensor(noise.numbers_drawn),
    }


def shared(group: Group) -> dict[str, object]:
    """What `same` gives for objects of every kind, and how often their maker ran."""
    runs = []
    made = {
        "tensors": [torch.arange(5.0), torch.tensor(True), torch.zeros(0, 3), torch.eye(2).T.to(torch.bfloat16)],
        "array": np.arange(3),
        "text": f"from {group.rank}",
        "none": None,
    }  # fmt: skip

    def make():
        runs.append(1)
        return made

    got = group.same(make)
    return {**got, "runs": len(runs), "itself": got is made}


def added(group: Group) -> list[torch.Tensor]:
    own = torch.full((3,), 2.0**-30 if group.first else 1.0)
    return [group.sum(own), own, group.sum(torch.tensor([group.rank + 1], dtype=torch.int64))]


def thrown(error: BaseException):
    def make():
        raise error

    return make


def by_one(group: Group) -> None:
    if not group.first:
        raise DataError("the file of process 1 does not read")
    group.sum(torch.zeros(2))


def by_all(group: Group) -> None:
    raise DataError("the file does not read")


def within(group: Group) -> tuple[bool, int]:
    with processes() as same:
        pass
    added = int(group.sum(torch.ones(1)))
    with pytest.raises(UsageError, match="another device"), processes(torch.device("meta")):
        pass
    return same is group, added


SCENARIOS = {
    "clipped sums": clipped_sums,
    "trained": trained,
    "shared": shared,
    "added": added,
    "refused": lambda group: group.same(thrown(PrivacyRefused("the cap is reached"))),
    "interrupted": lambda group: group.same(thrown(KeyboardInterrupt())),
    "foreign": lambda group: group.same(thrown(RuntimeError(SECRET))),
    "by one": by_one,
    "by all": by_all,
    "within": within,
    "still works": lambda group: int(group.sum(torch.ones(1))),
}


def outcome(scenario):
    try:
        with processes() as group:
            return scenario(group)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the outcome is what is compared
        return type(error).__name__, str(error), told(error)


def unlike() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grouping, "processor", lambda: f"processor of {os.environ['RANK']}")
        return outcome(lambda group: group.size)


def left_alone(group: Group) -> None:
    if not group.first:
        os.kill(os.getpid(), signal.SIGKILL)
    group.sum(torch.zeros(2))


def program(folder: Path) -> None:
    """What each of the two processes does."""
    outcomes = {name: outcome(scenario) for name, scenario in SCENARIOS.items()}
    outcomes["unlike"] = unlike()
    target = folder / os.environ["RANK"]
    torch.save(outcomes, target)
    torch.save({**outcomes, "left alone": outcome(left_alone)}, target)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Outcomes by process."""
    folder = tmp_path_factory.mktemp("two")
    store = dist.TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=60), wait_for_workers=False)
    own = [{"RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": str(store.port)} for rank in "01"]
    started = [
        subprocess.Popen([sys.executable, __file__, str(folder)], env={**os.environ, **JOB, **rank})
        for rank in own
    ]
    try:
        codes = [process.wait(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    assert codes == [0, -signal.SIGKILL]  # the last scenario
    return [torch.load(folder / str(rank), weights_only=False) for rank in range(2)]


def test_the_clipped_sum_of_two_processes_is_that_of_one(ran):
    for count, alone, *two in zip(
        COUNTS, clipped_sums(ALONE), *(one["clipped sums"] for one in ran), strict=True
    ):
        assert two[0].dtype == torch.float64
        assert torch.equal(two[0], two[1])
        assert alone.any() == (count > 0)
        torch.testing.assert_close(two[0], alone, rtol=1e-12, atol=1e-14)
        assert torch.equal((two[0] * 2**24).round(), (alone * 2**24).round())


def test_two_processes_train_as_one_and_the_first_alone_charges_and_draws(ran):
    alone, first, other = trained(ALONE), *(one["trained"] for one in ran)
    assert (first.pop("charged"), alone.pop("charged"), other.pop("charged")) == (3, 3, 0)
    assert first.pop("drawn") == alone.pop("drawn") > 0
    assert other.pop("drawn") == 0
    for name, weight in alone.items():
        assert torch.equal(first[name], other[name])
        torch.testing.assert_close(first[name], weight, rtol=1e-6, atol=1e-7)
    assert not torch.equal(first["0.bias"], small_model()[0].bias)


def test_all_get_what_the_first_process_made_and_no_other_makes_it(ran):
    first, other = (one["shared"] for one in ran)
    assert (first["runs"], other["runs"]) == (1, 0)
    assert first["itself"]
    for got in (first, other):
        assert [tensor.dtype for tensor in got["tensors"]] == [
            torch.float32,
            torch.bool,
            torch.float32,
            torch.bfloat16,
        ]
        assert torch.equal(got["tensors"][0], torch.arange(5.0))
        assert got["tensors"][1].item() is True
        assert got["tensors"][2].shape == (0, 3)
        assert torch.equal(got["tensors"][3], torch.eye(2).bfloat16())
        assert got["array"].tolist() == [0, 1, 2]
        assert (got["text"], got["none"]) == ("from 0", None)


def test_partial_sums_are_added_in_float64_and_left_as_they_are(ran):
    for rank, one in enumerate(ran):
        total, own, count = one["added"]
        assert total.dtype == count.dtype == torch.float64
        assert total.tolist() == [1 + 2.0**-30] * 3  # float32 would lose the smaller one
        assert own.tolist() == [1.0 if rank else 2.0**-30] * 3
        assert count.item() == 3


@pytest.mark.parametrize(
    ("name", "kinds", "message"),
    [
        ("refused", ("PrivacyRefused", "PrivacyRefused"), "the cap is reached"),
        ("interrupted", ("KeyboardInterrupt", "KeyboardInterrupt"), ""),
        ("by all", ("DataError", "DataError"), "the file does not read"),
        ("by one", ("DataError", "DataError"), "the file of process 1 does not read"),
        ("unlike", ("UsageError", "UsageError"), "run it on like machines"),
    ],
)
def test_an_error_ends_all_processes_and_the_first_one_tells_it(ran, name, kinds, message):
    first, other = (one[name] for one in ran)
    assert (first[0], other[0]) == kinds
    assert message in first[1]
    assert other[1] == first[1]
    assert (first[2], other[2]) == (False, True)


def test_the_text_of_a_foreign_error_stays_in_its_process(ran):
    first, other = (one["foreign"] for one in ran)
    assert first == ("RuntimeError", SECRET, False)
    assert other == ("PrivaeError", FIRST_FAILED, True)


def test_within_the_group_the_group_is_the_same(ran):
    assert [one["within"] for one in ran] == [(True, 2), (True, 2)]


def test_a_torch_distributed_that_others_use_is_left_to_them(monkeypatch):
    for name, value in {**JOB, "RANK": "0", "LOCAL_RANK": "0", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    with pytest.raises(UsageError, match="in use already"), processes():
        raise AssertionError


def test_processes_may_meet_again_after_an_error(ran):
    assert [one["still works"] for one in ran] == [2, 2]


def test_a_process_whose_partner_is_killed_does_not_wait(ran):
    kind, message, silent = ran[0]["left alone"]
    assert (kind, silent) == ("ResourceError", False)
    assert "another process of this job ended" in message


def test_one_process_makes_everything_itself_and_has_every_row():
    with processes() as group:
        assert group is ALONE
        assert isinstance(group, Group)
    total = torch.ones(2)
    assert ALONE.sum(total) is total
    assert ALONE.same(lambda: 3) == 3
    assert ALONE.part(7, 4) == slice(0, 7)
    with pytest.raises(DataError):
        ALONE.same(thrown(DataError("no")))


def test_a_device_that_is_not_there_is_refused_before_anything(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no cuda device"), processes("cuda"):
        raise AssertionError


@given(st.integers(0, 300), st.integers(1, 20), st.integers(1, 9))
def test_shares_are_whole_blocks_that_cover_all_rows_once_and_evenly(count, block, size):
    shares = [share(count, block, rank, size) for rank in range(size)]
    assert [row for one in shares for row in range(count)[one]] == list(range(count))
    assert all(one.start % block == 0 or one.start == count for one in shares)
    blocks = [-(-(one.stop - one.start) // block) for one in shares]
    assert max(blocks) - min(blocks) <= 1


def test_a_note_tells_a_told_error_from_another():
    error = UsageError("wrong")
    assert not told(error)
    error.add_note(TOLD)
    assert told(error)


if __name__ == "__main__":
    program(Path(sys.argv[1]))
