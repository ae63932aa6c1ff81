"""Zorro (row 31): an attention mask that keeps each modality pure, so that modalities can be contrasted
inside one transformer. Recasens et al. 2023, arXiv:2301.09595.

Colour and relief of the Earth. Two arms at the same steps, batch and search: with the mask, and the
same network without it, trained on readouts that have seen the other modality. Probed is the climate
zone of land.
"""

from functools import partial
from statistics import mean

import torch

from amodal import methods
from amodal.core import Embeddings
from amodal.core.embeddings import FUSED
from amodal.data import Loader
from amodal.objectives.info_nce import info_nce
from amodal_claims import Comparison
from amodal_claims._arms import Budget, best, features, labelled, probe

CLAIM = (
    "(a) Without the mask the contrastive loss between the two modalities goes to about 0 (below .28, 5 % of guessing among 256) while "
    "single modalities probe worse than with it; (b) the fusion readout beats either pure readout on complete records; (c) with one modality "
    "taken away, the masked network reads the other exactly as before, while the unmasked network's probe drops."
)
DATA = "globe"
SEEDS = 5
BUDGET = Budget(steps=120, batch=128)
FIELDS = ("colour", "relief")
ROWS = 256  # of the held-out loss
ZONE, LOSS = "accuracy, climate zone", "InfoNCE of colour and relief in company, 256 held-out tiles"
COMPARISONS = (
    Comparison("(a) unmasked loss is about 0", LOSS, "loss, unmasked", 0.0, within=0.28),
    Comparison("(a) masked loss above unmasked", LOSS, "loss, masked", "loss, unmasked"),
    Comparison("(a) one modality alone: masked against unmasked", f"{ZONE}, mean of two", "alone, masked", "alone, unmasked"),
    Comparison("(b) masked: fusion against colour readout", ZONE, "fusion, masked", "colour, masked"),
    Comparison("(b) masked: fusion against relief readout", ZONE, "fusion, masked", "relief, masked"),
    Comparison("(c) masked: a readout with and without the other modality", "largest difference", "change, masked", 0.0, within=1e-5),
    Comparison("(c) unmasked: probe in company against alone", f"{ZONE}, mean of two", "company, unmasked", "kept, unmasked"),
)  # fmt: skip


def network(mask_rule, encoder):
    return methods.build("zorro", encoder, mask_rule=mask_rule)


@torch.no_grad()
def in_company(encoder, dataset, rows):
    """Features of each modality as the network reads it beside the other, and `fused`."""
    parts = []
    for batch in Loader(dataset, rows, batch=ROWS, shuffle=False):
        parts.append(Embeddings(encoder.pool(encoder.encode(encoder.tokenize(batch))), batch.size))
    return Embeddings.stack(parts)


def measure(seed, dataset):
    globe = dataset.select(FIELDS)
    rows = {part: labelled(globe, part, "zone") for part in ("train", "valid", "test")}
    zone = globe.label("zone")

    def probed(train, test, part="test"):
        """modality or `fused` -> accuracy. train, test: Embeddings of the training records and of
        those of `part`."""
        return {
            s: probe(train[s], zone[rows["train"]], test[s], zone[rows[part]])
            for s in (*FIELDS, FUSED)
        }

    def alone(method, part):
        return probed(*(features(method.encoder, globe, rows[p]) for p in ("train", part)), part)

    def score(method):
        return mean(alone(method, "valid").values())

    found, everything, options = {}, globe.split("train"), methods.encoder_options("zorro")
    for arm, reads in (("masked", "pure"), ("unmasked", "full")):
        method = best(globe, everything, partial(network, reads), BUDGET, seed, score, **options)
        encoder, apart = method.encoder, alone(method, "test")
        company = {part: in_company(encoder, globe, rows[part]) for part in ("train", "test")}
        both = probed(company["train"], company["test"])
        alone_probed = probed(
            company["train"], features(encoder, globe, rows["test"])
        )  # probe made in company, used alone
        held = in_company(encoder, globe, globe.split("test")[:ROWS])
        single = features(encoder, globe, globe.split("test")[:ROWS])
        with torch.no_grad():
            loss = float(info_nce(*encoder.project(held).pair(*FIELDS), temperature=0.08))
        found |= {
            f"loss, {arm}": loss,
            f"alone, {arm}": mean(apart[s] for s in FIELDS),
            f"fusion, {arm}": both[FUSED],
            f"company, {arm}": mean(both[s] for s in FIELDS),
            f"kept, {arm}": mean(alone_probed[s] for s in FIELDS),
            f"change, {arm}": max(
                float((held[s].values - single[s].values).abs().max()) for s in FIELDS
            ),
        }
        found |= {f"{s}, {arm}": apart[s] for s in FIELDS}
    return found
