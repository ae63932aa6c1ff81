"""ALIGN (row 149): many noisy pairs beat few clean ones, and rules that only count words and
pictures make them better. Jia et al., ICML 2021, arXiv:2102.05918. Tux Paint's stamps with noise
put into the captions to learn from (test captions are as they are): wrong ones, which no rule can
see; or boilerplate that many pictures share and lists of keywords, which `pair_rules` is for. Every
arm takes the same steps of the same batch at the learning rate that the library uses for this size.
"""

from functools import partial

import numpy as np

from amodal import methods
from amodal.curate.pair_rules import pair_rules, pairs_of
from amodal.data import Dataset
from amodal.data.readers import Reader
from amodal_claims import Comparison, _stamps
from amodal_claims._arms import Budget, trained
from amodal_claims._stamps import IMAGE, TEXT

CLAIM = (
    "Four times the pairs with 30 % of the captions exchanged find held-out pictures and captions better than the clean quarter of them; "
    "and of pairs with 40 % boilerplate and lists of keywords, those that the rules keep teach more than all, at the same steps."
)
DATA = _stamps.DATA
SEEDS = 5
BUDGET = Budget(steps=150, batch=64, rates=(2e-3,))
WRONG, JUNK = 0.3, 0.4
BOILERPLATE = (
    "Click to enlarge the picture",
    "Best price, free delivery",
    "Photo of the day",
    "Image may be under copyright",
    "Picture from our collection",
)
METRIC = "Recall@10, mean of both directions, 238 held-out pairs"
COMPARISONS = (
    Comparison("4 x, 30 % wrong, against 1 x clean", METRIC, "4x wrong", "1x clean"),
    Comparison("4 x, 40 % junk: filtered against all", METRIC, "4x junk, filtered", "4x junk"),
)


class ReplacedText(Reader):
    """The records of another reader, some of which (by number) have another text in `column`."""

    def __init__(self, reader: Reader, column: str, texts: dict[int, str]):
        self.reader, self.column, self.texts = reader, column, texts
        self.keys, self.columns, self.base, self.ignored = (
            reader.keys,
            reader.columns,
            reader.base,
            reader.ignored,
        )

    def get(self, i, column):
        return (
            self.texts[i]
            if column == self.column and i in self.texts
            else self.reader.get(i, column)
        )

    def present(self, column):
        return self.reader.present(column)

    def check(self, column):
        return self.reader.check(column)

    def stamp(self):
        return self.reader.stamp()


def with_texts(dataset: Dataset, texts: dict[int, str]) -> Dataset:
    return Dataset(
        ReplacedText(dataset.reader, dataset.columns[TEXT], texts),
        dataset.schema,
        dataset.path,
        dataset.name,
    )


def junk(dataset: Dataset, rows: np.ndarray, rng: np.random.Generator) -> dict[int, str]:
    """Half of it boilerplate, half of it the captions of ten other records one after another."""
    texts = {}
    for i in rows:
        others = " ".join(dataset.raw(j, TEXT) for j in rng.choice(len(dataset), 10, replace=False))
        texts[int(i)] = (
            others if rng.random() < 0.5 else BOILERPLATE[rng.integers(len(BOILERPLATE))]
        )
    return texts


def measure(seed, dataset):
    stamps = _stamps.stamps(dataset)
    parts, rng = _stamps.parts(stamps, seed), np.random.default_rng([seed, 1])
    rows = parts["train"]
    mixed = rng.permutation(rows)
    wrong, spoilt = (mixed[: round(share * len(rows))] for share in (WRONG, JUNK))
    exchanged = {int(i): stamps.raw(int(j), TEXT) for i, j in zip(wrong, np.roll(wrong, 1))}
    noisy, littered = with_texts(stamps, exchanged), with_texts(stamps, junk(stamps, spoilt, rng))
    # pictures of this set are at most 128 pixels, and a caption may be one name
    rules = pair_rules(**pairs_of(littered, rows, IMAGE, TEXT), short_side=0, least_words=1)
    arms = {
        "1x clean": (stamps, np.sort(rng.permutation(rows)[: len(rows) // 4])),
        "4x clean": (stamps, rows),
        "4x wrong": (noisy, rows),
        "4x junk": (littered, rows),
        "4x junk, filtered": (littered, rows[rules.passed]),
    }
    make, found = partial(methods.build, "align", width=64, temperature=0.07), {}
    for arm, (data, records) in arms.items():
        method = trained(data, records, make, BUDGET, seed, BUDGET.rates[0])
        found[arm] = _stamps.recall(method, stamps, parts["test"])
    truly = np.isin(rows, spoilt)
    return found | {
        "junk that was dropped": float((~rules.passed)[truly].mean()),
        "others dropped": float((~rules.passed)[~truly].mean()),
    }
