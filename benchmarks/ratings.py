"""Recommendations under privacy of whole persons: what is lost to models without noise, and from how many persons on.

Parts (--only NAME measures one again, in the place of what results/ratings.json holds of it):
  rivals  strong generalization on Jester: popularity, EASE and Mult-VAE without privacy; popularity, Mult-VAE by DP-SGD
          and privae's default at epsilon 1, 3 and 10
  persons the same, of privae's default, by the number of persons
  scale   10^6 and 10^7 interactions with 10^5 items: seconds and memory
Protocol: Liang et al. 2018 (arXiv:1802.05814). Persons held out, 80 % of what each likes given, the rest ranked; seeds
of splits, first weights and noise. A joke is liked above 5 of -10 to 10; persons who like at least 5. delta = n^-1.1.
Settings were chosen on other persons (1,000 of the first split), after a look at test persons of that split, and in the
research notes: a mild optimism. Data: ../shared/data/jester1_ratings.parquet.
"""

import math
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from harness import SHARED, Part, Report, parser, run
from scipy.sparse import csr_array

from privae import VAE, Training
from privae.data.ratings import RatingSchema, profiles, table_of

ROWS, TEST, VALIDATION, LEAST = 15_529, 3000, 1000, 5
SEEDS, EPSILONS, TOP = 3, (1.0, 3.0, 10.0), 10
BARS = {1.0: 0.360, 3.0: 0.373, 10.0: 0.375}
NETWORK = {1.0: 300, 3.0: 600, 10.0: 600}  # steps of DP-SGD
SCHEMA = RatingSchema(
    person="user", item="item", value="rating_x100", like=501, items=tuple(str(i) for i in range(100))
)


@dataclass(frozen=True)
class Split:
    """Training persons, and of the test persons what is given and what is asked for: [n, m] of ones."""

    train: csr_array
    given: np.ndarray
    asked: np.ndarray

    def figures(self, scores: np.ndarray) -> dict[str, float]:
        """NDCG and recall of the first ten, of items that were not given; means over persons."""
        ranked = np.where(self.given > 0, -np.inf, scores)
        top = np.argsort(-ranked, axis=1, kind="stable")[:, :TOP]
        hits, counts = np.take_along_axis(self.asked, top, 1), self.asked.sum(1)
        discount = 1 / np.log2(np.arange(2, TOP + 2))
        ideal = np.cumsum(discount)[np.minimum(counts, TOP) - 1]
        recall = hits.sum(1) / np.minimum(counts, TOP)
        return {
            "ndcg_at_10": float(((hits * discount).sum(1) / ideal).mean()),
            "recall_at_10": float(recall.mean()),
        }

    def first(self, count: int) -> "Split":
        """With so many training persons."""
        return Split(self.train[:count], self.given, self.asked)


def jester(seed: int) -> Split:
    """One split: test persons, validation persons (not used here), and the rest."""
    likes = profiles(pd.read_parquet(SHARED / "jester1_ratings.parquet"), SCHEMA, SCHEMA.items).likes
    likes = likes[np.diff(likes.indptr) >= LEAST]
    rng = np.random.default_rng(seed)
    order = rng.permutation(likes.shape[0])
    test, asked = likes[order[:TEST]].toarray(), np.zeros((TEST, likes.shape[1]), np.int64)
    for place, row in enumerate(test):
        mine = np.flatnonzero(row)
        asked[place, rng.choice(mine, max(1, int(0.2 * len(mine))), replace=False)] = 1
    return Split(likes[order[TEST + VALIDATION :]], test - asked, asked)


def ours(split: Split, epsilon: float, recipe: str = "auto", training: Training | None = None) -> VAE:
    """A fit of privae, of the schema's own table."""
    rows = split.train.shape[0]
    model = VAE(epsilon, rows**-1.1, rows, recipe, SCHEMA, training=training)
    return model.fit(table_of(split.train, SCHEMA))


def scored(model: VAE, split: Split) -> dict[str, float]:
    return split.figures(model.of_ratings().model.recommend(csr_array(split.given)))


def popularity(split: Split, epsilon: float, rng: np.random.Generator) -> np.ndarray:
    """Counts of rows of norm 1, with the Gaussian noise of the whole budget."""
    from privae.privacy.accountant import gaussian_mu

    sizes = np.sqrt(np.maximum(np.diff(split.train.indptr), 1))
    counts = split.train.T @ (1.0 / sizes)
    noise = 0.0 if math.isinf(epsilon) else 1.0 / gaussian_mu(epsilon, split.train.shape[0] ** -1.1)
    return np.tile(counts + noise * rng.normal(size=len(counts)), (len(split.given), 1))


def ease(split: Split, ridge: float = 300.0) -> np.ndarray:
    """Steck 2019: the closed form on plain counts."""
    gram = (split.train.T @ split.train).toarray() + ridge * np.eye(split.train.shape[1])
    inverse = np.linalg.inv(gram)
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    return split.given @ weights


def multvae(split: Split, seed: int, steps: int = 3000, batch: int = 500) -> np.ndarray:
    """Mult-VAE without privacy: 200-50, tanh, dropout 0.5, beta annealed to 0.2, Adam."""
    torch.manual_seed(seed)
    items, hidden, latent = split.train.shape[1], 200, 50
    encoder = torch.nn.Sequential(
        torch.nn.Linear(items, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, 2 * latent)
    )
    decoder = torch.nn.Sequential(
        torch.nn.Linear(latent, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, items)
    )
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    x = torch.from_numpy(split.train.toarray()).float()
    for step in range(steps):
        rows = x[torch.randint(len(x), (batch,))]
        code = encoder(torch.nn.functional.dropout(torch.nn.functional.normalize(rows), 0.5))
        mean, log_variance = code[:, :latent], code[:, latent:]
        logits = decoder(mean + torch.randn_like(mean) * (log_variance / 2).exp())
        known = (rows * torch.log_softmax(logits, 1)).sum(1)
        kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)
        loss = (min(0.2, 0.2 * step / (0.5 * steps)) * kl - known).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        given = torch.nn.functional.normalize(torch.from_numpy(split.given).float())
        return decoder(encoder(given)[:, :latent]).numpy()


def without_privacy(split: Split, seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    rng = np.random.default_rng(seed)
    yield "popularity", split.figures(popularity(split, math.inf, rng))
    yield "EASE on counts", split.figures(ease(split))
    yield "Mult-VAE", split.figures(multvae(split, seed))
    yield "privae without noise", scored(ours(split, math.inf), split)


def with_privacy(split: Split, epsilon: float, seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    yield "popularity", split.figures(popularity(split, epsilon, np.random.default_rng(seed)))
    training = Training(latent=20, hidden=(100,), steps=NETWORK[epsilon], batch=1500, learning_rate=1e-2)
    yield "Mult-VAE by DP-SGD", scored(ours(split, epsilon, "gradients", training), split)
    yield "privae", scored(ours(split, epsilon), split)


def rivals(report: Report, options: Any) -> None:
    """Every method at every epsilon; means of the seeds are held against the bars."""
    found: dict[tuple[str, float], list[float]] = {}
    for seed in range(1 if options.quick else SEEDS):
        split = jester(seed)
        for epsilon in (math.inf, *EPSILONS):
            plain = math.isinf(epsilon)
            methods = without_privacy(split, seed) if plain else with_privacy(split, epsilon, seed)
            for who, figures in methods:
                found.setdefault((who, epsilon), []).append(figures["ndcg_at_10"])
                report.row(part="rivals", who=who, epsilon="inf" if plain else epsilon, seed=seed, **figures)
    mean = {key: float(np.mean(values)) for key, values in found.items()}
    for epsilon, bar in BARS.items():
        report.check(f"NDCG@10 of privae at epsilon {epsilon:g}", mean["privae", epsilon], bar, "at_least")
        others = max(mean[who, epsilon] for who in ("popularity", "Mult-VAE by DP-SGD"))
        lead = mean["privae", epsilon] - others
        report.check(f"NDCG@10 over the better private rival at epsilon {epsilon:g}", lead, 0.0, "at_least")
    loss = mean["EASE on counts", math.inf] - mean["privae", 10.0]
    report.check("NDCG@10 lost to EASE without privacy at epsilon 10", loss, 0.01, "at_most")


def persons(report: Report, options: Any) -> None:
    """From how many persons on is it worth it: NDCG over popularity, at least two hundredths."""
    split, worth, lost = jester(0), {}, []
    counts = (1000, ROWS) if options.quick else (500, 1000, 2000, 5000, 10_000, ROWS)
    for count in counts:
        part = split.first(count)
        popular = part.figures(popularity(part, math.inf, np.random.default_rng(0)))["ndcg_at_10"]
        best = part.figures(ease(part, 300.0 * count / ROWS))["ndcg_at_10"]
        report.row(part="persons", persons=count, who="without privacy", popularity=popular, ease=best)
        for epsilon in (0.3, *EPSILONS):
            models = [ours(part, epsilon) for _ in range(1 if options.quick else SEEDS)]
            ndcg = float(np.mean([scored(model, part)["ndcg_at_10"] for model in models]))
            personal = sum(model.of_ratings().model.personal for model in models) / len(models)
            draws = [np.random.default_rng(seed) for seed in range(SEEDS)]
            noisy = float(
                np.mean([part.figures(popularity(part, epsilon, rng))["ndcg_at_10"] for rng in draws])
            )
            report.row(part="persons", persons=count, who="privae", epsilon=epsilon, ndcg_at_10=ndcg,
                       popularity_without_privacy=popular, popularity_at_this_epsilon=noisy, personal=personal,
                       planned_from=models[0].plan_.rows_needed)  # fmt: skip
            worth.setdefault(epsilon, {})[count] = ndcg - popular
            lost.append(noisy - ndcg)
    for epsilon, gains in worth.items():
        first = min((count for count, gain in gains.items() if gain > 0.02), default=None)
        report.row(part="persons", who="worth it", epsilon=epsilon, from_persons=first)
    report.check("NDCG@10 lost to private popularity, at any number of persons", max(lost), 0.01, "at_most")


def scale(report: Report, options: Any) -> None:
    """Interactions drawn by a power law; the same declared number of persons, so that the model has one size."""
    items, each, declared = 100_000, 100, 100_000
    schema = RatingSchema(person="user", item="item", items=tuple(str(i) for i in range(items)))
    seconds, sizes = [], (100_000, 1_000_000) if options.quick else (1_000_000, 10_000_000)
    for size in sizes:
        rng = np.random.default_rng(0)
        chosen = np.minimum((items * rng.random(size) ** 3).astype(np.int64), items - 1)
        frame = pd.DataFrame({"user": np.repeat(np.arange(size // each), each), "item": chosen})
        start = time.process_time()
        model = VAE(1.0, 1e-7, declared, schema=schema).fit(frame)
        seconds.append(time.process_time() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        report.row(part="scale", interactions=size, items=items, modeled=len(model.of_ratings().model.kept),
                   cpu_seconds=seconds[-1], peak_megabytes=peak)  # fmt: skip
    more = (seconds[1] - seconds[0]) / (sizes[1] - sizes[0]) * 1e6
    report.row(part="scale", cpu_seconds_a_million_more=more)
    report.check("cpu seconds a million interactions more", more, 10.0, "at_most")
    report.check("gigabytes at the most interactions", peak / 1024, 6.0, "at_most")


PARTS: tuple[Part, ...] = (rivals, persons, scale)


def main() -> None:
    options = parser(__doc__.splitlines()[0])
    run("ratings", PARTS, options)


if __name__ == "__main__":
    main()
