"""Custody: identifiers are planted in a table, found, transformed and sealed; what is left is fitted and proved.

At the end all files are searched for them, archives unpacked, sealed files opened: the sealed original alone has any.
The people are public census rows (UCI Adult, CC BY 4.0); their names, numbers, addresses and dates are made up here.
"""

import os
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np

from privae import files, sealing
from privae.cli import main
from privae.data.examples import load_table

SCHEMA = """
table = { rows = 3000, quasi = ["age", "postcode"], sensitive = ["income"] }
[columns]
patient = { kind = "category", action = "pseudonymize" }
name = { kind = "category", action = "drop" }
mail = { kind = "category", action = "mask", rule = { first = 1, after = "@" } }
born = { kind = "category", action = "shift", rule = { days = 90, by = "patient" } }
notes = { kind = "category", action = "mask", rule = { text = true } }
age = { kind = "ordinal", action = "generalize", rule = { width = 10, low = 0, high = 90 } }
postcode = { kind = "category", categories = "bought", action = "generalize", rule = { prefix = 1 } }
income = { kind = "category", categories = ["<=50K", ">50K"] }
"""


def privae(command: str) -> None:
    """A command, as it would be typed."""
    print(f"\n$ privae {command}", flush=True)
    if code := main(command.split()):
        raise SystemExit(code)


def contents(path: Path) -> bytes:
    """All that a file says to who has the key: opened if it is sealed, and every member if it is an archive."""
    found = BytesIO(files.content(path))
    archive = zipfile.ZipFile(found) if zipfile.is_zipfile(found) else None
    return found.getvalue() + b"".join(map(archive.read, archive.namelist()) if archive else ())


numbers = np.random.default_rng(0).choice(9_000_000, 3000, replace=False) + 1_000_000
people = load_table()[0].sample(3000, random_state=0, ignore_index=True)[["age", "income"]]
people["patient"], people["name"] = [f"MRN{n}" for n in numbers], [f"Planted Person{n}" for n in numbers]
people["mail"] = [f"planted{n}@example.org" for n in numbers]
people["born"] = [str(np.datetime64("1950-01-01") + int(n % 20_000)) for n in numbers]
people["notes"] = [f"asked to be called on +1 212 555 {n % 10_000:04d}" for n in numbers]
people["postcode"] = [f"{10_000 + n % 50_000}" for n in numbers]
people.to_csv("hospital.csv", index=False)
Path("hospital.schema.toml").write_text(SCHEMA)

here = Path.cwd()
os.environ["XDG_CONFIG_HOME"] = str(here / "settings")  # where keys of signatures and pseudonyms are kept
os.environ["PRIVAE_IDENTITY_FILE"] = str(here / "hospital.key")  # opens what is sealed
privae("schema hospital.csv -o draft.toml")  # proposes; a person decides, as above
privae("keys new -o hospital.key")
public = os.environ["PRIVAE_SEAL_TO"] = sealing.from_place("hospital.key").publics[0]
privae("deidentify hospital.csv --schema hospital.schema.toml -o clean.csv --report alike.json")
privae(f"seal hospital.csv --to {public} -o hospital.csv.age")
Path("hospital.csv").unlink()
privae("ledger open hospital.ledger --epsilon 4 --delta 1e-5")
privae("ledger grant hospital.ledger ward --epsilon 2")
privae("fit clean.csv --schema clean.schema.toml --epsilon 1 --ledger hospital.ledger --grant ward")
privae("sample clean.privae -n 1000 -o synthetic.csv")
del os.environ["PRIVAE_SEAL_TO"]  # what follows is for everybody
privae("certificate clean.privae -o certificate.json")
privae("verify certificate.json clean.privae")
privae("ledger sign hospital.ledger -o heads.json")
privae("ledger export hospital.ledger --heads heads.json -o log.jsonl")
privae("ledger verify log.jsonl")
planted = [str(cell)[-14:].encode() for name in ("patient", "name", "mail", "notes") for cell in people[name]]
written = {path.name: contents(path) for path in here.rglob("*") if path.is_file()}
found = [name for name, said in written.items() if any(cell in said for cell in planted)]
print(f"\n{len(planted)} planted identifiers, {len(written)} files: found in {found}, with the key")
