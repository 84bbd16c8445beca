"""Heads on a blockchain in memory: writers anchor, others cannot; nothing shrinks, and nothing is forged."""

import importlib.util
import json
import sys
import threading
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from privae.custody import anchor
from privae.custody.anchor import Terms
from privae.custody.blinded import Head
from privae.errors import ArtifactError, ProtocolError, ResourceError, UsageError

RPC = "http://name:password@localhost:8545/v3/token?key=token"
TERMS = Terms()
REAL = anchor._provider


@pytest.fixture(scope="module")
def tester():
    limit = sys.getrecursionlimit()
    from eth_tester import EthereumTester, PyEVMBackend

    sys.setrecursionlimit(limit)  # see anchor.library
    return EthereumTester(PyEVMBackend())


@pytest.fixture(scope="module")
def room(tester):
    """The chain, two accounts that may write, one that may not, and the contract."""
    from web3 import EthereumTesterProvider

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anchor, "_provider", lambda rpc: EthereumTesterProvider(tester))
        on = anchor.chain(RPC)
        keys = [key.to_bytes() for key in tester.backend.account_keys[:3]]
        one, two, stranger = (anchor.account(on, key) for key in keys)
        contract = anchor.deploy(on, one, [one.address, two.address], TERMS).contract
        # the tester finds gas by trying ten times; once is enough to meet a refusal
        backend = tester.backend
        patch.setattr(backend, "estimate_gas", lambda call, *_: (backend.call(call), 400_000)[1])
        yield SimpleNamespace(on=on, one=one, two=two, stranger=stranger, contract=contract, key=keys[0])


def head(name, size=3, root=b"r"):
    return Head(name.encode().ljust(32), size, root.ljust(32))


def heads(room, name, writer=None):
    return list(anchor.anchored(room.on, room.contract, (writer or room.one).address, head(name).log))


def put(room, given, by=None, terms=TERMS):
    return anchor.anchor(room.on, by or room.one, room.contract, given, terms)


def test_a_writer_anchors_and_anybody_reads_it(room, tester):
    first, second = (put(room, head("a", size, root)) for size, root in [(3, b"x"), (5, b"y")])
    found = heads(room, "a")
    assert [(h.size, h.root.strip()) for h in found] == [(3, b"x"), (5, b"y")]
    assert [h.transaction for h in found] == [first.transaction, second.transaction]
    assert [h.block for h in found] == [first.block, second.block]
    assert found[0].time == tester.get_block_by_number(first.block)["timestamp"]
    assert [h.confirmations for h in found] == [second.block - first.block + 1, 1]
    assert anchor.newest(room.on, room.contract, room.one.address, head("a").log) == found[-1]
    assert 0 < first.cost < 1
    assert first.contract == room.contract


def test_the_same_head_again_is_free_of_effect(room):
    assert put(room, head("b")) is not None
    before = room.on._web3.eth.block_number
    assert put(room, head("b")) is None
    assert room.on._web3.eth.block_number == before


def test_sizes_only_grow(room, monkeypatch):
    put(room, head("c"))
    for given in (head("c", 2), head("c", 3, b"other")):
        with pytest.raises(ArtifactError, match="nothing was sent"):
            put(room, given)
    monkeypatch.setattr(anchor, "_newest", lambda *_: None)  # as if another process came in between
    with pytest.raises(UsageError, match="as many entries or more") as caught:
        put(room, given)
    assert "\n" not in str(caught.value)
    assert len(heads(room, "c")) == 1


def test_a_foreign_writer_is_refused_by_us_and_by_the_contract(room):
    with pytest.raises(UsageError, match="no writer"):
        put(room, head("d"), room.stranger)
    called = anchor._contract(room.on, room.contract).functions
    with anchor._asking("here"), pytest.raises(Exception, match="not a writer"):
        called.anchor(head("d").log, 3, bytes(32)).estimate_gas({"from": room.stranger.address})
    assert not heads(room, "d", room.stranger)


def test_one_writer_cannot_block_or_confuse_the_ledger_of_another(room):
    put(room, head("e", 2**255, b"junk"), room.two)
    put(room, head("e"))
    assert [h.size for h in heads(room, "e")] == [3]
    assert [h.size for h in heads(room, "e", room.two)] == [2**255]


def test_another_contract_and_none_are_refused(room):
    eth = room.on._web3.eth
    runtime = bytes.fromhex(anchor._compiled()["bytecode_runtime"][2:-2] + "ff")
    other = creation(eth, runtime, {})
    for address, said in [(other, "not the one"), (room.stranger.address, "no contract"), ("0x12", "40 hex")]:
        with pytest.raises(UsageError, match=said):
            anchor.anchor(room.on, room.one, address, head("f"), TERMS)
        with pytest.raises(UsageError, match=said):
            list(anchor.anchored(room.on, address, room.one.address, head("f").log))


def creation(eth, runtime, storage):
    """The address of a contract whose making writes storage, and returns this code."""
    words = b"".join(
        b"\x7f" + v.to_bytes(32, "big") + b"\x7f" + k.to_bytes(32, "big") + b"\x55"
        for k, v in storage.items()
    )
    size, start = len(runtime).to_bytes(2, "big"), (len(words) + 15).to_bytes(2, "big")
    code = words + b"\x61" + size + b"\x80\x61" + start + b"\x60\x00\x39\x60\x00\xf3" + b"\x00\x00" + runtime
    sent = eth.send_transaction({"from": eth.accounts[0], "data": code})
    return eth.get_transaction_receipt(sent)["contractAddress"]


def test_a_contract_that_was_filled_before_it_was_handed_out_is_found(room):
    """Our own code, and heads with an old date that no writer signed: made so by who made the contract."""
    from web3 import Web3

    def slot(where, key):
        return int.from_bytes(Web3.keccak(where.to_bytes(32, "big") + key), "big")

    writer, name = bytes(12) + bytes.fromhex(room.one.address[2:]), head("g").log
    at = slot(slot(2, writer), name)
    old = room.on._web3.eth.get_block(1)
    forged = [3, int.from_bytes(b"r".ljust(32), "big"), old["timestamp"], 1]
    code = bytes.fromhex(anchor._compiled()["bytecode_runtime"][2:])
    false = creation(room.on._web3.eth, code, {at: 1} | {at + 1 + i: word for i, word in enumerate(forged)})
    called = anchor._contract(room.on, false).functions
    assert called.head(room.one.address, name).call()[2] == old["timestamp"]  # the contract says so
    with pytest.raises(ProtocolError, match="do not rely on it"):
        list(anchor.anchored(room.on, false, room.one.address, name))


def test_another_chain_than_the_pinned_one_is_refused(room):
    assert anchor.chain(RPC, room.on.id) == room.on
    with pytest.raises(UsageError, match="not to chain 1;"):
        anchor.chain(RPC, 1)


def test_confirmations_are_waited_for_and_not_for_ever(room, tester, monkeypatch):
    mined = []
    clock = SimpleNamespace(monotonic=lambda: len(mined), sleep=lambda _: mined.append(tester.mine_block()))
    monkeypatch.setattr(anchor, "time", clock)
    done = put(room, head("h"), terms=Terms(confirmations=4))
    assert len(mined) == 3
    assert room.on._web3.eth.block_number == done.block + 3
    monkeypatch.setattr(anchor, "_PATIENCE", 5.0)
    with pytest.raises(ResourceError, match="may still come"):
        put(room, head("h", 4), terms=Terms(confirmations=40))
    assert [h.size for h in heads(room, "h")] == [3, 4]


def test_a_transaction_in_no_block_holds_up_the_next(room, tester, monkeypatch):
    from web3 import EthereumTesterProvider

    class Waiting(EthereumTesterProvider):
        def make_request(self, method, params):
            waits = method == "eth_getTransactionCount" and params[1] == "pending"
            return (
                {"jsonrpc": "2.0", "id": 1, "result": 10**6}
                if waits
                else super().make_request(method, params)
            )

    monkeypatch.setattr(anchor, "_provider", lambda rpc: Waiting(tester))
    on = anchor.chain(RPC)
    with pytest.raises(UsageError, match="in no block yet"):
        anchor.anchor(on, anchor.account(on, room.key), room.contract, head("i"), TERMS)


def test_a_fee_past_what_is_allowed_is_not_paid(room):
    before = room.on._web3.eth.block_number
    with pytest.raises(UsageError, match="nothing was sent"):
        put(room, head("j"), terms=Terms(most=Decimal("0.00001")))
    assert room.on._web3.eth.block_number == before


@pytest.mark.parametrize("fields", [{"confirmations": 0}, {"most": Decimal(0)}, {"most": Decimal("nan")}])
def test_terms_that_are_none_are_refused(fields):
    with pytest.raises(UsageError, match="--confirmations"):
        Terms(**fields)


def test_a_contract_needs_writers(room):
    for writers in ([], [f"0x{number:040x}" for number in range(65)]):
        with pytest.raises(UsageError, match="between 1 and 64"):
            anchor.deploy(room.on, room.one, writers, TERMS)


def test_what_is_sent_is_the_head_and_nothing_else(room):
    done = put(room, head("k", 7, b"s"))
    sent = room.on._web3.eth.get_transaction(done.transaction)
    data = bytes(sent["data"] if "data" in sent else sent["input"])
    assert data[4:] == head("k").log + (7).to_bytes(32, "big") + b"s".ljust(32)
    assert sent["value"] == 0


def consortium(writer, contract, given):
    """A node over HTTP, as its JSON is: signatures in extraData, and neither base fee nor effective gas price."""
    from web3 import Web3

    told, word, sent = {}, "{:064x}".format, []
    parts = given.log.hex() + word(given.size) + given.root.hex()
    call = {
        "from": writer,
        "to": contract,
        "input": "0x4dc409c2" + parts,
        "hash": "0x" + "1" * 64,
        "gasPrice": "0x2",
    }
    block = {"number": "0x7", "timestamp": "0x65", "extraData": "0x" + "ab" * 97, "transactions": [call]}
    empty = {"from": writer, "to": None, "input": "0x", "hash": "0x" + "2" * 64}
    seen = {"transactionHash": call["hash"], "status": "0x1", "blockNumber": "0x7", "gasUsed": "0x5"}

    def called(params):
        name = params[0]["data"][2:10]
        head = word(given.size) + given.root.hex() + word(0x65) + word(7)
        return "0x" + {"at": head, "count": word(len(sent)), "writers": word(1)}[told[name]]

    for function in ("at(address,bytes32,uint256)", "count(address,bytes32)", "writers(address)"):
        told[Web3.keccak(text=function)[:4].hex()] = function.split("(")[0]
    return {
        "eth_chainId": lambda _: "0x539",
        "eth_getCode": lambda _: anchor._compiled()["bytecode_runtime"],
        "eth_call": called,
        "eth_blockNumber": lambda _: "0x8",
        "eth_getBlockByNumber": lambda _: block | {"transactions": [empty, call]},
        "eth_getTransactionCount": lambda _: "0x3",
        "eth_estimateGas": lambda _: "0x64",
        "eth_gasPrice": lambda _: "0x2",
        "eth_sendRawTransaction": lambda params: sent.append(params[0]) or call["hash"],
        "eth_getTransactionReceipt": lambda _: seen,
        "eth_getTransactionByHash": lambda _: call,
    }, sent


def test_an_old_chain_of_a_consortium_is_served_over_http(room, served):
    given = head("l")
    answers, sent = consortium(room.one.address, room.contract, given)

    def answer(body):
        asked = json.loads(body)
        result = answers[asked["method"]](asked["params"])
        return json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}).encode()

    on = anchor.chain(served(200, answer), 1337)
    done = anchor.anchor(on, anchor.account(on, room.key), room.contract, given, TERMS)
    assert (done.block, done.cost * anchor.COIN, len(sent)) == (7, 10, 1)
    found = list(anchor.anchored(on, room.contract, room.one.address, given.log))
    assert found == [anchor.Anchored(3, given.root, 0x65, 7, "0x" + "1" * 64, 2)]
    answers["eth_getBlockByNumber"] = lambda _: None
    with pytest.raises(ProtocolError, match="does not keep block 7"):
        list(anchor.anchored(on, room.contract, room.one.address, given.log))


@pytest.mark.parametrize(
    "address", ["0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed"]
)
def test_an_address_is_known_by_its_checksum(address):
    """The example of EIP-55; a mistyped letter is refused."""
    assert anchor.address_of(address) == "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
    with pytest.raises(UsageError, match="checksum"):
        anchor.address_of("0x5AAeb6053F3E94C9b9A09f33669435E7Ef1BeAed")


@pytest.mark.parametrize(
    "rpc", ["", "localhost:8545", "ws://x", "http://", "http://u:pw/@x", "file:///x", "http://[::1"]
)
def test_what_is_no_address_of_a_node_is_refused_without_a_word_of_it(rpc):
    with pytest.raises(UsageError) as caught:
        anchor.place_of(rpc)
    assert "pw" not in str(caught.value)


def test_a_node_is_named_by_its_host_alone():
    assert anchor.place_of(RPC) == "http://localhost:8545"
    assert anchor.place_of("https://[::1]:1/token") == "https://[::1]:1"


@pytest.fixture
def served(monkeypatch):
    """A function of (status, answer): the URL of a server that answers so, with a function of what it is asked."""
    servers = []
    monkeypatch.setattr(anchor, "_provider", REAL)

    def made(status, answer):
        class Node(BaseHTTPRequestHandler):
            def do_POST(self):
                body = answer(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Node)
        threading.Thread(target=lambda: server.serve_forever(0.01), daemon=True).start()
        servers.append(server)
        return f"http://name:password@127.0.0.1:{server.server_port}/token"

    yield made
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (401, b"token", UsageError, "HTTP status 401"),
        (200, b"token", ProtocolError, "as no node"),
        (200, b'{"jsonrpc":"2.0","id":0,"result":"token"}', ProtocolError, "as no node"),
        (200, b'{"jsonrpc":"2.0","id":0,"result":null}', ProtocolError, "as no node"),
        (
            200,
            b'{"jsonrpc":"2.0","id":0,"error":{"code":-32005,"message":"token"}}',
            ProtocolError,
            "as no node",
        ),
    ],
)
def test_an_odd_node_is_one_line_without_its_token(served, status, body, error, said):
    with pytest.raises(error, match=said) as caught:
        anchor.chain(served(status, lambda _: body))
    assert not {"token", "password", "\n"} & {
        word for word in ("token", "password", "\n") if word in str(caught.value)
    }
    assert caught.value.__suppress_context__


def test_a_node_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr(anchor, "_provider", REAL)
    with pytest.raises(UsageError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        anchor.chain("http://name:password@127.0.0.1:9/token")


def test_a_revert_is_explained():
    from web3.exceptions import ContractLogicError

    told = anchor._as_ours(ContractLogicError("execution reverted: not a writer", {}), "http://x")
    assert isinstance(told, UsageError)
    assert "writers are fixed" in str(told)
    assert isinstance(
        anchor._as_ours(ContractLogicError("execution reverted", {}), "http://x"), ProtocolError
    )


def test_the_committed_contract_is_what_the_source_compiles_to():
    path = Path(__file__).resolve().parents[2] / "scripts" / "contract.py"
    spec = importlib.util.spec_from_file_location("script_contract", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.COMPILED.read_text(encoding="utf-8") == script.render(), "run: python scripts/contract.py"
    assert json.loads(script.render())["compiler"]["settings"]["evm-version"] == "london"


def test_a_text_of_many_brackets_is_an_error_and_not_the_end():
    limit = sys.getrecursionlimit()
    anchor.library()
    assert sys.getrecursionlimit() == limit < 10_000
