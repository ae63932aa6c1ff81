"""Runs without the weights of frozen encoders that come in packages.

Heads on frozen encoders are a hundredth of what the encoders are. `Model.save(…, packaged=False)`
leaves out what every machine can fetch by itself, and config.json says what that is:

    "packaged": {"encoder.tokenizers.text": {"name": "minilm", "sha256": of its tensors}}

Paths in the cache are written as `package:…`, so that they are right on another machine. When the
run is opened the package comes by the client of its registry, once, and its weights must be those
that were left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from amodal.core import AmodalError, unknown
from amodal.core.part import Spec
from amodal.data import packaged_models
from amodal.data.packaged_models import LIBRARY, PACKAGED, WEIGHTS
from amodal.nn.backbones.pretrained import Backbone, backbone
from amodal.nn.saved import size_of_file

ENTRY = "packaged"
"""Of config.json."""
Config = dict[str, Any]


def leave_out(
    module: nn.Module, tensors: Mapping[str, Tensor], spec: Spec, config: Config
) -> tuple[dict[str, Tensor], Spec, Config]:
    """What is written of a model whose packaged encoders are to be fetched.

    Args:
        module: The method, or the encoder.
        tensors: All of its tensors.
        spec: Of the run.
        config: Of the run.

    Returns:
        The tensors without those of packages, the spec and the config.

    Raises:
        AmodalError: If no frozen encoder of it comes in a package.
    """
    left, entries = dict(tensors), {}
    for prefix, part in module.named_modules():
        name = _name_of(part)
        if not name or not isinstance(part, Backbone):
            continue
        came = _tensors(name, part)
        if all(torch.equal(value, left[f"{prefix}.body.{k}"]) for k, value in came.items()):
            entries[prefix] = {"name": name, "sha256": _digest(came)}
            for key in came:
                del left[f"{prefix}.body.{key}"]
    if not entries:
        raise AmodalError(
            "packaged=False leaves out frozen encoders that come in packages, and this model has "
            f"none (expected a backbone {LIBRARY}:NAME, of {', '.join(PACKAGED)}); leave it out"
        )
    here, anywhere = f"{packaged_models.models()}/", f"{LIBRARY}:"
    return left, _renamed(spec, here, anywhere), _renamed(config, here, anywhere) | {ENTRY: entries}


@dataclass(frozen=True)
class PackagedWeights:
    """The encoders that a run leaves out, fetched.

    Attributes:
        spec: Of the run, with paths of this machine.
        entries: Prefix of the tensors -> `name` and `sha256`.
        tensors, numbers: How many there are in the packages.
    """

    spec: Spec
    entries: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    tensors: int = 0
    numbers: int = 0

    @classmethod
    def of(cls, config: Config, spec: Spec, file: Path) -> PackagedWeights:
        """Fetch what a run leaves out; nothing where it leaves out nothing.

        Args:
            config: Of the run.
            spec: Of the run.
            file: config.json, for messages.

        Raises:
            AmodalError: For a damaged entry, an unknown encoder, and a download that fails.
        """
        entries = config.get(ENTRY)
        if entries is None:
            return cls(spec)
        if not isinstance(entries, dict) or not all(
            isinstance(e, dict) and {"name", "sha256"} <= e.keys() for e in entries.values()
        ):
            raise AmodalError(
                f"{file}: {ENTRY!r} is damaged, expected a name and a sha256 for each encoder that "
                "was left out; restore it from a copy"
            )
        tensors = numbers = 0
        for name in sorted({str(entry["name"]) for entry in entries.values()}):
            if name not in PACKAGED:
                raise unknown("packaged encoder", name, PACKAGED)
            packaged_models.resolve(f"{LIBRARY}:{name}")
            more = size_of_file(packaged_models.models() / name / WEIGHTS)
            tensors, numbers = tensors + more[0], numbers + more[1]
        here = f"{packaged_models.models()}/"
        return cls(_renamed(spec, f"{LIBRARY}:", here), entries, tensors, numbers)

    def of_module(self, made: nn.Module, file: Path) -> dict[str, Tensor]:
        """Name -> tensor of what was left out of a method.

        Args:
            made: As its spec says, with any weights.
            file: config.json, for messages.

        Raises:
            AmodalError: If the method has no such encoder, or the package holds other weights.
        """
        found: dict[str, Tensor] = {}
        for prefix, entry in self.entries.items():
            part = dict(made.named_modules()).get(prefix)
            if not isinstance(part, Backbone):
                raise AmodalError(
                    f"{file} leaves out {prefix!r}, and there is no backbone of this name in the "
                    "run; restore it from a copy"
                )
            came = _tensors(entry["name"], part)
            if _digest(came) != entry["sha256"]:
                raise AmodalError(
                    f"the weights of {LIBRARY}:{entry['name']} in {packaged_models.models()} are "
                    f"not those that {file} was trained with; delete that folder, so that they are "
                    "fetched anew, or use the version of amodal that wrote the run"
                )
            found |= {f"{prefix}.body.{key}": value for key, value in came.items()}
        return found


def _name_of(part: nn.Module) -> str:
    """Which packaged encoder a frozen backbone is of; "" for none."""
    if not isinstance(part, Backbone) or not part.frozen:
        return ""
    named = part.name.partition("#{")[0]
    folder = f"{packaged_models.models()}/"
    rest = named.partition(folder)[2].partition("/")[0].partition("@")[0]
    return rest if rest in PACKAGED else ""


def _tensors(name: str, part: Backbone) -> dict[str, Tensor]:
    """The tensors of a packaged encoder as it comes, by their names in the body of a backbone."""
    arguments = part.recorded_args
    spec = packaged_models.resolve(f"{LIBRARY}:{name}")
    made = backbone(spec, arguments["modality"], int(arguments["width"]))
    assert isinstance(made, Backbone)
    return {key: value.contiguous() for key, value in sorted(made.body.state_dict().items())}


def _digest(tensors: dict[str, Tensor]) -> str:
    return hashlib.sha256(save(tensors)).hexdigest()


def _renamed(content: Any, old: str, new: str) -> Any:
    """JSON with the beginning of paths replaced, within names of backbones too."""
    if isinstance(content, dict):
        return {key: _renamed(value, old, new) for key, value in content.items()}
    if isinstance(content, list):
        return [_renamed(value, old, new) for value in content]
    return content.replace(old, new) if isinstance(content, str) else content
