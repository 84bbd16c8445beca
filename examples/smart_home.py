"""Smart homes: what can be promised to each of a thousand homes, and what one house alone allows.

The days are drawn. For real ones, give the files of Italy's power demand (UCR archive; sktime's wheel carries them),
whose winter days become homes by lot, and the energy of one house (UCI appliances, CC BY 4.0, every ten minutes):
`python smart_home.py ItalyPowerDemand_TRAIN.ts ItalyPowerDemand_TEST.ts appliances_energy.parquet`
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from privae import VAE, SeriesSchema
from privae.fitted.following import Follower
from privae.report.picture import profiles

HOMES = SeriesSchema.loads("""
series = { id = "home", time = "time", unit = "household", step = "1h", window = "1d", windows = 7 }
channels.power = { kind = "numeric", bounds = [-4, 4] }
""")
HOUSE = HOMES.model_copy(update={"id": None, "unit": "day"})


def drawn(count: int, peaks: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Days [count, 24] with a low night, and peaks in the morning and in the evening."""
    hour, late = np.arange(24), rng.normal(0, 0.7, (count, 1))
    days = -1.3 * np.exp(-(((hour - 3.5) / 3.5) ** 2)) + 0.2 * rng.normal(size=(count, 24))
    for at, height in zip((9.5, 19.5), peaks, strict=True):
        days += height * np.exp(-(((hour - at - late) / 2.5) ** 2)) * rng.uniform(0.7, 1.3, (count, 1))
    return days


def italian(paths: list[str]) -> list[np.ndarray]:
    """Winter and summer days [n, 24] of the files."""
    texts = "\n".join(Path(path).read_text() for path in paths).split("\n")
    read = [line.strip().rsplit(":", 1) for line in texts if line[:1] not in ("#", "@", "")]
    return [np.array([a.split(",") for a, b in read if b == season], float) for season in ("1", "2")]


def table(days: np.ndarray, each: int) -> pd.DataFrame:
    """Readings of homes of so many days, from Monday 2001-01-01 on."""
    start = np.arange(len(days)) % each * 86_400 + 978_307_200
    time = (start[:, None] + np.arange(24) * 3600).ravel().astype("datetime64[s]")
    home = np.repeat(np.arange(len(days)) // each, 24)
    return pd.DataFrame({"home": home, "time": time, "power": days.ravel()})


rng = np.random.default_rng(0)
seasons = drawn(500, (1.2, 1.4), rng), drawn(250, (1.6, 0.3), rng)
winter, summer = italian(sys.argv[1:3]) if sys.argv[1:] else seasons
fitted, others = np.array_split(winter, 2)
vae = VAE(1.0, rows=1000, schema=HOMES).fit(table(fitted[rng.integers(0, len(fitted), 28_000)], 28))
print(vae.guarantee.sentence())
tested, odd = np.concatenate([others, summer]), np.arange(len(others) + len(summer)) >= len(others)
print(f"summer among winter days: AUC {roc_auc_score(odd, vae.decision_function(table(tested, 1))):.3f}")
made = vae.sample(150, seed=0)["power"].to_numpy().reshape(-1, 24, 1)
profiles(fitted[:, :, None], made, "homes.png", ["power"], "days: real, and made up at epsilon 1", "hour")

follower = Follower(vae.fitted_)
upside_down = table(np.roll(others[:1], 12, axis=1), 1).astype(str).to_dict("records")
shares = [follower.push(row)["share"] for row in upside_down]
print(f"day and night exchanged, reading by reading: {sum(s < 0.01 for s in shares)} hours of 24 are strange")

needed = VAE(1.0, rows=1, schema=HOMES).plan().rows_needed
print(f"one house as a household: about {needed} are needed; what hides the only one says nothing about it")
house = table(drawn(140, (1.0, 1.5), rng), 140).drop(columns="home")
if sys.argv[3:]:
    read = pd.read_parquet(sys.argv[3], columns=["date", "Appliances"])
    house = pd.DataFrame({"time": read["date"], "power": np.log10(read["Appliances"].clip(10, 1000)) - 2})
days = VAE(3.0, rows=140, schema=HOUSE).fit(house)
print(f"day by day: {days.guarantee.sentence()} A habit of every day is not hidden.")
strange = days.fitted_.names(house).assign(score=days.decision_function(house)).nlargest(3, "score")
print(f"its strangest days: {', '.join(f'{day:%d %B}' for day in strange['time'])}")
