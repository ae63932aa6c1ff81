"""How good prompts can get (row 54): more prompts help as 1 / sqrt(M), towards a floor that
captions set. Mehta and Harchaoui, ICML 2025, arXiv:2507.09128.

GENERATED tables p(x, z, y), where risks are exact: y follows z but for a share that depends on x as
well. Real: OpenMoji's pictures and English names in Unicode's nine groups, split anew for each
seed; CLIP learns from pairs alone, and prompts of a group are names of its training records. In the
second arm words that reveal the group (three times or more, four in five in one group) are "thing" in
all names.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch.nn.functional import normalize

from amodal import data, methods
from amodal.diagnose.zsp_theory import limit, prompt_bias, prompt_curve, residual_dependence, terms
from amodal.evaluate import embed_records
from amodal.inference.embed import embed_values
from amodal.modalities import make
from amodal_claims import Comparison
from amodal_claims._arms import Budget, probe, trained

CLAIM = (
    "On generated tables the distance of prompted predictions from what captions allow falls as M to the power -0.5 (within 0.1); with "
    "1,024 prompts the distance from the best predictor is larger where labels depend on pictures beyond captions, and larger for one "
    "fixed prompt a class than for drawn ones. On emoji a + b / sqrt(M) explains over .9 of the curve of zero-shot error, eight templates "
    "err more often than eight captions, and without the words that reveal the group the gap to a linear probe and the estimated "
    "residual dependence are larger."
)
DATA = "openmoji"
SEEDS = 5
BUDGET = Budget(steps=200, batch=64, rates=(2e-3,))
TRAIN, TABLES, DRAWS, LEAK = 1300, 20, 20, 0.5
SHAPE, COUNTS = (12, 10, 3), (16, 64, 256, 1024)
GROUPS = {
    "people-body": "person or body part",
    "flags": "flag",
    "objects": "object",
    "symbols": "symbol",
    "travel-places": "vehicle or place",
    "smileys-emotion": "smiley or emotion",
    "animals-nature": "animal or plant",
    "food-drink": "food or drink",
    "activities": "sport or activity",
}
TEMPLATES = (
    "{}", "a {}", "a picture of a {}", "an emoji of a {}", "a drawing of a {}", "the {}", "a small {}", "one {}"
)  # fmt: skip
DISTANCE, ERROR = (
    "root of the mean squared distance of probabilities",
    "zero-shot error, nine groups",
)
COMPARISONS = (
    Comparison(
        "tables: how the distance falls with M",
        "power of M, against -0.5",
        "tables: power",
        -0.5,
        within=0.1,
    ),
    Comparison(
        "tables: leakage against none, 1,024 prompts", DISTANCE, "tables: leaking", "tables: drawn"
    ),
    Comparison(
        "tables: fixed prompts against 1,024 drawn", DISTANCE, "tables: fixed", "tables: drawn"
    ),
    Comparison("emoji: a + b / sqrt(M)", "share of the curve's variance", "predicted: sqrt", 0.9),
    Comparison(
        "emoji: eight templates against eight captions",
        ERROR,
        "error: 8 templates",
        "error: 8 captions",
    ),
    Comparison(
        "emoji: names without revealing words",
        "error beyond the probe's",
        "gap: thing",
        "gap: names",
    ),
    Comparison(
        "emoji: names without revealing words",
        "residual dependence",
        "dependence: thing",
        "dependence: names",
    ),
)


def table(rng, leak):
    x, z, y = SHAPE
    p_xz = rng.dirichlet(np.full(x * z, 0.3)).reshape(x, z, 1)
    return torch.from_numpy(
        p_xz
        * (
            (1 - leak) * rng.dirichlet(np.full(y, 0.3), z)
            + leak * rng.dirichlet(np.full(y, 0.3), (x, z))
        )
    )


def on_tables(seed):
    squares = {
        (leak, kind): np.zeros(len(COUNTS)) for leak in (0.0, LEAK) for kind in ("bias", "excess")
    }
    fixed = 0.0
    for number in range(TABLES):
        for leak in (0.0, LEAK):
            rng = np.random.default_rng([seed, 54, number])
            p = table(rng, leak)
            law = (p.sum(0) / p.sum((0, 1))).T.numpy()  # (Y, Z): captions of a class
            for column, count in enumerate(COUNTS):
                for _ in range(DRAWS):
                    rho = torch.from_numpy(
                        np.stack([rng.multinomial(count, row) for row in law]) / count
                    )
                    found = terms(p, rho)
                    for kind in ("bias", "excess"):
                        squares[leak, kind][column] += found[kind] / TABLES / DRAWS
            if not leak:
                likeliest = torch.nn.functional.one_hot(torch.from_numpy(law).argmax(1), SHAPE[1])
                fixed += terms(p, likeliest)["excess"] / TABLES
    power = np.polyfit(np.log(COUNTS), np.log(squares[0.0, "bias"]) / 2, 1)[0]
    return {
        "tables: power": float(power),
        "tables: drawn": float(squares[0.0, "excess"][-1] ** 0.5),
        "tables: leaking": float(squares[LEAK, "excess"][-1] ** 0.5),
        "tables: fixed": fixed**0.5,
    }


def split(name):
    return name.lower().replace(":", " :").replace(",", " ,").split()


def discriminative(names, groups):
    """The words that reveal the group."""
    seen = {}
    for name, group in zip(names, groups):
        for word in set(split(name)):
            seen.setdefault(word, []).append(group)
    return {w for w, g in seen.items() if len(g) >= 3 and max(map(g.count, set(g))) >= 0.8 * len(g)}


def emoji(dataset, seed):
    """Two datasets of the same pictures with names in full and without revealing words; the training
    and the test records; codes of groups."""
    group = dataset.label("group")
    rows = np.array([i for i in range(len(dataset)) if group[i] in GROUPS])
    rows = np.random.default_rng([seed, 54]).permutation(rows)
    train, test = np.sort(rows[:TRAIN]), np.sort(rows[TRAIN:])
    names = [dataset.raw(i, "annotation") for i in range(len(dataset))]
    class_words = discriminative([names[i] for i in train], group[train])
    spoilt = [" ".join("thing" if w in class_words else w for w in split(n)) for n in names]
    names = [" ".join(split(n)) for n in names]
    pictures = [dataset.raw(i, "image") for i in range(len(dataset))]
    image = replace(dataset.fields["image"], size=32, patch=8)
    fields = {"image": image, "text": make("text", max_length=48, patch=2)}
    opened = {
        arm: data.open({"image": pictures, "text": texts}, name=f"emoji, {arm}", fields=fields)
        for arm, texts in (("names", names), ("thing", spoilt))
    }
    number = {name: i for i, name in enumerate(GROUPS)}
    return opened, train, test, torch.tensor([number.get(g, -1) for g in group])


def measure(seed, dataset):
    found = on_tables(seed)
    opened, train, test, code = emoji(dataset, seed)
    names = dataset.label("group")
    for arm, records in opened.items():
        method = trained(
            records, train, partial(methods.build, "clip"), BUDGET, seed, *BUDGET.rates
        )
        learnt, held = (
            embed_records(method.encoder, records, rows, labels=False) for rows in (train, test)
        )
        pool, seen, said = (
            z.aligned[s].values for z, s in ((learnt, "text"), (held, "image"), (held, "text"))
        )
        y_train, y_test = code[train], code[test]
        curve = prompt_curve(seen, y_test, pool, y_train, seed=seed)
        a, b = (z.features["image"] for z in (learnt, held))
        best = 1 - probe(a, names[train], b, names[test])
        risks = residual_dependence(seen, said, y_test, seed=seed)
        found |= {f"error: {row['prompts']} captions, {arm}": row["error"] for row in curve}
        found |= {f"gap: {arm}": curve[-1]["error"] - best, f"error: probe, {arm}": best}
        found |= {
            f"dependence: {arm}": risks["dependence"],
            f"risk, captions: {arm}": risks["captions"],
        }
        if arm == "names":
            prompts = [t.format(words) for words in GROUPS.values() for t in TEMPLATES]
            vectors = normalize(embed_values(method.encoder, "text", prompts), dim=1)
            of = torch.arange(len(GROUPS)).repeat_interleave(len(TEMPLATES))
            templates = prompt_curve(seen, y_test, vectors, of, seed=seed)
            captions = {row["prompts"]: row["error"] for row in curve}
            bias = prompt_bias(vectors, of, normalize(pool, dim=1), y_train)
            found |= {
                f"error: {n} templates": row["error"] for row in templates for n in [row["prompts"]]
            }
            found |= {
                "error: 8 captions": captions[8],
                "limit": limit(curve)[0],
                "predicted: sqrt": limit(curve)[2],
            }
            found |= {
                "predicted: 1 / M": limit(curve, 1.0)[2],
                "bias of templates": float(np.mean(list(bias.values()))),
            }
    return found
