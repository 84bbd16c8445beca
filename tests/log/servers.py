"""A PostgreSQL server of the test run's own: in a temporary folder, reached by a socket there, no port, no fsync."""

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

_QUICK = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "16MB", "listen_addresses": ""}


def programs():
    """The folder with PostgreSQL's programs, or None."""
    on_path = shutil.which("initdb")
    found = [Path(on_path).resolve()] if on_path else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    needed = ("postgres", "pg_isready")
    return next((p.parent for p in found if all((p.parent / name).is_file() for name in needed)), None)


def owner():
    """Who runs the server, which root may not: options for subprocess."""
    if os.getuid():
        return {}
    import pwd

    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            found = pwd.getpwnam(name)
            return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    return {}


@contextmanager
def server(binaries):
    """Start one, and yield a URL of it without a ledger's name."""
    folder, who = Path(tempfile.mkdtemp(prefix="pg")), owner()
    if who:
        os.chown(folder, who["user"], who["group"])
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    try:
        init = [
            binaries / "initdb",
            "-D",
            folder / "data",
            "-U",
            "me",
            "--auth=trust",
            "--no-sync",
            "-E",
            "UTF8",
        ]
        subprocess.run([*init, "--locale=C"], check=True, **quiet, **who)
        settings = [word for name, value in _QUICK.items() for word in ("-c", f"{name}={value}")]
        command = [binaries / "postgres", "-D", folder / "data", "-k", folder, *settings]
        running = subprocess.Popen(command, **quiet, **who)
        try:
            _wait(binaries, folder, running)
            yield f"postgresql://me@/postgres?host={folder}"
        finally:
            running.terminate()  # no new connections
            running.send_signal(2)  # and no old ones
            running.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(binaries, folder, running):
    for _ in range(600):
        ready = subprocess.run([binaries / "pg_isready", "-h", folder, "-q"], check=False)
        if ready.returncode == 0:
            return
        if running.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError("the server of the tests did not start")
