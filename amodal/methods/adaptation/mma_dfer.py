"""Frozen encoders of single fields become one that sees all: prompts, adapters between their
blocks, and a small network over time. Chumachenko, Iosifidis and Gabbouj, CVPR 2024 workshops,
arXiv:2404.09010: progressive prompts (3.2), fusion bottleneck at every block (3.3), temporal
transformer (3.4). Row 15 of the catalogue. The encoder must be trained beforehand, each field by
itself (a run of `mae`, then `--init-from`).

What differs. Any fields: a field gets the mean of what the others say, and a record may lack any.
There is no modality of video here yet: a step in time is what `lead` has at one moment (position 0
of its tokens), read by the trunk together with the other steps instead of frame by frame, and its
mean token for the CLS of a frame. In the encoder that is kept, a field alone passes the same
adapters and hears nobody. Weights of classes (`balanced`) are those of the batch. No drop path."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from amodal.core import AmodalError, Batch, Column, field_of, unknown
from amodal.core.column import shared_rows
from amodal.methods.contract import Features, Method
from amodal.nn.adapters.block_tokens import require_no_hook
from amodal.nn.adapters.parallel_adapters import parallel_adapters
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.temporal import TemporalHead, class_weights
from amodal.objectives.common import connected_zero


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
    """label: what is to be told, a label of the data; classes: how many it has (0: counted in the
    data); lead: the field whose steps in time are looked at (the first unless given); prompts: new
    ones at each beginning of a group of blocks, 0 for none; every: blocks in such a group;
    bottleneck: width of the adapters, 0 for none; meet: False keeps fields apart until the end;
    hidden, depth: of the transformer over time; balanced: classes weigh the same, however many
    records they have; frozen: False trains the encoder too."""
    if not label or classes < 2:
        raise AmodalError(
            "mma_dfer learns to tell classes: give label, a label of the data, and classes, at least 2"
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


class MmaDfer(Method):
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

    def features(self, batch: Batch) -> Features:
        if self.labels[0] not in batch.labels:
            raise unknown("label of this batch", self.labels[0], batch.labels)
        return Features(
            {"told": self.predict(batch), "label": batch.labels[self.labels[0]]}, batch.size
        )

    def predict(self, batch: Batch) -> Column:
        """(N, classes) logits of the rows that have any field, from all that they have."""
        encoder, bags = self.encoder, self.encoder.tokenize(batch)
        own = encoder.block_hook is None  # nothing between the blocks: late fusion
        context = (
            encoder.encode(bags) if own else encoder.block_hook.together(encoder, bags, self.meet)
        )
        return self.head({s: encoder.pools[field_of(s)].strip(bag) for s, bag in context.items()})

    def losses(self, features: Features) -> dict[str, Tensor]:
        told, label = features["told"], features["label"]
        at, of = shared_rows(told, label)
        if not len(at):
            return {"told": connected_zero(told.values)}
        weight = class_weights(label.values[of], self.classes) if self.balanced else None
        x = told.values[at] if told.values.dtype == torch.float64 else told.values[at].float()
        return {
            "told": cross_entropy(
                x, label.values[of], weight=None if weight is None else weight.to(x.dtype)
            )
        }
