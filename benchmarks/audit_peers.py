"""Tables of other tools for benchmarks/audit.py: a copy of the training table, SDV's TVAE, and Anonymeter's risks.

Each step runs in an environment of its own, for the pins of the tools do not meet (requirements-audit.txt); they
hand on CSV and JSON files in one folder:

    python benchmarks/audit_peers.py split OUT        # privae's: train.csv, holdout.csv, copy.csv (UCI Adult)
    SDV_PYTHON benchmarks/audit_peers.py make OUT     # SDV's: tvae.csv, tvae.json
    ANONYMETER_PYTHON benchmarks/audit_peers.py anonymeter OUT    # Anonymeter's: anonymeter.json

Only `split` imports privae, and nothing of privae imports a peer. One thread of each.
"""

import argparse
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["POLARS_MAX_THREADS"] = "1"

import numpy as np  # noqa: E402  after the numbers of threads
import pandas as pd  # noqa: E402

ROWS = 10_000  # of the training table, of the hold-out, and of every synthetic table
SEED = 4
CANCER_ROWS = 400  # of 569
EPOCHS = 100  # of TVAE; 300 is its default
CONFIDENCE = 0.95  # of Anonymeter's intervals: its default
ATTACKS = 500  # its default
QUERY_COLUMNS = 4  # of a multivariate singling-out query
MOST_ATTEMPTS = 200_000  # queries tried, so that a table that hardly singles out ends
NUMERIC = ("age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week")
SECRETS = ("income", "capital_gain", "occupation", "marital_status")  # inferred from all other columns
LINKED = (
    ["age", "education", "marital_status", "occupation", "sex", "income", "native_country"],
    ["workclass", "fnlwgt", "education_num", "relationship", "race", "capital_gain", "hours_per_week"],
)
TABLES = ("copy", "tvae")
_PEOPLE = "people"  # SDV names its tables


def read(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f"{name}.csv")


def split(folder: Path) -> None:
    """Training rows and hold-out, drawn without replacement from UCI Adult, and a "tool" that copies the first."""
    from privae.data.examples import load_table

    frame, _ = load_table()
    order = np.random.default_rng(SEED).permutation(len(frame))
    train = frame.iloc[order[:ROWS]]
    folder.mkdir(parents=True, exist_ok=True)
    train.to_csv(folder / "train.csv", index=False)
    frame.iloc[order[ROWS : 2 * ROWS]].to_csv(folder / "holdout.csv", index=False)
    # in another order, as a tool would give it
    train.sample(frac=1.0, random_state=SEED).to_csv(folder / "copy.csv", index=False)
    cancer(folder)


def cancer(folder: Path) -> None:
    """Training rows and hold-out of scikit-learn's breast cancer table: 30 columns of measurements."""
    from sklearn.datasets import load_breast_cancer

    frame = load_breast_cancer(as_frame=True).frame.rename(columns={"target": "benign"})
    order = np.random.default_rng(SEED).permutation(len(frame))
    frame.iloc[order[:CANCER_ROWS]].to_csv(folder / "cancer-train.csv", index=False)
    frame.iloc[order[CANCER_ROWS:]].to_csv(folder / "cancer-holdout.csv", index=False)


def make(folder: Path) -> None:
    """SDV's TVAE at its defaults but for the epochs, from each training table; as many rows again."""
    import torch
    from sdv.metadata import Metadata
    from sdv.single_table import TVAESynthesizer

    torch.set_num_threads(1)
    seconds = {}
    for table in ("", "cancer-"):
        torch.manual_seed(SEED)
        np.random.seed(SEED)
        train = read(folder, f"{table}train")
        numeric = NUMERIC if not table else set(train.columns) - {"benign"}
        kinds = {
            name: {"sdtype": "numerical" if name in numeric else "categorical"} for name in train.columns
        }  # not detected: a country would be taken for personal and made up
        metadata = Metadata.load_from_dict({"tables": {_PEOPLE: {"columns": kinds}}})
        started = time.time()
        synthesizer = TVAESynthesizer(metadata, epochs=EPOCHS)
        synthesizer.fit({_PEOPLE: train})
        seconds[f"{table}tvae"] = round(time.time() - started, 1)
        synthesizer.sample(len(train))[_PEOPLE].to_csv(folder / f"{table}tvae.csv", index=False)
    facts = {"epochs": EPOCHS, "seed": SEED, "fit_seconds": seconds} | versions(
        "sdv", "ctgan", "torch", "numpy", "pandas"
    )
    (folder / "tvae.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(facts)


def anonymeter(folder: Path) -> None:
    """Anonymeter's three risks of every table, with the hold-out as its control."""
    train, control = (texts_for_gaps(read(folder, name)) for name in ("train", "holdout"))
    found = {}
    for name in TABLES:
        synthetic = texts_for_gaps(read(folder, name))
        np.random.seed(SEED)
        started = time.time()
        found[name] = risks(train, synthetic, control)
        found[name]["seconds"] = round(time.time() - started, 1)
        print(name, json.dumps(found[name], indent=1), flush=True)
    setting = {
        "confidence": CONFIDENCE,
        "attacks": ATTACKS,
        "query_columns": QUERY_COLUMNS,
        "most_attempts": MOST_ATTEMPTS,
        "linked": LINKED,
        "seed": SEED,
    }
    body = {
        "versions": versions("anonymeter", "numpy", "pandas", "polars", "numba"),
        "setting": setting,
        "tables": found,
    }
    (folder / "anonymeter.json").write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")


def texts_for_gaps(frame: pd.DataFrame) -> pd.DataFrame:
    """A gap as a category of its own, for Anonymeter counts two gaps as different."""
    texts = [name for name in frame.columns if name not in NUMERIC]
    return frame.assign(**{name: frame[name].fillna("missing").astype(object) for name in texts})


def risks(train: pd.DataFrame, synthetic: pd.DataFrame, control: pd.DataFrame) -> dict:
    from anonymeter.evaluators import InferenceEvaluator, LinkabilityEvaluator, SinglingOutEvaluator

    tables = {"ori": train, "syn": synthetic, "control": control}
    single = {"n_attacks": ATTACKS, "max_attempts": MOST_ATTEMPTS, "seed": SEED}
    univariate = SinglingOutEvaluator(**tables, **single).evaluate(mode="univariate")
    several = SinglingOutEvaluator(**tables, **single, n_cols=QUERY_COLUMNS).evaluate(mode="multivariate")
    linked = LinkabilityEvaluator(**tables, n_attacks=ATTACKS, aux_cols=LINKED, n_neighbors=1)
    found = {
        "singling out, univariate": shown(univariate),
        "singling out, multivariate": shown(several),
        "linkability": shown(linked.evaluate(n_jobs=1)),
    }
    for secret in SECRETS:
        known = [name for name in train.columns if name != secret]
        inferred = InferenceEvaluator(
            **tables, aux_cols=known, secret=secret, regression=secret in NUMERIC, n_attacks=ATTACKS
        )
        found[f"inference of {secret}"] = shown(inferred.evaluate(n_jobs=1))
    return found


def shown(evaluator) -> dict:
    """Risk with its interval, and the rates behind it as [rate, half-width]."""
    results, risk = evaluator.results(CONFIDENCE), evaluator.risk(CONFIDENCE)
    return {
        "risk": float(risk.value),
        "low": float(risk.ci[0]),
        "high": float(risk.ci[1]),
        "attacks": int(results.n_attacks_ori),
        "attack_rate": [float(x) for x in results.attack_rate],
        "baseline_rate": [float(x) for x in results.baseline_rate],
        "control_rate": [float(x) for x in results.control_rate],
    }


def versions(*names: str) -> dict:
    return {name: version(name) for name in names} | {"python": platform.python_version()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = {"split": split, "make": make, "anonymeter": anonymeter}
    parser.add_argument("step", choices=list(steps))
    parser.add_argument("folder", type=Path, metavar="OUT")
    chosen = parser.parse_args()
    steps[chosen.step](chosen.folder)


if __name__ == "__main__":
    main()
