"""Fine-tuning: an encoder, fresh or pretrained, and a head on all its fields learn labels together.
What every adaptation is compared with, and from a fresh encoder the supervised baseline. `tuning`
says what of the encoder learns: all of it; nothing, so that the head alone does; the biases (BitFit, Ben
Zaken et al., ACL 2022, arXiv:2106.10199); a difference of low rank in each linear map (LoRA, Hu et
al., ICLR 2022, arXiv:2106.09685), which is added to the weights when training ends; narrow adapters
behind each block (Houlsby et al., ICML 2019, arXiv:1902.00751); or learned tokens beside a record's
own (Jia et al., ECCV 2022, arXiv:2203.12119).

Any labels: classes, amounts, several of them, and times until an event (Cox). A record may lack any
field; the head has a learned vector for it. The head is kept beside the encoder, for `amodal
predict`."""

from __future__ import annotations

from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Embeddings, unknown
from amodal.core.embeddings import FUSED
from amodal.methods.contract import Features, Method
from amodal.methods.shared.shapes import share
from amodal.nn.adapters.tuning import TUNINGS
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import SupervisedHead, supervised_head


def finetune(
    encoder: Encoder,
    *,
    label: str = "",
    targets: tuple = (),
    task: str = "auto",
    tuning: str = "full",
    hidden: int = 0,
    rank: int = 8,
    smoothing: float = 0.0,
    view: str = "weak",
) -> Finetune:
    """label: what is to be told, a label of the data, or several with commas between; targets: what
    the labels hold (read from the data unless given); task: "auto", by the kind of each label, or
    "survival", label being TIME,EVENT; tuning: what of the encoder learns, "full", "head" (nothing of
    it), "bias", "lora", "adapters" or "prompts"; hidden: width of a hidden layer of the head (0: a
    linear map); rank: of LoRA's differences, width of adapters, or number of prompts; smoothing: of
    the labels that are classes; view: how values are augmented, such as "plain" or "weak"."""
    if tuning not in TUNINGS:
        raise unknown("way to fine-tune", tuning, TUNINGS)
    if rank < 1 or hidden < 0 or not 0 <= smoothing < 1:
        raise AmodalError(
            f"rank = {rank} must be at least 1, hidden = {hidden} 0 or more, smoothing = {smoothing} in [0, 1)"
        )
    return Finetune(
        TUNINGS[tuning](encoder, rank), supervised_head(encoder, targets, hidden), smoothing, view
    )


class Finetune(Method):
    """Features are the head's outputs, `told`, and the labels."""

    def __init__(self, encoder: Encoder, head: SupervisedHead, smoothing: float, view: str):
        super().__init__()
        self.encoder, self.head, self.smoothing = encoder, head, smoothing
        self.views, self.labels = (view,), head.labels
        if encoder.heads is not None:  # fields are not compared here
            encoder.heads.requires_grad_(False)

    def features(self, batch: Batch) -> Features:
        return Features({"told": self.predict(batch)} | self.head.known(batch), batch.size)

    def predict(self, batch: Batch) -> Column:
        return self.head(self.seen(batch))

    def seen(self, batch: Batch) -> Embeddings:
        """What the head reads: of a joint trunk only the pass of all fields together."""
        if self.encoder.trunk != "joint" or not isinstance(self.encoder, Encoder):
            return self.encoder.features(batch)
        context = self.encoder.encode(self.encoder.tokenize(batch))
        return Embeddings({FUSED: self.encoder.pool(context)[FUSED]}, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        return share(self.head.losses(features["told"], features, self.smoothing))

    @property
    def label_head(self) -> SupervisedHead:
        return self.head
