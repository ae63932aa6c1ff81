"""TextTopicNet: the text around a picture has topics, and the picture has to predict them. Gomez,
Patel, Rusiñol, Karatzas and Jawahar, CVPR 2017, arXiv:1705.08631. Latent Dirichlet allocation on
the texts to train on (their section 3.1), each text's mixture as the target of all that comes with
it; loss: a sigmoid for each topic (3.2). Row 66 of the catalogue.

All text fields of a record are one document, as long as the encoder reads it: what a field's
`max_length` and `patch` cut off the topic model does not see either, where the paper's point is the
whole article. Give room for whole texts; a warning says when many fill theirs.

Differs:

- text: towers of text learn their own mixture too, which the paper leaves to the topic model, so
  that pictures can be searched by text. Terms are averaged over fields.
- retrieval: by the cosine of the logits. The paper compares mixtures by divergences, and a query's
  is the topic model's own; no command does.
- words: of two letters and more, a short list of English function words left out; the authors take
  markup away, lemmatise, and keep three letters and more. Words are hashed.
- topics: 20 batch updates; the authors have gensim's online ones, in one pass.
- encoder: any, a network of convolutions by `--backbone`; the paper's is CaffeNet with dropout, and
  its features for probes are those of inner layers, here the ones before the last map.
- loss: summed over topics and averaged over pictures, as in the authors' network.
- views: `weak`, crops of varying size and flips; theirs are crops of 227 out of 256 pixels, and
  flips, of a picture without its mean. Rates of biases are not doubled.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.core import Batch, Column, Recipe, unknown
from amodal.core.column import both
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared.regions import texts_and_others
from amodal.methods.shared.shapes import ragged, share
from amodal.methods.shared.typed_parts import text_modality
from amodal.nn.encoder import Encoder
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
)

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
) -> TextTopicNet:
    """Build TextTopicNet.

    Args:
        encoder: Of text and other fields.
        topics: K, width of the common space.
        loss: "sigmoid" for each topic, or one "softmax" over all.
        min_df: Words in fewer texts are left out.
        max_df: Words in more than this share of the texts are left out.
        buckets: That words are hashed into, more than there are words.
    """
    if loss not in LOSSES:
        raise unknown("loss", loss, LOSSES)
    texts, _ = texts_and_others(encoder)
    return TextTopicNet(
        encoder.align(topics),
        Topics(topics, least=min_df, most=max_df, buckets=buckets),
        LOSSES[loss],
        texts,
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
    """

    def __init__(
        self,
        encoder: Encoder,
        topics: Topics,
        loss: Callable[[Tensor, Tensor], Tensor],
        texts: Sequence[str],
    ):
        super().__init__()
        self.encoder, self.topics, self.loss, self.texts = encoder, topics, loss, list(texts)
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
                stacklevel=2,
            )
        self.topics.fit(documents)

    def features(self, batch: Batch) -> TopicFeatures:
        rows, texts = self.documents(batch)
        counts = self.topics.count(texts)
        # a text without a word of the vocabulary has no topics
        known = torch.bincount(counts.text, minlength=len(texts)) > 0
        topics = Column(self.topics(counts)[known], rows[known])
        return TopicFeatures(size=batch.size, logits=self.encoder(batch).columns, topics=topics)

    def losses(self, features: TopicFeatures) -> dict[str, Tensor]:
        terms = {}
        for s, column in features.logits.items():
            logits, topics = both(column, features.topics)
            terms[f"topics/{s}"] = self.loss(logits.flat, topics.flat)
        return share(terms)
