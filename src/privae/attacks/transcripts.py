"""What the coordinator of a study reads off one site's message, mode by mode: plain, decoder only, hidden, noised.

The same attack (`inversion`) on the same batches; what differs is what the coordinator sees of them. A mode of its
own, though a study has several at once: each protection is tried alone.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from privae.attacks.finding import Attack, Finding, Skipped
from privae.attacks.inversion import BATCH, BATCHES, NO_GRADIENTS, TOO_FEW, View, inversion_of
from privae.ckks.bits import HALF, Form, factor_of
from privae.ckks.summation import Party, Words
from privae.federated import masking
from privae.federated.round import Circle
from privae.fitted.kinds import Fitted
from privae.models.networks import Network
from privae.plan import Phase, Plan
from privae.privacy.clipping import Clipping
from privae.privacy.noise import NoiseSource
from privae.recipes.target import Target, attacked, fresh

MODES = {
    "plain": ("as plain federated learning sends them", "以普通联邦学习的方式明文发送"),
    "decoder only": ("of the decoder alone, unmasked and without noise", "仅含解码器部分,无掩码、无噪声"),
    "masked": ("under masks, without noise", "加掩码、无噪声"),
    "encrypted": ("encrypted, without noise", "加密、无噪声"),
    "noised": (
        "clipped and with all of the plan's noise, without masks",
        "经裁剪并加入方案的全部噪声,无掩码",
    ),
}
HIDING = ("masked", "encrypted")
"""Ways to hide a site in a sum, of which a study has at most one (`Study.sum`)."""
_GRID = 2.0**-20
_ANY = 1e9  # an epsilon that claims something


def attack_of(mode: str) -> Attack:
    """The attack on one mode's messages."""
    english, chinese = MODES[mode]
    return Attack(
        name=f"transcript inversion: {mode}",
        channel="data",
        measure="share of records recovered",
        title={"en": f"Records read off a site's message: {mode}", "zh": f"从站点消息还原记录:{mode}"},
        meaning={
            "en": f"From gradients of {{batch}} records each, {english}, "
            "{recovered} of {records} records came back as good as exactly (between {low} and {high} of them).",
            "zh": f"从每 {{batch}} 条记录的梯度({chinese})中,{{records}} 条记录里有 {{recovered}} 条被几乎原样还原"
            "(比例在 {low} 与 {high} 之间)。",
        },
        source="arXiv:1906.08935, arXiv:2003.14053, arXiv:2211.11591",
    )


def modes_of(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """The modes that are tried of a study, whose facts these are; the first of them is always "plain"."""
    way = facts.get("sum", HIDING[0])
    return tuple(mode for mode in MODES if mode not in HIDING or mode == way)


def of_model(  # noqa: PLR0913  whose model, records, plan and study, and how sure
    fitted: Fitted,
    data: Any,  # noqa: ANN401
    plan: Plan,
    facts: Mapping[str, Any],
    confidence: float,
    *,
    labels: Any = None,  # noqa: ANN401
    seed: int = 0,
) -> tuple[Finding, ...] | Skipped:
    """A finding a mode about the model's own network before its training, where a gradient tells most.

    facts: of the study (`Study.facts`). data, labels: a site's records as in the fit. Failed: a mode that the study
    has lets records be recovered.
    """
    phase = next((phase for phase in plan.phases if phase.kind == "gradients"), None)
    if phase is None:
        return NO_GRADIENTS
    if len(data) < 2 * BATCH:
        return TOO_FEW
    rng = np.random.default_rng(seed)
    target, rows = attacked(fitted, data, labels, rng.permutation(len(data))[: BATCH * BATCHES])
    # a decoder's gradient alone gives records away, too (its last layer's does): it is no claim of any study
    has = dict.fromkeys(HIDING, bool(facts["masking"])) | {"noised": math.isfinite(plan.epsilon)}
    return tuple(
        _tried(mode, fresh(target, seed), rows, (phase, plan), confidence, claims=has.get(mode, False))
        for mode in modes_of(facts)
    )


def seen(mode: str, target: Target, phase: Phase, noise: NoiseSource) -> tuple[Target, View]:
    """Whose gradient the coordinator sees in a mode, and as what."""
    attack, mechanism = attack_of(mode), phase.mechanism()
    if mode == "decoder only":
        return decoder_only(target), View(attack)
    clipping = Clipping(mechanism.clip_norm, phase.clipping)
    if mode in HIDING:
        secret, hide = noise.words(4).tobytes(), _masked if mode == "masked" else _encrypted
        return target, View(attack, clipping=clipping, release=lambda total: hide(total, secret))
    if mode == "noised":
        release = lambda total: mechanism.release(total, noise)  # noqa: E731
        return target, View(attack, clipping=clipping, release=release)
    return target, View(attack)


def decoder_only(target: Target) -> Target:
    """The same network, of which gradients train the decoder alone; the encoder is known to everybody.

    A network that has no encoder of records, like a residual decoder on released codes, is what it was.
    """
    network = copy.deepcopy(target.network)
    if isinstance(network, Network):
        network.encoder.requires_grad_(requires_grad=False)
    return replace(target, network=network)


def _tried(
    mode: str, target: Target, rows: Tensor, planned: tuple[Phase, Plan], confidence: float, *, claims: bool
) -> Finding:
    phase, plan = planned
    whose, view = seen(mode, target, phase, NoiseSource())
    # masks and ciphertexts claim that nothing comes back, whatever the epsilon
    view = replace(view, epsilon=min(plan.epsilon, _ANY)) if claims else view
    return inversion_of(whose, rows, BATCH, view, confidence)


def _words(total: Tensor) -> Words:
    return masking.as_words((total.double() / _GRID).round().long().numpy(), 4)


def _masked(total: Tensor, secret: bytes) -> Tensor:
    """A sum as it goes to the coordinator: fixed-point words under the mask with one honest site."""
    keys, peer = (masking.Keys.of(masking.derive(secret, place)) for place in (1, 2))
    hidden = masking.masked(_words(total), keys, 1, {2: peer.public[1]}, b"transcript")
    return torch.from_numpy(masking.as_integers(hidden) * _GRID).float()


def _encrypted(total: Tensor, secret: bytes) -> Tensor:
    """A sum as it goes to the coordinator: a ciphertext c0 = f x + e - a s, read as if its key s were zero."""
    circle = Circle(("1", "2"), {}, 1, 2, "transcript")
    form = Form(2, len(total), 4)
    _, body = Party(circle, "1", form, secret).contribution(_words(total), masking.derive(secret, "coins"))
    read, factor = form.read(body)[: len(total)].astype("int64"), factor_of(2)
    centered = (read + form.prime // 2) % form.prime - form.prime // 2
    words = masking.as_words((centered + factor // 2) // factor + HALF, 4)
    return torch.from_numpy(masking.as_integers(words) * _GRID).float()
