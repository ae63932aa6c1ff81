"""From a run to one that tells labels: fine-tuning on some records, by any of the ways there are,
and what it tells of others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from amodal import methods
from amodal.core import AmodalError, Recipe, unknown
from amodal.core.recipe import NAMES, renamed
from amodal.data import Dataset
from amodal.data import open as open_data
from amodal.data.readers import Reader
from amodal.evaluate.base_and_new import base_and_new
from amodal.inference.embed import known
from amodal.methods.saved import saved
from amodal.nn.adapters.tuning import TUNINGS
from amodal.nn.heads.supervised import SupervisedHead
from amodal.nn.transformer import size_of
from amodal.progress import Bar
from amodal.train.pretrain import pretrain
from amodal.train.settings import recipe_of

EPOCHS = 30
SETTINGS = (
    "recipe",
    *NAMES,
    *(
        "workers",
        "device",
        "save_every",
        "resume",
        "cache_features",
        "progress",
        "callbacks",
        "logger",
        "seed",
    ),
)
"""Of `pretrain`, what may be set; all else the run has decided."""
RATES = {"full": 0.25, "head": 2.5, "bias": 1.0, "lora": 1.0, "adapters": 1.0, "prompts": 2.5}
"""Of the rate that a fresh encoder of this size learns at: what was learnt is not to be lost, and
what is small may move far."""


def adapt(
    run: str | Path,
    data,
    out: str | Path,
    *,
    label: str,
    how: str = "lora",
    task: str = "",
    shots: int | None = None,
    base_to_new: bool = False,
    options: dict[str, object] | None = None,
    **settings,
) -> Path:
    """Go on with the encoder of `run` until it tells `label` of the records of `data`. Returns the
    folder `out`, a run that has a head.

    label: one, or several with commas between; task: "auto", "survival" (label: TIME,EVENT), or ""
    for what the method takes it for. how: "full", "head", "bias", "lora", "adapters" or "prompts"
    (see `amodal.nn.adapters.tuning`), or another method that learns from a label. shots: learn from
    so many records of each class only, drawn by the seed. base_to_new: learn from the first half of
    the classes only, in the order of their names; `amodal evaluate --protocols base_to_new` then
    says how well both halves are predicted. options: of the method; settings: of `pretrain`, see
    SETTINGS; 30 epochs unless they say how long. Raises AmodalError for unknown ways, settings and
    labels, and for shots of a label that is no class.
    """
    given = dict(options or {})
    method = "finetune" if how in TUNINGS else how
    if method not in methods.names():
        raise unknown(
            "way to adapt",
            how,
            [*TUNINGS, *(m for m in methods.names() if "label" in methods.options(m))],
        )
    if "label" not in methods.options(method):
        raise AmodalError(
            f"{method} learns from no label; a run goes on with it by `amodal pretrain {method} --init-from {run}`"
        )
    given |= {"label": label} | ({"tuning": how} if method == "finetune" else {})
    if task:
        if "task" not in methods.options(method):
            raise AmodalError(
                f"{method} takes no task: it tells classes; leave task out, or take another way"
            )
        given["task"] = task
    settings = renamed(settings)
    for name in settings:
        if name not in SETTINGS:
            raise unknown(
                "setting of adapt", name, SETTINGS, "The encoder stays as the run has it."
            )
    dataset = open_data(data)
    if ("," in label and label not in dataset.labels) and (base_to_new or shots is not None):
        raise AmodalError(
            f"shots and base_to_new are about the classes of one label, and {label!r} names several"
        )
    if base_to_new:
        dataset = base_only(dataset, label)
    only = labelled(label) if shots is None else few(label, shots, settings.get("seed") or 0)
    learnt: dict[str, object] = {"shots": shots, "base_to_new": base_to_new}
    settings["recipe"] = adapted(recipe_of(method, settings.pop("recipe", None)), run, how)
    return pretrain(
        method, dataset, out, init_from=run, adapt=learnt, only=only, options=given, **settings
    )


def adapted(recipe: Recipe, run: str | Path, how: str) -> Recipe:
    """The recipe with the length and the learning rate of an adaptation, where it leaves them open."""
    size = saved(run)[0].size
    decided: dict[str, Any] = (
        {"lr": size_of(size).lr * RATES.get(how, 1.0)} if recipe.lr is None else {}
    )
    if recipe.steps is None and recipe.epochs is None:
        decided["epochs"] = EPOCHS
    return replace(recipe, **decided)


def base_only(dataset: Dataset, label: str) -> Dataset:
    """The same records, of which those of new classes have lost their label."""
    values = dataset.label(label, required=True)
    if values.dtype != object:
        raise AmodalError(
            f"base and new are halves of classes, and the label {label!r} is a number"
        )
    base, _ = base_and_new([v for v in values if v is not None])
    column = dataset.labels[label].column or label
    return Dataset(
        _Without(dataset.reader, column, ~np.isin(values.astype(str), base)),
        dataset.schema,
        dataset.path,
        dataset.name,
    )


class _Without(Reader):
    """The records of another reader, some of which have no cell in one column."""

    def __init__(self, reader: Reader, column: str, gone: np.ndarray):
        self.reader, self.column, self.gone = reader, column, gone
        self.keys, self.columns, self.base, self.ignored = (
            reader.keys,
            reader.columns,
            reader.base,
            reader.ignored,
        )

    def get(self, i: int, column: str):
        return None if column == self.column and self.gone[i] else self.reader.get(i, column)

    def check(self, column: str) -> str:
        return self.reader.check(column)

    def stamp(self) -> str:
        return self.reader.stamp()


Only = Callable[[Dataset, np.ndarray], np.ndarray]


def labelled(label: str) -> Only:
    """Of the training records those that have any of the labels."""

    def only(dataset: Dataset, part: np.ndarray) -> np.ndarray:
        there = [known(dataset.label(name.strip(), required=True)) for name in label.split(",")]
        return part[np.any(there, 0)[part]]

    return only


def few(label: str, shots: int, seed: int) -> Only:
    """Of the training records `shots` of each class of the label, as many as there are of rarer
    ones, drawn by the seed."""
    if shots < 1:
        raise AmodalError(f"shots = {shots}: at least one record of each class is needed")

    def only(dataset: Dataset, part: np.ndarray) -> np.ndarray:
        values = dataset.label(label, required=True)
        if values.dtype != object:
            raise AmodalError(
                f"shots are so many records of each class, and the label {label!r} is a number; leave shots out"
            )
        order = part[np.random.default_rng(seed).permutation(len(part))]
        classes = sorted({v for v in values[part] if v is not None})
        if not classes:
            raise AmodalError(
                f"no training record has the label {label!r}, so there is nothing to learn from"
            )
        return np.sort(
            np.concatenate([[i for i in order if values[i] == c][:shots] for c in classes]).astype(
                np.int64
            )
        )

    return only


def predictions(model, data, *, part: str | None = None, progress=None) -> pa.Table:
    """See `Model.predict`."""
    if model.head is None:
        raise AmodalError(
            "this run learnt to tell no label. Make one that does: amodal adapt RUN --data DIR --label LABEL --out OUT"
        )
    dataset = model.read_what_is_there(data)
    indices = dataset.split(part) if part else np.arange(len(dataset))
    if isinstance(model.head, SupervisedHead):
        told = model.head.tell(model.embed(dataset, part=part, progress=progress).features)
    else:
        told = model.head.on(dataset, indices, progress=progress)
    gone = np.ones(len(indices), dtype=bool)
    gone[told.rows.numpy()] = False
    columns = {"key": pa.array([dataset.keys[i] for i in indices.tolist()])}
    found = model.head.predictions(told)
    for target in model.head.targets:
        values = found[target.name].numpy()
        whole = np.zeros((len(indices), *values.shape[1:]), dtype=np.float32)
        whole[~gone] = values
        if target.kind == "classes":
            names = np.array(target.classes)[whole.argmax(1)]
            columns[target.name] = pa.array(names.tolist(), mask=gone)
            columns |= {
                f"{target.name}={c}": pa.array(whole[:, i], mask=gone)
                for i, c in enumerate(target.classes)
            }
        else:
            name = f"log hazard of {target.labels[1]}" if target.kind == "survival" else target.name
            columns[name] = pa.array(whole, mask=gone)
    return pa.table(columns)


def write_predictions(model, data, out: str | Path, *, part: str | None = None) -> int:
    """Write them to `out`, a .csv or .parquet file; how many records there are."""
    out = Path(out)
    if out.suffix not in (".csv", ".parquet"):
        raise AmodalError(f"{out}: predictions are written as .csv or .parquet")
    dataset = model.read_what_is_there(data)
    with Bar("predict", len(dataset)) as bar:
        table = predictions(model, dataset, part=part, progress=lambda n: bar.step("records", by=n))
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".csv":
        from pyarrow.csv import write_csv

        write_csv(table, out)
    else:
        from pyarrow.parquet import write_table

        write_table(table, out)
    return len(table)
