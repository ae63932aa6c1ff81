"""A scikit-learn estimator: `fit` pretrains without labels, `transform` embeds records."""

from __future__ import annotations

import inspect
import os
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from amodal.core import AmodalError, AmodalWarning, Recipe
from amodal.core.argument_types import check_type, has_names, is_list_of_words, is_path
from amodal.core.recipe import NAMES, renamed
from amodal.core.usual_names import unknown_setting

if TYPE_CHECKING:
    from torch import Tensor

    from amodal.data import Dataset
    from amodal.data.schema import Field
    from amodal.modalities import Modality
    from amodal.model import Model


class Embedder:
    """A scikit-learn transformer whose `fit` pretrains an encoder without labels.

    X is a dict name -> values (lists, arrays or tensors of one length, None where a record lacks
    one), a list of dict records, a data frame, an array (of one field, called "x"), or whatever
    `amodal.open` takes: a folder, a table file, a bundled name. A record may lack any field, and
    `transform` also takes data that lacks whole fields.

        make_pipeline(Embedder("simclr", steps=200), LogisticRegression()).fit({"photo": photos}, y)

    Args:
        method: A page of `amodal.methods`: "clip" needs two fields or more, "simclr" one.
        size: Of the encoder.
        fields: The fields to use, all by default; or field -> modality, for values in memory whose
            modality should not be inferred.
        trunk, positions, pool: Of the encoder, as in `amodal.pretrain`.
        options: Of the method.
        device: auto, cpu, cuda, cuda:N.
        out: The run folder to write; by default a temporary one.
        random_state: A whole number, or None for a different run each time.
        progress: Show the progress of training.
        recipe: An `amodal.Recipe`; by default that of the method's page.
        settings: Fields of the recipe, such as steps, epochs, batch_size and lr.

    Attributes:
        model_: The `amodal.Model`, after `fit`.
        schema_: Field -> its entry of the schema, after `fit`.
        n_features_out_: Width of the vectors, D, after `fit`.
    """

    model_: Model
    schema_: dict[str, Field]
    n_features_out_: int

    def __init__(
        self,
        method: str = "clip",
        *,
        size: str = "tiny",
        fields: Sequence[str] | Mapping[str, str | Modality] | None = None,
        trunk: str | None = None,
        positions: str | None = None,
        pool: str | None = None,
        options: Mapping[str, object] | None = None,
        device: str = "auto",
        out: str | Path | None = None,
        random_state: int | None = 0,
        progress: bool = False,
        recipe: Recipe | None = None,
        **settings: Any,
    ):
        renamed_settings = renamed(settings)
        if fields is not None and "fields" in renamed_settings:
            raise AmodalError("fields is set twice, also by its old name; leave one out")
        self.method, self.size, self.fields = method, size, fields
        self.trunk, self.positions, self.pool, self.options = trunk, positions, pool, options
        self.device, self.out, self.random_state = device, out, random_state
        self.progress, self.recipe = progress, recipe
        for name in NAMES:
            setattr(self, name, None)
        self.set_params(**renamed_settings)

    def fit(self, X: Any, y: object = None) -> Embedder:
        """Pretrain on every record of X; y is ignored."""
        from amodal import data as records
        from amodal.model import pretrain

        check_type("fields", self.fields or [], _are_fields, "names, or a dict of name -> modality")
        check_type("options", self.options or {}, has_names, "a dict of name -> value")
        check_type("out", self.out or "run", is_path, "the run folder to write")
        modalities = self.fields if isinstance(self.fields, Mapping) else None
        dataset = records.open(_readable(X), fields=modalities or None)
        names = dataset.fields if modalities is not None else self.fields or dataset.fields
        # the caller of `fit` has split the data already: train on all of it
        everything = np.zeros(len(dataset), dtype=np.int8)
        dataset = dataset.select(list(names)).with_parts(everything)
        settings: dict[str, Any] = {
            n: v for n, v in self.get_params().items() if n in PASSED or n in NAMES
        }
        seed = self.random_state
        if seed is None:
            seed = int.from_bytes(os.urandom(4), "little")
        with tempfile.TemporaryDirectory(prefix="amodal-") as temporary:
            out = Path(self.out) if self.out is not None else Path(temporary) / "run"
            options = dict(self.options) if self.options else None
            self.model_ = pretrain(
                self.method, dataset, out, options=options, seed=seed, **settings
            )
        if self.out is None:
            self.model_.forget_path()
        encoder = self.model_.encoder
        self.schema_ = {
            name: replace(dataset.schema.fields[name], modality=m)
            for name, m in encoder.fields.items()
        }
        self.n_features_out_ = encoder.space_width
        return self

    @classmethod
    def load(cls, run: str | Path, *, device: str = "auto") -> Embedder:
        """A fitted Embedder of a run folder.

        Args:
            run: What `out`, `save` or `amodal.pretrain` wrote.
            device: As in the constructor.

        Returns:
            One that embeds as the run does. Of the constructor's arguments it knows method, options
            and device; `fit` would begin anew with the defaults of the others.

        Raises:
            AmodalError: As `amodal.load` does.
        """
        from amodal.data.schema import Field
        from amodal.model import load

        model = load(run, device=device)
        options = model.config.get("options") or {}
        made = cls(str(model.config.get("method", "clip")), options=dict(options), device=device)
        made.model_ = model
        made.schema_ = {name: Field(m) for name, m in model.encoder.fields.items()}
        made.n_features_out_ = model.encoder.space_width
        return made

    def save(self, run: str | Path) -> Path:
        """Write what `load` reads.

        Args:
            run: A new folder, or one of a run.

        Raises:
            AmodalError: If it has not been fitted, or the folder cannot be written.
        """
        return self._fitted().save(run)

    def _fitted(self) -> Model:
        if not self.__sklearn_is_fitted__():
            raise AmodalError("this Embedder has not been fitted: call fit first")
        return self.model_

    def transform(self, X: Any) -> npt.NDArray[np.float32]:
        """Embed each record of X from all fields that it has.

        Returns:
            (n, D), NaN for records without a readable value, which a warning counts.
        """
        from amodal.evaluate import embed_records
        from amodal.inference.embed import unreadable

        self._fitted()
        dataset = self._read(_readable(X))
        embedded = embed_records(
            self.model_.encoder,
            dataset,
            range(len(dataset)),
            device=self.model_.device,
            labels=False,
        )
        fused = embedded.fused()
        vectors = np.full((len(dataset), self.n_features_out_), np.nan, dtype=np.float32)
        vectors[fused.rows.numpy()] = cast("Tensor", fused.values).numpy()
        if empty := len(dataset) - len(fused):
            warnings.warn(
                f"{empty} of {len(dataset)} records have no readable value; their vectors are NaN"
                + (f"\n{unreadable(embedded.bad)}" if embedded.bad else ""),
                AmodalWarning,
                stacklevel=2,
            )
        return vectors

    def _read(self, X: Any) -> Dataset:
        """X as a Dataset of the fitted fields that it has."""
        from amodal import data as records
        from amodal.data.readers import Arrays
        from amodal.data.schema import Schema

        if not isinstance(X, Mapping):
            fitted = {name: field.modality for name, field in self.schema_.items()}
            dataset = records.open(X, expected=fitted)
            missing = dataset.missing_fields(fitted)
            present = {name: fitted[name] for name in fitted if name not in missing}
            if not present:
                raise self._no_field(dataset.fields)
            return dataset.with_fields(present)
        columns = {
            name: f
            for name, f in self.schema_.items()
            if any(c in X for c in _columns_of(name, f, X))
        }
        if not columns:
            raise self._no_field(X)
        for name, column in X.items():
            if not hasattr(column, "__len__") or isinstance(column, str):
                raise AmodalError(
                    f"column {name!r} must be a list, array or tensor with a value for each "
                    f"record, not {type(column).__name__}"
                )
        n = len(next(iter(X.values())))
        empty = {c: [None] * n for name, f in columns.items() for c in _columns_of(name, f, X)}
        return records.Dataset(Arrays(empty | dict(X)), Schema(columns))

    def _no_field(self, names: Iterable[object]) -> AmodalError:
        fitted, has = ", ".join(self.schema_), ", ".join(map(str, names)) or "none"
        return AmodalError(
            f"X has none of the fields that this Embedder was fitted on, {fitted}; it has {has}"
        )

    def fit_transform(self, X: Any, y: object = None) -> npt.NDArray[np.float32]:
        """Pretrain on X, and embed it."""
        return self.fit(X, y).transform(X)

    def get_feature_names_out(self, input_features: object = None) -> npt.NDArray[np.object_]:
        """(D,) embedder0, embedder1, …"""
        self._fitted()
        return np.array([f"embedder{i}" for i in range(self.n_features_out_)], dtype=object)

    # the interface of scikit-learn estimators, without depending on scikit-learn

    def get_params(self, deep: bool = True) -> dict[str, object]:
        """The arguments of the constructor."""
        return {name: getattr(self, name) for name in _parameters()}

    def set_params(self, **params: object) -> Embedder:
        """Change arguments of the constructor.

        Raises:
            AmodalError: For unknown names.
        """
        for name, value in params.items():
            if name not in _parameters():
                raise unknown_setting("parameter of Embedder", name, _parameters())
            setattr(self, name, value)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __repr__(self) -> str:
        defaults = {
            n: p.default for n, p in inspect.signature(Embedder.__init__).parameters.items()
        }
        defaults |= dict.fromkeys(NAMES)
        changed = [
            f"{k}={v!r}"
            for k, v in self.get_params().items()
            if not (v is defaults[k] or v == defaults[k])
        ]
        return f"Embedder({', '.join(changed)})"


PASSED = ("size", "trunk", "positions", "pool", "device", "progress", "recipe")


def _are_fields(fields: Any) -> bool:
    return is_list_of_words(fields) or has_names(fields)


def _parameters() -> list[str]:
    named = inspect.signature(Embedder.__init__).parameters.values()
    return [p.name for p in named if p.name != "self" and p.kind is not p.VAR_KEYWORD] + list(NAMES)


def _columns_of(name: str, field: Field, columns: Mapping[str, object]) -> tuple[str, ...]:
    """The columns of a field: one of its own, or those of the cells of a table."""
    column = field.column or name
    cells = getattr(field.modality, "columns", ())  # only some modalities have them
    return (column,) if column in columns or not cells else tuple(cells)


def _readable(X: Any) -> Any:
    """X as `amodal.open` takes it: values in memory as a dict of columns."""
    if hasattr(X, "to_dict") and hasattr(X, "columns"):  # a data frame
        return {str(name): list(X[name]) for name in X.columns}
    if isinstance(X, np.ndarray) or hasattr(X, "detach"):
        return {"x": X}
    from amodal.data.in_memory import records_of

    return records_of(X).data if isinstance(X, (list, tuple)) else X
