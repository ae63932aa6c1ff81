"""ALIGN (row 149): many noisy pairs beat few clean ones, and rules that only count words and
pictures make them better. Jia et al., ICML 2021, arXiv:2102.05918.

Linear heads on frozen vectors of emoji and of their names: 1,400 pairs of which 30 % of the names
were exchanged, which no rule can see, or the clean quarter of them. The paper's encoders learn from
nothing, on two billion pairs; here that would not reach what simple features find. Both arms take
the same steps of the same batch and the better of two rates on clean validation emoji; that sixty
are enough, and linear heads better than perceptrons, was looked at with the control alone. Division
and exchanges are drawn by the seed; what is tested on is clean. An earlier form of this claim
trained on Tux Paint's stamps from scratch, without floors, and was inconclusive (-.014); it also
had `pair_rules` find boilerplate and lists of keywords among captions, which tests of that part do.
"""

import numpy as np
import torch

from amodal import methods
from amodal.data import Dataset
from amodal.data.readers import Reader
from amodal_claims import Comparison, _frozen
from amodal_claims._arms import Budget, fit
from amodal_claims._captions import recall
from amodal_claims._floors import simple_recall

CLAIM = (
    "Four times the pairs, of which 30 % of the names are exchanged, find held-out emoji by name and the reverse better than the clean "
    "quarter of them, with the same heads on frozen vectors and the same steps."
)
DATA = _frozen.DATA
STEPS = (60, 120)
BATCH, RATES = 128, (1e-3, 4e-3)
MANY, VALID, TEST = 1400, 300, 500
FEW, WRONG = MANY // 4, 0.3
RECALL = "Recall@10, mean of both directions, 500 held-out emoji"
PRIMARY = Comparison(
    "4 x, 30 % wrong, against 1 x clean",
    RECALL,
    "4x wrong",
    "1x clean",
    # less than this, and cleaning would be worth its price
    interest=0.05,
)
SECONDARY = (
    Comparison("4 x, 30 % wrong, against 4 x clean", RECALL, "4x wrong", "4x clean"),
    Comparison("1 x clean against CCA of the same pairs", RECALL, "1x clean", "cca"),
)
FLOORS = ("chance", "untrained", "simple features")


class Exchanged(Reader):
    """The records of another reader, some of which (by number) have another record's value in
    `column`."""

    def __init__(self, reader: Reader, column: str, others: dict[int, int]):
        self.reader, self.column, self.others = reader, column, others
        self.keys, self.columns, self.base, self.ignored = (
            reader.keys,
            reader.columns,
            reader.base,
            reader.ignored,
        )

    def get(self, i, column):
        return self.reader.get(self.others.get(i, i) if column == self.column else i, column)

    def present(self, column):
        return self.reader.present(column)

    def check(self, column):
        return self.reader.check(column)

    def stamp(self):
        return self.reader.stamp()


def parts_of(dataset, seed):
    """Emoji to train on, to choose by, to test on; the first are in the order in which they are drawn."""
    emoji = _frozen.of_source(dataset, _frozen.EMOJI)
    order = np.random.default_rng([seed, 149]).permutation(emoji)
    return np.split(order[: MANY + VALID + TEST], [MANY, MANY + VALID])


def exchanged(two, rows):
    """The records, where each of `rows` has the name of another of them."""
    others = dict(zip(rows.tolist(), np.roll(rows, 1).tolist()))
    reader = Exchanged(two.reader, two.columns["words"], others)
    return Dataset(reader, two.schema, two.path, two.name)


def built(two, seed):
    torch.manual_seed(seed)
    encoder = _frozen.copying(two.fields)
    method = methods.build("align", encoder, width=128, temperature=0.07)
    method.views = ("plain",)
    return method


def of_arm(arm, seed, dataset, steps):
    two = _frozen.vectors(dataset)
    train, valid, test = map(np.array, parts_of(dataset, seed))
    rows = np.sort(train[:FEW] if arm.startswith("1x") else train)
    noisy = exchanged(two, train[: round(WRONG * MANY)]) if arm.endswith("wrong") else two
    budget = Budget(steps, BATCH, RATES)
    tried = [fit(built(two, seed), noisy, rows, budget, seed, rate) for rate in RATES]
    best = max(tried, key=lambda one: recall(one, two, np.sort(valid)))
    return {arm: recall(best, two, np.sort(test))}


def floors(seed, dataset):
    two = _frozen.vectors(dataset)
    train, _, test = parts_of(dataset, seed)
    both = _frozen.originals(dataset, np.concatenate([train[:FEW], test]))
    return {
        "chance": 10 / TEST,
        "untrained": recall(built(two, seed).eval(), two, np.sort(test)),
        "simple features": simple_recall(both, range(FEW), range(FEW, FEW + TEST)),
        "cca": _frozen.cca(two, train[:FEW], [np.sort(test)]),
    }


def control(seed, dataset, steps):
    return of_arm("1x clean", seed, dataset, steps)


def measure(seed, dataset, steps):
    found = {}
    for arm in ("1x clean", "4x wrong", "4x clean"):
        found |= of_arm(arm, seed, dataset, steps)
    return found
