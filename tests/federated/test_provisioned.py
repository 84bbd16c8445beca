"""A study between processes that are killed: kits, NVFlare's daemons, a site and the server dying, and the model."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import closing, suppress

import numpy as np
import pandas as pd
import pytest

from privae.ckks.summation import name_of
from privae.data.column import Column
from privae.data.schema import Schema
from privae.federated.chain import verify
from privae.federated.policy import consortium_key
from privae.files import text_in
from privae.plan import Plan
from privae.transport import jobs, kits
from privae.vae import VAE

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore"
    ),  # those of NVFlare's threads, which take an error for a lost connection
    pytest.mark.skipif(os.environ.get("PRIVAE_SLOW") != "1", reason="two minutes; set PRIVAE_SLOW=1"),
    pytest.mark.skipif(importlib.util.find_spec("nvflare") is None, reason="NVFlare is not installed"),
]
NAMES = ("berlin", "lyon", "oslo")


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def number(kit, name):
    return int((kit / f"{name}.fl").read_text())


def kill(kit):
    """End a daemon and the processes of its jobs, as a power cut would; its watchdog lives."""
    daemon = number(kit, "pid")
    listed = subprocess.run(["pgrep", "-P", str(daemon)], capture_output=True, text=True, check=False)
    for pid in (daemon, *map(int, listed.stdout.split())):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(params=["masked", "encrypted"])
def made(request, tmp_path):
    """Kits of a small study, whose sites have their records; of one on ciphertexts, the key that they share, too."""
    key, shared = tmp_path / "consortium.key", request.param == "encrypted"
    age = Column(name="age", kind="numeric", bounds=(0, 100), bins=4, integer=True)
    ward = Column(name="ward", kind="category", categories=("A", "B"))
    schema = Schema(columns=(age, ward, Column(name="ill", kind="boolean")))
    schema.save(tmp_path / "schema.toml")
    VAE(2.0, 1e-6, 900, "auto", schema).plan().save(tmp_path / "plan.toml")
    sites = "".join(f'{name} = ""\n' for name in NAMES)
    terms = 'name = "wards"\nplan = "plan.toml"\nschema = "schema.toml"\nmin_sites = 2\n'
    terms += "dropouts = 1\ncolluders = 0\n"
    if shared:
        terms += f'sum = "encrypted"\nconsortium = "{name_of(consortium_key(key, make=True))}"\n'
    (tmp_path / "study.toml").write_text(f"{terms}[sites]\n{sites}")
    made = kits.provision(tmp_path / "study.toml", tmp_path / "kits", port=free_port())
    rng = np.random.default_rng(0)
    for kit in made.sites.values():
        old = rng.integers(0, 101, 300)
        columns = {"age": old, "ward": rng.choice(["A", "B"], 300), "ill": rng.random(300) < old / 150}
        pd.DataFrame(columns).to_csv(kit / "local" / "data.csv", index=False)
        own = 'data = "local/data.csv"\nmax_epsilon = 3\nmin_sites = 2\n'
        if shared:
            shutil.copy2(key, kit / "local")
            own += 'consortium = "local/consortium.key"\n'
        (kit / "local" / "site.toml").write_text(own)
    return made


@pytest.fixture
def running(made):
    """The participants, started by their own scripts, and ended afterwards."""
    everybody = (made.coordinator, *made.sites.values())
    for kit in everybody:
        subprocess.run([kit / "startup" / "start.sh"], check=True, capture_output=True)
    yield made
    for kit in everybody:
        with suppress(OSError, ValueError):
            os.kill(number(kit, "daemon_pid"), signal.SIGKILL)
        with suppress(OSError, ValueError):
            kill(kit)


def test_a_study_survives_the_death_of_a_site_and_of_the_server(running, tmp_path):
    from privae.transport import apps

    plan = tmp_path / "plan.toml"
    job = jobs.Job.of(running.study, Plan.load(plan), text_in(plan))
    killed, seen, start = [], [], time.monotonic()
    out = tmp_path / "out"
    with closing(apps.AdminDesk(running.admin)) as desk, closing(jobs.run(desk, job, out)) as told:
        for status in told:
            seen.append(status)
            assert time.monotonic() - start < 400
            if not killed and status.get("unit"):
                kill(running.sites["oslo"])
                killed.append("oslo")
            elif killed == ["oslo"] and status.get("query"):
                kill(running.coordinator)
                killed.append("coordinator")
    assert killed == ["oslo", "coordinator"]
    assert len({status["job"] for status in seen if "job" in status}) >= 2
    assert any("checkpoint" in status.get("note", "") for status in seen)
    assert seen[-1]["done"]
    model = VAE.load(out / "model.privae")
    assert model.guarantee.epsilon == pytest.approx(2.0, abs=0.01)
    assert len(model.sample(50, seed=0)) == 50
    assert verify(out / "ledger").study.encrypted == running.study.encrypted
    for name, kit in running.sites.items():
        logs = "".join(path.read_text(errors="replace") for path in kit.glob("*log*") if path.is_file())
        assert "Traceback" not in logs, name


@pytest.mark.parametrize("made", ["masked"], indirect=True)
def test_a_study_goes_on_without_a_site_that_refuses(running, tmp_path):
    from privae.transport import apps

    plan = tmp_path / "plan.toml"
    terms = running.sites["lyon"] / "local" / "site.toml"
    terms.write_text(terms.read_text().replace("max_epsilon = 3", "max_epsilon = 1"))
    job = jobs.Job.of(running.study, Plan.load(plan), text_in(plan))
    with closing(apps.AdminDesk(running.admin)) as desk:
        seen = list(jobs.run(desk, job, tmp_path / "out"))
    assert seen[-1]["done"]
    assert {status["sites"]["lyon"] for status in seen if "lyon" in status.get("sites", {})} >= {
        "refuses: epsilon 2 is above this site's ceiling 1"
    }
    assert seen[-1]["sites"]["oslo"] == "has the model"
