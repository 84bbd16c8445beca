"""What an audit is about: members and hold-out by coins, images with labels, and fits of the same plan."""

import math

import numpy as np
import pandas as pd
import pytest

from privae import VAE
from privae.audit.case import (
    Case,
    Own,
    Unlabelled,
    case_of,
    case_of_samples,
    images_of,
    joined_to,
    labelled,
    odd_one_out,
)
from privae.audit.coins import Coins
from privae.audit.game import Tape
from privae.data.column import Column
from privae.data.schema import Schema
from privae.errors import DataError, UsageError

pytestmark = pytest.mark.usefixtures("tiny")
KEY = bytes(range(32))


def texts(y):
    return y.astype(str).astype(object)


@pytest.fixture(scope="module")
def table(tiny, people, facts, own_of):
    frame = people(300)
    return frame, own_of(VAE(math.inf, rows=300).fit(frame, schema=facts))


@pytest.fixture(scope="module")
def images(tiny, pictures, own_of):
    x, y = pictures(300)
    return x, texts(y), own_of(VAE(math.inf, classes=2, fidelity=False).fit(x, texts(y)))


# --- members and hold-out ---------------------------------------------------------------------------------


def test_without_coins_everybody_is_a_member_and_the_holdout_is_the_one_given(table, people):
    frame, own = table
    alone = case_of(own, (frame, None), None, None, 0)
    assert alone.origin is alone.world.holdout is alone.world.holdout_records is None
    assert len(alone.world.member_records) == 300
    held = people(50, 1)
    case = case_of(own, (frame, None), held, None, 0)
    assert case.origin == "given"
    assert case.world.holdout is held
    assert len(case.world.holdout_records) == 50


def test_records_that_coins_kept_out_are_no_members_and_are_the_holdout(table, people):
    frame, own = table
    coins = Coins(20, 0.2, KEY)
    present = coins.taking_part(frame)
    split = case_of(own, (frame, None), None, coins, 0)
    assert split.origin == "split"
    pd.testing.assert_frame_equal(split.world.members, frame[present])
    pd.testing.assert_frame_equal(split.world.holdout, frame[~present])
    given = case_of(own, (frame, None), people(50, 1), coins, 0)
    assert given.origin == "given"
    assert len(given.world.member_records) == present.sum()
    assert len(given.world.holdout_records) == 50
    none = case_of(own, (frame, None), None, Coins(20, 0.0, KEY), 0)
    assert none.origin is None
    assert len(none.world.member_records) == 300


def test_labels_stay_with_their_images(images):
    x, y, own = images
    coins = Coins(20, 0.2, KEY)
    present = coins.taking_part(x)
    case = case_of(own, (x, y), None, coins, 0)
    assert (case.world.members["x"] == x[present]).all()
    assert case.world.members["y"].tolist() == y[present].tolist()
    assert (case.world.holdout["x"] == x[~present]).all()
    assert case.world.holdout["y"].tolist() == y[~present].tolist()
    assert case.labels.tolist() == y[present].tolist()
    assert case.world.holdout_records.values.shape == ((~present).sum(), 16)


def test_a_holdout_of_images_comes_with_its_labels(images, pictures):
    x, y, own = images
    more, names = pictures(40, 1)
    case = case_of(own, (x, y), (more, texts(names)), None, 0)
    assert case.origin == "given"
    assert case.world.holdout["y"].tolist() == names.astype(str).tolist()
    assert case.world.synthetic.dtype == np.uint8


def test_a_holdout_of_another_form_than_the_data_is_refused(images, table, pictures):
    x, y, own = images
    more, names = pictures(40, 1)
    for held in (more, (more, None)):
        with pytest.raises(UsageError, match="labels"):
            case_of(own, (x, y), held, None, 0)
    with pytest.raises(UsageError, match="labels"):
        case_of(own, (x, y), (more, texts(names)[:5]), None, 0)
    with pytest.raises(UsageError, match="hold-out"):
        case_of(own, (x, y), (np.zeros((40, 5, 5), np.uint8), texts(names)), None, 0)
    with pytest.raises(UsageError, match="hold-out"):
        case_of(own, (x, y), table[0], None, 0)
    with pytest.raises(UsageError, match="hold-out"):
        case_of(table[1], (table[0], None), more, None, 0)


def test_images_without_labels_take_a_plain_holdout(tiny, pictures, own_of):
    x, _ = pictures(200)
    own = own_of(VAE(math.inf, fidelity=False).fit(x))
    more, names = pictures(30, 1)
    case = case_of(own, (x, None), more, None, 0)
    assert case.world.members is x
    assert len(case.world.holdout_records) == 30
    with pytest.raises(UsageError, match="labels"):
        case_of(own, (x, None), (more, texts(names)), None, 0)


def test_what_is_claimed_is_what_the_plan_guarantees(tiny, people, facts, own_of):
    vae = VAE(3.0, 1e-5).fit(people(500), schema=facts)
    world = case_of(own_of(vae), (people(500), None), None, None, 7).world
    assert (world.epsilon, world.delta, world.seed) == (vae.guarantee.epsilon, vae.guarantee.delta, 7)
    pd.testing.assert_frame_equal(world.synthetic, vae.sample(500, 7))


def test_bought_categories_are_again_undeclared_for_attacks(tiny, people, facts, own_of):
    job = facts.columns[1].model_copy(update={"categories": "bought"})
    schema = facts.model_copy(update={"columns": (facts.columns[0], job, *facts.columns[2:])})
    vae = VAE(3.0).fit(people(800), schema=schema)
    assert vae.fitted_.schema.bought == ()
    case = case_of(own_of(vae), (people(800), None), None, None, 0)
    assert case.world.schema == schema


def test_a_table_takes_its_labels_and_its_holdouts_apart_or_together(tiny, people, facts):
    """As scikit-learn gives them: X without the label, and y."""
    frame, held = people(400), people(60, 1)
    x, y = frame.drop(columns="ill"), frame["ill"]
    vae = VAE(math.inf).fit(x, y, schema=facts)
    for given in (held, (held.drop(columns="ill"), held["ill"]), (held, None)):
        done = vae.audit(x, y, holdout=given)
        assert done.holdout == "given"
        assert not [skipped for skipped in done.skipped if "--holdout" in skipped.reason["en"]]
    with pytest.raises(UsageError, match="images"):
        vae.audit(x, y, holdout=np.zeros((9, 4, 4), np.uint8))


def test_an_audit_needs_the_labels_that_the_fit_was_given(images):
    x, y, _ = images
    vae = VAE(math.inf, classes=2, fidelity=False).fit(x, y)
    for labels in (None, y[:5]):
        with pytest.raises(UsageError, match="label"):
            vae.audit(x, labels)


def test_a_holdout_of_records_that_were_used_is_refused(table, images, people, facts):
    frame, own = table
    for held in (frame, frame[100:], pd.concat([frame[:60], people(40, 1)])):
        with pytest.raises(UsageError, match="never saw"):
            case_of(own, (frame, None), held, None, 0)
        with pytest.raises(UsageError, match="never saw"):
            case_of_samples(facts, (frame, held, people(40, 2)), (None, 0.0))
    x, y, pictured = images
    with pytest.raises(UsageError, match="never saw"):
        case_of(pictured, (x, y), (x[:50], y[:50]), None, 0)
    case_of(own, (frame, None), pd.concat([frame[:40], people(60, 1)]), None, 0)  # some are equal by chance


def test_where_equal_records_are_the_rule_a_holdout_may_repeat_them():
    """Two questions with two answers each: everybody is like somebody else."""
    schema = Schema(columns=tuple(Column(name=c, kind="boolean") for c in "ab"))
    rng = np.random.default_rng(0)
    frames = [pd.DataFrame(rng.random((50, 2)) < 0.5, columns=list("ab")) for _ in range(3)]
    assert case_of_samples(schema, tuple(frames), (1.0, 0.0)).origin == "given"


def test_data_of_nobody_are_no_case(table, images, people, facts):
    for own, data in ((table[1], (people(0), None)), (images[2], (images[0][:0], images[1][:0]))):
        with pytest.raises(DataError, match="no records"):
            case_of(own, data, None, None, 0)
    for tables in ((people(0), None, people(5)), (people(5), None, people(0))):
        with pytest.raises(DataError, match="records"):
            case_of_samples(facts, tables, (None, 0.0))


# --- fits of the same plan --------------------------------------------------------------------------------


def test_a_refit_is_of_the_same_plan_and_knows_other_records(table, people):
    frame, own = table
    case = case_of(own, (frame, None), people(50, 1), None, 0)
    again = case.world.refit(people(200, 2))
    assert again.schema == own.fitted.schema
    assert again.score(frame).shape == (300,)


def test_a_refit_of_images_takes_records_with_their_labels(images, pictures):
    x, y, own = images
    more, names = pictures(40, 1)
    case = case_of(own, (x, y), (more, texts(names)), None, 0)
    again = case.world.refit(np.concatenate([case.world.members[:200], case.world.holdout]))
    assert isinstance(again, Unlabelled)
    scores = again.score(case.world.members)
    assert (scores == again.score(x)).all()
    assert again.embed(case.world.members).shape[0] == 300
    assert set(map(len, again.parts(case.world.holdout).values())) == {40}


def test_a_refit_of_plain_images_needs_no_labels(tiny, pictures, own_of):
    x, _ = pictures(200)
    own = own_of(VAE(math.inf, fidelity=False).fit(x))
    again = case_of(own, (x, None), None, None, 0).world.refit(x[:150])
    assert again.score(x).shape == (200,)


def test_where_a_fit_cannot_be_done_again_there_is_no_refit_and_no_rehearsal(table):
    frame, own = table
    alone = Own(own.fitted, own.plan, own.recipe, None)
    case = case_of(alone, (frame, None), None, None, 0)
    assert case.world.refit is case.rehearse is None


def test_a_rehearsal_reads_canaries_among_generated_records_and_may_be_published(table, images):
    frame, own = table
    found = case_of(own, (frame, None), None, None, 0).rehearse()
    assert [f.attack for f in found] == [
        "rehearsal: canary reading",
        "rehearsal: canary release",
        "rehearsal: canary loss",
    ]
    assert all(f.public and f.title["zh"].startswith("在生成数据上的演练") for f in found)
    assert found[0].title["en"].startswith("Rehearsal on generated records: ")
    assert found[0].details["canaries"] == 20  # of 300 declared rows
    x, y, own = images
    found = case_of(own, (x, y), None, None, 0).rehearse()
    assert [f.attack for f in found] == ["rehearsal: canary reading", "rehearsal: canary loss"]
    assert found[0].details["canaries"] == 100


@pytest.mark.parametrize("kind", ["table", "images", "plain images"])
def test_one_more_record_is_far_from_the_generated_ones(table, images, pictures, kind, own_of):
    x, _ = pictures(100)
    own = {
        "table": lambda: table[1],
        "images": lambda: images[2],
        "plain images": lambda: own_of(VAE(math.inf, fidelity=False).fit(x)),
    }[kind]()
    data, odd = odd_one_out(own, 50, np.random.default_rng(0))
    more, names = joined_to(data, odd)
    assert len(more) == 51
    if kind == "table":
        assert names is None
        assert odd[0].loc[0, "job"] == "else"
        assert own.fitted.codec.encode(more)[-1].tolist() == (own.fitted.codec.sizes - 1).tolist()
    else:
        assert more[-1].tolist() == [[0, 255, 0, 255], [255, 0, 255, 0]] * 2
        assert (names is None) == (kind == "plain images")
        assert names is None or len(names) == 51


def test_what_is_written_is_the_model_file_but_for_its_books(table, images, people):
    frame, own = table
    written = own.written(Tape(), (frame, None))
    assert {"schema", "model.json"} < set(written)
    assert all(isinstance(content, bytes) for content in written.values())
    x, y, pictured = images
    assert "model.json" in pictured.written(Tape(), (x, y))


def test_an_own_model_or_case_shows_no_record(table, people):
    frame, own = table
    frame = frame.assign(job="astronaut")
    case = case_of(own, (frame, None), people(20, 1), None, 0)
    assert "astronaut" not in repr(case)
    assert "astronaut" not in repr(Case(case.world))


# --- other tools ------------------------------------------------------------------------------------------


def test_a_synthetic_table_of_any_tool_is_a_case(people, facts):
    case = case_of_samples(facts, (people(50), people(30, 1), people(40, 2)), (2.0, 1e-6))
    assert (case.own, case.world.model, case.world.refit, case.rehearse) == (None, None, None, None)
    assert (case.world.epsilon, case.world.delta, case.origin) == (2.0, 1e-6, "given")
    bare = case_of_samples(facts, (people(50), None, people(40, 2)), (None, 0.0))
    assert (bare.origin, bare.world.epsilon, bare.world.holdout_records) == (None, None, None)


def test_tables_of_one_case_share_the_codes_of_their_texts():
    schema = Schema(columns=(Column(name="t", kind="category", categories="bought"),))
    frames = [pd.DataFrame({"t": texts}) for texts in (["a", "b"], ["b", "c"], ["c", "a"])]
    world = case_of_samples(schema, tuple(frames), (None, 0.0)).world
    assert world.member_records.values[1, 0] == world.holdout_records.values[0, 0]
    assert world.synthetic_records.values[0, 0] == world.holdout_records.values[1, 0]
    with pytest.raises(UsageError, match="no column 't'"):
        case_of_samples(schema, (frames[0], frames[1], frames[2].rename(columns={"t": "u"})), (None, 0.0))


def test_images_and_their_labels_are_one_array_of_records():
    x, y = np.arange(8, dtype=np.uint8).reshape(2, 2, 2), np.array(["a", "b"], dtype=object)
    records = labelled(x, y)
    assert (images_of(records[1:]) == x[1:]).all()
    assert images_of(records).flags.c_contiguous
    assert labelled(x, None) is x
    assert images_of(x) is x
