"""Which modules of a network are its blocks: they are sharded, compiled and planned one by one."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from amodal.nn.backbones.pretrained import Backbone


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The blocks in a module, none inside another.

    They are parts whose class says `is_block = True`, and the layers of pretrained backbones.
    Layers of a foreign network are recognised by their structure: modules of one class in a list.
    """
    return list(_blocks(module))


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    if getattr(module, "is_block", False):
        yield module
    elif isinstance(module, Backbone):
        yield from _layers(module.body)
    else:
        for part in module.children():
            yield from _blocks(part)


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    parts = list(module.children())
    alike = (
        len(parts) > 1 and len({type(p) for p in parts}) == 1 and len(list(parts[0].children())) > 1
    )
    if isinstance(module, (nn.ModuleList, nn.Sequential)) and alike:
        yield from parts
    else:
        for part in parts:
            yield from _layers(part)
