"""The door to NVFlare: what a job is made of, who is asked and waited for, how it is followed, and what kits forbid."""

import base64
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from privae.cli import main
from privae.cli.terminal import Terminal
from privae.data.column import Column
from privae.data.schema import Schema
from privae.errors import ArtifactError, PrivacyRefused, ProtocolError, ResourceError, UsageError
from privae.federated.policy import SitePolicy
from privae.federated.study import Terms
from privae.transport import folders, jobs, kits
from privae.transport.jobs import Job, Line, State
from privae.vae import VAE

NAMES = ("berlin", "lyon", "oslo")
FACTS = {
    "study": "ab" * 32,
    "plan": "cd" * 32,
    "epsilon": 2.0,
    "delta": 1e-6,
    "min_sites": 3,
    "sites": 4,
    "masking": True,
    "share": "decoder",
}
OWN = {**jobs.DEFAULTS, "max_epsilon": 3.0}
needs_nvflare = pytest.mark.skipif(
    importlib.util.find_spec("nvflare") is None, reason="NVFlare is not installed"
)


def never() -> bool:
    return False


@pytest.fixture(scope="module")
def study_file(tmp_path_factory):
    """The study that a person wrote down, with its plan and its schema beside it."""
    folder = tmp_path_factory.mktemp("study")
    ward = Column(name="ward", kind="category", categories=("A", "B"))
    schema = Schema(columns=(ward, Column(name="ill", kind="boolean")))
    schema.save(folder / "schema.toml")
    VAE(2.0, 1e-6, 900, "auto", schema).plan().save(folder / "plan.toml")
    sites = "".join(f'{name} = ""\n' for name in NAMES)
    head = 'name = "wards"\nplan = "plan.toml"\nschema = "schema.toml"\n'
    text = f"{head}min_sites = 2\ndropouts = 1\ncolluders = 0\n[sites]\n{sites}"
    (folder / "study.toml").write_text(text)
    return folder / "study.toml"


@pytest.fixture
def job(study_file):
    terms = Terms.load(study_file)
    study = terms.study({name: name for name in NAMES}, "another")
    return Job.of(study, terms.plan_of(), (study_file.parent / "plan.toml").read_text())


# --- a job ------------------------------------------------------------------------------------------------------------


def test_a_job_is_three_json_files_that_name_our_classes_and_ship_no_code(job, tmp_path):
    folder = jobs.job_folder(tmp_path / job.name, job)
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == ["app/config/config_fed_client.json", "app/config/config_fed_server.json", "meta.json"]
    meta, server, client = (
        json.loads((folder / name).read_bytes())
        for name in ("meta.json", "app/config/config_fed_server.json", "app/config/config_fed_client.json")
    )
    (workflow,) = server["workflows"]
    (executor,) = client["executors"]
    assert workflow["path"] == "privae.transport.apps.CoordinatorApp"
    assert executor["executor"]["path"] == "privae.transport.apps.SiteApp"
    assert meta["privae"] == executor["executor"]["args"]["facts"] == dict(job.facts)
    assert meta["min_clients"] == 2
    assert base64.b64decode(workflow["args"]["study"]).decode() == job.study
    assert base64.b64decode(workflow["args"]["plan"]).decode() == job.plan
    # NVFlare takes an argument of such a name for a component of its own
    assert not {"path", "name", "class_path"} & ({*workflow["args"]} | {*job.facts})


def test_the_facts_of_a_job_are_those_of_its_study_and_plan(job, study_file):
    plan = Terms.load(study_file).plan_of()
    assert job.facts["plan"] == plan.hash
    assert job.facts["epsilon"] == plan.epsilon
    assert job.facts["share"] == ""  # nothing is trained by gradients
    assert job.roster == NAMES
    assert job.name == f"privae-{job.facts['study'][:16]}"
    assert json.dumps(dict(job.facts), allow_nan=False)


# --- a site's word ----------------------------------------------------------------------------------------------------


def test_what_a_site_toml_leaves_out_is_what_the_policy_says():
    policy = SitePolicy(data="x.csv", max_epsilon=3.0)
    assert {name: getattr(policy, name) for name in jobs.DEFAULTS} == {
        **jobs.DEFAULTS,
        "allow_share": tuple(jobs.DEFAULTS["allow_share"]),
    }


@pytest.mark.parametrize(
    ("facts", "own", "reason"),
    [
        ({}, {}, ""),
        ({"epsilon": 3.0}, {}, ""),
        ({"epsilon": 3.1}, {}, "epsilon 3.1 is above this site's ceiling 3"),
        ({"epsilon": "inf"}, {}, "epsilon inf is above"),
        ({"epsilon": "inf", "delta": 0}, {"max_epsilon": float("inf")}, ""),
        ({"epsilon": float("nan")}, {}, "epsilon nan is above"),
        ({"epsilon": None}, {}, "leaves a term out"),
        ({"epsilon": "much"}, {}, "leaves a term out"),
        ({}, {"max_epsilon": None}, "leaves a term out"),
        ({"delta": 1e-4}, {}, "delta 0.0001 is above"),
        ({"min_sites": 2}, {}, "sums may be of 2 sites of 4; this site asks for 3"),
        ({"min_sites": 2}, {"min_sites": 2}, ""),
        ({"min_sites": 5}, {}, "sums may be of 5 sites of 4"),
        ({"masking": False}, {}, "masked sums only"),
        ({"masking": "yes"}, {}, "masked sums only"),
        ({"masking": False}, {"require_masking": False}, ""),
        ({"masking": False}, {"require_masking": 0}, "masked sums only"),
        ({"share": "all"}, {}, "allow_share"),
        ({"share": "all"}, {"allow_share": ["decoder", "all"]}, ""),
        ({"share": ""}, {"allow_share": []}, ""),
    ],
)
def test_a_site_objects_to_what_is_past_its_terms(facts, own, reason):
    said = jobs.objection({**FACTS, **facts}, {**OWN, **own})
    assert said.startswith(reason) or reason in said
    assert bool(said) == bool(reason)


@pytest.mark.parametrize("name", [name for name in FACTS if name not in ("study", "plan")])
def test_a_job_that_leaves_a_fact_out_is_refused(name):
    assert jobs.objection({key: value for key, value in FACTS.items() if key != name}, OWN)


def test_terms_come_from_the_site_toml(tmp_path):
    with pytest.raises(UsageError, match=r"site\.toml does not read"):
        jobs.terms(tmp_path)
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "site.toml").write_text("max_epsilon = 1\nmin_sites = 5\n")
    assert jobs.terms(tmp_path) == {**jobs.DEFAULTS, "max_epsilon": 1, "min_sites": 5}
    (tmp_path / "local" / "site.toml").write_text("# not edited yet\n")
    assert jobs.objection(FACTS, jobs.terms(tmp_path))


# --- the line ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def fast(monkeypatch):
    for name, value in {
        "PING": 0.05,
        "BEAT": 0.02,
        "READY": 0.5,
        "RETURN": 0.0,
        "GLANCE": 0.0,
        "GATHER": 0.05,
    }.items():
        monkeypatch.setattr(jobs, name, value)


class Room:
    """Sites in threads; `dead` ones answer nothing, and a question to them takes its whole timeout."""

    def __init__(self, names=NAMES):
        self.names, self.dead, self.asked, self.slow = set(names), set(), [], {}

    def send(self, site, message, timeout):
        if site in self.dead:
            time.sleep(min(timeout, 0.3))
            return None
        if not message:
            return b""
        self.asked.append(site)
        if site in self.slow and not self.slow[site].wait(timeout):
            return None
        return b"from " + site.encode() + b": " + message

    def line(self, timeout=5.0):
        return Line(self.send, lambda: self.names, timeout)


def test_every_site_gets_its_own_bytes(fast):
    room = Room()
    got = room.line().ask({name: name[:1].encode() for name in NAMES}, never)
    assert got == {"berlin": b"from berlin: b", "lyon": b"from lyon: l", "oslo": b"from oslo: o"}


def test_a_dead_site_is_not_waited_for_and_comes_back_when_it_is_found(fast):
    room = Room()
    room.dead.add("oslo")
    line, start = room.line(timeout=60.0), time.monotonic()
    assert set(line.ask(dict.fromkeys(NAMES, b"x"), never)) == {"berlin", "lyon"}
    assert time.monotonic() - start < 5
    assert not line.complete(NAMES)
    start = time.monotonic()
    assert set(line.ask(dict.fromkeys(NAMES, b"x"), never)) == {"berlin", "lyon"}
    assert time.monotonic() - start < 1
    room.dead.clear()
    deadline = time.monotonic() + 5
    while not line.complete(NAMES) and time.monotonic() < deadline:
        line.ask(dict.fromkeys(NAMES, b"x"), never)
        time.sleep(0.01)
    assert set(line.ask(dict.fromkeys(NAMES, b"x"), never)) == set(NAMES)


def test_a_slow_site_that_is_there_is_waited_for_up_to_the_timeout(fast):
    room = Room()
    room.slow["lyon"] = threading.Event()
    threading.Timer(0.3, room.slow["lyon"].set).start()
    assert set(room.line().ask(dict.fromkeys(NAMES, b"x"), never)) == set(NAMES)
    room.slow["lyon"].clear()
    line = room.line(timeout=0.3)
    assert set(line.ask(dict.fromkeys(NAMES, b"x"), never)) == {"berlin", "oslo"}
    assert line.complete(NAMES)


def test_a_site_that_is_not_in_the_job_is_not_asked(fast):
    room = Room(names=("berlin", "lyon"))
    line = room.line()
    line.wait_for(NAMES, never)
    assert set(line.ask(dict.fromkeys(NAMES, b"x"), never)) == {"berlin", "lyon"}
    assert "oslo" not in room.asked
    assert not line.complete(NAMES)


def test_whoever_stops_is_obeyed_at_once(fast):
    room = Room()
    room.slow["lyon"] = threading.Event()
    start = time.monotonic()
    room.line(timeout=60.0).ask(dict.fromkeys(NAMES, b"x"), lambda: time.monotonic() - start > 0.1)
    assert time.monotonic() - start < 2
    room.slow["lyon"].set()


def test_a_line_waits_until_sites_listen(fast, monkeypatch):
    room = Room()
    room.dead.add("oslo")
    threading.Timer(0.2, room.dead.clear).start()
    monkeypatch.setattr(jobs, "READY", 10.0)
    room.line().wait_for(NAMES, never)
    assert not room.dead


# --- following a job --------------------------------------------------------------------------------------------------


class Desk:
    """A server in memory: `script` has for each job the states it goes through, and what it leaves."""

    def __init__(self, *script, connected=(NAMES,)):
        self.script, self.connections = list(script), list(connected)
        self.submitted, self.aborted, self.open = [], [], None

    def connected(self):
        return self.connections.pop(0) if len(self.connections) > 1 else self.connections[0]

    def find(self, name):
        return self.open

    def submit(self, folder):
        assert (folder / "meta.json").exists()
        self.submitted.append(folder.name)
        return str(len(self.submitted))

    def state(self, job):
        states = self.script[0][0]
        state = states.pop(0) if len(states) > 1 else states[0]
        return State(state) if isinstance(state, str) else state

    def status(self, job):
        return {"phase": "moments", "step": 0, "sites": {"berlin": "answered keys"}}

    def fetch(self, job, out):
        left = self.script.pop(0)[1]
        return dict(left) if left is not None else None

    def abort(self, job):
        self.aborted.append(job)


def ending():
    return ["waits", "runs", "ended"], {"done": True, "phase": "", "sites": {}}


def test_a_study_is_followed_to_its_end(fast, job, tmp_path):
    told = list(jobs.run(desk := Desk(ending()), job, tmp_path))
    assert told[-1]["done"]
    assert told[0]["sites"] == {"berlin": "answered keys"}
    assert desk.submitted == [job.name]
    assert not desk.aborted


def test_a_job_that_was_lost_or_cut_short_is_handed_in_again(fast, job, tmp_path):
    short = {
        "done": False,
        "phase": "norms",
        "step": 3,
        "error": {"kind": "ProtocolError", "text": "two are away"},
    }
    desk = Desk((["runs", "ended"], None), (["runs", "ended"], short), ending())
    told = list(jobs.run(desk, job, tmp_path))
    assert len(desk.submitted) == 3
    assert any("checkpoint" in status["note"] for status in told)
    assert any(status.get("note") == "two are away" for status in told)


def test_a_lost_job_leaves_nothing_to_fetch(fast, job, tmp_path):
    desk = Desk((["runs", "lost", "runs", "ended"], {"done": True}))
    told = list(jobs.run(desk, job, tmp_path))
    assert len(desk.submitted) == 2
    assert any("the server was restarted" in status.get("note", "") for status in told)


def test_a_job_that_runs_already_is_followed_and_not_handed_in_twice(fast, job, tmp_path):
    desk = Desk(ending())
    desk.open = "7"
    assert [status["job"] for status in jobs.run(desk, job, tmp_path)] == ["7", "7", "7"]
    assert not desk.submitted


def test_a_study_that_comes_no_further_ends(fast, job, tmp_path):
    desk = Desk(*[(["runs", "ended"], None) for _ in range(9)])
    with pytest.raises(ResourceError, match="comes no further"):
        list(jobs.run(desk, job, tmp_path))
    assert len(desk.submitted) <= jobs.TRIES + 1


def test_sites_that_decline_are_named_with_their_reasons(fast, job, tmp_path):
    refused = State("undeployed", (), {"lyon": "epsilon 2 is above this site's ceiling 1"})
    with pytest.raises(PrivacyRefused, match="lyon: epsilon 2 is above"):
        list(jobs.run(Desk(([refused], None)), job, tmp_path))
    some = State("runs", (), {"lyon": "no"})
    told = list(jobs.run(Desk(([some, "ended"], ending()[1])), job, tmp_path))
    assert told[0]["sites"] == {"berlin": "answered keys", "lyon": "refuses: no"}


@pytest.mark.parametrize(
    ("state", "error"), [("aborted", UsageError), (State("unscheduled", ("too few",)), ProtocolError)]
)
def test_a_job_that_others_ended_is_not_handed_in_again(fast, job, tmp_path, state, error):
    with pytest.raises(error):
        list(jobs.run(desk := Desk(([state], None)), job, tmp_path))
    assert len(desk.submitted) == 1


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("PrivacyRefused", PrivacyRefused),
        ("ArtifactError", ArtifactError),
        ("OSError", Exception),
        ("sys", Exception),
    ],
)
def test_an_error_of_the_coordinator_is_raised_as_what_it_was(fast, job, tmp_path, kind, error):
    left = {"done": False, "error": {"kind": kind, "text": "too few sites take part"}}
    with pytest.raises(error, match="too few sites take part"):
        list(jobs.run(Desk((["ended"], left)), job, tmp_path))


def test_an_interrupt_ends_the_job(fast, job, tmp_path):
    told = jobs.run(desk := Desk((["runs"], None)), job, tmp_path)
    next(told)
    told.close()
    assert desk.aborted == ["1"]


def test_sites_are_waited_for_before_a_job_starts(fast, job, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "GATHER", 60.0)
    told = list(jobs.run(Desk(ending(), connected=[("berlin",), NAMES]), job, tmp_path))
    assert told[0]["sites"] == {"berlin": "connected", "lyon": "away", "oslo": "away"}


def test_a_job_starts_without_a_site_that_stays_away_unless_too_few_are_there(fast, job, tmp_path):
    assert list(jobs.run(Desk(ending(), connected=[("berlin", "lyon")]), job, tmp_path))[-1]["done"]
    with pytest.raises(ProtocolError, match="ask lyon, oslo to start"):
        list(jobs.run(desk := Desk(ending(), connected=[("berlin",)]), job, tmp_path))
    assert not desk.submitted


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_participant_finds_its_folder(monkeypatch, tmp_path):
    monkeypatch.delenv(folders.KIT, raising=False)
    monkeypatch.delenv(folders.KITS, raising=False)
    with pytest.raises(UsageError, match=r"startup/start\.sh"):
        folders.kit_of("lyon")
    monkeypatch.setenv(folders.KITS, str(tmp_path))
    assert folders.kit_of("lyon") == tmp_path / "lyon"
    monkeypatch.setenv(folders.KIT, str(tmp_path / "mine"))
    assert folders.kit_of("lyon") == tmp_path / "mine"


def test_a_study_keeps_its_folder_over_jobs_and_takes_no_other_texts(tmp_path):
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "coordinator.key").write_text("a key")
    texts = {"study.toml": b"a", "plan.toml": b"b"}
    folder = folders.prepared(tmp_path, "ab" * 32, texts)
    assert folder == folders.prepared(tmp_path, "ab" * 32, texts)
    assert (folder / "coordinator.key").read_text() == "a key"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
    with pytest.raises(UsageError, match=r"another plan\.toml"):
        folders.prepared(tmp_path, "ab" * 32, {**texts, "plan.toml": b"c"})
    for digest in ("../../etc", "", "AB" * 32):
        with pytest.raises(UsageError):
            folders.prepared(tmp_path, digest, texts)


def test_only_results_are_handed_over(tmp_path):
    study = tmp_path / "study"
    (study / "ledger").mkdir(parents=True)
    (study / "state").mkdir()
    for name in ("model.privae", "coordinator.key", "ledger/rounds", "state/told-0", "study.toml"):
        (study / name).write_text(name)
    (study / "ledger" / "link").symlink_to(study / "coordinator.key")
    folders.hand_over(study, tmp_path / "job", {"done": True})
    folders.take(tmp_path / "job", tmp_path / "out")
    found = {
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    assert found == {"model.privae", "ledger/rounds", "study.toml"}
    assert json.loads((tmp_path / "job" / "status.json").read_bytes()) == {"done": True}


def test_an_error_is_said_without_what_it_holds():
    try:
        raise ValueError("could not convert 'Ms Smith'")
    except ValueError as error:
        said = folders.said(error)
    assert said.startswith("ValueError in test_engine.py, line ")
    assert "Smith" not in said
    assert folders.said(UsageError("ours")) == "ours"


# --- kits -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(study_file, tmp_path_factory):
    pytest.importorskip("nvflare")
    return kits.provision(study_file, tmp_path_factory.mktemp("made") / "kits", "fit.example.org", 18011)


def read(path):
    return json.loads(path.read_bytes())


def test_there_is_a_kit_for_everybody_and_nothing_else(made):
    out = made.admin.parent
    assert {path.name for path in out.iterdir()} == {*NAMES, "coordinator", "admin"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in out.iterdir())
    for kit in (*made.sites.values(), made.coordinator, made.admin):
        assert (kit / "README.md").read_text().startswith("# The kit of")
        assert "$" not in (kit / "README.md").read_text()
        assert (kit / "local" / "study.toml").read_text() == made.study.dumps()
    secrets = [path for path in out.rglob("*.key") if path.stat().st_mode & 0o077]
    assert not secrets
    assert not [path for path in out.rglob("*") if "rootCA.key" in path.name or path.name == "cert.json"]


def test_a_site_is_closed(made):
    kit = made.sites["lyon"]
    resources = read(kit / "local" / "resources.json")
    assert resources["class_allow_list"] == [
        f"{jobs.APPS}.{n}" for n in ("SiteApp", "SitePolicy", "CoordinatorApp")
    ]
    assert resources["class_list_enforcement_mode"] == "enforce"
    assert resources["allow_log_streaming"] is False
    named = {one["id"]: one["path"] for one in resources["components"]}
    assert "site_log_streamer" not in named
    assert named["privae_policy"] == "privae.transport.apps.SitePolicy"
    assert not list((kit / "local").glob("resources.json.default"))
    rights = read(kit / "local" / "authorization.json")["permissions"]
    granted = {
        (role, right) for role, all_of in rights.items() for right, word in all_of.items() if word != "none"
    }
    assert granted == {("lead", "submit_job"), ("lead", "manage_job")}


def test_the_server_keeps_its_state_in_its_kit_and_takes_no_logs(made):
    text = (made.coordinator / "local" / "resources.json").read_text()
    resources = json.loads(text)
    named = {one["id"]: one for one in resources["components"]}
    assert "log_receiver" not in named
    assert named["job_manager"]["args"]["uri_root"] == "{$PRIVAE_KIT}/jobs"
    assert resources["snapshot_persistor"]["args"]["storage"]["args"]["root_dir"] == "{$PRIVAE_KIT}/snapshots"
    assert "/tm" + "p" not in text
    rights = read(made.coordinator / "local" / "authorization.json")["permissions"]
    assert {role for role, all_of in rights.items() if set(all_of.values()) != {"none"}} == {"lead"}
    assert {rights["lead"][name] for name in ("byoc", "operate", "shell_commands", "clone_job")} == {"none"}


def test_a_site_that_was_not_edited_takes_part_in_nothing(made):
    assert "leaves a term out" in jobs.objection(FACTS, jobs.terms(made.sites["lyon"]))


def test_the_keys_of_kits_are_those_of_the_study(made):
    from privae.custody.keys import signing_key

    for name, kit in made.sites.items():
        assert signing_key(kit / "local" / "site.key").public == made.study.sites[name]
    assert signing_key(made.coordinator / "local" / "coordinator.key").public == made.study.coordinator


def test_a_start_script_names_its_folder_and_passes_on_its_environment(made):
    start = made.sites["lyon"] / "startup" / "start.sh"
    assert subprocess.run(["bash", "-n", str(start)], check=False).returncode == 0
    assert 'export PRIVAE_KIT="$kit"' in start.read_text()
    assert start.stat().st_mode & 0o777 == 0o700


@needs_nvflare
def test_kits_are_made_once_and_whole(study_file, tmp_path, monkeypatch):
    (tmp_path / "kits").mkdir()
    (tmp_path / "kits" / "mine").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        kits.provision(study_file, tmp_path / "kits")
    assert (tmp_path / "kits" / "mine").read_text() == "mine"

    def broken(*given):
        raise ResourceError("the disk is full")

    monkeypatch.setattr(kits, "_furnished", broken)
    with pytest.raises(ResourceError):
        kits.provision(study_file, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@needs_nvflare
def test_a_site_may_keep_its_own_key(study_file, tmp_path):
    from privae.custody.keys import signing_key

    own = signing_key(tmp_path / "mine.key").public
    text = study_file.read_text().replace('lyon = ""', f'lyon = "{own}"')
    written = study_file.with_name("own.toml")
    written.write_text(text)
    made = kits.provision(written, tmp_path / "kits")
    assert made.own == ("lyon",)
    assert made.study.sites["lyon"] == own
    assert not (made.sites["lyon"] / "local" / "site.key").exists()
    assert "local/site.key" in (made.sites["lyon"] / "README.md").read_text()
    written.write_text(study_file.read_text().replace('lyon = ""', 'lyon = "no key"'))
    with pytest.raises(UsageError, match="the public key of lyon is not one"):
        kits.provision(written, tmp_path / "others")
    written.write_text(study_file.read_text().replace("lyon", "admin"))
    with pytest.raises(UsageError, match="may not be named admin"):
        kits.provision(written, tmp_path / "others")


# --- the components ---------------------------------------------------------------------------------------------------


@pytest.fixture
def apps():
    pytest.importorskip("nvflare")
    from privae.transport import apps

    return apps


@pytest.fixture
def kit(tmp_path, monkeypatch):
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "site.toml").write_text("max_epsilon = 3\n")
    monkeypatch.setenv(folders.KIT, str(tmp_path))
    return tmp_path


def context(apps, command, meta):
    made = apps.FLContext()
    made.set_prop(apps.FLContextKey.COMMAND_NAME, command, sticky=False)
    made.set_prop(
        apps.FLContextKey.SECURITY_ITEMS, {apps.FLContextKey.JOB_META: meta}, private=True, sticky=False
    )
    return made


@pytest.mark.parametrize(
    ("meta", "reason"),
    [
        ({"privae": FACTS}, None),
        ({"privae": {**FACTS, "epsilon": 10}}, "epsilon 10 is above this site's ceiling 3"),
        ({"name": "other"}, "the job is none of privae's"),
        ({"privae": 3}, "the job, or this site's local/site.toml, leaves a term out"),
    ],
)
def test_a_policy_refuses_before_anything_is_stored(apps, kit, meta, reason):
    asked = context(apps, apps.AdminCommandNames.SUBMIT_JOB, meta)
    apps.SitePolicy().handle_event(apps.EventType.AUTHORIZE_COMMAND_CHECK, asked)
    assert asked.get_prop(apps.FLContextKey.AUTHORIZATION_RESULT, True) is (reason is None)
    assert (asked.get_prop(apps.FLContextKey.AUTHORIZATION_REASON) or None) == reason


def test_a_policy_has_no_word_on_other_commands(apps, kit):
    asked = context(apps, apps.AdminCommandNames.ABORT_JOB, {})
    apps.SitePolicy().handle_event(apps.EventType.AUTHORIZE_COMMAND_CHECK, asked)
    assert asked.get_prop(apps.FLContextKey.AUTHORIZATION_RESULT, True) is True


def ask(apps, app, message):
    request = apps.Shareable()
    request["body"] = message
    reply = app.answer("privae", request, apps.FLContext())
    return reply.get_return_code(), reply["body"]


def started(apps, kit, facts=FACTS):
    app, handlers = apps.SiteApp(facts), {}
    engine = SimpleNamespace(register_aux_message_handler=handlers.setdefault)
    app.handle_event(
        apps.EventType.START_RUN, SimpleNamespace(get_identity_name=lambda: "lyon", get_engine=lambda: engine)
    )
    assert handlers == {"privae": app.answer}
    return app


def test_a_site_answers_one_message_at_a_time_and_says_that_it_is_there(apps, kit, monkeypatch):
    from privae.federated.site import Site

    site = SimpleNamespace(answer=lambda message: b"to " + message)
    monkeypatch.setattr(Site, "open", lambda folder: site if folder == kit else None)
    app = started(apps, kit)
    assert ask(apps, app, b"") == (apps.ReturnCode.OK, b"")
    assert ask(apps, app, b"x") == (apps.ReturnCode.OK, b"to x")


def test_a_site_holds_its_terms_against_the_facts_that_are_signed(apps, kit, monkeypatch, caplog):
    from privae.federated.site import Site

    monkeypatch.setattr(Site, "open", lambda folder: pytest.fail("opened"))
    code, body = ask(apps, started(apps, kit, {**FACTS, "epsilon": 10}), b"x")
    assert (code, body) == (apps.ReturnCode.EXECUTION_EXCEPTION, "refused")
    assert "epsilon 10 is above" in caplog.text


def test_nothing_of_a_strange_error_leaves_a_site(apps, kit, monkeypatch, caplog):
    from privae.federated.site import Site

    def broken(folder):
        raise ValueError("Ms Smith, 34")

    monkeypatch.setattr(Site, "open", broken)
    assert ask(apps, started(apps, kit), b"x")[1] == "refused"
    assert "Smith" not in caplog.text
    assert "ValueError" in caplog.text


class Coordinator:
    """Two phases of two steps; `late` says at which step too few answer, and how often."""

    def __init__(self, late=()):
        self.sites, self.step, self.late, self.seen = NAMES, 0, list(late), []

    phase = property(lambda self: ("norms", "norms", "moments", "moments", "")[min(self.step, 4)])
    done = property(lambda self: self.step >= 4)

    def outbox(self):
        return dict.fromkeys(self.sites, b"x")

    def take(self, replies):
        self.seen.append(set(replies))
        if self.step in self.late:
            self.late.remove(self.step)
            raise ProtocolError("one is away")
        self.step += 1

    def status(self):
        return {"phase": self.phase, "step": self.step, "done": self.done}


def driven(apps, monkeypatch, coordinator, known=NAMES, patience=60):
    from privae.federated.coordinator import Coordinator as Real

    monkeypatch.setattr(Real, "open", lambda folder: coordinator)
    monkeypatch.setattr(apps, "BEAT", 0.0)
    room, text = Room(known), base64.b64encode(b"x").decode()
    app = apps.CoordinatorApp(text, text, "ab" * 32, patience=patience)
    app._run(Path(), room.line(), never)
    return app


def test_a_coordinator_is_driven_to_its_end_over_what_fails_for_now(apps, fast, monkeypatch):
    made = Coordinator(late=[1, 1, 3])
    app = driven(apps, monkeypatch, made)
    assert made.done
    assert app.tell("privae", None, None) == {"phase": "", "step": 4, "done": True}
    assert made.seen == [set(NAMES)] * 7


def test_a_job_without_a_site_ends_with_the_phase_so_that_the_next_has_it(apps, fast, monkeypatch):
    made = Coordinator()
    driven(apps, monkeypatch, made, known=("berlin", "lyon"))
    assert made.step == 2
    driven(apps, monkeypatch, made)
    assert made.done


def test_a_job_ends_when_patience_does(apps, fast, monkeypatch):
    with pytest.raises(ProtocolError, match="one is away"):
        driven(apps, monkeypatch, Coordinator(late=[1, 1, 1]), patience=0)


class Session:
    """An admin's session; each call fails `gone` times before it answers."""

    def __init__(self, meta, gone=0, start=0.0):
        self.meta, self.gone, self.start = meta, gone, start

    def get_job_meta(self, job):
        if self.gone:
            self.gone -= 1
            raise ConnectionError
        return self.meta

    def get_system_info(self):
        return SimpleNamespace(server_info=SimpleNamespace(start_time=self.start))

    def close(self):
        pass


@pytest.fixture
def desk(apps, tmp_path, monkeypatch):
    (tmp_path / "startup").mkdir()
    (tmp_path / "startup" / "fed_admin.json").write_text('{"admin": {"username": "admin@study.local"}}')
    monkeypatch.setattr(apps.time, "sleep", lambda seconds: None)

    def made(session):
        monkeypatch.setattr(apps, "new_secure_session", lambda user, place: session)
        return apps.AdminDesk(tmp_path)

    return made


@pytest.mark.parametrize(
    ("status", "word"),
    [
        ("SUBMITTED", "waits"),
        ("RUNNING", "runs"),
        ("FINISHED:COMPLETED", "ended"),
        ("FINISHED:ABNORMAL", "ended"),
        ("FINISHED:ABORTED", "aborted"),
        ("FINISHED:FAILED_TO_RUN", "undeployed"),
        ("FINISHED:CAN_NOT_SCHEDULE", "unscheduled"),
    ],
)
def test_a_desk_reads_what_the_server_says_of_a_job(desk, status, word):
    meta = {"status": status, "start_time": "2026-01-01T00:00:00+00:00"}
    assert desk(Session(meta)).state("1").word == word


def test_a_job_that_ran_before_the_server_started_is_lost(desk):
    meta = {"status": "RUNNING", "start_time": "2026-01-01T00:00:00+00:00"}
    assert desk(Session(meta, start=1.8e9)).state("1").word == "lost"


def test_a_desk_tells_who_refused_and_why(desk):
    details = [
        "server: OK",
        "berlin: OK",
        "lyon: epsilon: too much",
        "oslo: no reply (deployment timeout)",
        "1 < 2",
    ]
    state = desk(Session({"status": "RUNNING", "job_deploy_detail": details})).state("1")
    assert state.refused == {"lyon": "epsilon: too much"}


def test_a_desk_finds_a_server_again_that_was_restarted(desk):
    assert desk(Session({"status": "SUBMITTED"}, gone=3)).state("1").word == "waits"


def test_a_server_that_is_not_there_is_an_error(apps, desk, monkeypatch):
    clock = iter(range(0, 10**6, 10))
    monkeypatch.setattr(apps.time, "monotonic", lambda: next(clock))
    with pytest.raises(ResourceError, match="does not answer; start it"):
        desk(Session({}, gone=10**6)).state("1")


def test_a_folder_that_is_no_kit_is_refused(apps, tmp_path):
    with pytest.raises(UsageError, match="no kit of an admin"):
        apps.AdminDesk(tmp_path)


# --- the display ------------------------------------------------------------------------------------------------------


def test_a_log_gets_each_news_once(capsys):
    from privae.cli import federating as running

    status = {
        "phase": "norms",
        "step": 2,
        "steps": 9,
        "stage": "keys",
        "epsilon": 0.5,
        "unit": "record",
        "sites": {"lyon": "refuses: no", "oslo": "answered keys"},
    }
    with running.board(Terminal()) as board:
        board.show(status)
        board.show(status)
        board.show({**status, "done": True})
    told = capsys.readouterr().err.splitlines()
    assert told == ["norms, step 3 of 9, keys; epsilon so far 0.5 for a record", "lyon: refuses: no"]
    with running.board(Terminal(quiet=True)) as board:
        board.show(status)
    assert capsys.readouterr().err == ""
    assert running.drawn(status)


@needs_nvflare
def test_init_says_who_gets_which_folder(study_file, tmp_path, capsys):
    out = tmp_path / "kits"
    assert main(["federated", "init", str(study_file), "-o", str(out), "--host", "fit.example.org"]) == 0
    told = capsys.readouterr().out
    assert all(str(out / name) in told for name in (*NAMES, "coordinator", "admin"))
    assert "runs on fit.example.org" in told
    assert main(["federated", "init", str(study_file), "-o", str(out)]) == UsageError.exit_code
    assert "is there already" in capsys.readouterr().err


@needs_nvflare
def test_run_is_refused_before_a_server_is_looked_for(study_file, made, tmp_path, capsys):
    plan = str(study_file.parent / "plan.toml")
    assert main(["federated", "run", plan, "--kit", str(tmp_path)]) == UsageError.exit_code
    assert main(["federated", "run", plan, "--kit", str(made.sites["lyon"])]) == UsageError.exit_code
    assert "no kit of an admin" in capsys.readouterr().err
    (tmp_path / "study.toml").write_text("another")
    code = main(["federated", "run", plan, "--kit", str(made.admin), "-o", str(tmp_path)])
    assert code == UsageError.exit_code
    assert "holds the results of another study" in capsys.readouterr().err


def test_a_site_makes_its_own_key(tmp_path, capsys):
    assert main(["federated", "key", str(tmp_path / "site.key")]) == 0
    first = capsys.readouterr().out
    assert main(["federated", "key", str(tmp_path / "site.key")]) == 0
    assert capsys.readouterr().out == first
    assert len(first.strip()) == 44


# --- NVFlare itself, on one machine -----------------------------------------------------------------------------------

FAKES = """
import sys, types
from pathlib import Path

class Site:
    @classmethod
    def open(cls, kit):
        made = cls()
        made.name = Path(kit).name
        return made
    def answer(self, message):
        return f"{self.name} got {message.decode()}".encode()

class Coordinator:
    sites, phase = ("berlin", "lyon", "oslo"), "moments"
    def __init__(self, folder):
        self.folder, self.step = folder, 0
    @classmethod
    def open(cls, folder):
        return cls(folder)
    done = property(lambda self: self.step == 3)
    def outbox(self):
        return {name: f"{self.step} for {name}".encode() for name in self.sites}
    def take(self, replies):
        assert replies == {name: f"{name} got {self.step} for {name}".encode() for name in self.sites}
        self.step += 1
        (self.folder / "model.privae").write_text(f"after {self.step}")
    def status(self):
        return {"phase": self.phase, "step": self.step, "done": self.done, "sites": {}}

for name, kind in {"site": Site, "coordinator": Coordinator}.items():
    module = types.ModuleType(f"privae.federated.{name}")
    setattr(module, kind.__name__, kind)
    sys.modules[module.__name__] = module
"""


@needs_nvflare
def test_the_job_runs_in_nvflare_s_simulator(job, tmp_path):
    for name in (*NAMES, "coordinator"):
        (tmp_path / "kits" / name / "local").mkdir(parents=True)
        (tmp_path / "kits" / name / "local" / "site.toml").write_text("max_epsilon = 3\nmin_sites = 2\n")
    (tmp_path / "fakes").mkdir()
    (tmp_path / "fakes" / "sitecustomize.py").write_text(FAKES)
    folder = jobs.job_folder(tmp_path / job.name, job)
    code = (
        "import sys; from pathlib import Path; from privae.transport import apps; "
        "sys.exit(apps.simulate_job(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))"
    )
    place = {folders.KITS: str(tmp_path / "kits"), "PYTHONPATH": str(tmp_path / "fakes")}
    environment = {key: value for key, value in os.environ.items() if key != folders.KIT} | place
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "work"), *NAMES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    left = tmp_path / "work" / "server" / "simulate_job" / "privae"
    assert left.is_dir(), done.stdout[-3000:] + done.stderr[-3000:]
    assert read(left / "status.json") == {"phase": "moments", "step": 3, "done": True, "sites": {}}
    assert (left / "model.privae").read_text() == "after 3"
    assert done.returncode == 0


def test_a_job_may_build_our_three_classes_and_call_nothing_else_of_privae(made) -> None:
    """NVFlare calls whatever an allowed path names, with the job's own arguments, before it looks at what came out."""
    for kit in (*made.sites.values(), made.coordinator):
        (resources,) = (kit / "local").glob("resources.json*")
        allowed = json.loads(resources.read_text())["class_allow_list"]
        assert all(path.startswith("privae.transport.apps.") and not path.endswith(".") for path in allowed)
        assert not any("privae.cli.main".startswith(path) for path in allowed)
