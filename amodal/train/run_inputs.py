"""What the steps of `pretrain` pass on: inputs, the built method, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from amodal import data as records
from amodal import methods
from amodal.core import Batch, Recipe
from amodal.core.part import Spec
from amodal.core.protocols import PredictsFromFeatures
from amodal.curate import BatchSelector
from amodal.data.loader import Views
from amodal.methods.contract import Method
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import SupervisedHead
from amodal.train.packaged import BackboneSpec
from amodal.train.run_dir import Config
from amodal.train.settings import SIZE, Settings


@dataclass(frozen=True)
class Inputs:
    """What a run starts from.

    Args:
        dataset: With the fields to use.
        part: (n,) the training records.
        backbones: Field -> spec.
        source: The encoder of `init_from`, if there is one.
        inherited: Arguments of the encoder that it has from `source`, where none is set.
        choose: Selects batches from super-batches.
        notes: Lines to print when the run starts.
        code: Hash of a method of the user's own, before it has run: it may count its calls.
    """

    method: methods.MethodLike
    settings: Settings
    dataset: records.Dataset
    part: npt.NDArray[np.int64]
    backbones: dict[str, BackboneSpec]
    source: Encoder | None = None
    inherited: dict[str, Any] = field(default_factory=dict)
    choose: BatchSelector | None = None
    notes: tuple[str, ...] = ()
    code: str = ""

    @property
    def encoder_arguments(self) -> dict[str, Any]:
        """The arguments of the encoder: of the method's page, of `source`, and what is set."""
        page = {"size": SIZE} | methods.encoder_options(self.method)
        return page | self.inherited | self.settings.encoder

    @property
    def adapts(self) -> bool:
        """Whether the encoder of `init_from` itself is trained, not a fresh one."""
        return self.settings.adapt is not None


@dataclass(frozen=True)
class Built:
    """What is trained.

    Args:
        encoder: The encoder that was passed to the method.
        method: The method around it.
        options: Of the method, parsed.
        encoder_spec: The encoder before the method changed it.
        predicts: The labels that the whole method predicts; empty for a head on features.
        notes: Lines to print when the run starts.
    """

    encoder: Encoder
    method: Method
    options: dict[str, object]
    encoder_spec: Spec
    predicts: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)

    @property
    def head(self) -> SupervisedHead | None:
        """The head that predicts labels from the encoder's features, if the method has one."""
        if not isinstance(self.method, PredictsFromFeatures):
            return None
        return cast(SupervisedHead, self.method.label_head)


@dataclass(frozen=True)
class Prepared:
    """How it is trained.

    Args:
        out: The run folder.
        dataset: The training data, with cached features if requested.
        rows: Rows of a batch, over all processes.
        pool: Rows of a super-batch, from which a batch is selected.
        recipe: With nothing left open.
        held_out: Batches for the collapse monitor.
        config: Of RUN/config.json.
    """

    out: Path
    device: torch.device
    dataset: records.Dataset
    views: Views
    rows: int
    pool: int
    recipe: Recipe
    held_out: list[Batch]
    config: Config
