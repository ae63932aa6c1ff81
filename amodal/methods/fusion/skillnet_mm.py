"""SkillNet: one transformer for all kinds of data, in which a rule switches on the skills that a
field and a task need. Dai et al. 2022, arXiv:2205.06126. Skills are in `amodal.nn.adapters.skills`.
Sparse pre-training: masked tokens of each field with the skill of its kind and the general one, and
every two fields in contrast with a skill for relating fields as well, which is also how `embed`
reads them. Fine-tuning on several labels is `finetune` from this run, whose encoder keeps its
skills. Row 98 of the catalogue.

What differs. Tasks are not drawn one a step with chance p_i ~ N_i^alpha, each step has them all
with weight p_i: the same on average. Any field is masked in the way of BERT, a share of its tokens,
where the paper has a recipe for each kind. That queries, keys and values are what is copied, the
mix of tasks, and alpha are reconstructed from the paper's description.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, unknown
from amodal.methods.contract import Features, Method
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
    """skills: of each field, as "FIELD=SKILL+SKILL, FIELD=…", those of its kind and the general one
    unless given; where: what is copied, the projections of "attention" or the "mlp"; masked,
    contrast: weights of the two kinds of tasks, 0 for none (without contrast there is no skill for
    relating); ratio: share of tokens that are masked; alpha: a task of N records weighs N^alpha (0:
    all the same); width: of the common space; temperature: where the learned softmax temperature
    starts."""
    if not (masked or contrast):
        raise AmodalError(
            "skillnet_mm learns from masked tokens, from contrast, or from both, and both weights are 0"
        )
    rules = {f: (name_of(m), GENERAL) for f, m in encoder.fields.items()} | read(skills, encoder)
    related = {f: (*own, RELATING) for f, own in rules.items()} if contrast else rules
    (encoder.align(width) if contrast else encoder).set_block_hook(Skills(related, where))
    return SkillNet(encoder, rules, masked, contrast, ratio, alpha, Scale(1 / temperature))


def read(text: str, encoder: Encoder) -> dict[str, tuple[str, ...]]:
    given = (part.partition("=") for part in text.split(",") if part.strip())
    rules = {
        f.strip(): tuple(s.strip() for s in some.split("+") if s.strip()) for f, _, some in given
    }
    for field in rules:
        if field not in encoder.fields:
            raise unknown("field", field, encoder.fields, "Skills were given for it.")
        if not rules[field]:
            raise AmodalError(
                f"every field needs a skill, and {field} has none; write {field}=SKILL"
            )
    return rules


class SkillNet(Method):
    """Features: the vector of each field, read with the skill for relating, and as `masked/FIELD`
    the losses of masked tokens."""

    views, min_batch_size = ("weak",), 2

    def __init__(self, encoder, rules, masked, contrast, ratio, alpha, scale):
        super().__init__()
        self.encoder, self.rules, self.alpha, self.weights = (
            encoder,
            rules,
            alpha,
            (masked, contrast),
        )
        self.masked = nn.ModuleDict(
            {f: MaskedWords(encoder, f, ratio) for f in encoder.fields if masked}
        )
        self.scale = scale if contrast else None
        self.pairs = list(combinations(encoder.fields, 2)) if contrast else []
        self.register_buffer(
            "records", torch.ones(len(self.masked) + len(self.pairs))
        )  # of each task

    def fit_statistics(self, records: Iterable[Batch]) -> None:
        count = torch.zeros_like(self.records)
        for batch in records:
            there = {f: batch[f].present(batch.size) for f in self.encoder.fields}
            tasks = [there[f] for f in self.masked] + [there[a] & there[b] for a, b in self.pairs]
            count += torch.stack(tasks).sum(1)
        self.records.copy_(count)

    def shares(self) -> Tensor:
        """p_i of every task, 0 for one without a record."""
        p = torch.where(self.records > 0, self.records**self.alpha, 0.0)
        return p / p.sum().clamp(min=1e-12)

    def features(self, batch: Batch) -> Features:
        encoder, columns = self.encoder, dict(self.encoder(batch).columns) if self.pairs else {}
        content = encoder.patchify(batch) if self.masked else {}
        with encoder.block_hook.instead(self.rules):
            for f, part in self.masked.items():
                hidden_T = part.draw(content[f], batch.seeds)
                read = part.encode(encoder, content[f], hidden_T).keep(hidden_T)
                target = encoder.fields[f].targets(batch[f].values)[hidden_T]
                columns[f"masked/{f}"] = row_losses(
                    encoder.fields[f].token_loss(part.predictor(read.x), target), read
                )
        return Features(columns, batch.size)

    def losses(self, features: Features) -> dict[str, Tensor]:
        masked, contrast = self.weights
        found = {f"masked/{f}": masked * token_mean(features[f"masked/{f}"]) for f in self.masked}
        for a, b in self.pairs:
            found[f"info_nce/{a}~{b}"] = contrast * info_nce(
                *features.pair(a, b), temperature=1 / self.scale()
            )
        return {name: p * loss for (name, loss), p in zip(found.items(), self.shares())}
