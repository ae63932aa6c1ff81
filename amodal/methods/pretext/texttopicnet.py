"""TextTopicNet: what stands in the text around a picture tells which topics the picture is about,
and the picture has to say which. Gomez, Patel, Rusiñol, Karatzas and Jawahar, CVPR 2017,
arXiv:1705.08631. Latent Dirichlet allocation on the texts to train on (their section 3.1), each
text's mixture as the target of all that comes with it; loss: a sigmoid for each topic (3.2). Row 66
of the catalogue.

All text fields of a record are one document, as long as the encoder reads it: what a field's
`max_length` and `patch` cut off the topic model does not see either, where the paper's point is the
whole article. Give room for whole texts; a warning says when many fill theirs. Towers of text learn
their own mixture too, which the paper leaves to the topic model, so that the encoder alone finds
pictures by text. Words are not stemmed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch

from amodal.core import Batch, Column, unknown
from amodal.methods.contract import Features, Method
from amodal.methods.shared.regions import texts_and_others
from amodal.methods.shared.shapes import share
from amodal.nn.encoder import Encoder
from amodal.objectives.soft_targets import soft_sigmoid, soft_softmax
from amodal.stats.topics import Topics

LOSSES = {"sigmoid": soft_sigmoid, "softmax": soft_softmax}
TARGET = "topics of texts"


def texttopicnet(
    encoder: Encoder,
    *,
    topics: int = 40,
    loss: str = "sigmoid",
    least: int = 20,
    most: float = 0.5,
    buckets: int = 8192,
) -> TextTopicNet:
    """topics: K, width of the common space; loss: "sigmoid" for each topic, or one "softmax" over
    all; least, most: words in fewer texts than `least`, or in more than this share of them, are
    left out; buckets: what words are hashed into, more than there are words."""
    if loss not in LOSSES:
        raise unknown("loss", loss, LOSSES)
    texts, _ = texts_and_others(encoder)
    return TextTopicNet(
        encoder.align(topics),
        Topics(topics, least=least, most=most, buckets=buckets),
        LOSSES[loss],
        texts,
    )


class TextTopicNet(Method):
    def __init__(self, encoder, topics, loss, texts):
        super().__init__()
        self.encoder, self.topics, self.loss, self.texts = encoder, topics, loss, texts
        self.views = {f: ("plain",) if f in texts else ("weak",) for f in encoder.fields}

    def documents(self, batch: Batch) -> tuple[torch.Tensor, list[str]]:
        """The rows that have any text, and all of it."""
        each: dict[int, list[str]] = {}
        for field in self.texts:
            column = batch.columns.get(field)
            for row, ids in (
                zip(column.rows.tolist(), column.values.split()) if column is not None else ()
            ):
                each.setdefault(row, []).append(self.encoder.fields[field].text(ids.cpu().numpy()))
        rows = sorted(each)
        device = next(self.encoder.parameters()).device
        return torch.tensor(rows, dtype=torch.int64, device=device), [
            "\n".join(each[row]) for row in rows
        ]

    def fit_statistics(self, records: Iterable[Batch]) -> None:
        found, full, every = [], 0, 0
        for batch in records:
            found += self.documents(batch)[1]
            for field in (f for f in self.texts if f in batch.columns):
                lengths, modality = batch[field].values.lengths, self.encoder.fields[field]
                # cutting leaves whole characters, so up to three bytes of the room may be empty
                full, every = (
                    full + int((lengths > modality.max_length * modality.patch - 4).sum()),
                    every + len(lengths),
                )
        if full > 0.05 * every:
            warnings.warn(
                f"{full:,} of {every:,} texts fill all the room there is (max_length times patch), so they were probably cut, and the "
                "topics are those of their beginnings; give their fields more",
                stacklevel=2,
            )
        self.topics.fit(found)

    def features(self, batch: Batch) -> Features:
        rows, texts = self.documents(batch)
        counts = self.topics.count(texts)
        known = (
            torch.bincount(counts.text, minlength=len(texts)) > 0
        )  # a text without a word that is kept says nothing
        target = Column(self.topics(counts)[known], rows[known])
        return Features(self.encoder(batch).columns | {TARGET: target}, batch.size)

    def losses(self, features: Features) -> dict[str, torch.Tensor]:
        return share(
            {f"topics/{s}": self.loss(*features.pair(s, TARGET)) for s in features if s != TARGET}
        )
