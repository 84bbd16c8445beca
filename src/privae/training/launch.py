"""What a process knows of its job before it meets the others: its place, its machine, whose word an error is.

Torch is imported only where it is asked, for the command line wants to know who speaks before it waits for torch.
"""

import ctypes
import os
import platform
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from privae.errors import UsageError

if TYPE_CHECKING:
    import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, in glibc's malloc.h
_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

TOLD = "the first process of this job says it"
"""Note on an error that the first process tells, too, so that the others need not."""


@dataclass(frozen=True)
class Place:
    """A process among those of its job, and among those of its machine; numbers start at 0."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    @property
    def one_machine(self) -> bool:
        """Whether all processes of the job are on this machine."""
        return self.size == self.local_size


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, for its next use; for programs, not for a library to call.

    glibc gives freed blocks of megabytes back to the system, and a training asks for the same ones, page by page, at
    the next step. What other C libraries do is left as it is.
    """
    with suppress(OSError, AttributeError, TypeError):
        tune = ctypes.CDLL(None).mallopt
        tune(_MMAP_THRESHOLD, 2**25)
        tune(_TRIM_THRESHOLD, 2**31 - 1)


def place() -> Place:
    """Where torchrun put this process; the only one of its job where torchrun's variables are not all there.

    Errors: UsageError for variables that are no numbers, or do not fit each other.
    """
    if any(name not in os.environ for name in _NEEDED):
        return Place()
    try:
        rank, size = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
        local = (
            int(os.environ.get(f"LOCAL_{name}", default))
            for name, default in (("RANK", rank), ("WORLD_SIZE", 0))
        )
        found = Place(rank, size, *local)
    except ValueError:
        raise UsageError(_WRONG) from None
    if not (0 <= found.rank < found.size and found.local_rank >= 0):
        raise UsageError(_WRONG)
    return found


_WRONG = "RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE are not torchrun's numbers; start the job with torchrun"


def told(error: BaseException) -> bool:
    """Whether the first process tells this error of another one."""
    return TOLD in getattr(error, "__notes__", ())


def device_of(text: "str | torch.device") -> "torch.device":
    """The device that a person names: cpu, cuda, or one card of several, cuda:1; a device of torch is itself.

    Under torchrun every process takes the card of its own number on its machine.
    Errors: UsageError for another name, or a card that is not there.
    """
    import torch

    if isinstance(text, torch.device):
        return text
    kind, _, number = text.strip().lower().partition(":")
    if kind == "cpu" and not number:
        return torch.device("cpu")
    if kind != "cuda" or not (number.isdecimal() or text.strip().lower() == "cuda"):
        raise UsageError(f'there is no device "{text}"; name cpu, cuda, or one card: cuda:1')
    if not torch.cuda.is_available():
        raise UsageError("torch sees no cuda device here; use the device cpu, or install torch with cuda")
    found = place()
    if number and found.size > 1:
        raise UsageError(
            "under torchrun every process takes its own card; name the device cuda, without a number"
        )
    index = int(number or found.local_rank)
    if index >= torch.cuda.device_count():
        raise UsageError(
            f"there is no card {index} here; name another, or start fewer processes with --nproc-per-node"
        )
    return torch.device("cuda", index)


@contextmanager
def loopback(found: Place) -> Iterator[None]:
    """Keep the processes of one machine on its loopback interface, unless the environment names another."""
    own = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")] if found.one_machine else []
    with ExitStack() as undo:
        for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            if own and variable not in os.environ:
                # privacy: partial sums are not noised, and must not be offered on a network
                os.environ[variable] = own[0]
                undo.callback(os.environ.pop, variable, None)
        yield


def processor() -> str:
    """The processor, as far as its arithmetic may depend on it."""
    with suppress(OSError):
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
        telling = ("model name", "flags", "CPU implementer", "CPU part", "Features")
        return ";".join(line for line in first.splitlines() if line.startswith(telling))
    return f"{platform.machine()} {platform.processor()}"
