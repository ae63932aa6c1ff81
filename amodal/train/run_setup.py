"""What a run makes of its records and of what it is told about them, before it begins."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from amodal import data as records
from amodal import methods
from amodal.core import AmodalError, Batch, Recipe, unknown
from amodal.core.protocols import Predicts, PredictsFromFeatures
from amodal.data.loader import Views
from amodal.methods.contract import Method
from amodal.modalities import BadValue, name_of
from amodal.nn.heads.supervised import Target, targets_of
from amodal.nn.transformer import size_of
from amodal.train.cache_features import CachedFeatures
from amodal.train.collapse_monitor import ENOUGH

HELD_OUT = 512  # records that `watch` looks at
SAMPLE = 500  # values whose length is looked at


def classes_of(method: str, chosen: dict[str, object], dataset: records.Dataset) -> dict[str, int]:
    """The option `classes` of a method that learns from the label it was given, counted in the
    data."""
    if not {"label", "classes"} <= methods.options(method).keys() or chosen.get("classes"):
        return {}
    label = str(chosen.get("label", ""))
    if not label:  # the page says whether it can do without
        return {}
    if label not in dataset.labels:
        raise unknown(
            "label of this dataset",
            label,
            dataset.labels,
            f"{method} learns from one: --method.label NAME.",
        )
    names = records.class_numbers(dataset.label(label, required=True))[1]
    if not names:
        raise AmodalError(f"{method} learns to tell classes, but the label {label!r} is a number")
    return {"classes": len(names)}


def targets_read(
    method: str, chosen: dict[str, object], dataset: records.Dataset, part: np.ndarray
) -> dict[str, tuple]:
    """The option `targets` of a method that tells any kinds of labels, read from the data."""
    accepted = methods.options(method)
    if "targets" not in accepted or chosen.get("targets"):
        return {}
    given = {
        name: chosen.get(name, accepted[name].default)
        for name in ("label", "task")
        if name in accepted
    }
    if not given["label"]:
        return {}
    found = targets_of(dataset, part, **{name: str(value) for name, value in given.items()})
    return {"targets": tuple(target.written() for target in found)}


def tells(trainee: Method, chosen: dict[str, object], dataset: records.Dataset) -> list[dict]:
    """What the outputs of a method mean, in JSON; nothing for one that tells no labels, or by a
    head on its encoder's features alone."""
    if (
        isinstance(trainee, PredictsFromFeatures)
        or not isinstance(trainee, Predicts)
        or not trainee.labels
    ):
        return []
    if "targets" in chosen:
        return list(chosen["targets"])
    names = records.class_numbers(dataset.label(trainee.labels[0]))[1]
    return [Target(trainee.labels[0], "classes", tuple(names)).written()]


def once(views: Views, seen: CachedFeatures) -> Views:
    """The views of a method, where values that backbones have looked at have one. Raises
    AmodalError if it compares several of them."""
    each = {
        f: tuple(views.get(f, ("plain",)) if isinstance(views, Mapping) else views)
        for f in seen.fields
    }
    several = [f for f in seen.stores if len(each[f]) > 1]
    if several:
        raise AmodalError(
            f"this method compares several views of {', '.join(several)}, and features that are cached have one; leave cache_features out"
        )
    return each | {f: ("plain",) for f in seen.stores}


def rows_of_a_batch(wanted: int | None, usual: int, records: int, world: int, least: int) -> int:
    """The batch asked for, or the usual one of this size of encoder, if there are so many records;
    shared equally by `world` processes. Raises AmodalError if that cannot be."""
    if wanted is not None and wanted % world:
        raise AmodalError(
            f"a batch of {wanted} rows cannot be shared equally by {world} processes; take a multiple of {world}"
        )
    rows = min(wanted or usual, records) // world * world
    if not rows:
        raise AmodalError(
            f"{records} records to train on are fewer than the {world} processes; start fewer"
        )
    if rows < least:
        raise AmodalError(
            f"this method compares records and needs batches of at least {least}; here {rows} can be had"
        )
    return rows


DEFAULT_EPOCHS = 50


def resolved(recipe: Recipe, records: int, rows: int, pool: int, size: str) -> Recipe:
    """The recipe with all that it leaves to the encoder's size and the data decided.

    Args:
        records: to train on.
        rows: of a batch.
        pool: rows of a batch before some are chosen.
        size: of the encoder.
    """
    per_epoch, usual = max(records // pool, 1), size_of(size)
    steps = recipe.steps or max(1, round((recipe.epochs or DEFAULT_EPOCHS) * per_epoch))
    lr = recipe.scaled(usual.lr if recipe.lr is None else recipe.lr, rows)
    if recipe.lr is None and recipe.lr_scaling == "none":
        lr = usual.lr * min(1.0, (rows / usual.batch) ** 0.5)
    warmup = recipe.warmup_steps
    if recipe.warmup_epochs is not None:
        warmup = round(recipe.warmup_epochs * per_epoch)
    decided: dict[str, Any] = {"steps": steps, "lr": lr, "batch_size": rows, "warmup_steps": warmup}
    return replace(recipe, **decided, epochs=None, lr_scaling="none", warmup_epochs=None)


def resized(dataset: records.Dataset, resolution: int | None) -> records.Dataset:
    """The dataset whose pictures are decoded at this side in pixels. Raises AmodalError if it has
    none."""
    if resolution is None:
        return dataset
    sides = [
        name for name, m in dataset.fields.items() if isinstance(getattr(m, "size", None), int)
    ]
    if not sides:
        raise AmodalError(
            f"resolution is {resolution}, and no field of {dataset.name!r} has pixels; leave it out"
        )
    fields: dict[str, Any] = dict(dataset.fields)
    return dataset.with_fields(
        fields | {name: replace(fields[name], size=resolution) for name in sides}
    )


def views_of_recipe(recipe: Recipe, views: Views, dataset: records.Dataset) -> Views:
    """The method's views with those of the recipe in their place, by field or by modality.

    Raises AmodalError for a field or modality that the data lacks, and for more or fewer views than
    the method takes.
    """
    if recipe.views is None:
        return views
    fields = {
        f: tuple(views.get(f, ("plain",)) if isinstance(views, Mapping) else views)
        for f in dataset.fields
    }
    kinds = {field: name_of(modality) for field, modality in dataset.fields.items()}
    for name in recipe.views:
        if name not in kinds and name not in kinds.values():
            raise unknown("field or modality of views", name, [*kinds, *set(kinds.values())])
    for field, usual in fields.items():
        asked = recipe.views.get(field, recipe.views.get(kinds[field], usual))
        if len(asked) != len(usual):
            raise AmodalError(
                f"views of {field} must be {len(usual)}, as many as the method compares; they are {', '.join(asked)}"
            )
        fields[field] = tuple(asked)
    return fields


def truncated(dataset: records.Dataset, part: np.ndarray) -> dict[str, float]:
    """field -> the share of its values that lose their end, for kinds of data that are cut to a
    length; of a sample."""
    shares = {}
    for field, modality in dataset.fields.items():
        if not hasattr(modality, "truncated"):
            continue
        rows = part[dataset.present(field)[part]].tolist()
        cut = [
            bool(lost)
            for lost in (_lost(dataset, i, field) for i in rows[:: max(len(rows) // SAMPLE, 1)])
            if lost is not None
        ]
        shares[field] = round(sum(cut) / max(len(cut), 1), 4)
    return shares


def _lost(dataset: records.Dataset, i: int, field: str) -> int | None:
    try:
        return dataset.fields[field].truncated(dataset.raw(i, field))
    except BadValue:
        return None  # it will be put in quarantine when it is read


def held_out(dataset: records.Dataset, part: Sequence[int]) -> list[Batch]:
    """Records for `watch`, of the validation part if that has enough. Raises AmodalError if nothing
    in them can be read, and warns of a field of which nothing can."""
    held = dataset.split("valid")[:HELD_OUT]
    if len(held) < ENOUGH:
        held = part[:HELD_OUT]  # collapse shows there too
    loader = records.Loader(dataset, held, batch=256, shuffle=False)
    batches = list(loader)
    dead = [
        f
        for f in dataset.fields
        if dataset.present(f)[held].any() and not any(len(b[f]) for b in batches)
    ]
    reasons = {bad.field: f"{bad.key}: {bad.reason}" for bad in reversed(loader.bad)}
    for field in dead:
        words = f"none of the values of {field!r} that were looked at can be read as {name_of(dataset.fields[field])} ({reasons[field]})"
        if len(dead) == len(dataset.fields):
            raise AmodalError(f"{words}; look at dataset.toml")
        warnings.warn(words, stacklevel=2)
    return batches
