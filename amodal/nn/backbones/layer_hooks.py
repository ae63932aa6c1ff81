"""Tokens between the layers of a pretrained model: a `BlockHook` around each of its layers.

The model stays what its library made it, and reads its values as ever. While `hook_layers` lasts,
the hook is called where a layer would be, with what enters the layer as `Tokens`. It may insert
tokens, change and remove them, and give keys and values to the layer; attention masks grow along.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from amodal.core import POSITION_DIMS, AmodalError, Tokens
from amodal.core.within import within
from amodal.nn.inserted_tokens import are_prompts
from amodal.nn.transformer import BlockHook, Prefix

LAYERS = ("encoder.layers", "encoder.layer", "transformer.layer", "layers", "layer", "blocks")
"""Where models of transformers and timm have their layers."""
KEYS, VALUES, FUSED_QKV = ("key", "k_proj", "k_lin"), ("value", "v_proj", "v_lin"), ("qkv",)
"""What they call the linear maps to keys, to values, and to queries, keys and values at once."""
MASKS = ("attention_mask", "attn_mask", "causal_attention_mask", "mask")
CAUSAL = "is_causal"


@runtime_checkable
class HooksBackbones(Protocol):
    """A block hook that is called around the layers of backbones too.

    Attributes:
        backbone_fields: The fields whose backbones those are.
    """

    backbone_fields: Collection[str]


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The layers of a transformer, first to last.

    Args:
        model: Of transformers or timm.

    Raises:
        AmodalError: If it has no such list of layers.
    """
    for path in LAYERS:
        part: Any = model
        for name in path.split("."):
            part = getattr(part, name, None)
        if isinstance(part, nn.ModuleList | nn.Sequential) and len(part):
            return list(part)
    raise AmodalError(
        f"tokens are put between the layers of a transformer, and {type(model).__name__} has no "
        f"list of such layers (looked for {', '.join(LAYERS)}); take a ViT, BERT or CLIP"
    )


@contextmanager
def hook_layers(
    layers: Sequence[nn.Module],
    hook: BlockHook,
    names: Sequence[str],
    source_NL: Tensor | None = None,
) -> Iterator[None]:
    """Call a hook around each layer, inside the `with`.

    Args:
        layers: Of one model, in order. A layer maps (N, L, D), and masks, to (N, L, D), alone or
            first in a tuple.
        hook: Gets the N values as rows 0 to N - 1, all with the same number of tokens, padding
            among them. It must insert as many tokens at the same place of each.
        names: Sources of the tokens.
        source_NL: Of each token an index into `names`; by default all are of the first.

    Raises:
        AmodalError: Inside, for layers that take more than tokens and masks.
    """
    stream = _Stream(hook, tuple(names), source_NL)
    with _lock:  # a layer has one `forward` at a time
        before = [vars(layer).get("forward") for layer in layers]
        try:
            for number, layer in enumerate(layers):
                vars(layer)["forward"] = partial(_hooked, stream, number, layer, layer.forward)
            with within(_running, stream):
                yield
        finally:
            for layer, forward in zip(layers, before):
                vars(layer).pop("forward") if forward is None else vars(layer).update(
                    forward=forward
                )


class _Stream:
    """What is between two layers: the sources of the positions of all N values."""

    def __init__(self, hook: BlockHook, names: tuple[str, ...], source_NL: Tensor | None):
        self.hook, self.names, self.source_NL = hook, names, source_NL
        self.length: int | None = None

    def own_length(self, x_NLD: Tensor) -> int:
        """How many positions of the model's own there are."""
        if self.length is None:  # before the first layer
            self.length = x_NLD.shape[1]
        return self.length

    def tokens(self, x_NLD: Tensor) -> Tokens:
        n, length = x_NLD.shape[:2]
        row = torch.arange(n, device=x_NLD.device).repeat_interleave(length)
        source = torch.zeros_like(row) if self.source_NL is None else self.source_NL.flatten()
        position = x_NLD.new_zeros(n * length, POSITION_DIMS)
        return Tokens(x_NLD.flatten(0, 1), row, source, position, self.names, n)

    def leave(self, tokens: Tokens) -> Tensor:
        """(N, L, D) for the next layer, whose positions are remembered."""
        self.names, self.source_NL = tokens.names, tokens.source.view(tokens.size, -1)
        return tokens.x.view(tokens.size, -1, tokens.x.shape[1])


_running: ContextVar[_Stream | None] = ContextVar("hooked_layers", default=None)
_lock = threading.RLock()


def _hooked(
    stream: _Stream,
    number: int,
    layer: nn.Module,
    forward: Callable[..., Any],
    x_NLD: Tensor,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """In place of the `forward` of a layer."""
    if _running.get() is not stream:  # another thread reads the same model
        return forward(x_NLD, *args, **kwargs)
    if x_NLD.dim() != 3:
        raise AmodalError(
            f"tokens are put between layers that read lists of tokens (N, L, D), and "
            f"{type(layer).__name__} reads {tuple(x_NLD.shape)}; take a ViT, BERT or CLIP"
        )
    rest: list[tuple[Any, ...] | None] = [None]
    length = stream.own_length(x_NLD)

    def block(tokens: Tokens, *, prefix: Prefix | None = None) -> Tokens:
        x = tokens.x.view(tokens.size, -1, tokens.x.shape[1])
        added = are_prompts(tokens).view(tokens.size, -1)[0]
        count = 0 if prefix is None else prefix[0].shape[1]
        with ExitStack() as stack:
            if prefix is not None:
                # positions of their own, whose keys and values are replaced in the layer
                x = torch.cat([x.new_zeros(len(x), count, x.shape[2]), x], 1)
                added = torch.cat([added.new_ones(count), added])
                stack.enter_context(_keys_and_values(layer, prefix))
            arguments = _grown_arguments(layer, added, length, args, kwargs)
            result = forward(x, *arguments[0], **arguments[1])
        if isinstance(result, tuple):
            result, rest[0] = result[0], result[1:]
        return tokens.with_x(result[:, count:].flatten(0, 1))

    x_NLD = stream.leave(stream.hook(number, stream.tokens(x_NLD), block))
    return x_NLD if rest[0] is None else (x_NLD, *rest[0])


def _grown_arguments(
    layer: nn.Module,
    added_L: Tensor,
    length: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a layer beside its tokens, with masks for all positions.

    Args:
        layer: For messages.
        added_L: (L,) bool, which positions were inserted.
        length: How many were not.
        args, kwargs: As the model passes them.
    """
    if len(added_L) == length:
        return list(args), kwargs
    causal = bool(kwargs.get(CAUSAL))

    def grown(value: Any) -> Any:
        return _grown(value, added_L, causal) if isinstance(value, Tensor) else value

    named: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for name, value in named:
        is_mask = isinstance(value, Tensor) and value.dim() in (2, 4) and value.shape[-1] == length
        if _has_tensors(value) and not (is_mask and (isinstance(name, int) or name in MASKS)):
            raise AmodalError(
                f"{type(layer).__name__} takes more than tokens and masks "
                f"({name if isinstance(name, str) else f'argument {name + 2}'}), such as rotary "
                "positions, so no tokens can be put between such layers; take a ViT, BERT or CLIP"
            )
    return [grown(a) for a in args], {k: grown(v) for k, v in kwargs.items()}


def _has_tensors(value: Any) -> bool:
    parts = value if isinstance(value, tuple | list) else [value]
    return any(isinstance(part, Tensor) for part in parts)


def _grown(mask: Tensor, added_L: Tensor, causal: bool) -> Tensor:
    """A mask in which inserted positions are visible, to all or to those behind them.

    They see what the position of the value before them sees, or the first one.

    Args:
        mask: (N, K) or (N, 1 or H, 1 or K, K), of the K positions of values; bool, whole numbers,
            or what is added to scores.
        added_L: (L,) bool, where positions were inserted.
        causal: Positions see those before them alone.
    """
    floating = mask.dtype.is_floating_point
    visible, hidden = (0.0, torch.finfo(mask.dtype).min) if floating else (1, 0)
    index_L = ((~added_L).cumsum(0) - 1).clamp(min=0)
    wide = mask[..., index_L].masked_fill(added_L, visible)
    if mask.dim() == 2 or mask.shape[-2] == 1:
        return wide
    wide = wide[..., index_L, :]
    if causal:
        later_LL = torch.ones_like(added_L).expand(len(added_L), -1).triu(1)
        wide = wide.masked_fill(later_LL, hidden)
    return wide


@contextmanager
def _keys_and_values(layer: nn.Module, prefix: Prefix) -> Iterator[None]:
    """Replace the keys and values of the first P positions of a layer, inside the `with`."""
    key_NPD, value_NPD = prefix
    count, width = key_NPD.shape[1:]

    def put(start: int, new_NPD: Tensor, out_NLD: Tensor) -> Tensor:
        """`new_NPD` in columns `start` to `start` + D of the first P positions."""
        parts = [out_NLD[:, :count, :start], new_NPD.to(out_NLD.dtype)]
        first = torch.cat([*parts, out_NLD[:, :count, start + width :]], 2)
        return torch.cat([first, out_NLD[:, count:]], 1)

    linears = {name.rpartition(".")[2]: part for name, part in reversed(list(_linears(layer)))}
    fused, keys, values = (_first(linears, names) for names in (FUSED_QKV, KEYS, VALUES))
    if fused is not None:
        changes = [(fused, width, key_NPD), (fused, 2 * width, value_NPD)]
    elif keys is not None and values is not None:
        changes = [(keys, 0, key_NPD), (values, 0, value_NPD)]
    else:
        raise AmodalError(
            f"prompts as keys and values need layers with linear maps to both, and "
            f"{type(layer).__name__} has {', '.join(linears) or 'none'}; take prompts at the input"
        )
    handles = [
        part.register_forward_hook(lambda _, __, out, s=start, new=new: put(s, new, out))
        for part, start, new in changes
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _linears(layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((n, part) for n, part in layer.named_modules() if isinstance(part, nn.Linear))


def _first(parts: dict[str, nn.Module], names: Sequence[str]) -> nn.Module | None:
    return next((parts[name] for name in names if name in parts), None)
