"""Fine-tuning: an encoder, fresh or pretrained, and a head on all its fields learn labels together.

What every adaptation is compared with, and from a fresh encoder the supervised baseline. `tuning`
says what of the encoder learns: all of it; nothing, so that the head alone does; the biases
(BitFit, Ben Zaken et al., ACL 2022, arXiv:2106.10199); a difference of low rank in each linear map
(LoRA, Hu et al., ICLR 2022, arXiv:2106.09685), which is added to the weights when training ends;
narrow adapters behind each block (Houlsby et al., ICML 2019, arXiv:1902.00751); or learned tokens
beside a record's own (Jia et al., ECCV 2022, arXiv:2203.12119).

Any labels: classes, amounts, several of them, and times until an event (Cox, ties as of Breslow).
The loss is the mean over labels. A record may lack any field; the head has a learned vector for it,
which begins as zero. The head is kept beside the encoder, for `amodal predict`.

Differs:

- encoder: any, of any fields (`amodal adapt RUN`, or a pretrained backbone,
  `--backbone text=transformers:DIR`). The papers go on from BERT, RoBERTa, GPT and ViTs.
- LoRA: every linear map of blocks and backbones has a difference, queries, keys and values of our
  own blocks a common one; the authors' RoBERTa has them for queries and values alone. alpha is
  twice the rank, as in their files for RoBERTa (8 and 16); GPT-2's is eight times (4 and 32), with
  dropout. The map into the encoder's width learns too, if a backbone has one.
- BitFit: biases of norms and of a field's first map are among them, as in the paper. Of a backbone
  also the map behind it learns.
- adapters are those of MMA-DFER (arXiv:2404.09010) for a field alone: one behind each block, with a
  norm in the middle, GELU at the end and a gate that begins shut. Houlsby's are two in each block,
  before its sums, with a nonlinearity in the middle, a path around and norms that learn.
- prompts are at the first block and stay to the last; those of single fields get a second learned
  part added behind the first block. The paper's deep variant has new ones for every block,
  and it reads a class token, where here the mean of a record's own tokens is read.
- recipe: none of a paper, since each way has its own; one rate for all parameters. LoRA's authors
  train RoBERTa on MNLI by AdamW at 5e-4, linearly down after 6 % of warm-up, with a decay of .1, in
  batches of 128 for 30 epochs (`--lr 5e-4 --schedule linear --warmup 0.06 --weight-decay 0.1
  --batch-size 128 --epochs 30`).
- views: `weak` by default; texts of the papers are whole (`--method.view plain`).
"""

from __future__ import annotations

from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Embeddings, unknown
from amodal.core.embeddings import FUSED
from amodal.methods.contract import Method
from amodal.methods.shared.shapes import share
from amodal.methods.shared.supervised import HeadFeatures, head_losses, label_columns
from amodal.nn.adapters.tuning import TUNINGS
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import SupervisedHead, Target, supervised_head


def finetune(
    encoder: Encoder,
    *,
    label: str = "",
    targets: tuple[Target, ...] = (),
    task: str = "auto",
    tuning: str = "full",
    hidden: int = 0,
    rank: int = 8,
    smoothing: float = 0.0,
    view: str = "weak",
) -> Finetune:
    """Build fine-tuning.

    Args:
        encoder: Fresh or pretrained.
        label: What to predict: a label of the data, or more of them with commas between.
        targets: What the labels hold (by default read from the data).
        task: "auto", by the kind of each label, or "survival", label being TIME,EVENT.
        tuning: What of the encoder learns: "full", "head" (nothing of it), "bias", "lora",
            "adapters" or "prompts".
        hidden: Width of a hidden layer of the head (0: a linear map).
        rank: Of LoRA's differences, width of adapters, or number of prompts.
        smoothing: Of the labels that are classes.
        view: How values are augmented, such as "plain" or "weak".
    """
    if tuning not in TUNINGS:
        raise unknown("way to fine-tune", tuning, TUNINGS)
    if rank < 1 or hidden < 0 or not 0 <= smoothing < 1:
        raise AmodalError(
            f"rank = {rank} must be at least 1, hidden = {hidden} 0 or more, "
            f"smoothing = {smoothing} in [0, 1)"
        )
    return Finetune(
        TUNINGS[tuning](encoder, rank), supervised_head(encoder, targets, hidden), smoothing, view
    )


class Finetune(Method):
    """A head on the fused features of an encoder.

    Args:
        encoder: Learns as far as its parameters are unfrozen.
        head: Of the labels.
        smoothing: Of the labels that are classes.
        view: How values are augmented.
    """

    def __init__(self, encoder: Encoder, head: SupervisedHead, smoothing: float, view: str):
        super().__init__()
        self.encoder, self.head, self.smoothing = encoder, head, smoothing
        self.views, self.labels = (view,), head.labels
        if encoder.heads is not None:  # fields are not compared here
            encoder.heads.requires_grad_(False)

    def features(self, batch: Batch) -> HeadFeatures:
        return HeadFeatures(
            size=batch.size,
            outputs=self.predict(batch),
            label=label_columns(batch, self.labels),
        )

    def predict(self, batch: Batch) -> Column:
        """The outputs of the head, of the rows that have any field."""
        outputs: Column = self.head(self.head_inputs(batch))
        return outputs

    def head_inputs(self, batch: Batch) -> Embeddings:
        """What the head reads: of a joint trunk only the pass of all fields together."""
        if self.encoder.trunk != "joint" or not isinstance(self.encoder, Encoder):
            return self.encoder.features(batch)
        context = self.encoder.encode(self.encoder.tokenize(batch))
        return Embeddings({FUSED: self.encoder.pool(context)[FUSED]}, batch.size)

    def losses(self, features: HeadFeatures) -> dict[str, Tensor]:
        return share(head_losses(self.head, features.outputs, features, smoothing=self.smoothing))

    @property
    def label_head(self) -> SupervisedHead:
        """Predicts the labels from the encoder's features."""
        return self.head
