"""A network of one's own, trained by noisy clipped gradients; the loss and the noise stay privae's."""

import torch
from torch import Tensor, nn

from privae import VAE, Training
from privae.data.examples import load_digits


class ConvolutionalVae(nn.Module):
    """Anything with encode(x, condition) -> (mean, log-variance) and decode(z, condition) -> logits serves."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.SiLU())
        self.posterior = nn.Linear(8 * 4 * 4, 2 * latent)
        self.logits = nn.Linear(latent, 64)

    def encode(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        features = self.features(x.unflatten(-1, (1, 8, 8))).flatten(-3)
        mean, log_variance = self.posterior(features).chunk(2, -1)
        return mean, log_variance.clamp(-8, 8)

    def decode(self, z: Tensor, condition: Tensor | None) -> Tensor:
        return self.logits(z)


torch.manual_seed(0)
images, _, _ = load_digits()
training = Training(latent=8, steps=20, batch=100)
vae = VAE(
    epsilon=8.0, delta=1e-5, rows=1800, recipe="gradients", training=training, network=ConvolutionalVae(8)
)
vae.fit(images)
print(vae.guarantee.sentence())
print("new images:", vae.sample(10).shape)
