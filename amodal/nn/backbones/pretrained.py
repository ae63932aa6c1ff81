"""Backbones in the place of a tokenizer: their tokens have already seen each other.

`timm:NAME[:SIZE][@WEIGHTS]`: any image model of timm. WEIGHTS is a file (safetensors, or .pth
without code in it) or the word `pretrained` for timm's own download. SIZE is the side that images
are resized to, the model's own by default. `transformers:DIR`: a text, image or sound model, in a
directory or by its name on the Hub, OWNER/NAME; `transformers:DIR@projected`: a half of a CLIP or
CLAP, in the space of both halves. `sentence-transformers:DIR`: a sentence encoder, one vector a
text. `open_clip:NAME@WEIGHTS`: a half of a model of open_clip. `voice:resemblyzer@WEIGHTS`: the
voices of speakers in sound at 16 kHz.

From scratch: WEIGHTS may be the word `scratch`, for a random model that learns; so it may be of
transformers. Small ones are our own: `convnet` for images (`amodal.nn.backbones.convnet`), `amdim`
for images of 32, 64 and 128 pixels, whose cells see no more than their own part, `caffenet` for
images of 67 pixels and more (AlexNet's kind), `vgg` for images and spectrograms, `resnet1d` for
series and sound, `transmil` for lists of vectors (series), `informer` and `cnn1d` for series of one
length, `gru` and `lstm` for series, sound, text and symbols, `mlp` and `vector_transformer` for
tables. Their options follow a colon: `convnet:width=32,norm=group`.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from amodal import modalities
from amodal.core import AmodalError, AmodalWarning, Column, Ragged, Tokens, unknown
from amodal.core.part import Part
from amodal.core.registry import find_plugin, not_installed, plugins, reserve
from amodal.modalities import Modality
from amodal.nn.backbones.body import MIN_SHARE, Body, LoadReport, MultiScaleBody, ones_like_rows
from amodal.nn.backbones.libraries import LIBRARIES as LIBRARIES
from amodal.nn.backbones.libraries import OWN as OWN
from amodal.nn.backbones.libraries import TOKENS as TOKENS
from amodal.nn.backbones.libraries import input_size as input_size
from amodal.nn.backbones.libraries import module_of
from amodal.nn.backbones.module import ModuleBackbone, copy_of, made_module
from amodal.nn.backbones.plugin import PluginBackbone
from amodal.nn.batch_norm import WholeBatchNorm, no_rows, with_whole_batch_norm
from amodal.nn.hidden_dropout import rows_of_values, seed_dropout

EXPECTED = (
    "Expected timm:NAME@WEIGHTS, transformers:DIR, sentence-transformers:DIR, "
    f"open_clip:NAME@WEIGHTS, one of our own from scratch ({', '.join(OWN)}), FILE.py:NAME of your "
    "own, or the name of an installed plug-in."
)
MakeModule = Callable[[], nn.Module]
"""Makes a module of the user's own."""


def backbone(
    spec: str | nn.Module | MakeModule,
    modality: Modality,
    width: int,
    *,
    frozen: bool = True,
    load: bool = True,
    min_share: float = MIN_SHARE,
) -> Part:
    """A pretrained backbone.

    Args:
        spec: See above; or a module of the user's own, or a function that makes one.
        modality: Of the field.
        width: Of the tokens, which a learned linear map makes of the features.
        frozen: The model's own parameters do not learn.
        load: False builds the model alone, for weights that a checkpoint holds.
        min_share: Of the parameters that the weights must match.

    Raises:
        AmodalError: For an unknown spec, a modality that the library does not read, weights of
            another model, and a frozen model without weights.
    """
    if not isinstance(spec, str):
        return user_module(spec, modality, width, frozen)
    library, _, rest = spec.partition(":")
    if find_plugin("backbones", library):
        return PluginBackbone(spec, modality, width, frozen=frozen)
    if library == TOKENS:
        raise AmodalError(
            f"{TOKENS} is a field's own tokenizer, and no backbone: FIELD={TOKENS} in `pretrain`, "
            f"without options, not {spec!r}"
        )
    if library in LIBRARIES and not rest and library not in OWN:
        raise AmodalError(f"{spec!r} names no model. {EXPECTED}")
    if library not in LIBRARIES:
        raise unknown(
            "library of backbones",
            library,
            [*LIBRARIES, TOKENS, *plugins("backbones")],
            f"{EXPECTED} " + not_installed("backbones", library),
        )
    if library not in modality.backbones:
        kinds = [name for name, kind in modalities.every().items() if library in kind.backbones]
        raise AmodalError(
            f"{library} backbones are for {' and '.join(kinds)} fields, but this field is "
            f"{modality.kind}: {spec}"
        )
    module = module_of(library)
    if library in OWN:
        body, name, report = module.build(library, rest, modality), spec, None
    else:
        body, name, report = module.build(rest, modality, load)
    if load and report is None and frozen and not body.is_scratch:
        raise AmodalError(
            f"{name} names no weights, so it would stay random: add @/path/to/weights.safetensors "
            "or @pretrained, or let it learn: @scratch, or frozen=False for all backbones"
        )
    if report is not None:
        report.check(min_share)
    side, own = input_size(spec, modality) if load else 0, getattr(modality, "size", 0)
    if side > own:
        warnings.warn(
            f"{library}:{rest.partition('@')[0].partition('#{')[0]} takes pictures of {side} "
            f"pixels a side, and enlarges this field's {own}; set size = {side} for the field",
            AmodalWarning,
            stacklevel=2,
        )
    return Backbone(body, name, width, modality=modality, frozen=frozen, report=report)


def user_module(
    module: nn.Module | MakeModule, modality: Modality, width: int, frozen: bool
) -> Part:
    """A copy of a module of the user's own, or of what a factory without arguments makes, as a
    backbone. The module itself stays as it is.

    Raises:
        AmodalError: For anything else.
    """
    made = copy_of(made_module(module))
    if isinstance(made, Backbone):
        return made
    return ModuleBackbone(made, modality, width, frozen=frozen)


def is_own_code(spec: object) -> bool:
    """Whether a spec is a module of the user's own or what makes one, or says where one of these
    is: FILE.py:NAME or PACKAGE.MODULE:NAME."""
    if not isinstance(spec, str):
        return True
    library = spec.partition(":")[0]
    location, _, name = spec.rpartition(":")
    if not location or library in (*LIBRARIES, "package") or find_plugin("backbones", library):
        return False
    if location.endswith(".py"):
        return True
    package = location.partition(".")[0]
    dotted = all(part.isidentifier() for part in (*location.split("."), name))
    if not dotted or package in sys.modules:
        return dotted
    return importlib.util.find_spec(package) is not None


# package:NAME becomes one of the libraries in `amodal.train`
reserve("backbones", [*LIBRARIES, TOKENS, "package"])


class Backbone(Part):
    """A model of a library, with a linear map to the encoder's width.

    In place of values it also takes cached features: rows of (tokens, width + 3), features and
    positions. The model is in evaluation mode, as its dropout does not draw from the seeds of rows
    (unless `let_dropout` has been called). But in training the BatchNorm of a model that learns
    takes the statistics of the batch, over all present rows of all ranks (`amodal.nn.batch_norm`).

    Args:
        body: The model.
        name: A spec from which `from_args` makes the same module.
        width: Of the tokens.
        modality: Of the field.
        frozen: The model's own parameters do not learn, unless it begins random on purpose.
        report: What the weights matched; None if none were loaded.
    """

    contextual = True

    def __init__(
        self,
        body: Body,
        name: str,
        width: int,
        *,
        modality: Modality,
        frozen: bool,
        report: LoadReport | None = None,
    ):
        super().__init__()
        frozen = frozen and not body.is_scratch
        self.body, self.name, self.frozen, self.report = body, name, frozen, report
        self._learns = False
        self.describe_as(spec=name, modality=modality, width=width)
        self.project = nn.Linear(body.width, width)
        if body.is_space:
            self.keep_features()
        self.train(self.training)
        self.body.requires_grad_(False)
        if not frozen:
            self.thaw()

    def describe_as(self, **args: Any) -> None:
        """Described by its name alone: the weights are in the run."""
        object.__setattr__(self, "_args", args)

    @classmethod
    def from_args(  # type: ignore[override]  # takes what `describe_as` writes
        cls, spec: str, modality: Modality, width: int
    ) -> Backbone:
        """The same module, without its weights."""
        return cast(Backbone, backbone(spec, modality, width, load=False))

    @torch.no_grad()
    def keep_features(self) -> None:
        """Let the map to the encoder's width fill dimensions up with zeros, and not learn.

        Raises:
            AmodalError: For an encoder that is less wide than the model.
        """
        if self.body.width > self.project.out_features:
            raise AmodalError(
                f"{self.name.partition('#')[0]} has a space of {self.body.width} dimensions, which "
                f"an encoder {self.project.out_features} wide cannot hold: take a larger --size "
                "(small has 384, base 768, large 1,024)"
            )
        nn.init.eye_(self.project.weight)
        nn.init.zeros_(self.project.bias)
        self.project.requires_grad_(False)

    def load_body(self, other: Backbone) -> None:
        """Take the pretrained weights of another backbone of this name."""
        self.body.load_state_dict(other.body.state_dict())

    def let_dropout(self) -> int:
        """Let the dropout of the model drop entries within `hidden_dropout`.

        Returns:
            How many layers of the model do; 0 for a model without dropout.
        """
        return seed_dropout(self.body)

    def pass_gradients(self) -> None:
        """Compute gradients in the model, for adapters in it; its own parameters stay frozen."""
        self.frozen = False

    def thaw(self) -> None:
        """The model's own parameters learn from now on."""
        self.frozen, self._learns = False, True
        self.body = with_whole_batch_norm(self.body)
        self.body.requires_grad_(True)
        _stop_unused(self.body)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        """Training or evaluation mode of the linear map, and of the BatchNorm of a model that
        learns; the rest of the model stays in evaluation mode."""
        super().train(mode)
        self.body.eval()
        for part in self.body.modules():
            if isinstance(part, WholeBatchNorm):
                part.take_statistics(mode and self._learns)
        return self

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        """Values or cached features of N rows -> tokens, x (T, width).

        Args:
            column: The values.
            name: Of the source.
            size: B.
        """
        with rows_of_values(column.rows, name):
            features, lengths, position = self.features(column)
        return Tokens.of(self.project(features), column.rows, lengths, position, name, size)

    def at_scales(self, column: Column, name: str, size: int) -> tuple[Tokens, dict[str, Column]]:
        """As `forward`, and what a model with several receptive fields sees at each.

        Args:
            column: The values.
            name: Of the source.
            size: B.

        Returns:
            The tokens of wholes, and scale -> the N rows' lists of features.

        Raises:
            AmodalError: For a model with one receptive field.
        """
        if not isinstance(self.body, MultiScaleBody):
            raise AmodalError(f"{self.name} has one receptive field, and no smaller ones")
        with rows_of_values(column.rows, name):
            if len(column):
                whole, maps = self.body.at_scales(column.values)
            else:
                with no_rows():
                    whole, maps = self.body.at_scales(self.body.example().to(column.rows.device))
                    whole, maps = whole[:0], {k: m[:0] for k, m in maps.items()}
        lengths, position = ones_like_rows(whole), self.body.position(whole)
        tokens = Tokens.of(self.project(whole), column.rows, lengths, position, name, size)
        lists = {k: Ragged(m.flatten(0, 1), lengths * m.shape[1]) for k, m in maps.items()}
        return tokens, {k: Column(values, column.rows) for k, values in lists.items()}

    def features(self, column: Column) -> tuple[Tensor, Tensor, Tensor]:
        """What the model alone makes of N values or cached features.

        Returns:
            Features (T, its width), lengths (N,) and positions (T, 3).
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            if self._is_cached(column):
                assert isinstance(column.values, Ragged)
                flat, lengths = column.values.flat, column.values.lengths
                features, position = flat[:, :-3].to(self.project.weight.dtype), flat[:, -3:]
            elif len(column):
                features, lengths, position = self.body(column.values)
            else:  # no row: every parameter still becomes part of the graph
                with no_rows():
                    features, lengths, position = (
                        t[:0] for t in self.body(self.body.example().to(column.rows.device))
                    )
        return features, lengths, position

    def _is_cached(self, column: Column) -> bool:
        """Whether a column has features in place of values."""
        # of a model that learns none are cached; steps of a series look like them
        values = column.values
        return isinstance(values, Ragged) and values.flat.dim() == 2 and not self.body.is_scratch

    def extra_repr(self) -> str:
        """See `torch.nn.Module`."""
        return f"{self.name!r}, frozen={self.frozen}"


def _stop_unused(body: Body) -> None:
    """Parameters that no token depends on (poolers, norms before a head) do not learn."""
    parameters = [p for p in body.parameters() if p.requires_grad]
    with torch.enable_grad(), no_rows():
        gradients = torch.autograd.grad(
            body(body.example())[0].sum(), parameters, allow_unused=True
        )
    for parameter, gradient in zip(parameters, gradients):
        parameter.requires_grad_(gradient is not None)
