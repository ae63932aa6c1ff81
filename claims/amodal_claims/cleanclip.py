"""CleanCLIP (row 50): fine-tuning on clean pairs with losses within each modality removes a backdoor
that CLIP's own loss leaves. Bansal et al., ICCV 2023, arXiv:2303.03323. OpenMoji's pictures with
their short texts, in nine of Unicode's groups. Of the pictures to learn from that are not of food,
10 % get a noisy corner of 8 x 8 pixels and the text of some food. After CLIP on these, each defence
takes the same steps of the same batch at the same rate on a third of the clean pairs; the class of
a test picture is the group whose texts' mean vector lies nearest. The supervised defence learns the
groups with a linear head and answers with it.

The first run had 5 %, 3 x 3 pixels and 150 steps, and its attack did not take (success .05 before
any defence), so that it tested nothing. The attack was then strengthened on two other seeds, with
no defence looked at, until it did; the defences were left as they were."""

import copy
import json
from functools import partial
from statistics import mean

import numpy as np
import torch
from torch import nn

from amodal import methods
from amodal.curate.poison import Patch, backdoor, sample_rows, triggered
from amodal.data import class_numbers
from amodal.evaluate import embed_records
from amodal.evaluate.backdoor import attack_success, nearest_class, trigger_shift
from amodal.evaluate.drawing import COLOURS, drawing
from amodal.methods.contract import Features, Method
from amodal.modalities import make
from amodal_claims import Comparison
from amodal_claims._arms import Budget, fit, plain_clip, trained, untrained

CLAIM = (
    "Fine-tuning a poisoned CLIP on clean pairs with CLIP's loss alone leaves an attack success rate above .5, and more than twice that "
    "after CleanCLIP, which costs less than .03 of the accuracy on clean pictures; more weight on the losses within modalities removes more; "
    "supervised fine-tuning brings the rate below .1."
)
DATA = "openmoji"
SEEDS = 5
BUDGET = Budget(steps=400, batch=64, rates=(2e-3,))
DEFENCE = Budget(steps=80, batch=64, rates=(5e-4,))
IMAGE, TEXT, LABEL, TARGET = "image", "annotation", "group", "food-drink"
GROUPS = (
    "activities", "animals-nature", "flags", "food-drink", "objects", "people-body", "smileys-emotion", "symbols", "travel-places",
)  # fmt: skip
TRIGGER, SHARE = Patch(side=0.25), 0.1
WEIGHTS = {"clip": 0.0, "cleanclip": 1.0, "cleanclip, 4": 4.0}
ATTACK, ACCURACY = (
    "attack success rate, triggered test pictures of 8 groups",
    "accuracy, zero-shot, 9 groups",
)
COMPARISONS = (
    Comparison("what CLIP alone leaves", ATTACK, "attack: clip", 0.5),
    Comparison("CLIP alone against twice CleanCLIP", ATTACK, "attack: clip", "attack: cleanclip, doubled"),
    Comparison("CleanCLIP against CLIP alone, at most .03 less", ACCURACY, "accuracy: cleanclip", "accuracy: clip", margin=-0.03),
    Comparison("weight 1 against weight 4", ATTACK, "attack: cleanclip", "attack: cleanclip, 4"),
    Comparison("supervised: pictures that resist", f"1 - {ATTACK}", "resists: supervised", 0.9),
)  # fmt: skip


class Supervised(Method):
    """The paper's other defence: the tower of pictures learns their labels."""

    labels = (LABEL,)

    def __init__(self, encoder, classes):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.width, classes)

    def features(self, batch):
        return Features(
            {IMAGE: self.encoder.features(batch.only(IMAGE))[IMAGE], LABEL: batch.labels[LABEL]},
            batch.size,
        )

    def losses(self, features):
        z, y = features.pair(IMAGE, LABEL)
        return {LABEL: nn.functional.cross_entropy(self.head(z), y)}


def small(dataset):
    image = make(
        "image",
        size=32,
        patch=8,
        channels=3,
        mean=dataset.fields[IMAGE].mean,
        std=dataset.fields[IMAGE].std,
    )
    text = make("text", max_length=16, patch=2, strong="words")
    return dataset.select([IMAGE, TEXT]).with_fields({IMAGE: image, TEXT: text})


def parts_of(dataset, seed):
    """Records to learn from, those of them that are poisoned, clean ones for the defence, and
    records to test on."""
    usable = np.flatnonzero(
        np.isin(dataset.label(LABEL), GROUPS) & dataset.present(IMAGE) & dataset.present(TEXT)
    )
    order = np.random.default_rng([seed, 50]).permutation(usable)
    train, test = np.split(order, [round(0.75 * len(order))])
    poisoned = sample_rows(dataset, train[dataset.label(LABEL)[train] != TARGET], SHARE, seed=seed)
    clean = train[~np.isin(train, poisoned)]
    return np.sort(train), poisoned, clean[: len(clean) // 3], np.sort(test)


def poisoned_clip(dataset, train, poisoned, seed):
    """CLIP after the attack. The texts planted are those of food that is in the data."""
    food = train[dataset.label(LABEL)[train] == TARGET]
    templates = [
        dataset.raw(int(i), TEXT) for i in np.random.default_rng([seed, 51]).permutation(food)
    ]
    spoilt = backdoor(
        dataset, poisoned, image=IMAGE, text=TEXT, target="", trigger=TRIGGER, templates=templates
    )
    # pictures as they are, as in the paper: no crop cuts the trigger off
    return trained(spoilt, train, plain_clip, BUDGET, seed, BUDGET.rates[0])


def defended(method, dataset, clean, seed, within):
    """CleanCLIP from the poisoned weights and temperature on."""
    start = untrained(dataset, partial(methods.build, "cleanclip", within=within), DEFENCE, seed)
    start.encoder.load_state_dict(method.encoder.state_dict())
    start.learned.load_state_dict(method.learned.state_dict())
    return fit(start, dataset, clean, DEFENCE, seed, DEFENCE.rates[0])


def vectors(method, dataset, rows):
    return (
        embed_records(method.encoder, dataset.select([IMAGE]), rows, labels=False)
        .aligned[IMAGE]
        .values
    )


def prompts(method, dataset, clean):
    """(9, D): the mean text of each group among the clean pairs."""
    texts = (
        embed_records(method.encoder, dataset.select([TEXT]), clean, labels=False)
        .aligned[TEXT]
        .values
    )
    unit, labels = nn.functional.normalize(texts, dim=1), dataset.label(LABEL)[clean]
    return torch.stack([unit[torch.from_numpy(labels == g)].mean(0) for g in GROUPS])


def measure(seed, dataset):
    dataset = small(dataset)
    train, poisoned, clean, test = parts_of(dataset, seed)
    shown = triggered(dataset, image=IMAGE, trigger=TRIGGER)
    truth, target = (
        torch.tensor([GROUPS.index(g) for g in dataset.label(LABEL)[test]]),
        GROUPS.index(TARGET),
    )
    attacked = poisoned_clip(dataset, train, poisoned, seed)
    arms = {"poisoned": attacked} | {
        a: defended(attacked, dataset, clean, seed, w) for a, w in WEIGHTS.items()
    }
    found = {}
    for arm, method in arms.items():
        classes, plain, bad = (
            prompts(method, dataset, clean),
            *(vectors(method, d, test) for d in (dataset, shown)),
        )
        found |= {
            f"attack: {arm}": attack_success(bad, classes, truth, target),
            f"taken for food without a trigger: {arm}": attack_success(
                plain, classes, truth, target
            ),
            f"accuracy: {arm}": float((nearest_class(plain, classes) == truth).float().mean()),
            f"shift: {arm}": trigger_shift(plain, bad),
        }
    names = class_numbers(dataset.label(LABEL))[1]
    torch.manual_seed(seed)
    supervised = Supervised(copy.deepcopy(attacked.encoder), len(names))
    supervised = fit(supervised, dataset, clean, DEFENCE, seed, DEFENCE.rates[0])
    predictions = []
    for data in (dataset, shown):
        seen = (
            embed_records(supervised.encoder, data.select([IMAGE]), test, labels=False)
            .features[IMAGE]
            .values
        )
        predictions.append(np.array(names)[supervised.head(seen).argmax(1).numpy()])
    others = dataset.label(LABEL)[test] != TARGET
    attack = float((predictions[1][others] == TARGET).mean())
    return found | {
        "attack: cleanclip, doubled": 2 * found["attack: cleanclip"],
        "attack: supervised": attack,
        "resists: supervised": 1 - attack,
        "accuracy: supervised": float((predictions[0] == dataset.label(LABEL)[test]).mean()),
    }


def picture(dataset, path):
    """Attack success and accuracy of every arm, and one seed's test pictures with and without the
    trigger in the plane in which they spread most, before and after."""
    dataset = small(dataset)
    train, poisoned, clean, test = parts_of(dataset, 0)
    shown = triggered(dataset, image=IMAGE, trigger=TRIGGER)
    attacked = poisoned_clip(dataset, train, poisoned, 0)
    both = {
        "poisoned": attacked,
        "after CleanCLIP, weight 4": defended(attacked, dataset, clean, 0, 4.0),
    }
    each = (
        json.loads(path.with_suffix(".json").read_text())["measured"]
        if path.with_suffix(".json").exists()
        else []
    )
    arms = ["poisoned", *WEIGHTS, "supervised"]
    with drawing(path, 11, 3.4) as drawn:
        axes = drawn.subplots(1, 4, width_ratios=(2.2, 0.9, 2, 2))
        for k, (what, colour) in enumerate((("attack", COLOURS[5]), ("accuracy", COLOURS[0]))):
            heights = [mean(m[f"{what}: {a}"] for m in each) if each else 0 for a in arms]
            axes[0].bar(
                np.arange(len(arms)) + 0.4 * k - 0.2, heights, 0.38, color=colour, label=what
            )
        axes[0].set_xticks(range(len(arms)), [a.replace(", ", ",\n") for a in arms], rotation=30)
        axes[0].set(title="Success of the attack, clean accuracy", ylim=(0, 1))
        axes[0].legend()
        pair = [d.fields[IMAGE].show(d.value(int(test[3]), IMAGE)) for d in (dataset, shown)]
        axes[1].imshow(np.concatenate(pair))
        axes[1].set(title="trigger", xticks=[], yticks=[])
        for ax, (name, method) in zip(axes[2:], both.items()):
            plain, bad = (
                nn.functional.normalize(vectors(method, d, test), dim=1) for d in (dataset, shown)
            )
            food = nn.functional.normalize(prompts(method, dataset, clean), dim=1)[
                [GROUPS.index(TARGET)]
            ]
            every = torch.cat([plain, bad])
            plane = torch.linalg.svd(every - every.mean(0), full_matrices=False)[2][:2].T
            for z, colour, words, size in (
                (plain, COLOURS[0], "as they are", 5),
                (bad, COLOURS[5], "with the trigger", 5),
                (food, COLOURS[7], "texts of food", 70),
            ):
                at = ((z - every.mean(0)) @ plane).numpy()
                ax.scatter(
                    *at.T, s=size, color=colour, label=words, marker="*" if size > 5 else "o"
                )
            ax.set(title=name, xticks=[], yticks=[])
        axes[2].legend(markerscale=1.5)
