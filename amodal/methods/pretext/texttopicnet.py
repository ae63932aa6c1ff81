"""TextTopicNet: the text around a picture has topics, and the picture has to predict them. Gomez,
Patel, Rusiñol, Karatzas and Jawahar, CVPR 2017, arXiv:1705.08631. Latent Dirichlet allocation on
the texts to train on (their section 3.1), each text's mixture as the target of all that comes with
it; loss: a sigmoid for each topic (3.2). Row 66 of the catalogue.

All text fields of a record are one document, as long as the encoder reads it: what a field's
`max_length` and `patch` cut off the topic model does not see either, where the paper's point is the
whole article. Give room for whole texts; a warning says when many fill theirs.

With `text="topics"`, the paper's, texts are read by the topic model itself, and every vector is
the root of a mixture: their cosine ranks as Hellinger's distance does, so `amodal index` and
`amodal search` retrieve pictures by articles and articles by pictures, and `amodal evaluate
--protocols retrieval --protocol.category LABEL` measures the mean average precision of categories.

Differs:

- text: by default towers of text learn their own mixture too, from the text of the record, and
  vectors are logits. Terms are averaged over fields.
- retrieval: the authors rank by the divergence from a text's mixture to a picture's, which no
  cosine has; Hellinger's distance is symmetric.
- words: of two letters and more, a short list of English function words left out; the authors take
  markup away, lemmatise, and keep three letters and more. Words are hashed, so topics cannot be
  shown by their words.
- topics: 20 batch updates; the authors have gensim's online ones, in one pass.
- encoder: any, by default a transformer. `--backbone image=caffenet --method.dropout 0.5` is the
  paper's network, from pictures of 227 pixels; between its last wide layer and the topics lies a
  linear map to the encoder's width. `--protocols layer_probe` reads its layers, as the paper does
  (means over the places of a map; theirs have every place). Their network of six layers is not
  here.
- loss: summed over topics and averaged over pictures, as in the authors' network.
- views: `weak` by default; theirs, 227 of 256 pixels and flips, are in the recipe (`--views
  image=alexnet`). Pictures are divided by their deviation, theirs lose their mean alone. Rates of
  biases are not doubled.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from amodal.core import (
    AmodalError,
    AmodalWarning,
    Batch,
    Column,
    Embeddings,
    Recipe,
    field_of,
    unknown,
)
from amodal.core.column import both
from amodal.core.part import Part
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared.regions import texts_and_others
from amodal.methods.shared.shapes import ragged, share
from amodal.methods.shared.typed_parts import aligned_heads, text_modality
from amodal.nn.backbones.topics import TopicTokens
from amodal.nn.encoder import Encoder
from amodal.nn.heads.mixtures import MixtureHead, RootHead
from amodal.nn.hidden_dropout import HasDropout, hidden_dropout
from amodal.objectives.soft_targets import soft_sigmoid, soft_softmax
from amodal.stats.topics import Topics

PAPER_RECIPE = Recipe(
    optimizer="sgd",
    lr=1e-3,
    momentum=0.9,
    weight_decay=5e-4,
    schedule="step",
    milestones=(0.3125, 0.625, 0.9375),
    decay_rate=0.1,
    warmup=0.0,
    clip=0.0,
    batch_size=64,
    steps=160_000,
    resolution=224,
    views={"image": ("alexnet",)},
)

TEXTS = ("learned", "topics")
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sigmoid": soft_sigmoid,
    "softmax": soft_softmax,
}


def texttopicnet(
    encoder: Encoder,
    *,
    topics: int = 40,
    loss: str = "sigmoid",
    min_df: int = 20,
    max_df: float = 0.5,
    buckets: int = 8192,
    text: str = "learned",
    dropout: float = 0.0,
) -> TextTopicNet:
    """Build TextTopicNet.

    Args:
        encoder: Of text and other fields.
        topics: K, width of the common space.
        loss: "sigmoid" for each topic, or one "softmax" over all.
        min_df: Words in fewer texts are left out.
        max_df: Words in more than this share of the texts are left out.
        buckets: That words are hashed into, more than there are words.
        text: "learned", by a network that predicts topics as those of other fields do; or "topics",
            by the topic model, as in the paper.
        dropout: Of hidden states, .5 in the paper's last two layers.

    Raises:
        AmodalError: For an unknown loss or text, and for a field without dropout.
    """
    if loss not in LOSSES:
        raise unknown("loss", loss, LOSSES)
    if text not in TEXTS:
        raise unknown("text", text, TEXTS)
    texts, others = texts_and_others(encoder)
    words: dict[str, Any] = {"least": min_df, "most": max_df, "buckets": buckets}
    if text == "topics":
        read_topics(encoder, texts, topics, loss == "softmax", words)
    else:
        encoder.align(topics)
    if dropout:
        let_dropout(encoder, others if text == "topics" else [*texts, *others])
    return TextTopicNet(
        encoder,
        Topics(topics, **words),
        LOSSES[loss],
        texts,
        learned=others if text == "topics" else None,
        dropout=dropout,
    )


def read_topics(
    encoder: Encoder, texts: Sequence[str], topics: int, softmax: bool, words: Mapping[str, Any]
) -> None:
    """Put the topic model in the place of the networks of texts, and heads that give roots.

    Args:
        encoder: It is changed.
        texts: Fields.
        topics: K.
        softmax: Whether topics compete.
        words: Which words count, as of `Topics`.

    Raises:
        AmodalError: For a trunk of all fields, and a pooling that would change a mixture.
    """
    if encoder.pool_name != "mean":
        raise AmodalError(
            f'text="topics" takes the mixture of a text as it is, which pool="{encoder.pool_name}" '
            "would change; take --pool mean"
        )
    for field in texts:
        reader = TopicTokens(encoder.fields[field], encoder.width, topics=topics, **words)
        encoder.set_backbone(field, reader)
    heads: dict[str, Part] = {
        f: RootHead(topics)
        if f in texts
        else MixtureHead(encoder.feature_width(f), topics, softmax)
        for f in encoder.fields
    }
    encoder.set_heads(heads, topics)


def let_dropout(encoder: Encoder, fields: Sequence[str]) -> None:
    """Let backbones drop entries.

    Raises:
        AmodalError: For a backbone without dropout.
    """
    for field in (f for f in fields if encoder.contextual(f)):
        network = encoder.tokenizers[field]
        if not isinstance(network, HasDropout) or not network.let_dropout():
            raise AmodalError(
                f"the backbone of {field} has no dropout; leave --method.dropout out, or take "
                "caffenet"
            )


@dataclass(frozen=True, kw_only=True)
class TopicFeatures(FeatureRecord):
    """Logits of topics, and the mixtures of the texts.

    Args:
        logits: source -> (N, K).
        topics: (N, K) of the rows whose texts have a known word.
    """

    logits: Columns
    topics: Column


class TextTopicNet(Method):
    """Each field predicts the topics of the texts of its record.

    Args:
        encoder: Aligned to the topics.
        topics: The topic model.
        loss: (logits, mixtures) -> a scalar.
        texts: The fields of text.
        learned: The fields whose heads say their logits; None for those that give logits.
        dropout: Of hidden states.
    """

    def __init__(
        self,
        encoder: Encoder,
        topics: Topics,
        loss: Callable[[Tensor, Tensor], Tensor],
        texts: Sequence[str],
        *,
        learned: Sequence[str] | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.encoder, self.topics, self.loss, self.texts = encoder, topics, loss, list(texts)
        self.learned, self.dropout = learned, dropout
        self.views = {f: ("plain",) if f in texts else ("weak",) for f in encoder.fields}

    def documents(self, batch: Batch) -> tuple[Tensor, list[str]]:
        """The rows that have any text, and all of it."""
        texts: dict[int, list[str]] = {}
        for field in (f for f in self.texts if f in batch.columns):
            column = batch.columns[field]
            for row, ids in zip(column.rows.tolist(), ragged(column).split()):
                text = text_modality(self.encoder, field).text(ids.cpu().numpy())
                texts.setdefault(row, []).append(text)
        rows = sorted(texts)
        device = next(self.encoder.parameters()).device
        index = torch.tensor(rows, dtype=torch.int64, device=device)
        return index, ["\n".join(texts[row]) for row in rows]

    def fit_statistics(self, records: Iterable[Batch]) -> None:
        """Fit the topic model to the texts; warn if many were cut."""
        documents: list[str] = []
        full, total = 0, 0
        for batch in records:
            documents += self.documents(batch)[1]
            for field in (f for f in self.texts if f in batch.columns):
                lengths, modality = ragged(batch[field]).lengths, text_modality(self.encoder, field)
                # cutting leaves whole characters, so up to three bytes of the room may be empty
                full += int((lengths > modality.max_length * modality.patch - 4).sum())
                total += len(lengths)
        if full > 0.05 * total:
            warnings.warn(
                f"{full:,} of {total:,} texts fill all the room there is (max_length times patch), "
                "so they were probably cut, and the topics are those of their beginnings; give "
                "their fields more",
                AmodalWarning,
                stacklevel=2,
            )
        self.topics.fit(documents)
        for field in self.texts if self.learned is not None else ():
            reader = cast(TopicTokens, self.encoder.tokenizers[field])
            reader.topics.load_state_dict(self.topics.state_dict())

    def features(self, batch: Batch) -> TopicFeatures:
        rows, texts = self.documents(batch)
        counts = self.topics.count(texts)
        # a text without a word of the vocabulary has no topics
        known = torch.bincount(counts.text, minlength=len(texts)) > 0
        topics = Column(self.topics(counts)[known], rows[known])
        with hidden_dropout(self.dropout if self.training else 0.0, batch.seeds):
            logits = self.logits(batch)
        return TopicFeatures(size=batch.size, logits=logits, topics=topics)

    def logits(self, batch: Batch) -> Columns:
        """Source -> (N, K), of the fields that learn."""
        if self.learned is None:
            z: Embeddings = self.encoder(batch)
            return z.columns
        own = [s for s in batch.sources if field_of(s) in self.learned]
        features, heads = self.encoder.features(batch.only(*own)), aligned_heads(self.encoder)
        return {
            s: column.with_flat(cast(MixtureHead, heads[field_of(s)]).logits(column.flat))
            for s, column in features.columns.items()
        }

    def losses(self, features: TopicFeatures) -> dict[str, Tensor]:
        terms = {}
        for s, column in features.logits.items():
            logits, topics = both(column, features.topics)
            terms[f"topics/{s}"] = self.loss(logits.flat, topics.flat)
        return share(terms)
