"""The linear probe at each layer of a backbone: where in a network a label can be read best.

Zhang, Isola and Efros, ECCV 2016, arXiv:1603.08511, section 3.2, and the papers on pretext tasks
after it. A layer is the mean over the places of its map, or over its tokens.
"""

from __future__ import annotations

from dataclasses import replace

from amodal.core import Column, Embeddings
from amodal.evaluate.labels import NotApplicable, measure_sources
from amodal.evaluate.layer_states import layered_bodies, states_of_layers
from amodal.evaluate.needed_records import drawn, labelled
from amodal.evaluate.needs import LABEL
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.protocols.linear import fit
from amodal.evaluate.result import Result
from amodal.evaluate.row import Row, Spec
from amodal.inference.embed import Embedded


def layer_probe(
    train: Embedded,
    test: Embedded,
    *,
    label: str,
    few: int | None = None,
    draws: int = 5,
    seed: int = 0,
) -> Result:
    """Fit a linear classifier, or regression for a number, on every layer of every backbone.

    Args:
        train: Training records.
        test: Test records.
        label: What is predicted.
        few: See `measure`.
        draws: See `measure`.
        seed: See `measure`.

    Raises:
        NotApplicable: Without a backbone whose layers can be read.
    """
    learnt, tested = (columns_of_layers(part) for part in (train, test))
    names = [name for name in learnt if name in tested]
    if not names:
        raise NotApplicable("no field has a backbone whose layers can be read")
    spec: Spec = {}
    rows: list[Row] = []
    for name in names:
        one, other = (
            replace(part, features=alone, aligned=alone)
            for part, columns in ((train, learnt), (test, tested))
            for alone in (Embeddings({name: columns[name]}, len(part)),)
        )
        spec, of_layer = measure_sources(fit, one, other, label, few=few, draws=draws, seed=seed)
        rows += of_layer
    return Result("layer_probe", spec | {"space": "layers"}, rows)


def columns_of_layers(part: Embedded) -> dict[str, Column]:
    """FIELD/layerN -> (n, D), of the records that have vectors.

    Raises:
        NotApplicable: For vectors without an encoder.
    """
    forward = part.perturbed_forward
    if forward is None:
        raise NotApplicable("the layers read records, and these are vectors only")
    bodies = layered_bodies(forward.encoder)
    states = states_of_layers(bodies, forward.dataset, forward.indices, forward.device)
    return {
        f"{field}/layer{i}": column
        for field, columns in states.items()
        for i, column in enumerate(columns, 1)
    }


class LayerProbe(Protocol):
    """The linear probe at each layer."""

    name, needs, needed = "layer_probe", (LABEL,), (drawn, labelled)
    default = False
    rank = 115
    measure = staticmethod(layer_probe)


PROTOCOL = LayerProbe()
