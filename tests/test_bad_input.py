"""Bad input: one clear line, the right exit code, nothing half-written, and never a value of the data."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from privae.cli import main
from privae.errors import ResourceError
from privae.vae import VAE

CANARY, NUMBER = "canary-7f3a", "31337421"
HEADER = "age,job,height,ill"
ROW = f"31,{CANARY},{NUMBER},true"
BUDGET = ["--epsilon", "1", "--delta", "1e-5"]


@pytest.fixture
def room(tmp_path, facts):
    """A folder with a schema of four columns."""
    facts.save(tmp_path / "s.toml")
    return tmp_path


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny, facts, people):
    """A good model file."""
    path = tmp_path_factory.mktemp("model") / "m.privae"
    VAE(epsilon=3.0, delta=1e-5).fit(people(3000), schema=facts).save(path)
    return path


def refused(capsys, code: int, *arguments: object) -> str:
    """Run a verb that is to be refused with that exit code; the one line it says."""
    folder = next(Path(str(a)).parent for a in arguments if "/" in str(a))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == code
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[-1].startswith("privae: ")
    assert [line for line in lines[:-1] if not line.endswith(" ...")] == []  # phases that had begun
    assert {path: path.read_bytes() for path in folder.iterdir()} == before, "half-written"
    assert CANARY not in err
    assert NUMBER not in err
    return lines[-1]


def fit(room: Path, data: str) -> list[object]:
    return ["fit", room / data, "--schema", room / "s.toml", *BUDGET, "-o", room / "out.privae"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (f"{HEADER}\n{ROW}\n".replace(",", ";").encode(), "semicolons"),
        (f"{HEADER}\n{ROW}\n{ROW},{CANARY}\n".encode(), "line 3 has more fields"),
        (f"{HEADER}\n{ROW}\n{CANARY}\n".encode(), "line 3 has fewer fields"),
        (f"{HEADER},extra\n{ROW},{CANARY}\n".encode(), "column 'extra' that the schema does not declare"),
        (f"age,job,height\n31,{CANARY},{NUMBER}\n".encode(), "has no column 'ill'"),
        (f"{HEADER}\n{ROW}\n31,{CANARY}\xe9,2,true\n".encode("latin-1"), "line 3 is not UTF-8"),
        (f"{HEADER}\n{ROW}\n31,{CANARY}\0,2,true\n".encode(), "line 3 holds a NUL byte"),
        (f"age,age,height,ill\n{ROW}\n".encode(), "two columns named 'age'"),
        (f"age,,height,ill\n{ROW}\n".encode(), "column 2 has no name"),
        (f'{HEADER}\n31,"{CANARY},{NUMBER},true\n'.encode(), "quote"),
        (f"{HEADER}\n".encode(), "released row count cannot be told from none"),
        (f"{HEADER}\n{ROW}\n".encode(), "released row count cannot be told from none"),
    ],
    ids=[
        *(
            "empty",
            "delimiter",
            "more fields",
            "fewer fields",
            "unknown column",
            "absent column",
            "not utf-8",
        ),
        *("nul", "duplicate", "unnamed", "open quote", "header only", "one row"),
    ],
)
def test_a_bad_table_is_a_data_error(room, tiny, capsys, content: bytes, says: str) -> None:
    (room / "d.csv").write_bytes(content)
    assert says in refused(capsys, 3, *fit(room, "d.csv"))


def test_a_missing_file_is_a_usage_error(room, capsys) -> None:
    assert "does not exist" in refused(capsys, 2, *fit(room, "absent.csv"))
    assert "does not exist" in refused(capsys, 2, "plan", room / "absent.npz", *BUDGET)
    assert "cannot be read" in refused(capsys, 2, "inspect", room / "absent.privae")
    assert "cannot be read" in refused(capsys, 2, "ledger", "show", room / "absent.ledger")
    (room / "d.csv").write_text(f"{HEADER}\n{ROW}\n")
    absent = ["--schema", room / "absent.toml", *BUDGET]
    assert "cannot be read" in refused(capsys, 2, "fit", room / "d.csv", *absent)


def test_a_column_without_a_value_is_refused_from_what_was_released(room, tiny, capsys, people) -> None:
    people(3000).assign(height=None).to_csv(room / "d.csv", index=False)
    says = refused(capsys, 3, *fit(room, "d.csv"))
    assert "column 'height'" in says
    assert "hardly any value" in says


def test_a_table_without_a_schema_is_told_how_to_draft_one(room, capsys) -> None:
    (room / "d.csv").write_text(f"{HEADER}\n{ROW}\n")
    assert "privae schema" in refused(capsys, 2, "fit", room / "d.csv", *BUDGET)


def test_a_value_outside_the_schema_is_refused_when_strict(room, capsys) -> None:
    (room / "d.csv").write_text(f"{HEADER}\n{ROW}\n")
    assert "'job'" in refused(capsys, 3, *fit(room, "d.csv"), "--strict")


@pytest.mark.parametrize("epsilon", ["0", "-1", "nan", "-inf", "five"])
def test_an_epsilon_that_is_none_is_a_usage_error(room, capsys, epsilon: str) -> None:
    (room / "d.csv").write_text(f"{HEADER}\n{ROW}\n")
    says = refused(capsys, 2, "fit", room / "d.csv", "--schema", room / "s.toml", "--epsilon", epsilon)
    assert "epsilon" in says


@pytest.mark.parametrize(
    "wrong",
    [["--delta", "0"], ["--delta", "nan"], ["--rows", "0"], ["--recipe", "magic"], ["--no-such-option"]],
)
def test_other_options_that_mean_nothing_are_usage_errors(room, capsys, wrong: list[str]) -> None:
    (room / "d.csv").write_text(f"{HEADER}\n{ROW}\n")
    refused(capsys, 2, "fit", room / "d.csv", "--schema", room / "s.toml", "--epsilon", "1", *wrong)


def test_privacy_is_decided_and_not_assumed(room, capsys) -> None:
    (room / "d.csv").write_text(f"{HEADER}\n{ROW}\n")
    says = refused(capsys, 2, "fit", room / "d.csv", "--schema", room / "s.toml", "-o", room / "out.privae")
    assert "--epsilon has no default" in says


def test_a_wrong_call_is_one_line_and_says_where_help_is(room, capsys) -> None:
    assert "privae sample --help" in refused(capsys, 2, "sample", room / "m.privae")
    assert main(["no-such-verb"]) == 2
    assert main(["ledger"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_truncated_npz_is_a_data_error(room, capsys, pictures) -> None:
    x, y = pictures(50)
    np.savez(room / "whole.npz", x=x, y=y)
    content = (room / "whole.npz").read_bytes()
    for cut in (0, 10, len(content) // 2, len(content) - 1):
        (room / "d.npz").write_bytes(content[:cut])
        for verb in ("plan", "fit"):
            assert "damaged" in refused(capsys, 3, verb, room / "d.npz", "--classes", "2", *BUDGET)


@pytest.mark.parametrize(
    "arrays",
    [
        {"z": np.zeros((3, 4, 4), np.uint8)},
        {"x": np.zeros((3, 4, 4))},
        {"x": np.zeros((3, 4, 4, 3), np.uint8)},
        {"x": np.array([{}, {}])},
        {"x": np.zeros((3, 4, 4), np.uint8), "y": np.zeros(2)},
    ],
    ids=["no x", "floats", "color", "pickled", "too few labels"],
)
def test_an_npz_of_something_else_is_a_data_error(room, capsys, arrays) -> None:
    np.savez(room / "d.npz", **arrays)
    refused(capsys, 3, "fit", room / "d.npz", *BUDGET, "-o", room / "out.privae")


def test_a_model_with_a_flipped_byte_is_an_artifact_error(model, tmp_path, capsys) -> None:
    content = bytearray(model.read_bytes())
    for place in (0, len(content) // 3, len(content) // 2, len(content) - 10):
        changed = content.copy()
        changed[place] ^= 0x10
        (tmp_path / "m.privae").write_bytes(changed)
        refused(capsys, 6, "inspect", tmp_path / "m.privae")
    (tmp_path / "m.privae").write_bytes(content[: len(content) // 2])
    refused(capsys, 6, "sample", tmp_path / "m.privae", "-o", tmp_path / "s.csv")


def test_a_changed_ledger_is_an_artifact_error(room, capsys) -> None:
    path = room / "h.jsonl"
    assert main(["ledger", "open", str(path), "--epsilon", "1", "-q"]) == 0
    path.write_text(path.read_text().replace('"epsilon":1.0', '"epsilon":9.0'))
    refused(capsys, 6, "ledger", "show", path)
    refused(capsys, 2, "ledger", "open", path, "--epsilon", "1", "--delta", "1e-5")


def test_new_rows_without_a_column_are_a_data_error(model, tmp_path, capsys) -> None:
    (tmp_path / "new.csv").write_text(f"age,job\n31,{CANARY}\n")
    refused(capsys, 3, "score", model, tmp_path / "new.csv", "-o", tmp_path / "scores.csv")


@pytest.mark.parametrize("call", ["fsync", "write"])
def test_a_full_disk_is_a_resource_error(model, room, tiny, capsys, people, monkeypatch, call: str) -> None:
    people(3000).to_csv(room / "d.csv", index=False)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, f"No space left: {CANARY}")

    if call == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    else:
        from zipfile import ZipFile

        import pandas as pd

        monkeypatch.setattr(ZipFile, "writestr", full)
        monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    assert "disk is full" in refused(capsys, 7, "sample", model, "-n", 9, "-o", room / "s.csv")
    assert "disk is full" in refused(capsys, 7, *fit(room, "d.csv"))


def test_memory_that_does_not_suffice_is_a_resource_error(model, room, capsys, monkeypatch) -> None:
    for error in (MemoryError(CANARY), RuntimeError(f"DefaultCPUAllocator: not enough memory: {CANARY}")):
        monkeypatch.setattr(VAE, "sample", lambda *_, error=error: (_ for _ in ()).throw(error))
        assert "memory" in refused(capsys, ResourceError.exit_code, "sample", model, "-o", room / "s.csv")


def test_an_error_that_is_not_ours_is_named_by_its_type_alone(model, room, capsys, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError(CANARY, NUMBER)

    monkeypatch.setattr(VAE, "sample", broken)
    assert "unexpected KeyError" in refused(capsys, 1, "sample", model, "-o", room / "s.csv")
    monkeypatch.setenv("PRIVAE_DEBUG", "1")
    assert main(["sample", str(model), "-o", str(room / "s.csv")]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_with_json_an_error_is_an_object_too(room, capsys) -> None:
    assert main(["inspect", str(room / "absent.privae"), "--json"]) == 2
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert (error["type"], error["exit_code"]) == ("UsageError", 2)
    assert err == f"privae: {error['message']}\n"


def test_an_output_that_cannot_be_written_costs_nothing(model, room, capsys, monkeypatch) -> None:
    monkeypatch.setattr(VAE, "fit", lambda *_, **__: pytest.fail("the budget was spent"))
    (room / "d.csv").write_text(f"{HEADER}\n{ROW}\n")
    says = {
        "no/such/folder.privae": "does not exist",
        ".": "is a directory",
        "model.csv": "must end in .privae",
        "d.csv": "must end in .privae",
        "d.csv/m.privae": "d.csv is not a folder",
    }
    for name, fault in says.items():
        assert fault in refused(capsys, 2, *fit(room, "d.csv"), "-o", room / name)
    longest = room / f"{'a' * 240}.privae"  # the name of its checkpoint is longer
    assert "too long" in refused(capsys, 2, *fit(room, "d.csv"), "-o", longest)
    assert "too long" in refused(capsys, 2, "fit", room / f"{'a' * 300}.csv", "--epsilon", 1)
    for device in ("/dev/null", "/dev/full"):
        assert main(["sample", str(model), "-o", device]) == 2
        assert main(["ledger", "open", device, "--epsilon", "1"]) == 2
    assert Path("/dev/null").is_char_device()


# A process that forks a `privae` for every line that it reads, so that torch is read once: its arguments, the pipe
# that it speaks into, where its results go, whether Ctrl-C is ignored, and how large a file may become.
FORKS = """
import json, os, resource, signal, sys
import privae.vae
from privae.cli import main

for line in sys.stdin:
    arguments, pipe, out, ignored, largest = json.loads(line)
    child = os.fork()
    if not child:
        told = os.open(pipe, os.O_WRONLY)
        os.dup2(os.open(out, os.O_WRONLY) if out else told, 1), os.dup2(told, 2)
        os.close(told)
        signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
        if largest:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        sys.exit(main(arguments))  # as __main__ does: what is left to be written is written then
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def forks():
    """That process, with pipes to it and from it."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", FORKS], bufsize=0, **pipes) as process:
        yield process
        process.stdin.close()


class Forked:
    """A `privae` of its own process: what it says, and its exit code."""

    def __init__(self, forks, pipe: Path, arguments, *, out="", ignored=False, largest=0) -> None:
        os.mkfifo(pipe)
        asked = [[str(argument) for argument in arguments], str(pipe), out, ignored, largest]
        forks.stdin.write(json.dumps(asked).encode() + b"\n")
        self._forks, self.pid, self.said = forks, int(forks.stdout.readline()), pipe.open()

    def ended(self) -> tuple[int, str]:
        """The exit code, and what was said and is not read yet."""
        with self.said:
            rest = self.said.read()
        return int(self._forks.stdout.readline()), rest


@pytest.fixture
def pipe(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pipe") / "said"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_fit_exits_130_and_leaves_only_what_it_can_go_on_from(
    room, people, forks, pipe, sent
) -> None:
    people(3000).to_csv(room / "d.csv", index=False)
    before = set(room.iterdir())
    # SIGTERM ends a fit in the background of a script, too, where Ctrl-C is ignored
    child = Forked(forks, pipe, fit(room, "d.csv"), ignored=sent == signal.SIGTERM)
    assert any("warm start" in line for line in iter(child.said.readline, ""))
    os.kill(child.pid, sent)
    code, err = child.ended()
    assert code == 130
    assert err.splitlines()[-1].startswith("privae: interrupted")
    assert len(err.splitlines()) == 2
    assert "--resume" in err.splitlines()[0]
    assert [path.name for path in set(room.iterdir()) - before] == ["out.privae.checkpoint"]


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no /dev/full here")
def test_a_full_standard_output_is_a_resource_error(model, forks, pipe) -> None:
    code, err = Forked(forks, pipe, ["inspect", model], out="/dev/full").ended()
    assert code == 7
    assert len(err.splitlines()) == 1


def test_a_file_system_that_takes_no_more_bytes_is_a_resource_error(model, tmp_path, forks, pipe) -> None:
    asked = ["sample", model, "-n", 3000, "-o", tmp_path / "s.csv", "-q"]
    code, err = Forked(forks, pipe, asked, largest=4096).ended()
    assert code == 7
    assert err.startswith("privae: the disk is full")
    assert list(tmp_path.iterdir()) == []
