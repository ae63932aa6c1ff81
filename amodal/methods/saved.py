"""Whole methods on disk: what a run stores, and how it is opened.

RUN/spec.json          how the method is built: its name or code, its options, its encoder
RUN/model.safetensors  all its tensors; of a folder without a method, the encoder's
RUN/config.json        how it came about, and the sha256 of the weights

Runs of format 1, an encoder and sometimes a method or a head beside it, are opened too.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from amodal import methods
from amodal.core import AmodalError, AmodalWarning
from amodal.core import part as parts
from amodal.core.argument_types import check_type, has_names
from amodal.core.part import Spec, from_spec, supplied, to_spec
from amodal.core.protocols import Predicts, PredictsFromFeatures
from amodal.core.references import dotted_name, load_reference
from amodal.core.registry import canonical
from amodal.core.source_code import source_hash
from amodal.errors import unknown
from amodal.methods.shared.packaged_weights import PackagedWeights
from amodal.nn import saved as files
from amodal.nn.adapters.lora import merged
from amodal.nn.backbones.module import made_module, supplied_as
from amodal.nn.bounded import Bounded
from amodal.nn.changed_code import changed_code, own_code
from amodal.nn.config import as_spec
from amodal.nn.heads.supervised import SupervisedHead, Target
from amodal.nn.needed_plugins import Needed, check_installed, needed_plugins, read_needed
from amodal.nn.old_runs import new_names
from amodal.nn.saved import BUILD_ERRORS, fill, read_config, read_json, read_tensors, size_of_file
from amodal.nn.saved_tokenizers import with_saved_tokenizers

if TYPE_CHECKING:
    from amodal.methods.contract import Method
    from amodal.nn.encoder import Encoder

SPEC = "spec.json"
BackboneLike = str | nn.Module | Callable[[], nn.Module]
"""A module of the user's own, what makes one, or a reference to either."""


@dataclass(frozen=True)
class SavedRun:
    """The content of a run folder, in evaluation mode.

    Args:
        encoder: What embeds records.
        config: Of config.json.
        spec: Of spec.json; {} for runs of format 1.
        method: The whole method; None where only an encoder was saved.
        head: What predicts labels from the encoder's features, if anything does.
        targets: What the method's own predictions mean, if it has any.
        user_code: Code of the user's that it was built with.
    """

    encoder: Any
    config: dict[str, Any]
    spec: Spec
    method: Any = None
    head: SupervisedHead | None = None
    targets: tuple[Target, ...] = ()
    user_code: Mapping[str, Any] = field(default_factory=dict)

    @property
    def module(self) -> Any:
        """The whole method, or the encoder where only that was saved."""
        return self.encoder if self.method is None else self.method


def spec_of(
    method: methods.MethodLike,
    options: Mapping[str, Any],
    encoder: Spec,
    targets: list[dict[str, Any]] | None = None,
    retrieves: bool = False,
    code_sha256: str = "",
) -> Spec:
    """The content of spec.json.

    Args:
        method: As passed to `pretrain`.
        options: Of the method.
        encoder: The spec of the encoder before the method added to it.
        targets: What its predictions mean.
        retrieves: Whether it names records itself (`Retrieves`).
        code_sha256: Of a method of the user's own, where it was taken before the method ran.
    """
    code = None
    if methods.is_user_code(method):
        function = methods.function(method)
        code = {"name": dotted_name(function), "sha256": code_sha256 or code_hash(method)}
    plugin, written = methods.distribution(method), to_spec(dict(options))
    needed = needed_plugins([encoder, written])
    if plugin:
        needed["methods"] = {canonical(methods.title(method)): plugin}
    return {
        "format": files.FORMAT,
        "method": methods.title(method),
        "code": code,
        "plugin": plugin,
        "plugins": needed,
        "options": written,
        "encoder": encoder,
        "targets": targets or [],
        "retrieves": retrieves,
    }


def code_hash(method: methods.MethodLike) -> str:
    """The hash of a method of the user's own, "" for others."""
    return source_hash(methods.function(method)) if methods.is_user_code(method) else ""


def build(spec: Spec) -> Any:
    """Build the method of a spec, or its encoder if it has no method, with fresh weights.

    Raises:
        AmodalError: For code of the user's that was not passed, and for other code than the run's.
    """
    encoder = parts.build(spec["encoder"])
    if spec.get("method") is None:
        return encoder
    name: methods.MethodLike = spec["method"]
    if code := spec.get("code"):
        call = f"amodal.load(RUN, method={spec['method']}) or --method FILE.py:{spec['method']}"
        function: Callable[..., Method] = parts.take(
            "method", f"the method {code['name']} of your own", f"pass it: {call}"
        )
        # a lambda, or an object, has another name than the one that it was referred to by
        defined = str(code["name"]).rpartition(":")[2].rpartition(".")[2]
        if methods.title(function) not in (spec["method"], defined):
            raise AmodalError(
                f"this run was trained with {code['name']}, not with {dotted_name(function)}"
            )
        name = function
    elif methods.is_user_code(name):  # the file may come from anybody: nothing in it is imported
        raise _foreign(name)
    options = {
        n: tuple(v) if isinstance(v, list) else v for n, v in from_spec(spec["options"]).items()
    }
    # or what is used like an encoder, such as an ensemble
    whole = cast("Encoder", encoder)
    return methods.build(name, whole, **methods.current_options(name, options))


def _foreign(name: object) -> AmodalError:
    return AmodalError(
        f"this run names its method {name!r}, and a file can name methods of amodal and of "
        "installed plug-ins only. It was changed, or is no run: restore it from a copy."
    )


def load_run(
    folder: str | Path,
    *,
    method: methods.MethodLike | None = None,
    backbones: Mapping[str, BackboneLike] | None = None,
    same_code: bool = False,
) -> SavedRun:
    """Open what a run, `Model.save` or an export wrote.

    Of a run that has not been finished it is the latest checkpoint, with a warning.

    Args:
        folder: Of the run.
        method: The function of a method of one's own, if the run was trained with one.
        backbones: field -> the module, what makes it, or a reference to either, for backbones of
            one's own.
        same_code: It is that of the run, although its state may have changed since.

    Raises:
        AmodalError: For a folder that holds no run, a run without any checkpoint, damaged weights,
            and code that was not passed.
    """
    folder = Path(folder)
    if not (folder / SPEC).exists():
        return _format_1(folder)
    config, spec = read_config(folder / "config.json"), read_spec(folder)
    checkpoint = files.unfinished_weights(folder, config)
    weights = checkpoint or files.checked_weights(folder, config)
    packaged = PackagedWeights.of(config, spec, folder / "config.json")
    spec = with_saved_tokenizers(packaged.spec, folder)
    check_type("backbones", backbones or {}, has_names, "a dict of field -> module")
    code = user_code(spec, method, backbones)
    with describing(folder / SPEC, spec), supplied(code):
        changed = changed_code(spec, parts.supplies())  # before a method changes the modules
        tensors_there, numbers = size_of_file(weights)
        there = (tensors_there + packaged.tensors, numbers + packaged.numbers)
        with Bounded(*there, str(folder / SPEC)):
            made = build(spec)
        needed = own_code(spec)  # which whoever opens this run inside another may have supplied
        code = {name: thing for name, thing in parts.supplies().items() if name in needed}
    tensors = read_tensors(weights) | packaged.of_module(made, folder / "config.json")
    if checkpoint is None:
        fill(merged(made), tensors, str(weights))
    else:  # its low-rank differences are still apart
        fill(made, files.of_checkpoint(tensors), str(weights))
        merged(made)
        steps = config.get("recipe", {}).get("steps")
        warnings.warn(
            f"the run in {folder} has not been finished: this is step "
            f"{files.step_of(weights.parent)} of {steps}",
            AmodalWarning,
            stacklevel=2,
        )
    for one in () if same_code else changed:
        warnings.warn(
            f"{one.described} is not the code that the run in {folder} was trained with: the "
            "weights fit, and what is computed may differ",
            AmodalWarning,
            stacklevel=2,
        )
    made.eval()
    if spec.get("method") is None:
        return SavedRun(made, config, spec, user_code=code)
    head = None
    if isinstance(made, PredictsFromFeatures) and spec["targets"]:
        head = cast(SupervisedHead, made.label_head)  # the protocol lies below heads
    with describing(folder / SPEC, spec):
        predicted = spec["targets"] if isinstance(made, Predicts) and head is None else []
        targets = tuple(Target.read(t) for t in predicted)
    return SavedRun(made.encoder, config, spec, made, head, targets, code)


def read_spec(folder: Path) -> Spec:
    """The content of spec.json.

    Raises:
        AmodalError: If it is damaged, of another format, or needs a plug-in that is not installed.
    """
    spec = read_json(folder / SPEC, "restore it from a copy, or train anew")
    if spec.get("format") != files.FORMAT:
        raise files.format_error(folder / SPEC, spec)
    check_installed(plugins_of(spec, folder / SPEC))
    return spec


def plugins_of(spec: Spec, file: Path) -> Needed:
    """The plug-ins that a run needs, as it stored them.

    Args:
        spec: Of the run.
        file: It was read from.

    Raises:
        AmodalError: If the entry is damaged.
    """
    needed = read_needed(spec.get("plugins", {}), file)
    if plugin := spec.get("plugin"):  # runs of before have that of the method alone
        needed = {"methods": {canonical(str(spec.get("method"))): str(plugin)}} | needed
    return needed


def check_plugins(run: str | Path) -> None:
    """Check that the plug-ins of a run are installed; of a folder without spec.json nothing.

    Raises:
        AmodalError: If one is not, or spec.json is damaged.
    """
    if (Path(run) / SPEC).exists():
        read_spec(Path(run))


def user_code(
    spec: Spec,
    method: methods.MethodLike | None,
    backbones: Mapping[str, BackboneLike] | None,
    prefix: str = "",
) -> dict[str, Any]:
    """The caller's code under the names that `build` takes it by.

    Args:
        spec: Of the run.
        method: The function of a method of the user's.
        backbones: field -> the module, what makes it, or a reference to either.
        prefix: Of the name of the argument that has the method, for the error.

    Raises:
        AmodalError: For a method although the run was trained with one of amodal, and for a field
            that has no backbone.
    """
    things: dict[str, Any] = {}
    known = fields_with_backbones(spec)
    for name, module in (backbones or {}).items():
        if name not in known:
            raise unknown("field with a backbone in this run", name, known)
        loaded = load_reference(module) if isinstance(module, str) else module
        things[supplied_as(name)] = made_module(loaded)
    if method is not None:
        function, code = methods.function(method), spec.get("code")
        if code is None:
            raise AmodalError(
                f"this run was trained with amodal's own {spec.get('method')}; "
                f"leave {prefix}method out"
            )
        things["method"] = function
    return things


@contextmanager
def code_of_source(
    run: str | Path | None,
    method: methods.MethodLike | None,
    backbones: Mapping[str, BackboneLike] | None,
) -> Iterator[None]:
    """Within it, the run that another one starts from is opened with code of the user's.

    Args:
        run: `init_from` of `pretrain`.
        method: `init_method`. backbones: `init_backbones`.

    Raises:
        AmodalError: For code without a run, and for code of the run that was not passed.
    """
    if not run:
        if method is not None or backbones:
            raise AmodalError(
                "init_method and init_backbones are the code of the run of init_from, and "
                "init_from is not set; leave them out, or set it"
            )
        yield
        return
    spec = read_spec(Path(run)) if (Path(run) / SPEC).exists() else {}
    with supplied(user_code(spec, method, backbones, "init_")):
        _check_passed(Path(run), spec)
        yield


def _check_passed(run: Path, spec: Spec) -> None:
    """Raise an AmodalError for code of the run of `init_from` that was not passed."""
    with describing(run / SPEC, spec):
        missing = {n: c for n, c in own_code(spec).items() if n not in parts.supplies()}
    for key, (what, name, _) in missing.items():
        short, field = str(name).rpartition(":")[2], key.partition(":")[2]
        python, option = f"init_method={short}", f"--init-method FILE.py:{short}"
        if field:
            python = f"init_backbones={{{field!r}: {short}}}"
            option = f"--init-backbone {field}=FILE.py:{short}"
        raise AmodalError(
            f"the run in {run}, of init_from, was made with the {what} {name} of your own, which "
            f"is not stored in it; pass it: {python}, or on the command line {option}"
        )


def fields_with_backbones(spec: Any) -> set[str]:
    """The fields with backbones of all encoders in a spec."""
    if isinstance(spec, list):
        return set().union(*map(fields_with_backbones, spec))
    if not isinstance(spec, dict):
        return set()
    below = set().union(*map(fields_with_backbones, spec.values()))
    backbones = spec.get("backbones")
    return below | (backbones.keys() if isinstance(backbones, dict) else set())


@contextmanager
def describing(file: Path, spec: Spec) -> Iterator[None]:
    """Turn errors of building into errors of the file that describes what to build."""
    try:
        yield
    except AmodalError:
        raise
    except KeyError as e:
        raise files.format_error(file, spec, str(e.args[0])) from e
    except (OverflowError, RecursionError, MemoryError, *BUILD_ERRORS) as e:
        raise AmodalError(
            f"{file} describes no model that can be built: {type(e).__name__}: {e}"
        ) from e


def _format_1(folder: Path) -> SavedRun:
    encoder, config = files.saved_encoder(folder)
    head = files.saved_head(folder, encoder, config)
    if head is not None or not (folder / "method.safetensors").exists():
        return SavedRun(encoder, config, {}, None, head)
    method = _method_of_format_1(folder, encoder, config)
    with describing(folder / "config.json", config):
        targets = tuple(Target.read(t) for t in config.get("tells", ()))
    before = as_spec(config["before"])
    spec = spec_of(
        config["method"], config["options"], before, config.get("tells"), bool(config.get("finds"))
    )
    return SavedRun(method.encoder, config, spec, method, None, targets)


def _method_of_format_1(folder: Path, encoder: Any, config: dict[str, Any]) -> Any:
    """The method of a run that stored it beside its encoder."""
    file, described = folder / "method.safetensors", folder / "config.json"
    tensors_of_encoder = {f"encoder.{n}": v for n, v in encoder.state_dict().items()}
    tensors, numbers = size_of_file(file)
    if methods.is_user_code(config.get("method", "")):
        raise _foreign(config["method"])
    before = files.build_encoder(config, "before", folder, folder / "model.safetensors")
    with describing(described, config):
        options = {n: tuple(v) if isinstance(v, list) else v for n, v in config["options"].items()}
        with Bounded(
            tensors + len(tensors_of_encoder),
            numbers + sum(v.numel() for v in tensors_of_encoder.values()),
            str(described),
        ):
            current = methods.current_options(config["method"], options)
            method = methods.build(config["method"], before, **current)
    fill(method, tensors_of_encoder | new_names(method, read_tensors(file)), str(file))
    return method.eval()


def whole_method(
    encoder: nn.Module, head: SupervisedHead, config: Mapping[str, Any]
) -> tuple[Method, Spec]:
    """Join an encoder and a head, as runs of format 1 hold them, to a method.

    It is the run's own method where that has no other weights than these. Else it is `finetune`,
    which predicts the same from the same encoder and head.

    Args:
        encoder: With all that the method added to it.
        head: Reads the features of the encoder.
        config: The run's config.json.

    Returns:
        The method, in evaluation mode, and its spec.

    Raises:
        AmodalError: If the encoder has modules of the user's own, which no spec can describe.
    """
    tensors = {f"encoder.{n}": v for n, v in encoder.state_dict().items()}
    tensors |= {f"head.{n}": v for n, v in head.state_dict().items()}
    targets = head.written()["targets"]
    whole: Spec = to_spec(encoder)
    options: dict[str, Any] = config.get("options", {})
    plain: dict[str, Any] = {"label": ",".join(t.name for t in head.targets), "targets": targets}
    # A method adds its prompts or adapters again, and may ask for an encoder without any.
    bare = whole | {"args": {n: v for n, v in whole["args"].items() if n != "block_hook"}}
    tries = [("finetune", plain | {"hidden": head.hidden}, whole)]
    own = config.get("method")
    if isinstance(own, str) and not methods.is_user_code(own):
        tries = [(own, options, whole), (own, options, bare), *tries]
    size = len(tensors), sum(v.numel() for v in tensors.values())
    reason: Exception = AmodalError("no method fits")
    for name, chosen, before in tries:
        try:
            spec = spec_of(name, chosen, before, targets)
            with torch.random.fork_rng(devices=[]), Bounded(*size, "the run's config.json"):
                made: Method = build(spec)
                merged(made)
            fill(made, tensors, f"the {name} of this run")
            return made.eval(), spec
        except (AmodalError, OverflowError, RecursionError, MemoryError, *BUILD_ERRORS) as e:
            reason = e
    raise AmodalError(f"this encoder and its head cannot be written as a method: {reason}")


def encoder_spec(encoder: Encoder) -> Spec:
    """The spec of an encoder without a method."""
    own = encoder.spec
    spec: Spec = {"format": files.FORMAT, "method": None, "code": None, "options": {}}
    spec |= {"plugins": needed_plugins(own)}
    return spec | {"encoder": own, "targets": [], "retrieves": False}


def saved(folder: str | Path) -> tuple[Any, dict[str, Any]]:
    """The encoder in a folder, in evaluation mode, and its config.json.

    Raises:
        AmodalError: As `load_run`.
    """
    run = load_run(folder)
    return run.encoder, run.config


def frozen(folder: str | Path) -> Any:
    """The encoder in a folder, frozen: a teacher or a reference."""
    return saved(folder)[0].requires_grad_(False)


def untrained(spec: Spec, config: dict[str, Any], code: Mapping[str, Any]) -> Any:
    """The encoder of a run as it was before training, from the run's seed.

    Args:
        spec: Of the run.
        config: Of the run.
        code: The `user_code` of the run.
    """
    torch.manual_seed(config.get("seed", 0))
    with supplied(code):
        made = build(spec)
    return made if spec.get("method") is None else made.encoder
