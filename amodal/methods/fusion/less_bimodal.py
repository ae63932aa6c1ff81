"""Less bimodal supervision: two encoders that were trained apart, co-attention over both, and as
few pairs as one has to join them with. Segal, Bogin and Berant, 2022, arXiv:2211.00262, section 3:
METER's network (arXiv:2111.02387), masked words and image-text matching on pairs, or on lists of
labels instead of captions, then fine-tuning with a rate for each part. Row 135 of the catalogue.

Pairs are records with words and another field; lists of labels are a text field like any other. One
run does both: a share of the steps on pairs, the rest on a label. Of more than two fields the words
are read with each other one in turn, by the same layers, and predictions rest on all of these pairs
(two pictures and a statement, as in NLVR2).

The authors' two encoders are RoBERTa and a ViT: `--backbone text=transformers:DIR
image=timm:vit_base_patch16_224.augreg_in21k@pretrained --train-backbones --size base`. Words are
then hidden inside the text model, by its own mask, and its ids are predicted; 80 % of them become
the mask, 10 % another id, and 10 % stay. Without a backbone words are read by a transformer of the
library, trained apart by a run of `data2vec` or `mae` (`--init-from`).

Differs:

- encoders of the library are not projected before the fusion, backbones are, as the authors'.
- co-attention: norms come before a layer, as elsewhere here, after it in the authors' code.
- vectors: means of tokens in place of class tokens. A field that is missing is read as an empty
  list.
- masked words: in an encoder of the library all of them become the mask, and the head is one linear
  layer. Of lists of labels whole labels are masked in one of the authors' variants.
- matching: each pair is mismatched with probability 1/2, with a row of the batch; the authors
  mismatch half of a batch, with rows of all data.
- task: of one or more labels with a list of classes each; a linear layer, GELU and a linear layer.
  Theirs has a norm before GELU, and VQA is scored by soft targets of several answers.
- recipe: `PAPER_RECIPE` is that of pairs, with a batch of 48 rows, 10 steps of accumulation and 8
  GPUs. The task has rates of 1e-5 to 2e-5 in batches of 48 or 96, and 10 for `cross_rate`: a run of
  its own, `pairs=0` with `--init-from`.
- views: `weak`, in place of RandAugment on a central crop.
- product: accuracy by `amodal evaluate`; curves over numbers of pairs are one run for each number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column, Embeddings, Ragged, Recipe, name_code
from amodal.core.column import shared_rows
from amodal.masking.hashing import hash_bits
from amodal.methods.contract import Columns, FeatureRecord, StagedMethod
from amodal.methods.shared import matching as m
from amodal.methods.shared.masked_ids import masked_text
from amodal.methods.shared.regions import alone
from amodal.methods.shared.shapes import ragged, share, token_mean, two_fields
from amodal.methods.shared.supervised import HeadFeatures, head_losses, label_columns
from amodal.methods.shared.typed_parts import field_pool
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.co_encoder import CoEncoder
from amodal.nn.heads.supervised import SupervisedHead, Target
from amodal.objectives.matching import matching, swap_partners

PAPER_RECIPE = Recipe(
    lr=1e-4,
    weight_decay=0.01,
    betas=(0.9, 0.98),
    schedule="linear",
    warmup=0.1,
    clip=0.0,
    batch_size=3840,
    epochs=10.0,
    resolution=224,
)


def less_bimodal(
    encoder: Encoder,
    *,
    text_field: str = "",
    label: str = "",
    targets: tuple[Target, ...] = (),
    task: str = "auto",
    pairs: float = 0.5,
    depth: int = 2,
    ratio: float = 0.15,
    swap: float = 0.5,
    cross_rate: float = 5.0,
    head_rate: float = 10.0,
    view: str = "weak",
) -> LessBimodal:
    """Build the network of less bimodal supervision.

    Args:
        encoder: Of at least two fields, trained apart.
        text_field: The field that is masked and matched (by default the first of text).
        label: What to predict: a label of the data, or more of them with commas between.
        targets: What the labels hold (by default read from the data).
        task: "auto", by the kind of each label, or "survival", label being TIME,EVENT.
        pairs: Share of the steps that learn from pairs before the label, 0 for none, 1 for pairs
            alone.
        depth: Co-attention layers.
        ratio: Share of masked words.
        swap: Share of pairs with another's picture.
        cross_rate: Learning rate of co-attention and of the heads of pairs, times that of the
            encoders.
        head_rate: Learning rate of the head of the label, times that of the encoders.
        view: How all fields but the text are augmented.
    """
    if not 0 <= pairs <= 1:
        raise AmodalError(
            f"pairs = {pairs} is the share of the steps before the label, from 0 to 1"
        )
    name, rest = m.pick_text_field(two_fields(encoder), text_field)
    masked = masked_text(encoder, name, ratio, method="less_bimodal") if pairs else None
    width, head = 2 * encoder.width, None
    if pairs < 1 or targets:
        head = SupervisedHead([Target.read(t) for t in targets], rest, width, hidden=width)
    co = CoEncoder(list(encoder.fields), encoder.width, depth, encoder.num_heads)
    return LessBimodal(
        encoder,
        co,
        masked,
        head,
        text_field=name,
        swap=swap,
        views={f: ("plain" if f == name else view,) for f in encoder.fields},
        lr_multipliers={
            "co": cross_rate,
            "match": cross_rate,
            "head": head_rate,
            "masked": cross_rate,
        },
        stages=(pairs, 1.0) if 0 < pairs < 1 else (1.0,),
    )


@dataclass(frozen=True, kw_only=True)
class PairFeatures(FeatureRecord):
    """Features of the stage that learns from pairs.

    Args:
        tokens: source -> lists of tokens.
        masked: field -> (N, 2), the losses of masked words that read this field.
        seed: (B,) of the rows.
    """

    tokens: Columns
    masked: Columns
    seed: Column


class LessBimodal(StagedMethod):
    """Co-attention that learns from pairs, then from a label.

    Args:
        encoder: Reads each field alone.
        co: Co-attention.
        masked: Of masked words; None without the first stage.
        head: Of the labels; None without the second stage.
        text_field: The field of the words.
        swap: Share of pairs with another's picture.
        views: How each field is augmented.
        lr_multipliers: Of the parts.
        stages: Where they end, as shares of the steps.
    """

    def __init__(
        self,
        encoder: Encoder,
        co: CoEncoder,
        masked: m.MaskedWords | None,
        head: SupervisedHead | None,
        *,
        text_field: str,
        swap: float,
        views: Mapping[str, tuple[str, ...]],
        lr_multipliers: Mapping[str, float],
        stages: tuple[float, ...],
    ):
        super().__init__()
        self.encoder, self.co, self.masked, self.head = encoder, co, masked, head
        self.match = nn.Linear(2 * encoder.width, 1)
        self.text_field, self.swap = text_field, swap
        self.views, self.lr_multipliers, self.stages = views, lr_multipliers, stages
        self.labels = head.labels if head is not None else ()
        self.on_stage_start(0)

    def on_stage_start(self, stage: int) -> None:
        self.on_pairs = self.masked is not None and stage == 0
        for part, learns in (
            (self.masked, self.on_pairs),
            (self.match, self.on_pairs),
            (self.head, not self.on_pairs),
        ):
            if part is not None:
                part.requires_grad_(learns)

    def features(self, batch: Batch) -> PairFeatures | HeadFeatures:
        if self.masked is None or not self.on_pairs:
            return HeadFeatures(
                size=batch.size,
                outputs=self.predict(batch),
                label=label_columns(batch, self.labels),
            )
        context, masked = alone(self.encoder, batch), {}
        columns = m.token_features(self.encoder, context, list(batch.sources))
        tokens = {s: columns[f"tokens/{s}"] for s in batch.sources}
        content = self.masked.content(self.encoder, batch)
        for s in (s for s in batch.sources if s != self.text_field):
            read = partial(self.co.read, self.text_field, s)
            masked[s] = self.masked(self.encoder, batch, content, tokens[s], read)
        return PairFeatures(
            size=batch.size, tokens=tokens, masked=masked, seed=m.seed_column(batch)
        )

    def losses(self, features: PairFeatures | HeadFeatures) -> dict[str, Tensor]:
        if isinstance(features, HeadFeatures):
            assert self.head is not None
            return share(head_losses(self.head, features.outputs, features))
        masked = {f"mlm/{s}": token_mean(column) for s, column in features.masked.items()}
        matched = {f"itm/{s}": self.matching_loss(features, s) for s in features.masked}
        return share(masked) | share(matched)

    def matching_loss(self, features: PairFeatures, field: str) -> Tensor:
        """Image-text matching with the pictures of some rows exchanged."""
        words, seen = features.tokens[self.text_field], features.tokens[field]
        index, seen_index = shared_rows(words, seen)
        seeds = hash_bits(features.seed.flat[words.rows[index]], name_code(f"swap {field}"))
        shown = swap_partners(seeds, self.swap)
        # rows that were not swapped are the pairs that match; both kinds share one pass
        matches = shown == torch.arange(len(index), device=index.device)
        lists = {
            self.text_field: ragged(words)[index],
            field: ragged(seen)[seen_index[shown]],
        }
        logits = self.match(self.co.means(lists))
        return matching(logits[matches].squeeze(1), logits[~matches].squeeze(1))

    def predict(self, batch: Batch) -> Column:
        """The outputs of the head, of the rows that have any field."""
        assert self.head is not None
        context = alone(self.encoder, batch)
        tokens = {s: field_pool(self.encoder, s).strip(t) for s, t in context.items()}
        lists = {s: Ragged(t.x, t.lengths()) for s, t in tokens.items()}
        words, pairs = lists.pop(self.text_field), {}
        for s, seen in lists.items():
            rows = (seen.lengths + words.lengths).nonzero().squeeze(1)
            pairs[s] = Column(self.co.means({self.text_field: words, s: seen})[rows], rows)
        outputs: Column = self.head(Embeddings(pairs, batch.size))
        return outputs
