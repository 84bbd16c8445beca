"""Masks that cancel and shares that open: against vectors, an independent cipher, and what a coalition can derive."""

import itertools

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.errors import ProtocolError
from privae.federated import masking
from privae.federated.masking import (
    PRIME,
    SHARE,
    Keys,
    add_keystream,
    as_integers,
    as_words,
    derive,
    join,
    masked,
    open_sealed,
    pair_seed,
    public_of,
    remove_pairs,
    remove_self,
    seal,
    split,
)

SEED = bytes(range(32))
CONTEXT = b"study/3/0"
LOW_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]
secrets = st.binary(min_size=32, max_size=32)


def site(number):
    return Keys.of(derive(SEED, "site", number))


def stream(seed, count=64, kind="<u4"):
    """The first words that a seed adds."""
    words = np.zeros(count, kind)
    add_keystream(words, seed, 1)
    return words


def unevenness(raw):
    """Chi-square of the bytes against uniform: 255 degrees of freedom, so 400 is 6.4 standard deviations off."""
    counts = np.bincount(np.frombuffer(raw, np.uint8), minlength=256)
    even = len(raw) / 256
    return float(((counts - even) ** 2 / even).sum())


@st.composite
def sums(draw):
    """Numbers of 2 to 7 sites, and which of them are lost."""
    count, word = draw(st.integers(2, 7)), draw(st.sampled_from([4, 8]))
    edge = 2 ** (8 * word - 1)
    number = st.sampled_from([-edge, -1, 0, 1, edge - 1]) | st.integers(-edge, edge - 1)
    size = draw(st.integers(1, 5))
    rows = draw(st.lists(st.lists(number, min_size=size, max_size=size), min_size=count, max_size=count))
    lost = draw(st.sets(st.integers(1, count), max_size=count - 1))
    return word, rows, lost, draw(secrets)


@settings(max_examples=40, deadline=None)
@given(sums())
def test_masks_cancel_in_the_sum_of_whoever_is_left(case):
    word, rows, lost, secret = case
    keys = {place: Keys.of(derive(secret, place)) for place in range(1, len(rows) + 1)}
    publics = {place: one.public[1] for place, one in keys.items()}
    left = {place: public for place, public in publics.items() if place not in lost}
    total = np.zeros(len(rows[0]), f"<u{word}")
    for place in left:
        peers = {other: public for other, public in publics.items() if other != place}
        words = as_words(np.array(rows[place - 1], np.int64), word)
        hidden = masked(words, keys[place], place, peers, CONTEXT)
        assert (words == as_words(np.array(rows[place - 1], np.int64), word)).all()
        total += hidden
    for place in left:
        remove_self(total, keys[place].seed, CONTEXT)
    for place in lost:
        remove_pairs(total, keys[place].mask, place, left, CONTEXT)
    expected = [sum(rows[place - 1][i] for place in left) % 2 ** (8 * word) for i in range(len(rows[0]))]
    assert total.tolist() == expected


@pytest.mark.parametrize("word", [4, 8])
def test_integers_come_back_from_words_with_their_sign(word):
    edge = 2 ** (8 * word - 1)
    integers = np.array([-edge, 1 - edge, -2, -1, 0, 1, edge - 1], np.int64)
    words = as_words(integers, word)
    assert words.dtype == f"<u{word}"
    assert words.tolist() == [int(i) % 2 ** (8 * word) for i in integers]
    assert as_integers(words).tolist() == integers.tolist()
    assert as_integers(words).dtype == np.int64


def test_integers_beyond_a_word_wrap_round():
    assert as_words(np.array([2**32 + 5, -(2**32) - 1], np.int64), 4).tolist() == [5, 2**32 - 1]


def test_derived_bytes_are_those_of_rfc_5869():
    expected = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    assert derive(bytes([11]) * 22, size=42).hex() == expected


def test_parts_that_name_a_use_never_read_as_other_parts():
    parts = [
        (),
        ("a", "b"),
        ("ab",),
        ("a", "b", ""),
        ("", "ab"),
        ("1",),
        (1,),
        (b"1",),
        (b"a", "b"),
        (11,),
        (1, 1),
    ]
    assert len({derive(SEED, *part) for part in parts}) == len(parts)


def test_a_key_agreement_is_that_of_rfc_7748():
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    assert public_of(alice).hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert public_of(bob).hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert masking._agreed(alice, public_of(bob)).hex() == shared
    assert masking._agreed(bob, public_of(alice)).hex() == shared


def test_two_sites_derive_one_seed_and_a_third_another():
    a, b, c = (site(number) for number in range(3))
    seed = pair_seed(a.mask, b.public[1], CONTEXT)
    assert seed == pair_seed(b.mask, a.public[1], CONTEXT)
    assert len(seed) == 32
    others = {
        pair_seed(a.mask, c.public[1], CONTEXT),
        pair_seed(c.mask, b.public[1], CONTEXT),
        pair_seed(a.mask, b.public[1], b"study/4/0"),
        pair_seed(a.channel, b.public[0], CONTEXT),
    }
    assert seed not in others
    assert len(others) == 4


@pytest.mark.parametrize("peer", [*map(bytes.fromhex, LOW_ORDER), b"", bytes([9]) * 31, bytes([9]) * 33])
def test_a_peers_key_that_would_make_a_known_seed_is_refused(peer):
    keys = site(0)
    with pytest.raises(ProtocolError, match="key of the round is none"):
        pair_seed(keys.mask, peer, CONTEXT)
    with pytest.raises(ProtocolError, match="key of the round is none"):
        seal(keys.channel, peer, CONTEXT, b"data")
    with pytest.raises(ProtocolError, match="key of the round is none"):
        open_sealed(keys.channel, peer, CONTEXT, bytes(60))


@pytest.mark.parametrize("way", [masking.gcm, masking.counter])
@pytest.mark.parametrize(("word", "count"), [(4, 2**16 + 7), (8, 2**15 + 7), (4, 3), (8, 0), (4, 2**19)])
def test_a_mask_is_the_aes_256_counter_mode_keystream_across_chunks(word, count, way, monkeypatch):
    assert masking._fastest() in (masking.gcm, masking.counter)
    monkeypatch.setattr(masking, "_fastest", lambda: way)
    words = np.arange(count).astype(f"<u{word}")
    add_keystream(words, SEED, 1)
    cipher = Cipher(algorithms.AES256(SEED), modes.CTR((2).to_bytes(16, "big"))).encryptor()
    expected = np.frombuffer(cipher.update(bytes(count * word)), f"<u{word}")
    assert (words - np.arange(count).astype(f"<u{word}") == expected).all()
    add_keystream(words, SEED, -1)
    assert words.tolist() == list(range(count))


def test_each_of_the_256_bits_of_a_seed_changes_the_whole_stream():
    # regression: Flower's masks had 28 effective bits and were found in a minute (shared/research/federated.md)
    number = int.from_bytes(SEED)
    streams = [stream((number ^ (1 << bit)).to_bytes(32)) for bit in range(256)] + [stream(SEED)]
    assert len({one.tobytes() for one in streams}) == 257
    flips = [int(np.unpackbits((one ^ streams[-1]).view(np.uint8)).sum()) for one in streams[:-1]]
    assert 800 < min(flips) <= max(flips) < 1250  # of 2048 bits: half of them, to 10 standard deviations


def test_each_of_the_256_bits_that_two_sites_agree_on_changes_what_follows_from_them(monkeypatch):
    peer, number = site(1).public[1], int.from_bytes(SEED)
    agreed = [(number ^ (1 << bit)).to_bytes(32) for bit in range(256)] + [SEED]
    seeds, sealed = set(), set()
    for secret in agreed:
        monkeypatch.setattr(masking, "_agreed", lambda *_, secret=secret: secret)
        seeds.add(pair_seed(SEED, peer, CONTEXT))
        sealed.add(seal(SEED, peer, CONTEXT, bytes(8)))
    assert len(seeds) == len(sealed) == 257


def test_seeds_of_many_sums_never_repeat_and_every_bit_of_them_varies():
    a, peer = site(0), site(1).public[1]
    seeds = [pair_seed(a.mask, peer, b"study/%d" % index) for index in range(1000)]
    seeds += [derive(a.seed, "self", b"study/%d" % index) for index in range(1000)]
    assert len(set(seeds)) == 2000
    table = np.frombuffer(b"".join(seeds), np.uint8).reshape(2000, 32)
    assert min(len(np.unique(column)) for column in table.T) > 240
    ones = np.unpackbits(table, axis=1).sum(axis=0)
    assert 850 < ones.min() <= ones.max() < 1150


def test_the_keys_of_a_site_use_all_bits_of_its_secret():
    number = int.from_bytes(SEED)
    every = [Keys.of((number ^ (1 << bit)).to_bytes(32)) for bit in range(256)] + [Keys.of(SEED)]
    parts = [part for keys in every for part in (keys.channel, keys.mask, keys.seed)]
    assert len(set(parts)) == 3 * 257


def test_no_two_uses_share_a_stream(monkeypatch):
    used = []
    real = masking.add_keystream
    monkeypatch.setattr(
        masking, "add_keystream", lambda v, seed, sign: used.append(seed) or real(v, seed, sign)
    )
    keys = {place: site(place) for place in range(1, 6)}
    for context in (b"study/0/0", b"study/0/1", b"study/1/0"):
        for place, own in keys.items():
            peers = {other: keys[other].public[1] for other in keys if other != place}
            masked(np.zeros(8, "<u4"), own, place, peers, context)
    counts = [used.count(seed) for seed in set(used)]
    assert (counts.count(1), counts.count(2)) == (3 * 5, 3 * 10)  # self masks, and pairs at both ends
    assert len(counts) == 45
    words = np.concatenate([stream(seed, 64) for seed in set(used)])
    assert len(np.unique(words)) > len(words) - 5


def test_a_secret_never_shows_in_a_text_of_the_keys():
    keys = site(0)
    assert not any(repr(part) in repr(keys) for part in (keys.channel, keys.mask, keys.seed))


def test_one_masked_vector_looks_uniform():
    words = as_words(np.full(2**15, 3, np.int64), 4)
    keys = [site(place) for place in range(1, 4)]
    alone = masked(words, keys[0], 1, {}, CONTEXT)
    without_self = masked(words, keys[0], 1, {2: keys[1].public[1]}, CONTEXT)
    remove_self(without_self, keys[0].seed, CONTEXT)
    assert unevenness(words.tobytes()) > 1e5
    for hidden in (alone, without_self, alone - without_self):
        assert unevenness(hidden.tobytes()) < 400
        assert unevenness((hidden - words).tobytes()) < 400


def test_a_coalition_below_the_threshold_cannot_separate_the_honest_sites():
    # 1, 2: honest and in the sum; 3: honest and lost; 4, 5: tell the coordinator everything; threshold 3
    keys = {place: site(place) for place in range(1, 6)}
    publics = {place: one.public[1] for place, one in keys.items()}
    plain = {place: as_words(np.full(2**13, place, np.int64), 4) for place in (1, 2)}
    seen = {
        place: masked(
            plain[place], keys[place], place, {p: k for p, k in publics.items() if p != place}, CONTEXT
        )
        for place in plain
    }
    opened = dict(seen)
    for place, left in opened.items():
        remove_self(left, keys[place].seed, CONTEXT)  # the seeds of sites in the sum are opened by all
        remove_pairs(left, keys[3].mask, 3, {place: publics[place]}, CONTEXT)  # so is the key of the lost one
        for traitor in (4, 5):
            remove_pairs(left, keys[traitor].mask, traitor, {place: publics[place]}, CONTEXT)
    rests = [opened[place] - plain[place] for place in plain]
    assert (
        (opened[1] + opened[2]) == plain[1] + plain[2]
    ).all()  # everything but the one pair mask was taken away
    for rest in rests:
        assert (rest != 0).all()
        assert unevenness(rest.tobytes()) < 400
    coins = derive(SEED, "coins")
    shares = split(keys[1].mask, 3, range(1, 6), coins)
    with pytest.raises(ProtocolError, match="needs 3 shares"):
        join({place: shares[place] for place in (4, 5)}, 3)
    # not even with masks that the coalition derives from keys it is free to choose
    for traitor, place in itertools.product((4, 5), (1, 2)):
        for guess in (
            pair_seed(keys[traitor].mask, publics[place], CONTEXT),
            derive(keys[place].seed, "self", CONTEXT),
        ):
            left = opened[place].copy()
            add_keystream(left, guess, -1)
            assert unevenness((left - plain[place]).tobytes()) < 400


@settings(max_examples=40, deadline=None)
@given(secrets, secrets, st.data())
def test_any_threshold_of_shares_opens_a_secret(secret, coins, data):
    places = data.draw(st.lists(st.integers(1, 64), min_size=1, max_size=7, unique=True))
    threshold = data.draw(st.integers(1, len(places)))
    shares = split(secret, threshold, places, coins)
    assert set(shares) == set(places)
    assert {len(share) for share in shares.values()} == {SHARE}
    chosen = data.draw(st.lists(st.sampled_from(places), min_size=threshold, unique=True))
    assert join({place: shares[place] for place in chosen}, threshold) == secret
    if threshold > 1:
        with pytest.raises(ProtocolError, match=f"needs {threshold} shares"):
            join({place: shares[place] for place in chosen[: threshold - 1]}, threshold)


@settings(max_examples=40, deadline=None)
@given(secrets, secrets, secrets, st.integers(2, 6))
def test_shares_below_the_threshold_fit_every_secret(secret, other, coins, threshold):
    shares = split(secret, threshold, range(1, threshold + 1), coins)
    held = {place: shares[place] for place in range(1, threshold)}
    alone = [(place, int.from_bytes(share)) for place, share in held.items()]
    assert masking._through(alone, 0) != int.from_bytes(secret)
    points = [(0, int.from_bytes(other)), *((place, int.from_bytes(share)) for place, share in held.items())]
    completed = {**held, threshold: masking._through(points, threshold).to_bytes(SHARE)}
    assert join(completed, threshold) == other


def test_the_prime_of_shares_is_a_prime_above_every_secret():
    assert PRIME > 2**256 - 1
    assert all(pow(base, PRIME - 1, PRIME) == 1 for base in (2, 3, 5, 7, 11, 13))
    assert join(split(bytes([255]) * 32, 2, [1, 2], SEED), 2) == bytes([255]) * 32
    assert join(split(bytes(32), 2, [1, 2], SEED), 2) == bytes(32)


def test_shares_follow_from_their_coins_and_tell_of_no_other_sharing():
    first = split(SEED, 3, range(1, 6), derive(SEED, "coins", 1))
    assert first == split(SEED, 3, range(1, 6), derive(SEED, "coins", 1))
    second = split(SEED, 3, range(1, 6), derive(SEED, "coins", 2))
    assert all(first[place] != second[place] for place in first)
    with pytest.raises(ProtocolError):
        join({1: first[1], 2: first[2], 3: first[3], 4: second[4]}, 3)


@pytest.mark.parametrize("wrong", range(1, 6))
def test_a_wrong_share_is_noticed_where_there_are_more_than_the_threshold(wrong):
    shares = split(SEED, 3, range(1, 6), derive(SEED, "coins"))
    shares[wrong] = ((int.from_bytes(shares[wrong]) + 1) % PRIME).to_bytes(SHARE)
    with pytest.raises(ProtocolError, match="contradict"):
        join(shares, 3)


@pytest.mark.parametrize("share", [b"", bytes(32), bytes(34), PRIME.to_bytes(SHARE), b"\xff" * SHARE])
def test_a_malformed_share_is_refused(share):
    shares = split(SEED, 2, [1, 2, 3], derive(SEED, "coins"))
    with pytest.raises(ProtocolError, match="malformed"):
        join({**shares, 1: share}, 2)


def test_shares_that_open_no_secret_are_refused():
    beyond = {place: (2**256 + 5).to_bytes(SHARE) for place in (1, 2)}
    with pytest.raises(ProtocolError, match="open none"):
        join(beyond, 2)


@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=100))
def test_what_is_sealed_opens_for_its_peer(data):
    a, b = site(0), site(1)
    sealed = seal(a.channel, b.public[0], CONTEXT, data)
    assert open_sealed(b.channel, a.public[0], CONTEXT, sealed) == data
    assert data not in sealed or len(data) < 5


def test_what_is_sealed_opens_nowhere_else():
    a, b, c = (site(number) for number in range(3))
    sealed = seal(a.channel, b.public[0], CONTEXT, b"shares")
    others = [
        (b.channel, a.public[0], b"study/4/0"),  # another sum
        (a.channel, b.public[0], CONTEXT),  # back to its sender
        (c.channel, a.public[0], CONTEXT),  # another site
        (b.channel, c.public[0], CONTEXT),  # as if another had sent it
        (b.mask, a.public[1], CONTEXT),  # the other keys of the same two
    ]
    for private, peer, context in others:
        with pytest.raises(ProtocolError, match="does not open"):
            open_sealed(private, peer, context, sealed)


def test_a_changed_byte_of_what_is_sealed_is_noticed():
    a, b = site(0), site(1)
    sealed = seal(a.channel, b.public[0], CONTEXT, bytes(66))
    for index in range(len(sealed)):
        changed = bytearray(sealed)
        changed[index] ^= 1 + index % 255
        with pytest.raises(ProtocolError, match="does not open"):
            open_sealed(b.channel, a.public[0], CONTEXT, bytes(changed))
    for size in (0, 5, 11, 12, 27, len(sealed) - 1):
        with pytest.raises(ProtocolError, match="does not open"):
            open_sealed(b.channel, a.public[0], CONTEXT, sealed[:size])
    with pytest.raises(ProtocolError, match="does not open"):
        open_sealed(b.channel, a.public[0], CONTEXT, sealed + b"\0")


def test_the_same_data_seal_to_the_same_bytes_and_no_nonce_serves_two():
    a, b = site(0), site(1)
    data = [index.to_bytes(66) for index in range(200)]
    sealed = [seal(a.channel, b.public[0], CONTEXT, one) for one in data]
    assert sealed[7] == seal(a.channel, b.public[0], CONTEXT, data[7])
    assert len({one[:12] for one in sealed}) == 200
    # a nonce that followed from the data alone would tell who sent the same
    assert sealed[0][:12] != seal(a.channel, b.public[0], b"other", data[0])[:12]
    assert sealed[0][:12] != seal(b.channel, a.public[0], CONTEXT, data[0])[:12]
