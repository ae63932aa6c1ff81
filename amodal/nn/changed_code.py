"""Code of the user's that is another one now than the one that a run was trained with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from amodal.core.part import Spec
from amodal.core.source_code import files_of, has_changed
from amodal.nn.backbones.module import ModuleBackbone, is_own_module, supplied_as


@dataclass(frozen=True)
class ChangedCode:
    """A method or a module.

    Args:
        what: It is, in words.
        name: Its reference.
        files: That it is in.
        sha256: Of the source that the run was trained with.
    """

    what: str
    name: str
    files: list[str]
    sha256: str

    @property
    def described(self) -> str:
        """The file and what of it, for messages."""
        where = " or ".join(self.files) or "code that is in no file"
        return f"{where} ({self.what} {str(self.name).rpartition(':')[2]})"

    @property
    def stored(self) -> dict[str, str]:
        """What a run keeps of it."""
        return {"what": self.what, "name": self.name, "sha256": self.sha256}


def changed_code(
    spec: Spec, things: Mapping[str, Any], method_sha256: str = ""
) -> list[ChangedCode]:
    """What has changed since a run was trained.

    Args:
        spec: Of the run.
        things: Code that is used now, under the names that `amodal.methods.saved.build` takes it
            by; or the backbone around it, where a method may have changed the module.
        method_sha256: Of the method, where it has run since, which may have changed its state.
    """
    changed = []
    for key, (what, name, sha256) in own_code(spec).items():
        used: Any = things.get(key)
        current = method_sha256 if key == "method" else ""
        if isinstance(used, ModuleBackbone):
            used, current = used.module, used.source
        if used is not None and has_changed(sha256, used, current):
            changed.append(ChangedCode(what, name, files_of(used), sha256))
    return changed


def own_code(spec: Spec) -> dict[str, tuple[str, str, str]]:
    """Name that `take` has it by -> what it is, its reference and its hash, of all code of the
    user's that a run was trained with."""
    stored = {}
    if code := spec.get("code"):
        stored["method"] = ("method", code["name"], code["sha256"])
    for field, args in _modules(spec):
        stored[supplied_as(field)] = (f"backbone of {field}", args["name"], args["source"])
    return stored


def _modules(spec: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(field, arguments) of all backbones around modules of the user's own."""
    if isinstance(spec, list):
        for one in spec:
            yield from _modules(one)
    if not isinstance(spec, dict):
        return
    backbones = spec.get("backbones")
    for field, backbone in (backbones if isinstance(backbones, dict) else {}).items():
        if is_own_module(backbone):
            yield field, backbone["args"]
    for below in spec.values():
        yield from _modules(below)


def without_sources(spec: Any) -> Any:
    """A spec without the hashes of modules of the user's own."""
    if isinstance(spec, list):
        return [without_sources(one) for one in spec]
    if not isinstance(spec, dict):
        return spec
    if is_own_module(spec):
        args = {name: value for name, value in spec["args"].items() if name != "source"}
        spec = spec | {"args": args}
    return {name: without_sources(value) for name, value in spec.items()}
