"""Write src/privae/custody/heads.json: the compiled contract, from heads.vy beside it.

`python scripts/contract.py` writes it; with --check it fails, naming the command, when the file is stale. The version
of the compiler and its settings are pragmas of the source, so that anybody gets the same bytes.
"""

import json
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "src" / "privae" / "custody"
SOURCE, COMPILED = FOLDER / "heads.vy", FOLDER / "heads.json"
PRAGMA = "#pragma "


def render() -> str:
    """The text of heads.json: interface, both bytecodes, and what they were compiled with."""
    from vyper import __version__ as version
    from vyper import compile_code
    from vyper.compiler.settings import Settings

    source = SOURCE.read_text(encoding="utf-8")
    found = compile_code(
        source,
        output_formats=["abi", "bytecode", "bytecode_runtime"],
        settings=Settings(),
        no_bytecode_metadata=True,
    )
    said = [
        line.removeprefix(PRAGMA).split(" ", 1) for line in source.splitlines() if line.startswith(PRAGMA)
    ]
    settings = {name: value for name, value in said if name != "version"}
    made = {
        "abi": found["abi"],
        "bytecode": found["bytecode"],
        "bytecode_runtime": found["bytecode_runtime"],
        "compiler": {"name": "vyper", "version": version, "settings": settings},
    }
    return json.dumps(made, indent=1, sort_keys=True) + "\n"


def main(arguments: list[str]) -> int:
    """Write the file, or check it."""
    text = render()
    if "--check" not in arguments:
        COMPILED.write_text(text, encoding="utf-8")
        return 0
    if COMPILED.exists() and COMPILED.read_text(encoding="utf-8") == text:
        return 0
    sys.stderr.write(
        "heads.json is not what heads.vy compiles to; write it again with: python scripts/contract.py\n"
    )
    return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
