"""What this machine and environment can do, in one table."""

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
from amodal.core import AmodalError, matmul, registry
from amodal.data import bundled, sets
from amodal.train.precision import has_fast_bf16

PLUGIN_CHECKS = {"modalities": modalities.check_plugin, "datasets": sets.check_plugin}


def report() -> Table:
    """Versions, devices, what is missing and how to get it. Prints with rich."""
    table = Table(title=f"amodal {amodal.__version__}", title_justify="left", show_header=False)
    for _ in range(2):
        table.add_column(overflow="fold")
    for name, value in rows().items():
        table.add_row(name, Text(value))  # as it is: [onnx] is no markup
    return table


def rows() -> dict[str, str]:
    free = shutil.disk_usage(Path.cwd()).free
    return {
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "devices": "\n".join(devices()),
        "threads": f"{torch.get_num_threads()} used by torch, {os.cpu_count()} processors",
        "bf16": ", ".join(
            f"{kind}: {'in hardware' if fast else 'no'}" for kind, fast in bf16().items()
        ),
        "float32": f"cpu: {matmul.described()}",
        **{f"extra {name}": state for name, state in extras().items()},
        "bundled data": ", ".join(bundled.NAMES) or "none: the installation is not complete",
        "methods": f"{len(methods.names())}, see `amodal methods`",
        "plug-ins": "\n".join(plugins()) or "none",
        "free disk": f"{free / 2**30:.1f} GiB here"
        + ("; that is little for checkpoints" if free < 2 * 2**30 else ""),
    }


def plugins() -> list[str]:
    """A line for each installed plug-in, with its traceback where it cannot be imported."""
    lines = []
    for kind in registry.KINDS:
        try:
            broken = registry.broken_plugins(PLUGIN_CHECKS, [kind])
            for plugin in registry.plugins(kind).values():
                lines.append(f"{kind}: {plugin}" + ("" if plugin not in broken else ", broken:"))
                lines += [f"  {line}" for line in plugin.failure.splitlines()]
        except AmodalError as error:  # two of one name
            lines.append(f"{kind}: {error}")
    return lines


def devices() -> list[str]:
    """What `--device` may be."""
    found = ["cpu"]
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        found.append(f"cuda:{i} ({about.name}, {about.total_memory / 2**30:.0f} GiB)")
    return found


def bf16() -> dict[str, bool]:
    kinds = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return {kind: has_fast_bf16(torch.device(kind)) for kind in kinds}


def extras() -> dict[str, str]:
    """extra -> the versions of its packages, or what is missing and the command that gets it."""
    wanted: dict[str, list[str]] = {}
    for line in _requirements():
        found = re.match(r"""([\w.-]+).*;\s*extra\s*==\s*["'](\w+)["']""", line)
        if found and found[2] not in ("all", "dev"):
            wanted.setdefault(found[2], []).append(found[1])
    return {extra: _state(extra, names) for extra, names in wanted.items()}


def _state(extra: str, names: list[str]) -> str:
    have = {name: version for name in names if (version := _version(name))}
    missing = [name for name in names if name not in have]
    listed = ", ".join(f"{name} {version}" for name, version in have.items())
    if not missing:
        return listed
    return f"{listed}{'; ' if listed else ''}without {', '.join(missing)}: pip install 'amodal[{extra}]'"


def _version(name: str) -> str:
    try:
        return packages.version(name)
    except packages.PackageNotFoundError:
        return ""


def _requirements() -> list[str]:
    try:
        return packages.requires("amodal") or []
    except packages.PackageNotFoundError:  # run from its source without being installed
        return []
