"""DUET: a picture fills in masked attributes of its description, and separates similar attributes.

Chen, Huang, Chen, Geng, Zhang, Fang, Pan and Chen, AAAI 2023, arXiv:2207.01328. Losses and weights
are also from the authors' code. Row 77 of the catalogue.

Weights: the authors' script for CUB has 5 and 0.001 for masked attributes and contrast. It sums
them over 7 rows in 0.4 of the steps, with the masked loss times 3 and averaged over a prompt of
some 200 tokens. Here both are means over what is masked, for which that makes 0.4 and 0.003.

Differs:

- encoders: those of the library. The authors have DeiT (Swin for SUN) and BERT, both pretrained and
  trained on. A picture is one visual token in both, theirs made of the 1,000 logits of ImageNet by
  a linear layer, here the mean of its tokens; `--backbone picture=timm:NAME@pretrained
  --train-backbones` gives the network.
- prompt: a token for each cell of a table ("bill shape: hooked") where theirs has words of BERT. So
  a masked attribute is predicted among the values of its column (a number by squared error), where
  theirs is among BERT's vocabulary at every place of the prompt, shown words too. A known attribute
  has strength 1; theirs weigh both losses by how strongly a class has the attribute.
- layers: one layer for each side, which first reads itself and then the other side, with norms
  before; LXMERT's has one cross-attention for both, before the self-attention, with norms after.
- classes: records with equal attributes are one class. The classes of a batch compete, theirs are
  all seen classes. The contrast between classes is Khosla's, over mates in the batch; theirs draws
  one more picture for each, and gives others of its class the logit 0.
- attribute-level contrast: positives and negatives come from the batch, so that few rows have any
  in a small one; theirs are drawn from all training pictures, two of each of two negative classes.
  Manhattan distances weigh all candidates, there the farther (positives) half of them.
- each row draws for itself whether its attributes are the prompt; there a whole batch does.
- recipe: `PAPER_RECIPE` is that for CUB. The authors start Adam anew with every epoch, and keep the
  step with the best result on the test set. Views are `weak`; theirs are the centre.
- product: unseen classes by their attributes, `amodal predict RUN --classes FILE` with a column for
  each attribute (docs/predicting.md), and `amodal evaluate --protocols zero_shot`, with calibrated
  stacking (scores of seen classes less a constant). Attributes are cells that a class has or has
  not, where theirs have strengths. The constant is the user's.
- the loss that calibrates unseen classes needs their descriptions in training and is left out.
- open: a prompt of BERT's words with the network that predicts them, attributes with strengths, and
  LXMERT's order of layers. Waits for work.

Pictures may be any field, and a field that is no table of attributes is compared by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from amodal.core import AmodalError, Batch, Column, Embeddings, Ragged, Recipe, unknown
from amodal.core.column import shared_rows
from amodal.methods.contract import Clock, Columns, FeatureRecord, Method
from amodal.methods.shared.matching import seed_column
from amodal.methods.shared.prompts import AttributePrompts, attribute_vectors
from amodal.methods.shared.shapes import share, token_mean, two_fields
from amodal.methods.shared.typed_parts import table_modality
from amodal.nn.attention.cross import CrossEncoder
from amodal.nn.encoder import Encoder
from amodal.objectives.attribute_contrast import attribute_contrast, draw_attribute_rows
from amodal.objectives.common import connected_zero
from amodal.objectives.sup_con import sup_con

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=3e-5,
    weight_decay=0.0,
    betas=(0.9, 0.999),
    schedule="step",
    milestones=(1 / 3, 2 / 3),
    decay_rate=0.8,
    warmup=0.0,
    clip=0.0,
    batch_size=70,
    resolution=224,
    epochs=30.0,
)
"""The authors' script for CUB: Adam, ten times 7 rows, the rate times 0.8 every ten epochs."""


def duet(
    encoder: Encoder,
    *,
    attributes: str = "",
    prompt_probability: float = 0.4,
    blank_probability: float = 0.5,
    mask: float = 0.4,
    contrast: float = 0.003,
    negatives: int = 4,
    regress: float = 0.01,
    classes: float = 0.05,
    temperature: float = 0.05,
) -> Duet:
    """Classification by attributes, masked attributes, and contrast of attributes and classes.

    Args:
        encoder: Trained in place; needs a table and another field.
        attributes: The table of attributes. Default: the first table.
        prompt_probability: Probability that a row's attributes are its prompt, with one masked,
            instead of the template.
        blank_probability: Probability that another attribute of the prompt is left blank.
        mask: Weight of predicting masked attributes.
        contrast: Weight of attribute-level contrast (0 leaves it out).
        negatives: Number of negatives of one attribute.
        regress: Weight of the regression of attributes (0 leaves it out).
        classes: Weight of the contrast between classes (0 leaves it out).
        temperature: Temperature of the contrast between classes.

    Raises:
        AmodalError: If there is one field only, no table, or `attributes` is none of the tables.
    """
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
    prompts = AttributePrompts(
        encoder, attributes or tables[0], chance=prompt_probability, miss=blank_probability
    )
    return Duet(encoder, prompts, weights=weights, negatives=negatives, temperature=temperature)


@dataclass(frozen=True, kw_only=True)
class DuetFeatures(FeatureRecord):
    """Of the rows that have attributes: A of them. Of each other field: what it predicts."""

    attributes: Column  # (N, A)
    known: Column  # (N, A), 1 where an attribute is known
    present: Column  # (N, A), 1 where a record has the value
    value: Column  # (N, P), the masked value
    hidden: Column  # (N,) column (or group) of the masked attribute, -1 for the template
    seeds: Column  # (B,)
    predicted: Columns  # field -> (N, A) attributes
    state: Columns  # field -> (N, D)
    mask_losses: Columns  # field -> (n, 2) sums and numbers of the losses of masked attributes
    masked: Columns  # field -> (n, D) states of masked attributes


class Duet(Method):
    """See `duet`.

    Args:
        weights: Loss -> its weight; 0 leaves it out.
        negatives, temperature: As of `duet`.
    """

    min_batch_size = 2

    def __init__(
        self,
        encoder: Encoder,
        prompts: AttributePrompts,
        *,
        weights: Mapping[str, float],
        negatives: int,
        temperature: float,
    ):
        super().__init__()
        self.encoder, self.prompts, self.field = encoder, prompts, prompts.field
        self.weights, self.negatives, self.temperature = dict(weights), negatives, temperature
        width = encoder.width
        self.views = {f: ("plain" if f == self.field else "weak",) for f in encoder.fields}
        self.prompt_cross = CrossEncoder(width, 1, encoder.num_heads)  # attributes attend to it
        self.field_cross = CrossEncoder(width, 1, encoder.num_heads)  # it attends to attributes
        self.regress = nn.Linear(width, len(prompts.get_buffer("count")))
        self.project = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
        self._present: Tensor | int = 0

    def features(self, batch: Batch) -> DuetFeatures:
        prompt, rows = self.prompts(self.encoder, batch), batch[self.field].rows
        about = self.prompts.about(self.encoder, batch, prompt)
        predicted, state, mask_losses, masked = {}, {}, {}, {}
        z = self.encoder.features(batch.only(*(s for s in batch.sources if s != self.field)))
        for s in z.sources:
            present = z[s].rows
            one, words = Ragged(z[s].flat, torch.ones_like(present)), prompt.words.values[present]
            state_ND = self.field_cross(one, words).flat
            masked_nD = self.prompt_cross(words, one).flat[prompt.masked(present)]
            losses = self.prompts.masked_losses(self.encoder, prompt, batch, masked_nD, present)
            predicted[s] = Column(self.regress(state_ND), present)
            state[s], mask_losses[s] = Column(state_ND, present), losses
            masked[s] = Column(self.project(masked_nD), losses.rows)
        return DuetFeatures(
            size=batch.size,
            attributes=Column(about["attributes"], rows),
            known=Column(about["known"], rows),
            present=Column(about["has"], rows),
            value=Column(about["value"], rows),
            hidden=Column(about["group"], rows),
            seeds=seed_column(batch),
            predicted=predicted,
            state=state,
            mask_losses=mask_losses,
            masked=masked,
        )

    def losses(self, features: DuetFeatures) -> dict[str, Tensor]:
        # counted after the step: how rare a value is must be the same in all passes of a step
        self._present = features.present.flat.detach().sum(0)
        # records with equal attributes are one class
        kinds, kind = torch.unique(features.attributes.flat.detach(), dim=0, return_inverse=True)
        terms: dict[str, dict[str, Tensor]] = {name: {} for name in self.weights}
        for s in (f for f in self.encoder.fields if f != self.field):
            for name, term in self.of_field(features, s, kinds, kind).items():
                terms[name][s] = term
        return {
            f"{name}/{s}": weight * term
            for name, weight in self.weights.items()
            if weight
            for s, term in share(terms[name]).items()
        }

    def of_field(
        self, features: DuetFeatures, s: str, kinds: Tensor, kind: Tensor
    ) -> dict[str, Tensor]:
        """The five losses of one field.

        Args:
            kinds: (K, A) the attributes of each class of the batch.
            kind: (N,) the class of each row that has attributes.
        """
        predicted = features.predicted[s]
        rows, attribute_rows = shared_rows(predicted, features.attributes)
        guess, target = predicted.flat[rows], features.attributes.flat[attribute_rows]
        known = features.known.flat[attribute_rows]
        # the template says nothing of the attributes, so classes are compared on it alone
        plain = features.hidden.flat[attribute_rows] < 0
        own_class = kind[attribute_rows]
        return {
            # logits of a class are products of the predicted attributes with its own
            "class": (
                cross_entropy(guess @ kinds.T, own_class)
                if len(rows)
                else connected_zero(predicted.flat)
            ),
            "regress": ((guess - target).square() * known).sum() / known.sum().clamp(min=1),
            "mask": token_mean(features.mask_losses[s]),
            "classes": sup_con(
                features.state[s].flat[rows][plain],
                own_class[plain],
                temperature=self.temperature,
            ),
            "contrast": self.contrast(features, features.masked[s]),
        }

    def contrast(self, features: DuetFeatures, masked: Column) -> Tensor:
        """Attribute-level contrast of masked attributes."""
        index = torch.searchsorted(features.hidden.rows, masked.rows)
        positive, negatives = draw_attribute_rows(
            features.hidden.flat[index],
            features.value.flat[index],
            features.attributes.flat[index],
            features.seeds.flat[masked.rows],
            negatives=self.negatives,
        )
        loss: Tensor = attribute_contrast(masked.flat, positive, negatives)
        return loss

    def on_step_end(self, clock: Clock) -> None:
        self.prompts.get_buffer("count").add_(self._present)

    @property
    def description_field(self) -> str:
        """The table of attributes."""
        return self.field

    @torch.no_grad()
    def class_logits(self, batch: Batch, described: Batch) -> Embeddings:
        """Compare predicted attributes with those of classes; what is not known of one is 0."""
        table = table_modality(self.encoder, self.field)
        classes_CA, _ = attribute_vectors(table, described[self.field].flat)
        predicted = self.predict_attributes(batch)
        columns = {s: Column(c.flat @ classes_CA.T, c.rows) for s, c in predicted.columns.items()}
        return Embeddings(columns, batch.size)

    @torch.no_grad()
    def predict_attributes(self, batch: Batch) -> Embeddings:
        """Predict the attributes of each field but the table, from the template.

        Returns:
            Field -> (N, A), in the layout of `attribute_vectors`.
        """
        empty = {s: c.between(0, 0) if s == self.field else c for s, c in batch.columns.items()}
        features = self.features(replace(batch, columns=empty))
        return Embeddings(dict(features.predicted), batch.size)
