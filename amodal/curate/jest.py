"""JEST: choose what to train on as a batch, which is together hard for the learner and easy for a
model that knows clean data. Evans, Parthasarathy, Merzic, Hénaff, NeurIPS 2024, arXiv:2406.17711.
Learnability: their section 3.1; sampling: algorithm 1. Row 151 of the catalogue.

Of a super-batch of B rows, b = keep * B are drawn in `chunks`, the first by each row's own score,
each further one given those drawn: logit_i = s_ii + sum over drawn k of (s_ik + s_ki). Drawing
without replacement is Gumbel top-k on the rows' seeds, so that the choice is the same for any
number of processes and after a resume. The score of a pair is what the learner loses on it less
what the reference does. Losses of pairs are made from embeddings, b / chunks columns at a time: no
B x B matrix is held.

Flexi-JEST, which scores with larger patches, is not here: an encoder has one size of patch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal import modalities
from amodal.core import AmodalError, Batch, Column, Embeddings, unknown
from amodal.core.column import shared_rows
from amodal.core.protocols import HasLogitScale
from amodal.curate import Choose, Gather
from amodal.masking.hashing import uniform
from amodal.methods.contract import Method
from amodal.methods.saved import frozen
from amodal.methods.shared.shapes import field_pairs, view_pairs
from amodal.nn.encoder import Encoder

SCORES = ("learnability", "hard", "easy")
LAST = -1e8
"""The score of a row that has nothing to be compared with: drawn when nothing else is left."""


def scale_of(method: Method) -> nn.Module | None:
    """The learned scale of the method's logits; None for one whose loss is another."""
    return method.logit_scale() if isinstance(method, HasLogitScale) else None


class Sigmoid:
    """What one model loses on the pairs of n candidates under SigLIP's loss, softplus(-y_ij (scale
    cos(a_i, b_j) + bias)).

    a_nD, b_nD: the two fields of the same n rows. own: (n,) the loss of each row's own pair.
    given(new): (n,) the losses that each row has with all rows given so far, as a negative either
    way.
    """

    def __init__(self, a_nD: Tensor, b_nD: Tensor, scale: float, bias: float):
        self.a, self.b, self.bias = (
            F.normalize(a_nD.float(), dim=1) * scale,
            F.normalize(b_nD.float(), dim=1),
            bias,
        )
        self.own = F.softplus(-(self.a * self.b).sum(1) - bias)
        self.total = torch.zeros_like(self.own)

    def given(self, new: Tensor) -> Tensor:
        ahead, back = self.a @ self.b[new].T, self.b @ self.a[new].T
        self.total += F.softplus(ahead + self.bias).sum(1) + F.softplus(back + self.bias).sum(1)
        return self.total


class Softmax:
    """The same of the symmetric InfoNCE, whose normaliser runs over the rows given so far: own is
    -scale cos(a_i, b_i), given the mean of log sum_k exp(scale cos(a_i, b_k)) and of the other
    direction."""

    def __init__(self, a_nD: Tensor, b_nD: Tensor, scale: float, bias: float = 0.0):
        self.a, self.b = F.normalize(a_nD.float(), dim=1) * scale, F.normalize(b_nD.float(), dim=1)
        self.own = -(self.a * self.b).sum(1)
        self.ahead = self.back = torch.full_like(self.own, -torch.inf)

    def given(self, new: Tensor) -> Tensor:
        if len(new):
            self.ahead = torch.logaddexp(self.ahead, (self.a @ self.b[new].T).logsumexp(1))
            self.back = torch.logaddexp(self.back, (self.b @ self.a[new].T).logsumexp(1))
        nothing_yet = self.ahead.isinf()
        return ((self.ahead + self.back) / 2).masked_fill(nothing_yet, 0.0)


LOSSES = {"sigmoid": Sigmoid, "softmax": Softmax}


class Pair:
    """The score of B candidates by one pair of fields, over the rows that have both: (weight,
    model's losses) of each model."""

    def __init__(self, rows: Tensor, size: int, models: Sequence[tuple[float, Sigmoid | Softmax]]):
        self.rows, self.models = rows, models
        self.place = torch.full((size,), -1, dtype=torch.int64, device=rows.device)
        self.place[rows] = torch.arange(len(rows), device=rows.device)

    def own(self) -> Tensor:
        return self._spread(sum(weight * m.own for weight, m in self.models))

    def given(self, new: Tensor) -> Tensor:
        at = self.place[new]
        return self._spread(sum(weight * m.given(at[at >= 0]) for weight, m in self.models))

    def _spread(self, score_n: Tensor) -> Tensor:
        return score_n.new_zeros(len(self.place)).index_copy(0, self.rows, score_n)


def draw(
    own_B: Tensor,
    given: Callable[[Tensor], Tensor] | None,
    count: int,
    seeds_B: Tensor,
    chunks: int = 16,
) -> Tensor:
    """(count,) int64 ascending: rows drawn without replacement, in `chunks` (algorithm 1).

    own_B: logits of the first chunk; given: newly drawn rows -> what all drawn rows add to
    everyone's logits; None draws all at once, each row for itself. seeds_B: int64, all that is
    random.
    """
    sizes = [len(c) for c in torch.arange(count).tensor_split(chunks if given else 1) if len(c)]
    logits, drawn = own_B, torch.zeros(len(own_B), dtype=torch.bool, device=own_B.device)
    for number, size in enumerate(sizes):
        gumbel = -torch.log(-torch.log(uniform(seeds_B, number).double() + 2.0**-25))
        new = (logits.double() + gumbel).masked_fill(drawn, -torch.inf).topk(size).indices
        drawn[new] = True
        if number + 1 < len(sizes):
            logits = own_B + given(new)
    return drawn.nonzero().squeeze(1)


class Jest:
    """Chooses from each super-batch; see `jest` for the options."""

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
        remember: bool = False,
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
                f'score="{score}" needs a reference: the folder of a run on clean data. "hard" needs none'
            )
        self.reference, self.keep, self.chunks, self.score, self.joint = (
            reference,
            keep,
            chunks,
            score,
            joint,
        )
        self.loss, self.scale, self.bias, self.gain, self.remember = (
            loss,
            scale,
            bias,
            gain,
            remember,
        )
        self.reference_scale, self.reference_bias = reference_scale, reference_bias
        self.micro: int | None = None
        self.gather, self.process, self.precision = _alone, 0, nullcontext()
        self.known: dict[str, dict[str, Tensor]] = {}
        self.rows, self.size = {"scored": 0, "referred": 0, "trained": 0}, 1.0

    def prepare(
        self,
        method: Method,
        *,
        micro: int | None = None,
        gather: Gather | None = None,
        process: int = 0,
        precision: AbstractContextManager | None = None,
    ) -> None:
        self.micro, self.gather, self.process = micro, gather or _alone, process
        self.precision, encoder = precision or nullcontext(), method.encoder
        if len(encoder.fields) > 1 and encoder.heads is None:
            raise AmodalError(
                "jest scores pairs of fields and needs a method that compares them, such as clip or siglip"
            )
        if scale_of(method) is None and not (self.loss and self.scale):
            raise AmodalError(
                "jest scores pairs by the learner's own loss, and cannot tell what that is for this method: say by which loss and scale, "
                "such as --curate.loss softmax --curate.scale 14 (or sigmoid, with --curate.bias)"
            )
        if self.reference is None:
            return
        device = next(encoder.parameters()).device
        self.reference = self.reference.eval().requires_grad_(False).to(device)
        self.size = parameters(self.reference) / parameters(encoder)
        for name, modality in encoder.fields.items():
            if name not in self.reference.fields:
                raise unknown("field of the reference", name, self.reference.fields)
            mine, its = (settings(m) for m in (modality, self.reference.fields[name]))
            if mine != its:
                raise AmodalError(
                    f"the reference reads {name!r} otherwise ({its}) than this data is read ({mine}); train it with the same dataset.toml"
                )

    @torch.no_grad()
    def __call__(self, method: Method, batch: Batch, step: int) -> Batch:
        """The rows that this process is to train on, of the choice from all processes' batches."""
        mine = {}
        if self.score != "easy":
            mine["learner"] = self._embed(method.encoder, batch)
            self.rows["scored"] += batch.size
        if self.score != "hard":
            mine["reference"] = self._refer(batch)
        every = {who: self.gather(z) for who, z in mine.items()}
        rows = torch.arange(batch.size, device=batch.seeds.device)
        about = {"seed": batch.seeds, "process": torch.full_like(rows, self.process)}
        whole = self.gather(Embeddings({n: Column(v, rows) for n, v in about.items()}, batch.size))
        chosen = self.choose(method, every, whole["seed"].values)
        # the same on every process, unless one rounds otherwise: the first decides
        said = Embeddings(
            {"chosen": Column(chosen, torch.arange(len(chosen), device=chosen.device))}, len(chosen)
        )
        chosen = self.gather(said)["chosen"].values[: len(chosen)]
        taken = torch.zeros(whole.size, dtype=torch.bool, device=chosen.device).index_fill_(
            0, chosen, True
        )
        here = taken[whole["process"].values == self.process].nonzero().squeeze(1)
        self.rows["trained"] += len(here)
        return batch.at(here)

    def choose(self, method: Method, models: dict[str, Embeddings], seeds_B: Tensor) -> Tensor:
        """(b,) int64 ascending: the rows chosen of a whole super-batch. models: "learner",
        "reference" -> embeddings."""
        learned = scale_of(method)
        scale = self.scale or float(learned())
        bias = self.bias if self.scale or learned.bias is None else float(learned.bias)
        loss = LOSSES[self.loss or ("softmax" if learned.bias is None else "sigmoid")]
        logits = {"learner": (scale, bias), "reference": (scale, bias)}
        if self.reference_scale:
            logits["reference"] = self.reference_scale, self.reference_bias
        one = next(iter(models.values()))
        pairs, scored = [], torch.zeros(one.size, dtype=torch.bool, device=seeds_B.device)
        for a, b in field_pairs(one) or view_pairs(one):
            at_a, _ = shared_rows(one[a], one[b])
            rows = one[a].rows[at_a]
            sign = {"learner": 1.0, "reference": -1.0}
            pairs.append(
                Pair(
                    rows,
                    one.size,
                    [(sign[w], loss(*z.pair(a, b), *logits[w])) for w, z in models.items()],
                )
            )
            scored[rows] = True

        def mean(of: Callable[[Pair], Tensor]) -> Tensor:
            return (
                sum((of(p) for p in pairs), torch.zeros_like(scored, dtype=torch.float32))
                * self.gain
                / max(len(pairs), 1)
            )

        own = mean(Pair.own).masked_fill(~scored, LAST)
        given = (lambda new: mean(lambda pair: pair.given(new))) if self.joint else None
        return draw(own, given, max(round(self.keep * one.size), 1), seeds_B, self.chunks)

    def cost(self) -> dict[str, float]:
        """Rows that this process scored, looked up with the reference and trained on, and the work
        of it all in units of that of the training alone. A pass forward and back counts three times
        one forward; the reference counts by its parameters."""
        work = 3 * self.rows["trained"] + self.rows["scored"] + self.rows["referred"] * self.size
        return self.rows | {"work": round(work / max(3 * self.rows["trained"], 1), 3)}

    def _embed(self, encoder: Encoder, batch: Batch) -> Embeddings:
        with self.precision:
            parts = [encoder(piece) for piece in batch.split(self.micro or max(batch.size, 1))] or [
                encoder(batch)
            ]
        whole = Embeddings.stack(parts)
        return Embeddings({s: whole[s] for s in whole.sources}, whole.size)

    def _refer(self, batch: Batch) -> Embeddings:
        """The reference's embeddings of a batch; those of records that it remembers are not
        computed again."""
        new = (
            [i for i, key in enumerate(batch.keys) if key not in self.known]
            if self.remember
            else range(batch.size)
        )
        self.rows["referred"] += len(new)
        found = self._embed(
            self.reference,
            batch.at(torch.tensor(list(new), dtype=torch.int64, device=batch.seeds.device)),
        )
        if not self.remember:
            return found
        for i in new:
            self.known[batch.keys[i]] = {}
        for source, column in found.columns.items():
            # clones: a view of the batch's tensor would keep all of it
            for row, vector in zip(column.rows.tolist(), map(torch.clone, column.values.cpu())):
                self.known[batch.keys[new[row]]][source] = vector
        columns = {}
        for source, column in found.columns.items():
            rows = [i for i, key in enumerate(batch.keys) if source in self.known[key]]
            vectors = [self.known[batch.keys[i]][source] for i in rows]
            values = torch.stack(vectors).to(column.values.device) if vectors else column.values[:0]
            columns[source] = Column(
                values, torch.tensor(rows, dtype=torch.int64, device=batch.seeds.device)
            )
        return Embeddings(columns, batch.size)


def _alone(mine: Embeddings) -> Embeddings:
    return mine


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def settings(modality) -> dict:
    """What decides how values are read; what only scales them may differ."""
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
    remember: bool = False,
) -> Choose:
    """reference: the folder of a run on clean data; keep: share of a super-batch that is trained
    on: super-batches are 1 / keep as large; chunks: in which the batch is drawn; score:
    "learnability", "hard" (the learner's loss alone) or "easy" (the reference's alone); joint:
    False draws each row by its own score; loss: "sigmoid" or "softmax" losses of pairs, unless
    given as the learner's own, which methods tell that learn by InfoNCE or the sigmoid loss of
    every two fields (`logit_scale`; for others give loss and scale); scale: of logits, 0 for the
    learner's own; bias: of sigmoid's, unless both are its own; reference_scale, reference_bias:
    those of the reference, scale 0 for the learner's; gain: multiplies scores; remember: keep the
    reference's vectors of each record as it was first seen, with that augmentation, so that a
    resumed run sees others (exact for plain views)."""
    given = {k: v for k, v in locals().items() if k != "reference"}
    return Jest(frozen(reference) if reference else None, **given)
