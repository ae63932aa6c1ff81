"""DUET (row 77): masked attributes predicted from pictures, and attributes in contrast, beside
regression of attributes. Chen et al., AAAI 2023, arXiv:2207.01328.

Real photographs of clothes (Fashion-MNIST), PAINTED in one of six colours and TURNED by one of four
right angles, since no set here has attributes of classes that look alike: the garment is real,
colour and turn are generated. A class is a garment, a colour and a turn. Each garment is trained on
in three neighbouring colours (attributes that occur together), validated on with a fourth and
tested on with the other two: 120 classes are seen, 80 are not. All arms see the same pictures with
the same steps; `regression` has no prompts of attributes. Rare attributes are not tested apart.
"""

from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import torch

from amodal import data, methods
from amodal.data import Loader
from amodal.methods.shared.prompts import attribute_vectors
from amodal_claims import Comparison
from amodal_claims._arms import Budget, best

CLAIM = (
    "Predicting masked attributes and contrasting attributes, beside regression of attributes, raises the accuracy of naming unseen "
    "combinations of garment, colour and turn among each other, and the harmonic mean of seen and unseen ones among all (calibrated on "
    "validation classes); predicting alone does less."
)
DATA = "fashion_mnist"
SEEDS = 5
BUDGET = Budget(steps=200, batch=64, rates=(1e-3, 4e-3))
ARMS = {
    "duet": {},
    "predicted": {"contrast": 0.0},
    "regression": {"chance": 0.0, "mask": 0.0, "contrast": 0.0},
}
UNSEEN, BOTH = (
    "accuracy among unseen classes, mean of classes",
    "harmonic mean of seen and unseen, calibrated",
)
COMPARISONS = (
    Comparison("DUET against regression", UNSEEN, "unseen, duet", "unseen, regression"),
    Comparison("DUET against regression", BOTH, "harmonic, duet", "harmonic, regression"),
    Comparison("contrast beside predicting", UNSEEN, "unseen, duet", "unseen, predicted"),
)
PAINTS = {
    "red": (230, 40, 40), "yellow": (230, 210, 40), "green": (40, 180, 60),
    "cyan": (50, 200, 220), "blue": (60, 80, 230), "purple": (180, 60, 200),
}  # fmt: skip
TURNS = ("upright", "left", "upside down", "right")
STACKING = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
SIZES = {
    "train": (4000, 0),
    "valid": (400, 400),
    "test": (800, 800),
}  # pictures of seen and of unseen classes


@lru_cache(1)
def painted(dataset):
    """Records of pictures and attributes, part -> (rows of seen classes, rows of unseen ones), and
    the classes (garment, colour, turn) that are seen, those for validation, those for the test."""
    labels = dataset.label("class")
    garments, rng = sorted(set(labels)), np.random.default_rng(7)
    ahead = {"seen": (0, 1, 2), "valid": (3,), "test": (4, 5)}
    classes = {
        kind: [
            (g, (g + a) % len(PAINTS), t)
            for g in range(len(garments))
            for a in steps
            for t in range(len(TURNS))
        ]
        for kind, steps in ahead.items()
    }
    pictures, cells, rows = [], [], {}
    for part, counts in SIZES.items():
        chosen = rng.choice(dataset.split(part), sum(counts), replace=False)
        for number, i in enumerate(chosen):
            new = number >= counts[0]
            colour = (garments.index(labels[i]) + rng.choice(ahead[part if new else "seen"])) % len(
                PAINTS
            )
            turn, paint = (
                int(rng.integers(len(TURNS))),
                np.array(list(PAINTS.values())[colour]) / 255,
            )
            grey = np.rot90(dataset.value(int(i), "image")[0], turn)
            pictures.append((grey[:, :, None] * paint).astype(np.uint8))
            cells.append(
                {"garment": labels[i], "colour": list(PAINTS)[colour], "turn": TURNS[turn]}
            )
        first = len(pictures) - len(chosen)
        rows[part] = (
            np.arange(first, first + counts[0]),
            np.arange(first + counts[0], len(pictures)),
        )
    made = data.open({"image": pictures, "attributes": cells})
    image = replace(made.fields["image"], size=28, patch=7, flip=False)
    described = {
        k: [
            {"garment": garments[g], "colour": list(PAINTS)[c], "turn": TURNS[t]}
            for g, c, t in some
        ]
        for k, some in classes.items()
    }
    return (
        made.with_fields({"image": image, "attributes": made.fields["attributes"]}),
        rows,
        described,
    )


def measure(seed, dataset):
    records, rows, classes = painted(dataset)
    table, found = records.fields["attributes"], {}
    vectors = {
        k: attribute_vectors(table, table.collate([table.decode(c) for c in v]))[0]
        for k, v in classes.items()
    }
    truth = {k: [tuple(c.values()) for c in v] for k, v in classes.items()}

    def named(method, some, kinds, stacking=0.0):
        """Mean over classes of the accuracy on the records `some` among the classes `kinds`, the
        scores of seen ones lowered."""
        among = [c for k in kinds for c in truth[k]]
        scores = hats(method, records, some) @ torch.cat([vectors[k] for k in kinds]).T
        scores[:, : len(truth["seen"]) if kinds[0] == "seen" else 0] -= stacking
        of = [tuple(records.raw(int(i), "attributes").values()) for i in some]
        right = np.array([among[g] == c for g, c in zip(scores.argmax(1).tolist(), of)])
        return float(np.mean([right[[c == k for c in of]].mean() for k in sorted(set(of))]))

    def harmonic(method, part, stacking):
        seen, unseen = (named(method, some, ("seen", part), stacking) for some in rows[part])
        return 2 * seen * unseen / max(seen + unseen, 1e-9)

    for arm, options in ARMS.items():
        make = partial(methods.build, "duet", **options)
        method = best(
            records,
            rows["train"][0],
            make,
            BUDGET,
            seed,
            lambda m: named(m, rows["valid"][1], ("valid",)),
        )
        found[f"unseen, {arm}"] = named(method, rows["test"][1], ("test",))
        found[f"stacking, {arm}"] = max(STACKING, key=lambda s, m=method: harmonic(m, "valid", s))
        found[f"harmonic, {arm}"] = harmonic(method, "test", found[f"stacking, {arm}"])
    return found


@torch.no_grad()
def hats(method, records, rows):
    """(N, A) attributes predicted of pictures."""
    parts = Loader(records, rows, batch=400, shuffle=False)
    return torch.cat([method.predict_attributes(batch)["image"].values for batch in parts])
