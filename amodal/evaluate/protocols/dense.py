"""The dense probe: how much of a map of classes or amounts a linear map reads off frozen tokens.

As frozen encoders are compared on segmentation and depth (Oquab et al., DINOv2, TMLR 2024,
arXiv:2304.07193, section 7.4, "lin."): a linear layer on the tokens of the last layer, whose
outputs are enlarged to the pixels of the map. Tokens learn the class that most of their pixels
have, or the mean amount. Raw values, the pixels of a token without a network, are probed alike.
Of clouds each point is a place, and its class is that of its file (`amodal.evaluate.dense_clouds`).

`source` of a row is the field, or "raw values". Intervals are 95 %, from resampling records.

Differs: from the paper in the solver (penalised logistic and ridge regression, the penalty chosen
by cross-validation, in place of SGD over a grid of rates) and in that probes learn from tokens, not
from enlarged logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from amodal.core import Batch, Column
from amodal.core.matmul import fast_products
from amodal.data.measure import evenly_spaced
from amodal.data.other_column import read_from
from amodal.evaluate.context import Context
from amodal.evaluate.dense_clouds import cloud_examples
from amodal.evaluate.dense_probe import Example, probe_amounts, probe_classes
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.result import Result
from amodal.inference.choose_field import choose_field
from amodal.inference.dense import GridMean, dense_features
from amodal.inference.embed import Embedded
from amodal.inference.forward_passes import eval_mode
from amodal.modalities import BadValue, Modality
from amodal.modalities.shared.protocols import HasPoints, Tiled
from amodal.modalities.shared.rasters import amount_raster, class_raster
from amodal.nn.encoder import Encoder
from amodal.nn.patch_vectors import patch_features, token_grids

RAW = "raw values"
MIN_RECORDS = 5
"""With a map, of each part; fewer measure nothing."""

Grids = Callable[[np.ndarray], np.ndarray | None]
"""A decoded value -> (*cells, D) float32, such as (rows, columns, D), NaN where there is no data;
None without a grid."""


@dataclass(frozen=True)
class Options:
    """Options of the protocol.

    Args:
        truth: The field or column with maps: pictures of class numbers, 255 where unknown; or of
            amounts.
        places: The field whose tokens are probed; by default the only one that has places.
        amounts: Whether maps hold amounts, such as depth, and not classes.
        records: Of each part at most.
        draws: Of the intervals.
    """

    truth: str = ""
    places: str = ""
    amounts: bool = False
    records: int = 500
    draws: int = 500


class Dense(Protocol):
    """Linear probes on tokens."""

    name, default = "dense", False
    rank = 120
    reads_tokens = True
    headlines = ("mIoU", "R2")
    Options = Options

    def run(self, context: Context) -> Result:
        options, dataset, encoder = context.options, context.dataset, context.encoder
        if dataset is None or not isinstance(encoder, Encoder):
            raise NotApplicable("it reads records by one encoder, and these are vectors only")
        field = _field(encoder, options.places, options.truth, list(dataset.fields))
        has_points = isinstance(encoder.fields[field], HasPoints)
        if has_points and (options.amounts or options.truth):
            raise NotApplicable(
                f"points of {field} are probed for the class that their files have of each; leave "
                "truth and amounts out"
            )
        if not has_points and not options.truth:
            raise NotApplicable(
                "it needs the field with maps of classes or amounts: --protocol.truth FIELD"
            )
        parts, device = (context.train, context.test), _device(context)
        unread: list[str] = []
        if has_points:
            train, test = (
                [*cloud_examples(part, encoder, field, device, options.records, RAW)]
                for part in parts
            )
        else:
            modality = dataset.fields[field]
            read: Callable[[Any], np.ndarray] = amount_raster if options.amounts else class_raster
            if isinstance(modality, Tiled):
                read = partial(modality.truth, amounts=options.amounts)
            sources = _sources(encoder, field, device)
            train, test = (
                [*_examples(part, field, options.truth, read, sources, options.records, unread)]
                for part in parts
            )
        for name, part in (("training", train), ("test", test)):
            if len(part) < MIN_RECORDS:
                raise NotApplicable(
                    f"{len(part)} {name} records have both {field} and a readable map in "
                    f"{options.truth or 'its files (classification)'}; it needs {MIN_RECORDS}"
                    + (f". The first that cannot be read is {unread[0]}" if unread else "")
                )
        measure = probe_amounts if options.amounts else probe_classes
        rows, spec = measure(train, test, options.draws, context.seed)
        named = [row | {"source": field if row["source"] != RAW else RAW} for row in rows]
        spec |= {"places": field, "truth": options.truth, "records": [len(train), len(test)]}
        return Result(self.name, spec | {"solver": "linear, on tokens"}, named)


def _device(context: Context) -> Any:
    forward = context.test.perturbed_forward
    return forward.device if forward is not None else "cpu"


def _field(encoder: Encoder, wanted: str, truth: str, present: list[str]) -> str:
    """The field whose tokens are probed."""
    fields = encoder.fields.items()
    placed = (Tiled, HasPoints)
    places = [
        f for f, m in fields if f in present and (m.layout == "grid" or isinstance(m, placed))
    ]
    if not wanted:
        places = [f for f in places if f != truth or isinstance(encoder.fields[f], HasPoints)]
    if not places:
        raise NotApplicable("no field of this run has places: pictures, rasters, scans or points")
    return choose_field(places, wanted, what="with places", option="--protocol.places")


def _sources(encoder: Encoder, field: str, device: Any) -> dict[str, Grids]:
    """What is probed: name -> what makes a grid of a decoded value."""
    modality = encoder.fields[field]
    if isinstance(modality, Tiled):
        return {field: lambda v: dense_features(encoder, field, v, device), RAW: _raw(modality)}
    return {field: lambda v: _tokens(encoder, field, v, device), RAW: _raw(modality)}


@torch.no_grad()
def _tokens(encoder: Encoder, field: str, value: np.ndarray, device: Any) -> np.ndarray | None:
    column = Column(encoder.fields[field].collate([value]), torch.zeros(1, dtype=torch.int64))
    with eval_mode(encoder), fast_products():
        grids = token_grids(patch_features(encoder, Batch.of(1, {field: column}).to(device), field))
    return grids[0].float().cpu().numpy() if 0 in grids else None


def _raw(modality: Modality) -> Grids:
    """Pixels of the modality's own patches, by the places of its own tokens."""
    tokenizer = modality.tokenizer(8)

    @torch.no_grad()
    def grid(value: np.ndarray) -> np.ndarray | None:
        values = modality.collate([value])
        column = Column(values, torch.zeros(1, dtype=torch.int64))
        pixels = modality.targets(values).flatten(1).nan_to_num()
        tokens = tokenizer(column, "field", 1).with_x(pixels)
        if not isinstance(modality, Tiled):
            grids = token_grids(tokens)
            return grids[0].numpy() if 0 in grids else None
        mean = GridMean(*modality.token_cells(value))
        place_TA = modality.cells(value, tokens.position.numpy())
        mean.add(pixels.numpy(), place_TA, np.ones(len(place_TA)))
        return mean.grid()

    return grid


def _examples(
    part: Embedded,
    field: str,
    truth: str,
    read: Callable[[Any], np.ndarray],
    sources: dict[str, Grids],
    most: int,
    unread: list[str],
) -> Iterator[Example]:
    """Records that have the field and a map, evenly spaced; why others cannot be read is added to
    `unread`."""
    forward = part.perturbed_forward
    if forward is None:
        raise NotApplicable("tokens are read from records, and these are vectors only")
    dataset, rows = forward.dataset, np.asarray(forward.indices)
    maps = read_from(dataset, field, truth)
    rows = rows[dataset.present(field)[rows] & maps.present(field)[rows]]
    for row in rows[evenly_spaced(len(rows), most)].tolist():
        try:
            value, content = dataset.value(row, field), maps.raw(row, field)
            raw, modality = dataset.raw(row, field), dataset.fields[field]
            if value is None or raw is None or content is None:
                continue
            target = read(content)
            other = modality.other_grid(raw, content) if isinstance(modality, Tiled) else ""
        except BadValue as error:
            unread.append(f"{dataset.keys[row]}: {error}")
            continue
        if other:
            raise NotApplicable(f"{dataset.keys[row]}: {other}")
        grids = {name: make(value) for name, make in sources.items()}
        if grids[field] is None:
            raise NotApplicable(
                f"the encoder makes one vector of a value of {field}, or tokens that form no grid"
            )
        # a map of a scan is on its grid, and one of a picture may have another size
        sides = modality.cell_sides if isinstance(modality, Tiled) and target.ndim > 2 else ()
        yield Example({n: g for n, g in grids.items() if g is not None}, target, sides)


PROTOCOL = Dense()
