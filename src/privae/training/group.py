"""The same fit in several processes: each adds its partial sum; the first alone draws, charges, writes and speaks.

Every process runs the same program on the same records; torchrun starts them. Whatever is secret or happens
once (the coins that say who takes part, latent noise, a ledger's charge, the mechanism's noise, a file) is made by
the first process inside `same`, and the others are given the result. The rows of a batch are shared out by `part`,
and the clipped sums of the shares are added by `sum`.

Guarantee: what is released moves with a record as it does in one process. The shares are disjoint and cover the
batch, so a record is in one partial sum, clipped there; shares are whole blocks of a proved sum, so the blocks are
those of one process, and adding partial sums in float64 is another order of the same additions, each of which the
slack of the sum covers in any order (`privacy.gradients.slack`; empty shares add exact zeros). A block has the same
bits in every process, for processes of unlike processors, libraries or numbers of threads are refused: a record
that leaves moves others from one process to the next. One process draws all noise, so its variance is the
mechanism's, however many there are.
Equality with one process: whole blocks give the same partial sums bit for bit, hence the same total to about 1e-15
of the sum of their norms and, rounded to the mechanism's grid, almost always the same integers. Shares of single
rows (`block=1`, for sums that are not proved) have products of other shapes: the same up to float32 rounding.
privacy: partial sums, batches and coins are not noised; they are as secret as the records, and travel between
processes of one curator only: over the loopback interface of one machine, or a network that the curator trusts,
for torch.distributed neither encrypts nor authenticates (docs/how-to/several-processes.md).
"""

import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor

from privae import errors
from privae.errors import PrivaeError, ResourceError, UsageError
from privae.training.launch import TOLD, Place, device_of, loopback, place, processor

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

T = TypeVar("T")

_PATIENCE = timedelta(days=1)  # the others wait while the first process sums statistics
_JOINING = timedelta(minutes=10)
_HEARING = timedelta(seconds=10)  # for the first process to fail in the same way
_MEETINGS = count()
_FAILED = "failed/{}"  # keys of the store that the processes met in
_LOST = "another process of this job ended before its end; its own message, or torchrun's, says why"


@runtime_checkable
class Group(Protocol):
    """Processes that fit together; all of them call `same` and `sum` in the same order."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many processes there are."""
        ...

    @property
    def first(self) -> bool:
        """Whether this is the process that draws, charges, writes and speaks."""
        ...

    def same(self, make: Callable[[], T]) -> T:
        """What the first process makes, for all; `make` does not run in the others.

        Errors: a PrivaeError or KeyboardInterrupt of `make` is raised in all.
        """
        ...

    def sum(self, total: Tensor) -> Tensor:
        """The sum of every process's `total`, of one shape, on all of them; float64 where there are several."""
        ...

    def part(self, count: int, block: int = 1) -> slice:
        """This process's contiguous share of `count` rows, in whole blocks of `block` rows."""
        ...


@dataclass(frozen=True)
class _Alone:
    """One process: it makes everything itself, and has every row."""

    rank: int = 0
    size: int = 1
    first: bool = True

    def same(self, make: Callable[[], T]) -> T:
        return make()

    def sum(self, total: Tensor) -> Tensor:
        return total

    def part(self, count: int, block: int = 1) -> slice:  # noqa: ARG002  as the protocol says
        return slice(0, count)


ALONE: Group = _Alone()
"""One process."""


def share(count: int, block: int, rank: int, size: int) -> slice:
    """The contiguous share of rank among `count` rows, in whole blocks; the shares are disjoint and cover the rows.

    Edges: with fewer blocks than processes, some have an empty share; the last block may be short.

    >>> [share(10, 4, rank, 2) for rank in range(2)]
    [slice(0, 4, None), slice(4, 10, None)]
    """
    blocks = -(-count // block)
    begin, end = (blocks * edge // size * block for edge in (rank, rank + 1))
    return slice(min(begin, count), min(end, count))


def _within(device: torch.device) -> Group:
    """The group of the block around, or ALONE."""
    if not _HELD:
        return ALONE
    if _HELD[0].device != device:
        raise UsageError(
            "the processes of this job have met for another device; name the same one throughout"
        )
    return _HELD[0]


@contextmanager
def processes(device: str | torch.device = "cpu") -> Iterator[Group]:
    """The processes that torchrun started, or ALONE; a job ends when all have come to the end of the block.

    device: as for `device_of`; tensors on the CPU travel by gloo, those on cards by nccl. Within such a block
    another one, of the same device, is the same group, and does not end the job.
    Errors: an error that every process raises, or that the first one raised for all, is marked so in the others
    (`launch.told`), for one message is enough; UsageError where torch.distributed is missing, or in use already.
    ResourceError when another process ended.
    """
    found = place()
    if found.size == 1 or _HELD:
        yield _within(device_of(device))
        return
    with loopback(found):
        store = _met(found)
        try:
            with _joined(found, device, store) as group, _reporting(found, store):
                yield group
                group.sum(torch.zeros(1))  # nobody leaves while another may still need an answer
        except BaseException as error:
            agreed = _agreed(error, found, store)
            if agreed is error:
                raise
            raise agreed from error


@dataclass(frozen=True)
class _Several:
    """One of several processes; see Group."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def same(self, make: Callable[[], T]) -> T:
        if not self.first:
            return cast("T", self._receive())
        try:
            made = make()
        except (Exception, KeyboardInterrupt) as error:
            with suppress(ResourceError):
                self._send(_Raised(_told(error, 0)))
            raise
        self._send(made)
        return made

    def sum(self, total: Tensor) -> Tensor:
        # float64, so that adding partial sums costs nothing beside the sums themselves, in any order
        whole = total.detach().to(torch.float64, copy=True)
        with _reaching():
            dist.all_reduce(whole)
        return whole

    def part(self, count: int, block: int = 1) -> slice:
        return share(count, block, self.rank, self.size)

    def _send(self, made: object) -> None:
        file = io.BytesIO()
        packer = _Packer(file)
        packer.dump(made)
        forms = [(tensor.shape, tensor.dtype, tensor.device.type) for tensor in packer.tensors]
        with _reaching():
            dist.broadcast_object_list([(file.getvalue(), forms)], device=torch.device("cpu"))
            for tensor in packer.tensors:
                _broadcast(tensor.detach().contiguous())

    def _receive(self) -> Any:  # noqa: ANN401  whatever the first process made
        parcel: list[Any] = [None]
        with _reaching():
            dist.broadcast_object_list(parcel, device=torch.device("cpu"))
        packed, forms = parcel[0]
        tensors = [
            torch.empty(shape, dtype=dtype, device=self.device if kind != "cpu" else kind)
            for shape, dtype, kind in forms
        ]
        with _reaching():
            for tensor in tensors:
                _broadcast(tensor)
        made = _Unpacker(io.BytesIO(packed), tensors).load()
        if isinstance(made, _Raised):
            error = _error(made.text)
            error.add_note(TOLD)
            raise error
        return made


_HELD: list[_Several] = []  # of this process: at most one


@dataclass(frozen=True)
class _Raised:
    """What the others get in place of a result."""

    text: str


class _Packer(pickle.Pickler):
    """Pickles an object with its tensors taken out."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.tensors: list[Tensor] = []

    def persistent_id(self, obj: object) -> int | None:
        if type(obj) is not Tensor:
            return None
        self.tensors.append(obj)
        return len(self.tensors) - 1


class _Unpacker(pickle.Unpickler):
    """Puts the tensors back."""

    def __init__(self, file: io.BytesIO, tensors: list[Tensor]) -> None:
        super().__init__(file)
        self._tensors = tensors

    def persistent_load(self, pid: int) -> Tensor:
        return self._tensors[pid]


def _broadcast(tensor: Tensor) -> None:
    """Overwrite a contiguous tensor by the first process's, as bytes: every dtype travels."""
    if tensor.numel():
        dist.broadcast(tensor.view(-1).view(torch.uint8), src=0)


def _told(error: BaseException, rank: int) -> str:
    """The error as other processes may know it: its kind, and its text on further lines."""
    if isinstance(error, PrivaeError | KeyboardInterrupt):
        return f"{type(error).__name__}\n{error}"
    # privacy: the text of a foreign error may quote a cell, so it is told where it was raised only
    return f"PrivaeError\nprocess {rank} of this job failed; its own message says how"


def _error(text: str) -> BaseException:
    """Inverse of `_told`."""
    kind, _, message = text.partition("\n")
    if kind == KeyboardInterrupt.__name__:
        return KeyboardInterrupt(*filter(None, [message]))
    return cast("BaseException", getattr(errors, kind, PrivaeError)(message))


@contextmanager
def _reaching() -> Iterator[None]:
    """Say what it means when the others cannot be reached."""
    try:
        yield
    except RuntimeError as error:
        raise ResourceError(_LOST) from error


@contextmanager
def _reporting(found: Place, store: "Store") -> Iterator[None]:
    """Leave word of an error where the others find it when they cannot reach this process any more."""
    try:
        yield
    except BaseException as error:
        if str(error) != _LOST:
            with suppress(RuntimeError):
                store.set(_FAILED.format(found.rank), _told(error, found.rank))
        raise


def _agreed(error: BaseException, found: Place, store: "Store") -> BaseException:
    """The error to raise here: the first process takes over what another one failed with.

    Another process marks its error as told if the first one fails with the same, or if it only lost the others.
    """
    lost, own = str(error) == _LOST, _FAILED.format(0)
    with suppress(RuntimeError):
        if found.first:
            keys = [_FAILED.format(rank) for rank in range(1, found.size) if lost]
            others = [store.get(key).decode() for key in keys if store.check([key])]
            error = _error(others[0]) if others else error
            store.set(own, _told(error, 0))
        else:
            store.wait([own], _HEARING)
            if lost or store.get(own).decode() == _told(error, found.rank):
                error.add_note(TOLD)
    return error


def _alike(found: Place, device: torch.device, store: "Store") -> None:
    """Refuse processes whose arithmetic may differ in the last bits."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    capability = torch.backends.cpu.get_cpu_capability()
    own = (
        torch.__version__,
        capability,
        torch.get_num_threads(),
        torch.get_default_dtype(),
        device.type,
        card,
        processor(),
    )
    key = "kind/{}"
    with _reaching():
        store.set(key.format(found.rank), repr(own))
        kinds = {store.get(key.format(rank)).decode() for rank in range(found.size)}
    if len(kinds) > 1:
        # privacy: a record that leaves moves others to the next process, where they must give the same bits
        raise UsageError(
            "the processes of this job differ in device, processor, threads or torch; run it on like machines"
        )


def _met(found: Place) -> "Store":
    """What the processes know each other by: a place in the store that torchrun made."""
    if not dist.is_available():
        raise UsageError("this torch has no torch.distributed; run one process, without torchrun")
    if dist.is_initialized():
        raise UsageError("torch.distributed is in use already; let privae start it, once in a process")
    # a torch without torch.distributed has neither
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    with _reaching():
        store, _, _ = next(rendezvous("env://", found.rank, found.size, timeout=_JOINING))
        # a store outlives a meeting: the next one must not read what this one left there
        return PrefixStore(f"privae/{next(_MEETINGS)}", store)


@contextmanager
def _joined(found: Place, named: str | torch.device, store: "Store") -> Iterator[Group]:
    device = device_of(named)
    _alike(found, device, store)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.set_device(device)
    with _reaching():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            timeout=_PATIENCE,
            world_size=found.size,
            rank=found.rank,
            store=store,
            device_id=device if cuda else None,
        )
    clean, group = False, _Several(found.rank, found.size, device)
    _HELD.append(group)
    try:
        yield group
        clean = True
    finally:
        _HELD.remove(group)
        if clean or not cuda:  # nccl would wait for processes that are gone
            dist.destroy_process_group()
