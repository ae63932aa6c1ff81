"""Runs as one: what they find, and how good that is (V2L, arXiv:2207.12994)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from amodal.core import AmodalError
from amodal.core.argument_types import check_type, is_list
from amodal.data import Openable
from amodal.evaluate import Report, changes_records
from amodal.evaluation import evaluate_run
from amodal.export.hub_mixin import HubMixin
from amodal.inference.query import merged
from amodal.nn.run_ensemble import RunEnsemble, checked_weights
from amodal.search import Hit
from amodal.search.ensemble import search_ensemble
from amodal.train.run_dir import CHOSEN_ON

if TYPE_CHECKING:
    from amodal.model import Model


def _are_models(models: Any) -> bool:
    return is_list(models) and all(isinstance(one, HubMixin) for one in models)


class Ensemble:
    """Trained runs, whose cosines are averaged.

    Args:
        models: Two or more.
        weights: One for each, above 0; equal if None.
    """

    def __init__(self, models: Sequence[Model], weights: Sequence[float] | None = None):
        check_type("the models", models, _are_models, "a list of models, as amodal.load opens them")
        self.weights = checked_weights(weights, len(models))
        self.models = list(models)

    @property
    def config(self) -> dict[str, Any]:
        """That of the first run. What a run has learnt labels for, or was chosen on, counts for
        all."""
        labelled = [m.config for m in self.models if m.config.get("options", {}).get("label")]
        chosen_on = next((part for m in self.models if (part := m.config.get(CHOSEN_ON))), None)
        return (labelled or [self.models[0].config])[0] | {CHOSEN_ON: chosen_on}

    @cached_property
    def encoder(self) -> RunEnsemble:
        """The encoders end to end. Raises AmodalError if they read their fields otherwise."""
        return RunEnsemble([m.encoder for m in self.models], self.weights).eval()

    @property
    def trained(self) -> np.ndarray | None:
        """Sorted hashes of the keys that any run was trained on; None if one does not know."""
        hashes = [m.trained for m in self.models]
        known = [h for h in hashes if h is not None]
        return np.unique(np.concatenate(known)) if len(known) == len(hashes) else None

    @property
    def head(self) -> None:
        """None: an ensemble predicts no labels of its own."""
        return None

    def search(
        self,
        parts: Mapping[str, Any] | None = None,
        /,
        *,
        k: int = 10,
        where: dict[str, Any] | None = None,
        fields: Sequence[str] | None = None,
        like: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
        **query: Any,
    ) -> list[Hit]:
        """Find the records nearest to a query by the weighted mean of the runs' scores, each in the
        index of its own run; the options are those of `Model.search`."""
        members = [(m.open_index(None), m.encoder) for m in self.models]
        query = merged(parts, query)
        options = {"where": where, "fields": fields, "like": like}
        return search_ensemble(
            members, query, ensemble_weights=self.weights, k=k, weights=weights, **options
        )

    def evaluate(
        self,
        data: Openable,
        *,
        label: str | None = None,
        protocols: Sequence[str] | None = None,
        untrained: bool = True,
        **options: Any,
    ) -> Report:
        """Run protocols on records that no run was trained on; see `Model.evaluate`.

        Raises:
            AmodalError: For protocols that change records, which need one run.
        """
        if changes_records(() if protocols is None else protocols):
            raise AmodalError("protocols that change records are of one run, not of an ensemble")
        baseline = None
        if untrained:
            before = [m.untrained().encoder for m in self.models]
            baseline = RunEnsemble(before, self.weights).eval()
        return evaluate_run(
            self,
            data,
            self.encoder.fields,
            protocols=protocols,
            baseline=baseline,
            device=self.models[0].device,
            label=label,
            **options,
        )
