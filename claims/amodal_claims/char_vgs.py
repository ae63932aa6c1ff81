"""A reader of characters, grounded in pictures: do its vectors of words agree with people, and does
it need words at all? Merkx and Frank 2019, arXiv:1903.11393, with emoji and their tags for
photographs and captions, and SimLex-999 and WordSim-353 for STS: pairs of words that both stand in
some tag."""

import json
import re
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from amodal import methods
from amodal.data import open as open_data
from amodal.data import sets
from amodal.evaluate import embed_records
from amodal.evaluate.protocols.retrieval import retrieval
from amodal.inference.embed import embed_values
from amodal.stats.rank_correlation import agreement
from amodal_claims import Comparison
from amodal_claims._arms import Budget, best, untrained

CLAIM = (
    "On 2,465 emoji and their tags, a GRU over characters that has learnt only which picture tags belong to agrees better with people "
    "about pairs of words than untrained, and than bags of characters (n-grams of 1 to 3), and finds the picture of unseen tags at most "
    ".05 of Recall@10 less often than the same network over words."
)
DATA = "openmoji"
SEEDS = 5
BUDGET = Budget(steps=150, batch=64)
PEOPLE, FOUND = "Spearman with people, 486 pairs of words", "Recall@10, picture of unseen tags"
COMPARISONS = (
    Comparison("agreement, against untrained", PEOPLE, "characters, people", "untrained, people"),
    Comparison(
        "agreement, against bags of characters", PEOPLE, "characters, people", "bags, people"
    ),
    Comparison(
        "retrieval, against reading words", FOUND, "characters, found", "words, found", margin=-0.05
    ),
)
WORD = re.compile(r"[a-z]+")


def measure(seed, dataset):
    emoji = dataset.select(["image", "tags"])
    image = replace(emoji.fields["image"], size=32, patch=8)
    order = np.random.default_rng(seed).permutation(
        np.flatnonzero(emoji.present("image") & emoji.present("tags"))
    )
    train, valid, test = (
        np.sort(part) for part in np.split(order, [len(order) - 600, len(order) - 400])
    )
    texts = [dataset.raw(int(i), "tags").lower() for i in train]
    known = Counter(word for text in texts for word in WORD.findall(text))
    first, second, scores = people(set(known))

    def found(method, data, rows):
        """Pictures found from tags."""
        table = retrieval(
            None, embed_records(method.encoder, data, rows, labels=False), recall_at=(10,)
        ).rows
        return next(
            r["value"] for r in table if r["metric"] == "recall@10" and r["source"] == "tags"
        )

    def make(encoder):
        return methods.build("char_vgs", encoder, cycles=2)

    def agree(method):
        return agreement(
            *(embed_values(method.encoder, "tags", words) for words in (first, second)), scores
        )

    options = methods.encoder_options("char_vgs")
    result = {"bags, people": agreement(*bags(first, second), scores)}
    with tempfile.TemporaryDirectory() as folder:
        reads = {
            "characters": dict(patch=1, max_length=48),
            "words": dict(patch=1, max_length=12, vocabulary=vocabulary(known, folder)),
        }
        for name, text in reads.items():
            data = emoji.with_fields(
                {"image": image, "tags": replace(emoji.fields["tags"], **text)}
            )
            method = best(
                data, train, make, BUDGET, seed, lambda m, d=data: found(m, d, valid), **options
            )
            result |= {
                f"{name}, people": agree(method),
                f"{name}, found": found(method, data, test),
            }
            if name == "characters":
                result["untrained, people"] = agree(
                    untrained(data, make, BUDGET, seed, **options).eval()
                )
    return result


def people(known):
    """Both words and the score of each pair of which both words stand in tags."""
    sets.ensure("word_pairs", say=lambda _: None)
    pairs = open_data("word_pairs")
    rows = [
        (pairs.raw(i, "first").lower(), pairs.raw(i, "second").lower(), s)
        for i, s in enumerate(pairs.label("similarity"))
    ]
    return zip(*(row for row in rows if {row[0], row[1]} <= known))


def bags(first, second):
    """Counts of the n-grams of 1 to 3 characters of each word."""

    def grams(word):
        return Counter(word[i : i + n] for n in (1, 2, 3) for i in range(len(word) - n + 1))

    counted = [[grams(w) for w in words] for words in (first, second)]
    place = {g: i for i, g in enumerate(sorted({g for side in counted for c in side for g in c}))}
    vectors = torch.zeros(2, len(first), len(place))
    for side, words in enumerate(counted):
        for row, count in enumerate(words):
            vectors[side, row, [place[g] for g in count]] = torch.tensor(
                list(count.values()), dtype=torch.float32
            )
    return vectors


def vocabulary(known, folder):
    """A tokenizer of the words of the tags to train on."""
    vocab = {w: i for i, w in enumerate(["[UNK]", *sorted(known)])}
    content = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": vocab},
    }  # fmt: skip
    file = Path(folder) / "tokenizer.json"
    file.write_text(json.dumps(content))
    return str(file)
