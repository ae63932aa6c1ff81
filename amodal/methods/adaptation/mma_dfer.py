"""MMA-DFER: frozen encoders of single fields become one of all fields, by prompts, adapters between
their blocks, and a small network over time.

Chumachenko, Iosifidis and Gabbouj, CVPR 2024 workshops, arXiv:2404.09010: progressive prompts
(3.2), fusion bottleneck at every block (3.3), temporal transformer (3.4). The encoder must be
trained beforehand, each field by itself (a run of `mae`, then `--init-from`). Any fields: a field
gets the mean of what the others say, and a record may lack any.

Differs:

- encoders: transformers of the library that `mae` trained here; the authors have an MAE of faces
  and AudioMAE, both ViT-B. Positions stay frozen; the authors train them, and their prompts have
  some.
- video: there is no such modality yet. A step in time is what `lead` has at one moment (position 0
  of its tokens), read by the trunk together with the other steps; the authors read 16 frames one by
  one. The mean of its tokens stands for it, and for the other field, in place of class tokens.
- over time: positions are sines, the perceptron is four times as wide, and a norm comes last;
  theirs are learned, twice, and there is none. Keys, queries and values have biases.
- in the encoder that is saved, a field alone passes the same adapters and gets no messages.
- drop path of .1 in the authors' encoders can be had by `drop_path`; here it is off.
- recipe: the authors' rate changes once an epoch; the cosine ends at 1 % of it, theirs at 0.
- views: `weak`, in place of crops, flips and colours of faces.
- metrics: accuracy (WAR) and balanced accuracy (UAR) of `amodal evaluate`, on one split in place of
  five folds. Weights of classes (`balanced`) are those of the batch; the authors' code has none.
- open: the data (sixteen frames of a face, with sound) and the encoders (an MAE of faces,
  AudioMAE). Waits for video.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from amodal.core import AmodalError, Batch, Column, Recipe, unknown
from amodal.core.column import both
from amodal.methods.contract import FeatureRecord, Method
from amodal.methods.shared.supervised import label_columns
from amodal.methods.shared.typed_parts import field_pool
from amodal.nn.adapters.block_tokens import require_no_hook
from amodal.nn.adapters.parallel_adapters import ParallelAdapters, parallel_adapters
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.temporal import TemporalHead, class_weights
from amodal.objectives.common import connected_zero

PAPER_RECIPE = Recipe(
    lr=1e-4,
    weight_decay=1e-2,
    betas=(0.9, 0.999),
    schedule="cosine",
    warmup=0.0,
    clip=0.0,
    batch_size=8,
    epochs=25.0,
    resolution=224,
)


def mma_dfer(
    encoder: Encoder,
    *,
    label: str = "",
    classes: int = 0,
    lead: str = "",
    prompts: int = 3,
    every: int = 6,
    bottleneck: int = 128,
    meet: bool = True,
    hidden: int = 512,
    depth: int = 1,
    balanced: bool = False,
    frozen: bool = True,
) -> MmaDfer:
    """Build MMA-DFER.

    Args:
        encoder: Trained beforehand.
        label: What to predict, a label of the data.
        classes: How many it has (0: counted in the data).
        lead: The field whose steps in time the temporal network reads (by default the first).
        prompts: New ones at the start of each group of blocks, 0 for none.
        every: Blocks in such a group.
        bottleneck: Width of the adapters, 0 for none.
        meet: False keeps fields apart until the end.
        hidden: Width of the transformer over time.
        depth: Blocks of that transformer.
        balanced: Classes weigh the same, however many records they have.
        frozen: False trains the encoder too.
    """
    if not label or classes < 2:
        raise AmodalError(
            "mma_dfer learns classes: give label, a label of the data, and classes, at least 2"
        )
    if (lead := lead or next(iter(encoder.fields))) not in encoder.fields:
        raise unknown("field to lead", lead, encoder.fields)
    encoder.requires_grad_(not frozen)
    if prompts or bottleneck:
        encoder.set_block_hook(
            parallel_adapters(
                require_no_hook(encoder), prompts=prompts, every=every, bottleneck=bottleneck
            )
        )
    heads = next(n for n in (8, 4, 2, 1) if hidden % n == 0)
    head = TemporalHead(list(encoder.fields), lead, encoder.width, hidden, depth, heads, classes)
    return MmaDfer(encoder, head, label, classes, meet, balanced)


@dataclass(frozen=True, kw_only=True)
class ClassifierFeatures(FeatureRecord):
    """What a classifier predicts, and the label.

    Args:
        logits: (N, classes).
        label: (N,) of the rows that have it.
    """

    logits: Column
    label: Column


class MmaDfer(Method):
    """A temporal classifier of frozen encoders with adapters.

    Args:
        encoder: May have adapters between its blocks.
        head: The network over time.
        label: A label of the data.
        classes: How many it has.
        meet: Whether fields exchange messages between blocks.
        balanced: Whether classes weigh the same.
    """

    views = ("weak",)

    def __init__(
        self,
        encoder: Encoder,
        head: TemporalHead,
        label: str,
        classes: int,
        meet: bool,
        balanced: bool,
    ):
        super().__init__()
        self.encoder, self.head, self.labels, self.classes = encoder, head, (label,), classes
        self.meet, self.balanced = meet, balanced

    def features(self, batch: Batch) -> ClassifierFeatures:
        label = label_columns(batch, self.labels)[self.labels[0]]
        return ClassifierFeatures(size=batch.size, logits=self.predict(batch), label=label)

    def predict(self, batch: Batch) -> Column:
        """Logits (N, classes) of the rows that have any field, from all that they have."""
        encoder, tokens = self.encoder, self.encoder.tokenize(batch)
        if encoder.block_hook is None:  # nothing between the blocks: late fusion
            context = encoder.encode(tokens)
        else:
            adapters = cast(ParallelAdapters, encoder.block_hook)
            context = adapters.together(encoder, tokens, self.meet)
        stripped = {s: field_pool(encoder, s).strip(t) for s, t in context.items()}
        logits: Column = self.head(stripped)
        return logits

    def losses(self, features: ClassifierFeatures) -> dict[str, Tensor]:
        logits, label = both(features.logits, features.label)
        if not len(logits):
            return {"supervised": connected_zero(features.logits.flat)}
        weight = class_weights(label.flat, self.classes) if self.balanced else None
        # in float32 at least, also where autocast made the logits bfloat16
        x = logits.flat if logits.flat.dtype == torch.float64 else logits.flat.float()
        weight = None if weight is None else weight.to(x.dtype)
        return {"supervised": cross_entropy(x, label.flat, weight=weight)}
