"""Time series of named channels: irregular length, missing samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged
from amodal.core.host import constant
from amodal.errors import nearest
from amodal.modalities.shared import columns as _columns
from amodal.modalities.shared import dense as _dense
from amodal.modalities.shared import draw as _draw
from amodal.modalities.shared import ragged as _ragged
from amodal.modalities.shared import requests as _requests
from amodal.modalities.shared import rocket as _rocket
from amodal.modalities.shared import simple as _simple
from amodal.modalities.shared.base import (
    FILE,
    Attribute,
    BadValue,
    FittedFeatures,
    Modality,
    Raw,
    Schema,
    SimpleFeatures,
    at_most,
    build,
    check_view,
    decodable,
    first_names,
    format_range,
    from_json,
    listed,
    read_each,
)
from amodal.modalities.shared.cells import moments, tidy
from amodal.modalities.shared.corruption import with_missing
from amodal.modalities.shared.tokenizers.series import SeriesGraph, SeriesTokenizer

if TYPE_CHECKING:
    from amodal.modalities.shared.requests import Limits

POINT_COLUMNS = (3, 4, 6)
"""Columns of an array that may be points: x, y, z, and intensity, colour or normals."""
CURVE_POINTS = 240
"""Points of a curve on a page."""
CROPS = {"weak": (0.8, 1.0), "strong": (0.5, 1.0), "local": (0.2, 0.5)}  # share of the length


@dataclass(frozen=True)
class Series(Modality):
    """A time series. A value is (t, C) float32, NaN where a sample is missing.

    Attributes:
        channels: their names, in order.
        rate: steps a second, 0 if unknown or not in time.
        units: of each channel, for people.
        patch: steps of a token.
        max_steps: longer series are cut.
        draw: steps that a view draws at random, in place of crops and noise, where their order
            means nothing: vectors of a slide's patches. With replacement where there are fewer.
            0: none.
        mean, std: of each channel, measured by `infer`.
    """

    channels: tuple[str, ...] = ("value",)
    rate: float = 0.0
    units: tuple[str, ...] = ()
    patch: int = 1
    max_steps: int = 1024
    draw: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    simple_name: ClassVar[str] = "statistics"
    suffixes: ClassVar[frozenset[str]] = frozenset({".csv", ".tsv", ".npy", ".npz"})
    magic: ClassVar[tuple[bytes, ...]] = (b"\x93NUMPY", b"PK\x03\x04")
    placeholder: ClassVar[str] = '{"channel": [number, …], …}'
    layout: ClassVar[str] = "signal"
    is_sequence: ClassVar[bool] = True
    has_time: ClassVar[bool] = True
    backbones: ClassVar[tuple[str, ...]] = (
        "resnet1d",
        "gru",
        "lstm",
        "transmil",
        "informer",
        "cnn1d",
    )

    def __post_init__(self) -> None:
        if not self.channels or len(set(self.channels)) < len(self.channels):
            raise AmodalError(
                f"series.channels must be one or more different names, got {list(self.channels)}"
            )
        for name in ("units", "mean", "std"):
            if len(getattr(self, name)) not in (0, len(self.channels)):
                raise AmodalError(
                    f"series.{name} has {len(getattr(self, name))} entries for "
                    f"{len(self.channels)} channels"
                )
        if self.patch < 1 or self.max_steps < 1:
            raise AmodalError(
                f"a series needs patch and max_steps of at least 1, got {self.patch} and "
                f"{self.max_steps}"
            )
        if self.draw < 0:
            raise AmodalError(f"series.draw is a number of steps, or 0 for none, not {self.draw}")
        at_most("series", {"patch": (self.patch, 2**16)})

    @classmethod
    def infer(cls, samples: Sequence[Raw], **overrides: Any) -> Series:
        """See `Modality.infer`.

        channels: the numeric columns, in the order of the first sample, without times. rate: from
        the times, if there are any. patch: such that the median sample has at most 32 tokens. mean
        and std: measured.
        """
        tables = read_each(samples, _columns.read)
        measured: dict[str, Any] = {"channels": _columns.numeric_names(tables)}
        lengths = [_columns.num_steps(t) for t in tables]
        measured["patch"] = max(1, -(-int(np.median(lengths)) // 32))
        measured["max_steps"] = min(32768, max(lengths) * 5 // 4 + 1)
        if rates := [r for t in tables if isinstance(t, dict) and (r := _columns.rate_of(t))]:
            measured["rate"] = tidy(float(np.median(rates)))
        series = build(cls, measured | overrides)
        mean, std = moments(np.concatenate(decodable(series, samples)))
        return replace(series, mean=series.mean or mean, std=series.std or std)

    def decode(self, raw: Raw) -> np.ndarray:
        """(t, C) float32 from .csv, .tsv, .npy or .npz (path or bytes), a dict, an array or lists.

        A dict is name -> samples; arrays and lists are (steps, channels), or (steps,) of one
        channel. Absent channels are missing, others are ignored.
        """
        table = _columns.read(raw)
        values = self._by_name(table) if isinstance(table, dict) else self._by_place(table)
        if not np.isfinite(values).any():
            raise BadValue("every sample is missing" if values.size else "no samples")
        return values[: self.max_steps]

    def _by_name(self, table: Mapping[str, np.ndarray]) -> np.ndarray:
        present = [c for c in self.channels if c in table]
        if not present:
            close = [c for name in self.channels for c in nearest(name, table)]
            hint = f"; did you mean {close[0]}?" if close else ""
            raise BadValue(
                f"none of the channels {listed(self.channels)}; it has "
                f"{listed(table) or 'nothing'}{hint}"
            )
        values = np.full((_columns.num_steps(table), len(self.channels)), np.nan, dtype=np.float32)
        for i, name in enumerate(self.channels):
            if name in table:
                values[:, i] = _columns.numbers(table[name], name)
        return values

    def _by_place(self, array: np.ndarray) -> np.ndarray:
        count = len(self.channels)
        if array.ndim == 1 and count == 1:
            array = array[:, None]
        if array.ndim != 2 or array.shape[1] != count:
            turned = "; transpose it" if array.ndim == 2 and array.shape[0] == count else ""
            raise BadValue(
                f"shape {array.shape}, expected (steps, {count} channel{'s' * (count > 1)}){turned}"
            )
        return _columns.numbers(array, "array")

    def augment(self, value: np.ndarray, view: str, rng: np.random.Generator) -> np.ndarray:
        """See `Modality.augment`.

        weak: 80-100 % of the steps, noise of .02 deviations. strong: 50-100 %, noise of .1, each
        channel scaled by about ±10 % around its mean, one in five missing. local: 20-50 %, noise of
        .1 (Um et al., 2017). With `draw`: a draw of that many steps in all of them.
        """
        check_view(view)
        if view == "plain":
            return value
        if self.draw:
            out = value[rng.choice(len(value), self.draw, replace=len(value) < self.draw)]
            return out if np.isfinite(out).any() else value
        out = value[_ragged.random_crop(len(value), *CROPS[view], rng, least=self.patch)]
        mean, std = (np.asarray(s, dtype=np.float32) for s in self.scale())
        noise = rng.standard_normal(out.shape, dtype=np.float32)
        out = out + noise * std * np.float32(0.02 if view == "weak" else 0.1)
        if view == "strong":
            out = mean + (out - mean) * rng.normal(1, 0.1, len(mean)).astype(np.float32)
            silent = rng.random(len(mean)) < 0.2
            if np.isfinite(out[:, ~silent]).any():
                out[:, silent] = np.nan
        return out if np.isfinite(out).any() else value

    def collate(self, values: Sequence[np.ndarray]) -> Ragged:
        """flat (sum of steps, C) float32."""
        return _ragged.pack(values, np.zeros((0, len(self.channels)), dtype=np.float32))

    def scale(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of each channel; 0 and 1 where they were not measured."""
        return self.mean or (0.0,) * len(self.channels), self.std or (1.0,) * len(self.channels)

    def patches(self, series: Ragged) -> tuple[Tensor, Tensor]:
        """(T, patch * C) standardised, NaN where missing or past the end, and their number (N,)."""
        mean, std = (constant(s, series.flat) for s in self.scale())
        tiles, counts_N = _ragged.patches(
            Ragged((series.flat - mean) / std, series.lengths), self.patch, torch.nan
        )
        return tiles.flatten(1), counts_N

    @property
    def token_steps(self) -> int:
        """Steps of a token."""
        return self.patch

    @property
    def step_width(self) -> int:
        """Numbers of a step of `steps`."""
        return 2 * len(self.channels)

    def steps(self, series: Ragged) -> tuple[Tensor, Tensor]:
        """(T, 2 C) standardised steps, 0 where missing, beside whether each is there; and their
        number (N,)."""
        values, counts_N = replace(self, patch=1).patches(series)
        present = (~values.isnan()).to(values.dtype)
        return torch.cat([values.nan_to_num(), present], 1), counts_N

    def dense_steps(self, values_NLC: Tensor, lengths: Tensor) -> Tensor:
        """(N, L, 2 C): `steps` of padded series, zero past the end."""
        mean, std = (values_NLC.new_tensor(s) for s in self.scale())
        inside = _dense.length_mask(values_NLC, lengths).unsqueeze(2)
        present = ~values_NLC.isnan() & inside
        scaled = torch.where(present, (values_NLC - mean) / std, 0.0)
        return torch.cat([scaled, present.to(scaled.dtype)], 2)

    def tokenizer(self, width: int) -> SeriesTokenizer:
        return SeriesTokenizer(self, width)

    def graph(self, tokenizer: nn.Module) -> SeriesGraph:
        return SeriesGraph(cast(SeriesTokenizer, tokenizer))

    def targets(self, series: Ragged) -> Tensor:
        """(T, patch * C) standardised samples, NaN where one is missing, which does not count."""
        return self.patches(series)[0]

    def predictor(self, width: int) -> nn.Linear:
        return nn.Linear(width, self.patch * len(self.channels))

    def token_loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        """(t,) squared error in deviations of the channel.

        Not normalised within the patch, as the level is part of the signal.
        """
        from amodal.objectives.reconstruction import masked_mse

        return masked_mse(prediction, target, normalise=False)

    def show(self, value: np.ndarray) -> np.ndarray:
        """Curves in deviations of their channel, gaps where samples are missing."""
        mean, std = (np.asarray(s, dtype=np.float32) for s in self.scale())
        return _draw.line_plot((value - mean) / std, self.channels)

    def describe(self, value: np.ndarray) -> str:
        missing = np.isnan(value).mean()
        time = f" ({len(value) / self.rate:.3g} s)" if self.rate else ""
        gaps = f", {missing:.0%} missing" if missing else ""
        plural = "s" * (len(self.channels) > 1)
        return f"{len(value)} steps{time} of {len(self.channels)} channel{plural}{gaps}"

    def summarize(self, raws: Sequence[Raw], values: Sequence[np.ndarray]) -> str:
        return f"{format_range((len(v) for v in values), 'steps')} of {first_names(self.channels)}"

    def mismatch(self, trained: Modality) -> str:
        if not isinstance(trained, Series):
            return ""
        if self.rate and trained.rate and self.rate != trained.rate:
            return f"{self.rate:g} steps a second, and the run was trained on {trained.rate:g}"
        if self.units and trained.units and self.units != trained.units:
            mine, theirs = (", ".join(units) for units in (self.units, trained.units))
            return f"the units {mine}, and the run was trained on {theirs}"
        return ""

    def card(self, value: np.ndarray) -> dict[str, Any]:
        """ "curves": names, and values of each channel in deviations; null where one is missing."""
        mean, std = (np.asarray(s, dtype=np.float32) for s in self.scale())
        thinned = ((value - mean) / std)[:: max(1, -(-len(value) // CURVE_POINTS))].T.tolist()
        values = [[round(v, 3) if math.isfinite(v) else None for v in c] for c in thinned]
        return {"curves": {"names": list(self.channels), "values": values}}

    def attributes(self) -> dict[str, Attribute]:
        means = {
            f"mean {c}": Attribute("number", partial(_mean, channel=i))
            for i, c in enumerate(self.channels)
        }
        return {"steps": Attribute("number", lambda value: float(len(value)))} | means

    def simple_features(self, train: Sequence[Raw]) -> SimpleFeatures:
        """MiniRocket's where a library has them (`rocket`), else length, moments, quantiles,
        autocorrelations, changes and spectrum (`simple.series`)."""
        if (model := _rocket.transformer()) is not None:
            return _rocket.rocket(self.decode_all, train, model)
        return super().simple_features(train)

    def restored_simple_features(self, state: Mapping[str, Any]) -> FittedFeatures:
        if "model" in state:
            return _rocket.restored(self.decode_all, state)
        return super().restored_simple_features(state)

    def simple_groups(self, raws: Sequence[Raw]) -> list[_simple.Array]:
        """See `simple.series`."""
        return _simple.series(self.decode_all(raws))

    def queries(self, value: Any) -> list[Raw]:
        return super().queries(from_json(value))

    def json_schema(self, limits: Limits) -> Schema:
        steps = {"type": "array", "items": {"type": ["number", "null"]}}
        channels = {name: steps for name in self.channels}
        by_name = {"type": "object", "properties": channels, "minProperties": 1}
        by_step = {"type": "array", "items": {"anyOf": [{"type": "number"}, steps]}}
        return {"anyOf": [by_name, by_step, FILE]}

    def bounds(self, raw: Any, limits: Limits) -> Raw:
        """See `Modality.bounds`: JSON, or the bytes of .npy or of a table of text."""
        if not isinstance(raw, bytes) or raw.lstrip()[:1] in (b"{", b"["):
            return _requests.cells_of(raw, limits)
        if raw.startswith(_requests.NUMPY):
            return _requests.array_of(raw)
        data, most = _requests.file_of(raw), _requests.MAX_COLUMNS
        head = data.partition(b"\n")[0]
        if len(data) > limits.json or max(map(head.count, (b",", b";", b"\t"))) > most:
            raise _requests.TooLarge(
                f"{len(data):,} bytes of text in columns; at most {limits.json:,}, {most:,} columns"
            )
        return data

    def doubt(self, raws: Sequence[Raw]) -> str:
        if raws and (shape := _columns.array_shape(raws[0])):
            return (
                f"arrays of {shape} are read as {shape[0]} steps of {shape[1]} channels; if they "
                'are pictures, write modality = "image" and suffix = [".npy"]'
                + (
                    ', if points x, y, z, modality = "points" and that suffix,'
                    if shape[1] in POINT_COLUMNS
                    else ""
                )
            )
        return ""

    def deviation(self, value: np.ndarray) -> np.ndarray:
        return np.array(self.scale()[1])

    def dropped(self, value: np.ndarray, hit: np.ndarray) -> np.ndarray:
        return with_missing(value, hit)

    @classmethod
    def example(
        cls, tokens: int, rng: np.random.Generator
    ) -> tuple[Series, Callable[[], np.ndarray]]:
        channels = tuple(f"channel {i}" for i in range(8))
        series = cls(channels=channels, max_steps=tokens, mean=(0.0,) * 8, std=(1.0,) * 8)
        return series, lambda: rng.normal(size=(tokens, 8)).astype(np.float32)


def _mean(value: np.ndarray, channel: int) -> float:
    samples = value[:, channel]
    present = samples[~np.isnan(samples)]
    return float(present.mean()) if len(present) else float("nan")
