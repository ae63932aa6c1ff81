"""Backbones of installed plug-ins, by name: `--backbone FIELD=NAME` or `FIELD=NAME:WHICH`."""

from __future__ import annotations

from typing import Any

from torch import nn

from amodal.core import AmodalError
from amodal.core.part import part_name, to_spec
from amodal.core.registry import Plugin, find_plugin, plugins
from amodal.core.user_code import call_mistake, user_code
from amodal.modalities import Modality
from amodal.nn.backbones.module import ModuleBackbone


class PluginBackbone(ModuleBackbone):
    """The module that a plug-in's factory makes.

    A run names it, so it opens wherever the plug-in is installed.

    Args:
        name: NAME or NAME:WHICH.
        modality: The field's.
        width: Of the tokens.
        frozen: The module's own parameters do not learn.

    Raises:
        AmodalError: No such plug-in is installed, or what it makes is no torch module.
    """

    def __init__(self, name: str, modality: Modality, width: int, *, frozen: bool = True):
        super().__init__(made_by_plugin(name, modality), modality, width, frozen=frozen)
        self.name, self.source = name, plugin_of(name).distribution

    @property
    def spec(self) -> dict[str, Any]:
        """The plug-in's name, not its code."""
        args = {"name": self.name, "source": self.source, "frozen": self.frozen}
        args |= {"modality": self.modality, "width": self.width_out}
        return {"part": part_name(type(self)), "args": to_spec(args)}

    @classmethod
    def from_args(  # type: ignore[override]  # named, unlike the general one
        cls, name: str, source: str, modality: Modality, width: int, frozen: bool
    ) -> PluginBackbone:
        """The same again. source: the distribution that it came from."""
        plugin_of(name, source)
        return cls(name, modality, width, frozen=frozen)


def plugin_of(name: str, source: str = "") -> Plugin:
    """The plug-in that brings a backbone.

    Args:
        name: NAME or NAME:WHICH.
        source: name and version of the distribution that brought it to a run, "" if unknown.

    Raises:
        AmodalError: it is not installed; the message says what to install.
    """
    library = name.partition(":")[0]
    plugin = find_plugin("backbones", library)
    if plugin is None:
        known = ", ".join(plugins("backbones")) or "none"
        brings = (
            f"pip install {source.partition(' ')[0]}"
            if source
            else (
                f"install the distribution whose entry points (amodal.backbones) have {library!r}"
            )
        )
        raise AmodalError(
            f"the backbone {name!r} is of the plug-in {source or library}, which is not installed "
            f"here: {brings} (backbones of plug-ins here: {known})"
        )
    return plugin


def made_by_plugin(name: str, modality: Modality) -> nn.Module:
    """What the factory of a plug-in makes: `factory(modality)`, or `factory(modality, WHICH)`.

    Raises:
        AmodalError: No such plug-in is installed, or what it makes is no torch module.
    """
    plugin, which = plugin_of(name), name.partition(":")[2]
    factory = plugin.load(check_plugin)
    arguments = (modality, which) if which else (modality,)
    with user_code(f"the backbone {plugin}, called to make {name!r},", factory):
        module = factory(*arguments)
    if not isinstance(module, nn.Module):
        raise AmodalError(
            f"the backbone {plugin} gave {type(module).__name__}; "
            "its factory must give a torch module"
        )
    return module


def check_plugin(plugin: Plugin, factory: object) -> None:
    """Check that the object of a plug-in makes backbones.

    Raises:
        AmodalError: It cannot be called with a modality.
    """
    expected = "a backbone of a plug-in is a function (modality, which='') -> torch module"
    if isinstance(factory, nn.Module) or not callable(factory):
        raise AmodalError(f"{expected}, not of type {type(factory).__name__}")
    if mistake := call_mistake(factory, "modality"):
        raise AmodalError(f"{expected}; {plugin.entry.value} {mistake}")
