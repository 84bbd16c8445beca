"""The one door to web3: heads of ledgers in a contract on a blockchain, through a node that never sees a key.

privacy: what is sent is a transaction with a name, a size and a root (`blinded`), and no more; it is signed here. The
node is believed on what it reads from the chain; what that means is written in docs/how-to/anchor.md. Errors name the
node by host alone, for its URL may hold a password or a token; texts of the node are not repeated.
"""

import contextlib
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from privae.custody.blinded import Head
from privae.errors import ArtifactError, PrivaeError, ProtocolError, ResourceError, UsageError

COIN = 10**18
"""Wei in one coin of a chain."""

_ADDRESS = re.compile("0x[0-9a-fA-F]{40}")
_POLL, _PATIENCE = 1.0, 600.0  # seconds between two looks at the chain, and until we stop waiting
_ANSWER = 30.0  # seconds for one answer of a node
_MOST = 100_000  # heads of one ledger
_WRITERS = 64  # as in heads.vy
_REASONS = {
    "not a writer": "this account is no writer of the contract; writers are fixed when a contract is made",
    "sizes only grow": "the contract has a head of as many entries or more by now; look with: privae ledger anchored",
    "insufficient funds": "the account has too few coins of this chain to pay for the transaction; send it some",
    "nonce too low": "another transaction of this account came first; run again",
    "underpriced": "the node wants a higher fee, or has an earlier transaction of this account; run again later",
    "already known": "the node has this transaction already; run again when it is in a block",
}


@dataclass(frozen=True)
class Chain:
    """A blockchain, as one node tells it. place: the node's scheme, host and port; id: EIP-155."""

    place: str
    id: int
    _web3: Any = field(repr=False, compare=False)


@dataclass(frozen=True)
class Account:
    """An account that signs."""

    address: str
    _signer: Any = field(repr=False, compare=False)


@dataclass(frozen=True)
class Terms:
    """confirmations: blocks that must hold a transaction, its own included; most: coins that it may cost."""

    confirmations: int = 1
    most: Decimal = Decimal("0.05")

    def __post_init__(self) -> None:
        if self.confirmations < 1 or not self.most.is_finite() or not 0 < self.most < COIN:
            raise UsageError("--confirmations is 1 or more, and --max-fee a positive number of coins")


@dataclass(frozen=True)
class Receipt:
    """A transaction in a block. cost: in coins of the chain; contract: which it made, or called."""

    transaction: str
    contract: str
    block: int
    cost: Decimal


@dataclass(frozen=True)
class Anchored:
    """A head as the chain has it. time: seconds since 1970, of its block; root: blinded, 32 bytes."""

    size: int
    root: bytes
    time: int
    block: int
    transaction: str
    confirmations: int


def library() -> Any:  # noqa: ANN401  a module
    """web3. Errors: UsageError that names the extra where it is not installed."""
    limit = sys.getrecursionlimit()
    try:
        import web3
    except ImportError:
        raise UsageError("anchoring needs an extra: pip install 'privae[evm]'") from None
    finally:
        # it is set to 100,000, with which a text of many brackets ends Python where a RecursionError was due
        sys.setrecursionlimit(limit)
    return web3


def chain(rpc: str, pinned: int | None = None) -> Chain:
    """The chain that a node (http or https) belongs to. Errors: UsageError for another chain id than the pinned one."""
    place, web3 = place_of(rpc), library()
    with _asking(place):
        from web3.middleware import ExtraDataToPOAMiddleware

        asked = web3.Web3(_provider(rpc))
        # blocks of consortia carry signatures in a field that web3 takes to be shorter
        asked.middleware_onion.inject(ExtraDataToPOAMiddleware, layer=0)
        found = Chain(place, int(asked.eth.chain_id), asked)
    if pinned is not None and found.id != pinned:
        raise UsageError(
            f"the node at {place} belongs to chain {found.id}, not to chain {pinned}; check --rpc"
        )
    return found


def place_of(rpc: str) -> str:
    """Scheme, host and port of a node's URL: what may be shown of it. Errors: UsageError, which quotes nothing."""
    try:
        parts = urlsplit(rpc)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host or parts.scheme not in ("http", "https") or not host.isprintable():
        raise UsageError("--rpc is the address of a node: http://HOST:PORT, or https://HOST/...")
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}{'' if port is None else f':{port}'}"


def account(on: Chain, key: bytes) -> Account:
    """The account of a private key (32 bytes, see `accounts`)."""
    with _asking(on.place):
        signer = on._web3.eth.account.from_key(key)
        return Account(signer.address, signer)


def address_of(text: str) -> str:
    """An address with its checksum (EIP-55). Errors: UsageError for none, or for one whose checksum tells of a typo."""
    if _ADDRESS.fullmatch(text) is None:
        raise UsageError("an address is 0x and 40 hexadecimal digits")
    made = str(library().Web3.to_checksum_address(text.lower()))
    if text not in (made, made.lower()) and text[2:] != made[2:].upper():
        raise UsageError(
            f"{text} has a wrong checksum: a digit or a letter's case is mistyped; copy it again"
        )
    return made


def deploy(on: Chain, by: Account, writers: Sequence[str], terms: Terms) -> Receipt:
    """Make a contract that stores heads of the writers, who stay the same for ever.

    Errors: UsageError for no writer, over 64, or a fee past terms.most.
    """
    named = [address_of(writer) for writer in dict.fromkeys(writers)]
    if not 1 <= len(named) <= _WRITERS:
        raise UsageError(f"a contract has between 1 and {_WRITERS} writers; name each once with --writer")
    with _asking(on.place):
        made = on._web3.eth.contract(abi=_compiled()["abi"], bytecode=_compiled()["bytecode"])
        receipt = _sent(on, by, made.constructor(named), terms)
        address = address_of(str(receipt["contractAddress"]))
        _contract(on, address)
        return _receipt(on, receipt, address)


def anchor(on: Chain, by: Account, contract: str, head: Head, terms: Terms) -> Receipt | None:
    """Store a head in a contract, and read it back; None, and nothing is sent, if it is there already.

    Errors: UsageError for a foreign contract, an account that is no writer, or a fee past terms.most;
    ArtifactError where the chain has a head of more entries, or another of as many.
    """
    with _asking(on.place):
        called = _contract(on, contract)
        if not called.functions.writers(by.address).call():
            raise UsageError(
                f"the account {by.address} is no writer of {called.address}; {_REASONS['not a writer']}"
            )
        last = _newest(on, called, by.address, head.log)
        if last is not None and (last.size, last.root) == (head.size, head.root):
            return None
        if last is not None and last.size >= head.size:
            raise ArtifactError(
                "the chain has a head of more entries, or another one of as many; nothing was sent"
            )
        receipt = _sent(on, by, called.functions.anchor(head.log, head.size, head.root), terms)
        now = _newest(on, called, by.address, head.log)
        if now is None or (now.size, now.root) != (head.size, head.root):
            raise ProtocolError(
                f"the node at {on.place} does not show the head that it took; ask another node"
            )
        return _receipt(on, receipt, called.address)


def newest(on: Chain, contract: str, writer: str, log: bytes) -> Anchored | None:
    """The last head of a ledger, by a writer; None if there is none. Errors: as `anchored`."""
    with _asking(on.place):
        return _newest(on, _contract(on, contract), writer, log)


def anchored(on: Chain, contract: str, writer: str, log: bytes) -> Iterator[Anchored]:
    """All heads of a ledger by a writer, oldest first.

    Guarantee, if the node tells the chain's truth: each was signed by the writer, in the block whose time it bears. The
    contract's code alone does not show that, for whoever made it could have filled it with heads before.
    Errors: UsageError for a foreign contract; ProtocolError for a head without its transaction.
    """
    with _asking(on.place):
        called = _contract(on, contract)
        for index in range(_count(on, called, writer, log)):
            yield _head(on, called, (address_of(writer), log), index)


def _provider(rpc: str) -> Any:  # noqa: ANN401
    return library().HTTPProvider(rpc, request_kwargs={"timeout": _ANSWER})


@lru_cache(maxsize=1)
def _compiled() -> dict[str, Any]:
    text = resources.files("privae.custody").joinpath("heads.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _contract(on: Chain, address: str) -> Any:  # noqa: ANN401
    """Our contract at an address. It has no constants of one deployment, so that its code is the same everywhere."""
    where = address_of(address)
    code = bytes(on._web3.eth.get_code(where))
    if not code:
        raise UsageError(f"there is no contract at {where} on chain {on.id}; check --contract and --rpc")
    if code != bytes.fromhex(_compiled()["bytecode_runtime"].removeprefix("0x")):
        raise UsageError(f"the contract at {where} is not the one of this privae; nothing was sent to it")
    return on._web3.eth.contract(where, abi=_compiled()["abi"])


def _newest(on: Chain, called: Any, writer: str, log: bytes) -> Anchored | None:  # noqa: ANN401
    count = _count(on, called, writer, log)
    return _head(on, called, (address_of(writer), log), count - 1) if count else None


def _count(on: Chain, called: Any, writer: str, log: bytes) -> int:  # noqa: ANN401
    count = int(called.functions.count(address_of(writer), log).call())
    if not 0 <= count <= _MOST:
        raise ProtocolError(
            f"the node at {on.place} tells of more heads than anybody anchors; ask another node"
        )
    return count


def _head(on: Chain, called: Any, whose: tuple[str, bytes], index: int) -> Anchored:  # noqa: ANN401
    size, root, when, number = called.functions.at(*whose, index).call()
    block = _block(on, number)
    call = called.encode_abi("anchor", [whose[1], size, root])
    found = [sent for sent in block["transactions"] if _is(sent, whose[0], called.address, call)]
    if not found or block["timestamp"] != when:
        raise ProtocolError(
            f"head {index + 1} is not in the block that it names, signed by {whose[0]}: the contract was filled by who "
            "made it, or contracts of this chain do not know its blocks; do not rely on it"
        )
    confirmations = int(on._web3.eth.block_number) - number + 1
    return Anchored(size, bytes(root), when, number, _hexadecimal(found[0]["hash"]), confirmations)


def _block(on: Chain, number: int) -> Any:  # noqa: ANN401
    try:
        return on._web3.eth.get_block(number, full_transactions=True)
    except library().exceptions.BlockNotFound:
        raise ProtocolError(
            f"the node at {on.place} does not keep block {number}; ask a node that does"
        ) from None


def _is(sent: Any, writer: str, contract: str, call: str) -> bool:  # noqa: ANN401
    """Whether a transaction is this call, signed by this writer."""
    ends = str(sent["from"]).lower(), str(sent.get("to")).lower()
    data = sent["input"] if "input" in sent else sent["data"]
    return ends == (writer.lower(), contract.lower()) and _hexadecimal(data) == call


def _hexadecimal(found: Any) -> str:  # noqa: ANN401
    return found if isinstance(found, str) else "0x" + bytes(found).hex()


def _sent(on: Chain, by: Account, call: Any, terms: Terms) -> Any:  # noqa: ANN401
    """The receipt of a call, signed, sent and so often confirmed."""
    signed = by._signer.sign_transaction(_fields(on, by, call, terms))
    name = _hexadecimal(signed.hash)
    try:
        on._web3.eth.send_raw_transaction(signed.raw_transaction)
    except OSError:
        raise UsageError(
            f"the node at {on.place} broke off when it was sent transaction {name}, which may have gone out; "
            "run again in some minutes: a head is never anchored twice"
        ) from None
    return _settled(on, name, terms.confirmations)


def _fields(on: Chain, by: Account, call: Any, terms: Terms) -> dict[str, Any]:  # noqa: ANN401
    """What is signed. The node says fee and gas, so that both together are held against what the caller allows."""
    eth = on._web3.eth
    nonce = eth.get_transaction_count(by.address, "latest")
    if eth.get_transaction_count(by.address, "pending") > nonce:
        raise UsageError(f"an earlier transaction of {by.address} is in no block yet; run again when it is")
    fee, gas = _fee(eth), int(call.estimate_gas({"from": by.address})) * 5 // 4
    cost = Decimal(gas * fee.get("maxFeePerGas", fee.get("gasPrice", 0))) / COIN
    if cost > terms.most:
        raise UsageError(
            f"this may cost {cost:.4g} coins, more than --max-fee {terms.most} allows; nothing was sent"
        )
    made: dict[str, Any] = call.build_transaction(
        {"from": by.address, "nonce": nonce, "chainId": on.id, "gas": gas, **fee}
    )
    return made


def _fee(eth: Any) -> dict[str, int]:  # noqa: ANN401
    base = eth.get_block("latest").get("baseFeePerGas")
    if base is None:  # chains of consortia that are older than EIP-1559
        return {"gasPrice": int(eth.gas_price)}
    tip = int(eth.max_priority_fee)
    return {"maxPriorityFeePerGas": tip, "maxFeePerGas": 2 * int(base) + tip}


def _settled(on: Chain, name: str, confirmations: int) -> Any:  # noqa: ANN401
    """The receipt of a transaction, asked for anew until so many blocks hold it: a reorganization may move it."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(library().exceptions.TransactionNotFound):
            receipt = on._web3.eth.get_transaction_receipt(name)
            if receipt["status"] == 0:
                raise UsageError(
                    f"the contract refused transaction {name}, and its fee is paid; run again to see why"
                )
            number = receipt["blockNumber"]  # None, as some nodes say, while it waits
            if number is not None and int(on._web3.eth.block_number) - number + 1 >= confirmations:
                return receipt
        time.sleep(_POLL)
    raise ResourceError(
        f"transaction {name} is not in enough blocks after {_PATIENCE:.0f} seconds, and may still come; run again later"
    )


def _receipt(on: Chain, receipt: Any, contract: str) -> Receipt:  # noqa: ANN401
    name, price = receipt["transactionHash"], receipt.get("effectiveGasPrice")
    if price is None:  # nodes that are older than EIP-1559
        price = on._web3.eth.get_transaction(name)["gasPrice"]
    paid = Decimal(receipt["gasUsed"] * price) / COIN
    return Receipt(_hexadecimal(name), contract, int(receipt["blockNumber"]), paid)


@contextlib.contextmanager
def _asking(place: str) -> Iterator[None]:
    """Turn whatever comes of asking a node into one of our errors."""
    try:
        yield
    except PrivaeError:
        raise
    except Exception as error:  # noqa: BLE001  a node may answer anything, and web3 raises as much
        raise _as_ours(error, place) from None


def _as_ours(error: Exception, place: str) -> PrivaeError:
    if isinstance(error, OSError):
        status = getattr(getattr(error, "response", None), "status_code", None)
        said = "cannot be reached" if status is None else f"answers with HTTP status {int(status)}"
        return UsageError(f"the node at {place} {said}; check --rpc, and that it runs")
    text = str(error).lower()
    for sign, reason in _REASONS.items():
        if sign in text:
            return UsageError(reason)
    if "revert" in text:
        return ProtocolError(
            f"the node at {place} says that the contract refuses, and not why; ask another node"
        )
    # privacy: a node's own text may repeat a token of its URL
    return ProtocolError(
        f"the node at {place} answers as no node of Ethereum should ({type(error).__name__})"
    )
