"""`amodal doctor`: versions, devices, extras and plug-ins of this environment."""

from __future__ import annotations

import importlib.metadata as packages
import os
import platform
import re
import shutil
from pathlib import Path

import torch
from rich.table import Table
from rich.text import Text

import amodal
from amodal import methods, modalities
from amodal.core import matmul, registry
from amodal.data import bundled, sets
from amodal.evaluate import protocol_registry
from amodal.nn.backbones import plugin as backbones
from amodal.train.precision import has_hardware_bf16

PLUGIN_CHECKS = {
    "methods": methods.check_plugin,
    "modalities": modalities.check_plugin,
    "protocols": protocol_registry.check_plugin,
    "backbones": backbones.check_plugin,
    "datasets": sets.check_plugin,
}
"""Kind of plug-in -> what its objects must pass, as where they are used."""


def report() -> Table:
    """A rich table of versions and devices, and of what is missing and how to install it."""
    table = Table(title=f"amodal {amodal.__version__}", title_justify="left", show_header=False)
    for _ in range(2):
        table.add_column(overflow="fold")
    for name, value in rows().items():
        table.add_row(name, Text(value))  # Text, since [onnx] is not markup
    return table


def rows() -> dict[str, str]:
    """The rows of the table."""
    free = shutil.disk_usage(Path.cwd()).free
    return {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "devices": "\n".join(devices()),
        "threads": f"{torch.get_num_threads()} used by torch, {os.cpu_count()} processors",
        "bf16": ", ".join(
            f"{device}: {'in hardware' if supported else 'no'}"
            for device, supported in bf16().items()
        ),
        "float32": f"cpu: {matmul.described()}",
        **{f"extra {name}": state for name, state in extras().items()},
        "bundled data": ", ".join(bundled.NAMES) or "none: the installation is incomplete",
        "methods": f"{len(methods.names())}, see `amodal methods`",
        "plug-ins": "\n".join(plugins()) or "none",
        "free disk": f"{free / 2**30:.1f} GiB here"
        + ("; checkpoints may need more" if free < 2 * 2**30 else ""),
    }


def plugins() -> list[str]:
    """A line for each installed plug-in, with its traceback if it cannot be imported, what is
    wrong with it if it is not what its kind must be, and a line for each name that clashes."""
    lines = []
    for kind in registry.KINDS:
        broken = registry.broken_plugins(PLUGIN_CHECKS, [kind])
        for plugin in registry.plugins(kind).values():
            lines.append(f"{kind}: {plugin}" + ("" if plugin not in broken else ", broken:"))
            lines += [f"  {line}" for line in plugin.failure.splitlines()]
        found = registry.installed(kind)
        clashes = {**found.conflicts, **found.shadowed}
        lines += [f"{kind}: {clash}" for clash in clashes.values()]
    return lines


def devices() -> list[str]:
    """The possible values of `--device`."""
    names = ["cpu"]
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        memory = properties.total_memory / 2**30
        names.append(f"cuda:{i} ({properties.name}, {memory:.0f} GiB)")
    return names


def bf16() -> dict[str, bool]:
    """Device type -> whether it multiplies bf16 matrices in hardware."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return {device: has_hardware_bf16(torch.device(device)) for device in devices}


GROUPS = ("all", "demo", "dev", "docs")
"""Extras that a user has no question about: groups of others, and those of developers."""


def extras() -> dict[str, str]:
    """Extra -> the versions of its packages, and the command that installs missing ones."""
    wanted: dict[str, list[str]] = {}
    for line in _requirements():
        match = re.match(r"""([\w.-]+).*;\s*extra\s*==\s*["'](\w+)["']""", line)
        if match and match[2] not in GROUPS and match[1] != "amodal":
            wanted.setdefault(match[2], []).append(match[1])
    return {extra: _state(extra, names) for extra, names in wanted.items()}


def _state(extra: str, names: list[str]) -> str:
    installed = {name: version for name in names if (version := _version(name))}
    missing = [name for name in names if name not in installed]
    listed = ", ".join(f"{name} {version}" for name, version in installed.items())
    if not missing:
        return listed
    advice = f"without {', '.join(missing)}: pip install 'amodal[{extra}]'"
    return f"{listed}; {advice}" if listed else advice


def _version(name: str) -> str:
    try:
        return packages.version(name)
    except packages.PackageNotFoundError:
        return ""


def _requirements() -> list[str]:
    try:
        return packages.requires("amodal") or []
    except packages.PackageNotFoundError:  # run from source without installation
        return []
