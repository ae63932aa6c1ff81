"""A residual network over time for series and sound, from scratch.

Convolutions over the steps of a signal, as for electrocardiograms (Hannun et al., Nature Medicine
2019). How far a token sees can be set. Rows of different lengths do not see their padding: it is
zero before each convolution, as the outside of a row is, and no statistics are of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged
from amodal.nn.backbones.body import Body
from amodal.nn.backbones.options import read_options

NORMS = ("batch", "layer")
LARGEST_KERNEL = 1025
Normalise = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""(norm, features (N, L, C), which exist (N, L)) -> normalised features, zero where none is."""


@dataclass(frozen=True)
class Resnet1dOptions:
    """Sizes of the network.

    Attributes:
        width: Channels of the first stage; each later one has twice as many.
        stages: Each but the first halves the number of steps.
        blocks: Of a stage, two convolutions each.
        stem: Stride of the first convolution.
        kernel: Steps of a convolution, an odd number.
        receptive_field: Steps that a token sees, at least; then `kernel` is the smallest that
            reaches it. 0 leaves `kernel` as it is.
        norm: "batch", over all present steps of the batch; or "layer", of each step.
    """

    width: int = 32
    stages: int = 3
    blocks: int = 1
    stem: int = 1
    kernel: int = 7
    receptive_field: int = 0
    norm: str = "batch"

    def reach(self, kernel: int) -> int:
        """Steps that a token sees with convolutions of `kernel` steps."""
        steps, stride = kernel, self.stem
        for stage in range(self.stages):
            for block in range(self.blocks):
                steps += (kernel - 1) * stride
                stride *= 2 if stage and not block else 1
                steps += (kernel - 1) * stride
        return steps


class SignalField(Protocol):
    """What the body asks of a field of signals: its steps one by one, and steps of a token."""

    @property
    def step_width(self) -> int: ...
    @property
    def token_steps(self) -> int: ...
    def steps(self, values: Ragged) -> tuple[Tensor, Tensor]: ...
    def collate(self, values: list[object]) -> Ragged: ...


def build(library: str, rest: str, modality: SignalField) -> Resnet1dBody:
    """The network of a spec.

    Args:
        library: resnet1d.
        rest: Options, see `Resnet1dOptions`.
        modality: Of the field.

    Raises:
        AmodalError: For wrong options, an even kernel, and a receptive field out of reach.
    """
    return Resnet1dBody(modality, read_options(library, rest, Resnet1dOptions, {"norm": NORMS}))


def kernel_of(options: Resnet1dOptions) -> int:
    """The kernel, or the smallest that has the receptive field.

    Raises:
        AmodalError: For an even kernel, and a receptive field out of reach.
    """
    if not options.kernel % 2:
        raise AmodalError(
            f"resnet1d:kernel must be an odd number, so that it has a middle, got {options.kernel}"
        )
    if not options.receptive_field:
        return options.kernel
    for kernel in range(1, LARGEST_KERNEL + 1, 2):
        if options.reach(kernel) >= options.receptive_field:
            return kernel
    raise AmodalError(
        f"resnet1d:receptive_field={options.receptive_field} needs a kernel of more than "
        f"{LARGEST_KERNEL} steps; take more stages or blocks, or a larger stem"
    )


class Resnet1dBody(Body):
    """Signals -> features of every so many steps.

    Args:
        modality: Of the field.
        options: Sizes.
    """

    is_scratch = True

    def __init__(self, modality: SignalField, options: Resnet1dOptions):
        super().__init__()
        self.modality, kernel = modality, kernel_of(options)
        self.receptive_field = options.reach(kernel)
        widths = [options.width * 2**i for i in range(options.stages)]
        self.width, self.stride = widths[-1], options.stem * 2 ** (options.stages - 1)
        self.stem = Convolution(modality.step_width, widths[0], kernel, options.stem, options.norm)
        blocks, before = [], widths[0]
        for stage, width in enumerate(widths):
            for block in range(options.blocks):
                stride = 2 if stage and not block else 1
                blocks.append(Block(before, width, kernel, stride, options.norm))
                before = width
        self.blocks = nn.ModuleList(blocks)

    def example(self) -> Ragged:
        """A signal of some steps, of zeros."""
        none = self.modality.collate([]).flat
        steps = self.stride * self.modality.token_steps
        return Ragged(none.new_zeros(steps, *none.shape[1:]), torch.tensor([steps]))

    def forward(self, values: Ragged) -> tuple[Tensor, Tensor, Tensor]:
        """N signals -> (T, width), lengths (N,), positions (T, 3) in tokens of the field."""
        steps_TC, lengths = self.modality.steps(values)
        steps_TC = steps_TC.to(self.stem.conv.weight.dtype)
        inside = within(int(lengths.max()), lengths, steps_TC.device)
        x_NLC = steps_TC.new_zeros(*inside.shape, steps_TC.shape[1])
        x_NLC[inside] = steps_TC
        x_NLD, lengths = self._features(x_NLC, lengths, present)
        inside = within(x_NLD.shape[1], lengths, x_NLD.device)
        position = self._positions(x_NLD).expand(len(x_NLD), -1, -1)[inside]
        return x_NLD[inside], lengths, position

    def dense(self, x_NLC: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same of padded steps, for graphs: no shape depends on values, and norms are at rest.

        Args:
            x_NLC: Standardised steps; zero past the end.
            lengths: (N,).

        Returns:
            Features (N, L, width), positions (L, 3), and which features exist (N, L).
        """
        x_NLD, lengths = self._features(x_NLC, lengths, everywhere)
        inside = within(x_NLD.shape[1], lengths, x_NLD.device)
        return x_NLD, self._positions(x_NLD), inside

    def _features(
        self, x_NLC: Tensor, lengths: Tensor, normalise: Normalise
    ) -> tuple[Tensor, Tensor]:
        x_NCL, lengths = self.stem(x_NLC.transpose(1, 2), lengths, normalise)
        x_NCL = x_NCL.relu()
        for block in self.blocks:
            x_NCL, lengths = block(x_NCL, lengths, normalise)
        return x_NCL.transpose(1, 2), lengths

    def _positions(self, x_NLD: Tensor) -> Tensor:
        """(L, 3): the middle of each feature's steps."""
        step = torch.arange(x_NLD.shape[1], device=x_NLD.device)
        middle = (step + 0.5) * self.stride / self.modality.token_steps - 0.5
        return torch.stack([middle, middle * 0, middle * 0], 1)

    def extra_repr(self) -> str:
        """See `torch.nn.Module`."""
        return f"receptive_field={self.receptive_field}, stride={self.stride}"


class Convolution(nn.Module):
    """A convolution and a norm of the steps that exist; the rest is zero."""

    def __init__(self, width_in: int, width: int, kernel: int, stride: int, norm: str):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv1d(width_in, width, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm1d(width) if norm == "batch" else nn.LayerNorm(width)

    def forward(
        self, x_NCL: Tensor, lengths: Tensor, normalise: Normalise
    ) -> tuple[Tensor, Tensor]:
        """(N, width_in, L), lengths (N,) -> (N, width, L / stride), lengths (N,)."""
        y_NLC = self.conv(x_NCL).transpose(1, 2)
        lengths = (lengths + self.stride - 1) // self.stride
        inside = within(y_NLC.shape[1], lengths, y_NLC.device)
        return normalise(self.norm, y_NLC, inside).transpose(1, 2), lengths


class Block(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, width_in: int, width: int, kernel: int, stride: int, norm: str):
        super().__init__()
        self.first = Convolution(width_in, width, kernel, stride, norm)
        self.second = Convolution(width, width, kernel, 1, norm)
        changes = stride > 1 or width_in != width
        self.shortcut = Convolution(width_in, width, 1, stride, norm) if changes else None

    def forward(
        self, x_NCL: Tensor, lengths: Tensor, normalise: Normalise
    ) -> tuple[Tensor, Tensor]:
        """See `Convolution.forward`."""
        around = x_NCL
        if self.shortcut is not None:
            around, _ = self.shortcut(x_NCL, lengths, normalise)
        x_NCL, lengths = self.first(x_NCL, lengths, normalise)
        x_NCL, lengths = self.second(x_NCL.relu(), lengths, normalise)
        return (x_NCL + around).relu(), lengths


def present(norm: nn.Module, y_NLC: Tensor, inside_NL: Tensor) -> Tensor:
    """Normalise the steps that exist; no statistics are of the others, which are zero."""
    normal = norm(y_NLC[inside_NL])
    out: Tensor = normal.new_zeros(y_NLC.shape)
    out[inside_NL] = normal
    return out


def everywhere(norm: nn.Module, y_NLC: Tensor, inside_NL: Tensor) -> Tensor:
    """The same for a norm at rest, with no shape that depends on which steps exist."""
    normal: Tensor = norm(y_NLC.flatten(0, 1)).view(y_NLC.shape)
    return normal * inside_NL.unsqueeze(2)


def within(steps: int, lengths: Tensor, device: torch.device) -> Tensor:
    """(N, steps) bool, where the steps of each row are."""
    step = torch.arange(steps, device=device)
    return step < lengths.to(device).unsqueeze(1)
