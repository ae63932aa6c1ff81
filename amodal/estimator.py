"""Pretraining in the manner of scikit-learn.

`fit` learns from data without labels, `transform` gives one vector a record.
"""

from __future__ import annotations

import inspect
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from amodal.core import AmodalError, Recipe, unknown
from amodal.core.recipe import NAMES, renamed

if TYPE_CHECKING:
    from torch import Tensor

    from amodal.modalities import Modality


class Embedder:
    """An encoder that `fit` pretrains on records without labels.

    X is a dict name -> values (lists, arrays or tensors of one length, None where a record lacks
    one), a list of dict records, a data frame, an array (of one field, called "x"), or whatever
    `amodal.open` takes: a folder, a table file, a bundled name. A record may lack any field;
    `transform` also takes data that lacks whole fields.

        make_pipeline(Embedder("simclr", steps=200), LogisticRegression()).fit({"photo": photos}, y)

    Args:
        method: a page of `amodal.methods`: "clip" learns from two fields or more, "simclr" also
            from one.
        size: of the encoder.
        sources: the fields to use, all unless given.
        fields: column -> modality, for values in memory whose kind shall not be guessed.
        trunk, positions, pool: of the encoder, as in `amodal.pretrain`.
        options: of the method.
        device: auto, cpu, cuda, cuda:N.
        out: the run folder to write; a temporary one unless given.
        random_state: a whole number, or None for another run each time.
        progress: show the progress of training.
        recipe: an `amodal.Recipe`; the one of the method's page unless given.
        settings: fields of the recipe, such as steps, epochs, batch_size and lr.

    Attributes after `fit`: model_ (an `amodal.Model`), n_features_out_ (D).
    """

    def __init__(
        self,
        method: str = "clip",
        *,
        size: str = "tiny",
        sources: Sequence[str] | None = None,
        fields: Mapping | None = None,
        trunk: str | None = None,
        positions: str | None = None,
        pool: str | None = None,
        options: Mapping[str, object] | None = None,
        device: str = "auto",
        out: str | Path | None = None,
        random_state: int | None = 0,
        progress: bool = False,
        recipe: Recipe | None = None,
        **settings,
    ):
        self.method, self.size = method, size
        self.sources, self.fields = sources, fields
        self.trunk, self.positions, self.pool, self.options = trunk, positions, pool, options
        self.device, self.out, self.random_state, self.progress = (
            device,
            out,
            random_state,
            progress,
        )
        self.recipe = recipe
        for name in NAMES:
            setattr(self, name, None)
        self.set_params(**renamed(settings))

    def fit(self, X, y=None) -> Embedder:
        """Pretrain on every record of X; y is not looked at."""
        from amodal import data as records
        from amodal.model import pretrain

        dataset = records.open(_readable(X), fields=self.fields or None)
        # a view of it: what is changed here is not changed for the caller
        dataset = dataset.select(list(self.sources or dataset.fields))
        dataset.parts = np.zeros(
            len(dataset), dtype=np.int8
        )  # whoever calls `fit` has split already: learn from all of it
        settings: dict[str, Any] = {
            n: v for n, v in self.get_params().items() if n in PASSED or n in NAMES
        }
        seed = (
            int.from_bytes(os.urandom(4), "little")
            if self.random_state is None
            else self.random_state
        )
        with tempfile.TemporaryDirectory(prefix="amodal-") as temporary:
            out = Path(self.out) if self.out is not None else Path(temporary) / "run"
            options = dict(self.options) if self.options else None
            self.model_ = pretrain(
                self.method, dataset, out, options=options, seed=seed, **settings
            )
        if self.out is None:
            self.model_.path = None
        encoder = self.model_.encoder
        self.schema_ = {
            name: replace(dataset.schema.fields[name], modality=cast("Modality", m))
            for name, m in encoder.fields.items()
        }
        self.n_features_out_ = encoder.space_width
        return self

    def transform(self, X) -> np.ndarray:
        """(n, D) float32, one vector for each record of X, of all the fields that it has. A record
        without any readable value has NaN, and a warning counts them."""
        from amodal.evaluate import embed_records

        if not self.__sklearn_is_fitted__():
            raise AmodalError("this Embedder has not been fitted: call fit first")
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
                f"{empty} of {len(dataset)} records have no readable value; their vectors are NaN",
                stacklevel=2,
            )
        return vectors

    def _read(self, X):
        """X as a Dataset of the fields it was fitted on, as many as are there."""
        from amodal import data as records
        from amodal.data.readers import Arrays
        from amodal.data.schema import Schema

        if not isinstance(X, Mapping):
            dataset = records.open(X)
            there = {name: f.modality for name, f in self.schema_.items() if name in dataset.fields}
            names = list(dataset.fields)
        else:
            there = {
                name: f
                for name, f in self.schema_.items()
                if any(c in X for c in _wanted(name, f, X))
            }
            names, n = list(X), len(next(iter(X.values()), ()))
            X = {c: [None] * n for name, f in there.items() for c in _wanted(name, f, X)} | X
        if not there:
            fitted, has = ", ".join(self.schema_), ", ".join(map(str, names)) or "none"
            raise AmodalError(
                f"X has none of the fields that this Embedder was fitted on, {fitted}; it has {has}"
            )
        return (
            records.Dataset(Arrays(X), Schema(there))
            if isinstance(X, Mapping)
            else dataset.with_fields(there)
        )

    def fit_transform(self, X, y=None) -> np.ndarray:
        """The vectors of the records that were learnt from."""
        return self.fit(X, y).transform(X)

    def get_feature_names_out(self, input_features=None) -> np.ndarray:
        """(D,) embedder0, embedder1, …"""
        return np.array([f"embedder{i}" for i in range(self.n_features_out_)], dtype=object)

    # What scikit-learn asks of an estimator (clone, pipelines, searches); it need not be there

    def get_params(self, deep: bool = True) -> dict[str, object]:
        """The arguments of the constructor."""
        return {name: getattr(self, name) for name in _parameters()}

    def set_params(self, **params) -> Embedder:
        """Change arguments of the constructor; unknown names are errors that offer the nearest."""
        for name, value in params.items():
            if name not in _parameters():
                raise unknown("parameter of Embedder", name, _parameters())
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


def _parameters() -> list[str]:
    named = inspect.signature(Embedder.__init__).parameters.values()
    return [p.name for p in named if p.name != "self" and p.kind is not p.VAR_KEYWORD] + list(NAMES)


def _wanted(name: str, field, columns: Mapping) -> tuple[str, ...]:
    """The columns that a field is in: its own, or those of its cells."""
    own = field.column or name
    cells = getattr(field.modality, "columns", ())
    return (own,) if own in columns or not cells else tuple(cells)


def _readable(X):
    """X as `amodal.open` takes it, values in memory as a dict of columns."""
    if hasattr(X, "to_dict") and hasattr(X, "columns"):  # a data frame
        return {str(name): list(X[name]) for name in X.columns}
    if isinstance(X, np.ndarray) or hasattr(X, "detach"):
        return {"x": X}
    return _columns(X) if isinstance(X, (list, tuple)) else X


def _columns(rows: Sequence) -> dict[str, list]:
    """Records as columns, None where a record lacks a value."""
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        got = f"a list of {type(rows[0]).__name__}" if rows else "an empty list"
        raise AmodalError(
            f"a list is taken as records, and must hold dicts name -> value; got {got}"
        )
    names = dict.fromkeys(str(name) for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
