"""FF1: NIST's nine sample vectors, back again for anything, and nothing that could be tried out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privae.actions.ff1 import ALPHABETS, enciphered, ff1, least_length

# NIST, "FF1samples", to SP 800-38G: keys of 128, 192 and 256 bits
KEY = "2B7E151628AED2A6ABF7158809CF4F3CEF4359D8D580AA4F7F036D6F04FC6A94"
TEN, OTHER, WIDE = "", "39383736353433323130", "3737373770717273373737"
VECTORS = [
    (32, TEN, "0123456789", "2433477484"),
    (32, OTHER, "0123456789", "6124200773"),
    (32, WIDE, "0123456789abcdefghi", "a9tv40mll9kdu509eum"),
    (48, TEN, "0123456789", "2830668132"),
    (48, OTHER, "0123456789", "2496655549"),
    (48, WIDE, "0123456789abcdefghi", "xbj3kv35jrawxv32ysr"),
    (64, TEN, "0123456789", "6657667009"),
    (64, OTHER, "0123456789", "1001623463"),
    (64, WIDE, "0123456789abcdefghi", "xs8a0azh2avyalyzuwd"),
]


@pytest.mark.parametrize(("bits", "tweak", "plain", "cipher"), VECTORS)
def test_the_sample_vectors_of_nist(bits, tweak, plain, cipher):
    key, tweak = bytes.fromhex(KEY[:bits]), bytes.fromhex(tweak)
    alphabet = ALPHABETS["digits" if plain.isdigit() else "digits+lower"]
    assert enciphered([plain], key, tweak, alphabet) == [cipher]
    assert enciphered([cipher], key, tweak, alphabet, back=True) == [plain]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(ALPHABETS)),
    st.binary(max_size=40),
    st.lists(st.lists(st.integers(0, 61), min_size=6, max_size=70), min_size=1, max_size=5),
)
def test_what_is_enciphered_comes_back(name, tweak, numbers):
    alphabet = ALPHABETS[name]
    texts = ["-".join(["", *(alphabet[n % len(alphabet)] for n in own)]) for own in numbers]
    key = bytes(range(32))
    done = enciphered(texts, key, tweak, alphabet)
    assert [len(text) for text in done] == [len(text) for text in texts]
    assert all(text[::2] == "-" * len(text[::2]) for text in done)
    assert enciphered(done, key, tweak, alphabet, back=True) == texts


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 2**16), st.integers(2, 24), st.randoms(use_true_random=False))
def test_every_radix_and_length_of_the_standard(radix, length, random):
    numerals = [[random.randrange(radix) for _ in range(length)]]
    if radix**length < 10**6:
        with pytest.raises(ValueError, match="a million"):
            ff1(bytes(16), b"", radix, numerals)
    else:
        assert ff1(bytes(16), b"", radix, ff1(bytes(16), b"", radix, numerals), back=True) == numerals


def test_it_is_a_permutation_and_follows_key_and_tweak():
    texts = [f"{number:06d}" for number in range(3000)]
    done = enciphered(texts, bytes(32), b"a", ALPHABETS["digits"])
    assert len(set(done)) == len(texts)
    others = [
        enciphered(texts, key, tweak, ALPHABETS["digits"])
        for key, tweak in ((bytes(16), b"a"), (bytes(32), b"b"))
    ]
    for other in others:
        assert sum(a == b for a, b in zip(done, other, strict=True)) < 5


def test_what_could_be_tried_out_or_would_stay_is_not_enciphered():
    digits = ALPHABETS["digits"]
    assert (least_length(10), least_length(36), least_length(62)) == (6, 4, 4)
    for text in ("12345", "Ann Smith", "AB123456", "", "1" * 257, "\u0661" * 9, "张123456"):
        assert enciphered([text], bytes(32), b"", digits) == [None]
    assert enciphered(["12 34-56."], bytes(32), b"", digits)[0][2::3] == " -."[0] + "-" + "."


def test_numbers_that_are_none_are_refused():
    for radix, numerals in (
        (1, [[0] * 9]),
        (2**16 + 1, [[0] * 9]),
        (10, [[0] * 5]),
        (10, [[0] * 9, [0] * 8]),
    ):
        with pytest.raises(ValueError, match=r"FF1 needs|numerals of one length"):
            ff1(bytes(16), b"", radix, numerals)
    with pytest.raises(ValueError, match="below the radix"):
        ff1(bytes(16), b"", 10, [[10] * 9])
    assert ff1(bytes(16), b"", 10, []) == []
