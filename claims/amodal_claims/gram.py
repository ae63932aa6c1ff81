"""GRAM (row 158): the volume of all modalities against cosines of pairs, on stamps and on the Earth.
Cicchetti et al., ICLR 2025, arXiv:2412.11959. Equal encoders, steps, batch and rates; in all arms
the temperature starts at .07 and is learned; GRAM has its label smoothing, as published. GRAM ranks
by smallest volume, the others by largest (mean) cosine."""

from dataclasses import replace
from functools import partial
from statistics import mean

from torch.nn.functional import normalize

from amodal import data, methods
from amodal.core import Embeddings
from amodal.evaluate import embed_records
from amodal.evaluate.drawing import COLOURS, drawing
from amodal.methods.shared.shapes import Towers, field_pairs, share
from amodal.nn.scale import Scale
from amodal.objectives.gram_volume import gram_volume, volumes
from amodal.objectives.info_nce import info_nce
from amodal_claims import Comparison
from amodal_claims._arms import Budget, best

CLAIM = (
    "With three modalities, volume-based contrastive training gives higher Recall@5 between the two modalities other than the anchor, and from "
    "the anchor to the two others together, than InfoNCE of each modality with the anchor at equal encoders and budget. Stamps: picture "
    "and spoken caption, anchored to the caption; the Earth: relief and climate, anchored to colour."
)
DATA = "tuxpaint"
SEEDS = 5
WIDTH = 64
SETS = {  # the anchor first
    "stamps": (("caption_fr", "image", "speech"), Budget(steps=120, batch=64, rates=(2e-3,))),
    "Earth": (("colour", "relief", "climate"), Budget(steps=80, batch=128, rates=(2e-3,))),
}
TASKS = ("without the anchor", "anchor to both")
COMPARISONS = tuple(
    Comparison(
        f"{where}, {task}",
        "Recall@5, held out",
        f"{where}, {task}: gram",
        f"{where}, {task}: anchored",
    )
    for where in SETS
    for task in TASKS
)


def gram(anchor, encoder):
    return methods.build("gram", encoder, anchor=anchor, width=WIDTH, match=0.0)


def cosines(anchor, encoder):
    scale = Scale(1 / 0.07, most=100.0)

    def objective(z):
        pairs = field_pairs(z, anchor)
        return share(
            {
                f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=1 / scale())
                for a, b in pairs
            }
        )

    return Towers(encoder.align(WIDTH), objective, learned=scale)


def arms(anchor):
    return {
        "gram": partial(gram, anchor),
        "anchored": partial(cosines, anchor),
        "pairs": partial(cosines, None),
    }


def complete(dataset, fields, method, part):
    """The vectors of each modality, of the records of a part that have all."""
    aligned: Embeddings = embed_records(method.encoder, dataset, dataset.split(part)).aligned
    return aligned.complete(fields)[1]


def recalls(arm, vectors):
    """Recall@5 of both tasks."""

    def recall(query, *others):
        unit = [normalize(v, dim=1) for v in (query, *others)]
        like = -volumes(query, others) if arm == "gram" else sum(unit[0] @ u.T for u in unit[1:])
        return float(((like > like.diagonal()[:, None]).sum(1) < 5).float().mean())

    anchor, a, b = vectors
    return {TASKS[0]: (recall(a, b) + recall(b, a)) / 2, TASKS[1]: recall(anchor, a, b)}


def small(dataset, names):
    """The modalities, in few tokens: 32-pixel pictures, 4 bytes of text and .3 s of 32 mel bands a
    token."""
    chosen = dataset.select(names)
    fields = dict(chosen.fields)
    if "speech" in fields:
        fields["image"] = replace(fields["image"], size=32, patch=8)
        fields["caption_fr"] = replace(fields["caption_fr"], patch=4)
        fields["speech"] = replace(
            fields["speech"], mels=32, hop_ms=20.0, patch=(16, 32), mean=0.0, std=0.0
        )
    return chosen.with_fields(fields)


def train(arm, where, seed, dataset):
    fields, budget = SETS[where]

    def score(method):
        return mean(recalls(arm, complete(dataset, fields, method, "valid")).values())

    return best(dataset, dataset.split("train"), arms(fields[0])[arm], budget, seed, score)


def measure(seed, dataset):
    found = {}
    for where, whole in (("stamps", dataset), ("Earth", data.open("globe"))):
        chosen = small(whole, SETS[where][0])
        for arm in arms(""):
            vectors = complete(chosen, SETS[where][0], train(arm, where, seed, chosen), "test")
            found |= {
                f"{where}, {task}: {arm}": value for task, value in recalls(arm, vectors).items()
            }
    return found


def picture(dataset, path):
    """Volumes of held-out tuples of the Earth that belong together, and of tuples put together from
    different tiles."""
    fields = SETS["Earth"][0]
    earth = small(data.open("globe"), fields)
    with drawing(path, 7, 2.6) as figure:
        for ax, (arm, title) in zip(
            figure.subplots(1, 2, sharey=True),
            (("gram", "GRAM"), ("anchored", "InfoNCE with colour")),
        ):
            vectors = complete(earth, fields, train(arm, "Earth", 0, earth), "test")
            for shift, name in ((0, "modalities of one tile"), (1, "of three different tiles")):
                values = gram_volume([v.roll(i * shift, 0) for i, v in enumerate(vectors)])
                ax.hist(
                    values.numpy(),
                    bins=40,
                    range=(0, 1),
                    alpha=0.7,
                    color=COLOURS[shift],
                    label=name,
                )
            ax.set(
                title=title, xlabel="volume of colour, relief and climate", ylabel="held-out tuples"
            )
        figure.axes[0].legend()
