"""Recommendations from a private fit: persons are protected with all of their rows, and profiles stay at home.

The ratings are made up: people of three tastes in films. For your own, give a table with a row a rating:
`python recommender.py ratings.csv USER_COLUMN ITEM_COLUMN` (MovieLens and the like may not be passed on).
"""

import sys

import numpy as np
import pandas as pd

from privae import VAE, RatingSchema


def made_up(persons: int = 5000, films: int = 60) -> pd.DataFrame:
    """Each person likes about nine films, most of them of one taste of three."""
    rng = np.random.default_rng(0)
    taste = np.arange(films) // (films // 3)
    mine = rng.integers(0, 3, persons)
    chance = np.where(taste == mine[:, None], 0.35, 0.04) * (
        1.2 - np.arange(films) % (films // 3) / (films // 3)
    )
    who, what = np.nonzero(rng.random((persons, films)) < chance)
    names = np.array([f"{kind} {i}" for kind in ("comedy", "horror", "western") for i in range(films // 3)])
    return pd.DataFrame({"person": who, "film": names[what]})


if len(sys.argv) == 4:
    plays, person, item = pd.read_csv(sys.argv[1]), sys.argv[2], sys.argv[3]
    schema = RatingSchema(person=person, item=item)  # the catalogue is bought; every row counts as liked
    rows = None
else:
    plays, rows = made_up(), 5000
    schema = RatingSchema(person="person", item="film", items=tuple(sorted(plays["film"].unique())))

vae = VAE(epsilon=1.0, delta=1e-6, rows=rows, schema=schema).fit(plays)
print(vae.guarantee.sentence())

liked = list(plays[schema.item].iloc[:2])  # somebody's profile: it is read here, and sent nowhere
print("who likes", " and ".join(liked), "may like")
print(vae.recommend(liked, n=5).to_string(index=False))
print("most like", liked[0])
print(vae.nearest(liked[0], n=3).to_string(index=False))

synthetic = vae.sample(2000, seed=0)
for name, table in {"real": plays, "synthetic": synthetic}.items():
    sizes = table.groupby(schema.person).size()
    print(f"{name}: {sizes.mean():.1f} likes a person; most liked: {table[schema.item].mode().iloc[0]}")
