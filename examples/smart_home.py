"""Smart homes: what a thousand homes allow to be promised to each of them, and what one house alone allows.

The days are drawn. For real ones, give the files of Italy's power demand (UCR archive; sktime's wheel carries them), whose
winter days become homes by lot, and the energy of one house (UCI appliances, CC BY 4.0, every ten minutes):
`python smart_home.py ItalyPowerDemand_TRAIN.ts ItalyPowerDemand_TEST.ts appliances_energy.parquet`
"""

import sys

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from privae import VAE, SeriesSchema
from privae.fitted.following import Follower
from privae.report.picture import profiles

HOMES = SeriesSchema.loads("""
[series]
id = "home"
time = "time"
unit = "household"
step = "1h"
window = "1d"
windows = 7
[channels.power]
kind = "numeric"
bounds = [-4, 4]
""")
HOUSE = HOMES.model_copy(update={"id": None, "unit": "day"})


def drawn(count: int, peaks: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Days [count, 24] with a low night, and peaks in the morning and in the evening."""
    hour, late = np.arange(24), rng.normal(0, 0.7, (count, 1))
    day = -1.3 * np.exp(-(((hour - 3.5) / 3.5) ** 2)) + 0.2 * rng.normal(size=(count, 24))
    for at, height in zip((9.5, 19.5), peaks, strict=True):
        day += height * np.exp(-(((hour - at - late) / 2.5) ** 2)) * rng.uniform(0.7, 1.3, (count, 1))
    return day


def italian(paths: list[str]) -> list[np.ndarray]:
    """Winter and summer days [n, 24] of the files."""
    lines = [line for path in paths for line in open(path) if line[0] not in "#@\n"]
    days = np.array([[float(value) for value in line.split(":")[0].split(",")] for line in lines])
    return [days[[line.strip().endswith(f":{season}") for line in lines]] for season in (1, 2)]


def table(days: np.ndarray, each: int) -> pd.DataFrame:
    """Readings of homes of so many days."""
    start = np.arange(len(days)) % each * 86_400 + 978_307_200  # from Monday 2001-01-01 on
    time = (start[:, None] + np.arange(24) * 3600).ravel().astype("datetime64[s]")
    home = np.repeat(np.arange(len(days)) // each, 24)
    return pd.DataFrame({"home": home, "time": time, "power": days.ravel()})


rng = np.random.default_rng(0)
winter, summer = (
    italian(sys.argv[1:3]) if sys.argv[1:] else (drawn(500, (1.2, 1.4), rng), drawn(250, (1.6, 0.3), rng))
)
fitted, others = np.array_split(winter, 2)
homes = table(fitted[rng.integers(0, len(fitted), 1000 * 28)], 28)
vae = VAE(1.0, rows=1000, schema=HOMES).fit(homes)
print(vae.guarantee.sentence())
tested, summery = np.concatenate([others, summer]), np.arange(len(others) + len(summer)) >= len(others)
print(
    f"summer days among winter days: AUC {roc_auc_score(summery, vae.decision_function(table(tested, 1))):.3f}"
)
made = vae.sample(150, seed=0)["power"].to_numpy().reshape(-1, 24, 1)
profiles(
    fitted[:, :, None], made, "homes.png", ["power"], "days of homes: real, and made up at epsilon 1", "hour"
)

follower = Follower(vae.fitted_)
day = table(np.roll(others[:1], 12, axis=1), 1)  # somebody has exchanged day and night
shares = [follower.push(row)["share"] for row in day.astype(str).to_dict("records")]
print(
    f"an upside-down day, reading by reading: {sum(share < 0.01 for share in shares)} of 24 hours are strange"
)

alone = VAE(1.0, rows=1, schema=HOMES).plan()
print(f"one house as a household: about {alone.rows_needed} are needed; what hides the only one says nothing")
if sys.argv[3:]:
    read = pd.read_parquet(sys.argv[3], columns=["date", "Appliances"])
    house = pd.DataFrame({"time": read["date"], "power": np.log10(read["Appliances"].clip(10, 1000)) - 2})
else:
    house = table(drawn(140, (1.0, 1.5), rng), 140).drop(columns="home")
days = VAE(3.0, rows=140, schema=HOUSE).fit(house)
print(f"the same house, day by day: {days.guarantee.sentence()} A habit of every day is not hidden.")
strange = days.fitted_.names(house).assign(score=days.decision_function(house)).nlargest(3, "score")
print(f"its strangest days: {', '.join(f'{day:%d %B}' for day in strange['time'])}")
