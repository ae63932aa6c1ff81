"""SkillNet: one transformer for all kinds of data, in which a rule switches on the skills that a
field and a task need. Dai et al. 2022, arXiv:2205.06126. Skills are in `amodal.nn.adapters.skills`.
Sparse pre-training: masked tokens of each field with the skill of its kind and the general one, and
every two fields in contrast with a skill for relating fields as well, which is also how `embed`
reads them. Fine-tuning on several labels is `finetune` from this run, whose encoder keeps its
skills. Row 98 of the catalogue.

Differs:

- reconstructed, as there is no public code: that queries, keys and values are what is copied, the
  mix of tasks in pre-training, alpha, and how often each is drawn. Tasks are not drawn one a step
  with chance p_i ~ N_i^alpha; each step has them all with weight p_i, the same on average.
- masking: any field in the way of BERT, a share of its tokens, each replaced by a learned one, of
  which the text's are guessed and a picture's patches regressed; the paper has a recipe for each
  kind of data.
- skills: one for the kind of each field, a general one, and one for relating fields, which stands
  for the paper's of each pair of tasks. A video is no kind of its own yet, and code is a text
  (`skills="code=code+general"` gives it one).
- encoder: a shared trunk of any size; copies begin alike. In the paper sound passes convolutions
  first.
- towers: InfoNCE over the mean of tokens and one linear map, with a learned temperature.
- recipe: the library's own, as that of the paper is not known here.
- fine-tuning on many tasks at once: `finetune` of several labels of one data set; the paper's tasks
  are of five sets, one drawn for each step.
- open: for `loss`, public code or a text to hold the reconstruction against; for `system`, sound
  through convolutions, video, code and several data sets in one run, and the recipe. Waits for
  video, and the configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import cast

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Embeddings, unknown
from amodal.methods.contract import Columns, FeatureRecord, Method
from amodal.methods.shared.matching import MaskedWords
from amodal.methods.shared.shapes import row_losses, token_mean
from amodal.modalities import name_of
from amodal.nn.adapters.skills import Skills
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce

ENCODER = {"trunk": "shared"}
GENERAL, RELATING = "general", "relating"


def skillnet_mm(
    encoder: Encoder,
    *,
    skills: str = "",
    where: str = "attention",
    masked: float = 1.0,
    contrast: float = 1.0,
    ratio: float = 0.15,
    alpha: float = 1.0,
    width: int = 128,
    temperature: float = 0.07,
) -> SkillNet:
    """Build SkillNet.

    Args:
        encoder: With a shared trunk.
        skills: Of each field, as "FIELD=SKILL+SKILL, FIELD=…" (by default those of its kind and the
            general one).
        where: What is copied for each skill: the projections of "attention" or the "mlp".
        masked: Weight of masked tokens, 0 for none.
        contrast: Weight of contrast, 0 for none; without it there is no skill for relating.
        ratio: Share of tokens that are masked.
        alpha: A task of N records weighs N^alpha (0: all the same).
        width: Of the common space.
        temperature: Where the learned softmax temperature starts.
    """
    if not (masked or contrast):
        raise AmodalError(
            "skillnet_mm learns from masked tokens, from contrast, or from both, and both weights "
            "are 0"
        )
    rules: dict[str, tuple[str, ...]] = {
        f: (name_of(m), GENERAL) for f, m in encoder.fields.items()
    }
    rules |= parse_skills(skills, encoder)
    related = {f: (*names, RELATING) for f, names in rules.items()} if contrast else rules
    (encoder.align(width) if contrast else encoder).set_block_hook(Skills(related, where))
    return SkillNet(
        encoder,
        rules=rules,
        masked=masked,
        contrast=contrast,
        ratio=ratio,
        alpha=alpha,
        scale=Scale(1 / temperature),
    )


def parse_skills(text: str, encoder: Encoder) -> dict[str, tuple[str, ...]]:
    """Read "FIELD=SKILL+SKILL, FIELD=…".

    Args:
        text: Of the option.
        encoder: Of the fields.

    Returns:
        field -> its skills, of the fields that are named.

    Raises:
        AmodalError: For a field that there is not, or one without a skill.
    """
    parts = (part.partition("=") for part in text.split(",") if part.strip())
    rules = {
        f.strip(): tuple(s.strip() for s in names.split("+") if s.strip()) for f, _, names in parts
    }
    for field in rules:
        if field not in encoder.fields:
            raise unknown("field", field, encoder.fields, "It should be one with skills.")
        if not rules[field]:
            raise AmodalError(
                f"every field needs a skill, and {field} has none; write {field}=SKILL"
            )
    return rules


@dataclass(frozen=True, kw_only=True)
class SkillFeatures(FeatureRecord):
    """Features of SkillNet.

    Args:
        vectors: field -> (N, D), with the skill for relating; empty without contrast.
        masked: field -> (N, 2), the sum of losses of masked tokens and their number.
    """

    vectors: Columns
    masked: Columns


class SkillNet(Method):
    """Masked tokens of each field, and contrast between fields, each with its skills.

    Args:
        encoder: With skills between its blocks.
        rules: field -> the skills for its masked tokens.
        masked: Weight of masked tokens.
        contrast: Weight of contrast.
        ratio: Share of tokens that are masked.
        alpha: A task of N records weighs N^alpha.
        scale: The learned inverse temperature.
    """

    views, min_batch_size = ("weak",), 2
    records: Tensor

    def __init__(
        self,
        encoder: Encoder,
        *,
        rules: Mapping[str, tuple[str, ...]],
        masked: float,
        contrast: float,
        ratio: float,
        alpha: float,
        scale: Scale,
    ):
        super().__init__()
        self.encoder, self.rules, self.alpha = encoder, dict(rules), alpha
        self.masked_weight, self.contrast_weight = masked, contrast
        self.masked = nn.ModuleDict(
            {
                f: MaskedWords(encoder, f, ratio, method="skillnet_mm")
                for f in encoder.fields
                if masked
            }
        )
        self.scale = scale if contrast else None
        self.pairs = list(combinations(encoder.fields, 2)) if contrast else []
        # how many records each task has
        self.register_buffer("records", torch.ones(len(self.masked) + len(self.pairs)))

    def fit_statistics(self, records: Iterable[Batch]) -> None:
        """Count the records of each task."""
        count = torch.zeros_like(self.records)
        for batch in records:
            present = {f: batch[f].present(batch.size) for f in self.encoder.fields}
            tasks = [present[f] for f in self.masked]
            tasks += [present[a] & present[b] for a, b in self.pairs]
            count += torch.stack(tasks).sum(1)
        self.records.copy_(count)

    def shares(self) -> Tensor:
        """p_i of every task, 0 for one without a record."""
        p = torch.where(self.records > 0, self.records**self.alpha, 0.0)
        return p / p.sum().clamp(min=1e-12)

    def features(self, batch: Batch) -> SkillFeatures:
        encoder, masked = self.encoder, {}
        vectors = encoder(batch).columns if self.pairs else {}
        content = encoder.patchify(batch) if self.masked else {}
        with cast(Skills, encoder.block_hook).instead(self.rules):
            for f, module in self.masked.items():
                part = cast(MaskedWords, module)
                hidden_T = part.draw(encoder, content[f], batch)
                read = part.encode(encoder, content[f], hidden_T).keep(hidden_T)
                modality = encoder.fields[f]
                target = modality.targets(batch[f].values)[hidden_T]
                masked[f] = row_losses(modality.token_loss(part.predictor(read.x), target), read)
        return SkillFeatures(size=batch.size, vectors=vectors, masked=masked)

    def losses(self, features: SkillFeatures) -> dict[str, Tensor]:
        z = Embeddings(dict(features.vectors), features.size)
        terms = {
            f"masked/{f}": self.masked_weight * token_mean(features.masked[f]) for f in self.masked
        }
        for a, b in self.pairs:
            assert self.scale is not None
            loss = info_nce(*z.pair(a, b), temperature=1 / self.scale())
            terms[f"info_nce/{a}~{b}"] = self.contrast_weight * loss
        return {name: p * loss for (name, loss), p in zip(terms.items(), self.shares())}
