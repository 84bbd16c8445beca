"""Kits: one folder for each who takes part in a study, with all that it needs to start, and closed where it can be.

NVFlare's own kits let an admin ship code, read logs, and run shell commands at a site. These do not: a site builds
three classes of privae's and no other, takes no code, streams no log, runs no command, and decides on each job by its
site.toml.
"""

import json
import shutil
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from privae import files
from privae.custody import keys
from privae.errors import ArtifactError, UsageError
from privae.federated import EVALUATED
from privae.sealing import identities
from privae.transport.folders import KIT, SERVER
from privae.transport.jobs import APPS

if TYPE_CHECKING:
    from privae.federated.study import Study, Terms

ADMIN = "admin"
USER = "admin@study.local"
_TAKEN = {SERVER, ADMIN, "server"}
# privacy: a prefix would let a job call any function of privae with arguments of its own
_ALLOWED = [f"{APPS}.{name}" for name in ("SiteApp", "SitePolicy", "CoordinatorApp")]
_HEARTBEAT = 60  # seconds until a silent site counts as gone
_AGAIN = 10.0  # seconds between two tries to schedule a job
_NOTHING = dict.fromkeys(
    (
        "submit_job",
        "clone_job",
        "manage_job",
        "download_job",
        "view",
        "operate",
        "shell_commands",
        "byoc",
        "server-predeployed-flwr",
        "app_command",
    ),
    "none",
)
_MINE = "n:submitter"
_OF_SERVER = {
    "submit_job": "any",
    "manage_job": _MINE,
    "download_job": _MINE,
    "app_command": _MINE,
    "view": "any",
}
_OF_SITE = {"submit_job": "any", "manage_job": _MINE}
_OTHERS = ("project_admin", "org_admin", "member")
_PROJECT = "privae"
Resources = dict[str, Any]


@dataclass(frozen=True)
class Kits:
    """The folders of a study. own: sites that keep a key of their own, so that nobody else ever held it."""

    study: "Study"
    sites: Mapping[str, Path]
    coordinator: Path
    admin: Path
    own: tuple[str, ...]


def provision(terms: Path, out: Path, host: str = "localhost", port: int = 8002) -> Kits:
    """Make the kits of the study that a person wrote down: one a site, the coordinator's, and the admin's.

    terms: the study file. out: a new or an empty folder. host, port: where the sites reach the coordinator.
    Errors: UsageError for a study that cannot be, a folder that holds something, a site named like another part.
    """
    from privae.federated.study import Terms
    from privae.transport import apps

    read = Terms.load(terms)
    _check(read, out, port)
    made = not out.exists()
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        apps.provision(project(read, host, port), out)
        (out / USER).rename(out / ADMIN)
        kits = _furnished(read, out, (host, port))
    except BaseException:
        _emptied(out, itself=made)
        raise
    return kits


def project(terms: "Terms", host: str, port: int) -> dict[str, Any]:
    """The study as NVFlare's provisioning reads it."""
    server: Resources = {"name": SERVER, "type": "server", "fed_learn_port": port, "default_host": host}
    clients: list[Resources] = [{"name": site, "type": "client"} for site in terms.sites]
    admin: Resources = {"name": USER, "type": "admin", "role": "lead"}
    everybody = [server, *clients, admin]
    return {"name": terms.name, "participants": [{**one, "org": _PROJECT} for one in everybody]}


def close_site(kit: Path) -> None:
    """Let a site take only privae's jobs, on its own terms, and tell nobody what its log says."""

    def change(resources: Resources) -> None:
        resources["class_allow_list"] = _ALLOWED
        resources["allow_log_streaming"] = False
        kept = [one for one in resources["components"] if one["id"] != "site_log_streamer"]
        resources["components"] = [*kept, {"id": "privae_policy", "path": f"{APPS}.SitePolicy", "args": {}}]

    _resources(kit, change)
    _rights(kit, _OF_SITE)
    _start(kit)


def close_server(kit: Path) -> None:
    """Let the server run privae's jobs only, keep them in its kit, and take nobody's log."""

    def change(resources: Resources) -> None:
        resources["class_allow_list"] = _ALLOWED
        resources["servers"][0]["heart_beat_timeout"] = _HEARTBEAT
        storage = resources["snapshot_persistor"]["args"]["storage"]["args"]
        # NVFlare puts the variable in when it starts, so that a kit may be moved
        storage["root_dir"] = f"{{${KIT}}}/snapshots"
        kept = [one for one in resources["components"] if one["id"] != "log_receiver"]
        by_name = {one["id"]: one.setdefault("args", {}) for one in kept}
        by_name["job_manager"]["uri_root"] = f"{{${KIT}}}/jobs"
        by_name["job_scheduler"] |= {"max_jobs": 1, "max_schedule_interval": _AGAIN}
        resources["components"] = kept

    _resources(kit, change)
    _rights(kit, _OF_SERVER)
    _start(kit)


def _check(terms: "Terms", out: Path, port: int) -> None:
    if identities.towards():
        raise UsageError(f"NVFlare starts from kits, and opens no sealed files; unset {identities.SEAL_TO}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already, and kits are made once; name a new folder, or remove it")
    named = sorted(_TAKEN & set(terms.sites))
    if named:
        raise UsageError(f"a site may not be named {named[0]}, as another part is; rename it in the study")
    if not 0 < port < 2**16:
        raise UsageError("--port is a number from 1 to 65535")
    for name, public in terms.sites.items():
        _check_key(name, public)
    if terms.sum == "encrypted" and not terms.consortium:
        raise UsageError(
            "sums on ciphertexts need a key that the sites share: one of them makes it with "
            "`privae federated key FILE --consortium`, and its name goes into the study as consortium"
        )
    # what does not go together is told before certificates are made
    terms.study({name: key or name for name, key in terms.sites.items()}, "the coordinator's")


def _check_key(name: str, public: str) -> None:
    try:
        if public:
            keys.fingerprint(public)
    except ArtifactError:
        raise UsageError(
            f"the public key of {name} is not one: `privae federated key` prints 44 characters"
        ) from None


def _furnished(terms: "Terms", out: Path, address: tuple[str, int]) -> Kits:
    """Close the kits, and put keys, terms and a page for their administrators in."""
    sites = {name: out / name for name in terms.sites}
    own = tuple(name for name, public in terms.sites.items() if public)
    for kit in (*sites.values(), out / SERVER, out / ADMIN):
        kit.chmod(0o700)
        (kit / "local").chmod(0o700)
    made = {name: _key(kit, "site") for name, kit in sites.items() if name not in own}
    study, content = (
        terms.study({**terms.sites, **made}, _key(out / SERVER, "coordinator")),
        terms.evaluated(),
    )
    if content is not None:
        (out / SERVER / "local" / EVALUATED).write_bytes(content)
    kits = Kits(study, sites, out / SERVER, out / ADMIN, own)
    where = f"{address[0]}:{address[1]}"
    for name, kit in sites.items():
        close_site(kit)
        _write(kit / "local" / "site.toml", _SITE_TOML)
        key = _OWN_KEY if name in own else _MADE_KEY
        _page(kit, _SITE_PAGE, name=name, where=where, key=key, sums=_hidden(study))
    close_server(kits.coordinator)
    _page(kits.coordinator, _SERVER_PAGE, name=study.name, port=str(address[1]))
    _page(kits.admin, _ADMIN_PAGE, name=study.name, where=where)
    for kit in (*sites.values(), kits.coordinator, kits.admin):
        _write(kit / "local" / "study.toml", study.dumps())
    return kits


def _hidden(study: "Study") -> str:
    if study.encrypted:
        return _SUMMED
    return _MASKED if study.masking else _BARE


def _key(kit: Path, name: str) -> str:
    return keys.signing_key(kit / "local" / f"{name}.key").public


def _resources(kit: Path, change: Callable[[Resources], None]) -> None:
    default = kit / "local" / "resources.json.default"
    resources = json.loads(default.read_bytes())
    change(resources)
    _write(kit / "local" / "resources.json", json.dumps(resources, indent=2))
    default.unlink()


def _rights(kit: Path, rights: Mapping[str, str]) -> None:
    """What the admin may ask of this participant; nobody else may ask anything."""
    permissions = {**dict.fromkeys(_OTHERS, _NOTHING), "lead": {**_NOTHING, **rights}}
    content = {"format_version": "1.0", "permissions": permissions}
    _write(kit / "local" / "authorization.json", json.dumps(content, indent=2))
    (kit / "local" / "authorization.json.default").unlink()


def _start(kit: Path) -> None:
    for name, text in {"start.sh": _START, "stop.sh": _STOP}.items():
        _write(kit / "startup" / name, text)
        (kit / "startup" / name).chmod(0o700)
    (kit / "startup" / "stop_fl.sh").unlink()


def _page(kit: Path, text: str, **facts: str) -> None:
    (kit / "readme.txt").unlink(missing_ok=True)
    _write(kit / "README.md", string.Template(text).substitute(facts))


def _write(path: Path, text: str) -> None:
    files.write_secretly(path, text.encode())


def _emptied(out: Path, *, itself: bool) -> None:
    """Leave no half-made kits behind."""
    for inside in [out] if itself else list(out.iterdir()):
        shutil.rmtree(inside, ignore_errors=True)


_START = """#!/usr/bin/env bash
# Starts this participant of the study, and starts it again if it dies; ends with startup/stop.sh.
kit="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." >/dev/null 2>&1 && pwd)"
cd "$kit" || exit 1
umask 077
export PRIVAE_KIT="$kit" PYTHONSAFEPATH=1 OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}"
if ! python3 -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("privae") and u.find_spec("nvflare")))'
then
  echo "privae and nvflare are not installed for this python3; first activate the environment that has them" >&2
  exit 2
fi
nohup "$kit/startup/sub_start.sh" >>"$kit/start.log" 2>&1 </dev/null &
echo "started; what it says and refuses is in $kit/start.log"
"""

_STOP = """#!/usr/bin/env bash
# Ends this participant; what it computed so far is kept, and startup/start.sh goes on with it.
touch "$(dirname "${BASH_SOURCE[0]}")/../shutdown.fl"
echo "it ends within 15 seconds"
"""

_SITE_TOML = """# What this site lets happen, whatever a study asks for. No job starts here before you edit this file.

# The records: a path on this machine, from the kit's folder on. A table (.csv, .parquet), or images (.npz).
# data = "patients.csv"

# The most that all studies of these records may spend together, counted in this site's own ledger: 1 is strong.
# max_epsilon = 1.0
# delta = 1e-5

# That ledger. A kit is for one study: name a file outside of it, so that the next study's kit counts on.
# ledger = "privae/data.ledger"

# The fewest sites in a sum, and whether sums must be masked, so that nobody sees this site's own numbers.
# min_sites = 3
# require_masking = true

# Sums on ciphertexts instead of masks, where the study says so: the file of the key that the sites share.
# consortium = "local/consortium.key"

# What training by gradients may share: "decoder", or "all", which the encoder's weights are part of.
# allow_share = ["decoder"]

# The study's name of a column = its name in your table, where they differ.
# [columns]
# age = "age_years"
"""

_MADE_KEY = """Whoever made this kit made its key too, and could have kept a copy. If that matters, make your own:
remove `local/site.key`, run `privae federated key local/site.key`, and send the public key that it prints; it goes
into the study file, and the kits are made anew."""
_OWN_KEY = """The study names the public key that you sent. Put that very key in this kit:
copy the file that you made it in to `local/site.key`, and `chmod 600` it."""

_MASKED = "with this site's share of the noise, and masked so that only the sum over the sites can be read"
_SUMMED = (
    "with this site's share of the noise, and encrypted under the key that the sites share\n"
    "(`consortium` in `local/site.toml`: get the file from the site that made it, and never give it to the coordinator)"
)
_BARE = "with all of the plan's noise, and not masked: the coordinator reads this site's own"

_SITE_PAGE = """# The kit of $name

You need: Python with `pip install 'privae[federated]'`, this folder, your records, and a way out to $where.

1. Edit `local/site.toml`: where the records are, and how much may be spent. It only narrows what a study may do.
2. Read `local/study.toml`: who takes part, and on which terms.
3. `startup/start.sh`. It runs as you, opens a port to this machine alone (127.0.0.1), and starts again if it dies.
   `startup/stop.sh` ends it.

$key

What leaves this machine: sums over your records, clipped, $sums;
public keys, signatures, and the reason if this site refuses. What does not: records, the number of them, losses, logs,
error texts about data. Each spend is written to the ledger in `privae/` before it happens; a job past your
`max_epsilon` is refused. Keep `privae/`: without it this site cannot go on.

Nobody can send code here, run a command here, or read a file here (`local/resources.json`,
`local/authorization.json`). The certificates in `startup/` last 360 days.
"""

_SERVER_PAGE = """# The kit of the coordinator of $name

You need: Python with `pip install 'privae[federated]'`, this folder, and TCP port $port open to the sites.

1. `startup/start.sh`. It runs as you, and starts again if it dies. `startup/stop.sh` ends it.

There is nothing to edit. The state of the study is in `privae/`: after a crash the next `privae federated run` goes
on from there. This machine sees masked or encrypted messages and their sums, never a site's own numbers. Whoever holds
`local/coordinator.key` can speak as the coordinator: keep this folder as you keep a password.
"""

_ADMIN_PAGE = """# The kit of the admin of $name

You need: Python with `pip install 'privae[federated]'`, this folder, and a way to $where.

`privae federated run plan.toml --kit .` starts the study, shows what each site does, and ends with the model. Run it
again after an interrupt or a crash: it goes on where it stopped. Whoever holds this folder can start jobs, on the
terms of `local/study.toml` and of each site, and fetch their results.
"""
