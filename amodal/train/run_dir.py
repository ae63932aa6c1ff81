"""A run folder.

RUN/spec.json          how the method is built, see `amodal.methods.saved`
RUN/model.safetensors  the whole method
RUN/config.json        how it came about
RUN/keys.json          of a method that names records itself: the keys of those that it was trained
                       on
RUN/README.md          the run card, for people
RUN/trained.npy        hashes of the keys of the records it was trained on, which `evaluate` does
                       not test on
RUN/metrics.jsonl, tensorboard/, checkpoints/, quarantine.jsonl
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from amodal.core import AmodalError
from amodal.nn.config import arguments
from amodal.nn.saved import FORMAT, format_error, read_config
from amodal.train import distributed
from amodal.train.checkpoint import sync

SAME_ON_RESUME = ("method", "options", "encoder", "schedule", "recipe", "batch", "seed", "data")


def prepare(out: Path, config: dict, resume: bool) -> None:
    """Make the run folder, or see that the run in it is the one that is to go on."""
    if out.exists() and not out.is_dir():
        raise AmodalError(
            f"{out} is a file; give the name of a folder for the run, which is made if there is none"
        )
    file = out / "config.json"
    if file.exists():
        before = read_config(file)
        if not resume:
            raise AmodalError(
                f"{out} holds a run already ({before.get('method')}, {before.get('status')}); add --resume to go on with it, "
                "or choose another --out"
            )
        if before.get("format") == 1:
            raise AmodalError(
                f"the run in {out} was started by an older version of amodal, and this one cannot go on with it; finish it with that "
                "version, or start a new run"
            )
        for key in SAME_ON_RESUME:
            if key not in before:
                raise format_error(file, before, key)
            mine, its = (comparable(c, key) for c in (json.loads(json.dumps(config)), before))
            if mine != its:
                raise AmodalError(
                    f"the run in {out} cannot go on with another {key}: it was started with {its}, now {mine} is given"
                )
        return
    if resume:
        raise AmodalError(
            f"there is no run in {out} to go on with; leave --resume out to start one"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(file, config | {"format": FORMAT, "status": "running", "versions": versions()})
    except OSError as e:
        raise AmodalError(
            f"the run folder {out} cannot be written ({e.strerror or e}); choose another --out"
        ) from e


def comparable(config: dict, key: str) -> object:
    """Data may lie elsewhere when a run goes on, as long as it is the same."""
    found = config[key]
    return found.get("fingerprint") if key == "data" and isinstance(found, dict) else found


def weights(encoder: nn.Module) -> dict[str, Tensor]:
    """All tensors, whole and on the CPU. Every rank must ask, for each holds a part of what is
    sharded."""
    return {
        k: distributed.whole(v).detach().cpu().contiguous() for k, v in encoder.state_dict().items()
    }


def save_weights(out: Path, tensors: dict[str, Tensor], config: dict) -> None:
    """RUN/model.safetensors, config.json (with the weights' sha256) and README.md."""
    draft = out / ".model.draft"
    try:
        out.mkdir(parents=True, exist_ok=True)
        save_file(tensors, draft)
        digest = hashlib.sha256(draft.read_bytes()).hexdigest()
        draft.rename(out / "model.safetensors")
        write_json(out / "config.json", config | {"format": FORMAT, "weights_sha256": digest})
        (out / "README.md").write_text(card(config, digest))
        sync(out)
    except (OSError, SafetensorError) as e:
        draft.unlink(missing_ok=True)
        raise AmodalError(
            f"could not write the model to {out}: {e}. The checkpoints in {out / 'checkpoints'} still hold it; "
            "free some space and add --resume."
        ) from e


def path_made(out: Path) -> Path:
    """The folder, which is there now. Raises AmodalError if it cannot be made."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise AmodalError(
            f"the folder {out} cannot be made ({e.strerror or e}); choose another one"
        ) from e
    return out


def hashes(keys: Iterable[str]) -> np.ndarray:
    """(n,) uint64, one for each key."""
    digests = b"".join(
        hashlib.blake2b(k.encode("utf-8", "surrogatepass"), digest_size=8).digest() for k in keys
    )
    return np.frombuffer(digests, dtype="<u8")


def write_trained(out: Path, hashed: np.ndarray | None) -> None:
    """RUN/trained.npy; None, for a model that does not know: no such file."""
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


def read_trained(run: Path) -> np.ndarray | None:
    """The hashes in RUN/trained.npy, sorted; None if there is no such file."""
    file = run / "trained.npy"
    if not file.exists():
        return None
    try:
        found = np.array(
            np.load(file, mmap_mode="r", allow_pickle=False)
        )  # mapped, no header asks for more than there is
        if found.dtype != np.uint64 or found.ndim != 1:
            raise ValueError(f"it holds {found.dtype} of shape {found.shape}")
        return found
    except (
        Exception
    ) as e:  # numpy reads the header as Python's own values, and raises what its tokenizer does
        raise AmodalError(
            f"{file}, which says what the run was trained on, cannot be read ({e}). Without it (remove it) the run can be used, "
            "but `amodal evaluate` may then test on records that were trained on."
        ) from e


def write_json(file: Path, content: dict | list) -> None:
    draft = file.with_name(f".{file.name}.draft")
    draft.write_text(json.dumps(content, indent=1))
    draft.replace(file)


def versions() -> dict[str, str]:
    found = {name: version(name) for name in ("torch", "numpy", "pyarrow", "pillow")}
    return found | {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }


def card(config: dict, digest: str) -> str:
    encoder, data = arguments(config["encoder"]), config["data"]
    steps, seconds = config["schedule"]["steps"], config.get("seconds", "?")
    fields = "\n".join(f"| {name} | {m['modality']} |" for name, m in encoder["fields"].items())
    options = ", ".join(f"{k} = {v}" for k, v in config["options"].items())
    return f"""# {config["method"]} on {data["name"]}

| | |
|---|---|
| method | {config["method"]} ({options}) |
| encoder | {encoder["size"]}, {encoder["trunk"]} trunk, {encoder["pool"]} pooling, {encoder["positions"]} positions |
| data | {data["records"]} records, {data["train"]} trained on, fingerprint {data["fingerprint"]} |
| training | {steps} steps of {config["batch"]} rows, learning rate {config["schedule"]["lr"]:.3g}, seed {config["seed"]}, {seconds} s |
| versions | {", ".join(f"{k} {v}" for k, v in config.get("versions", {}).items())} |
| weights | sha256 {digest} |

| field | kind |
|---|---|
{fields}

`amodal.load` takes this folder; so do `amodal evaluate`, `embed`, `index`, `search` and `export` on the command line.
"""
