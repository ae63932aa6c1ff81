"""CUNI's multimodal translation (row 88): a picture that is read, or that training has to imagine,
against the text alone. Helcl, Libovický and Variš, arXiv:1811.04697.

Real names of emoji (OpenMoji, emojibase) and captions of stamps (Tux Paint), English to German, up
to 28 bytes each, in a byte-pair vocabulary of both languages learnt on the training part, with what
a frozen ImageNet network makes of the picture (128 numbers), as in the paper; where it has 64
places there is one here. In 30 % of the records, drawn by their keys once and for all, the last
English word is blotted out, in training and test alike: those are the ambiguous ones.

Three arms of the same encoder, decoder, steps and learning rate: text alone, which is never given a
picture; the picture read beside the text (serial); the picture imagined. At the test, greedy;
`wrong` reads the picture of another test record. The two other arms read no picture, so that a
wrong one cannot hurt them. The rate and the number of steps were set by what the text arm gives on
validation records of another seed. BLEU and the extra texts are left out: names are too short for
runs of four words."""

import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from amodal import data, methods
from amodal.core import row_seeds
from amodal.data import Loader
from amodal.data import sets as public
from amodal.masking.hashing import uniform
from amodal.modalities import make
from amodal.stats.chrf import chrf
from amodal_claims import Comparison
from amodal_claims._arms import Budget, trained

CLAIM = (
    "Where the last word of the English name is blotted out, a translator that reads the picture beside the text, and one that had to "
    "imagine it in training, predict held-out German names better (chrF) than one of the text alone; the picture of another record makes "
    "the one that reads it worse."
)
DATA = "frozen_pairs"
SEEDS = 5
BUDGET = Budget(steps=200, batch=128, rates=(8e-3,))
LONGEST, BLOTTED, BLOT, VOCABULARY = 28, 0.3, "_", 1000
ARMS = {
    "text": (("english", "german"), "read"),
    "read": (None, "read"),
    "imagine": (None, "imagine"),
}
METRIC = "chrF, test records with a blotted word"
COMPARISONS = (
    Comparison("picture read against text alone", METRIC, "read", "text"),
    Comparison("picture imagined against text alone", METRIC, "imagine", "text"),
    Comparison("own picture against another record's", METRIC, "read", "wrong"),
)


def triples(dataset):
    """English, German and the vector of the picture; and which records have a blotted word."""
    for name in (names := ("openmoji", "tuxpaint")):
        public.ensure(name)
    sets = {name: data.open(name) for name in names}
    fields = {"openmoji": ("annotation", "name_de"), "tuxpaint": ("caption", "caption_de")}
    place = {f"{name}-{key}": (name, i) for name, d in sets.items() for i, key in enumerate(d.keys)}
    columns, keys = {"picture": [], "english": [], "german": []}, []
    for number, key in enumerate(dataset.keys):
        name, i = place[key]
        english, german = (
            text and text.rstrip(".") for text in (sets[name].raw(i, f) for f in fields[name])
        )
        if english and german and max(len(english.encode()), len(german.encode())) <= LONGEST:
            keys.append(key)
            columns["german"].append(german)
            columns["english"].append(english)
            columns["picture"].append(dataset.value(number, "image"))
    blotted = uniform(row_seeds(keys, salt=88)).numpy() < BLOTTED
    for i in np.flatnonzero(blotted):
        columns["english"][i] = " ".join([*columns["english"][i].split()[:-1], BLOT])
    bytes_ = make("text", max_length=LONGEST, patch=1)
    fields = {"picture": dataset.fields["image"], "english": bytes_, "german": bytes_}
    return data.open(columns, fields=fields, name="names of pictures"), blotted


def in_pieces(records, rows, folder):
    """The same with texts in pieces of a vocabulary learnt on the records `rows`, which is written
    into the folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    learner = Tokenizer(models.BPE(unk_token="?"))
    learner.pre_tokenizer, learner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    how = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["?"], show_progress=False)
    learner.train_from_iterator(
        [records.raw(int(i), f) for i in rows for f in ("english", "german")], how
    )
    file = Path(folder) / "tokenizer.json"
    learner.save(str(file))
    text = make("text", max_length=LONGEST, patch=1, vocabulary=str(file))
    return records.with_fields(records.fields | {"english": text, "german": text})


def parts(records, seed):
    order = np.random.default_rng([seed, 88]).permutation(len(records))
    bounds = [round(0.7 * len(order)), round(0.8 * len(order))]
    return dict(zip(("train", "valid", "test"), (np.sort(p) for p in np.split(order, bounds))))


def translations(method, records, rows, shift=0):
    """The German of the records `rows`, each with the picture of the one that comes `shift` after
    it."""
    batch = next(iter(Loader(records, rows, batch=len(rows), shuffle=False)))
    if shift:
        column = batch.columns["picture"]
        batch.columns["picture"] = type(column)(
            column.values[(column.rows + shift) % len(rows)], column.rows
        )
    found = method.generate(batch, beams=1, longest=LONGEST)
    return [found[row] for row in range(len(rows))]


def scores(name, texts, records, rows, blotted):
    """chrF of the blotted records and of the others, and the share of blotted ones predicted exactly."""
    right, mask = np.array([records.raw(int(i), "german") for i in rows]), blotted[rows]
    texts = np.array(texts)
    exact = {f"{name}, exact": float((texts == right)[mask].mean())}
    return {
        name: chrf(texts[mask], right[mask]),
        f"{name}, others": chrf(texts[~mask], right[~mask]),
    } | exact


def arm(name, records, rows, seed, budget=BUDGET):
    fields, images = ARMS[name]
    seen = records.select(fields or tuple(records.fields))
    make = partial(
        methods.build, "cuni_mmt", source="english", target="german", images=images, depth=2
    )
    return trained(
        seen, rows, make, budget, seed, budget.rates[0], **methods.encoder_options("cuni_mmt")
    ), seen


def measure(seed, dataset):
    records, blotted = triples(dataset)
    split, found = parts(records, seed), {}
    test = split["test"]
    with tempfile.TemporaryDirectory() as folder:
        records = in_pieces(records, split["train"], folder)
        for name in ARMS:
            method, seen = arm(name, records, split["train"], seed)
            found |= scores(name, translations(method, seen, test), records, test, blotted)
            if name == "read":
                found |= scores(
                    "wrong", translations(method, seen, test, 1), records, test, blotted
                )
    return found
