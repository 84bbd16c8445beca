"""Law: the house stays as planned: sizes, names, one elbo and one train, docstrings, figures, no machine's paths."""

import ast
import importlib.util
import inspect
import re
import subprocess
from pathlib import Path

import pytest

import privae

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "privae"
MODULES = sorted(SOURCE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}

MOST_LINES, MOST_FUNCTION_LINES, MOST_MODULES = 400, 40, 9
BANNED_FILES = {"utils", "common", "base", "helpers", "core", "manager", "engine", "wrapper"}
BANNED_PARAMETERS = {"private", "dp", "enabled", "with_dp"}
VARIANT = re.compile(r"(Dp|DP|Fl|FL|He|HE)(?=[A-Z_]|$)|(^|_)(dp|fl|he)(_|$)")
FOREIGN = re.compile(
    "|".join(
        [
            r"(?<![\w.])/(?:work|root|Users|opt)/\w",
            r"(?<![\w.])/home/\w",
            r"(?<![\w.])/tmp/\w",
            r"\b[A-Z]:\\\w+\\",
            r"--(?:extra-)?index" + r"-url",
            r"pythonhosted\.org|pypi\.org/simple|download\.pytorch\.org|artifactory|devpi|conda\.anaconda\.org",
        ]
    )
)
TEXT = {".py", ".md", ".toml", ".json", ".txt", ".yml", ".yaml", ".cfg", ".ini", ".sh", ""}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> list[ast.FunctionDef]:
    return [
        node for node in ast.walk(TREES[path]) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def lines_of(function: ast.FunctionDef) -> int:
    """Lines of a function without its decorators and its docstring."""
    first = function.body[0]
    own = ast.get_docstring(function) is not None
    return function.end_lineno - function.lineno + 1 - (first.end_lineno - first.lineno + 1 if own else 0)


def script(name: str):
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text_files() -> list[Path]:
    """The files of the repository that hold text: what git tracks or would, else everything beside this file."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = listed.stdout.split("\n") if listed.returncode == 0 else [name_of(p) for p in ROOT.rglob("*")]
    paths = [ROOT / name for name in found if name]
    return [path for path in paths if path.is_file() and path.suffix in TEXT]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_is_short_and_says_what_it_is_for(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    assert ast.get_docstring(TREES[path])


def test_functions_are_short():
    long = [
        f"{name_of(p)}:{f.name} has {lines_of(f)} lines"
        for p in MODULES
        for f in functions(p)
        if lines_of(f) > MOST_FUNCTION_LINES
    ]
    assert not long


def test_the_median_function_is_at_most_eight_lines():
    lengths = sorted(lines_of(f) for path in MODULES for f in functions(path))
    assert lengths[len(lengths) // 2] <= 8


def test_no_class_or_function_is_named_after_a_variant():
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    names = [node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, kinds)]
    assert not [name for name in names if VARIANT.search(name)]


@pytest.mark.parametrize("name", ["DpVae", "FLTrainer", "HeVAE", "DPVAE", "train_dp", "fl_round", "he"])
def test_the_ban_of_variants_bites(name):
    assert VARIANT.search(name)


@pytest.mark.parametrize("name", ["Flow", "Header", "Helper", "held", "flat", "with_header", "dpi"])
def test_the_ban_of_variants_spares_other_words(name):
    assert not VARIANT.search(name)


def test_no_parameter_switches_privacy_on_or_off():
    named = [a.arg for tree in TREES.values() for a in ast.walk(tree) if isinstance(a, ast.arg)]
    assert not BANNED_PARAMETERS & set(named)


def test_no_file_is_named_after_nothing():
    assert not [name_of(p) for p in SOURCE.rglob("*") if BANNED_FILES & {p.stem, p.stem.strip("_")}]


def test_a_folder_holds_at_most_nine_modules_and_lies_at_most_two_deep():
    for folder in {path.parent for path in MODULES}:
        assert len([p for p in folder.glob("*.py") if p.name != "__init__.py"]) <= MOST_MODULES, folder.name
        assert len(folder.relative_to(SOURCE).parts) <= 1, folder.name


@pytest.mark.parametrize(("name", "home"), [("elbo", "models/latent.py"), ("train", "training/loop.py")])
def test_there_is_exactly_one(name, home):
    assert [p for p in MODULES for f in functions(p) if f.name == name] == [SOURCE / home]


def test_all_names_are_the_public_names():
    assert dir(privae) == sorted(privae.__all__)
    assert all(getattr(privae, name).__name__ == name for name in privae.__all__)
    assert len(privae.__all__) == len(set(privae.__all__))


def test_every_public_name_is_documented():
    assert all(inspect.getdoc(getattr(privae, name)) for name in privae.__all__)


def test_the_figures_of_the_readme_are_those_that_were_measured():
    figures = script("figures")
    _, inside, _ = figures.split(figures.README.read_text(encoding="utf-8"))
    assert inside == figures.render(figures.stored()), "run: python scripts/figures.py"


def test_the_figures_render_from_results():
    row = {"data": "MNIST", "method": "privae", "epsilon": 1.0, "fit_seconds": 20.0}
    results = {
        "machine": "a machine",
        "seconds": 120.0,
        "rows": [{**row, "seed": seed, "cnn": 94.0 + seed} for seed in range(3)],
        "checks": [{"name": "accuracy", "value": 95.0, "bar": 96.0, "met": False}],
        "not_measured": [{"name": "all else", "reason": "no data"}],
    }
    text = script("figures").render(results)
    assert "| privae | 1 | 95.0 (94.0 to 96.0) |  | 20 |" in text
    assert "collapsed" not in text
    assert "Missed: accuracy: 95 (target 96)." in text
    assert "Not measured: all else: no data." in text
    results["rows"][0]["cnn"] = 11.35
    assert "collapsed" in script("figures").render(results)
    assert script("figures").render(None) == "not measured yet"


def test_no_text_file_holds_a_path_of_a_machine_or_the_host_of_a_registry():
    found = [
        name_of(p) for p in text_files() if FOREIGN.search(p.read_text(encoding="utf-8", errors="replace"))
    ]
    assert not [name for name in found if name != name_of(Path(__file__))]


@pytest.mark.parametrize("text", ["see /" + "root/x", "cd /" + "home/me", "pip --index" + "-url x"])
def test_the_ban_of_machine_paths_bites(text):
    assert FOREIGN.search(text)
