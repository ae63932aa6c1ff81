"""LESS ViT (row 70): bands that are known by their wavelengths, against bands that are known by their
numbers. Si et al. 2025, arXiv:2503.12843.

Generated scenes of minerals (`spectra`), since no package has labelled scenes of two sensors. Both
arms are the page, at the same rate, batch and steps, on the scenes of one sensor; in the one a band
is known by its wavelength, in the other by a code of its number, as in a network of fixed channels.
A linear probe of the mineral is fitted on vectors of the training scenes of that sensor, and read
once on vectors of held-out scenes of another one, whose eight bands have other wavelengths. Floors
are cleared on held-out scenes of the sensor that was trained on, as on the other one the control may
have lost what it has learnt, which is the claim. Nothing was known before but that the page trains.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import torch

from amodal import methods
from amodal.core import Batch, Column
from amodal.data import Dataset
from amodal_claims import Comparison
from amodal_claims._arms import Budget, labelled, probe, trained, untrained
from amodal_claims._floors import simple_probe

CLAIM = (
    "A masked autoencoder that knows bands by their wavelengths carries a linear probe over to a sensor with other bands with a higher accuracy "
    "than one that knows them by their numbers."
)
DATA = "spectra"
ROW = 70
STEPS = (150, 300)
BATCH, RATE = 64, 2e-3
SEEN, UNSEEN, LABEL = "seen", "unseen", "mineral"
ARMS = ("wavelength", "number")
CODES = (450.0, 1900.0, 1100.0, 700.0, 2300.0, 900.0, 1500.0, 560.0)
"""What stands in the place of a wavelength for the first band, the second, …, of any sensor."""
ACCURACY = (
    "accuracy of the mineral, linear probe, held-out scenes of a sensor that was not trained on"
)
PRIMARY = Comparison(
    "wavelengths against numbers", ACCURACY, "unseen: wavelength", "unseen: number", interest=0.05
)
CONTROL = "seen: number"
SECONDARY = (
    Comparison("on the sensor that was trained on", "accuracy", "seen: wavelength", "seen: number"),
)
FLOORS = ("chance", "untrained", "simple features")


@cache
def read_as(dataset: Dataset, arm: str) -> Dataset:
    """The scenes of both sensors, with bands as an arm knows them."""
    single = {name: dataset.fields[name].read_by_wavelength() for name in (SEEN, UNSEEN)}
    if arm == "number":
        single = {name: replace(modality, wavelengths=CODES) for name, modality in single.items()}
    return dataset.with_fields(single)


def vectors(encoder, dataset, rows, sensor):
    """(n, D) of scenes of a sensor, by the network that was trained on the first one."""
    modality, parts = dataset.fields[sensor], []
    for part in np.array_split(rows, -(-len(rows) // 256)):
        values = modality.collate([dataset.value(int(i), sensor) for i in part])
        with torch.no_grad():
            batch = Batch.of(len(part), {SEEN: Column(values, torch.arange(len(part)))})
            parts.append(encoder.features(batch)[SEEN].values)
    return Column(torch.cat(parts), torch.arange(len(rows)))


def parts_of(dataset):
    train, test = labelled(dataset, "train", LABEL), labelled(dataset, "test", LABEL)
    return train, test, dataset.label(LABEL)


def scores(arm, encoder, dataset):
    train, test, labels = parts_of(dataset)
    fitted = vectors(encoder, dataset, train, SEEN)
    return {
        f"{name}: {arm}": probe(
            fitted, labels[train], vectors(encoder, dataset, test, sensor), labels[test]
        )
        for name, sensor in (("seen", SEEN), ("unseen", UNSEEN))
    }


def made(encoder):
    return methods.build("less_vit", encoder)


def of_arm(arm, seed, dataset, steps):
    whole = read_as(dataset, arm)
    options = methods.encoder_options("less_vit")
    sensor = whole.select([SEEN])
    budget = Budget(steps, BATCH, (RATE,))
    method = trained(sensor, sensor.split("train"), made, budget, seed, RATE, **options)
    return scores(arm, method.encoder.eval(), whole)


def floors(seed, dataset):
    whole = read_as(dataset, "number")
    options = methods.encoder_options("less_vit")
    begun = untrained(whole.select([SEEN]), made, Budget(0, BATCH), seed, **options)
    train, test, labels = parts_of(dataset)
    return {
        "chance": float(np.unique(labels[test], return_counts=True)[1].max() / len(test)),
        "untrained": scores("begun", begun.encoder.eval(), whole)["seen: begun"],
        "simple features": simple_probe(
            dataset.select([SEEN]), train, labels[train], test, labels[test]
        ),
    }


def control(seed, dataset, steps):
    return of_arm("number", seed, dataset, steps)


def measure(seed, dataset, steps):
    return {k: v for arm in ARMS for k, v in of_arm(arm, seed, dataset, steps).items()}
