"""Pretrained encoders that stay as they are, in a comparison: what a user would take before
training anything.

For a label they are a yardstick: their features, and simple features where no encoder reads a
field. Between fields they are candidates: maps from their features into one space, as
`amodal.align` compares them.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from amodal.core import AmodalError, Column, unknown
from amodal.core.embeddings import vectors as vectors_of
from amodal.data import Dataset
from amodal.data.packaged_models import LIBRARY, is_fetched
from amodal.evaluate.context import Pair
from amodal.evaluate.frozen import pooled_features, reduced_columns
from amodal.evaluate.joined import side_by_side
from amodal.evaluate.yardsticks import MAX_TRAIN, in_place_of, training_records
from amodal.inference.embed import device_of
from amodal.nn import config as encoder_config
from amodal.nn.encoder import Encoder
from amodal.studies.align import CANDIDATES
from amodal.studies.candidate import Candidate
from amodal.train.cache_features import CachedFeatures, reuse_features
from amodal.train.packaged import match_inputs, resolve_specs
from amodal.train.start import pick_device

AUTO, NONE = "auto", "none"
FROZEN = "frozen encoders"
SIZE = "nano"
"""Of the encoder around the frozen ones, on which their features do not depend."""
TIMED = 16
"""Records by which it is estimated what all of them take."""


def encoders_of(
    dataset: Dataset, asked: str | Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Which pretrained encoder reads which field.

    Args:
        dataset: With the fields.
        asked: "auto" for packaged encoders whose weights are here already, "none", or
            field -> spec.

    Returns:
        Field -> spec; and "frozen encoder of FIELD" -> what could be taken, and is not here.

    Raises:
        AmodalError: For a field that is not there.
    """
    if not isinstance(asked, str):
        for field in asked:
            if field not in dataset.fields:
                raise unknown("field", field, dataset.fields, "A frozen encoder is FIELD=SPEC.")
        return dict(asked), {}
    if asked == NONE:
        return {}, {}
    specs, absent = dict[str, str](), dict[str, str]()
    for field, modality in dataset.fields.items():
        here = next(filter(is_fetched, modality.packaged), None)
        if here is not None:
            specs[field] = f"{LIBRARY}:{here}"
        elif modality.packaged:
            spec = f"{LIBRARY}:{modality.packaged[0]}"
            absent[f"frozen encoder of {field}"] = (
                f"the weights of {spec} are not here; --frozen {field}={spec} fetches them"
            )
    return specs, absent


def read_asked(text: str) -> str | dict[str, str]:
    """What `--frozen` says: auto, none, or FIELD=SPEC,….

    Raises:
        AmodalError: For another text.
    """
    if text in (AUTO, NONE):
        return text
    parts = [part.partition("=") for part in text.split(",") if part.strip()]
    if not parts or not all(field.strip() and spec.strip() for field, _, spec in parts):
        raise AmodalError(
            f"frozen encoders are auto, none, or FIELD=SPEC such as image={LIBRARY}:"
            f"efficientnet_lite0, with commas between them; not {text!r}"
        )
    return {field.strip(): spec.strip() for field, _, spec in parts}


def maps_of(specs: Mapping[str, str], dataset: Dataset) -> list[Candidate]:
    """The maps between frozen encoders that are candidates; none where a field has no encoder."""
    if not specs or set(specs) != set(dataset.fields):
        return []
    return [
        replace(
            candidate,
            backbones=dict(specs),
            cache_features="mean",
            name=f"{candidate.name} on {FROZEN}",
        )
        for candidate in CANDIDATES
    ]


def command_of(specs: Mapping[str, str], data: str, label: str, fields: str = "") -> str:
    """The command that trains a head on frozen encoders, for a run that predicts the label.

    Args:
        specs: Field -> spec.
        data: As the user named it.
        label: What is predicted.
        fields: That the comparison was of, with commas; "" for all.
    """
    words = ["amodal", "pretrain", "finetune", "--data", data]
    words += ["--fields", fields or ",".join(specs), "--method.label", label]
    words += ["--method.tuning", "head", "--backbone"]
    words += [f"{field}={spec}" for field, spec in specs.items()]
    return shlex.join([*words, "--cache-features", "mean", "--out", "RUN"])


@dataclass(frozen=True)
class FrozenEncoders:
    """Pretrained encoders of some fields of a dataset.

    Args:
        encoder: Has them as backbones.
        dataset: With the values as they read them.
        fields: That have one.
    """

    encoder: Encoder
    dataset: Dataset
    fields: tuple[str, ...]

    @classmethod
    def of(cls, dataset: Dataset, specs: Mapping[str, str]) -> FrozenEncoders:
        """Load them. Their features are computed when they are read, unless they are cached.

        Args:
            dataset: The records.
            specs: Field -> spec.

        Raises:
            AmodalError: For a spec that is none, and where the weights cannot be had.
        """
        resolved = resolve_specs(specs)
        data = match_inputs(dataset, resolved)
        made = encoder_config.backbones(resolved, data.fields, SIZE, frozen=True)
        encoder = Encoder(data.fields, size=SIZE, backbones=made).to(pick_device("auto")).eval()
        cached = reuse_features(data, encoder, device_of(encoder), pooled=True)
        return cls(encoder, cached.select(specs), tuple(specs))

    def seconds(self) -> float:
        """About how long the features of all records take, as far as they are not cached."""
        rows = np.linspace(0, len(self.dataset) - 1, min(TIMED, len(self.dataset))).astype(int)
        pooled_features(self.encoder, self.fields, self.dataset, rows[:1])  # loads what is lazy
        start = time.monotonic()
        pooled_features(self.encoder, self.fields, self.dataset, rows)
        return (time.monotonic() - start) / len(rows) * len(self.dataset)

    def compute(self, progress: bool) -> None:
        """Compute the features of all records, so that candidates find them cached."""
        if isinstance(self.dataset, CachedFeatures):
            self.dataset.fill(progress)

    def beside(
        self, part: str, models: Pair, simple: Pair | None, check: Callable[[], None]
    ) -> tuple[Pair, Pair | None]:
        """The training records and those of a part in these features.

        Args:
            part: Of the split.
            models: The same records, as some encoder embeds them.
            simple: The same in simple features, which stand for fields without a frozen encoder.
            check: Called between the two parts.

        Returns:
            In frozen features; and in these with simple features beside them, None without such.
        """
        train = self.dataset.split("train")
        learnt = training_records(np.ones(len(train), bool), min(len(train), MAX_TRAIN), 0)
        chosen = (learnt, np.arange(len(self.dataset.split(part))))
        sides = []
        for name, numbers in zip(("train", part), chosen):
            rows = self.dataset.split(name)[numbers]
            sides.append(pooled_features(self.encoder, self.fields, self.dataset, rows))
            check()
        columns = reduced_columns(self.fields, sides)
        others = _others(models[1].sources, columns, simple, chosen)
        for made, more in zip(columns, others):
            made.update(more)
        whole = len(models[1].sources) > 1 and set(columns[0]) >= set(models[1].sources)
        frozen = in_place_of(models, columns, chosen, fused=whole)
        return frozen, None if simple is None else side_by_side(frozen, simple)


def _others(
    names: Sequence[str],
    columns: Sequence[Mapping[str, Column]],
    simple: Pair | None,
    chosen: tuple[np.ndarray, np.ndarray],
) -> tuple[dict[str, Column], dict[str, Column]]:
    """Simple features of the fields that have no frozen ones, by numbers of the chosen records."""
    made: tuple[dict[str, Column], dict[str, Column]] = ({}, {})
    if simple is None:
        return made
    for side, one, rows in zip(made, simple, chosen):
        place = torch.full((len(one),), -1, dtype=torch.long)
        place[torch.from_numpy(rows)] = torch.arange(len(rows))
        for name, column in one.probed().items():
            if name in names and name not in columns[0]:
                here = place[column.rows] >= 0
                side[name] = Column(vectors_of(column)[here], place[column.rows[here]])
    return made
