"""MAESTRO (row 18): dates that see each other from the first block, against each date alone. Labatie et
al., WACV 2026, arXiv:2508.10894.

Generated farmland (`crops`), since no package has a series of satellite images with labels: four bands,
twelve dates of which some are cloudy, six crops that differ by when they are green. The paper finds that
early fusion of dates helps where the label is a matter of the season. Arms are the page with the fusions
"mod" and "monotemp", at the same rate, batch, steps and number of blocks; the control is "monotemp". What
is asked is a linear probe of the crop on the mean of tokens, fitted on the training records, read once on
the test part. The second finding: pixels standardised with all bands of a patch against band by band, which
takes the ratios of bands from the target. Known before: a first pilot of a page whose decoder, with dates
alone, let hidden tokens see no visible ones (.80 to .82 after 150 and 300 steps, .81 untrained), and two
runs of it with dates together (.92 and .93 after 300).
"""

import numpy as np

from amodal import methods
from amodal_claims import Comparison
from amodal_claims._arms import Budget, features, labelled, probe, trained, untrained
from amodal_claims._floors import simple_probe

CLAIM = (
    "A masked autoencoder of a series of images, in which dates see each other from the first block, has a higher accuracy of a linear probe of "
    "the crop, which is a matter of the season, than one in which each date is encoded alone."
)
DATA = "crops"
ROW = 18
STEPS = (150, 300)
BATCH, RATE = 64, 2e-3
FIELD, LABEL = "tile", "crop"
ARMS = {
    "dates together": {"fusion": "mod"},
    "dates alone": {"fusion": "monotemp"},
    "band by band": {"fusion": "mod", "norm_bands": "band"},
}
ACCURACY = "accuracy of the crop, linear probe, held-out tiles"
PRIMARY = Comparison(
    "dates together against each alone",
    ACCURACY,
    "crop: dates together",
    "crop: dates alone",
    interest=0.05,
)
SECONDARY = (
    Comparison(
        "all bands of a patch standardised against each by itself",
        ACCURACY,
        "crop: dates together",
        "crop: band by band",
    ),
)
FLOORS = ("chance", "untrained", "simple features")


def made(arm):
    return lambda encoder: methods.build("maestro", encoder, **ARMS[arm])


def parts(dataset):
    train, test = labelled(dataset, "train", LABEL), labelled(dataset, "test", LABEL)
    return train, test, dataset.label(LABEL)


def score(encoder, dataset):
    train, test, labels = parts(dataset)
    vectors = [features(encoder, dataset, rows)[FIELD] for rows in (train, test)]
    return probe(vectors[0], labels[train], vectors[1], labels[test])


def of_arm(arm, seed, dataset, steps):
    options = methods.encoder_options("maestro")
    budget = Budget(steps, BATCH, (RATE,))
    method = trained(dataset, dataset.split("train"), made(arm), budget, seed, RATE, **options)
    return {f"crop: {arm}": score(method.encoder.eval(), dataset)}


def floors(seed, dataset):
    train, test, labels = parts(dataset)
    options = methods.encoder_options("maestro")
    begun = untrained(dataset, made("dates alone"), Budget(0, BATCH), seed, **options)
    return {
        "chance": float(np.unique(labels[test], return_counts=True)[1].max() / len(test)),
        "untrained": score(begun.encoder.eval(), dataset),
        "simple features": simple_probe(dataset, train, labels[train], test, labels[test]),
    }


def control(seed, dataset, steps):
    return of_arm("dates alone", seed, dataset, steps)


def measure(seed, dataset, steps):
    return {k: v for arm in ARMS for k, v in of_arm(arm, seed, dataset, steps).items()}
