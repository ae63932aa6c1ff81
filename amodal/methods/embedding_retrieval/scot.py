"""SCOT: composed retrieval (a picture and a change to it) is learnt from captions and edited
captions, which take the place of target pictures. Jawade, Soares, Thadani, Mohan, Eshratifar,
Culpepper, de Juan, Setlur and Govindaraju, WACV 2025, arXiv:2501.08347. Combiner:
`amodal.nn.fusion.combiner`; loss with the caption before the edit as a further negative:
`amodal.objectives.explicit_negatives`. Row 44 of the catalogue.

`amodal search` composes a query of words and something else; `amodal evaluate --protocols
composed_retrieval` gives Recall@k of such queries, of any run.

Differs:

- encoder: the paper's frozen CLIP or BLIP-2 is the first stage here, CLIP's loss between all fields
  for half of the steps, or backbones with `--method.warmup 0`, in whose space heads begin as the
  identity. Then only the combiner learns, and the temperature stays what it has become (its start
  where there was no first stage: `--method.temperature 0.01` is CLIP's and CLIP4Cir's).
- edits: the paper has a language model write what to change and the caption after it, 290,000
  times. Here both are fields of the data; `amodal.curate.edits` makes them of captions by
  exchanging words that stand in the same place.
- fields: any other field may be the reference, each with a term of its own, and what it becomes may
  be of any kind (pictures give the supervised method). A field of the kind of another one is read
  by its tower; texts learn one vocabulary, and such as are read otherwise are refused.
- negatives: results of other records and the caption before the edit. Those with the text of the
  right result are left out, by their cosine with it. Other hard negatives are not here.
- combiner: that of CLIP4Cir with its widths; it reads unit vectors (theirs, those of CLIP as they
  are), and its gate is on the reference instead of on the change, which is the same up to its sign.
  Their dropout of one half is `--method.dropout 0.5`; by default there is none, as in the claim.
- evaluation: FashionIQ and CIRR are not bundled; with columns of sentences and of files of targets
  `composed_retrieval` has their Recall@k, with and without the own reference. CIRR's recall within
  groups of six is not there.
- recipe: the authors' program is not to be had, and their rates were not read. `PAPER_RECIPE` is
  that of the Combiner by its own authors (CLIP4Cir, CIRR and FashionIQ): Adam, 2e-5, batches of
  4,096, 300 epochs, of which they keep the best on validation pictures; here the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amodal.core import AmodalError, Batch, Column, Embeddings, Recipe, name_code, unknown
from amodal.core.column import both
from amodal.core.part import Part
from amodal.masking.hashing import hash_bits
from amodal.methods.contract import Columns, FeatureRecord, StagedMethod
from amodal.methods.shared.matching import pick_text_field
from amodal.methods.shared.shapes import field_pairs, share, two_fields
from amodal.nn.dropout import seeded_dropout
from amodal.nn.encoder import Encoder
from amodal.nn.hidden_dropout import Dropout
from amodal.nn.scale import Scale
from amodal.objectives.explicit_negatives import explicit_negative_nce
from amodal.objectives.info_nce import info_nce

SHARED_TOKENS = True  # texts of edits are read by the tower of captions
PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=2e-5,
    weight_decay=0.0,
    betas=(0.9, 0.999),
    schedule="constant",
    warmup=0.0,
    clip=0.0,
    batch_size=4096,
    epochs=300.0,
)
"""That of the Combiner as its authors train it (CLIP4Cir), by Adam."""


def scot(
    encoder: Encoder,
    *,
    text_field: str = "",
    change: str = "change",
    changed: str = "changed",
    original: bool = True,
    warmup: float = 0.5,
    width: int = 256,
    project: int = 4,
    hidden: int = 8,
    dropout: float = 0.0,
    temperature: float = 0.07,
    max_scale: float = 100.0,
) -> Scot:
    """Build SCOT.

    Args:
        encoder: Loses the fields that are read by the tower of another one.
        text_field: The field of captions (by default the first of text).
        change: The field that says what to change.
        changed: The field of the result.
        original: Whether the caption before the edit is a negative.
        warmup: Share of the steps before the encoder is frozen (0: it is pretrained).
        width: Of the common space.
        project: Of the combiner's input layers, times that width.
        hidden: Of the combiner's hidden layer, times that width.
        dropout: Of all hidden layers of the combiner; published is 0.5.
        temperature: Where the learned softmax temperature starts.
        max_scale: Bound of its inverse.

    Raises:
        AmodalError: For an unknown field, for options out of their range, and where a text of an
            edit is not read as captions are.
    """
    for name in (change, changed):
        if name not in encoder.fields:
            raise unknown(
                "field",
                name,
                encoder.fields,
                "`amodal.curate.edits` makes changes and changed captions.",
            )
    if not 0 <= warmup < 1:
        raise AmodalError(f"warmup is from 0 to below 1, not {warmup}")
    if not 0 <= dropout < 1:
        raise AmodalError(f"dropout is a probability from 0 to below 1, not {dropout:g}")
    record = {f: m for f, m in encoder.fields.items() if f not in (change, changed)}
    if text_field:
        caption = pick_text_field(encoder, text_field)[0]
    else:
        texts = [f for f, m in record.items() if m.takes_prompts]
        caption = (texts or list(record))[0 if texts else -1]
    towers = {name: tower_of(encoder, name, [caption, *record]) for name in (change, changed)}
    refuse_other_tower(encoder, caption, towers)
    for name in {n for n, tower in towers.items() if tower != n}:
        encoder.drop(name)
    two_fields(encoder).align(width).compose(caption, project * width, hidden * width)
    return Scot(
        encoder,
        Scale(1 / temperature, most=max_scale),
        caption=caption,
        change=change,
        changed=changed,
        towers=towers,
        references=[f for f in record if f != caption],
        original=original,
        warmup=warmup,
        dropout=dropout,
    )


def refuse_other_tower(encoder: Encoder, caption: str, towers: dict[str, str]) -> None:
    """Raise AmodalError where a text of an edit is not read as captions are.

    Args:
        encoder: Of all fields.
        caption: The field of captions.
        towers: See `Scot`.
    """
    for name, tower in towers.items():
        if tower == name and type(encoder.fields[name]) is type(encoder.fields[caption]):
            raise AmodalError(
                f"{name!r} has another backbone than {caption!r}, or other tokens, so they would "
                f"share no space: give both one (--backbone {caption}=… {name}=…), or the same "
                "tokens and patch in dataset.toml"
            )


def tower_of(encoder: Encoder, name: str, among: list[str]) -> str:
    """The first field whose tower can read the values of a field.

    Args:
        encoder: Of the fields.
        name: The field.
        among: Other fields, in order of preference.

    Returns:
        One of them, or the field itself.
    """

    def kind(field: str) -> tuple[Any, ...]:
        shapes = [tuple(p.shape) for p in encoder.tokenizers[field].parameters()]
        modality = encoder.fields[field]
        # only some modalities have a vocabulary, or learn one
        ids = [getattr(modality, name, "") for name in ("vocabulary", "merges")]
        return type(modality), ids, shapes

    return next((f for f in among if kind(f) == kind(name)), name)


def combiner_of(encoder: Encoder) -> Part:
    """The combiner of reference and change, after `compose`."""
    assert encoder.combiner is not None
    return encoder.combiner


@dataclass(frozen=True, kw_only=True)
class ComposedFeatures(FeatureRecord):
    """Features of the second stage.

    Args:
        changed: (N, D) of the result.
        original: (N, D) of the caption before the edit.
        composed: field -> (N, D), the reference and the change combined.
    """

    changed: Column
    original: Column
    composed: Columns


class Scot(StagedMethod):
    """Contrast between fields, then a combiner of reference and change.

    Args:
        encoder: With a combiner.
        scale: The learned inverse temperature.
        caption: The field of captions.
        change: The field that says what to change.
        changed: The field of the result.
        towers: Of `change` and `changed`: the field whose tower reads them.
        references: The fields that can be changed.
        original: Whether the caption before the edit is a negative.
        warmup: Share of the steps before the encoder is frozen.
        dropout: Of the combiner.
    """

    min_batch_size = 2

    def __init__(
        self,
        encoder: Encoder,
        scale: Scale,
        *,
        caption: str,
        change: str,
        changed: str,
        towers: dict[str, str],
        references: list[str],
        original: bool,
        warmup: float,
        dropout: float,
    ):
        super().__init__()
        self.encoder, self.scale, self.caption = encoder, scale, caption
        self.change, self.changed, self.towers = change, changed, towers
        self.references, self.original, self.dropout = references, original, dropout
        self.stages = (warmup, 1.0) if warmup else (1.0,)
        self.on_stage_start(0)

    def on_stage_start(self, stage: int) -> None:
        self.composes = stage == len(self.stages) - 1
        if self.composes:
            self.requires_grad_(False)
            combiner_of(self.encoder).requires_grad_(True)

    def features(self, batch: Batch) -> Embeddings | ComposedFeatures:
        fields = (s for s in batch.sources if s in self.encoder.fields)
        z: Embeddings = self.encoder(batch.only(*fields))
        if not self.composes:
            return z
        read = {name: self.read(batch, z, name) for name in self.towers}
        composed = {}
        for f in self.references:
            reference, change = both(z[f], read[self.change])
            combined = combiner_of(self.encoder)(
                reference.values, change.values, self.dropout_of(f, batch.seeds[reference.rows])
            )
            composed[f] = Column(combined, reference.rows)
        return ComposedFeatures(
            size=batch.size,
            changed=read[self.changed],
            original=z[self.caption],
            composed=composed,
        )

    def dropout_of(self, field: str, seeds_N: Tensor) -> Dropout:
        """The dropout of the combiner, drawn from the seeds of N rows for one reference field."""
        seeds, rate = hash_bits(seeds_N, name_code(field)), self.dropout if self.training else 0.0
        return lambda x_ND, place: seeded_dropout(x_ND, seeds, rate, place)

    def read(self, batch: Batch, z: Embeddings, name: str) -> Column:
        """The vectors of `change` or `changed`, by the tower that reads it."""
        tower = self.towers[name]
        if tower == name:
            return z[name]
        values = Batch(batch.size, {tower: batch[name]}, batch.keys, batch.seeds)
        vectors: Column = self.encoder(values)[tower]
        return vectors

    def losses(self, features: Embeddings | ComposedFeatures) -> dict[str, Tensor]:
        temperature = 1 / self.scale()
        if isinstance(features, Embeddings):
            return share(
                {
                    f"info_nce/{a}~{b}": info_nce(*features.pair(a, b), temperature=temperature)
                    for a, b in field_pairs(features)
                }
            )
        terms, before, size = {}, features.original, features.size
        for f in self.references:
            query, target = both(features.composed[f], features.changed)
            # (B, D), so that a row without a caption can be looked up too; `is_negative` leaves it
            # out
            original = target.flat.new_zeros(size, target.flat.shape[1])
            original = original.index_copy(0, before.rows, before.flat)
            is_negative = before.present(size)[target.rows] & torch.tensor(
                self.original, device=target.rows.device
            )
            terms[f"compose/{f}"] = explicit_negative_nce(
                query.flat,
                target.flat,
                original[target.rows],
                is_negative,
                temperature=temperature,
            )
        return share(terms)
