"""Sums on ciphertexts in a study: the model of masks, bit for bit, under a key that the sites share."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from privae.ckks.summation import REFUSAL, Party, name_of
from privae.cli import main
from privae.cli.telling import federation_text
from privae.custody.keys import signing_key
from privae.errors import PrivacyRefused, ProtocolError, UsageError
from privae.federated import fit, messages, site
from privae.federated.chain import verify
from privae.federated.coordinator import Coordinator
from privae.federated.messages import COORDINATOR, REFUSED
from privae.federated.policy import SitePolicy, consortium_key
from privae.federated.site import Site
from privae.federated.study import Study
from privae.files import Shelf, digest, members_of, write_secretly
from privae.privacy.mechanism import Mechanism
from privae.recipes import image
from privae.recipes.gradients import Training
from privae.transport import kits
from privae.transport.simulate import assemble, parted, run

KEY_NAME = "ab" * 32


@pytest.fixture
def made(room, digits, people, monkeypatch, tiny):
    """A function of a study's terms: all its places, whose coins are the same whenever it is made."""
    monkeypatch.setattr(site, "os", SimpleNamespace(urandom=lambda count: bytes(count)))
    monkeypatch.setattr(image, "_DECODER_STEPS", 4)

    def assembled(images=True, terms=None, **more):
        named = terms or room(images=images, **more)
        records = digits(300) if images else (people(300), None)
        return assemble(named, parted(records, tuple(named.sites), "even", named.schema_of()))

    return assembled


def study_of(terms):
    return terms.study({name: name for name in terms.sites}, "the coordinator")


def posted(made, lost=()):
    """Carries messages; what is lost, a (site, stage), once for each time that it is named, never comes to the site."""
    lost = list(lost)

    def post(name, message):
        stage = messages.read(message, {COORDINATOR: made.study.coordinator}).stage
        if (name, stage) in lost:
            lost.remove((name, stage))
            return None
        return made.sites[name].answer(message)

    return post


def same(one, other) -> bool:
    states = [made.coordinator.fitted.model.state() for made in (one, other)]
    assert [s.content for s in one.coordinator.steps] == [s.content for s in other.coordinator.steps]
    return all(torch.equal(states[0][name], states[1][name]) for name in states[1])


@pytest.mark.parametrize("images", [False, True])
def test_the_model_is_bit_for_bit_that_of_masked_sums(room, made, monkeypatch, images) -> None:
    training = Training(latent=2, hidden=(8,), steps=2, batch=100, share="all" if images else "decoder")
    monkeypatch.setattr(fit, "wired", lambda planned, *_: (Mechanism(planned.clip_norm, grid=2.0**-18), 4))
    terms, found = room(images=images, epsilon=float("inf"), training=training, count=2), {}
    for way in ("masked", "encrypted"):
        found[way] = made(images, terms.model_copy(update={"sum": way}))
        run(found[way].coordinator, posted(found[way]))
    words = {step.word for step in found["encrypted"].coordinator.steps if step.kind == "sum"}
    assert words == {4, 8}
    assert same(found["encrypted"], found["masked"])


@pytest.mark.parametrize("stage", ["open", "decrypt"])
def test_the_model_is_that_of_masked_sums_whoever_is_away_at_a_stage(made, stage) -> None:
    terms = {"epsilon": 8.0, "count": 4, "dropouts": 1}
    masked, encrypted = made(**terms), made(**terms, sum="encrypted")
    gone = "keys" if stage == "open" else "unmask"
    run(masked.coordinator, posted(masked, [("ares", gone)]))
    run(encrypted.coordinator, posted(encrypted, [("ares", stage)]))
    first = encrypted.coordinator.steps[0]
    assert ("ares" in first.sites) == (stage == "decrypt")
    assert same(encrypted, masked)


def test_too_few_sites_make_no_sum(made) -> None:
    study = made(count=3, dropouts=1, sum="encrypted")
    away = [(name, "open") for name in ("ares", "bion")] * 5
    with pytest.raises(ProtocolError, match="needs 2"):
        run(study.coordinator, posted(study, away))
    assert not study.coordinator.steps


def test_a_sum_that_a_site_decrypted_is_not_sent_to_it_again(made) -> None:
    study, told = made(epsilon=8.0, sum="encrypted", count=2), []

    def post(name, message):
        read = messages.read(message, {COORDINATOR: study.study.coordinator})
        answer = study.sites[name].answer(message)
        if read.stage == "open" and read.query:
            told.append((name, read.fields["sizes"][0], "behind" in said(study, answer)))
        if name == "bion" and (read.stage, read.query) == ("decrypt", 1):
            study.sites[name] = Site(study.sites[name].own)  # killed, it forgets what it decrypted
        return answer

    run(study.coordinator, post)
    assert {size for name, size, _ in told if name == "ares"} == {0}
    assert [behind for name, _, behind in told if name == "bion"].count(True) == 1
    assert max(size for name, size, _ in told if name == "bion") > 0
    whole = made(epsilon=8.0, sum="encrypted", count=2)
    run(whole.coordinator, posted(whole))
    assert same(study, whole)


def test_a_site_decrypts_one_set_a_sum_and_none_before_it_contributed(made) -> None:
    study = made(count=4, dropouts=1, sum="encrypted")
    box = study.coordinator.outbox()
    study.coordinator.take({name: study.sites[name].answer(raw) for name, raw in box.items()})
    box, publics = study.coordinator.outbox(), {COORDINATOR: study.study.coordinator}
    first = messages.read(box["bion"], publics)
    assert first.stage == "decrypt"
    fresh = Site(replace(study.sites["bion"].own, shelf=Shelf()))
    assert "behind" in said(study, fresh.answer(box["bion"]))
    assert REFUSED not in said(study, study.sites["bion"].answer(box["bion"]))
    # the coordinator adds up another set, of three
    study.coordinator._rounds = []
    study.coordinator._shelf = Shelf()
    study.coordinator.outbox()
    opening = {name: study.coordinator._opening(name) for name in ("ares", "bion", "ceto")}
    study.coordinator.take({name: study.sites[name].answer(raw) for name, raw in opening.items()})
    answer = study.sites["bion"].answer(study.coordinator.outbox()["bion"])
    assert said(study, answer)["why"] == REFUSAL


def asked_to_decrypt(study, name="bion"):
    """A site that contributed, what the coordinator would ask it to decrypt, and a function that changes it by k."""
    box = study.coordinator.outbox()
    study.coordinator.take({one: study.sites[one].answer(raw) for one, raw in box.items()})
    raw = study.coordinator.outbox()[name]
    message = messages.read(raw, {COORDINATOR: study.study.coordinator})
    form = study.coordinator._rounds[0].form

    def by(k, index=0):
        total = form.read(message.body)
        total[index] = (int(total[index]) + k) % form.prime
        return replace(message, body=form.written(total)).sealed(study.coordinator._key.sign)

    assert by(0) == raw
    return study.sites[name], raw, by


def test_after_an_answer_no_change_of_a_sum_tells_whether_it_would_have_decrypted(made, monkeypatch) -> None:
    study = made(count=2, sum="encrypted")
    one, raw, by = asked_to_decrypt(study)
    first = one.answer(raw)
    assert REFUSED not in said(study, first)
    with monkeypatch.context() as within:
        within.setattr(Party, "decrypted", None)  # not even tried
        told = [said(study, one.answer(by(k, index))) for k in (1, -1, 20, 84, 1000) for index in (0, 5, -1)]
    assert told == [{REFUSED: "ProtocolError", "why": REFUSAL}] * 15
    assert one.answer(raw) == first


@pytest.mark.parametrize("k", [1, 1000])
def test_a_site_tries_one_request_a_sum_and_gives_it_the_same_answer_after_a_kill(made, k) -> None:
    study = made(count=2, sum="encrypted")
    one, raw, by = asked_to_decrypt(study)
    refused = one.answer(by(k))
    assert said(study, refused) == {REFUSED: "ProtocolError", "why": REFUSAL}
    assert one.answer(raw) == refused  # it fails closed, also for the sum itself
    again = Site(one.own)
    opening = study.coordinator._opening("bion")
    assert "behind" in said(study, again.answer(raw))
    assert REFUSED not in said(study, again.answer(opening))
    assert [again.answer(by(k)), again.answer(raw), again.answer(by(-k))] == [refused] * 3


def test_a_site_killed_between_writing_down_a_request_and_answering_it_answers_it_alone(
    made, monkeypatch
) -> None:
    study = made(count=2, sum="encrypted")
    one, raw, by = asked_to_decrypt(study)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as within:
        within.setattr(Party, "decrypted", killed)
        with pytest.raises(KeyboardInterrupt):
            one.answer(raw)
    again = Site(one.own)
    again.answer(study.coordinator._opening("bion"))
    assert said(study, again.answer(by(1)))["why"] == REFUSAL
    assert set(said(study, again.answer(raw))) == {"hashes"}
    study.sites["bion"] = again
    run(study.coordinator, posted(study))
    whole = made(count=2, sum="encrypted")
    run(whole.coordinator, posted(whole))
    assert same(study, whole)


def said(made, answer):
    return messages.read(answer, made.study.sites).fields


def test_a_coordinator_that_tells_another_sum_than_a_site_decrypted_is_refused(made) -> None:
    study = made(count=2, sum="encrypted")
    publics = {COORDINATOR: study.study.coordinator}
    sign = study.coordinator._key.sign

    def post(name, message):
        read = messages.read(message, publics)
        if read.stage == "open" and read.query == 1:
            steps = [{**read.fields["steps"][0], "content": "00" * 32}]
            fields = {**read.fields, "steps": steps}
            return study.sites[name].answer(replace(read, fields=fields).sealed(sign))
        return study.sites[name].answer(message)

    with pytest.raises(ProtocolError, match="another sum than this site decrypted"):
        run(study.coordinator, post)


def test_a_site_takes_part_with_the_studys_key_alone_and_only_if_its_policy_names_one(made) -> None:
    study = made(count=2, sum="encrypted")
    own = study.sites["ares"].own
    box = study.coordinator.outbox()
    strange = Site(replace(own, consortium=bytes(32)))
    assert "another one than the study names" in said(study, strange.answer(box["ares"]))["why"]
    unnamed = Site(replace(own, policy=own.policy.model_copy(update={"consortium": ""})))
    assert "consortium" in said(study, unnamed.answer(box["ares"]))["why"]
    assert own.consortium.hex() not in repr(own)
    assert own.shelf.get("root") is None


def test_what_encryption_assumes_is_in_the_hash_the_promise_and_the_coalitions(room, made) -> None:
    study = study_of(room(images=True, sum="encrypted", consortium=KEY_NAME, colluders=1))
    masked = study_of(room(images=True, colluders=1))
    assert study.hash != masked.hash
    assert study_of(room(images=True, sum="encrypted", consortium="cd" * 32, colluders=1)).hash != study.hash
    assert Study.loads(study.dumps()) == study
    plan = room(images=True, colluders=1).plan_of()
    facts, before = study.facts(plan, ""), masked.facts(plan, "")
    assert facts["sum"] == "encrypted"
    assert facts["noise_over_central"] == before["noise_over_central"]
    assert facts["epsilon_against_coalitions"]["0"] == before["epsilon_against_coalitions"]["0"]
    assert facts["epsilon_against_coalitions"]["1"] > before["epsilon_against_coalitions"]["1"]
    assert any("one key" in line for line in facts["not_covered"])
    assert not any("one key" in line for line in before["not_covered"])
    assert "summed on ciphertexts" in federation_text(facts)
    found = made(count=3, sum="encrypted", epsilon=8.0)
    run(found.coordinator, posted(found))
    assert b"one key" in members_of(found.coordinator.model, "model.privae")["guarantee.json"]


def test_the_hash_of_a_masked_study_is_what_it_was(room) -> None:
    """So that signatures of studies before there were ciphertexts still hold."""
    study = study_of(room(images=True))
    fields = study.model_dump(mode="json")
    del fields["sum"], fields["consortium"]
    assert study.hash == digest(fields)


def test_terms_that_go_badly_with_ciphertexts_are_refused_in_one_line(room) -> None:
    with pytest.raises(UsageError, match="leave it out"):
        study_of(room(images=True, sum="encrypted", masking=False))
    assert study_of(room(images=True, sum="encrypted", count=5, dropouts=3)).circles(0)[0].need == 2
    with pytest.raises(UsageError, match="vanish"):
        study_of(room(images=True, count=5, dropouts=3))
    policy = SitePolicy(data="x", max_epsilon=10.0, min_sites=2)
    study, plan = study_of(room(images=True, sum="encrypted")), room(images=True).plan_of()
    with pytest.raises(PrivacyRefused, match="name the sites' key"):
        policy.check(study, plan)
    policy.model_copy(update={"consortium": "k"}).check(study, plan)


def test_kits_of_a_study_without_the_name_of_its_key_are_refused(room, tmp_path) -> None:
    pytest.importorskip("nvflare")
    room(images=True, sum="encrypted")
    with pytest.raises(UsageError, match="federated key FILE --consortium"):
        kits.provision(tmp_path / "study.toml", tmp_path / "kits")


def test_a_median_of_groups_is_that_of_masked_sums(made) -> None:
    terms = {"epsilon": 8.0, "count": 4, "groups": 2}
    masked, encrypted = made(**terms), made(**terms, sum="encrypted")
    for study in (masked, encrypted):
        run(study.coordinator, posted(study))
    assert same(encrypted, masked)


def test_a_key_is_made_once_for_its_owner_alone_and_named(tmp_path, capsys) -> None:
    path = tmp_path / "consortium.key"
    assert main(["federated", "key", str(path), "--consortium", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["created"], path.stat().st_mode & 0o777) == (True, 0o600)
    assert consortium_key(path).hex() not in json.dumps(told)
    assert main(["federated", "key", str(path), "--consortium", "--quiet"]) == 0
    assert capsys.readouterr().out.strip() == told["consortium"]
    path.chmod(0o644)
    with pytest.raises(UsageError, match="others may read"):
        consortium_key(path)
    path.chmod(0o600)
    path.write_text("no key")
    with pytest.raises(UsageError, match="holds no key"):
        consortium_key(path)
    with pytest.raises(UsageError, match="cannot be read"):
        consortium_key(tmp_path / "none")


def test_sites_of_kits_share_the_key_in_a_file_that_the_coordinator_has_not(room, digits, tmp_path) -> None:
    key = consortium_key(tmp_path / "consortium.key", make=True)
    terms = room(epsilon=8.0, images=True, count=2, sum="encrypted", consortium=name_of(key))
    signers = {name: signing_key(tmp_path / f"{name}.key") for name in (*terms.sites, "coordinator")}
    publics = {name: one.public for name, one in signers.items()}
    study = terms.study(publics, publics["coordinator"])
    sites = {}
    for name, (x, y) in parted(digits(600), tuple(terms.sites), "even", terms.schema_of()).items():
        local = tmp_path / name / "local"
        local.mkdir(parents=True)
        np.savez(local.parent / "x.npz", x=x, y=y.astype(str))
        (local / "study.toml").write_text(study.dumps())
        own = 'data = "x.npz"\nmax_epsilon = 9.0\nmin_sites = 2\nconsortium = "../consortium.key"\n'
        (local / "site.toml").write_text(own)
        write_secretly(local / "site.key", (tmp_path / f"{name}.key").read_bytes())
        sites[name] = Site.open(local.parent)
    coordinator = Coordinator(
        study, terms.plan_of(), signers["coordinator"], Shelf(), Shelf(tmp_path / "out")
    )
    run(coordinator, lambda name, message: sites[name].answer(message))
    assert coordinator.done
    assert verify(tmp_path / "out" / "ledger").study.encrypted
    for one in sites.values():
        one.close()
    assert "never give it to the coordinator" in kits._hidden(study)
