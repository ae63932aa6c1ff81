"""CLIPPINGS: records of one thing are linked by one vector, pooled from image and text. Arora,
Yang, Jheng and Dell, 2023, arXiv:2304.03464. First, without labels, CLIP's loss between the fields
of a record; then, where a label says which records are of one thing, supervised contrast (SupCon)
of the pooled vectors, in batches of similar classes. Row 48 of the catalogue. Linking itself is
`amodal link`: nearest exemplar with a no-match threshold, or agglomerative clusters.

The paper goes on from CLIP, with a run and a rate for each stage; DIR holds it, such as ViT-B/32
(rates are those of the examples of the authors' program):

    amodal pretrain clippings --data DATA --recipe paper --size base --lr 5e-6 --train-backbones
        --backbone picture=transformers:DIR@projected text=transformers:DIR@projected --out RUN
    amodal pretrain clippings --data DATA --recipe paper --size base --lr 5e-9 --train-backbones
        --backbone picture=transformers:DIR@projected text=transformers:DIR@projected
        --init-from RUN --method.label LABEL --method.unlabelled 0 --out RUN2
    amodal link RUN2 --data DATA --to EXEMPLARS --many-to-one

Both stages in one run, split by `unlabelled`, is ours.

Differs:

- encoders: behind each of CLIP's projections is one more linear map, which begins as the identity.
- the perceptron over both vectors, which the authors' program has in place of their weighted mean,
  is left out, as it is from the final results.
- batches: whole classes in groups of about 126 records that lie together, formed once, when the
  stage begins. The program draws, for each class, its nearest two and three records of each with
  replacement, one anchor after another, also once; a class that is large fills a batch here.
- a record that lacks a field is pooled from those that it has; the paper's have both. Fields beside
  text share the weight of the image. Records without a label are not in the second stage.
- the bound of the inverse temperature holds its value; CLIP's clips the parameter, and the program
  sets none. It is one number for all pairs of fields.
- recipe: the program's cosines restart (10 steps, then twice as many each time); `PAPER_RECIPE` has
  one. It keeps the epoch with the best validation loss or adjusted Rand index; here a run ends
  where its steps end. With that recipe groups of a batch are `--method.group 153`.
- views: none, as in the program without `--augmented_crops`; its other views of documents and the
  paper's generated clippings in many fonts are left out.
- product: `amodal link` takes exemplars (`--to DATA --many-to-one`) or makes groups, by single,
  average or complete linkage, with a threshold that is chosen on validation records (`--label`).
  The authors link with other weights of the image (0.636 and 0.76) than they train with:
  `--weight picture=0.636 --weight text=0.364`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import AmodalError, Batch, Column, Embeddings, Recipe, field_of
from amodal.core.column import both
from amodal.methods.contract import Columns, FeatureRecord, StagedMethod
from amodal.methods.shared.hard_batches import similarity_groups
from amodal.methods.shared.matching import pick_text_field
from amodal.methods.shared.shapes import field_pairs, share, two_fields
from amodal.methods.shared.supervised import label_columns
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce
from amodal.objectives.sup_con import sup_con

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=5e-6,
    weight_decay=1e-3,
    betas=(0.9, 0.98),
    schedule="cosine",
    warmup=0.0,
    clip=0.0,
    batch_size=153,
    epochs=1000.0,
)
"""The settings of the authors' program, with the rate of a command that learns from labels."""


def clippings(
    encoder: Encoder,
    *,
    label: str = "",
    text_field: str = "",
    image_weight: float = 0.5,
    unlabelled: float = 0.5,
    group: int = 126,
    width: int = 512,
    temperature: float = 0.07,
    max_scale: float = 100.0,
    label_temperature: float = 0.1,
) -> Clippings:
    """Build CLIPPINGS.

    Args:
        encoder: Of at least two fields.
        label: Of the data, equal for records of one thing; without it there is no second stage.
        text_field: The field of text (by default the first).
        image_weight: Of the other fields in the pooled vector; the text has the rest.
        unlabelled: Share of the steps before labels are used (0: none).
        group: About how many similar labelled records batches are drawn from, best the batch size
            (0: all that have a label).
        width: Of the common space.
        temperature: Where the learned softmax temperature between fields starts.
        max_scale: Bound of its inverse.
        label_temperature: Of supervised contrast.
    """
    if not 0 <= image_weight <= 1 or not 0 <= unlabelled < 1:
        raise AmodalError(
            "image_weight is from 0 to 1 and unlabelled from 0 to below 1, not "
            f"{image_weight} and {unlabelled}"
        )
    text, others = pick_text_field(two_fields(encoder), text_field)
    return Clippings(
        encoder.align(width),
        Scale(1 / temperature, most=max_scale),
        weights={text: 1 - image_weight} | dict.fromkeys(others, image_weight / len(others)),
        label=label,
        unlabelled=unlabelled,
        group=group,
        label_temperature=label_temperature,
    )


def pooled(z: Embeddings, weights: Mapping[str, float]) -> Column:
    """One vector for each row: the direction of the weighted sum of its unit vectors.

    Args:
        z: Vectors of sources.
        weights: field -> its weight.

    Returns:
        (N, D) unit vectors of the rows that have a field of any weight.
    """
    sources = [s for s in z.sources if weights.get(field_of(s), 0.0)]
    total = z[z.sources[0]].flat.new_zeros(z.size, z[z.sources[0]].flat.shape[1])
    present = torch.zeros(z.size, dtype=torch.bool, device=total.device)
    for s in sources:
        total = total.index_add(
            0, z[s].rows, weights[field_of(s)] * normalize(z[s].flat, dim=1).to(total.dtype)
        )
        present = present | z[s].present(z.size)
    rows = present.nonzero().flatten()
    return Column(normalize(total[rows], dim=1), rows)


@dataclass(frozen=True, kw_only=True)
class ClippingsFeatures(FeatureRecord):
    """Features of CLIPPINGS.

    Args:
        vectors: source -> (N, D), aligned.
        label: (N,) in the second stage.
    """

    vectors: Columns
    label: Column | None = None


class Clippings(StagedMethod):
    """Contrast between fields, then supervised contrast of pooled vectors.

    Args:
        encoder: Aligned.
        scale: The learned inverse temperature between fields.
        weights: field -> its weight in the pooled vector.
        label: Equal for records of one thing; "" for no second stage.
        unlabelled: Share of the steps of the first stage.
        group: About how many similar records batches are drawn from.
        label_temperature: Of supervised contrast.
    """

    min_batch_size = 2

    def __init__(
        self,
        encoder: Encoder,
        scale: Scale,
        *,
        weights: Mapping[str, float],
        label: str,
        unlabelled: float,
        group: int,
        label_temperature: float,
    ):
        super().__init__()
        self.encoder, self.scale, self.weights = encoder, scale, dict(weights)
        self.labels, self.group = (label,) if label else (), group
        self.label_temperature = label_temperature
        self.stages = (unlabelled, 1.0) if label and unlabelled else (1.0,)
        self.refresh_first = bool(label) and not unlabelled
        self.on_stage_start(0)

    def on_stage_start(self, stage: int) -> None:
        self.supervised = bool(self.labels) and stage == len(self.stages) - 1

    @torch.no_grad()
    def refresh(self, stage: int, embed_all: Callable[[], Embeddings]) -> Tensor | None:
        """Group the records that batches of the second stage are drawn from."""
        z, device = embed_all(), self.scale.log.device
        no_group = Column(torch.full((z.size,), -1), torch.arange(z.size))
        labelled = z.columns.get(f"label/{self.labels[0]}", no_group)
        if not len(labelled):
            raise AmodalError(
                f"no record to train on has the label {self.labels[0]!r} that clippings is to "
                "learn from"
            )
        if not self.group:
            if len(labelled) == z.size:
                return None
            return no_group.flat.index_fill(0, labelled.rows, 0)
        fields = {s: c.to(device) for s, c in z.columns.items() if not s.startswith("label/")}
        pool = pooled(self.encoder.project(Embeddings(fields, z.size)), self.weights)
        # zero for a record that has nothing to pool: similar to none
        vectors = pool.flat.new_zeros(z.size, pool.flat.shape[1]).index_copy(
            0, pool.rows, pool.flat
        )
        labelled = labelled.to(device)
        groups = similarity_groups(vectors[labelled.rows], labelled.flat.long(), self.group)
        return no_group.flat.index_copy(0, labelled.rows.cpu(), groups.cpu())

    def features(self, batch: Batch) -> ClippingsFeatures:
        vectors = self.encoder(batch).columns
        label = label_columns(batch, self.labels)[self.labels[0]] if self.supervised else None
        return ClippingsFeatures(size=batch.size, vectors=vectors, label=label)

    def losses(self, features: ClippingsFeatures) -> dict[str, Tensor]:
        z = Embeddings(dict(features.vectors), features.size)
        if features.label is None:
            temperature = 1 / self.scale()
            return share(
                {
                    f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=temperature)
                    for a, b in field_pairs(z)
                }
            )
        pool, label = both(pooled(z, self.weights), features.label)
        loss = sup_con(pool.flat, label.flat, temperature=self.label_temperature)
        return {"sup_con": loss}
