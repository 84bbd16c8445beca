"""jax-privacy in a process of its own, beside its own plain step: `python engine_jax.py MODEL BATCH THREADS SECONDS`.

The same perceptrons as in engine_models.py, written in JAX: gradients summed by jax_privacy.clipped_grad (one
gradient a record by vmap, whole batch or micro-batches of 64), its Gaussian noise, and Adam from optax. It needs
neither torch nor privae, so any interpreter that has jax-privacy may run it.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median

import jax
import jax.numpy as jnp
import jax_privacy
import optax
from jax_privacy import noise_addition

_WIDTHS = {"mlp": ((784, 400), 32), "tab": ((100, 256, 256), 32)}
_LEAST_ROUNDS, _MOST_ROUNDS, _MOST_STEPS, _BURST = 3, 10, 16, 0.12

Step = Callable[[], None]


def layers(name: str) -> dict[str, tuple[int, int]]:
    """Sizes of the linear layers by name, in the order of the computation."""
    sizes, latent = _WIDTHS[name]
    back = (latent, *sizes[::-1])
    found = {f"encoder{i}": (sizes[i], sizes[i + 1]) for i in range(len(sizes) - 1)}
    found |= {"mean": (sizes[-1], latent), "log_variance": (sizes[-1], latent)}
    return found | {f"decoder{i}": (back[i], back[i + 1]) for i in range(len(back) - 1)}


def weights(name: str) -> dict[str, tuple[jax.Array, jax.Array]]:
    """First weights, uniform as torch's."""
    key, found = jax.random.key(0), {}
    for i, (layer, (inputs, outputs)) in enumerate(layers(name).items()):
        first, second = jax.random.split(jax.random.fold_in(key, i))
        bound = inputs**-0.5
        found[layer] = (
            jax.random.uniform(first, (inputs, outputs), minval=-bound, maxval=bound),
            jax.random.uniform(second, (outputs,), minval=-bound, maxval=bound),
        )
    return found


def loss_of(name: str) -> Callable[..., jax.Array]:
    """Mean of minus the ELBO over the records that it is given."""

    def loss(values: dict[str, tuple[jax.Array, jax.Array]], x: jax.Array, noise: jax.Array) -> jax.Array:
        def apply(layer: str, of: jax.Array) -> jax.Array:
            return of @ values[layer][0] + values[layer][1]

        hidden = x
        for layer in (found for found in values if found.startswith("encoder")):
            hidden = jax.nn.relu(apply(layer, hidden))
        mean, log_variance = apply("mean", hidden), apply("log_variance", hidden)
        hidden = mean + jnp.exp(0.5 * log_variance) * noise
        back = sorted(found for found in values if found.startswith("decoder"))
        for layer in back:
            hidden = apply(layer, hidden)
            hidden = hidden if layer == back[-1] else jax.nn.relu(hidden)
        lost = (hidden - x) ** 2 if name == "tab" else optax.sigmoid_binary_cross_entropy(hidden, x)
        divergence = -0.5 * (1 + log_variance - mean**2 - jnp.exp(log_variance)).sum(-1)
        return (lost.sum(-1) + divergence).mean()

    return loss


def step_of(name: str, batch: int, micro_batch: int | None, noisy: bool) -> Step:
    """A compiled training step; micro_batch 0 means plain training."""
    values, adam, loss = weights(name), optax.adam(1e-3), loss_of(name)
    width, latent = _WIDTHS[name][0][0], _WIDTHS[name][1]
    x = jax.random.bernoulli(jax.random.key(1), 0.2, (batch, width)).astype(jnp.float32)
    if noisy:
        summed = jax_privacy.clipped_grad(
            loss, l2_clip_norm=1.0, batch_argnums=(1, 2), microbatch_size=micro_batch
        )
        gaussian = noise_addition.gaussian_privatizer(
            stddev=float(summed.sensitivity()), prng_key=jax.random.key(2)
        )

    @jax.jit
    def step(values, state, noise_state, key):  # type: ignore[no-untyped-def]
        key, fresh = jax.random.split(key)
        noise = jax.random.normal(fresh, (batch, latent))
        if noisy:
            total, noise_state = gaussian.update(summed(values, x, noise), noise_state)
            gradient = jax.tree.map(lambda leaf: leaf / batch, total)
        else:
            gradient = jax.grad(loss)(values, x, noise)
        updates, state = adam.update(gradient, state)
        return optax.apply_updates(values, updates), state, noise_state, key

    held = [values, adam.init(values), gaussian.init(values) if noisy else (), jax.random.key(3)]

    def run() -> None:
        held[:] = step(*held)
        jax.block_until_ready(held[0])

    return run


def cost(step: Step, steps: int) -> tuple[float, float]:
    """Seconds of processor time and by the clock of one step."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(steps):
        step()
    return (time.process_time() - cpu) / steps, (time.perf_counter() - wall) / steps


def _resident() -> float:
    """Megabytes of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(name: str, batch: int, threads: int, seconds: float) -> None:
    """Print one row an engine, one JSON object a line. With one thread the whole process stays on one core."""
    if threads == 1:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    fields = {"question": "time", "model": name, "batch": batch, "threads": threads}
    print(json.dumps({"question": "versions", "jax": jax.__version__, "jax-privacy": version("jax-privacy")}))
    base = step_of(name, batch, None, noisy=False)
    base()
    steps = min(max(round(_BURST / cost(base, 2)[1]), 1), _MOST_STEPS)
    for engine, micro_batch in (("jax-privacy, micro-batches of 64", 64), ("jax-privacy", None)):
        before = _resident()  # the engine that takes less memory comes first
        own = step_of(name, batch, micro_batch, noisy=True)
        own()
        start = time.perf_counter()
        pairs: list[tuple[tuple[float, float], tuple[float, float]]] = []
        while len(pairs) < _LEAST_ROUNDS or (
            len(pairs) < _MOST_ROUNDS and time.perf_counter() - start < seconds / 2
        ):
            pairs.append((cost(base, steps), cost(own, 1)))
        row = {
            "cpu_ms": 1e3 * min(own[0] for _, own in pairs),
            "wall_ms": 1e3 * min(own[1] for _, own in pairs),
            "cpu_ratio": median(own[0] / plain[0] for plain, own in pairs),
            "wall_ratio": median(own[1] / plain[1] for plain, own in pairs),
            "rounds": len(pairs),
            "own_plain_cpu_ms": 1e3 * min(plain[0] for plain, _ in pairs),
            "extra_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1.024e-3 - before,
        }
        print(json.dumps({**fields, "engine": engine, **row}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
