"""Flower's plain round of the model that benchmarks/federated.py sums: five SuperNodes over TLS on loopback.

    FLOWER_PYTHON benchmarks/federated_flower.py OUT    # flower.json: seconds a round

Runs in an environment of its own (requirements-federated.txt), and imports nothing of privae. The file is its own
Flower app: it copies itself into OUT, with a pyproject.toml that names the two apps below. Telemetry, update check
and installation at run time are off; nothing but loopback is spoken to. TLS with the server's certificate alone.
"""

import argparse
import datetime
import ipaddress
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import nn

SITES, ROUNDS, ROWS = 5, 3, 64
OFF = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
PATIENCE = 240.0  # seconds for everything

client = ClientApp()
server = ServerApp()


def network() -> nn.Module:
    """784 - 400 - 20 and back: 652,824 numbers."""
    torch.manual_seed(0)
    encoder = [nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 40)]
    decoder = [nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784)]
    return nn.ModuleDict({"encoder": nn.Sequential(*encoder), "decoder": nn.Sequential(*decoder)})


@client.train()
def train(message: Message, context: Context) -> Message:  # noqa: ARG001  Flower calls it so
    """One step of gradient descent on made-up records."""
    model = network()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    start = time.perf_counter()
    x = torch.rand(ROWS, 784)
    mean, spread = model["encoder"](x).chunk(2, 1)
    logits = model["decoder"](mean + (0.5 * spread).exp() * torch.randn_like(mean))
    loss = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    (loss + 0.5 * (mean.square() + spread.exp() - 1 - spread).sum()).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 1e-3 / ROWS * parameter.grad
    metrics = MetricRecord({"seconds": time.perf_counter() - start, "num-examples": ROWS})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


class Timed(FedAvg):
    """Federated averaging that notes when each round begins and ends."""

    def __init__(self, **named: object) -> None:
        super().__init__(**named)
        self.rounds: list[dict[str, float]] = []

    def configure_train(self, *args: object, **named: object) -> object:
        """A round begins."""
        self.rounds.append({"start": time.time()})
        return super().configure_train(*args, **named)

    def aggregate_train(self, server_round: int, replies: object) -> object:
        """A round ends; the slowest site's training is its."""
        replies = list(replies)
        done = [one.content["metrics"]["seconds"] for one in replies if one.has_content()]
        found = super().aggregate_train(server_round, replies)
        self.rounds[-1] |= {"end": time.time(), "training": max(done, default=0.0), "sites": len(done)}
        return found


@server.main()
def coordinate(grid: Grid, context: Context) -> None:  # noqa: ARG001  Flower calls it so
    strategy = Timed(fraction_evaluate=0.0, min_train_nodes=SITES, min_available_nodes=SITES)
    arrays = ArrayRecord(network().state_dict())
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=ROUNDS, train_config=ConfigRecord({}))
    out = Path(os.environ["FEDERATED_OUT"]) / "rounds.json"
    out.with_suffix(".part").write_text(json.dumps(strategy.rounds))
    out.with_suffix(".part").rename(out)


APP = """[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "benchmark"
version = "1.0.0"
description = ""
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "federated_flower:server"
clientapp = "federated_flower:client"

[tool.flwr.app.config]
"""


def certificates(folder: Path) -> None:
    """A certificate authority and the server's certificate, in PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    now = datetime.datetime.now(datetime.UTC)

    def made(name: str, public: object, issuer: str, key: object, extra: object, critical: bool) -> object:
        names = [x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, n)]) for n in (name, issuer)]
        builder = x509.CertificateBuilder().subject_name(names[0]).issuer_name(names[1]).public_key(public)
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now)
        builder = builder.not_valid_after(now + datetime.timedelta(days=1)).add_extension(extra, critical)
        return builder.sign(key, hashes.SHA256())

    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    hosts = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    basic = x509.BasicConstraints(ca=True, path_length=0)
    pem = serialization.Encoding.PEM
    for name, cert in {
        "ca.pem": made("ca", root.public_key(), "ca", root, basic, True),
        "server.pem": made(
            "localhost", own.public_key(), "ca", root, x509.SubjectAlternativeName(hosts), False
        ),
    }.items():
        (folder / name).write_bytes(cert.public_bytes(pem))
    kinds = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "server.key").write_bytes(own.private_bytes(pem, *kinds))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def started(out: Path, name: str, command: list[str], env: dict[str, str]) -> subprocess.Popen:
    log = (out / f"{name}.log").open("wb")
    return subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=out, start_new_session=True)


def prepared(out: Path, port: int) -> dict[str, str]:
    """The app, the certificates and the configuration in a folder; the environment of every process."""
    app, home, scripts = out / "app", out / "home", Path(sys.executable).parent
    for folder in (app, home):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(__file__, app / "federated_flower.py")
    (app / "pyproject.toml").write_text(APP)
    certificates(out)
    here = f'address = "127.0.0.1:{port}"\nroot-certificates = "{out / "ca.pem"}"\n'
    (home / "config.toml").write_text(f'[superlink]\ndefault = "here"\n\n[superlink.here]\n{here}')
    env = {**os.environ, **OFF, "FLWR_HOME": str(home), "FEDERATED_OUT": str(out), "OMP_NUM_THREADS": "1"}
    return {**env, "PATH": f"{scripts}{os.pathsep}{env['PATH']}"}


def deployed(out: Path) -> list[dict[str, float]]:
    """The rounds of one run, all of whose processes are ended afterwards."""
    port, scripts, ca = free_port(), Path(sys.executable).parent, str(out / "ca.pem")
    env = prepared(out, port)
    tls = ["--ssl-ca-certfile", ca, "--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key"]
    running = [started(out, "superlink", [str(scripts / "flower-superlink"), "--port", str(port), *tls], env)]
    try:
        wait_for_port(port)
        for place in range(SITES):
            command = [str(scripts / "flower-supernode"), "--superlink", f"127.0.0.1:{port}"]
            command += ["--root-certificates", ca, "--port", str(free_port())]
            running.append(started(out, f"supernode-{place}", command, env))
        run = [str(scripts / "flwr"), "run", str(out / "app"), "here"]
        with (out / "run.log").open("wb") as log:
            subprocess.run(run, env=env, cwd=out, check=True, timeout=PATIENCE, stdout=log, stderr=log)
        return list(json.loads(awaited(out / "rounds.json")))
    finally:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for process in running:
                if process.poll() is None:
                    os.killpg(process.pid, sign)
            time.sleep(2)


def awaited(path: Path) -> str:
    """The text of a file that another process will write."""
    end = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > end:
            raise SystemExit("the run did not end in time")
        time.sleep(0.5)
    return path.read_text()


def wait_for_port(port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise SystemExit("the SuperLink opened no port in 60 seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    rounds = deployed(out)
    found = {
        "versions": {
            "flwr": version("flwr"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "numbers": sum(p.numel() for p in network().parameters()),
        "sites": [one["sites"] for one in rounds],
        "seconds": [one["end"] - one["start"] for one in rounds],
        "beside_training": [one["end"] - one["start"] - one["training"] for one in rounds],
    }
    (out / "flower.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
