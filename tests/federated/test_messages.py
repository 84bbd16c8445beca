"""Messages are read with suspicion, and a refusal tells nothing of the records."""

import hashlib
import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privae import files
from privae.custody.keys import signing_key
from privae.errors import (
    ArtifactError,
    AuditFailed,
    DataError,
    PrivacyRefused,
    PrivaeError,
    ProtocolError,
    ResourceError,
    UsageError,
)
from privae.federated import messages
from privae.federated.messages import (
    COORDINATOR,
    MAGIC,
    Message,
    bytes_of,
    read,
    refusal,
    tensors_of,
    tensors_to_bytes,
    text_of,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    leaves | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return {name: signing_key(folder / name) for name in (COORDINATOR, "ares", "bion", "stranger")}


@pytest.fixture(scope="module")
def publics(keys):
    return {name: key.public for name, key in keys.items() if name != "stranger"}


@pytest.fixture(scope="module")
def raw(keys):
    """One message as it travels."""
    return Message("ares", "study", 3, "keys", {"n": 1}, b"numbers").sealed(keys["ares"].sign)


def packed(head, key, body=b""):
    """A message with a head of one's own, truly signed."""
    signature = key.sign(MAGIC + head).encode()
    return MAGIC + struct.pack("<II", len(head), len(signature)) + head + signature + body


def facts(**changed):
    made = {"sender": "ares", "context": "c", "query": 1, "stage": "s", "fields": {}}
    return {**made, "body": hashlib.sha256(b"").hexdigest(), **changed}


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(texts, values, max_size=4), st.binary(max_size=50), texts, st.integers(-1, 2**40))
def test_a_message_reads_as_it_was_written(keys, publics, fields, body, context, query):
    message = Message("ares", context, query, "keys", fields, body)
    raw = message.sealed(keys["ares"].sign)
    assert read(raw, publics) == message
    assert raw == message.sealed(keys["ares"].sign)


def test_a_reply_answers_the_same_sum_and_stage(keys, publics):
    message = Message(COORDINATOR, "study", 3, "keys", {"book": {}}, b"told")
    answer = read(message.reply("ares", {"sealed": {}}).sealed(keys["ares"].sign), publics)
    assert (answer.sender, answer.context, answer.query, answer.stage) == ("ares", "study", 3, "keys")
    assert (answer.fields, answer.body) == ({"sealed": {}}, b"")


def test_a_flipped_bit_anywhere_is_noticed(raw, publics):
    for index in range(len(raw)):
        changed = bytearray(raw)
        changed[index] ^= 1 << index % 8
        with pytest.raises(ProtocolError):
            read(bytes(changed), publics)


def test_a_message_that_is_cut_off_or_longer_is_refused(raw, publics):
    for size in range(len(raw)):
        with pytest.raises(ProtocolError):
            read(raw[:size], publics)
    with pytest.raises(ProtocolError, match="signature"):
        read(raw + b"\0", publics)


@pytest.mark.parametrize("sizes", [(2**32 - 1, 0), (0, 2**32 - 1), (2**24 + 1, 88), (10**6, 10**6)])
def test_lengths_that_a_message_does_not_have_are_refused(sizes, publics):
    with pytest.raises(ProtocolError, match="cut off"):
        read(MAGIC + struct.pack("<II", *sizes) + bytes(200), publics)


def test_a_message_that_is_too_large_is_refused_before_anything_of_it_is_read(monkeypatch, raw, publics):
    monkeypatch.setattr(messages, "MOST", len(raw))
    assert read(raw, publics).sender == "ares"
    monkeypatch.setattr(messages, "MOST", len(raw) - 1)
    monkeypatch.setattr(messages, "_cut", None)
    with pytest.raises(ProtocolError, match="larger"):
        read(raw, publics)


@pytest.mark.parametrize("start", [b"privae-f2", b"privae-f0", b"PRIVAE-F1", b"", b"GET / HTTP/1.1"])
def test_a_message_of_another_version_is_refused(start, raw, publics):
    with pytest.raises(ProtocolError, match="not of this version"):
        read(start + raw[len(MAGIC) :], publics)


def test_a_sender_outside_the_study_is_refused(keys, publics):
    raw = Message("stranger", "study", 0, "open").sealed(keys["stranger"].sign)
    with pytest.raises(ProtocolError, match="not of this study"):
        read(raw, publics)


@pytest.mark.parametrize("signer", ["bion", "stranger", COORDINATOR])
def test_a_message_that_another_signed_is_refused(signer, keys, publics):
    raw = Message("ares", "study", 0, "open").sealed(keys[signer].sign)
    with pytest.raises(ProtocolError, match="names ares does not bear its signature"):
        read(raw, publics)


def test_a_body_under_the_head_of_another_message_is_refused(keys, publics):
    first, second = (
        Message("ares", "c", 0, "shares", {}, body).sealed(keys["ares"].sign) for body in (b"1", b"2")
    )
    with pytest.raises(ProtocolError, match="signature"):
        read(first[:-1] + second[-1:], publics)


def test_a_signature_on_something_else_than_a_message_makes_none(keys, publics):
    head = files.canonical_json(facts())
    signature = keys["ares"].sign(head).encode()
    with pytest.raises(ProtocolError, match="signature"):
        read(MAGIC + struct.pack("<II", len(head), len(signature)) + head + signature, publics)


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b'"' + b"x" * 10,
        b'{"a":' + b"[" * 100_000,
        *(files.canonical_json({k: v for k, v in facts().items() if k != missing}) for missing in facts()),
        files.canonical_json(facts(query="three")),
        files.canonical_json(facts(query=None)),
        files.canonical_json(facts(query=[])),
        files.canonical_json(facts()).replace(b'"query":1', b'"query":1e999'),
        files.canonical_json(facts()).replace(b'"query":1', b'"query":NaN'),
        files.canonical_json(facts()).replace(b'"query":1', b'"query":' + b"9" * 5000),
        files.canonical_json(facts(fields=[])),
        files.canonical_json(facts(fields=None)),
        files.canonical_json(facts(fields="fields")),
    ],
    ids=lambda head: head[:40].decode("ascii", "replace") + str(len(head)),
)
def test_a_malformed_head_is_refused_even_when_truly_signed(head, keys, publics):
    with pytest.raises(ProtocolError, match="does not read"):
        read(packed(head, keys["ares"]), publics)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"sender": ["ares"]}, "does not read"),
        ({"sender": None}, "does not read"),
        ({"sender": "\\ud800"}, "not of this study"),
        ({"sender": ""}, "not of this study"),
    ],
)
def test_a_sender_that_is_no_name_is_refused(changed, reason, keys, publics):
    with pytest.raises(ProtocolError, match=reason):
        read(packed(files.canonical_json(facts(**changed)), keys["ares"]), publics)


@pytest.mark.parametrize("body", [None, 3, [], {}, "", "0" * 64])
def test_a_hash_of_the_body_that_is_none_is_refused(body, keys, publics):
    with pytest.raises(ProtocolError, match="signature"):
        read(packed(files.canonical_json(facts(body=body)), keys["ares"]), publics)


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_protocol_error(publics, noise):
    for data in (noise, MAGIC + noise, MAGIC + struct.pack("<II", max(len(noise) - 4, 0), 4) + noise):
        with pytest.raises(ProtocolError):
            read(data, publics)


def test_an_error_of_reading_never_shows_what_the_message_holds(keys, publics):
    secret = "a-cell-of-a-record"
    wrong = [
        packed(files.canonical_json(facts(sender=secret)), keys["ares"]),
        packed(files.canonical_json(facts(stage=secret, body=secret)), keys["ares"]),
        packed(files.canonical_json(facts(query=secret)), keys["ares"]),
        packed(files.canonical_json(facts(fields=secret)), keys["ares"]),
        MAGIC + secret.encode(),
    ]
    for data in wrong:
        with pytest.raises(ProtocolError) as caught:
            read(data, publics)
        assert secret not in str(caught.value)
        assert caught.value.__cause__ is None


def test_a_body_never_shows_in_a_text_of_the_message():
    assert "numbers" not in repr(Message("ares", "c", 0, "shares", {}, b"numbers"))


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=100))
def test_bytes_come_back_from_a_field(raw):
    assert bytes_of(text_of(raw)) == raw
    assert bytes_of(text_of(raw), len(raw)) == raw
    if raw:
        with pytest.raises(ProtocolError, match="size"):
            bytes_of(text_of(raw), len(raw) - 1)


@pytest.mark.parametrize("text", [None, 3, b"AAAA", ["AAAA"], {"a": 1}, "A" * 5468, text_of(bytes(4097))])
def test_a_field_of_another_kind_or_size_is_refused(text):
    with pytest.raises(ProtocolError, match="kind or size"):
        bytes_of(text)


@pytest.mark.parametrize("text", ["A", "AAA", "AA-_", "AAAA\n", "äöüä", "====", "A A="])
def test_a_field_that_is_no_base64_is_refused(text):
    with pytest.raises(ProtocolError, match="does not read"):
        bytes_of(text)


def test_tensors_read_as_they_were_written():
    tensors = {
        "weight": torch.randn(3, 4).T,  # not contiguous
        "none": torch.zeros(0, 2),
        "mask": torch.tensor([True, False]),
        "count": torch.tensor(2**40),
        "half": torch.tensor([1.5], dtype=torch.float16),
        "trained": torch.ones(2, requires_grad=True),
        "extreme": torch.tensor([float("inf"), -0.0, 1e-45, float("nan")]),
    }
    found = tensors_of(tensors_to_bytes(tensors))
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name].nan_to_num(7), tensor.detach().nan_to_num(7))
        assert not found[name].requires_grad
    assert tensors_of(tensors_to_bytes({})) == {}


def test_tensors_that_do_not_read_are_refused():
    raw = tensors_to_bytes({"a": torch.arange(6.0).reshape(2, 3)})
    wrong = [b"", raw[:7], raw[:-1], raw + b"\0", b"\xff" * 100, struct.pack("<Q", 2**63) + raw[8:]]
    for kind, shape, size in [
        ("F32", [2], 4),
        ("X9", [1], 4),
        ("F32", [-1], 4),
        ("F32", [2**63], 4),
        ("F32", [0, 2**62, 2**62], 0),
        ("U64", [0, 2**40, 2**40], 0),
    ]:
        head = files.canonical_json({"t": {"dtype": kind, "shape": shape, "data_offsets": [0, size]}})
        wrong.append(struct.pack("<Q", len(head)) + head + bytes(size))
    for data in wrong:
        with pytest.raises(ProtocolError, match="does not read"):
            tensors_of(data)


@pytest.mark.parametrize("kind", [PrivacyRefused, ProtocolError, UsageError, ArtifactError])
def test_a_refusal_that_follows_from_public_things_says_why(kind):
    assert refusal(kind("min_sites is 3 here")) == {"refused": kind.__name__, "why": "min_sites is 3 here"}


@pytest.mark.parametrize("kind", [DataError, ResourceError, AuditFailed, PrivaeError])
def test_a_refusal_that_may_tell_of_records_does_not_say_why(kind):
    error = kind("column 'age' holds 134.7 in row 12 of 12")
    answer = refusal(error)
    assert answer["refused"] == kind.__name__
    assert answer == refusal(kind("one row"))
    assert not any(word in str(answer) for word in ("age", "134.7", "12"))


@pytest.mark.parametrize(
    "wrong", [{"query": "3"}, {"query": 3.0}, {"query": True}, {"sender": ["ares"]}, {"stage": 1}]
)
def test_a_head_of_other_kinds_is_refused_though_it_is_signed(keys, publics, wrong):
    with pytest.raises(ProtocolError, match="does not read"):
        messages.read(packed(files.canonical_json(facts(**wrong)), keys["ares"]), publics)
