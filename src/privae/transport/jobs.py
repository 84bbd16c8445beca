"""A job of a study, without its transport: what it is made of, on whose terms, who is asked, how it is followed."""

import base64
import json
import math
import queue
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Collection, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from privae import errors
from privae.errors import PrivacyRefused, ProtocolError, ResourceError, UsageError

if TYPE_CHECKING:
    from privae.federated.study import Study
    from privae.plan import Plan

APPS = "privae.transport.apps"
TOPIC = "privae"
"""Names our messages, our results and our section of a job's meta, among those of NVFlare."""
STATUS = "status.json"
"""Of a job that ended: the coordinator's last status, and the error that ended it, if one did."""
DEFAULTS: Mapping[str, Any] = {
    "delta": 1e-5,
    "min_sites": 3,
    "require_masking": True,
    "allow_share": ["decoder"],
}
"""What a site.toml says where it says nothing: the defaults of `study.SitePolicy`.

They stand here again so that a site's daemon, which lives for months, decides on a job without loading torch.
"""

PING, BEAT, READY, GLANCE, RETURN = 5.0, 2.0, 30.0, 1.0, 20.0  # seconds
GATHER = 60.0
"""Seconds to wait for sites that are not connected, before a job starts without them."""
PINGS, TRIES = 3, 3
_CAPS = (("epsilon", "max_epsilon"), ("delta", "delta"))
_GONE = "the coordinator's process ended"
_ENDS = {"lost": "the server was restarted", "undeployed": "the sites did not take the job in time"}
Status = dict[str, Any]
Send = Callable[[str, bytes, float], bytes | None]
Stopped = Callable[[], bool]


@dataclass(frozen=True)
class Job:
    """What the coordinator needs for a job, and the facts on which a site decides.

    study, plan: the texts of study.toml and plan.toml. roster: the names of the sites. facts: study and plan (hashes),
    epsilon, delta, min_sites, sites (how many), masking, share (a word, "" if nothing is trained by gradients).
    timeout: seconds for one answer of a site that is there. patience: seconds to go on asking when too few answer.
    """

    study: str = field(repr=False)
    plan: str = field(repr=False)
    roster: tuple[str, ...]
    facts: Mapping[str, Any]
    timeout: float = 1800.0
    patience: float = 60.0

    @property
    def name(self) -> str:
        """The same for all jobs of a study, of an attempt at a plan."""
        return f"{TOPIC}-{str(self.facts['study'])[:16]}"

    @classmethod
    def of(cls, study: "Study", plan: "Plan", text: str) -> "Job":
        """A job of this study. text: the plan as it stands in its file."""
        gradients = any(phase.kind == "gradients" for phase in plan.phases)
        facts = {
            "study": study.hash,
            "plan": plan.hash,
            # a JSON number that is not finite does not read everywhere
            "epsilon": plan.epsilon if math.isfinite(plan.epsilon) else "inf",
            "delta": plan.delta if math.isfinite(plan.epsilon) else 0,
            "min_sites": study.min_sites,
            "sites": len(study.sites),
            "masking": study.masking,
            "share": study.share if gradients else "",
        }
        return cls(study.dumps(), text, tuple(study.sites), facts)


def job_folder(target: Path, job: Job) -> Path:
    """Write a job as NVFlare reads it: three JSON files, no code. Returns target.

    The facts stand twice: in meta.json, where a site's policy reads them before it takes anything, and in the
    client's configuration, which the admin's certificate signs.
    """
    # base64, for NVFlare puts variables of the environment in where a text has braces
    texts = {name: base64.b64encode(getattr(job, name).encode()).decode() for name in ("study", "plan")}
    pace = {"digest": job.facts["study"], "timeout": job.timeout, "patience": job.patience}
    workflow = {"id": TOPIC, "path": f"{APPS}.CoordinatorApp", "args": {**texts, **pace}}
    executor = {"path": f"{APPS}.SiteApp", "args": {"facts": dict(job.facts)}}
    members = {
        "meta.json": {
            "name": job.name,
            "resource_spec": {},
            "min_clients": job.facts["min_sites"],
            "deploy_map": {"app": ["@ALL"]},
            TOPIC: dict(job.facts),
        },
        "app/config/config_fed_server.json": {"format_version": 2, "workflows": [workflow], "components": []},
        "app/config/config_fed_client.json": {
            "format_version": 2,
            "executors": [{"tasks": ["*"], "executor": executor}],
            "components": [],
        },
    }
    (target / "app" / "config").mkdir(parents=True, exist_ok=True)
    for name, content in members.items():
        (target / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    return target


def terms(kit: Path) -> dict[str, Any]:
    """A site's own terms, from its local/site.toml. Errors: UsageError if it does not read."""
    try:
        return {**DEFAULTS, **tomllib.loads((kit / "local" / "site.toml").read_text(encoding="utf-8"))}
    except (OSError, ValueError):
        raise UsageError("this site's local/site.toml does not read; its administrator can mend it") from None


def objection(facts: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Why a site does not take part, in words for the coordinator; "" if it does.

    facts: those of a job. own: the site's terms. Edges: what either leaves out, or is no number, is an objection.
    """
    try:
        over = [_over(name, float(facts[name]), float(own[cap])) for name, cap in _CAPS]
        roster, least, floor = int(facts["sites"]), int(facts["min_sites"]), int(own["min_sites"])
        masked = facts["masking"] is True or own["require_masking"] is False
        share, shared = str(facts["share"]), ["", *map(str, own["allow_share"])]
    except (KeyError, TypeError, ValueError, OverflowError):
        return "the job, or this site's local/site.toml, leaves a term out"
    reasons = {
        f"sums may be of {least} sites of {roster}; this site asks for {floor}": not floor <= least <= roster,
        "this site joins masked sums only": not masked,
        "this site does not allow what the study shares; see its allow_share": share not in shared,
    }
    return next((text for text in over if text), next((text for text, holds in reasons.items() if holds), ""))


def _over(name: str, asked: float, ceiling: float) -> str:
    return "" if asked <= ceiling else f"{name} {asked:g} is above this site's ceiling {ceiling:g}"


class Line:
    """To the sites of a job: each is asked for itself, all at once, and nobody is waited for who is gone.

    send: one message to one site and its answer, or None; an empty message asks only whether the site is there.
    known: the sites that the transport has in this job.
    """

    def __init__(self, send: Send, known: Callable[[], Collection[str]], timeout: float) -> None:
        self._send, self._known, self._timeout = send, known, timeout
        self._gone: dict[str, float] = {}  # since when it was last looked for

    def wait_for(self, sites: Collection[str], stopped: Stopped) -> None:
        """Return when all of these sites that are in this job listen, or after long enough."""
        end, missing = time.monotonic() + READY, set(sites) & set(self._known())
        while missing and time.monotonic() < end and not stopped():
            missing -= self._present(missing)
            time.sleep(0.2 if missing else 0)

    def complete(self, sites: Collection[str]) -> bool:
        """Whether all of these sites are in this job, and none is gone: a site that was killed joins the next one."""
        return set(sites) <= set(self._known()) - set(self._gone)

    def ask(self, outbox: Mapping[str, bytes], stopped: Stopped) -> dict[str, bytes]:
        """What came back in time.

        A site that is silent to `PINGS` questions in a row whether it is there is gone: it is not waited for, and not
        asked again before it is found. A late answer is dropped.
        """
        inbox: queue.Queue[tuple[str, bytes | None]] = queue.Queue()
        known, end = set(self._known()), time.monotonic() + self._timeout
        waiting = {site: 0 for site in outbox if site in known and site not in self._gone}
        for site in waiting:
            _begin(self._fetch, site, outbox[site], inbox)
        self._look_for(set(outbox) - set(waiting))
        replies = {}
        while waiting and time.monotonic() < end and not stopped():
            try:
                site, answer = inbox.get(timeout=BEAT)
            except queue.Empty:
                waiting = self._counted(waiting)
                continue
            waiting.pop(site, None)
            if answer:
                replies[site] = answer
        return replies

    def _counted(self, waiting: dict[str, int]) -> dict[str, int]:
        """How often each of them was silent in a row, without those that are gone now."""
        there = self._present(waiting)
        counts = {site: 0 if site in there else count + 1 for site, count in waiting.items()}
        self._gone |= {site: time.monotonic() for site, count in counts.items() if count >= PINGS}
        return {site: count for site, count in counts.items() if count < PINGS}

    def _look_for(self, sites: Collection[str]) -> None:
        for site in sites:
            if time.monotonic() - self._gone.get(site, time.monotonic()) >= RETURN:
                self._gone[site] = time.monotonic()
                _begin(self._find, site)

    def _find(self, site: str) -> None:
        if self._present([site]):
            self._gone.pop(site, None)

    def _present(self, sites: Collection[str]) -> set[str]:
        """Those who answer a question whether they are there; all are asked at once."""
        with ThreadPoolExecutor(max(len(sites), 1)) as pool:
            answers = pool.map(lambda site: self._send(site, b"", PING) is not None, sites)
            return {site for site, answered in zip(sites, answers, strict=True) if answered}

    def _fetch(self, site: str, message: bytes, inbox: queue.Queue[tuple[str, bytes | None]]) -> None:
        answer = None
        try:
            answer = self._send(site, message, self._timeout)
        finally:
            inbox.put((site, answer))


def _begin(work: Callable[..., object], *arguments: object) -> None:
    """Do it beside; the process may end without it."""
    threading.Thread(target=work, args=arguments, daemon=True).start()


@dataclass(frozen=True)
class State:
    """What the server says of a job. detail: reasons. refused: sites that the job was not given to, and why."""

    word: Literal["waits", "runs", "ended", "lost", "aborted", "unscheduled", "undeployed"]
    detail: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


class Desk(Protocol):
    """An admin's place at the server; each call finds a server again that was restarted meanwhile."""

    def connected(self) -> Collection[str]:
        """The sites that the server hears of."""

    def find(self, name: str) -> str | None:
        """A job of this name that waits or runs, such as one whose admin was killed."""

    def submit(self, folder: Path) -> str:
        """Hand a job in; returns its number at the server."""

    def state(self, job: str) -> State:
        """Where a job is; "lost" if the server forgot that it ran."""

    def status(self, job: str) -> Status | None:
        """What the coordinator of a running job tells; None if it does not tell yet, or no more."""

    def fetch(self, job: str, out: Path) -> Status | None:
        """Put the results of a job that ended into a folder; its last status, or None if it left none."""

    def abort(self, job: str) -> None:
        """End a job; its results so far stay with the coordinator."""


def run(desk: Desk, job: Job, out: Path) -> Generator[Status, None, None]:
    """Run a study to its end, telling its status now and then; results go to the folder `out`.

    A job that was lost with its server, or ended because sites were away, is followed by the next: the coordinator
    goes on from its own checkpoint, and sites that were started again take part again. Closing the generator, or an
    interrupt, ends the job that runs.
    Errors: the coordinator's own; PrivacyRefused if sites decline; ProtocolError if too few sites are there;
    ResourceError if three jobs in a row came no further.
    """
    tries, reached, last = 0, None, Status()
    while not last.get("done"):
        yield from _gathered(desk, job)
        last = yield from _one(desk, job, out)
        here = (last.get("phase"), last.get("step"))
        tries, reached = (tries + 1 if here == reached else 0), here
        if tries >= TRIES:
            note = last.get("note") or "the coordinator's own log says why"
            raise ResourceError(f"the study comes no further: {note}; mend that and run again")


def _gathered(desk: Desk, job: Job) -> Generator[Status, None, None]:
    """Wait until the sites are connected. Errors: ProtocolError if too few are after `GATHER` seconds."""
    end = time.monotonic() + GATHER
    while away := sorted(set(job.roster) - set(desk.connected())):
        if time.monotonic() >= end:
            if len(job.roster) - len(away) >= int(job.facts["min_sites"]):
                return
            raise ProtocolError(f"too few sites are connected; ask {', '.join(away)} to start, and run again")
        here = {site: "away" if site in away else "connected" for site in job.roster}
        yield {"note": f"waiting for {', '.join(away)}", "sites": here}
        time.sleep(GLANCE)


def _one(desk: Desk, job: Job, out: Path) -> Generator[Status, None, Status]:
    """Follow one job to its end; returns the last status."""
    number = desk.find(job.name) or _handed_in(desk, job)
    seen = Status()
    try:
        while (state := desk.state(number)).word in ("waits", "runs"):
            seen = _merged(desk.status(number) or seen, state)
            yield {**seen, "job": number}
            time.sleep(GLANCE)
    except BaseException:
        desk.abort(number)
        raise
    last = _merged({**seen, **_last(desk, number, state, out), "job": number}, state)
    yield last
    return last


def _handed_in(desk: Desk, job: Job) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        return desk.submit(job_folder(Path(scratch) / job.name, job))


def _merged(told: Status, state: State) -> Status:
    """What the coordinator tells, and beside it which sites the job was not given to."""
    refused = {site: f"refuses: {why}" for site, why in state.refused.items()}
    return {
        **told,
        "note": told.get("note") or "; ".join(state.detail),
        "sites": {**told.get("sites", {}), **refused},
    }


def _last(desk: Desk, number: str, state: State, out: Path) -> Status:
    if state.word == "unscheduled":
        raise ProtocolError(f"too few sites are connected: {'; '.join(state.detail)}")
    if state.word == "aborted":
        raise UsageError("the job was ended from elsewhere; run again, and it goes on where it stopped")
    if state.word == "undeployed" and state.refused:
        reasons = "; ".join(f"{site}: {why}" for site, why in sorted(state.refused.items()))
        raise PrivacyRefused(f"too few sites take part: {reasons}")
    status = desk.fetch(number, out) if state.word == "ended" else None
    if status is None:
        return {
            "done": False,
            "note": f"{_ENDS.get(state.word, _GONE)}; the next job goes on from the checkpoint",
        }
    error = status.pop("error", None)
    if error and error["kind"] != ProtocolError.__name__:
        raise _raised(error)
    return {**status, "note": error["text"]} if error else status


def _raised(error: Mapping[str, str]) -> errors.PrivaeError:
    """An error of the coordinator, as the one that it was."""
    kind = getattr(errors, error["kind"], None)
    if isinstance(kind, type) and issubclass(kind, errors.PrivaeError):
        return kind(error["text"])
    return errors.PrivaeError(error["text"])
