"""Rules for records of two fields: clip_score, learnability, pair_rules."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus

from amodal.core import AmodalError, unknown
from amodal.core.column import shared_rows
from amodal.core.embeddings import vectors as vectors_of
from amodal.core.protocols import HasLogitScale
from amodal.curate.pair_rules import pair_rules as rules_of_pairs
from amodal.curate.pair_rules import pairs_of
from amodal.curate.shared.pair_scores import Sigmoid, Softmax
from amodal.inference.embed import Embedded, embed_records
from amodal.modalities import BadValue
from amodal.selection.chunks import Columns, Rows
from amodal.selection.pool import Pool, Scores, text_of
from amodal.stats.auroc import auroc

if TYPE_CHECKING:
    from amodal.data import Dataset
    from amodal.model import Model

LIMITS = (
    *("short_side", "aspect", "texts_of_image", "images_of_text"),
    *("vocabulary", "least_words", "most_words"),
)
"""Of `pair_rules`, see `amodal.curate.pair_rules`."""
LITTLE = 0.6
"""Share of own pairs above mixed ones, below which fields have no common space; .5 is chance."""


def clip_score(pool: Pool) -> Scores:
    """Cosine of the fields of a record, by a run (Hessel et al. 2021, arXiv:2104.08718; DataComp,
    Gadre et al. 2023, arXiv:2304.14108, filters by it). The mean over pairs of fields.

    Raises:
        AmodalError: Without a run, or if it has fewer than two fields.
    """
    model, pairs = pool.run("clip_score"), _pairs(pool, pool.run("clip_score"), "clip_score")
    decoded = pool.decoded

    def make(rows: Rows) -> Columns:
        z = embedded(model, decoded, rows)
        own, mixed, count = (np.zeros(len(rows)) for _ in range(3))
        for a, b in pairs:
            x, y, who = _shared(z, a, b)
            # neighbours in the data are often alike, so the other record is one from far away
            for total, other in ((own, y), (mixed, y.roll(len(y) // 2, 0))):
                cosine = (x * other).sum(1)
                total[who] += (cosine.abs() if z.abs_cosine else cosine).numpy()
            count[who] += 1
        with np.errstate(invalid="ignore"):
            return {"own": own / count, "mixed": mixed / count}

    columns = pool.chunks.each("clip_score", pool.rows, make)
    named = " and ".join(dict.fromkeys(f for pair in pairs for f in pair))
    score = columns["own"]
    return Scores(
        score=score,
        meaning=f"cosine of {named}",
        fields=tuple(dict.fromkeys(f for pair in pairs for f in pair)),
        lacking=named,
        notes=_alike(score, columns["mixed"]),
    )


def _alike(matched: np.ndarray, mixed: np.ndarray) -> list[str]:
    """How often own fields are more alike than those of different records."""
    have = ~np.isnan(matched)
    if have.sum() < 2:
        return []
    both = np.concatenate([matched[have], mixed[have]])
    share = auroc(both, np.arange(len(both)) < have.sum())
    note = (
        f"own fields are more alike than those of different records in {share:.0%} (by chance 50%)"
    )
    return [f"{note}: that is little, and the choice nearly random" if share < LITTLE else note]


def learnability(pool: Pool) -> Scores:
    """The learner's loss on a record less that of a model of clean data: what is still to be
    learnt, and can be (Mindermann et al. 2022, arXiv:2206.07137; JEST, arXiv:2406.17711). Other
    records of the same chunk are the negatives.

    Raises:
        AmodalError: Without both runs, or if one of them does not learn by one softmax or sigmoid
            of cosines.
    """
    learner, reference = pool.run("learnability"), pool.settings.reference
    if reference is None:
        raise AmodalError(
            "learnability needs a run on clean data beside the learner: --reference RUN"
        )
    pairs = _pairs(pool, learner, "learnability")
    losses = {"learner": _Loss(learner, "learner"), "reference": _Loss(reference, "reference")}
    data = {
        "learner": pool.decoded,
        "reference": reference.with_features(reference.read(pool.dataset)),
    }
    for name in (f for pair in pairs for f in pair):
        if name not in reference.fields:
            raise unknown("field of the reference", name, reference.fields)

    def make(rows: Rows) -> Columns:
        made = {}
        for name, loss in losses.items():
            z, total, count = embedded(loss.model, data[name], rows), *np.zeros((2, len(rows)))
            for a, b in pairs:
                x, y, who = _shared(z, a, b)
                total[who] += loss(x, y).numpy()
                count[who] += 1
            with np.errstate(invalid="ignore"):
                made[name] = total / count
        return made

    # in any order of the data neighbours may be alike, and would be unusual negatives
    order = np.random.default_rng(pool.settings.seed).permutation(len(pool.rows))
    columns = pool.chunks.each("learnability", pool.rows[order], make)
    back = np.argsort(order)
    columns = {name: values[back] for name, values in columns.items()}
    named = " and ".join(dict.fromkeys(f for pair in pairs for f in pair))
    return Scores(
        score=columns["learner"] - columns["reference"],
        meaning="loss of the learner less that of the reference",
        fields=tuple(dict.fromkeys(f for pair in pairs for f in pair)),
        lacking=named,
        columns={f"loss of the {name}": values for name, values in columns.items()},
    )


class _Loss:
    """The loss of each of n pairs among all of them, by a run's own scale."""

    model: Model
    scale: float
    bias: float | None

    def __init__(self, model: Model, name: str):
        method = model.method
        scale = method.logit_scale() if isinstance(method, HasLogitScale) else None
        if scale is None:
            raise AmodalError(
                f"the {name} learns by no softmax or sigmoid of cosines that is known "
                f"({model.config.get('method', 'an encoder alone')}); take a run of clip or siglip"
            )
        bias = getattr(scale, "bias", None)
        self.model = model
        self.scale = float(scale().detach())
        self.bias = None if bias is None else float(bias.detach())

    def __call__(self, x_ND: Tensor, y_ND: Tensor) -> Tensor:
        everyone = torch.arange(len(x_ND))
        if self.bias is None:
            softmax = Softmax(x_ND, y_ND, self.scale)
            return softmax.diagonal + softmax.add_drawn(everyone)
        sigmoid = Sigmoid(x_ND, y_ND, self.scale, self.bias)
        # drawn rows are negatives, and no row is its own
        itself = 2 * softplus((sigmoid.a * sigmoid.b).sum(1) + self.bias)
        return sigmoid.diagonal + sigmoid.add_drawn(everyone) - itself


def pair_rules(pool: Pool) -> Scores:
    """Minus the number of rules of ALIGN (arXiv:2102.05918) that a pair of picture and text breaks.

    Raises:
        AmodalError: Without a field of pictures and one of text, or for an unknown limit.
    """
    text, picture = pool.text_field("pair_rules"), pool.picture_field()
    if picture is None:
        raise AmodalError(
            f"pair_rules reads pictures and text, and {pool.dataset.name!r} has the fields "
            f"{', '.join(pool.dataset.fields)}"
        )
    for name in pool.settings.limits:
        if name not in LIMITS:
            raise unknown("limit of pair_rules", name, LIMITS)

    def make(rows: Rows) -> Columns:
        whole = [i for i in rows.tolist() if _readable(pool.dataset, i, picture, text)]
        read = pairs_of(pool.dataset, whole, picture, text)
        place = np.isin(rows, whole)
        side, images = np.zeros((len(rows), 2), dtype=np.int64), np.full(len(rows), "", "U32")
        length, encoded = np.zeros(len(rows), dtype=np.int64), [t.encode() for t in read["texts"]]
        if whole:
            side[place], length[place] = read["sizes"], [*map(len, encoded)]
            images[place] = [digest.hex() for digest in read["images"]]
        flat = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        return {"side": side, "digest": images, "length": length, "bytes": flat}

    # with the held-out records, whose pictures must not be trained on
    rows = np.concatenate([pool.rows, pool.held_out])
    columns = pool.chunks.each("pair_rules", rows, make)
    count = len(pool.rows)
    whole = columns["digest"][:count] != ""
    ends = np.cumsum(columns["length"])[:count][whole]
    flat = columns["bytes"].tobytes()
    texts = [flat[e - n : e].decode() for e, n in zip(ends, columns["length"][:count][whole])]
    result = rules_of_pairs(
        texts,
        images=columns["digest"][:count][whole].tolist(),
        sizes=[(int(h), int(w)) for h, w in columns["side"][:count][whole]],
        held_out={*columns["digest"][count:].tolist()} - {""},
        **{name: _number(value) for name, value in pool.settings.limits.items()},  # type: ignore[arg-type]  # by name
    )
    reasons = {}
    for rule, broken in result.violations.items():
        reasons[rule] = np.zeros(count, dtype=bool)
        reasons[rule][whole] = broken
    score = np.where(whole, 0.0 - np.sum([*reasons.values()], 0, dtype=float), np.nan)
    return Scores(
        score=score,
        meaning="minus the number of rules that are broken",
        fields=(picture, text),
        lacking=f"{picture} and {text}",
        threshold=0.0,
        reasons=reasons,
    )


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _readable(dataset: Dataset, i: int, picture: str, text: str) -> bool:
    try:
        return text_of(dataset, i, text) is not None and dataset.value(i, picture) is not None
    except BadValue:
        return False


def embedded(model: Model, dataset: Dataset, rows: Rows) -> Embedded:
    """The vectors of some records."""
    with warnings.catch_warnings():
        # that one chunk happens to lack a field is nothing to warn of
        warnings.filterwarnings("ignore", message="none of the")
        return embed_records(model.encoder, dataset, rows, device=model.device, labels=False)


def _pairs(pool: Pool, model: Model, rule: str) -> list[tuple[str, str]]:
    """The pairs of fields that a rule compares."""
    chosen: Sequence[str] = pool.settings.fields or [*model.fields]
    for name in chosen:
        if name not in model.fields:
            raise unknown("field of this run", name, model.fields)
    pairs = list(itertools.combinations(dict.fromkeys(chosen), 2))
    if not pairs:
        raise AmodalError(
            f"{rule} compares two fields of a record, and there is {', '.join(chosen)} alone"
        )
    return pairs


def _shared(z: Embedded, a: str, b: str) -> tuple[Tensor, Tensor, np.ndarray]:
    """Unit vectors of the records that have both fields, and the numbers of these."""
    if a not in z.aligned or b not in z.aligned:
        return torch.zeros(0, 1), torch.zeros(0, 1), np.zeros(0, dtype=np.int64)
    at_a, at_b = shared_rows(z.aligned[a], z.aligned[b])
    x, y = vectors_of(z.aligned[a])[at_a].float(), vectors_of(z.aligned[b])[at_b].float()
    return normalize(x, dim=1), normalize(y, dim=1), z.aligned[a].rows[at_a].numpy()
