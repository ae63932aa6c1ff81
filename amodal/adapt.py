"""Adaptation: fine-tune a run on labels, and predict the labels of records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from amodal import methods
from amodal.core import AmodalError, Recipe, unknown
from amodal.core.argument_types import check_type, has_names, is_whole, is_word
from amodal.core.protocols import Generates
from amodal.core.recipe import NAMES, accepts_old_names
from amodal.core.usual_names import unknown_setting
from amodal.data import Dataset
from amodal.data import open as open_data
from amodal.data.copied_cells import copied_cells, with_copies
from amodal.data.readers import Reader
from amodal.evaluate.base_and_new import base_and_new
from amodal.inference.class_predictions import classify
from amodal.inference.embed import known
from amodal.inference.generate import generated
from amodal.inference.heads import head_outputs
from amodal.inference.predict import MethodPredictor
from amodal.inference.prediction_table import prediction_columns
from amodal.inference.write_table import check_file, write_table
from amodal.methods.saved import check_plugins, saved
from amodal.nn.adapters.tuning import TUNINGS
from amodal.nn.heads.supervised import SupervisedHead
from amodal.nn.transformer import size_of
from amodal.progress import Bar
from amodal.studies.adapt import adapt_best
from amodal.train.pretrain import pretrain
from amodal.train.run_dir import read_config
from amodal.train.settings import recipe_of, with_changes

if TYPE_CHECKING:
    from amodal.model import Model

AUTO, OF_AUTO = "auto", "lora"
"""The default: what is best on the validation part, and the tuning among its candidates."""
EPOCHS = 30
SETTINGS = (
    "recipe",
    *NAMES,
    "workers",
    "device",
    "save_every",
    "resume",
    "accept_changed_code",
    "deterministic",
    "cache_features",
    "progress",
    "callbacks",
    "logger",
    "seed",
)
"""The settings of `pretrain` that `adapt` takes. The run decides the others."""
LR_FACTORS = {"full": 0.25, "head": 2.5, "bias": 1.0, "lora": 1.0, "adapters": 1.0, "prompts": 2.5}
"""Tuning -> factor of the learning rate of a fresh encoder of this size.

Full fine-tuning must not destroy the pretrained weights; few fresh parameters may move far."""

Rows = npt.NDArray[np.int64]
Selection = Callable[[Dataset, Rows], Rows]
"""(dataset, training records) -> the training records to learn from."""


@accepts_old_names
def adapt(
    run: str | Path,
    data: Any,
    out: str | Path,
    *,
    label: str,
    tuning: str = AUTO,
    task: str = "",
    shots: int | None = None,
    base_to_new: bool = False,
    options: Mapping[str, object] | None = None,
    **settings: Any,
) -> Path:
    """Fine-tune the encoder of a run to predict labels.

    Args:
        run: The folder of the run.
        data: As `amodal.open` takes it.
        out: The run folder to write.
        label: A label of the data, or several separated by commas.
        tuning: auto: fine-tuning by LoRA, linear maps and boosted trees on frozen and on simple
            features are compared on the validation part, and the best one is kept (see
            `amodal.studies.choose_head`). Or full, head, bias, lora, adapters or prompts (see
            `amodal.nn.adapters.tuning`), or a method that learns from a label.
        task: "auto", "survival" (label is TIME,EVENT), or "" for the default of the method.
        shots: Learn from this number of records of each class, drawn by the seed.
        base_to_new: Learn from the first half of the classes alone, in the order of their names.
            `amodal evaluate --protocols base_to_new` then measures both halves.
        options: Of the method.
        settings: Of `pretrain`, see `SETTINGS`. 30 epochs by default.

    Returns:
        The folder `out`, a run with a head.

    Raises:
        AmodalError: For unknown tunings, settings and labels, and for shots of a label without
            classes.
    """
    for name in settings:
        if name not in SETTINGS:
            raise unknown_setting(
                "setting of adapt", name, SETTINGS, "The encoder stays as the run has it."
            )
    check_type("label", label, is_word, "the name of a label")
    check_type("options", options or {}, has_names, "a dict of name -> value")
    check_type("shots", 1 if shots is None else shots, is_whole, "a whole number")
    check_plugins(run)  # before the data is opened, which may need them too
    if tuning == AUTO and base_to_new:
        raise AmodalError(
            "base_to_new needs a tuning that names classes it has not seen: --tuning mmrl"
        )
    tuned = OF_AUTO if tuning == AUTO else tuning
    method, chosen = method_options(run, label, tuned, task, options or {})
    dataset = open_data(data)
    is_list = "," in label and label not in dataset.labels
    if is_list and (base_to_new or shots is not None):
        raise AmodalError(
            "shots and base_to_new are about the classes of one label, "
            f"and {label!r} names more than one"
        )
    if base_to_new:
        dataset = base_classes(dataset, label)
    seed = settings.get("seed") or 0
    only = labelled(label) if shots is None else few_shot(label, shots, seed)
    recipe = recipe_of(method, settings.pop("recipe", None))

    def fine_tune(folder: str | Path, resume: bool) -> Path:
        return pretrain(
            method,
            dataset,
            folder,
            init_from=run,
            adapt={"shots": shots, "base_to_new": base_to_new},
            only=only,
            options=chosen,
            recipe=adaptation_recipe(recipe, run, tuned),
            **settings | {"resume": resume},
        )

    resume = bool(settings.get("resume"))
    if tuning != AUTO:
        return fine_tune(out, resume)
    changes = {name: settings[name] for name in NAMES if name in settings}
    choice = adapt_best(
        run,
        dataset,
        out,
        fine_tune,
        label=label,
        tuning=tuned,
        task=task,
        only=only,
        asked={
            "label": label,
            "task": task,
            "shots": shots,
            "seed": seed,
            "data": dataset.fingerprint,
            "run": read_config(Path(run) / "config.json").get("weights_sha256"),
            "fine-tuning": with_changes(adaptation_recipe(recipe, run, tuned), changes).written(),
        },
        seed=seed,
        device=settings.get("device", "auto"),
        resume=resume,
        progress=settings.get("progress", True),
    )
    print(choice.summary)
    return Path(out)


def method_options(
    run: str | Path, label: str, tuning: str, task: str, options: Mapping[str, object]
) -> tuple[str, dict[str, object]]:
    """The method of a tuning, and its options.

    Raises:
        AmodalError: For an unknown tuning, and a method without a label or a task.
    """
    method = "finetune" if tuning in TUNINGS else tuning
    if method not in methods.names():
        supervised = [m for m in methods.names() if "label" in methods.options(m)]
        raise unknown("tuning", tuning, [AUTO, *TUNINGS, *supervised])
    accepted = methods.options(method)
    if "label" not in accepted:
        raise AmodalError(
            f"{method} learns from no label; `amodal pretrain {method} --init-from {run}` "
            "continues a run with it"
        )
    chosen = {**methods.current_options(method, dict(options)), "label": label}
    if method == "finetune":
        chosen.setdefault("tuning", tuning)
    if task:
        if "task" not in accepted:
            raise AmodalError(
                f"{method} takes no task, it learns classes; leave task out, or take another tuning"
            )
        chosen["task"] = task
    return method, chosen


def adaptation_recipe(recipe: Recipe, run: str | Path, tuning: str) -> Recipe:
    """The recipe with the length and learning rate of an adaptation, where it leaves them open."""
    size = saved(run)[0].size
    changes: dict[str, Any] = {}
    if recipe.lr is None:
        changes["lr"] = size_of(size).lr * LR_FACTORS.get(tuning, 1.0)
    if recipe.steps is None and recipe.epochs is None:
        changes["epochs"] = EPOCHS
    return replace(recipe, **changes)


def base_classes(dataset: Dataset, label: str) -> Dataset:
    """The same records, of which those of new classes have no label.

    Raises:
        AmodalError: If the label is a number.
    """
    values = dataset.label(label, required=True)
    if values.dtype != object:
        raise AmodalError(
            f"base and new are halves of classes, and the label {label!r} is a number"
        )
    base, _ = base_and_new([v for v in values if v is not None])
    column = dataset.labels[label].column or label
    reader = _WithoutCells(dataset.reader, column, ~np.isin(values.astype(str), base))
    return Dataset(reader, dataset.schema, dataset.path, dataset.name)


class _WithoutCells(Reader):
    """The records of another reader, some of which lack the cell of one column."""

    reader: Reader

    def __init__(self, reader: Reader, column: str, removed: npt.NDArray[np.bool_]):
        self.reader, self.column, self.removed = reader, column, removed
        self.keys, self.columns = reader.keys, reader.columns
        self.base, self.ignored = reader.base, reader.ignored

    def get(self, i: int, column: str) -> Any:
        removed = column == self.column and self.removed[i]
        return None if removed else self.reader.get(i, column)

    def check(self, column: str) -> str:
        return self.reader.check(column)

    def stamp(self) -> str:
        return self.reader.stamp()


def labelled(label: str) -> Selection:
    """Select the records that have any of the labels, which are separated by commas."""

    def select(dataset: Dataset, part: Rows) -> Rows:
        names = [name.strip() for name in label.split(",")]
        has_label = np.any([known(dataset.label(name, required=True)) for name in names], 0)
        labelled_part: Rows = part[has_label[part]]
        return labelled_part

    return select


def few_shot(label: str, shots: int, seed: int) -> Selection:
    """Select `shots` records of each class, drawn by the seed; all of a class that has fewer.

    Raises:
        AmodalError: If `shots` is below 1, or (later) the label has no classes.
    """
    if shots < 1:
        raise AmodalError(f"shots = {shots}: at least one record of each class is needed")

    def select(dataset: Dataset, part: Rows) -> Rows:
        values = dataset.label(label, required=True)
        if values.dtype != object:
            raise AmodalError(
                f"shots are records of each class, and the label {label!r} is a number; "
                "leave shots out"
            )
        order = part[np.random.default_rng(seed).permutation(len(part))]
        classes = sorted({v for v in values[part] if v is not None})
        if not classes:
            raise AmodalError(
                f"no training record has the label {label!r}, so there is nothing to learn from"
            )
        chosen = [[i for i in order if values[i] == c][:shots] for c in classes]
        return np.sort(np.concatenate(chosen).astype(np.int64))

    return select


def predictions(
    model: Model,
    data: Any,
    *,
    part: str | None = None,
    by_field: bool = False,
    progress: Callable[[int], object] | None = None,
    **by_name: Any,
) -> pa.Table:
    """See `amodal.Model.predict`."""
    if by_name:
        if "classes" not in by_name:
            raise AmodalError(f"{', '.join(by_name)}: of classes by name, which `classes` names")
        if by_field:
            raise AmodalError("by_field is of labels that the run has learnt; leave classes out")
        return classify(model, data, part=part, progress=progress, **by_name).table()
    if model.head is None and isinstance(model.method, Generates):
        return _generated_table(model, data, part=part, progress=progress)
    if model.head is None:
        raise AmodalError(
            "this run predicts no label. Make one that does: "
            "amodal adapt RUN --data DIR --label LABEL --out OUT; or say which classes there are, "
            'if it was trained with texts: --classes "a,b,c"'
        )
    dataset = model.read(data)
    indices = dataset.split(part) if part else np.arange(len(dataset))
    columns = {"key": pa.array([dataset.keys[i] for i in indices.tolist()])}
    if by_field:
        if not isinstance(model.head, MethodPredictor):
            raise AmodalError("this run has one head on all fields; leave by_field out")
        steps = model.head.outputs_by_field(dataset, indices.tolist(), progress=progress)
        for field, outputs in steps.items():
            when = f"after {field}" if field else "before"
            made = prediction_columns(model.head, outputs, len(indices))
            columns |= {f"{name}, {when}": values for name, values in made.items()}
        return pa.table(columns)
    data = model.with_features(dataset) if isinstance(model.head, SupervisedHead) else dataset
    outputs = head_outputs(model.head, model.encoder, data, indices, progress=progress)
    return pa.table(columns | prediction_columns(model.head, outputs, len(indices)))


def _generated_table(
    model: Model,
    data: Any,
    *,
    part: str | None = None,
    beams: int = 4,
    progress: Callable[[int], object] | None = None,
) -> pa.Table:
    """A row for each record: `key`, and the value of the field that the method generates."""
    dataset = model.read(data)
    indices = dataset.split(part) if part else np.arange(len(dataset))
    texts = generated(model.method, dataset, indices, beams=beams, progress=progress)
    keys = pa.array([dataset.keys[i] for i in indices.tolist()])
    field = cast(Generates, model.method).generated_field
    return pa.table({"key": keys, field: pa.array(texts, pa.string())})


def write_predictions(
    model: Model,
    data: Any,
    out: str | Path,
    *,
    part: str | None = None,
    by_field: bool = False,
    copy: Sequence[str] = (),
) -> int:
    """Write predictions to a .csv or .parquet file.

    Args:
        model: A run that predicts labels, or generates a field.
        data: Whatever `amodal.open` takes.
        out: The file.
        part: See `predictions`.
        by_field: See `predictions`.
        copy: Columns of the data that are written beside the predictions.

    Returns:
        The number of records.

    Raises:
        AmodalError: For another kind of file, a run without a head, and columns that are not there
            or hold arrays.
    """
    out = check_file(out)
    dataset = model.read(data)
    copies = {name: copied_cells(dataset, name, part) for name in copy}
    with Bar("predict", len(dataset)) as bar:
        table = predictions(
            model,
            dataset,
            part=part,
            by_field=by_field,
            progress=lambda n: bar.step("records", by=n),
        )
    write_table(with_copies(table, copies), out)
    return len(table)
