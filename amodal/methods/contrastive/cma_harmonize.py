"""Gradient harmonization of two cross-modal losses that share an anchor field.

Wu, Liang, Han, Akbari, Wang and Yu, NeurIPS 2022, arXiv:2211.02077. Where the gradients of two
losses conflict on shared weights, neither may undo the other. All fields share one trunk. An anchor
is contrasted with every other field by InfoNCE, with texts by MIL-NCE (VATT's losses,
arXiv:2104.11178). Realignment: of two gradients that conflict, each is projected on the plane
normal to the other. Curriculum: what has a cosine of at most gamma is left out; gamma rises from
-.3 to 0. Row 53 of the catalogue.

Differs (there is no program of the authors to compare with):

- curriculum: rows are selected by the gradients at the anchor's vector, which costs no pass of the
  trunk. "batch" is the form by all shared weights. It skips a whole batch: the gradient is zero,
  while the optimizer still steps by momentum and weight decay.
- spaces: one for all fields. VATT has one for video and audio, and upon it another for video and
  text, with perceptrons and BatchNorm between; here each field has one linear map.
- losses: InfoNCE is the mean of both directions. Of texts, stretches or lines are the candidates
  of MIL-NCE, in place of narrations nearby in time.
- encoder: VATT's reads voxels of video and raw samples of sound; pictures and log-mel patches are
  read here, and no field is a video.
- realignment: over the weights that both gradients reach.
- recipe: that of the paper, which is VATT's, is not on the page; the package's is taken.
- more than two other fields: every two of them are compared, and a row goes by its lowest cosine.
- product: `last_row_cosines` and `last_cosines` say from Python which rows conflict; a noise score
  of each record has no command.
- open: the data (video, sound, narration), VATT's encoders and its recipe. Waits for video.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amodal.core import Batch, Column, Embeddings, field_of, name_code, unknown
from amodal.core.column import shared_rows
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep
from amodal.methods.contract import Clock, Method
from amodal.methods.shared.regions import alone, sentences, vectors
from amodal.methods.shared.shapes import field_pairs, refuse_backbones, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.objectives.info_nce import info_nce
from amodal.objectives.mil_nce import mil_nce
from amodal.objectives.realign import cosines, realign, row_cosines

ENCODER = {"trunk": "shared"}
CURRICULA = ("row", "batch", "none")


def cma_harmonize(
    encoder: Encoder,
    *,
    anchor: str = "",
    realigned: bool = True,
    curriculum: str = "row",
    start: float = -0.3,
    end: float = 0.0,
    captions: int = 5,
    drop: float = 0.5,
    width: int = 128,
    temperature: float = 0.07,
) -> Harmonized:
    """Contrast an anchor with every other field, with gradient realignment and a curriculum.

    Args:
        encoder: Gets heads into a common space; needs two fields.
        anchor: The field that both losses share (video). Default: the first that is not text.
        realigned: Whether conflicting gradients are projected.
        curriculum: What the curriculum leaves out: a "row", a whole "batch" or "none".
        start: Lowest cosine that passes the curriculum at the first step.
        end: Lowest cosine that passes it at the last step.
        captions: Candidates drawn of each text, by lines or stretches (1: the text itself).
        drop: Share of the tokens left out, of all fields but texts.
        width: Width of the common space.
        temperature: Temperature of both losses.

    Raises:
        AmodalError: If `curriculum` or `anchor` is unknown, there is one field only,
            or tokens of a field with a backbone are to be dropped.
    """
    if curriculum not in CURRICULA:
        raise unknown("cma_harmonize.curriculum", curriculum, CURRICULA)
    texts = [f for f, m in two_fields(encoder).fields.items() if m.takes_prompts]
    anchor = anchor or next(
        (f for f in encoder.fields if f not in texts), next(iter(encoder.fields))
    )
    if anchor not in encoder.fields:
        raise unknown("field to anchor to", anchor, encoder.fields)
    if drop:
        refuse_backbones(
            encoder,
            "cma_harmonize",
            "leaving some of them out (VATT's DropToken) leaves nothing out",
            fields=[f for f in encoder.fields if f not in texts],
            instead="set drop to 0",
        )
    # combining gradients costs a backward pass a term, so only what needs it has the hook
    kind = HarmonizedGradients if realigned or curriculum == "batch" else Harmonized
    return kind(
        encoder.align(width),
        anchor=anchor,
        texts=[f for f in texts if f != anchor],
        realigned=realigned,
        curriculum=curriculum,
        start=start,
        end=end,
        captions=captions,
        drop=drop,
        temperature=temperature,
    )


class Harmonized(Method):
    """The two losses, and the curriculum over rows.

    Args:
        texts: The text fields but the anchor.
        anchor, realigned, curriculum, start, end, captions, drop, temperature: As of
            `cma_harmonize`.

    Attributes:
        last_row_cosines: (N,) of the last step's anchors, None before a step of that curriculum.
        last_cosines: Of the last step, pair of terms -> the cosine of their gradients.
    """

    min_batch_size = 2
    gamma: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        anchor: str,
        texts: Sequence[str],
        realigned: bool,
        curriculum: str,
        start: float,
        end: float,
        captions: int,
        drop: float,
        temperature: float,
    ):
        super().__init__()
        self.encoder, self.anchor, self.texts = encoder, anchor, tuple(texts)
        self.realigned, self.curriculum, self.start, self.end = realigned, curriculum, start, end
        self.drop, self.temperature = drop, temperature
        self.views = {
            f: ("local",) * captions if f in texts and captions > 1 else ("weak",)
            for f in encoder.fields
        }
        self.register_buffer("gamma", torch.tensor(start))
        self.last_row_cosines: Column | None = None
        self.last_cosines: dict[tuple[str, str], Tensor] = {}

    def on_step_end(self, clock: Clock) -> None:
        # a buffer, so that a resumed run goes on with it
        self.gamma.fill_(self.start + (self.end - self.start) * clock.progress)

    def features(self, batch: Batch) -> Embeddings:
        tokens = self.encoder.tokenize(batch)
        for s in [s for s in tokens if field_of(s) not in self.texts] if self.drop else []:
            whole, seeds = tokens[s], hash_bits(batch.seeds, name_code(f"drop {s}"))
            keep = random_keep(whole.row, seeds[whole.row], whole.within(), self.drop)
            tokens[s] = whole.keep(keep)
        return vectors(self.encoder, alone(self.encoder, batch, tokens), batch.size)

    def contrasts(self, z: Embeddings, anchors: Column) -> dict[str, Tensor]:
        """Contrast each other field with `anchors`: MIL-NCE for texts, else InfoNCE."""
        terms = {}
        for a, b in field_pairs(z, self.anchor):
            f = field_of(b)
            other = sentences(z, [s for s in z if field_of(s) == f]) if f in self.texts else z[b]
            rows, other_rows = shared_rows(anchors, other)
            loss = mil_nce if f in self.texts else info_nce
            terms[f"{loss.__name__}/{a}~{f}"] = loss(
                anchors.flat[rows], other.flat[other_rows], temperature=self.temperature
            )
        return terms

    def losses(self, features: Embeddings) -> dict[str, Tensor]:
        anchors = features[self.anchor]
        if self.curriculum == "row":
            lowest = self.row_cosines(features)
            self.last_row_cosines = lowest
            anchors = anchors.at(lowest.flat > self.gamma)
        return share(self.contrasts(features, anchors))

    def row_cosines(self, features: Embeddings) -> Column:
        """(N,) for each anchor the lowest cosine of two of the gradients at its vector."""
        rest = Embeddings(
            {s: Column(c.flat.detach(), c.rows) for s, c in features.columns.items()},
            features.size,
        )
        anchors = features[self.anchor]
        # the gradient ends at the anchors' vectors: no pass of the trunk, and none of the other
        # fields
        leaf = anchors.flat.detach().requires_grad_()
        terms = self.contrasts(rest, Column(leaf, anchors.rows)).values()
        return Column(
            row_cosines([torch.autograd.grad(term, leaf)[0] for term in terms]), anchors.rows
        )


class HarmonizedGradients(Harmonized):
    """Combines the gradients of the terms: realigns them, or leaves out whole batches."""

    def combine_gradients(self, gradients: dict[str, Tensor]) -> Tensor:
        self.last_cosines = cosines(gradients)
        total = (
            realign(gradients) if self.realigned else torch.stack(list(gradients.values())).sum(0)
        )
        if self.curriculum == "batch" and self.last_cosines:
            # a cosine of exactly 0 is that of a term without a gradient: nothing to compare
            lowest = torch.stack(
                [torch.where(c == 0, 1, c) for c in self.last_cosines.values()]
            ).min()
            # times a tensor, not an `if`, which would wait for a GPU
            total = total * (lowest > self.gamma)
        return total
