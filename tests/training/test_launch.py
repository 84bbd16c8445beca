import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from privae.errors import UsageError
from privae.training import launch
from privae.training.launch import Place, device_of, loopback, place, processor

JOB = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def environment(monkeypatch):
    """A function that replaces torchrun's variables."""

    def put(**variables):
        for name in (*JOB, *MEETING):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    put()
    return put


@pytest.fixture
def two_cards(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_without_torchrun_a_process_is_alone(environment):
    assert place() == Place(0, 1, 0, 1)
    environment(**JOB)  # another launcher's variables, and nowhere to meet
    assert place().first


def test_a_place_is_what_torchrun_says(environment):
    environment(**JOB, **MEETING)
    assert place() == Place(3, 4, 1, 2)
    assert not place().first
    assert not place().one_machine
    assert Place(1, 2, 1, 2).one_machine


@pytest.mark.parametrize("wrong", [{"RANK": "4"}, {"RANK": "-1"}, {"WORLD_SIZE": "two"}, {"LOCAL_RANK": ""}])
def test_variables_that_are_not_torchruns_are_refused(environment, wrong):
    environment(**{**JOB, **MEETING, **wrong})
    with pytest.raises(UsageError, match="start the job with torchrun"):
        place()


def test_devices_are_named_as_torch_names_them(environment, two_cards):
    assert device_of("cpu") == torch.device("cpu")
    assert device_of(" CUDA ") == torch.device("cuda", 0)
    assert device_of("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize("wrong", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "mps", "cuda:2"])
def test_a_device_that_is_not_there_is_named_in_the_refusal(environment, two_cards, wrong):
    with pytest.raises(UsageError, match="there is no"):
        device_of(wrong)


def test_under_torchrun_every_process_takes_its_own_card(environment, two_cards):
    environment(**JOB, **MEETING)
    assert device_of("cuda") == torch.device("cuda", 1)
    with pytest.raises(UsageError, match="takes its own card"):
        device_of("cuda:0")
    environment(**{**JOB, "LOCAL_RANK": "2"}, **MEETING)
    with pytest.raises(UsageError, match="fewer processes"):
        device_of("cuda")


def test_no_card_is_a_wrong_call(environment, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="use the device cpu"):
        device_of("cuda")


def test_the_processes_of_one_machine_stay_on_it(monkeypatch):
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "chosen")
    with loopback(Place(0, 2, 0, 2)):
        assert os.environ["GLOO_SOCKET_IFNAME"] in ("lo", "lo0")
        assert os.environ["NCCL_SOCKET_IFNAME"] == "chosen"
    assert "GLOO_SOCKET_IFNAME" not in os.environ
    with loopback(Place(0, 4, 0, 2)):
        assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_a_machine_names_its_processor():
    assert processor() == processor() != ""


_FAULTS = """
import resource, torch
from privae.training.launch import keep_freed_memory

def used(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        blocks = [torch.ones(2**20) for _ in range(30)]  # 120 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

for what in ("leave", "keep"):
    if what == "keep":
        keep_freed_memory()
    used(3)
    print(used(5))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_kept_for_the_next_step():
    run = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True)
    leave, keep = map(int, run.stdout.split())
    assert 10 * keep < leave


def test_another_c_library_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(launch.ctypes, "CDLL", lambda _: SimpleNamespace())
    launch.keep_freed_memory()
