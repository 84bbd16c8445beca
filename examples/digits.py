"""A private fit of labelled images: new digits with labels, from a few hundred images a class."""

import numpy as np

from privae import VAE
from privae.data.examples import load_digits

images, labels, _ = load_digits()  # 1,797 public 8 x 8 digits of scikit-learn
vae = VAE(epsilon=3.0, delta=1e-5, rows=1800, classes=10).fit(images, labels)
print(vae.guarantee.sentence())

synthetic, names = vae.sample(1000, seed=0)
for name in sorted(set(names)):
    mean = synthetic[names == name].mean(0)
    row = mean[len(mean) // 2]
    print(name, "".join(" .:-=+*#"[int(v)] for v in np.clip(row / 32, 0, 7)))
