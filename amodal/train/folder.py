"""A run folder.

RUN/config.json        all that is needed to build the encoder again, and how it came about
RUN/model.safetensors  the encoder
RUN/README.md          the run card, for people
RUN/metrics.jsonl, tensorboard/, checkpoints/, quarantine.jsonl
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from amodal.core import AmodalError
from amodal.nn.encoder import Encoder
from amodal.train import distributed
from amodal.train.checkpoint import sync

SAME_ON_RESUME = ("method", "options", "encoder", "schedule", "batch", "seed", "data")


def prepare(out: Path, config: dict, resume: bool) -> None:
    """Make the run folder, or see that the run in it is the one that is to go on."""
    file = out / "config.json"
    if file.exists():
        before = json.loads(file.read_text())
        if not resume:
            raise AmodalError(
                f"{out} holds a run already ({before.get('method')}, {before.get('status')}); add --resume to go on with it, "
                "or choose another --out"
            )
        for key in SAME_ON_RESUME:
            mine, its = (comparable(c, key) for c in (json.loads(json.dumps(config)), before))
            if mine != its:
                raise AmodalError(
                    f"the run in {out} cannot go on with another {key}: it was started with {its}, now {mine} is given"
                )
        return
    if resume:
        raise AmodalError(f"there is no run in {out} to go on with; leave --resume out to start one")
    out.mkdir(parents=True, exist_ok=True)
    write_json(file, config | {"status": "running", "versions": versions()})


def comparable(config: dict, key: str) -> object:
    """Data may lie elsewhere when a run goes on, as long as it is the same."""
    return config[key]["fingerprint"] if key == "data" else config[key]


def weights(encoder: Encoder) -> dict[str, Tensor]:
    """All tensors, whole and on the CPU. Every rank must ask, for each holds a part of what is sharded."""
    return {k: distributed.whole(v).detach().cpu().contiguous() for k, v in encoder.state_dict().items()}


def save_encoder(out: Path, tensors: dict[str, Tensor], config: dict) -> None:
    """RUN/model.safetensors, config.json (with the weights' sha256) and README.md."""
    out.mkdir(parents=True, exist_ok=True)
    draft = out / ".model.draft"
    try:
        save_file(tensors, draft)
        digest = hashlib.sha256(draft.read_bytes()).hexdigest()
        draft.rename(out / "model.safetensors")
        write_json(out / "config.json", config | {"weights_sha256": digest})
        (out / "README.md").write_text(card(config, digest))
        sync(out)
    except (OSError, SafetensorError) as e:
        draft.unlink(missing_ok=True)
        raise AmodalError(
            f"could not write the model to {out}: {e}. The checkpoints in {out / 'checkpoints'} still hold it; "
            "free some space and add --resume."
        ) from e


def write_json(file: Path, content: dict) -> None:
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
    encoder, data = config["encoder"], config["data"]
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

| sense | kind |
|---|---|
{fields}

`amodal.load` takes this folder; so do `amodal evaluate`, `embed`, `index`, `search` and `export` on the command line.
"""
