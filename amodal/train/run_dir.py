"""The run folder.

RUN/spec.json          how the method is built, see `amodal.methods.saved`
RUN/model.safetensors  all tensors of the method
RUN/config.json        the configuration of the run
RUN/keys.json          keys of the training records, for generative retrieval
RUN/README.md          the run card
RUN/tokenizer-*.json   the tokens of each field that were learnt, or the tokenizer of its backbone
RUN/trained.npy        hashes of the keys of the training records; `evaluate` does not test on them
RUN/metrics.jsonl, tensorboard/, checkpoints/, quarantine.jsonl
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from amodal.core import AmodalError
from amodal.core.file_lock import locked
from amodal.core.regular_file import regular
from amodal.data import Dataset
from amodal.methods.saved import SPEC
from amodal.modalities.shared.formatting import shortened
from amodal.nn.changed_code import without_sources
from amodal.nn.config import arguments
from amodal.nn.saved import FORMAT, format_error
from amodal.nn.saved import read_config as read_config
from amodal.nn.saved_tokenizers import tokenizer_files
from amodal.train import distributed
from amodal.train.checkpoint import sync
from amodal.train.overwriting import RUN, check_overwritten

SAME_ON_RESUME = ("method", "options", "encoder", "schedule", "recipe", "batch", "seed", "data")


Config = dict[str, Any]
"""The content of RUN/config.json."""
Hashes = npt.NDArray[np.uint64]


LOCK = ".lock"


@contextmanager
def alone(out: Path, rank: int) -> Iterator[None]:
    """Have a run folder to oneself while a run goes on in it; the lock ends with the process.

    Args:
        out: The run folder.
        rank: Of this process; the first one has it for all.

    Raises:
        AmodalError: If another process trains there.
    """
    if rank > 0:
        yield
        return
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(out / LOCK, wait=False))
        except BlockingIOError:
            raise AmodalError(
                f"another process is training in {out}: wait for it to end (the log is "
                f"{out / 'metrics.jsonl'}), or choose another --out"
            ) from None
        except OSError as error:
            raise AmodalError(f"cannot write to {out}: {error.strerror or error}") from error
        yield


def prepare(out: Path, config: Config, resume: bool) -> None:
    """Create the run folder, or check that the run in it can be resumed.

    Raises:
        AmodalError: If it cannot be created, holds another run or files of the user's, or was
            started with another configuration.
    """
    if out.exists() and not out.is_dir():
        raise AmodalError(
            f"{out} is a file; give the name of a folder for the run, which is created if needed"
        )
    check_overwritten(out, RUN)
    file = out / "config.json"
    if file.exists():
        before = read_config(file)
        if not resume:
            raise AmodalError(
                f"{out} holds a run already ({before.get('method')}, {before.get('status')}); "
                "add --resume to continue it, or choose another --out"
            )
        if before.get("format") == 1:
            raise AmodalError(
                f"the run in {out} was started by an older version of amodal, which this one "
                "cannot resume; finish it with that version, or start a new run"
            )
        for key in SAME_ON_RESUME:
            if key not in before:
                raise format_error(file, before, key)
            # through JSON, so that tuples compare equal to lists
            now, then = (comparable(c, key) for c in (json.loads(json.dumps(config)), before))
            if now != then:
                what, started, new = difference(then, now, key)
                raise AmodalError(
                    f"the run in {out} cannot continue with another {key}: it was started with "
                    f"{what} = {started}, and the new one is {new}"
                )
        return
    if resume:
        raise AmodalError(f"there is no run in {out} to resume; leave --resume out to start one")
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(file, config | {"format": FORMAT, "status": "running", "versions": versions()})
    except OSError as e:
        raise AmodalError(
            f"the run folder {out} cannot be written ({e.strerror or e}); choose another --out"
        ) from e


def comparable(config: Config, key: str) -> object:
    """The part of an entry that must agree on resume. The path of the data may differ.

    The source of the user's own modules may differ too, if that is accepted (`earlier_code`).
    """
    value = without_sources(config[key]) if key == "encoder" else config[key]
    return value.get("fingerprint") if key == "data" and isinstance(value, dict) else value


def difference(then: object, now: object, name: str) -> tuple[str, str, str]:
    """Where two contents of JSON differ first.

    Returns:
        The name of the entry, "encoder.args.size", and what it is in each, shortened.
    """
    if isinstance(then, dict) and isinstance(now, dict):
        first = next(
            k for k in {**then, **now} if then.get(k) != now.get(k) or (k in then) != (k in now)
        )
        return difference(then.get(first), now.get(first), f"{name}.{first}")
    return name, shortened(repr(then)), shortened(repr(now))


def weights(module: nn.Module) -> dict[str, Tensor]:
    """All tensors of a module on the CPU, unsharded. Every rank must call it."""
    return {
        name: distributed.full_tensor(value).detach().cpu().contiguous()
        for name, value in module.state_dict().items()
    }


def save_weights(
    out: Path,
    tensors: dict[str, Tensor],
    config: Config,
    beside: Mapping[str, Mapping[str, Any] | list[Any]] | None = None,
) -> None:
    """Write model.safetensors, README.md and config.json, with the sha256 of the weights.

    Args:
        out: The run folder; the model that it may hold is replaced.
        tensors: All tensors of the method.
        config: The content of config.json, without the digest.
        beside: name -> content of JSON files that are of one piece with the weights.

    Raises:
        AmodalError: If the disk is full, or the folder cannot be written.
    """
    draft = out / ".model.draft"
    try:
        out.mkdir(parents=True, exist_ok=True)
        save_file(tensors, draft)
        digest = hashlib.sha256(draft.read_bytes()).hexdigest()
        # A config.json without a digest is that of an unfinished run. It is so from the first file
        # that is replaced to the last, so a kill in between leaves a run that --resume finishes.
        # The draft comes before: a full disk leaves the model that was there.
        mark_unfinished(out / "config.json")
        beside = dict(beside or {})
        spec = beside.get(SPEC)
        beside |= tokenizer_files(spec) if isinstance(spec, dict) else {}
        for name, content in beside.items():
            write_json(out / name, content)
        draft.replace(out / "model.safetensors")
        (out / "README.md").write_text(card(config, digest), encoding="utf-8")
        sync(out)  # without power, too, nothing is lost that config.json says is there
        write_json(out / "config.json", config | {"format": FORMAT, "weights_sha256": digest})
        sync(out)
    except (OSError, SafetensorError) as e:
        draft.unlink(missing_ok=True)
        raise AmodalError(
            f"could not write the model to {out}: {e}. The checkpoints in {out / 'checkpoints'} "
            "still hold it; free some space and add --resume."
        ) from e


def mark_unfinished(file: Path) -> None:
    """Take the digest of the weights out of a config.json, where it has one."""
    config = read_config(file) if file.exists() else {}
    if config.pop("weights_sha256", None) is not None:
        write_json(file, config | {"status": "running"})


def model_dir(out: Path) -> Path:
    """Create a folder for a model if it does not exist, and return it.

    Raises:
        AmodalError: If it cannot be created, or a file of the user's would be overwritten.
    """
    check_overwritten(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise AmodalError(
            f"the folder {out} cannot be created ({e.strerror or e}); choose another one"
        ) from e
    return out


def hash_keys(keys: Iterable[str]) -> Hashes:
    """(n,) uint64, one hash for each key."""
    digests = b"".join(
        hashlib.blake2b(k.encode("utf-8", "surrogatepass"), digest_size=8).digest() for k in keys
    )
    return np.frombuffer(digests, dtype="<u8")


def write_trained(out: Path, hashed: Hashes | None) -> None:
    """Write RUN/trained.npy, or remove it where the training records are not known (None)."""
    file = out / "trained.npy"
    try:
        if hashed is None:
            file.unlink(missing_ok=True)
            return
        draft = file.with_name(".trained.draft.npy")
        np.save(draft, np.unique(hashed))
        draft.replace(file)
    except OSError as e:
        raise AmodalError(f"could not write {file}: {e.strerror or e}") from e


def read_trained(run: Path) -> Hashes | None:
    """The sorted hashes of RUN/trained.npy; None without such a file."""
    file = run / "trained.npy"
    if not file.exists():
        return None
    try:
        # memory-mapped, so that a damaged header cannot request more memory than the file has
        hashes = np.array(np.load(regular(file), mmap_mode="r", allow_pickle=False))
        if hashes.dtype != np.uint64 or hashes.ndim != 1:
            raise ValueError(f"it holds {hashes.dtype} of shape {hashes.shape}")
        return hashes
    except Exception as e:  # numpy parses the header as Python, and raises what its tokenizer does
        raise AmodalError(
            f"{file}, which lists the training records, cannot be read ({e}). The run can be used "
            "without it (remove it), but `amodal evaluate` may then test on training records."
        ) from e


CHOSEN_ON = "chosen_on"
"""Entry of config.json: the part of the split that a run was chosen on, which tests it no more."""


def mark_chosen(run: Path) -> None:
    """Say in config.json that a finished run was chosen on the validation part.

    Raises:
        AmodalError: If it cannot be read or written.
    """
    file = run / "config.json"
    content = read_config(file)
    if content.get(CHOSEN_ON) != "valid":
        try:
            write_json(file, content | {CHOSEN_ON: "valid"})
        except OSError as e:
            raise AmodalError(f"could not write {file}: {e.strerror or e}") from e


def write_json(file: Path, content: Mapping[str, Any] | list[Any]) -> None:
    """Write a JSON file atomically."""
    draft = file.with_name(f".{file.name}.draft")
    draft.write_text(json.dumps(content, indent=1), encoding="utf-8")
    draft.replace(file)


def path_of(dataset: Dataset) -> str:
    """Where the data is, whatever folder is current later; "" for data in memory."""
    path = dataset.path
    return str(path.resolve()) if isinstance(path, Path) else str(path or "")


def versions() -> dict[str, str]:
    """Versions of packages, Python, machine and threads, for the configuration of a run."""
    packages = {name: version(name) for name in ("torch", "numpy", "pyarrow", "pillow")}
    return packages | {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }


def card(config: Config, digest: str) -> str:
    """The text of RUN/README.md. digest: sha256 of the weights."""
    encoder, data = arguments(config["encoder"]), config["data"]
    fields = "\n".join(f"| {name} | {m['modality']} |" for name, m in encoder["fields"].items())
    options = ", ".join(f"{k} = {v}" for k, v in config["options"].items())
    options = f" ({options})" if options else ""
    installed = ", ".join(f"{k} {v}" for k, v in config.get("versions", {}).items())
    description = (
        f"{encoder['size']}, {encoder['trunk']} trunk, {encoder['pool']} pooling, "
        f"{encoder['positions']} positions"
    )
    size = (
        f"{data['records']} records, {data['train']} trained on, fingerprint {data['fingerprint']}"
    )
    training = "by a loop of the user's own"
    if steps := config["schedule"].get("steps"):
        training = (
            f"{steps} steps of {config['batch']} rows, learning rate "
            f"{config['schedule']['lr']:.3g}, seed {config['seed']}, {config.get('seconds', '?')} s"
        )
    adapted = config.get("adapted")
    head = f"| head | {adapted['head']}, predicts {adapted['label']} |\n" if adapted else ""
    return f"""# {config["method"]} on {data["name"]}

| | |
|---|---|
| method | {config["method"]}{options} |
| encoder | {description} |
| data | {size} |
| training | {training} |
{head}| versions | {installed} |
| weights | sha256 {digest} |

| field | modality |
|---|---|
{fields}

`amodal.load` takes this folder; so do `amodal evaluate`, `embed`, `index`, `search` and `export` on
the command line.
"""
