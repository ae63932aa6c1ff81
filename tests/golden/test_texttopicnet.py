"""TextTopicNet, Gomez et al. 2017, arXiv:1705.08631: section 3.2, and the authors' code. Topics are
those of Blei et al. 2003 by variational Bayes, Hoffman et al. 2010, equations 2 to 5."""

import collections
import re

import numpy as np
import pytest
import torch
from scipy.special import digamma

from amodal.core import Batch, Column
from amodal.nn.hidden_dropout import hidden_dropout
from tests.golden import harness
from tests.golden.harness import Reference, defaults, golden
from tests.golden.naive import code
from tests.methods.bench import batch, method

VIEWS = {"picture": ("weak",), "words": ("plain",), "facts": ("weak",)}
SMALL = {"topics": 6, "buckets": 256}


def texts_of(values):
    """Row -> what it says, in bytes."""
    found, at = {}, 0
    for row, n in zip(values["words"].rows.tolist(), values["words"].values.lengths.tolist()):
        letters = values["words"].values.flat[at : at + n].tolist()
        found[row], at = bytes(letters).decode(), at + n
    return found


def counted(text, buckets, held):
    """Bucket -> how often; function words are left out, of those that the tests have."""
    words = [w for w in re.findall(r"[a-z]{2,}", text.lower()) if w not in ("on", "the")]
    count = collections.Counter(code(w) % buckets for w in words)
    return {b: n for b, n in count.items() if held[b]}


def mixture(count, weight, held, steps=50):
    """The Dirichlet of a text's topics, gamma, and the responsibilities of topics for its words."""
    beta = np.exp(digamma(weight[:, list(count)]) - digamma(weight[:, held].sum(1))[:, None])
    gamma = np.ones(len(weight))
    for _ in range(steps + 1):
        before = gamma
        phi = np.exp(digamma(gamma) - digamma(gamma.sum()))[:, None] * beta
        phi = phi / phi.sum(0)
        gamma = 1 / len(weight) + phi @ list(count.values())
    return before, phi


def fitted(texts, weight, least, most, steps=20):
    """Which buckets are held, and lambda."""
    buckets = weight.shape[1]
    counts = [counted(t, buckets, np.ones(buckets)) for t in texts]
    having = collections.Counter(b for count in counts for b in count)
    held = np.array([least <= having[b] <= most * len(texts) for b in range(buckets)])
    counts = [c for t in texts if (c := counted(t, buckets, held))]
    for _ in range(steps):
        new = np.full_like(weight, 1 / len(weight))
        for count in counts:
            new[:, list(count)] += mixture(count, weight, held)[1] * list(count.values())
        weight = new
    return held, weight


class TextTopicNet(Reference):
    loss, topics, buckets, dropout = "sigmoid", 6, 256, 0.0

    def check_start(self):
        assert self.encoder.space_width == self.topics and self.min_batch_size == 1
        assert self.w["topics.weight"].shape == (self.topics, self.buckets)
        assert self.w.keys() == {"topics.weight", "topics.kept"}

    def losses(self, batch):
        """Every field learns the topics of the text of its record; that of a text, so that texts can
        be compared with what has none."""
        target = {row: t for row, t in self.mixtures(batch).items() if t is not None}
        terms, columns = {}, self.logits(batch)
        for field, column in columns.items():
            outputs = dict(zip(column.rows.tolist(), column.values))
            losses = [self.of_row(outputs[r], target[r]) for r in outputs if r in target]
            total = sum(losses, 0 * column.values.sum())
            terms[f"topics/{field}"] = total / max(len(losses), 1) / len(columns)
        return terms

    def mixtures(self, batch):
        """Row -> the mixture of its text, None for one without a word."""
        weight, held = (self.w[f"topics.{name}"].numpy() for name in ("weight", "kept"))
        result = {}
        for row, text in texts_of(batch).items():
            result[row] = None
            if count := counted(text, self.buckets, held):
                gamma, _ = mixture(count, weight, held)
                result[row] = torch.from_numpy(gamma / gamma.sum())
        return result

    def logits(self, batch):
        with hidden_dropout(self.dropout, batch.seeds):
            return self.encoder(batch).columns

    def of_row(self, o, theta):
        if self.loss == "softmax":
            return -(theta * o.softmax(0).log()).sum()
        return -(theta * o.sigmoid().log() + (1 - theta) * (-o).sigmoid().log()).sum()


class OfTopics(TextTopicNet):
    """As in the paper: texts are read by the topic model, and nothing learns from them."""

    def logits(self, batch):
        self.check_space(batch)
        features = self.encoder.features(batch).columns
        heads = self.encoder.state_dict()
        layer = {n: dict(self.encoder.named_parameters())[f"heads.picture.linear.{n}"] for n in
                 ("weight", "bias")}  # fmt: skip
        assert not any(name.startswith(("heads.words", "trunks.words")) for name in heads)
        logits = features["picture"].values @ layer["weight"].T + layer["bias"]
        return {"picture": Column(logits, features["picture"].rows)}

    def check_space(self, batch):
        """Cosines are 1 less the squared distance of Hellinger between mixtures."""
        with torch.no_grad():
            z = self.encoder(batch).columns
            o = (
                self.encoder.features(batch)["picture"].values
                @ self.encoder.state_dict()["heads.picture.linear.weight"].T
                + self.encoder.state_dict()["heads.picture.linear.bias"]
            )
        shares = (
            o.softmax(1) if self.loss == "softmax" else o.sigmoid() / o.sigmoid().sum(1)[:, None]
        )
        mixtures = self.mixtures(batch)
        for row, text in zip(z["words"].rows.tolist(), z["words"].values):
            # a text without a word has the mean of the prior
            mixed = torch.full((self.topics,), 1 / self.topics).double()
            mixed = mixed if mixtures[row] is None else mixtures[row]
            for share, picture in zip(shares, z["picture"].values):
                hellinger = (share.sqrt() - mixed.sqrt()).square().sum() / 2
                assert abs(1 - hellinger - text @ picture) < 1e-6


def texttopicnet(**options):
    return type("TextTopicNet", (TextTopicNet,), options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": "softmax"},
        {"topics": 3, "buckets": 40},
        {"fields": ("words", "facts")},
        {"dropout": 0.4},
    ],
)
def test_two_steps(options):
    fields = options.get("fields", ("picture", "words"))
    own = {k: v for k, v in options.items() if k != "fields"}
    views = {f: VIEWS[f] for f in fields}
    golden("texttopicnet", texttopicnet(**own), views=views, fields=fields, **(SMALL | own))


@pytest.mark.parametrize("loss", ["sigmoid", "softmax"])
def test_two_steps_with_texts_read_by_the_topic_model(loss):
    reference = type("OfTopics", (OfTopics,), {"loss": loss})
    views = {f: VIEWS[f] for f in ("picture", "words")}
    golden("texttopicnet", reference, views=views, text="topics", loss=loss, **SMALL)


@pytest.mark.parametrize("rows", [1, 2])
def test_rows_without_a_text(rows, monkeypatch):
    def without_words(*args, **options):
        values: Batch = batch(*args, **options)
        words = values["words"].at(values["words"].rows > 1)
        return Batch(
            values.size, {"picture": values["picture"], "words": words}, values.keys, values.seeds
        )

    monkeypatch.setattr(harness, "batch", without_words)
    views = {f: VIEWS[f] for f in ("picture", "words")}
    golden("texttopicnet", TextTopicNet, views=views, rows=rows, **SMALL)


@pytest.mark.parametrize("least, most", [(3, 0.7), (4, 1.0), (1, 0.4)])
def test_two_steps_with_topics_of_the_records(least, most, monkeypatch):
    """Topics are estimated once, from the words that are in enough texts and not in too many."""
    records = [batch(VIEWS, size=6, seed=s, sources=("picture", "words")) for s in (5, 6)]
    texts = [t for values in records for t in texts_of(values).values()]

    def studied(*args, **options):
        page = method(*args, **options).double()
        held, weight = fitted(texts, page.state_dict()["topics.weight"].numpy(), least, most)
        page.fit_statistics(iter(records))
        assert page.state_dict()["topics.kept"].tolist() == held.tolist() and 0 < held.sum() < 40
        np.testing.assert_allclose(page.state_dict()["topics.weight"], weight)
        return page

    monkeypatch.setattr(harness, "method", studied)
    views = {f: VIEWS[f] for f in ("picture", "words")}
    options = {"topics": 3, "buckets": 40, "min_df": least, "max_df": most}
    golden("texttopicnet", texttopicnet(topics=3, buckets=40), views=views, **options)


def test_defaults():
    """Section 3.1, and LDA/learn_LDA_model.py of the authors."""
    assert defaults("texttopicnet") == {
        "topics": 40,
        "loss": "sigmoid",
        "min_df": 20,
        "max_df": 0.5,
        "buckets": 8192,
        "text": "learned",
        "dropout": 0.0,
    }
