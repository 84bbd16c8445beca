"""Write docs/map.md: every module of src/privae, floor by floor, and every law, with its first docstring line.

`python scripts/map.py` writes it; with --check it fails, naming the command, when the file is stale.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "privae"
MAP = ROOT / "docs" / "map.md"
_HEAD = """\
# Map: where is what

Written by `python scripts/map.py` from the first docstring line of every module; `just check` fails when it is
stale. Floors are listed from the top: a module may import from lower floors only (`lint-imports` enforces it).
Search this page for a noun.
"""


def first_line(path: Path) -> str:
    """First line of the docstring of a module; empty if it has none."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n", 1)[0]


def floors() -> list[list[str]]:
    """Names of the packages and modules on each floor, from the top, as pyproject.toml's contract says."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[name.strip() for name in layer.split("|")] for layer in layers]


def modules(name: str) -> list[Path]:
    """The files of a package (its __init__ first) or of a module, whichever is there."""
    folder, file = SOURCE / name, SOURCE / f"{name}.py"
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [file] if file.exists() else []


def render() -> str:
    """The text of docs/map.md."""
    return "\n".join([_HEAD, *_source_lines(), "", *_law_lines()]) + "\n"


def _source_lines() -> Iterator[str]:
    layers = floors()
    named = {name for layer in layers for name in layer}
    top = [path for path in sorted(SOURCE.glob("*.py")) if path.stem not in named]
    yield "## src/privae"
    yield ""
    yield from (_line(path, SOURCE) for path in top)
    for layer in layers:
        for name in layer:
            for path in modules(name):
                if path.name == "__init__.py":
                    yield f"\n**{name}/** {first_line(path)}\n"
                else:
                    yield ("  " if path.parent.parent.parent == SOURCE else "") + _line(path, SOURCE)


def _law_lines() -> Iterator[str]:
    laws = ROOT / "tests" / "laws"
    yield "## tests/laws: what must always hold"
    yield ""
    yield from (_line(path, laws) for path in sorted(laws.glob("test_*.py")))


def _line(path: Path, base: Path) -> str:
    return f"- `{path.relative_to(base).as_posix()}` - {first_line(path)}"


def main(arguments: list[str]) -> int:
    """Write the map, or compare it."""
    text = render()
    if "--check" not in arguments:
        MAP.write_text(text, encoding="utf-8")
        return 0
    if MAP.exists() and MAP.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write("docs/map.md is stale; write it again with: python scripts/map.py\n")
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
