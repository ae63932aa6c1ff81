"""The encoder's vectors and simple features side by side: what a user who has both would take.

Where the simple thing wins, an encoder may still know what it does not. Whether it does is what the
column `joined` of a report says.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import Column, Embeddings
from amodal.core.column import shared_rows
from amodal.core.embeddings import vectors as vectors_of
from amodal.evaluate.context import EmbeddedParts, Pair
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.needed_parts import ComparedParts


class JoinedParts(ComparedParts):
    """A model's vectors with other features beside them, made when first needed.

    Args:
        embedded: The model's parts.
        beside: The other features of the same records.
    """

    def __init__(self, embedded: EmbeddedParts, beside: ComparedParts):
        super().__init__(lambda: side_by_side(embedded.pair, beside.pair), embedded, beside.needed)


def side_by_side(models: Pair, others: Pair) -> Pair:
    """Join the vectors of two descriptions of the same records.

    Args:
        models: A model's training and test records.
        others: The same records with other features, such as simple ones.

    Returns:
        The records and sources that both describe. For probes each description has a typical length
        of 1 on the training records. Between fields the cosine is the mean of the model's and of
        the others'.

    Raises:
        NotApplicable: If the model's space is compared by |cosine|, which has no mean with others.
    """
    if models[0].abs_cosine:
        raise NotApplicable("a space that is compared by |cosine| cannot be joined with another")
    vectors = [(model.probed(), other.probed()) for model, other in zip(models, others)]
    names = [n for n in vectors[1][0] if all(n in one for side in vectors for one in side)]
    features: list[dict[str, Column]] = [{}, {}]
    for name in names:
        lengths = [typical_length(vectors_of(one[name])) for one in vectors[0]]
        for made, (of_model, of_other) in zip(features, vectors):
            made[name] = _joined(of_model[name], of_other[name], lengths)
    sides = []
    for model, other, made in zip(models, others, features):
        aligned = {
            name: _joined(_unit(model.aligned[name]), other.aligned[name], [1.0, 1.0])
            for name in model.sources
            if name in other.aligned
        }
        sides.append(
            replace(
                other,
                aligned=Embeddings(aligned, len(model)),
                features=Embeddings(made, len(model)),
                population={n: rows for n, rows in other.population.items() if n in made},
                content={
                    n: values[torch.isin(other.aligned[n].rows, aligned[n].rows)]
                    for n, values in other.content.items()
                    if n in aligned
                },
            )
        )
    return sides[0], sides[1]


def typical_length(x_ND: Tensor) -> float:
    """The root of the mean squared length of vectors; 1 where there are none, or only zeros."""
    if not len(x_ND):
        return 1.0
    length = float(x_ND.float().square().sum(1).mean().sqrt())
    return length if length > 0 else 1.0


def _unit(column: Column) -> Column:
    return Column(normalize(vectors_of(column).float(), dim=1), column.rows)


def _joined(a: Column, b: Column, lengths: list[float]) -> Column:
    at_a, at_b = shared_rows(a, b)
    blocks = [vectors_of(one)[at] / by for one, at, by in zip((a, b), (at_a, at_b), lengths)]
    return Column(torch.cat([block.float() for block in blocks], 1), a.rows[at_a])
