"""TextTopicNet (row 66): a picture that has to say which topics the text around it is about learns
more than from tasks within it. Gomez et al., CVPR 2017, arXiv:1705.08631. OpenMoji's pictures in
nine of Unicode's groups; the text around each is its short text and its tags, and topics are those
of the training records' texts alone. Every arm takes the same steps of the same batch at one rate
on the same pictures: topics; which way up a picture is; its hidden patches (MAE). Read off by a
linear probe with ten labels for each group. Texts look for pictures in the space of topics: the
topic model's mixture of a test text, unseen in training, against what each test picture says, by
Hellinger distance."""

import numpy as np
import torch
from torch import nn

from amodal import methods
from amodal.core import Batch, Column
from amodal.data import Loader
from amodal.evaluate import embed_records
from amodal.evaluate.protocols.retrieval import ranked
from amodal.masking.hashing import uniform
from amodal.methods.contract import Features, Method
from amodal.modalities import make
from amodal_claims import Comparison
from amodal_claims._arms import Budget, features, probe, trained, untrained

CLAIM = (
    "With ten labels for each group, a linear probe predicts held-out pictures better by features that learnt the topics of the texts around "
    "pictures than by untrained ones, by those that learnt which way up the same pictures are, and by those that learnt hidden patches; "
    "and held-out texts find their pictures through topics above chance (Recall@10 by more than .02)."
)
DATA = "openmoji"
SEEDS = 5
BUDGET = Budget(steps=200, batch=64, rates=(2e-3,))
IMAGE, LABEL, TEXTS, EACH, TOPICS = "image", "group", ("annotation", "tags"), 10, 40
GROUPS = (
    "activities", "animals-nature", "flags", "food-drink", "objects", "people-body", "smileys-emotion", "symbols", "travel-places",
)  # fmt: skip
PROBE, RECALL = (
    "accuracy, linear probe on 10 labels for each of 9 groups",
    "Recall@10, text to picture, held-out records",
)
COMPARISONS = (
    Comparison("topics against untrained", PROBE, "probe: topics", "probe: untrained"),
    Comparison("topics against rotation", PROBE, "probe: topics", "probe: rotation"),
    Comparison("topics against hidden patches", PROBE, "probe: topics", "probe: mae"),
    Comparison("texts find pictures", RECALL, "recall", "recall by chance", margin=0.02),
)


class Rotation(Method):
    """Which of four ways up a picture is (Gidaris et al. 2018, arXiv:1803.07728), one of them a
    step."""

    views = ("weak",)

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.width, 4)

    def features(self, batch):
        column = batch[IMAGE]
        turns = (uniform(batch.seeds, 0)[column.rows] * 4).long()
        values = column.values.clone()
        for k in range(1, 4):
            values[turns == k] = torch.rot90(column.values[turns == k], k, (2, 3))
        z = self.encoder.features(
            Batch(batch.size, {IMAGE: Column(values, column.rows)}, batch.keys, batch.seeds)
        )
        return Features({IMAGE: z[IMAGE], "turns": Column(turns, column.rows)}, batch.size)

    def losses(self, features):
        z, turns = features.pair(IMAGE, "turns")
        return {"turns": nn.functional.cross_entropy(self.head(z), turns)}


def topics(encoder):
    return methods.build("texttopicnet", encoder, topics=TOPICS, min_df=5)


ARMS = {
    "topics": topics,
    "rotation": Rotation,
    "mae": lambda encoder: methods.build("mae", encoder),
}


def small(dataset):
    image = make(
        "image",
        size=32,
        patch=8,
        channels=3,
        mean=dataset.fields[IMAGE].mean,
        std=dataset.fields[IMAGE].std,
    )
    texts = {
        "annotation": make("text", max_length=12, patch=4),
        "tags": make("text", max_length=24, patch=4),
    }
    return dataset.select([IMAGE, *TEXTS]).with_fields({IMAGE: image} | texts)


def parts_of(dataset, seed):
    """Records to learn from, those of them whose label is known, and records to test on."""
    usable = np.flatnonzero(
        np.isin(dataset.label(LABEL), GROUPS)
        & dataset.present(IMAGE)
        & dataset.present("annotation")
    )
    order = np.random.default_rng([seed, 66]).permutation(usable)
    train, test = np.split(order, [round(0.75 * len(order))])
    few = np.concatenate([train[dataset.label(LABEL)[train] == g][:EACH] for g in GROUPS])
    return np.sort(train), np.sort(few), np.sort(test)


def read(encoder, dataset, few, test):
    """Accuracy of the probe on pictures alone."""
    pictures, labels = dataset.select([IMAGE]), dataset.label(LABEL)
    columns = [
        Column(features(encoder, pictures, r)[IMAGE].values, torch.arange(len(r)))
        for r in (few, test)
    ]
    return probe(columns[0], labels[few], columns[1], labels[test])


def found_by_topics(method, dataset, test):
    """Recall@10 of pictures by the topic model's mixture of their text, and by chance; among
    records whose text has a known word."""
    every = next(iter(Loader(dataset, test, batch=len(test), shuffle=False)))
    with torch.no_grad():
        mixture = method.features(every).topics
    said = (
        embed_records(method.encoder, dataset.select([IMAGE]), test, labels=False)
        .aligned[IMAGE]
        .values.sigmoid()
    )
    said = said / said.sum(1, keepdim=True)
    # the cosine of square roots of two distributions falls as their Hellinger distance grows
    row = ranked(mixture.values.sqrt(), said[mixture.rows].sqrt(), recall_at=(10,))[0]
    return {
        "recall": row["value"],
        "recall by chance": row["chance"],
        "texts with a known word": len(mixture) / len(test),
    }


def measure(seed, dataset):
    dataset = small(dataset)
    train, few, test = parts_of(dataset, seed)
    pictures = dataset.select([IMAGE])
    found = {
        "probe: untrained": read(
            untrained(pictures, Rotation, BUDGET, seed).encoder, dataset, few, test
        )
    }
    for arm, make_arm in ARMS.items():
        data = dataset if arm == "topics" else pictures
        method = trained(data, train, make_arm, BUDGET, seed, BUDGET.rates[0])
        found[f"probe: {arm}"] = read(method.encoder, dataset, few, test)
        if arm == "topics":
            found |= found_by_topics(method, dataset, test)
    return found
