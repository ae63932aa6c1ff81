"""How a run's options, batch size and held-out records follow from its data."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from amodal import data as records
from amodal import methods
from amodal.core import AmodalError, AmodalWarning, Batch, Recipe, unknown
from amodal.core.matmul import for_run
from amodal.core.protocols import Predicts, PredictsFromFeatures
from amodal.data.loader import Views
from amodal.data.measure import samples
from amodal.methods.contract import Method
from amodal.modalities import BadValue, Modality, name_of
from amodal.nn.backbones.pretrained import input_size
from amodal.nn.heads.supervised import Target, targets_of
from amodal.nn.transformer import size_of
from amodal.train import distributed, run_dir
from amodal.train.cache_features import CachedFeatures
from amodal.train.collapse_monitor import MIN_ROWS
from amodal.train.settings import ALL

HELD_OUT = 512
"""Records that the collapse monitor measures, at most."""
SAMPLE = 500
"""Values whose length is compared with max_length, about."""
DEFAULT_EPOCHS = 50

Rows = npt.NDArray[np.int64]
Options = Mapping[str, object]


@runtime_checkable
class Truncates(Protocol):
    """A modality that cuts values to a maximum length."""

    def truncated(self, raw: Any) -> int:
        """How much of a value is lost."""
        ...


def classes_option(
    method: methods.MethodLike, chosen: Options, dataset: records.Dataset
) -> dict[str, int]:
    """The option `classes` of a supervised method: the number of classes of its label.

    Returns:
        {"classes": n}; nothing for a method without this option or where it is chosen already.

    Raises:
        AmodalError: If there is no such label, or it is a number.
    """
    if not {"label", "classes"} <= methods.options(method).keys() or chosen.get("classes"):
        return {}
    label = str(chosen.get("label", ""))
    if not label:  # the method itself raises if it needs one
        return {}
    if label not in dataset.labels:
        raise unknown(
            "label of this dataset",
            label,
            dataset.labels,
            f"{methods.title(method)} learns from one: --method.label NAME.",
        )
    names = records.class_numbers(dataset.label(label, required=True))[1]
    if not names:
        raise AmodalError(
            f"{methods.title(method)} learns classes, but the label {label!r} is a number"
        )
    return {"classes": len(names)}


def targets_option(
    method: methods.MethodLike, chosen: Options, dataset: records.Dataset, part: Rows
) -> dict[str, tuple[Mapping[str, Any], ...]]:
    """The option `targets` of a method that predicts labels of any kind, read from the data.

    Args:
        part: (n,) the training records.

    Returns:
        {"targets": …} in JSON; nothing for a method without this option or where it is chosen
        already.
    """
    accepted = methods.options(method)
    if "targets" not in accepted or chosen.get("targets"):
        return {}
    arguments = {
        name: chosen.get(name, accepted[name].default)
        for name in ("label", "task")
        if name in accepted
    }
    if not arguments["label"] or arguments["label"] is inspect.Parameter.empty:
        return {}
    targets = targets_of(dataset, part, **{name: str(value) for name, value in arguments.items()})
    return {"targets": tuple(target.written() for target in targets)}


def predicted_targets(
    method: Method, chosen: Options, dataset: records.Dataset
) -> list[dict[str, Any]]:
    """The meaning of a method's outputs, in JSON.

    Nothing for a method that predicts no labels, or by a head on its encoder's features alone.
    """
    if isinstance(method, PredictsFromFeatures) or not isinstance(method, Predicts):
        return []
    if not method.labels:
        return []
    if "targets" in chosen:
        return list(cast("Sequence[dict[str, Any]]", chosen["targets"]))
    names = records.class_numbers(dataset.label(method.labels[0]))[1]
    return [Target(method.labels[0], "classes", tuple(names)).written()]


def views_by_field(views: Views, fields: Mapping[str, Modality]) -> dict[str, tuple[str, ...]]:
    """Field -> its views. Fields that a mapping does not name are plain."""
    if isinstance(views, Mapping):
        return {field: tuple(views.get(field, ("plain",))) for field in fields}
    return dict.fromkeys(fields, tuple(views))


def single_view(views: Views, dataset: CachedFeatures) -> Views:
    """The views of a method, where cached features have the plain view alone.

    Raises:
        AmodalError: If the method compares multiple views of a cached field.
    """
    by_field = views_by_field(views, dataset.fields)
    compared = [f for f in dataset.stores if len(by_field[f]) > 1]
    if compared:
        raise AmodalError(
            f"this method compares multiple views of {', '.join(compared)}, and cached features "
            "have one; leave cache_features out"
        )
    return by_field | {f: ("plain",) for f in dataset.stores}


def resolve_batch_size(
    batch_size: int | None, default: int, records: int, world: int, min_batch_size: int
) -> int:
    """The rows of a batch, over all processes.

    Args:
        batch_size: As requested; None for the default of the encoder's size.
        records: Training records; a batch is not larger.
        world: Processes, which share a batch equally.
        min_batch_size: Of the method.

    Raises:
        AmodalError: If there is no such batch size.
    """
    if batch_size is not None and batch_size % world:
        raise AmodalError(
            f"a batch of {batch_size} rows cannot be shared equally by {world} processes; "
            f"take a multiple of {world}"
        )
    rows = min(batch_size or default, records) // world * world
    if not rows:
        raise AmodalError(
            f"{records} records to train on are fewer than the {world} processes; start fewer"
        )
    if rows < min_batch_size:
        raise AmodalError(
            f"this method compares records and needs batches of at least {min_batch_size}; "
            f"here {rows} can be had"
        )
    return rows


def resolve_recipe(recipe: Recipe, records: int, rows: int, pool: int, size: str) -> Recipe:
    """Fill in everything that a recipe leaves to the encoder's size and the data.

    Args:
        records: Training records.
        rows: Of a batch.
        pool: Rows of a super-batch, from which a batch is selected; `rows` without selection.
        size: Of the encoder.
    """
    per_epoch, default = max(records // pool, 1), size_of(size)
    steps = recipe.steps or max(1, round((recipe.epochs or DEFAULT_EPOCHS) * per_epoch))
    lr = recipe.scaled(default.lr if recipe.lr is None else recipe.lr, rows)
    if recipe.lr is None and recipe.lr_scaling == "none":
        # the square-root rule of adaptive optimizers (Malladi et al. 2022, arXiv:2205.10287),
        # downwards only
        lr = default.lr * min(1.0, (rows / default.batch) ** 0.5)
    warmup = recipe.warmup_steps
    if recipe.warmup_epochs is not None:
        warmup = round(recipe.warmup_epochs * per_epoch)
    resolved: dict[str, Any] = {
        "steps": steps,
        "lr": lr,
        "batch_size": rows,
        "warmup_steps": warmup,
    }
    return replace(recipe, **resolved, epochs=None, lr_scaling="none", warmup_epochs=None)


@runtime_checkable
class HasPictures(Protocol):
    """A modality of pictures, which come in sizes of their own."""

    def own_size(self, raws: Sequence[Any]) -> float:
        """The shorter side of the median picture in pixels, 0 for unknown."""
        ...


def with_resolution(
    dataset: records.Dataset,
    resolution: int | None,
    backbones: Mapping[str, object] | None = None,
) -> records.Dataset:
    """The dataset with images decoded at this side in pixels; None leaves it unchanged.

    It warns of pictures that are smaller: enlarging them costs, and shows nothing more.

    Args:
        dataset: To read.
        resolution: Of the recipe.
        backbones: Field -> spec, whose models may take one size alone.

    Raises:
        AmodalError: If no field has pixels, or a backbone takes another size.
    """
    if resolution is None:
        return dataset
    # any modality with a whole number as size, also of a plug-in
    sized = [f for f, m in dataset.fields.items() if isinstance(getattr(m, "size", None), int)]
    if not sized:
        raise AmodalError(
            f"resolution is {resolution}, and no field of {dataset.name!r} has pixels; leave it out"
        )
    fields: dict[str, Any] = dict(dataset.fields)
    for field in sized:
        _check_backbone(field, (backbones or {}).get(field), fields[field], resolution)
        own = fields[field].own_size(samples(dataset, field)) if _has_own(fields[field]) else 0
        if 0 < own < resolution:
            warnings.warn(
                f"resolution is {resolution}, and the median picture of {field!r} has {own:g} "
                f"pixels a side: it is enlarged, which costs {(resolution / own) ** 2:.1f} times "
                f"the pixels and shows nothing more; resolution {_tiled(fields[field], own)} would "
                "do",
                AmodalWarning,
                stacklevel=2,
            )
    return dataset.with_fields(fields | {f: replace(fields[f], size=resolution) for f in sized})


def _has_own(modality: Modality) -> bool:
    return isinstance(modality, HasPictures)


def _tiled(modality: Any, side: float) -> int:
    """The side in whole patches, of a modality that has such."""
    patch = getattr(modality, "patch", 0) or 1
    return max(1, int(side) // patch) * patch


def _check_backbone(field: str, spec: object, modality: Modality, resolution: int) -> None:
    side = input_size(spec, modality)
    if side and side != resolution:
        name, at, weights = str(spec).partition("@")
        architecture = ":".join(name.split(":")[:2])
        other = (
            f", or name the model at this size: {architecture}:{resolution}{at}{weights}"
            if name.startswith("timm:")
            else ""
        )
        raise AmodalError(
            f"resolution is {resolution}, and the backbone of {field!r} takes pictures of {side} "
            f"pixels a side: leave resolution out{other}"
        )


def views_of_recipe(recipe: Recipe, views: Views, dataset: records.Dataset) -> Views:
    """The method's views, replaced by those of the recipe, by field or by modality.

    `all` stands for every field, and takes one view: how strongly to augment. Small crops (local)
    stay what they are.

    Raises:
        AmodalError: For a field or modality that the data lacks, and for another number of views
            than the method takes.
    """
    if recipe.views is None:
        return views
    by_field = views_by_field(views, dataset.fields)
    modalities = {field: name_of(modality) for field, modality in dataset.fields.items()}
    for name in recipe.views:
        if name not in modalities and name not in modalities.values() and name != ALL:
            known = [*modalities, *set(modalities.values()), ALL]
            raise unknown("field or modality of views", name, known)
    if ALL in recipe.views and ALL not in modalities:
        if len(recipe.views[ALL]) != 1:
            raise AmodalError(
                f"views of all fields must be one, such as weak; they are "
                f"{', '.join(recipe.views[ALL])}"
            )
        strength = recipe.views[ALL][0]
        for field, default in by_field.items():
            by_field[field] = tuple(v if v == "local" else strength for v in default)
    for field, default in by_field.items():
        chosen = recipe.views.get(field, recipe.views.get(modalities[field], default))
        if len(chosen) != len(default):
            raise AmodalError(
                f"views of {field} must be {len(default)}, as many as the method compares; "
                f"they are {', '.join(chosen)}"
            )
        by_field[field] = tuple(chosen)
    return by_field


def truncated_shares(dataset: records.Dataset, part: Rows) -> dict[str, float]:
    """Field -> share of its values that are longer than max_length, in a sample.

    Only for modalities that truncate.
    """
    shares = {}
    for field, modality in dataset.fields.items():
        if not isinstance(modality, Truncates):
            continue
        rows = part[dataset.present(field)[part]].tolist()
        lost = [_lost(modality, dataset, i, field) for i in rows[:: max(len(rows) // SAMPLE, 1)]]
        readable = [bool(length) for length in lost if length is not None]
        shares[field] = round(sum(readable) / max(len(readable), 1), 4)
    return shares


def _lost(modality: Truncates, dataset: records.Dataset, i: int, field: str) -> int | None:
    try:
        return modality.truncated(dataset.raw(i, field))
    except BadValue:
        return None  # it goes into quarantine when it is loaded


def held_out_batches(dataset: records.Dataset, part: Rows) -> list[Batch]:
    """Records for the collapse monitor, of the validation part if that has enough.

    It warns of a field of which no value can be read.

    Args:
        part: (n,) the training records.

    Raises:
        AmodalError: If no field can be read.
    """
    held_out = dataset.split("valid")[:HELD_OUT]
    if len(held_out) < MIN_ROWS:
        held_out = part[:HELD_OUT]  # a collapse shows on training records too
    loader = records.Loader(dataset, held_out, batch=256, shuffle=False)
    batches = list(loader)
    unreadable = [
        f
        for f in dataset.fields
        if dataset.present(f)[held_out].any() and not any(len(b[f]) for b in batches)
    ]
    reasons = {bad.field: f"{bad.key}: {bad.reason}" for bad in reversed(loader.bad)}
    for field in unreadable:
        modality = name_of(dataset.fields[field])
        message = (
            f"none of the values of {field!r} that were checked can be read as {modality} "
            f"({reasons[field]})"
        )
        if len(unreadable) == len(dataset.fields):
            raise AmodalError(f"{message}; check dataset.toml")
        warnings.warn(message, AmodalWarning, stacklevel=2)
    return batches


def matmul_library(out: Path, asked: str, resume: bool) -> str:
    """The library of float32 products on a CPU. A resumed run continues with the same one."""
    file = out / "config.json"
    before = run_dir.read_config(file) if resume and file.exists() else {}
    return for_run(asked, before.get("matmul"), distributed.from_first)
