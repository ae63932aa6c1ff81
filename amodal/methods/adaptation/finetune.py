"""Fine-tuning: an encoder, fresh or pretrained, and a head on all its senses learn labels together.
What every adaptation is compared with, and from a fresh encoder the supervised baseline. `how` says what of the encoder learns: all of it;
nothing, so that the head alone does; the biases (BitFit, Ben Zaken et al., ACL 2022, arXiv:2106.10199); or a difference of low rank in each
linear map (LoRA, Hu et al., ICLR 2022, arXiv:2106.09685), which is added to the weights when training ends.

Any labels: classes, amounts, several of them, and times until an event (Cox). A record may lack any sense; the head has a learned vector
for it. The head is kept beside the encoder, for `amodal predict`."""

from __future__ import annotations

from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Embeddings, unknown
from amodal.core.embeddings import FUSED
from amodal.methods._contract import Features, Method
from amodal.methods.shapes import share
from amodal.nn.answers import Answers, answers_of
from amodal.nn.bitfit import bitfit
from amodal.nn.encoder import Encoder
from amodal.nn.lora import lora


def finetune(
    encoder: Encoder,
    *,
    label: str = "",
    targets: tuple = (),
    task: str = "auto",
    how: str = "full",
    hidden: int = 0,
    rank: int = 8,
    smoothing: float = 0.0,
    view: str = "weak",
) -> Finetune:
    """label: what is to be told, a label of the data, or several with commas between; targets: what the labels hold (read from the data
    unless given); task: "auto", by the kind of each label, or "survival", label being TIME,EVENT; how: what of the encoder learns, "full",
    "head" (nothing of it), "bias" or "lora"; hidden: width of a hidden layer of the head (0: a linear map); rank: of LoRA's differences;
    smoothing: of the labels that are classes; view: how values are augmented, such as "plain" or "weak"."""
    if how not in HOW:
        raise unknown("way to fine-tune", how, HOW)
    if rank < 1 or hidden < 0 or not 0 <= smoothing < 1:
        raise AmodalError(
            f"rank = {rank} must be at least 1, hidden = {hidden} 0 or more, smoothing = {smoothing} in [0, 1)"
        )
    return Finetune(HOW[how](encoder, rank), answers_of(encoder, targets, hidden), smoothing, view)


def low_rank(encoder: Encoder, rank: int) -> Encoder:
    encoder.requires_grad_(False)
    for trunk in encoder.trunks.values():
        lora(trunk, rank)
    for backbone in backbones(encoder):
        lora(backbone.body, rank)
        backbone.frozen = False  # its gradients are wanted, though its own weights stay
    return entered(encoder)


def entered(encoder: Encoder) -> Encoder:
    """The map from a backbone to this encoder's width begins random, so it learns whatever else is frozen."""
    for backbone in backbones(encoder):
        backbone.project.requires_grad_(True)
    return encoder


def backbones(encoder: Encoder) -> list[nn.Module]:
    return [t for f, t in encoder.tokenizers.items() if encoder.contextual(f)]


HOW = {
    "full": lambda encoder, rank: encoder,
    "head": lambda encoder, rank: entered(encoder.requires_grad_(False)),
    "bias": lambda encoder, rank: entered(bitfit(encoder)),
    "lora": low_rank,
}


class Finetune(Method):
    """Features are the head's outputs, `told`, and the labels."""

    def __init__(self, encoder: Encoder, head: Answers, smoothing: float, view: str):
        super().__init__()
        self.encoder, self.head, self.smoothing = encoder, head, smoothing
        self.views, self.labels = (view,), head.labels
        if encoder.heads is not None:  # senses are not compared here
            encoder.heads.requires_grad_(False)

    def features(self, batch: Batch) -> Features:
        told = self.head(self.seen(batch))
        return Features({"told": told} | self.head.known(batch), batch.size)

    def seen(self, batch: Batch) -> Embeddings:
        """What the head reads: of a joint trunk only the pass of all senses together."""
        if self.encoder.trunk != "joint" or self.encoder.others:
            return self.encoder.features(batch)
        context = self.encoder.contextualise(self.encoder.tokenize(batch))
        return Embeddings({FUSED: self.encoder.pool(context)[FUSED]}, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        return share(self.head.losses(features["told"], features, self.smoothing))

    def answers(self) -> Answers:
        return self.head
