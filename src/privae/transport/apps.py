"""The door to NVFlare, and the only file that imports it: it carries bytes, starts, stops and refuses.

What the bytes say is `coordinator.Coordinator` and `site.Site`; nothing here looks into them. Jobs ship no code: they
name the classes below, which every participant has installed, and each site decides by `jobs.objection` on each job.
Used of NVFlare: one Controller, one Executor, one component of a site, aux messages, the admin's session, provisioning.
"""
# ruff: noqa: ARG002  the signatures are NVFlare's

import base64
import contextlib
import io
import json
import logging
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from privae import files
from privae.errors import ArtifactError, PrivaeError, ProtocolError, ResourceError, UsageError
from privae.transport import folders, jobs
from privae.transport.jobs import BEAT, STATUS, TOPIC, Line, State, Status

try:
    from nvflare.apis.event_type import EventType
    from nvflare.apis.executor import Executor
    from nvflare.apis.fl_component import FLComponent
    from nvflare.apis.fl_constant import AdminCommandNames, FLContextKey, ReturnCode
    from nvflare.apis.fl_context import FLContext
    from nvflare.apis.impl.controller import Controller
    from nvflare.apis.shareable import Shareable, make_reply
    from nvflare.apis.signal import Signal
    from nvflare.fuel.flare_api import api_spec
    from nvflare.fuel.flare_api.flare_api import Session, new_secure_session
except ImportError:
    raise UsageError(
        "the federated part runs on NVFlare; install it: pip install 'privae[federated]'"
    ) from None

if TYPE_CHECKING:
    from privae.federated.coordinator import Coordinator
    from privae.federated.site import Site

LONG = 600.0
"""Seconds after which a job without all of its sites ends, so that the next one has them."""

_BODY = "body"
_AGAIN, _AT_ONCE = 120.0, 20.0  # seconds to look for a server that is gone, or that was never found
_BUILDERS: tuple[dict[str, Any], ...] = (
    {
        "path": "nvflare.lighter.impl.workspace.WorkspaceBuilder",
        "args": {"template_file": ["master_template.yml"]},
    },
    {"path": "nvflare.lighter.impl.static_file.StaticFileBuilder", "args": {"config_folder": "config"}},
    {"path": "nvflare.lighter.impl.cert.CertBuilder"},
    {"path": "nvflare.lighter.impl.signature.SignatureBuilder"},
)
_WORDS: Mapping[str, Any] = {
    "SUBMITTED": "waits",
    "APPROVED": "waits",
    "DISPATCHED": "runs",
    "RUNNING": "runs",
    "FINISHED:ABORTED": "aborted",
    "FINISHED:ABANDONED": "aborted",
    "FINISHED:CAN_NOT_SCHEDULE": "unscheduled",
    "FINISHED:FAILED_TO_RUN": "undeployed",
}
_T = TypeVar("_T")
_LOG = logging.getLogger("privae.federated")


class SitePolicy(FLComponent):  # type: ignore[misc]
    """A site's word on each job before anything of it is stored; a component of the site's local/resources.json.

    Edges: a job's meta is what the server says; `SiteApp` holds the same terms against the facts that are signed.
    """

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Refuse a job that is not on this site's terms; the coordinator reads the reason."""
        asked = fl_ctx.get_prop(FLContextKey.COMMAND_NAME)
        if event_type != EventType.AUTHORIZE_COMMAND_CHECK or asked != AdminCommandNames.SUBMIT_JOB:
            return
        try:
            meta = fl_ctx.get_prop(FLContextKey.SECURITY_ITEMS)[FLContextKey.JOB_META]
            reason = jobs.objection(meta[TOPIC], jobs.terms(folders.kit_of(fl_ctx.get_identity_name())))
        except Exception as error:  # noqa: BLE001  whatever it is, the job is refused
            reason = str(error) if isinstance(error, PrivaeError) else "the job is none of privae's"
        if reason:
            _LOG.warning("a job is refused: %s", reason)
            fl_ctx.set_prop(FLContextKey.AUTHORIZATION_RESULT, False, sticky=False)
            fl_ctx.set_prop(FLContextKey.AUTHORIZATION_REASON, reason, sticky=False)


class SiteApp(Executor):  # type: ignore[misc]
    """The site's end: hands each message to `Site.answer`, one at a time, and its bytes back.

    Guarantee: whatever goes wrong, the answer is one fixed word and the log gets no traceback.
    """

    def __init__(self, facts: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._facts = dict(facts or {})
        self._kit: Path | None = None
        self._site: Site | None = None
        self._turn = threading.Lock()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Listen from the start of the run on."""
        if event_type == EventType.START_RUN:
            self._kit = folders.kit_of(fl_ctx.get_identity_name())
            fl_ctx.get_engine().register_aux_message_handler(TOPIC, self.answer)

    def execute(
        self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal
    ) -> Shareable:
        """Nothing comes as a task."""
        return make_reply(ReturnCode.TASK_UNKNOWN)

    def answer(self, topic: str, request: Shareable, fl_ctx: FLContext) -> Shareable:
        """Answer a message; an empty one asks only whether the site is there."""
        try:
            message = request[_BODY]
            reply = make_reply(ReturnCode.OK)
            reply[_BODY] = self._answered(message) if message else b""
        except Exception as error:  # noqa: BLE001  privacy: a traceback, or another's text, may hold cell values
            _LOG.warning("refused: %s", folders.said(error))
            reply = make_reply(ReturnCode.EXECUTION_EXCEPTION)
            reply[_BODY] = "refused"
        return reply

    def _answered(self, message: bytes) -> bytes:
        with self._turn:
            if self._site is None:
                self._site = self._opened()
            return self._site.answer(message)

    def _opened(self) -> "Site":
        from privae.federated.site import Site

        if self._kit is None:
            raise UsageError("a message came before the start of the run")
        reason = jobs.objection(self._facts, jobs.terms(self._kit))
        if reason:
            raise UsageError(reason)
        return Site.open(self._kit)


class CoordinatorApp(Controller):  # type: ignore[misc]
    """The coordinator's end: hands its messages to the sites, and to it what came back in time.

    A job ends with the study. Where a site is missing it ends with the phase, or after `LONG` seconds, for a site that
    was killed joins no job that runs. Its state is in the server's own folder privae/<hash of the study>, outside the
    job's: the next job goes on there.
    """

    def __init__(
        self, study: str, plan: str, digest: str, timeout: float = 1800, patience: float = 60
    ) -> None:
        super().__init__()
        self._texts = {"study.toml": base64.b64decode(study), "plan.toml": base64.b64decode(plan)}
        self._digest, self._timeout, self._patience = digest, timeout, patience
        self._told: Status = {"phase": "", "done": False, "note": "the job starts"}

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Let the admin ask for the status."""
        fl_ctx.get_engine().register_app_command(TOPIC, self.tell)

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing is left to stop."""

    def process_result_of_unknown_task(self, *late: object) -> None:
        """Nothing comes as a task."""

    def tell(self, topic: str, data: object, fl_ctx: FLContext) -> Status:
        """The last status."""
        return self._told

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        """Run the job's phase; what ended it is in the job's status file."""
        engine, folder, error = fl_ctx.get_engine(), None, None
        line = Line(_sender(engine), lambda: {client.name for client in engine.get_clients()}, self._timeout)
        try:
            folder = folders.prepared(folders.kit_of(folders.SERVER), self._digest, self._texts)
            with files.locked(folder / "running"):
                self._run(folder, line, lambda: bool(abort_signal.triggered))
        except Exception as raised:  # noqa: BLE001  the admin reads it from the status
            error = {"kind": type(raised).__name__, "text": folders.said(raised)}
            _LOG.warning("the job ends: %s", error["text"])
        results = Path(engine.get_workspace().get_run_dir(fl_ctx.get_job_id())) / TOPIC
        status = {**self._told, **({"error": error} if error else {})}
        folders.hand_over(folder or results, results, status)
        if error:
            self.system_panic(error["text"], fl_ctx)

    def _run(self, folder: Path, line: Line, stopped: jobs.Stopped) -> None:
        from privae.federated.coordinator import Coordinator

        coordinator = Coordinator.open(folder)
        self._told = coordinator.status()
        line.wait_for(coordinator.sites, stopped)
        outbox, end = coordinator.outbox(), time.monotonic() + LONG
        phase, failing = coordinator.phase, 0.0
        while not coordinator.done and not stopped():
            over = coordinator.phase not in (phase, "") or time.monotonic() > end
            if over and not line.complete(coordinator.sites):
                return
            replies = line.ask(outbox, stopped)
            if stopped():
                return  # what is missing was not waited for
            note = _taken(coordinator, replies)
            failing = (failing or time.monotonic()) if note else 0.0
            if note and time.monotonic() - failing >= self._patience:
                raise ProtocolError(note)
            self._told = {**coordinator.status(), **({"note": note} if note else {})}
            time.sleep(BEAT if note else 0)
            outbox = coordinator.outbox()


def _taken(coordinator: "Coordinator", replies: Mapping[str, bytes]) -> str:
    """Give the coordinator what came; why that is too little for now, or ""."""
    try:
        coordinator.take(replies)
    except ProtocolError as error:
        return str(error)
    return ""


def _sender(engine: Any) -> jobs.Send:  # noqa: ANN401  NVFlare's, which has no types
    def send(site: str, message: bytes, timeout: float) -> bytes | None:
        request = Shareable()
        request[_BODY] = message
        with engine.new_context() as context:
            replies = engine.send_aux_request([site], TOPIC, request, timeout, context, optional=True)
        reply = (replies or {}).get(site)
        if not isinstance(reply, Shareable) or reply.get_return_code() != ReturnCode.OK:
            return None
        body = reply.get(_BODY)
        return body if isinstance(body, bytes) else None

    return send


class AdminDesk:
    """An admin's place at the server, through the admin's kit; what NVFlare prints is not shown.

    Errors of each call: ResourceError if the server is not found, or not again; UsageError if it declines the kit.
    """

    def __init__(self, kit: Path) -> None:
        try:
            self._user = str(
                json.loads((kit / "startup" / "fed_admin.json").read_bytes())["admin"]["username"]
            )
        except (OSError, ValueError, KeyError, TypeError):
            raise UsageError(f"{kit} is no kit of an admin; make kits with: privae federated init") from None
        self._kit = kit
        self._session: Session | None = None

    def close(self) -> None:
        """Log out."""
        session, self._session = self._session, None
        if session:
            with _mute(), contextlib.suppress(Exception):
                session.close()

    def connected(self) -> set[str]:
        """The sites that the server hears of."""
        return {client.name for client in self._do(lambda session: session.get_connected_client_list())}

    def find(self, name: str) -> str | None:
        """A job of this name that waits or runs, such as one whose admin was killed."""
        listed = self._do(lambda session: session.list_jobs(name_prefix=name, reverse=True))
        numbers = [str(meta["job_id"]) for meta in listed if _WORDS.get(meta["status"]) in ("waits", "runs")]
        return next((number for number in numbers if self.state(number).word in ("waits", "runs")), None)

    def submit(self, folder: Path) -> str:
        """Hand a job in; returns its number at the server."""
        token = uuid.uuid4().hex  # so that a call that is made again hands it in once
        return str(self._do(lambda session: session.submit_job(str(folder.resolve()), submit_token=token)))

    def state(self, job: str) -> State:
        """Where a job is; "lost" if the server forgot that it ran."""
        try:
            meta = self._do(lambda session: session.get_job_meta(job))
        except api_spec.JobNotFound:
            return State("lost")
        word = _WORDS.get(meta["status"], "ended")
        if word == "runs" and meta.get("start_time"):
            # a server that was restarted goes on calling a job RUNNING that ended with it
            system = self._do(lambda session: session.get_system_info())
            if float(system.server_info.start_time) > datetime.fromisoformat(meta["start_time"]).timestamp():
                return State("lost")
        history = [str(line).split(": ", 1)[-1] for line in meta.get("schedule_history") or []]
        detail = tuple(line for line in history[-1:] if word in ("waits", "unscheduled"))
        return State(word, detail, _refused(meta.get("job_deploy_detail") or []))

    def status(self, job: str) -> Status | None:
        """What the coordinator of a running job tells; None if it does not tell yet, or no more."""
        try:
            told = self._do(lambda session: session.do_app_command(job, TOPIC, None))
        except (api_spec.JobNotRunning, api_spec.NoReply, api_spec.InternalError):
            return None
        return dict(told) if isinstance(told, dict) else None

    def fetch(self, job: str, out: Path) -> Status | None:
        """Put the results of a job that ended into a folder; its last status, or None if it left none."""
        with tempfile.TemporaryDirectory() as scratch:
            place = Path(self._do(lambda session: session.download_job_result(job, scratch)))
            found = next(iter(sorted(place.rglob(f"{TOPIC}/{STATUS}"))), None)
            if found is None:
                return None
            folders.take(found.parent, out)
            try:
                return dict(json.loads(found.read_bytes()))
            except (ValueError, TypeError):
                raise ArtifactError("the status of the job does not read; run again") from None

    def abort(self, job: str) -> None:
        """End a job; its results so far stay with the coordinator."""
        with contextlib.suppress(Exception):
            self._do(lambda session: session.abort_job(job), _AT_ONCE)

    def _do(self, work: Callable[[Session], _T], patience: float = _AGAIN) -> _T:
        """A call at the server, in a new session where the last one ended."""
        end = time.monotonic() + (patience if self._session else min(patience, _AT_ONCE))
        while True:
            try:
                with _mute():
                    self._session = self._session or new_secure_session(self._user, str(self._kit))
                    return work(self._session)
            except (api_spec.AuthenticationError, api_spec.AuthorizationError):
                raise UsageError("the server declines this kit; was it made for another study?") from None
            except (api_spec.NoConnection, api_spec.SessionClosed, RuntimeError, OSError):
                self.close()
                if time.monotonic() >= end:
                    raise ResourceError(
                        "the coordinator's server does not answer; start it, and run again"
                    ) from None
                time.sleep(1.0)


def _refused(details: Sequence[object]) -> dict[str, str]:
    """Sites that did not take a job, and why; those that only did not answer are not among them."""
    told = [str(detail).partition(": ") for detail in details]
    others = {site: why for site, colon, why in told if colon and site != "server"}
    return {site: why for site, why in others.items() if not why.startswith(("OK", "no reply"))}


@contextlib.contextmanager
def _mute() -> Iterator[None]:
    """Keep what NVFlare prints from a person's terminal."""
    logging.getLogger("nvflare").propagate = False
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def provision(project: Mapping[str, Any], out: Path) -> None:
    """Put one folder a participant into `out`, with its certificate, as NVFlare makes it.

    privacy: the key that signs certificates is not kept, so nobody can be added, or posed as, later.
    """
    from nvflare.lighter.constants import CtxKey
    from nvflare.lighter.prov_utils import prepare_builders
    from nvflare.lighter.provision import prepare_project
    from nvflare.lighter.provisioner import Provisioner

    with tempfile.TemporaryDirectory(dir=out) as scratch, _mute():
        builders = prepare_builders({"builders": list(_BUILDERS)})
        made = Provisioner(scratch, builders).provision(prepare_project({"api_version": 3, **project}))
        if made.get(CtxKey.BUILD_ERROR):
            raise ResourceError(f"NVFlare made no kits in {out}; is the folder writable?")
        for kit in Path(made[CtxKey.CURRENT_PROD_DIR]).iterdir():
            shutil.move(kit, out / kit.name)


def simulate_job(folder: Path, workspace: Path, sites: Sequence[str]) -> int:
    """Run a job with all participants on this machine, whose folders lie in $PRIVAE_KITS; returns an exit code."""
    from nvflare.private.fed.app.simulator.simulator_runner import SimulatorRunner

    local = workspace / "local"
    local.mkdir(parents=True, exist_ok=True)
    allowed = {
        "format_version": 2,
        "class_allow_list": [f"{jobs.APPS}.{name}" for name in ("SiteApp", "CoordinatorApp")],
        "components": [],
    }
    (local / "resources.json").write_bytes(files.canonical_json(allowed))
    runner = SimulatorRunner(str(folder), str(workspace), clients=",".join(sites), threads=len(sites))
    return int(runner.run())
