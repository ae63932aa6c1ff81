"""data2vec (row 123): predicting what a slow teacher makes of the whole input, in any modality with
one code path. Baevski et al., ICML 2022, arXiv:2202.03555.

Three modalities of the Earth, each alone: pictures (colour), series (a year of climate over the sea),
text (names of places). Three arms at the same encoder, steps, batch, share hidden and search:
targets averaged over the top 3 of 4 blocks, targets of the last block (K=1), and masked
reconstruction of the input. The teacher's memory is shortened as the training is: about 10 steps at
the start, 100 at the end.
"""

from functools import partial

import numpy as np

from amodal import methods
from amodal_claims import Comparison
from amodal_claims._arms import Budget, best, features, labelled, probe, untrained

CLAIM = (
    "In each of three modalities, with the same encoder and steps, a linear probe on data2vec features with targets averaged over the top 3 "
    "blocks beats one on features of masked reconstruction, and one on data2vec features with targets of the last block only."
)
DATA = "globe"
SEEDS = 5
BUDGET = Budget(steps=120, batch=32, size="tiny")
SETS = {  # modality: label, metric, share hidden (data2vec's own for that kind of data)
    "colour": ("zone", "accuracy, climate zone from pictures", 0.6),
    "climate": ("latitude", "R2, latitude from series", 0.49),
    "places": ("zone", "accuracy, climate zone from text", 0.15),
}
COMPARISONS = tuple(
    Comparison(f"{field}: top 3 against {name}", metric, f"{field}: top 3", f"{field}: {arm}")
    for field, (_, metric, _) in SETS.items()
    for arm, name in (("reconstruction", "masked reconstruction"), ("top 1", "K=1"))
)


def data2vec(top, encoder):
    return methods.build("data2vec", encoder, top=top, momentum=0.9, final_momentum=0.99)


def reconstruction(ratio, encoder):
    return methods.build("mae", encoder, ratio=ratio, together=False)


def measure(seed, dataset):
    found = {}
    for field in SETS:
        found |= {
            f"{field}: {arm}": value
            for arm, value in one(field, seed, dataset.select([field])).items()
        }
    return found


def one(field, seed, alone):
    """arm -> what the probe reads off its features of one modality."""
    label, _, ratio = SETS[field]
    there, labels = alone.present(field), alone.label(label)
    rows = {
        part: (r := labelled(alone, part, label))[there[r]] for part in ("train", "valid", "test")
    }
    everything = np.intersect1d(alone.split("train"), np.flatnonzero(there))

    def probed(method, part):
        train, test = (features(method.encoder, alone, rows[p])[field] for p in ("train", part))
        return probe(train, labels[rows["train"]], test, labels[rows[part]])

    def score(method):
        return probed(method, "valid")

    arms = {"top 3": partial(data2vec, 3), "top 1": partial(data2vec, 1)}
    arms["reconstruction"] = partial(reconstruction, ratio)
    found = {
        a: probed(best(alone, everything, make, BUDGET, seed, score), "test")
        for a, make in arms.items()
    }
    return found | {"untrained": probed(untrained(alone, arms["top 3"], BUDGET, seed), "test")}
