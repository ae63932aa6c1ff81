"""`amodal map`: maps of all records of a dataset, in a folder."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from amodal import data as records
from amodal.core import AmodalError, Batch, Tokens
from amodal.core.protocols import LocatesText, Segments
from amodal.data import Dataset
from amodal.evaluate.held_out import trained_on
from amodal.inference.embed import as_encoder
from amodal.maps import queries as text_queries
from amodal.maps.dense import Patches, check_dense, dense_field
from amodal.maps.folder import Folder
from amodal.maps.items import Items, View, changes_of_fields, changes_over_time, check_sides, single
from amodal.maps.measure import THIS, Measured, measure_change, measure_segments
from amodal.maps.modes import (
    ChangeMode,
    ClassMode,
    Mode,
    QueryMode,
    SegmentMode,
    class_tokens,
    fit_change,
    fit_segments,
)
from amodal.maps.pictures import MapPictures
from amodal.maps.region_texts import RegionTexts, check_alone, place_texts
from amodal.maps.request import Request, request_of
from amodal.maps.result import Maps
from amodal.maps.truth import Truth
from amodal.maps.values import Source, compute, range_of, sample
from amodal.maps.windows import enlarged, sliding
from amodal.methods.contract import Method
from amodal.modalities.shared.rasters import UNKNOWN
from amodal.nn.encoder import Encoder
from amodal.nn.patch_vectors import patch_features

if TYPE_CHECKING:
    from amodal.model import Model


def map_records(
    model: Model,
    data: Any,
    out: str | Path,
    *,
    queries: str | Sequence[str] | Path | None = None,
    templates: Sequence[str] = (),
    segments: int | None = None,
    change: str | Sequence[str] | None = None,
    texts: str | None = None,
    by: str | None = None,
    time: str | None = None,
    field: str | None = None,
    text_field: str | None = None,
    label: str | None = None,
    threshold: float | None = None,
    part: str | None = None,
    resolution: int | None = None,
    pictures: int = 100,
    untrained: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> Maps | RegionTexts:
    """Map pictures: where texts are, segments, change, the classes that a method has learnt, or
    texts of regions.

    Args:
        model: Its encoder keeps the places of a picture.
        data: Whatever `amodal.open` takes.
        out: The folder that is written to. Where it has maps of the same run, data and options,
            what is missing of them is made.
        queries: Texts to look for; see `amodal.maps.queries.read_queries`.
        templates: Sentences with {} for a query.
        segments: K of unsupervised segmentation, which is made where nothing else is asked for.
        change: Two fields, "BEFORE,AFTER", or one beside `by` and `time`.
        texts: "align" places the words of each record's text on regions of its picture, "write"
            writes a text for each region, by methods that do so; see `amodal.maps.region_texts`.
        by: The label or column with the place of a record.
        time: The label or column by which records of a place are in order.
        field: Of the encoder, whose network reads the pictures; the only one with pictures.
        text_field: Of the encoder, which reads the queries.
        label: A field with rasters of labels, which maps are measured against.
        threshold: Of change, or of a single query; Otsu's unless set.
        part: "train", "valid" or "test"; all records unless set.
        resolution: Side in pixels at which pictures are read, by windows of the encoder's size that
            slide over them; the encoder's unless set.
        pictures: How many records are drawn; all have values and label maps.
        untrained: Measure the encoder before training too.
        seed: Of all that is random.
        progress: Show bars.

    Raises:
        AmodalError: For options that do not fit the run or the data.
    """
    if texts is not None:
        others = {"queries": queries, "segments": segments, "change": change, "label": label}
        check_alone(others | {"threshold": threshold, "resolution": resolution, "by": by})
        return place_texts(
            model, records.open(data), out, texts, field, part, pictures, progress=progress
        )
    request = request_of(
        model.method,
        queries=queries,
        templates=templates,
        segments=segments,
        change=change,
        by=by,
        time=time,
        threshold=threshold,
        pictures=pictures,
        seed=seed,
        field=field,
        text_field=text_field,
        label=label,
        part=part,
        resolution=resolution,
        untrained=untrained,
        progress=progress,
    )
    work = _work(model, records.open(data), request)
    settings = {"run": model.fingerprint, "data": work.dataset.fingerprint, "field": work.field}
    settings |= {"text_field": work.text} if work.text else {}
    return work.run(Folder.open(out, settings | request.settings))


def _work(model: Model, dataset: Dataset, request: Request) -> _Work:
    """What is to be done, after all checks that need no embedding but one."""
    encoder, text = as_encoder(model.encoder), ""
    name = _field(encoder, dataset, request)
    if request.kind == "queries":
        method = str(model.config.get("method") or "")
        text = text_queries.text_field(encoder, request.text_field, method, name)
    part = request.part
    rows = np.asarray(dataset.split(part) if part else np.arange(len(dataset)))
    items = _items(model, dataset, name, request, rows)
    truth = None
    if request.label is not None:
        truth = Truth.open(dataset, request.label, items)
    check_sides(items, None if truth is None else dataset, request.label or "")
    work = _Work(model, dataset, request, name, text, items, truth)
    check_dense(encoder, items, work.patches(encoder, model.method), model.device)
    return work


def _field(encoder: Encoder, dataset: Dataset, request: Request) -> str:
    wanted, sources = request.field, request.change
    if wanted is None and sources and sources[0] in encoder.fields:
        wanted = sources[0]
    return dense_field(encoder.fields, wanted, [*dataset.fields])


def _items(model: Model, dataset: Dataset, name: str, request: Request, rows: np.ndarray) -> Items:
    modality = model.encoder.fields[name]
    if request.resolution is not None:
        modality = enlarged(modality, request.resolution)
    if request.by and request.time:
        by, time = request.by, request.time
        return changes_over_time(dataset, request.change[0], by, time, name, modality, rows)
    if request.change:
        before, after = request.change
        return changes_of_fields(dataset, (before, after), name, modality, rows)
    items = single(dataset, name, modality, rows)
    if request.kind != "classes":
        return items
    # a method that learnt classes reads all of its fields, the picture first
    fields = model.encoder.fields
    missing = dataset.missing_fields(fields)
    whole = dataset.with_columns(missing) if missing else dataset
    whole = whole.with_fields({name: modality} | fields)
    view = View(whole, items.views[0].rows)
    return Items(items.keys, (view,), items.labelled, left_out=items.left_out)


@dataclass(frozen=True)
class _Work:
    """One call of `map_records`.

    Args:
        model: The run.
        dataset: With all its fields.
        request: What is asked for.
        field: Of the encoder, which is mapped.
        text: Of the encoder, which reads queries.
        items: What gets a map.
        truth: Rasters of labels.
    """

    model: Model
    dataset: Dataset
    request: Request
    field: str
    text: str
    items: Items
    truth: Truth | None

    def run(self, folder: Folder) -> Maps:
        """Compute values, lay them on pictures, measure, draw."""
        progress = self.request.progress
        drawn = self._values(folder, as_encoder(self.model.encoder), self.model.method, "values")
        shares = drawn.all_shares(progress=progress)
        rows = self._rows(drawn, shares)
        to_measure, held_out = self._held_out(drawn.readable)
        measured = Measured((), 0)
        if self.truth is not None:
            measured = self._measured(folder, drawn, to_measure)
        unreadable = sorted({*range(len(self.items))} - {*drawn.readable})
        maps = Maps(
            path=folder.path,
            kind=self.request.kind,
            layers=drawn.mode.layers,
            field=self.field,
            rows=[row for _, row in rows],
            threshold=drawn.reach.threshold,
            between=drawn.reach.between,
            scores=measured.scores,
            label=self.request.label or "",
            labelled=measured.records,
            unscored=measured.left_out,
            held_out=held_out,
            left_out=self.items.left_out,
            unreadable=tuple(self.items.keys[n] for n in unreadable),
        )
        order = [n for n, _ in rows][: self.request.pictures]
        drawn.draw(order, self._colours(drawn), self.truth, maps.title, progress=progress)
        folder.write_table("table", maps.rows)
        folder.write_summary(maps.summary())
        return maps

    def patches(self, encoder: Encoder, method: Method | None) -> Patches:
        """What is computed of a batch."""
        field = self.field
        patches = self._patches_at_once(encoder, method)
        if self.request.resolution is None:
            return patches
        side: int = cast(Any, encoder.fields[field]).size
        return sliding(patches, field, side)

    def _patches_at_once(self, encoder: Encoder, method: Method | None) -> Patches:
        field = self.field
        if self.request.kind == "queries":
            return text_queries.patches_of(encoder, method, field)
        if self.request.kind == "classes":
            segmenter = cast(Segments, method)
            return lambda batch: class_tokens(segmenter, batch)

        def features(batch: Batch) -> Tokens:
            return patch_features(encoder, batch, field)

        return features

    def _values(
        self, folder: Folder, encoder: Encoder, method: Method | None, name: str
    ) -> MapPictures:
        progress = self.request.progress
        source = Source(encoder, self.patches(encoder, method), self.model.device, name)
        mode = self._fit(source, method, folder)
        readable = compute(source, self.items, mode, folder, progress=progress)
        if not readable:
            raise AmodalError("none of the pictures can be read")
        # the threshold of a user is on the scale of the trained encoder
        wanted = self.request.threshold if encoder is self.model.encoder else None
        reach = range_of(folder, name, self.items, readable, mode, wanted)
        return MapPictures(folder, self.items, mode, reach, readable, name)

    def _fit(self, source: Source, method: Method | None, folder: Folder) -> Mode:
        request, encoder = self.request, source.encoder
        if request.kind == "queries":
            queries = request.queries
            vectors = text_queries.query_vectors(encoder, method, queries, self.text, self.field)
            absolute = encoder.similarity == "abs_cosine"
            return QueryMode(tuple(q.name for q in queries), vectors, absolute)
        if request.kind == "classes":
            count = cast(Segments, method).classes
            return ClassMode(tuple(f"class {k}" for k in range(count)))
        arrays = folder.fit(source.name)
        if arrays is None:
            x_TD = sample(source, self.items, request.seed, progress=request.progress)
            arrays = self._fitted(x_TD)
            folder.write_fit(source.name, arrays)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if request.kind == "change":
            return ChangeMode(tensors["scale_D"])
        names = tuple(f"segment {k}" for k in range(request.segments))
        mean, centres, axes = (tensors[name] for name in ("mean_D", "centre_KD", "axis_D3"))
        return SegmentMode(mean, centres, axes, names)

    def _fitted(self, x_TD: Tensor) -> dict[str, np.ndarray]:
        request = self.request
        if request.kind == "change":
            return fit_change(x_TD)
        different = len(x_TD.unique(dim=0))
        if request.segments > different:
            raise AmodalError(
                f"{request.segments} segments are more than the {different} different patches of "
                "these pictures; choose fewer"
            )
        return fit_segments(x_TD, request.segments, request.seed)

    def _rows(self, drawn: MapPictures, shares: np.ndarray) -> list[tuple[int, dict[str, Any]]]:
        """Items with their rows of the table; of changes the most changed first."""
        rows = []
        for place, n in enumerate(drawn.readable):
            row: dict[str, Any] = {"key": self.items.keys[n]}
            row |= {name: column[n] for name, column in self.items.columns.items()}
            row |= {name: float(s) for name, s in zip(drawn.mode.layers, shares[place])}
            if len(drawn.mode.layers) == 1:
                values = drawn.folder.array(f"{drawn.name}/{self.items.names[n]}.npy")[0]
                row |= {"mean": float(values.mean()), "largest": float(values.max())}
            rows.append((n, row))
        if self.request.kind == "change":
            rows.sort(key=lambda pair: (-pair[1]["changed"], -pair[1]["mean"]))
        return rows

    def _held_out(self, readable: list[int]) -> tuple[list[int], bool | None]:
        """The items that a map is measured on: those that the run was not trained on, or else all.

        Returns:
            The items; True if some were left out, False if all were trained on, None for neither.
        """
        if self.truth is None:
            return [], None
        rows, seen = self.items.labelled, trained_on(self.model, self.dataset)
        labelled = [n for n in readable if self.dataset.present(self.truth.name)[rows[n]]]
        unseen = [n for n in labelled if not seen[rows[n]]]
        if len(unseen) == len(labelled):
            return readable, None
        return (unseen, True) if unseen else (readable, False)

    def _measured(self, folder: Folder, drawn: MapPictures, items: list[int]) -> Measured:
        assert self.truth is not None
        columns = {THIS: drawn}
        before = self._untrained() if self.request.untrained else None
        if before is not None:
            columns["untrained"] = self._values(folder, *before, "untrained")
        laid = {name: one.layers for name, one in columns.items()}
        thresholds = {name: one.reach.threshold for name, one in columns.items()}
        if self.request.kind == "change":
            tops = {name: one.reach.top for name, one in columns.items()}
            return measure_change(
                laid, drawn.pixels, self.truth, items, threshold=thresholds, top=tops
            )
        return measure_segments(
            laid,
            drawn.pixels,
            self.truth,
            items,
            numbers=self._numbers(drawn),
            layers=len(drawn.mode.layers),
            threshold=thresholds,
            seed=self.request.seed,
        )

    def _numbers(self, drawn: MapPictures) -> list[int] | None:
        """The class number of each layer, None where layers stand for no class."""
        if self.request.kind == "queries":
            queries = self.request.queries
            if len(queries) == 1 and self.truth is not None and self.truth.is_mask:
                # a mask marks what is looked for, and its 0 is the ground
                return [queries[0].number if queries[0].numbered else 1]
            return [q.number for q in queries]
        return list(range(len(drawn.mode.layers))) if self.request.kind == "classes" else None

    def _colours(self, drawn: MapPictures) -> dict[int, int]:
        """Class number -> the label whose colour it has on the sheet."""
        numbers = self._numbers(drawn)
        if self.truth is None or numbers is None:
            return {}
        if len(numbers) == 1:
            return {c: int(c == numbers[0]) for c in self.truth.numbers}
        return {c: numbers.index(c) if c in numbers else UNKNOWN for c in self.truth.numbers}

    def _untrained(self) -> tuple[Encoder, Method | None] | None:
        """The encoder before training, in the method if that reads patches in its own way; None
        where more than the encoder makes the map."""
        if self.request.kind == "classes":
            return None
        encoder = as_encoder(self.model.untrained().encoder)
        if self.request.kind != "queries" or not isinstance(self.model.method, LocatesText):
            return encoder, None
        trained = self.model.method
        # a copy in which the other encoder stands in the place of the trained one
        return encoder, copy.deepcopy(trained, {id(trained.encoder): encoder})
