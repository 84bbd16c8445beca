"""Secret coins: an AES-256-CTR keystream, and exactly rounded Gaussian integers drawn from it."""

import os
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from queue import SimpleQueue
from typing import ClassVar, NoReturn

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB, GCM
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from privae.errors import PrivacyRefused, ResourceError, UsageError
from privae.gaussian.pairs import SLACK, WORD, Desk, candidates, compiled, resolved

Drawn = Float64[Tensor, "*shape"] | Int64[Tensor, "*shape"]

_PAIRS = 2**14  # drawn at a time: their temporaries, 1 MiB, stay in the cache
_MAX_WORDS = 2**32  # of one key
_MOST_HIDDEN = 2**32  # numbers of a sum whose size is a secret, as they are told
_CHUNK = 2 * _PAIRS  # numbers that a thread hands over at a time
_ZEROS = bytes(16 * _PAIRS)


def keyed_words(key: bytes, blocks: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Secret words that follow from a key and from blocks of 128 bits: [n, 2] -> [n], AES-256 of every block.

    Equal blocks give equal words; to whoever does not know the key, different ones give independent uniform words.
    """
    encryptor = Cipher(AES256(key), ECB()).encryptor()  # noqa: S305  single blocks, as a pseudorandom function
    made = encryptor.update(np.ascontiguousarray(blocks, dtype="<u8").tobytes()) + encryptor.finalize()
    return np.frombuffer(made, dtype="<u8").reshape(-1, 2)[:, 0]


def keystream(key: bytes, nonce: int, count: int) -> NDArray[np.uint64]:
    """`count` words that follow from a key and a number below 2^64 that names their use: AES-256 in counter mode."""
    stream = Cipher(AES256(key), CTR(struct.pack(">QQ", nonce, 0))).encryptor()
    return np.frombuffer(stream.update(bytes(8 * count)), dtype="<u8")


class NoiseSource:
    """A stream of secret coins under one fresh 256-bit key.

    The key comes from the operating system unless a test passes one; `fixed` tells which. It is never stored
    on the object, printed, pickled or copied. The counter only moves on, so no part of the keystream is used
    twice; a forked child, which would repeat its parent's coins, is refused. Threads may share a source.

    Guarantee: integers are distributed as an ideal Gaussian rounded half up, up to a total variation of
        TV_PER_NUMBER each (see `fill`), if the keystream is uniform. Assumed, not proved: that AES-256 is a
        pseudorandom permutation. Its values at distinct counters then differ from uniform by at most
        b^2 / 2^129 over b blocks: 2^-67 for the 2^31 blocks that one key gives, after which the next 32 bytes
        of its own keystream, used for nothing else, take its place. How long a draw takes is not protected.
    hidden: of the numbers drawn, those of sums whose very size is a secret; `numbers_told` tells a bound of them.
    Errors: UsageError for a key that is not 32 bytes; PrivacyRefused after a fork, and for a copy or a pickle.

    >>> NoiseSource(bytes(32))
    NoiseSource(fixed=True, numbers_drawn=0)
    """

    TV_PER_NUMBER: ClassVar[float] = 2.0**-100

    def __init__(self, key: bytes | None = None) -> None:
        if key is not None and len(key) != 32:
            raise UsageError("the key of a NoiseSource is 32 bytes; leave it out to draw a secret one")
        self.fixed, self.numbers_drawn, self.hidden = key is not None, 0, 0
        self._start(os.urandom(32) if key is None else key)
        self._parent: NoiseSource | None = None
        self._process, self._lock = os.getpid(), threading.RLock()
        self._desk: Desk | None = None

    def __repr__(self) -> str:
        return f"NoiseSource(fixed={self.fixed}, numbers_drawn={self.numbers_drawn})"

    def __reduce__(self) -> NoReturn:
        # privacy: a copy would draw the same coins again.
        raise PrivacyRefused("a NoiseSource is never copied or written to disk; make a new one instead")

    @property
    def numbers_told(self) -> int:
        """`numbers_drawn`, for whoever may read it: with a public bound in the place of those that are hidden."""
        return self.numbers_drawn + (max(_MOST_HIDDEN - self.hidden, 0) if self.hidden else 0)

    def child(self) -> "NoiseSource":
        """A source of its own under the next 32 bytes of this keystream; its numbers count here as well."""
        source = NoiseSource(self.words(4).tobytes())
        source.fixed, source._parent = self.fixed, self
        return source

    def words(self, count: int) -> NDArray[np.uint64]:
        """The next `count` words of the keystream, [count]."""
        raw = bytearray(8 * count) + SLACK
        self._draw(bytes(8 * count), raw)
        return np.frombuffer(raw, dtype="<u8", count=count)

    def bernoulli(self, count: int, rate: float) -> NDArray[np.bool_]:
        """Independent coins, each true with probability floor(rate 2^64) / 2^64, [count].

        Guarantee: the probability is never above `rate`, and the comparison is exact, so Poisson sampling
        includes a unit no more often than was charged (amplification is monotone in the rate).
        Edges: rate 0 -> all false; rate 1 -> all true.
        Errors: UsageError for a rate outside [0, 1].
        """
        if not 0 <= rate <= 1:
            raise UsageError("a sampling rate lies between 0 and 1")
        words = self.words(count)
        return words < np.uint64(int(rate * 2.0**64)) if rate < 1 else np.ones(count, dtype=np.bool_)

    def gaussian_integers(self, count: int, std: float) -> NDArray[np.int64]:
        """Independent draws of floor(Y + 1/2) with Y ~ N(0, std^2), [count]; everything else as in `fill`.

        >>> NoiseSource(bytes(32)).gaussian_integers(5, 3.0)
        array([-2, -5,  1, -1,  1])
        """
        out = torch.empty(count, dtype=torch.int64, device="cpu")
        self.fill(out, std)
        return out.numpy()

    def fill(self, out: Drawn, std: float) -> None:
        """Fill `out` with independent draws of floor(Y + 1/2), Y ~ N(0, std^2), exact integers.

        Shapes: out, float64 or int64, of any shape, on any device.
        Guarantee: exact. A pair of ideal normals is y = std sqrt(-2 ln |X|) (cos, sin)(pi T) with X, T uniform
            on the real interval (-1, 1), whose binary digits are keystream bits, drawn only as far as they are
            needed. Float64 gives a candidate, and a bound of its distance from y whatever the digits not drawn
            (proof at `pairs.candidates`). If no half-integer lies that close, every continuation of the digits rounds
            to the candidate. Otherwise digits and precision grow until a bound proved in the same way excludes
            every half-integer (`pairs.resolved`), which ends with probability 1. So the result is a function of the
            ideal pair alone: no tail cut, no gap, no floating-point law. TV_PER_NUMBER pays for |Y| > 40 std
            (less than e^-799), which need not fit in `out`.
        Edges: std 0 -> zeros, not counted; std below 1/128, where 40 std rounds to 0 -> zeros. About std 2^-45 of
            the pairs take the exact path (from 2^46 on, all), 0.1 ms each: above 2^32 it is slow, not wrong.
        Errors: UsageError for a negative or non-finite std, or 40 std >= 2^52 (2^62 for int64).
        Source: lazy digits: Karney 2013, arXiv:1303.6257.
        """
        most = 2.0**52 if out.dtype == torch.float64 else 2.0**62
        if not 0 <= std * 40 < most:
            raise UsageError("the noise does not fit its integers; choose a coarser grid")
        _check_process(self._process)
        self._count(out.numel() if std else 0)
        if std < 2.0**-7:
            out.detach().zero_()
            return
        plain = out.dtype == torch.float64 and out.device.type == "cpu" and out.is_contiguous()
        values = out.detach().view(-1).numpy() if plain else np.empty(out.numel())
        if std * 40 >= 2.0**52:
            digits = self.words(values.size + values.size % 2).view(np.int64).reshape(-1, 2)
            values = np.array([self._resolved(int(u), int(t), std) for u, t in digits], np.int64).ravel()
        else:
            work = partial(self._blocks, values, std)
            work() if compiled(self.numbers_drawn) else _serially(work)
        if not plain:
            out.detach().copy_(torch.from_numpy(values[: out.numel()]).view(out.shape))

    def _start(self, key: bytes) -> None:
        # GCM is counter mode; it alone reaches the wide instructions of the processor, which halve the time.
        self._stream = Cipher(AES256(key), GCM(bytes(12))).encryptor()
        self._words_drawn = 0

    def _draw(self, zeros: bytes | memoryview, into: bytearray) -> None:
        """Write the next len(zeros) bytes of the keystream to the head of `into`."""
        _check_process(self._process)
        count = len(zeros) // 8
        if count > _MAX_WORDS - 4:
            raise ResourceError("more coins were asked for at once than one key gives; draw them in parts")
        with self._lock:
            if self._words_drawn + count > _MAX_WORDS - 4:
                self._start(self._stream.update(bytes(32)))
            self._words_drawn += count
            self._stream.update_into(zeros, into)

    def _count(self, numbers: int) -> None:
        with self._lock:
            self.numbers_drawn += numbers
        if self._parent is not None:
            self._parent._count(numbers)

    def _blocks(self, values: NDArray[np.float64], std: float) -> None:
        for start in range(0, values.size, 2 * _PAIRS):
            self._block(values[start : start + 2 * _PAIRS], std)

    def _block(self, values: NDArray[np.float64], std: float) -> None:
        """Fill values, [at most 2 _PAIRS]."""
        pairs = (values.size + 1) // 2
        rounded = values.reshape(2, pairs) if values.size % 2 == 0 else np.empty((2, pairs))
        with self._lock, np.errstate(all="ignore"):
            desk = self._desk = self._desk or Desk(_PAIRS)
            desk.lay_out(pairs)
            self._draw(memoryview(_ZEROS)[: 16 * pairs], desk.raw)
            for pair in candidates(desk, std, rounded, compiled(self.numbers_drawn)):
                rounded[:, pair] = self._resolved(int(desk.uniform[pair]), int(desk.turn[pair]), std)
        if values.size % 2:
            values[:] = rounded.ravel()[:-1]

    def _resolved(self, uniform: int, turn: int, std: float) -> tuple[int, int]:
        """Both integers of a pair, from as many further words of its uniform and its turn as it takes."""
        words, pair = 1, None
        while pair is None:
            more = self.words(2)
            uniform, turn = uniform << WORD | int(more[0]), turn << WORD | int(more[1])
            words += 1
            pair = resolved(uniform, turn, words, std)
        return pair


def _check_process(process: int) -> None:
    if os.getpid() != process:
        # privacy: parent and child hold the same key and counter.
        raise PrivacyRefused("a NoiseSource does not survive a fork; make one inside each process")


def _serially(work: Callable[[], None]) -> None:
    """Run work in a thread whose torch operations stay in it: they are too short for a team of threads.

    Changing the number of the calling thread instead would build its team anew each time.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        work()
        return
    _WORKER[:] = _WORKER or [ThreadPoolExecutor(1, "privae noise", _stay_alone)]
    _WORKER[0].submit(work).result()
    torch.set_num_threads(threads)  # else the thread's own number would be that of threads to come


def _stay_alone() -> None:
    torch.get_num_threads()  # torch gives a thread its number when first asked, and would undo the next line
    torch.set_num_threads(1)


_WORKER: list[ThreadPoolExecutor] = []
os.register_at_fork(after_in_child=_WORKER.clear)  # threads do not live on in a forked process


@contextmanager
def ahead(source: NoiseSource, std: float, numbers: int) -> Iterator["_Ahead"]:
    """Noise of one std, of which a thread keeps `numbers` numbers ready (8 bytes each) while other work runs.

    They are those of source.child(), in its order, whatever the timing; at the end of the block, what is left is
    thrown away unseen.
    Errors: UsageError from `fill` for another std, or after the block; PrivacyRefused in a forked process; what
        goes wrong in the thread is raised by the next `fill`.
    """
    with closing(_Ahead(source.child(), std, numbers)) as noise:
        yield noise


class _Ahead:
    """The side of `ahead` that gives; chunks go round between two queues."""

    def __init__(self, source: NoiseSource, std: float, numbers: int) -> None:
        self._source, self._std, self._lock = source, std, threading.Lock()
        self._free: SimpleQueue[Tensor | None] = SimpleQueue()
        self._ready: SimpleQueue[Tensor | BaseException] = SimpleQueue()
        self._closed, self._used = False, 0
        self._chunk: Tensor | None = None
        with torch.inference_mode(mode=False):
            for chunk in torch.empty(-(-numbers // _CHUNK) + 1, _CHUNK, dtype=torch.float64, device="cpu"):
                self._free.put(chunk)
        threads, started = torch.get_num_threads(), threading.Event()
        self._thread = threading.Thread(
            target=self._produce, args=(started,), name="privae noise", daemon=True
        )
        self._thread.start()
        started.wait()
        torch.set_num_threads(threads)  # else the thread's own number would be that of threads to come

    @property
    def fixed(self) -> bool:
        return self._source.fixed

    @property
    def numbers_drawn(self) -> int:
        return self._source.numbers_drawn

    def fill(self, out: Drawn, std: float) -> None:
        """Fill `out` with the next numbers, waiting for the thread where they are not ready yet."""
        if std != self._std or self._closed:
            raise UsageError("noise is drawn ahead for one std and one block; ask its source for other noise")
        _check_process(self._source._process)  # the thread does not live on in a forked process
        flat = out.detach().view(-1) if out.is_contiguous() else torch.empty(out.numel(), dtype=out.dtype)
        done = 0
        with self._lock:
            while done < flat.numel():
                chunk = self._present()
                taken = min(flat.numel() - done, _CHUNK - self._used)
                flat[done : done + taken].copy_(chunk[self._used : self._used + taken])
                self._used, done = self._used + taken, done + taken
        if not out.is_contiguous():
            out.detach().copy_(flat.view(out.shape))

    def close(self) -> None:
        """End the thread, after the chunk that it is at."""
        self._closed = True
        self._free.put(None)
        self._ready.put(UsageError("the block that drew noise ahead has ended; ask its source for noise"))
        self._thread.join()

    def _present(self) -> Tensor:
        """The chunk that numbers are taken from."""
        if self._chunk is None or self._used == _CHUNK:
            if self._chunk is not None:
                self._free.put(self._chunk)
            self._chunk, self._used = None, 0
            item = self._ready.get()
            if not isinstance(item, Tensor):
                self._ready.put(item)  # for the next one who asks
                raise item
            self._chunk = item
        return self._chunk

    def _produce(self, started: threading.Event) -> None:
        _stay_alone()
        started.set()
        try:
            while (chunk := self._free.get()) is not None and not self._closed:
                self._source.fill(chunk, self._std)
                self._ready.put(chunk)
        except BaseException as error:  # noqa: BLE001  raised where the numbers are asked for
            self._ready.put(error)
