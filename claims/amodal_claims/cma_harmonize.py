"""Gradient harmonization (row 53): where triplets do not fit together, let no loss undo the other,
and leave out what conflicts most. Wu et al., NeurIPS 2022, arXiv:2211.02077. Tux Paint's stamps as
triplets of picture, caption and spoken name (French), anchored to the picture. Of the triplets to
train on 20 % get another's caption and 20 % another's voice; those to test on are as they are. All
arms have one trunk for all modalities and the same steps, batch and rate. A projected step goes forward
twice, and back once for each loss."""

from dataclasses import replace
from functools import partial
from statistics import mean

import numpy as np

from amodal import methods
from amodal.curate.poison import mismatched
from amodal.evaluate import embed_records
from amodal.evaluate.drawing import COLOURS, drawing
from amodal.evaluate.protocols.retrieval import retrieval
from amodal.methods.contrastive.cma_harmonize import HarmonizedGradients
from amodal_claims import Comparison, _stamps
from amodal_claims._arms import Budget, fit, untrained

CLAIM = (
    "With 40 % of the triplets mismatched, projecting conflicting gradients and leaving out the most conflicting triplets gives a higher "
    "Recall@5 between picture and caption and voice and a higher linear-probe accuracy than summing the two losses; each of the two steps "
    "alone does so too; and a triplet's mean gradient cosine over training separates clean from mismatched ones (AUC above .5)."
)
DATA = _stamps.DATA
SEEDS = 5
BUDGET = Budget(steps=80, batch=64, rates=(2e-3,))
FIELDS = ("image", "caption", "speech")
WRONG = 0.4
ARMS = {
    "sum": {"realigned": False, "sift": "none"},
    "projected": {"realigned": True, "sift": "none"},
    "sifted": {"realigned": False, "sift": "row"},
    "both": {"realigned": True, "sift": "row"},
}
RECALL = "Recall@5, mean of picture with caption and with voice, held out"
PROBE = "accuracy, linear probe, 10 categories"
AUC = "AUC of the mean gradient cosine, clean against mismatched"
COMPARISONS = (
    *(
        Comparison(f"{words} against the sum", metric, f"{short}: {arm}", f"{short}: sum")
        for short, metric in (("recall", RECALL), ("probe", PROBE))
        for arm, words in (
            ("both", "projected and sifted"),
            ("projected", "projected"),
            ("sifted", "sifted"),
        )
    ),
    Comparison("detecting mismatched triplets, arm with both", AUC, "auc: both", 0.5),
)


def small(dataset):
    """Pictures of 32 pixels, captions in tokens of 2 bytes, voices in tokens of .3 s of 32 mel
    bands."""
    speech = replace(
        dataset.fields["speech"], mels=32, hop_ms=20.0, patch=(16, 32), mean=0.0, std=0.0
    )
    return dataset.with_fields(_stamps.stamps(dataset).fields | {"speech": speech})


def spoilt(dataset, rows, seed, share=WRONG):
    """The dataset with half of `share` of the rows having another's caption and half another's
    voice, and which rows these are."""
    order = np.random.default_rng([seed, 53]).permutation(rows)[: round(share * len(rows))]
    texts, voices = order[::2], order[1::2]
    for field, some in (("caption", texts), ("speech", voices)):
        dataset = mismatched(dataset, some, field=field, seed=seed) if len(some) else dataset
    return dataset, order


def triplets(dataset, seed):
    rows = {part: np.asarray(r) for part, r in _stamps.parts(dataset, seed).items()}
    return {part: r[dataset.present("speech")[r]] for part, r in rows.items()}


def run(arm, dataset, rows, seed, watched=False):
    """The trained method, of each record the mean cosine of its two gradients (where rows are
    sifted), and of each step that of the gradients of the two losses (of the arms that project;
    `watched`: of any)."""
    method = untrained(
        dataset,
        partial(methods.build, "cma_harmonize", captions=1, width=64, **ARMS[arm]),
        BUDGET,
        seed,
        trunk="shared",
    )
    if watched:
        method.combine_gradients = HarmonizedGradients.combine_gradients.__get__(method)
    each, last, steps = {}, [], []

    def note(method, batch, step):
        take()
        last[:] = batch.keys
        return batch

    def take():
        rows = method.last_row_cosines
        if last and rows is not None:
            for row, value in zip(rows.rows.tolist(), rows.values.tolist()):
                each.setdefault(last[row], []).append(value)
        steps.extend(float(v) for v in method.last_cosines.values())

    fit(method, dataset, rows, BUDGET, seed, BUDGET.rates[0], choose=note)
    take()
    return method, {key: mean(values) for key, values in each.items()}, steps


def auc(cosine, keys, wrong):
    """How often a clean triplet has a higher cosine than a mismatched one."""
    values = np.array([cosine[k] for k in keys if k in cosine])
    clean = np.array([k not in wrong for k in keys if k in cosine])
    return float(
        (values[clean][:, None] > values[~clean]).mean()
        + (values[clean][:, None] == values[~clean]).mean() / 2
    )


def recall(method, dataset, rows):
    found = retrieval(
        None, embed_records(method.encoder, dataset, rows, labels=False), recall_at=(5,)
    ).rows
    return mean(
        r["value"]
        for r in found
        if r["metric"] == "recall@5" and "image" in (r["source"], r["target"])
    )


def measure(seed, dataset):
    stamps, found = small(dataset), {}
    rows = triplets(stamps, seed)
    noisy, wrong = spoilt(stamps, rows["train"], seed)
    keys, bad = [stamps.keys[i] for i in rows["train"]], {stamps.keys[i] for i in wrong}
    for arm in ARMS:
        method, cosine, steps = run(arm, noisy, rows["train"], seed)
        found[f"recall: {arm}"] = recall(method, stamps, rows["test"])
        found[f"probe: {arm}"] = _stamps.linear(method, stamps, rows["train"], rows["test"])
        if cosine:
            found[f"auc: {arm}"] = auc(cosine, keys, bad)
        if steps:
            found[f"steps in conflict: {arm}"] = float(np.mean(np.array(steps) < 0))
    return found


def picture(dataset, path):
    """How the gradients of the two losses stand to each other over training, and the mean cosines
    of triplets, clean and mismatched."""
    stamps = small(dataset)
    rows = triplets(stamps, 0)
    noisy, wrong = spoilt(stamps, rows["train"], 0)
    bad = {stamps.keys[i] for i in wrong}
    lines = (
        ("sum", stamps, "all triplets fit, summed"),
        ("sum", noisy, "40 % mismatched, summed"),
        ("both", noisy, "40 %, both steps"),
    )
    with drawing(path, 9, 3.2) as figure:
        left, right = figure.subplots(1, 2)
        for (arm, data, words), colour in zip(lines, COLOURS):
            _, cosine, steps = run(arm, data, rows["train"], 0, watched=True)
            angles = np.degrees(np.arccos(np.clip(steps, -1, 1)))
            width = max(1, len(angles) // 10)
            smooth = np.convolve(angles, np.ones(width) / width, "valid")
            left.plot(
                np.arange(1, len(angles) + 1), angles, color=colour, alpha=0.25, linewidth=0.8
            )
            left.plot(np.arange(len(smooth)) + (width + 1) / 2, smooth, color=colour, label=words)
        left.axhline(90, color="#444444", linewidth=0.8, linestyle="--")
        left.set(
            title="Angle between the gradients of the two losses",
            xlabel="step",
            ylabel="degrees; above 90: conflict",
        )
        left.legend(fontsize=7)
        parts = {
            "clean": [v for k, v in cosine.items() if k not in bad],
            "mismatched": [v for k, v in cosine.items() if k in bad],
        }
        for (words, values), colour in zip(parts.items(), COLOURS):
            right.hist(
                values,
                bins=30,
                range=(-0.75, 0.75),
                density=True,
                alpha=0.6,
                color=colour,
                label=f"{words}, {len(values)}",
            )
        right.set(
            title="Mean cosine of a triplet's two gradients",
            xlabel="cosine at the picture's vector",
            ylabel="density",
        )
        right.legend()
