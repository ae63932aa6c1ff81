"""JEST: joint example selection of batches that are hard for the learner and easy for a reference.

Evans, Parthasarathy, Merzic, Hénaff, NeurIPS 2024, arXiv:2406.17711. Learnability: their section
3.1; sampling: algorithm 1. Row 151 of the catalogue.

Of a super-batch of B rows, b = keep * B are drawn in `chunks`. The first chunk is drawn by each
row's own score s_ii, each further one conditionally on the rows drawn before:

    logit_i = s_ii + sum_{drawn k} (s_ik + s_ki)

The score of a pair is the learner's loss on it less that of the reference. Drawing without
replacement is Gumbel top-k on the rows' seeds, so the choice is the same for any number of
processes and after a resume. Losses of pairs are computed from embeddings, b / chunks columns at a
time: no B x B matrix is held.

Flexi-JEST, which scores with larger patches, is not here: an encoder has one patch size.

Differs:

- loss: that of the learner, a softmax or a sigmoid with its learned scale; the paper's is SigLIP's
  sigmoid, for scores and for training. Both models are scored by the learner's scale and bias,
  where `reference_scale` sets no other.
- reference: any run of the same fields. The paper's has learnt from a billion curated pairs, and is
  made once. Scores of it are cached by key where that is asked for (`cache_features`), with the
  first augmentation; the paper stores them beside the data.
- Flexi-JEST, see above: scoring costs a full forward pass of the learner and of the reference.
- offline: `amodal curate --by learnability` scores each record once, against all others of a chunk,
  and takes the best ones by themselves. The paper has no such use; its joint choice is in training.
- numbers: super-batches are 1 / keep times the batch, with keep = 0.2 and 16 chunks as in the
  paper, whose batch is 32,768 pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor

from amodal import modalities
from amodal.core import AmodalError, Batch, Column, Embeddings, unknown
from amodal.core.column import shared_rows
from amodal.core.protocols import HasLogitScale
from amodal.curate import BatchSelector, Gather
from amodal.curate.shared.pair_scores import LOSSES, MakePairLoss, PairScore, draw
from amodal.methods.contract import Method
from amodal.methods.saved import frozen
from amodal.methods.shared.shapes import field_pairs, view_pairs
from amodal.modalities import Modality
from amodal.nn.encoder import Encoder

SCORES = ("learnability", "hard", "easy")
UNSCORED = -1e8
"""Score of a row that is in no pair: drawn when nothing else is left."""

Cache = dict[str, dict[str, Tensor]]
"""Key of a record -> source -> embedding (D,) on the CPU."""


class Jest:
    """Selects rows of each super-batch.

    Args:
        reference: encoder trained on clean data; None for score "hard".
        cache: embeddings of the reference from before, if `cache_features`.
        keep, chunks, score, joint, loss, scale, bias, reference_scale, reference_bias, gain,
        cache_features: see `jest`.

    Raises:
        AmodalError: an unknown score or loss, a number out of range, or no reference.
    """

    def __init__(
        self,
        reference: Encoder | None,
        *,
        keep: float = 0.2,
        chunks: int = 16,
        score: str = "learnability",
        joint: bool = True,
        loss: str = "",
        scale: float = 0.0,
        bias: float = -10.0,
        reference_scale: float = 0.0,
        reference_bias: float = -10.0,
        gain: float = 1.0,
        cache_features: bool = False,
        cache: Cache | None = None,
    ):
        if score not in SCORES:
            raise unknown("score", score, SCORES)
        if loss and loss not in LOSSES:
            raise unknown("loss to score by", loss, LOSSES)
        if not 0 < keep <= 1 or chunks < 1:
            raise AmodalError(
                f"keep must be above 0 and at most 1, chunks at least 1, not {keep} and {chunks}"
            )
        if reference is None and score != "hard":
            raise AmodalError(
                f'score="{score}" needs a reference: the folder of a run on clean data. "hard" '
                "needs none"
            )
        self.reference, self.keep, self.chunks = reference, keep, chunks
        self.score, self.joint, self.loss = score, joint, loss
        self.scale, self.bias, self.gain = scale, bias, gain
        self.reference_scale, self.reference_bias = reference_scale, reference_bias
        self.cache_features = cache_features
        self.cache: Cache = {} if cache is None else cache
        self.micro_batch_size: int | None = None
        self.gather: Gather = _single_process
        self.rank, self.precision = 0, _no_context()
        self.rows, self.relative_size = {"scored": 0, "referred": 0, "trained": 0}, 1.0

    def prepare(
        self,
        method: Method,
        *,
        micro_batch_size: int | None = None,
        gather: Gather | None = None,
        rank: int = 0,
        precision: AbstractContextManager[object] | None = None,
    ) -> None:
        """See `BatchSelector.prepare`."""
        self.micro_batch_size, self.rank = micro_batch_size, rank
        self.gather = gather or _single_process
        self.precision, encoder = precision or _no_context(), method.encoder
        if len(encoder.fields) > 1 and encoder.heads is None:
            raise AmodalError(
                "jest scores pairs of fields and needs a method that compares them, such as clip "
                "or siglip"
            )
        if not isinstance(method, HasLogitScale) or method.logit_scale() is None:
            if not (self.loss and self.scale):
                raise AmodalError(
                    "jest scores pairs by the learner's own loss, which this method does not "
                    "declare: set a loss and a scale, such as --curate.loss softmax "
                    "--curate.scale 14 (or sigmoid, with --curate.bias)"
                )
        if self.reference is None:
            return
        device = next(encoder.parameters()).device
        self.reference = self.reference.eval().requires_grad_(False).to(device)
        self.relative_size = count_parameters(self.reference) / count_parameters(encoder)
        for name, modality in encoder.fields.items():
            if name not in self.reference.fields:
                raise unknown("field of the reference", name, self.reference.fields)
            learner, reference = (
                decoding_settings(m) for m in (modality, self.reference.fields[name])
            )
            if learner != reference:
                raise AmodalError(
                    f"the reference reads {name!r} otherwise ({reference}) than this data is read "
                    f"({learner}); train it with the same dataset.toml"
                )

    @torch.no_grad()
    def __call__(self, method: Method, batch: Batch, step: int) -> Batch:
        """The rows that this process trains on, selected from the batches of all processes."""
        local = {}
        if self.score != "easy":
            local["learner"] = self._embed(method.encoder, batch)
            self.rows["scored"] += batch.size
        if self.score != "hard":
            local["reference"] = self._embed_reference(batch)
        gathered = {model: self.gather(z) for model, z in local.items()}
        rows = torch.arange(batch.size, device=batch.seeds.device)
        origin = {"seed": batch.seeds, "process": torch.full_like(rows, self.rank)}
        whole = self.gather(Embeddings({n: Column(v, rows) for n, v in origin.items()}, batch.size))
        chosen = self.choose(method, gathered, _dense(whole["seed"]))
        # the same on every process, unless one rounds otherwise: the first decides
        index = torch.arange(len(chosen), device=chosen.device)
        decision = self.gather(Embeddings({"chosen": Column(chosen, index)}, len(chosen)))
        chosen = _dense(decision["chosen"])[: len(chosen)]
        mask = torch.zeros(whole.size, dtype=torch.bool, device=chosen.device)
        mask = mask.index_fill_(0, chosen, True)
        local_rows = mask[whole["process"].values == self.rank].nonzero().squeeze(1)
        self.rows["trained"] += len(local_rows)
        return batch.at(local_rows)

    def choose(self, method: Method, models: Mapping[str, Embeddings], seeds_B: Tensor) -> Tensor:
        """Select rows of a whole super-batch.

        Args:
            method: whose learned scale and loss are used where the options have none.
            models: "learner", "reference" -> embeddings of the B rows.
            seeds_B: int64.

        Returns:
            (b,) int64, ascending.
        """
        loss, scale, bias = self._loss_of(method)
        logits = {"learner": (scale, bias), "reference": (scale, bias)}
        if self.reference_scale:
            logits["reference"] = self.reference_scale, self.reference_bias
        sign = {"learner": 1.0, "reference": -1.0}
        one = next(iter(models.values()))
        pairs, scored = [], torch.zeros(one.size, dtype=torch.bool, device=seeds_B.device)
        for a, b in field_pairs(one) or view_pairs(one):
            index_a, _ = shared_rows(one[a], one[b])
            rows = one[a].rows[index_a]
            losses = [(sign[m], loss(*z.pair(a, b), *logits[m])) for m, z in models.items()]
            pairs.append(PairScore(rows, one.size, losses))
            scored[rows] = True

        def mean(score: Callable[[PairScore], Tensor]) -> Tensor:
            total = torch.zeros_like(scored, dtype=torch.float32)
            return sum((score(p) for p in pairs), total) * self.gain / max(len(pairs), 1)

        def add_drawn(new: Tensor) -> Tensor:
            return mean(lambda pair: pair.add_drawn(new))

        diagonal = mean(PairScore.diagonal).masked_fill(~scored, UNSCORED)
        count = max(round(self.keep * one.size), 1)
        return draw(diagonal, add_drawn if self.joint else None, count, seeds_B, self.chunks)

    def _loss_of(self, method: Method) -> tuple[MakePairLoss, float, float]:
        """Loss, scale and bias to score by: the options, else those of the method."""
        learned = method.logit_scale() if isinstance(method, HasLogitScale) else None
        if learned is None:  # `prepare` has checked that the options say both
            return LOSSES[self.loss], self.scale, self.bias
        learned_bias = cast("Tensor | None", learned.bias)
        scale = self.scale or float(learned())
        bias = self.bias if self.scale or learned_bias is None else float(learned_bias)
        return LOSSES[self.loss or ("softmax" if learned_bias is None else "sigmoid")], scale, bias

    def cost(self) -> dict[str, float]:
        """Rows scored, embedded by the reference and trained on, and the relative work.

        "work" is in units of the training alone. A forward and backward pass counts three times a
        forward pass; the reference counts by its number of parameters.
        """
        work = 3 * self.rows["trained"] + self.rows["scored"]
        relative = work + self.rows["referred"] * self.relative_size
        return self.rows | {"work": round(relative / max(3 * self.rows["trained"], 1), 3)}

    def _embed(self, encoder: Encoder, batch: Batch) -> Embeddings:
        with self.precision:
            pieces = batch.split(self.micro_batch_size or max(batch.size, 1))
            parts = [encoder(piece) for piece in pieces] or [encoder(batch)]
        whole = Embeddings.stack(parts)
        return Embeddings({s: whole[s] for s in whole.sources}, whole.size)

    def _embed_reference(self, batch: Batch) -> Embeddings:
        """The reference's embeddings of a batch; cached records are not computed a second time."""
        assert self.reference is not None, "only the score 'hard' goes without"
        new = list(range(batch.size))
        if self.cache_features:
            new = [i for i, key in enumerate(batch.keys) if key not in self.cache]
        self.rows["referred"] += len(new)
        rows = torch.tensor(new, dtype=torch.int64, device=batch.seeds.device)
        z = self._embed(self.reference, batch.at(rows))
        if not self.cache_features:
            return z
        for i in new:
            self.cache[batch.keys[i]] = {}
        for source, column in z.columns.items():
            # clones: a view of the batch's tensor would keep all of it
            for row, vector in zip(column.rows.tolist(), map(torch.clone, _dense(column).cpu())):
                self.cache[batch.keys[new[row]]][source] = vector
        return Embeddings(
            {source: self._cached(batch, source, column) for source, column in z.columns.items()},
            batch.size,
        )

    def _cached(self, batch: Batch, source: str, like: Column) -> Column:
        """The cached embeddings of a source, on the device of `like`."""
        rows = [i for i, key in enumerate(batch.keys) if source in self.cache[key]]
        vectors = [self.cache[batch.keys[i]][source] for i in rows]
        empty = _dense(like)[:0]
        values = torch.stack(vectors).to(empty.device) if vectors else empty
        return Column(values, torch.tensor(rows, dtype=torch.int64, device=batch.seeds.device))


def _single_process(z: Embeddings) -> Embeddings:
    return z


def _dense(column: Column) -> Tensor:
    """The values of a column that has one vector, or one number, a row."""
    return cast(Tensor, column.values)


def _no_context() -> AbstractContextManager[object]:
    return nullcontext()


def count_parameters(module: torch.nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def decoding_settings(modality: Modality) -> dict[str, object]:
    """The settings that decide how values are decoded; mean and std only scale them."""
    return {k: v for k, v in modalities.config(modality).items() if k not in ("mean", "std")}


def jest(
    *,
    reference: str = "",
    keep: float = 0.2,
    chunks: int = 16,
    score: str = "learnability",
    joint: bool = True,
    loss: str = "",
    scale: float = 0.0,
    bias: float = -10.0,
    reference_scale: float = 0.0,
    reference_bias: float = -10.0,
    gain: float = 1.0,
    cache_features: bool = False,
) -> BatchSelector:
    """Joint example selection in training.

    Args:
        reference: folder of a run on clean data.
        keep: share of a super-batch that is trained on; super-batches are 1 / keep as large.
        chunks: in which the batch is drawn.
        score: "learnability", "hard" (the learner's loss alone) or "easy" (the reference's alone).
        joint: False draws each row by its own score.
        loss: "sigmoid" or "softmax" loss of pairs; "" for the learner's own. Methods that learn by
            InfoNCE or the sigmoid loss of every two fields have one (`logit_scale`); for others
            set loss and scale.
        scale: of the logits; 0 for the learner's own.
        bias: of the sigmoid's logits, unless both are the learner's own.
        reference_scale, reference_bias: those of the reference; scale 0 for the learner's.
        gain: multiplies scores.
        cache_features: hold the reference's embeddings of each record from its first view, with
            that augmentation, so that a resumed run has others. Exact for plain views.

    Raises:
        AmodalError: an option is out of range, or no reference is given where one is needed.
    """
    return Jest(
        frozen(reference) if reference else None,
        keep=keep,
        chunks=chunks,
        score=score,
        joint=joint,
        loss=loss,
        scale=scale,
        bias=bias,
        reference_scale=reference_scale,
        reference_bias=reference_bias,
        gain=gain,
        cache_features=cache_features,
    )
