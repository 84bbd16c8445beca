"""Write tests/deidentify/pycanon.json: small tables, and what pycanon measures of them, for privae's own measures.

pycanon needs older numpy and pandas than privae, so it is no dependency of the tests. Run it by hand where pycanon is
installed: `python -m venv oracle && oracle/bin/pip install pycanon && oracle/bin/python scripts/anonymity_oracle.py`.
"""

import json
import random
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from pycanon import anonymity

TARGET = Path(__file__).resolve().parent.parent / "tests" / "deidentify" / "pycanon.json"
TABLES = 12


def table(seed: int) -> dict[str, list]:
    """A made-up table; later ones have more rows a class."""
    draw = random.Random(seed)  # noqa: S311  made-up rows
    rows = 20 + 12 * seed
    return {
        "age": [10 * draw.randrange(2 + seed % 4) for _ in range(rows)],
        "zip": [draw.choice(["10*", "20*", "30*"][: 1 + seed % 3]) for _ in range(rows)],
        "ill": [draw.choice(["flu", "cold", "gout"][: 2 + seed % 2]) for _ in range(rows)],
        "pay": [draw.choice([10, 20, 30, 55, 90, 120]) for _ in range(rows)],
    }


def measured(columns: dict[str, list]) -> dict:
    """The table with pycanon's figures, for each sensitive column by itself."""
    frame, quasi = pd.DataFrame(columns), ["age", "zip"]
    sensitive = {
        name: {
            "l": int(anonymity.l_diversity(frame, quasi, [name])),
            "entropy_l": int(anonymity.entropy_l_diversity(frame, quasi, [name])),
            "t": float(anonymity.t_closeness(frame, quasi, [name])),
        }
        for name in ("ill", "pay")
    }
    k = int(anonymity.k_anonymity(frame, quasi))
    return {"columns": columns, "quasi": quasi, "k": k, "sensitive": sensitive}


def main() -> None:
    """Write the file."""
    found = {"pycanon": version("pycanon"), "tables": [measured(table(seed)) for seed in range(TABLES)]}
    TARGET.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
