"""DUET: a picture must fill in the masked attributes of its description, and tell each attribute
from look-alikes without it. Chen, Huang, Chen, Geng, Zhang, Fang, Pan and Chen, AAAI 2023,
arXiv:2207.01328. Losses and weights also from the authors' code. Its script for CUB has 5 and 0.001
for telling and contrast, which it sums over 7 rows in 0.4 of the steps, telling times 3 and
averaged over a prompt of some 200 tokens; here both are means over what is masked, for which that
makes 0.4 and 0.003. Row 77 of the catalogue. What differs. The prompt has a token for each cell of
a table ("bill shape: hooked") where theirs has words read by BERT, and what is known of a record
has strength 1. Records with equal attributes are one class; the classes of a batch compete, and
positives and negatives come from the batch as well. Each row tosses its own coin. Manhattan
distances weigh all candidates. The loss that calibrates unseen classes needs their descriptions in
training and is left out. `predict` tells the attributes of pictures, or of any field in their
place."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from amodal.core import AmodalError, Batch, Column, Embeddings, Ragged, unknown
from amodal.core.column import shared_rows
from amodal.methods.contract import Clock, Features, Method
from amodal.methods.shared.matching import SEED, seed_column
from amodal.methods.shared.prompts import AttributePrompts
from amodal.methods.shared.shapes import share, token_mean, two_fields
from amodal.nn.attention.cross import CrossEncoder
from amodal.nn.encoder import Encoder
from amodal.objectives.attribute_contrast import attribute_contrast, draw_attribute_rows
from amodal.objectives.common import connected_zero
from amodal.objectives.sup_con import sup_con


def duet(
    encoder: Encoder,
    *,
    attributes: str = "",
    chance: float = 0.4,
    miss: float = 0.5,
    mask: float = 0.4,
    contrast: float = 0.003,
    negatives: int = 4,
    regress: float = 0.01,
    classes: float = 0.05,
    temperature: float = 0.05,
) -> Method:
    """attributes: the table that describes what is seen, the first unless given; chance: that a
    row's attributes are its prompt, with one masked, instead of the template; miss: that another
    attribute is left blank; mask, contrast, regress, classes: weights of telling masked attributes,
    of attribute-level contrast, of regression, of contrast between classes (0 leaves one out);
    negatives: of one attribute; temperature: of the contrast between classes."""
    tables = [f for f, m in two_fields(encoder).fields.items() if m.is_row]
    if not tables:
        raise AmodalError(
            f"duet learns from attributes, a table, and there are only {', '.join(encoder.fields)}"
        )
    if attributes and attributes not in tables:
        raise unknown("table of attributes", attributes, tables, "It was to hold the attributes.")
    weights = {
        "class": 1.0,
        "mask": mask,
        "contrast": contrast,
        "regress": regress,
        "classes": classes,
    }
    prompts = AttributePrompts(encoder, attributes or tables[0], chance=chance, miss=miss)
    return Duet(encoder, prompts, weights, negatives, temperature)


class Duet(Method):
    """Features: `hat/` told attributes, `state/` of the picture, `told/` losses and `mark/` state
    of masked attributes, of each field."""

    min_batch_size = 2

    def __init__(self, encoder, prompts, weights, negatives, temperature):
        super().__init__()
        self.encoder, self.prompts, self.weights, self.field = (
            encoder,
            prompts,
            weights,
            prompts.field,
        )
        self.negatives, self.temperature, width = negatives, temperature, encoder.width
        self.views = {f: ("plain" if f == self.field else "weak",) for f in encoder.fields}
        self.read, self.look = (CrossEncoder(width, 1, encoder.num_heads) for _ in range(2))
        self.regress = nn.Linear(width, len(prompts.count))
        self.project = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self._new: Tensor | int = 0

    def features(self, batch: Batch) -> Features:
        prompt, rows = self.prompts(self.encoder, batch), batch[self.field].rows
        about = {"hidden": prompt.hidden[rows], **self.prompts.about(self.encoder, batch, prompt)}
        columns = {name: Column(value, rows) for name, value in about.items()} | {
            SEED: seed_column(batch)
        }
        pictures = self.encoder.features(batch.only(*(s for s in batch.sources if s != self.field)))
        for s in pictures.sources:
            there, one = (
                pictures[s].rows,
                Ragged(pictures[s].values, torch.ones_like(pictures[s].rows)),
            )
            words = prompt.words.values[there]
            state, marked = (
                self.look(one, words).flat,
                self.read(words, one).flat[prompt.masked(there)],
            )
            told = self.prompts.masked_losses(self.encoder, prompt, batch, marked, there)
            columns |= {
                f"hat/{s}": Column(self.regress(state), there),
                f"state/{s}": Column(state, there),
            }
            columns |= {f"told/{s}": told, f"mark/{s}": Column(self.project(marked), told.rows)}
        return Features(columns, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        self._new = features["has"].values.detach().sum(0)
        kinds, kind = torch.unique(
            features["attributes"].values.detach(), dim=0, return_inverse=True
        )
        found: dict[str, dict[str, Tensor]] = {name: {} for name in self.weights}
        for s in (f for f in self.encoder.fields if f != self.field):
            hat = features[f"hat/{s}"]
            at, row = shared_rows(hat, features["attributes"])
            scores, error = (
                hat.values[at] @ kinds.T,
                hat.values[at] - features["attributes"].values[row],
            )
            known, plain = features["known"].values[row], features["hidden"].values[row] < 0
            found["class"][s] = (
                cross_entropy(scores, kind[row]) if len(at) else connected_zero(hat.values)
            )
            found["regress"][s] = (error.square() * known).sum() / known.sum().clamp(min=1)
            found["mask"][s] = token_mean(features[f"told/{s}"])
            state = features[f"state/{s}"].values[at][plain]
            found["classes"][s] = sup_con(state, kind[row][plain], temperature=self.temperature)
            mark = features[f"mark/{s}"]
            at = torch.searchsorted(features["hidden"].rows, mark.rows)
            about = [
                features[name].values[at].detach() for name in ("hidden", "value", "attributes")
            ]
            drawn = draw_attribute_rows(
                *about, features[SEED].values[mark.rows], negatives=self.negatives
            )
            found["contrast"][s] = attribute_contrast(mark.values, *drawn)
        weights = {name: weight for name, weight in self.weights.items() if weight}
        return {
            f"{name}/{s}": w * term
            for name, w in weights.items()
            for s, term in share(found[name]).items()
        }

    def on_step_end(self, clock: Clock) -> None:
        self.prompts.count += self._new

    @torch.no_grad()
    def predict_attributes(self, batch: Batch) -> Embeddings:
        """Of each field but the attributes (N, A): the attributes it shows, as `attribute_vectors`
        writes them, told from the template."""
        empty = {s: c.between(0, 0) if s == self.field else c for s, c in batch.columns.items()}
        z = self.features(replace(batch, columns=empty))
        return Embeddings(
            {s.removeprefix("hat/"): z[s] for s in z if s.startswith("hat/")}, batch.size
        )
