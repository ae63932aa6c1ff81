"""Visually grounded sentences: a recurrent encoder of characters learns from picture-caption pairs.

Merkx and Frank, Natural Language Engineering 2019, arXiv:1903.11393: a bidirectional GRU, attention
for every dimension, and the hinge over all mismatched pairs, for every two fields. Row 153 of the
catalogue.

Differs:

- text: characters are tokens, whatever the schema says of the text field; the paper has 100 of
  them, and here those that are rare in the training texts are read by their bytes. Their embedding
  goes through a linear map to the encoder's width, the paper's has 20 dimensions and none. The GRU
  is as wide as the encoder (`--size`, both directions together 64 to 1,280), the paper's 2,048.
- heads: the paper compares the sentence's vector itself with a linear map of the picture:
  `width=0`. By default both have a map without a bias into a smaller space.
- pictures: the paper's are vectors of a frozen ResNet-152, the mean over ten crops
  (`--backbone image=timm:resnet152@pretrained`, of one crop). Without one they go through a
  transformer of their own.
- cycles: a rate rises on a line for half of a cycle, then falls on a cosine to a hundredth of its
  peak; the paper's rises on a cosine too. Adam goes on from cycle to cycle, as in the paper.
- snapshots: `snapshots=5` adds up the unit vectors of the encoders at the ends of the last five
  cycles, as the authors' program does with those that stand in a folder; by default a run is the
  encoder of the last cycle. Probes read the features of all of them, one after another.
- loss: the sum over all mismatches of a row, and the mean over rows; the authors' program takes the
  mean over all pairs, a constant factor. A GRU gives no attention loss, which their program has for
  more than one head.
- product: similarity of sentences with people's (STS) is not a protocol; retrieval is.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from amodal.core import AmodalError, Embeddings, Recipe
from amodal.core.part import Part
from amodal.methods.contract import StagedMethod
from amodal.methods.shared.shapes import Objective, Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.heads.linear import IdentityHead, LinearHead
from amodal.nn.snapshots import Snapshots
from amodal.objectives.margin import ranking_hinge

ENCODER = {"mixer": "gru", "pool": "vector"}
TOKENS = "characters"

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=1e-4,
    weight_decay=0.0,
    betas=(0.9, 0.999),
    schedule="cosine",
    warmup=0.5,
    clip=0.0,
    batch_size=32,
    epochs=32.0,
)
"""Of MSCOCO; on Flickr8k the rate is 2e-4."""


def char_vgs(
    encoder: Encoder,
    *,
    width: int = 128,
    margin: float = 0.2,
    reduction: str = "sum",
    cycles: int = 8,
    snapshots: int = 1,
) -> Cycles:
    """A ranking hinge between every two fields, under a cyclic learning rate.

    Args:
        encoder: Gets heads into a common space; needs two fields.
        width: Width of the common space. 0: that of the text's own vectors, into which the other
            fields are mapped, as in the paper.
        margin: By how much a pair must be closer than any mismatch.
        reduction: Reduction over a row's mismatches: "sum", "mean" or "hardest".
        cycles: Number of cycles of the learning rate.
        snapshots: Encoders at the ends of the last cycles, whose vectors are added up.

    Raises:
        AmodalError: Without a cycle, for more snapshots than cycles, or for `width=0` without a
            field of text.
    """
    if cycles < 1:
        raise AmodalError(f"there is at least one cycle of the learning rate, not {cycles}")
    if not 1 <= snapshots <= cycles:
        raise AmodalError(
            f"snapshots are taken at the ends of cycles, so there are 1 to {cycles}, not "
            f"{snapshots}"
        )

    def objective(z: Embeddings) -> dict[str, Tensor]:
        return share(
            {
                f"hinge/{a}~{b}": ranking_hinge(*z.pair(a, b), margin=margin, over=reduction)
                for a, b in field_pairs(z)
            }
        )

    aligned = two_fields(encoder).align(width) if width else map_to_sentences(two_fields(encoder))
    if snapshots == 1:
        return Cycles(aligned, objective, cycles=cycles)
    return SnapshotCycles(Snapshots.of(aligned, snapshots), objective, cycles=cycles)


def map_to_sentences(encoder: Encoder) -> Encoder:
    """Heads into the space of the vectors of texts, which stay as they are.

    Raises:
        AmodalError: Without a field of text.
    """
    if not any(m.takes_prompts for m in encoder.fields.values()):
        raise AmodalError(
            f"width=0 needs a field of text, into whose space the others are mapped; there are "
            f"{', '.join(encoder.fields)}; give a width"
        )
    heads: dict[str, Part] = {
        field: IdentityHead() if m.takes_prompts else LinearHead(encoder.width, encoder.width, True)
        for field, m in encoder.fields.items()
    }
    return encoder.set_heads(heads, encoder.width)


class Cycles(StagedMethod, Towers):
    """Towers whose learning rate starts afresh with each stage, under one optimizer.

    Args:
        cycles: Number of stages, of equal length.
    """

    keeps_optimizer = True

    def __init__(self, encoder: Encoder | Snapshots, objective: Objective, *, cycles: int):
        # an ensemble has what others use of an encoder
        super().__init__(encoder, objective, views=("plain",))  # type: ignore[arg-type]
        self.stages = tuple((i + 1) / cycles for i in range(cycles))


class SnapshotCycles(Cycles):
    """The same, with a copy of the encoder from the end of each of the last cycles.

    Args:
        cycles: Number of stages, of equal length.
    """

    refresh_first = False
    encoder: Snapshots  # type: ignore[assignment]  # see above

    def refresh(self, stage: int, embed_all: Callable[[], Embeddings]) -> None:
        """Copy the encoder as the last cycle has left it."""
        self.encoder.take()
