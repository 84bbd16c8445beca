"""Fits whose sums are formed on ciphertexts: the clear fit bit for bit, and what each role can see."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from privae import VAE
from privae.ckks import exact
from privae.ckks.scheme import Ciphertext, Holder, primes_of, transformed
from privae.data.examples import load_digits
from privae.data.images import ImageSchema
from privae.encrypted import rounds, statistics
from privae.encrypted.rounds import COUNT_FACTOR, DEGREE, Keys, Terms, Tiling
from privae.encrypted.statistics import Client, Known, Opening, Server
from privae.errors import ArtifactError, PrivacyRefused, UsageError
from privae.privacy.ledger import Ledger
from privae.privacy.noise import NoiseSource
from privae.recipes.image import AXES, CLASSES, NORMS
from privae.sums import moments
from privae.training.watch import Silent

KEY = bytes(32)
BOUND = moments.BOUND
SCHEMA = ImageSchema(height=4, width=4, classes=("0", "1", "2"))
PLAIN = SCHEMA.model_copy(update={"classes": None})


@pytest.fixture(scope="module")
def records():
    """Digits 0 to 3 at half their size; 3 is no class."""
    x, y, _ = load_digits()
    kept = np.isin(y, ["0", "1", "2", "3"])
    return x[kept].reshape(-1, 4, 2, 4, 2).mean((2, 4)).astype(np.uint8), y[kept]


def plan_of(schema, epsilon=10.0, **more):
    return VAE(epsilon, fidelity=False, schema=schema, **more).plan()


def clear_fit(schema, plan, x, y):
    model = VAE(10.0, fidelity=False, schema=schema)
    return model.fit(x, y, plan=plan, noise=NoiseSource(KEY))


def same(fitted, model):
    mine, theirs = fitted.model.state(), model.fitted_.model.state()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.fixture(scope="module")
def round_of_axes(records):
    """The roles of one client, and its messages of the axes' phase."""
    terms = Terms(plan_of(PLAIN), PLAIN, (200,))
    holder = statistics.KeyHolder(terms)
    client, server = Client(terms, holder.keys, 0), Server(terms, holder.keys)
    known = Known(norms=np.ones(128))
    sent = client.encrypt(AXES, (records[0][:150], None), known)
    return holder, client, server, sent


class TestEquality:
    @pytest.mark.parametrize("schema", [SCHEMA, PLAIN])
    def test_one_client(self, records, schema):
        x, y = records
        labels = None if schema.classes is None else y
        plan = plan_of(schema)
        made = statistics.fit(Terms(plan, schema, (800,)), [(x, labels)], noise=NoiseSource(KEY))
        model = clear_fit(schema, plan, x, labels)
        assert same(made.fitted, model)
        assert [entry.phase for entry in made.ledger.entries] == [NORMS, AXES, CLASSES]
        assert made.ledger.events == model.ledger.events
        assert made.guarantee.epsilon == model.guarantee.epsilon
        assert set(model.guarantee.not_covered) < set(made.guarantee.not_covered)

    def test_skewed_clients_and_one_without_rows(self, records):
        x, y = records
        zeros = y == "0"
        split = [(x[zeros], y[zeros]), (x[:0], y[:0]), (x[~zeros], y[~zeros])]
        plan = plan_of(SCHEMA)
        made = statistics.fit(Terms(plan, SCHEMA, (200, 50, 600)), split, noise=NoiseSource(KEY))
        assert same(made.fitted, clear_fit(SCHEMA, plan, x, y))
        assert {"clients seconds", "server seconds", "key holder seconds"} < set(made.costs)

    def test_opened_sums_are_those_of_the_rows(self, records, round_of_axes):
        holder, _, server, sent = round_of_axes
        opened = holder.opened(AXES, server.summed(AXES, [sent]))
        sizes = holder.terms.sizes
        codes = statistics.image.frequencies(records[0][:150], sizes)
        ball = statistics.image.ball_of(np.ones(128), 16, sizes.quantile)
        assert (opened[0] == moments.sums(statistics.image.bounded(codes, ball))).all()


class TestTiling:
    def test_every_tiling_has_the_inner_products_at_its_places(self, monkeypatch):
        monkeypatch.setattr(rounds, "DEGREE", 64)
        monkeypatch.setattr(rounds, "_LEAST_ROWS", 2)
        random = np.random.default_rng(0)
        found = list(rounds._tilings(3, 2))
        assert len(found) > 15
        for tiling in found:
            rows = random.integers(-99, 99, (tiling.rows - 1, 4))
            rows[:, 3] = 1
            groups = random.integers(-1, 2, len(rows))
            left, right = tiling.lefthand(rows, groups), tiling.righthand(rows)
            seen = [negacyclic(left[g], right[h])[:: tiling.rows] for g, h in tiling.tiles]
            wanted = [moments.sums(rows[groups == c, :3]) for c in range(2)]
            assert (tiling.sums(np.array(seen)) == np.array(wanted)).all()

    def test_blocks_follow_from_the_capacity(self):
        tiling = rounds.tiling(16, 3, (200, 7))
        assert tiling.blocks(tiling.rows) == 1
        assert tiling.blocks(tiling.rows + 1) == 2
        assert tiling.left * tiling.right * tiling.rows == DEGREE

    def test_products_of_many_blocks_are_exact(self):
        random, primes = np.random.default_rng(1), (2**48 - 59, 2**47 - 115)
        left, right = random.integers(0, 2**47 - 115, (2, 19, 2, 2, 8), np.uint64)
        left[:, :, 0] = primes[0] - 1
        right[:, :, 0] = primes[0] - 1
        found = rounds.multiplied(left, right, primes)
        a, b = left.astype(object), right.astype(object)
        wanted = (a[:, 0] * b[:, 0], a[:, 0] * b[:, 1] + a[:, 1] * b[:, 0], a[:, 1] * b[:, 1])
        for part in range(3):
            assert (found[part] == wanted[part].sum(0) % np.array(primes, object)[:, None]).all()


def negacyclic(left, right):
    whole = np.convolve(left, right)
    return whole[:64] - np.append(whole[64:], 0)


class TestExactness:
    def test_the_largest_sums_still_round_right(self):
        terms = Terms(plan_of(PLAIN), PLAIN, (rounds.MOST_ROWS,))
        holder = statistics.KeyHolder(terms)
        server, tiling = Server(terms, holder.keys), Tiling(1, 1, DEGREE, 1, 1)
        rows = np.tile([BOUND, 1], (DEGREE, 1))
        left = tiling.lefthand(rows, np.zeros(DEGREE, np.int64))[0]
        public = statistics.Public(terms.parameters, holder.keys.encryption)
        pair = [
            exact.encrypted(public, row, terms.factor).residues for row in (left, tiling.righthand(rows)[0])
        ]
        primes = primes_of(terms.parameters)
        total = rounds.multiplied(pair[0][None], pair[1][None], primes)
        for _ in range(8):  # 256 times the same noise: sixteen times what as many blocks would have
            total = (total * 2) % np.array(primes, np.uint64)[:, None]
        assert holder._places(server._hidden(total, tiling), tiling.rows).tolist() == [2**62]

    def test_what_the_bound_says_holds_of_real_noise(self, round_of_axes):
        holder, _, server, sent = round_of_axes
        terms, tiling = holder.terms, holder.terms.tilings[AXES]
        parts = 2 * (tiling.lefts + tiling.rights)
        read = np.stack([server._read(f"{AXES}/0/{b}", m, parts) for b, m in enumerate(sent)])
        blocks = read.reshape(len(sent), -1, 2, len(server._primes), DEGREE)
        total = next(server._products(blocks, tiling))
        hidden = coefficients(holder._holder, terms, total)
        whole = terms.factor**2
        noise = np.array([(h + whole // 2) % whole - whole // 2 for h in hidden], float)
        bound = rounds.deviation(terms.factor, terms.rows, terms.products)
        assert 1e-3 * bound < noise.std() < bound

    @pytest.mark.parametrize("rows", [1, 2**14, 2**22])
    def test_parameters_have_room_for_everything(self, rows):
        parameters, factor = rounds.fitting(rows, 64, 30_000)
        noise = rounds.deviation(factor, rows, 64)
        assert factor**2 > 2 * (rounds.flood(noise, 30_000) + 12 * noise)
        assert sum(map(math.log2, primes_of(parameters))) > 2 * math.log2(factor) + math.log2(rows) + 41

    def test_sizes_beyond_are_refused(self, monkeypatch):
        plan = plan_of(PLAIN)
        with pytest.raises(UsageError, match="2\\^22"):
            Terms(plan, PLAIN, (2**22, 1))
        with pytest.raises(UsageError, match="capacity"):
            Terms(plan, PLAIN, (100, 0))
        right = rounds.fitting
        monkeypatch.setattr(rounds, "fitting", lambda *sizes: right(1, 1, 1))
        with pytest.raises(UsageError, match="exact"):
            statistics.KeyHolder(Terms(plan, PLAIN, (2**20,)))
        monkeypatch.setattr(rounds, "fitting", lambda *sizes: (right(*sizes)[0], 2**70))
        with pytest.raises(UsageError, match="exact"):
            statistics.KeyHolder(Terms(plan, PLAIN, (2**20,)))

    def test_other_plans_are_refused(self):
        bought = SCHEMA.model_copy(update={"classes": "bought"})
        with pytest.raises(UsageError, match="declared classes"):
            Terms(plan_of(bought), bought, (100,))
        refined = VAE(math.inf, rows=5000, fidelity=True, schema=SCHEMA).plan()
        with pytest.raises(UsageError, match="fidelity=False"):
            Terms(refined, SCHEMA, (100,))
        with pytest.raises(UsageError, match="another schema"):
            Terms(plan_of(SCHEMA), PLAIN, (100,))
        cheap = plan_of(PLAIN).model_copy(update={"epsilon": 0.1})
        with pytest.raises((UsageError, PrivacyRefused)):
            Terms(cheap, PLAIN, (100,))


def coefficients(holder: Holder, terms, parts):
    """What a ciphertext hides, as integers of least magnitude: [N]."""
    value = Ciphertext(terms.parameters, 1.0, raw=parts)
    plain = transformed(terms.parameters, exact.phase(holder, value)[None], forward=False)[0]
    return statistics._integers(plain, primes_of(terms.parameters)[: len(plain)])


def view(holder, message):
    """What the key holder can see in the first tile: multiples of the sums' unit, sums aside; and their noise."""
    terms, tiling = holder.terms, holder.terms.tilings[AXES]
    shape = (2 * len(tiling.tiles), terms.parameters.base)
    tile = rounds.unpacked(terms, holder.keys, f"{AXES}/-1/0", message, shape)[:2]
    unit = terms.factor**2 / terms.dropped
    hidden = np.array([float(number) for number in coefficients(holder._holder, terms, tile)]) / unit
    sums = np.zeros(DEGREE, bool)
    sums[:: tiling.rows] = True
    exactly = [number * terms.dropped for number in coefficients(holder._holder, terms, tile)[:: tiling.rows]]
    whole = terms.factor**2
    noise = [((n + whole // 2) % whole - whole // 2) / terms.dropped / terms.flood for n in exactly]
    modulus = math.prod(primes_of(terms.parameters)[: shape[1]])
    return hidden[~sums] / (modulus / unit / 2), np.array(noise)


def looks_uniform(values):
    """Whether numbers in [-1, 1] fill 16 bins evenly: chi-square below 60 with 15 degrees of freedom, one in 10^6."""
    counts = np.histogram(values, 16, (-1, 1))[0]
    return counts.sum() == len(values) and ((counts - len(values) / 16) ** 2).sum() * 16 / len(values) < 60


class TestKeyHolder:
    def test_sees_sums_and_uniform_numbers(self, round_of_axes):
        holder, _, server, sent = round_of_axes
        others, noise = view(holder, server.summed(AXES, [sent]))
        assert looks_uniform(others)
        assert looks_uniform(noise)

    @pytest.mark.parametrize("bug", ["others", "noise"])
    def test_without_masks_it_would_see_rows(self, round_of_axes, monkeypatch, bug):
        holder, _, server, sent = round_of_axes
        at_sums = np.arange(DEGREE) % holder.terms.tilings[AXES].rows == 0
        kept = (at_sums if bug == "others" else ~at_sums).astype(np.uint64)
        monkeypatch.setattr(statistics, "masks", lambda *how: rounds.masks(*how) * kept)
        others, noise = view(holder, server.summed(AXES, [sent]))
        assert looks_uniform(others) == (bug == "noise")
        assert looks_uniform(noise) == (bug == "others")

    def test_second_parts_are_fresh(self, round_of_axes):
        _, _, server, sent = round_of_axes
        terms, tiling = server.terms, server.terms.tilings[AXES]
        shape = (2 * len(tiling.tiles), terms.parameters.base)
        twice = [
            rounds.unpacked(terms, server.keys, f"{AXES}/-1/0", server.summed(AXES, [sent]), shape)[1::2]
            for _ in range(2)
        ]
        assert (twice[0] == twice[1]).mean() < 1e-3

    def test_charges_before_it_releases(self, records):
        terms = Terms(plan_of(PLAIN), PLAIN, (200,))
        holder = statistics.KeyHolder(terms)
        client, server = Client(terms, holder.keys, 0), Server(terms, holder.keys)
        noise, asked = NoiseSource(KEY), []

        def refuse(phase, event):
            raise PrivacyRefused("spent")

        def ask(phase, known):
            asked.append(phase)
            return server.summed(phase, [client.encrypt(phase, (records[0][:200], None), known)])

        with pytest.raises(PrivacyRefused, match="spent"):
            holder.fit(statistics.Run(terms.plan, refuse, noise, Silent()), ask)
        assert asked == [NORMS]
        assert noise.numbers_drawn == 0

    def test_a_data_set_s_ledger_is_charged_whole(self, records, tmp_path):
        plan = plan_of(PLAIN)
        ledger = Ledger.open(tmp_path / "ledger.jsonl", 0.5, 1e-5)
        with pytest.raises(PrivacyRefused):
            statistics.fit(Terms(plan, PLAIN, (800,)), [(records[0], None)], ledger=ledger)

    def test_does_not_print_its_key(self, round_of_axes):
        holder = round_of_axes[0]
        assert repr(holder) == f"KeyHolder({holder.keys.identity[:12]})"


class TestServer:
    def test_holds_no_secret_and_sees_no_row(self, records, round_of_axes):
        holder, _, server, sent = round_of_axes
        server.summed(AXES, [sent])
        held = pickle.dumps((server.terms, server.keys))
        assert not any(isinstance(part, Holder | statistics.KeyHolder) for part in vars(server).values())
        assert holder._holder.secret[200:232] not in held
        seen = held + b"".join(sent)
        assert not any(image.tobytes() in seen for image in records[0][:150])

    def test_messages_are_as_long_without_rows(self, records, round_of_axes):
        _, client, _, sent = round_of_axes
        x, _ = records
        for rows in (0, 200):
            again = client.encrypt(AXES, (x[:rows], None), Known(norms=np.ones(128)))
            assert list(map(len, again)) == list(map(len, sent))

    def test_refuses_messages_that_are_not_those_it_asked_for(self, round_of_axes):
        _, _, server, sent = round_of_axes
        first = bytearray(sent[0])
        first[-1] ^= 1
        wrong = [
            [[bytes(first), *sent[1:]]],
            [[sent[0][:-6], *sent[1:]]],
            [[b"", *sent[1:]]],
            [[*sent, sent[0]]],
            [sent, sent],
        ]
        for messages in wrong:
            with pytest.raises(ArtifactError):
                server.summed(AXES, messages)
        with pytest.raises(ArtifactError, match="another fit, key or place"):
            server.summed(NORMS, [[sent[0]]])
        with pytest.raises(ArtifactError, match="one message"):
            server.summed(NORMS, [[]])
        other = Server(server.terms, replace(server.keys, encryption=server.keys.encryption[:-1] + b"?"))
        with pytest.raises(ArtifactError, match="another fit, key or place"):
            other.summed(AXES, [sent])

    def test_numbers_that_are_no_residues_are_refused(self, round_of_axes):
        _, _, server, _ = round_of_axes
        terms, shape = server.terms, (2, len(server._primes), DEGREE)
        message = rounds.packed(terms, server.keys, "x", np.full(shape, 2**48 - 1, np.uint64))
        with pytest.raises(ArtifactError, match="no ciphertexts"):
            rounds.unpacked(terms, server.keys, "x", message, shape[:2])


class TestOpening:
    def test_what_opens_to_no_sums_is_refused(self, round_of_axes):
        holder, _, _, _ = round_of_axes
        terms, tiling = holder.terms, holder.terms.tilings[AXES]
        primes = primes_of(terms.parameters)[: terms.parameters.base]
        noise = np.stack([exact.uniform(KEY, prime, 2 * len(tiling.tiles) * DEGREE) for prime in primes], 0)
        wide = noise.reshape(len(primes), -1, DEGREE).transpose(1, 0, 2)
        message = rounds.packed(terms, holder.keys, f"{AXES}/-1/0", wide)
        with pytest.raises(ArtifactError, match="does not open"):
            holder.opened(AXES, message)

    def test_a_damaged_or_foreign_sum_is_refused(self, round_of_axes):
        holder, _, server, sent = round_of_axes
        message = bytearray(server.summed(AXES, [sent]))
        message[1000] ^= 4
        with pytest.raises(ArtifactError, match="damaged"):
            holder.opened(AXES, bytes(message))
        with pytest.raises(ArtifactError, match="another fit"):
            holder.opened(CLASSES, bytes(message))

    def test_counts_are_added_exactly(self, round_of_axes):
        holder, client, server, _ = round_of_axes
        counts = np.arange(128) * 2**15
        opened = holder.opened(NORMS, server.summed(NORMS, [[client._counts(counts)]]))
        assert (opened[0] == counts).all()
        assert COUNT_FACTOR * rounds.MOST_ROWS < 2**62

    def test_phases_are_known_in_order(self):
        opening = Opening(
            plan_of(PLAIN), lambda *_: 0.0, NoiseSource(KEY), Silent(), sums=lambda *_: np.ones((1, 64), int)
        )
        assert opening.known == [Known()]
        released = opening.release(NORMS, [(np.zeros(64, np.int64), 1.0)])
        assert opening.known[-1].norms is released[0]


class TestClient:
    def test_more_rows_than_agreed_are_refused(self, records, round_of_axes):
        _, client, _, _ = round_of_axes
        with pytest.raises(UsageError, match="capacity") as caught:
            client.encrypt(NORMS, (records[0][:201], None), Known())
        assert "20" not in str(caught.value)

    def test_images_of_another_shape_are_refused(self, round_of_axes):
        with pytest.raises(UsageError, match="4, 4"):
            round_of_axes[1].encrypt(NORMS, (np.zeros((1, 5, 4), np.uint8), None), Known())

    def test_wild_axes_are_refused(self, records, round_of_axes):
        wild = {
            "mean": torch.zeros(16).double(),
            "axes": 9 * torch.eye(16).double(),
            "spread": torch.ones(16).double(),
        }
        with pytest.raises(PrivacyRefused, match="out of range"):
            round_of_axes[1].encrypt(CLASSES, (records[0][:9], None), Known(np.ones(128), wild))

    def test_records_of_every_client_are_needed(self, records):
        with pytest.raises(UsageError, match="as many"):
            statistics.fit(Terms(plan_of(PLAIN), PLAIN, (9, 9)), [(records[0][:9], None)])

    def test_keys_are_known_by_name(self, round_of_axes):
        keys = round_of_axes[0].keys
        assert Keys(keys.encryption, keys.products).identity == keys.identity
        assert Keys(keys.encryption, keys.products[:-1]).identity != keys.identity
