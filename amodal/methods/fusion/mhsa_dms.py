"""Self-attention over the tokens of all sensors, some of them left out while training, so that it
goes on working when a sensor dies. Ma, Sanchez, Nikan, Upadhyay, Atote and Guha, CVPR 2023
workshops, arXiv:2304.06370: fusion by masked self-attention, SuMoCo (supervised contrast with the
queue of MoCo), then a classifier with focal loss. Row 56 of the catalogue. The fusions it is
compared with: `fuse`.

Differs:

- encoders: this library's transformers, or backbones, in place of 3-D ResNets of 8 frames that
  begin with weights of Kinetics. There is no modality of video or depth yet; frames in a row are
  pictures of their own, or a series of them.
- contrast: with the keys of the batch and the queue, which begins empty (theirs with noise of class
  0; their code also has the other queries of the batch among the candidates). The alternative for
  detection, in which normal records alone are drawn together, is not there.
- classifier: trained at the end, on frozen vectors with all tokens; theirs beside the contrast, on
  vectors without gradient. Heads are as wide as the encoder inside, theirs 256.
- attention: no dropout of attention weights. A token has a place of its field in all three axes,
  of which the embeddings are added.
- ratio: reconstructed, their code leaves it to the caller.
- plain fusions: no batch norm, which couples rows, and zero for what is absent; theirs work with
  all sources only.
- recipe: `PAPER_RECIPE`, one cosine in place of one every 5 epochs; Adam there adds the decay to
  the gradient; the classifier has ten times the rate, and training stops after 10 epochs without a
  better result. A batch is half of normal, half of other clips, ours is drawn at random.
- product: classes by `amodal predict`, `amodal evaluate` with any sources missing.
- open: the data (clips of infrared and depth from two places) and the encoders (3-D ResNets over
  eight frames). Waits for video.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from amodal.core import AmodalError, Batch, Column, Recipe
from amodal.core.column import both
from amodal.masking.hashing import hash_bits
from amodal.methods.contract import Clock, FeatureRecord, StagedMethod
from amodal.methods.shared.fused import fused_vectors
from amodal.methods.shared.shapes import ema_update, momentum_copy, refuse_pool
from amodal.methods.shared.supervised import label_columns
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.fusions import fusion_of
from amodal.nn.queue import GroupedQueue
from amodal.objectives.focal import focal
from amodal.objectives.sup_moco import sup_moco

PAPER_RECIPE = Recipe(
    lr=1e-3,
    weight_decay=1e-3,
    betas=(0.9, 0.999),
    schedule="cosine",
    warmup=0.0,
    clip=0.0,
    batch_size=32,
    epochs=100.0,
    resolution=112,
)


def mhsa_dms(
    encoder: Encoder,
    *,
    label: str = "",
    classes: int = 0,
    fuse: str = "attention",
    ratio: float = 0.5,
    dropout: float = 0.5,
    groups: str = "",
    width: int = 128,
    temperature: float = 0.07,
    queue: int = 16384,
    momentum: float = 0.999,
    classifier_share: float = 0.2,
) -> FusedContrast:
    """Build masked self-attention with SuMoCo.

    Args:
        encoder: Of any fields.
        label: What to predict, a label of the data (none: plain MoCo).
        classes: How many it has (0: counted in the data).
        fuse: "attention", "sum", "conv", "se" or "aff", see `amodal.nn.fusion.fusions`.
        ratio: Share of a row's tokens that attention is not shown while training.
        dropout: Of attention.
        groups: Fields that attention fuses apart first, such as "a+b,c+d".
        width: Of the contrast's space.
        temperature: Of the contrast.
        queue: Keys of earlier batches.
        momentum: Of the encoder of keys.
        classifier_share: Share of the steps, at the end, for the classifier.
    """
    if label and (classes < 2 or not 0 < classifier_share < 1):
        raise AmodalError(
            "to predict a label mhsa_dms needs classes, at least 2, and classifier_share, a share "
            "of the steps"
        )
    fusion = fusion_of(
        fuse, list(encoder.fields), encoder.width, ratio=ratio, dropout=dropout, groups=groups
    )
    return FusedContrast(
        encoder,
        fusion,
        width=width,
        queue=queue,
        label=label,
        classes=classes,
        temperature=temperature,
        momentum=momentum,
        stages=(1 - classifier_share, 1.0) if label else (1.0,),
    )


@dataclass(frozen=True, kw_only=True)
class ContrastFeatures(FeatureRecord):
    """Features of the first stage.

    Args:
        query: (N, D).
        key: (N, D) of the momentum branch, without a gradient.
        label: (N,), if the method has a label.
    """

    query: Column
    key: Column
    label: Column | None


@dataclass(frozen=True, kw_only=True)
class FusedFeatures(FeatureRecord):
    """Features of the stage that trains the classifier.

    Args:
        fused: (N, D) unit vectors, without a gradient.
        label: (N,).
    """

    fused: Column
    label: Column


class FusedContrast(StagedMethod):
    """Supervised momentum contrast of fused vectors, then a classifier.

    Args:
        encoder: Of the fields.
        fusion: Tokens of fields -> one vector.
        width: Of the contrast's space.
        queue: Keys of earlier batches.
        label: A label of the data; "" for none.
        classes: How many it has.
        temperature: Of the contrast.
        momentum: Of the encoder of keys.
        stages: Where they end, as shares of the steps.
    """

    views, min_batch_size = ("strong", "strong"), 2

    def __init__(
        self,
        encoder: Encoder,
        fusion: nn.Module,
        *,
        width: int,
        queue: int,
        label: str,
        classes: int,
        temperature: float,
        momentum: float,
        stages: tuple[float, ...],
    ):
        super().__init__()
        refuse_pool(encoder)
        d, self.classifying = encoder.width, False
        self._keys: tuple[Tensor, Tensor] | None = None
        self.encoder, self.fusion = encoder, fusion
        self.head = nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, width))
        self.classifier = (
            nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, classes)) if classes else None
        )
        self.key_branch = momentum_copy(nn.ModuleDict(self.query_branch()))
        self.queue = GroupedQueue(queue, width)
        self.labels = (label,) if label else ()
        self.temperature, self.momentum, self.stages = temperature, momentum, stages

    def query_branch(self) -> dict[str, nn.Module]:
        """The modules that learn from contrast."""
        return {"encoder": self.encoder, "fusion": self.fusion, "head": self.head}

    def on_stage_start(self, stage: int) -> None:
        self.classifying = stage > 0
        for module in self.query_branch().values():
            module.requires_grad_(not self.classifying)

    def features(self, batch: Batch) -> ContrastFeatures | FusedFeatures:
        labels = label_columns(batch, self.labels)
        if self.classifying:
            label = labels[self.labels[0]]
            return FusedFeatures(size=batch.size, fused=self.fused(batch), label=label)
        query = fused_vectors(self.encoder, self.fusion, batch, 1, batch.seeds)
        keys = self.key_branch
        with torch.no_grad():
            # other bits than the query's, so that attention drops other tokens
            bits = hash_bits(batch.seeds, 1)
            key_encoder = cast(Encoder, keys["encoder"])
            key = fused_vectors(key_encoder, keys["fusion"], batch, 2, bits)
            key = Column(keys["head"](key.values), key.rows)
        query = Column(self.head(query.values), query.rows)
        return ContrastFeatures(
            size=batch.size, query=query, key=key, label=next(iter(labels.values()), None)
        )

    def losses(self, features: ContrastFeatures | FusedFeatures) -> dict[str, Tensor]:
        if isinstance(features, FusedFeatures):
            fused, label = both(features.fused, features.label)
            return {"supervised": focal(self.scores(fused), label.flat)}
        key = features.key
        group = key.rows.new_full((features.size,), -1)
        if features.label is not None:
            group[features.label.rows] = features.label.flat
        # pushed into the queue after the step, so that a key is no negative of its own query
        self._keys = normalize(key.flat.detach(), dim=1), group[key.rows]
        keys = [
            torch.cat([new, old.to(new.dtype)])
            for new, old in zip(self._keys, self.queue.earlier())
        ]
        return {"contrast": sup_moco(features.query.flat, *keys, temperature=self.temperature)}

    def on_step_end(self, clock: Clock) -> None:
        if not self.classifying and self._keys is not None:
            self.queue.push(*self._keys)
            for name, module in self.query_branch().items():
                ema_update(self.key_branch[name], module, self.momentum)

    @torch.no_grad()
    def fused(self, batch: Batch) -> Column:
        """Unit vectors (N, D) of the rows that have any field, by the first view of each."""
        return fused_vectors(self.encoder, self.fusion, batch)

    def scores(self, fused: Column) -> Tensor:
        """Logits (N, classes) of fused vectors."""
        assert self.classifier is not None
        logits: Tensor = self.classifier(fused.values)
        return logits

    @torch.no_grad()
    def predict(self, batch: Batch) -> Column:
        """Logits (N, classes) of the rows that have any field."""
        fused = self.fused(batch)
        return Column(self.scores(fused), fused.rows)
