"""Write the runs of revision 263cbe3 that tests/old_runs holds, and what that revision made of
them.

python scripts/store_old_runs.py OUT    in the root of that revision

Later revisions must load them, and embed, predict and find the same. It runs with the old code
alone and is kept to say how the files came about.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

import amodal
from amodal import methods
from amodal.nn import config as encoder_config
from tests.methods.bench import batch, method

ROWS = 12
QUERY = "a red picture"
LONG = {"size": "nano", "steps": 6, "batch": 16, "progress": False}


def pictures(root: Path) -> Path:
    """As in tests/old_runs/records.py, which this revision does not have."""
    file = Path(__file__).parent.parent / "tests" / "old_runs" / "records.py"
    space: dict = {"__name__": "records"}
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), space)
    return space["pictures"](root)


def runs(folder: Path, out: Path) -> None:
    amodal.pretrain("clip", folder, out / "encoder", options={"width": 16}, **LONG)
    amodal.load(out / "encoder").index(folder)
    amodal.load(out / "encoder").adapt(
        folder, out / "head", label="folder", how="head", steps=6, batch=16, progress=False
    )
    amodal.load(out / "encoder").adapt(
        folder, out / "lora", label="folder", how="lora", steps=6, batch=16, progress=False
    )
    few = {"branch": 4, "leaf": 4, "depth": 1, "most": 64, "width": 16}
    amodal.pretrain("grace", folder, out / "generative", options=few, **LONG)
    amodal.pretrain("multimodn", folder, out / "whole", options={"label": "folder"}, **LONG)
    amodal.pretrain("v2l", folder, out / "ensemble", options={"width": 16}, **LONG)
    torch.manual_seed(0)
    weights = folder.parent / "vit.safetensors"
    save_file(timm.create_model("test_vit", img_size=16).state_dict(), weights)
    backbones = {"image": f"timm:test_vit:16@{weights}"}
    amodal.pretrain(
        "clip", folder, out / "backbone", backbones=backbones, options={"width": 16}, **LONG
    )


def outputs(run: Path, folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """What this revision makes of the records and of a query."""
    model = amodal.load(run)
    found = model.embed(folder)
    tensors = {f"features/{s}": found.features[s].values for s in found.features}
    tensors |= {f"aligned/{s}": found.aligned[s].values for s in found.aligned}
    said: dict = {"fields": sorted(model.fields)}
    if model.head is not None:
        said["predict"] = model.predict(folder).to_pydict()
    if model.config.get("finds"):
        said["generate"] = [[h.key, h.score, h.part] for h in model.generate(text=QUERY, k=5)]
    if (run / "index").exists():
        said["search"] = [[h.key, h.score, h.source] for h in model.search(text=QUERY, k=5)]
    return {n: v.contiguous() for n, v in tensors.items()}, said


@torch.no_grad()
def drawn(module: torch.nn.Module) -> torch.nn.Module:
    """Every value by its name, so that it need not be stored."""
    for name, value in module.state_dict().items():
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
        if value.is_floating_point():
            value.copy_(
                torch.randn(value.shape, generator=torch.Generator().manual_seed(seed)) * 0.1
            )
            if name.endswith("running_var"):
                value.abs_()
    return module


def encoders(out: Path) -> None:
    """Of every method's encoder: its description, its tensors' shapes, and what it makes of records
    with weights by name."""
    described, vectors = {}, {}
    for name in methods.names():
        config = encoder_config.describe(method(name).encoder)
        encoder = drawn(encoder_config.build(config)).eval()
        shapes = {n: list(v.shape) for n, v in encoder.state_dict().items()}
        described[name] = {"encoder": config, "shapes": shapes}
        with torch.no_grad():
            found = encoder(batch(("plain",), seed=5))
        vectors |= {f"{name}/{s}": found[s].values.contiguous() for s in found}
    (out / "encoders.json").write_text(json.dumps(described, indent=None), encoding="utf-8")
    save_file(vectors, out / "encoders.safetensors")


def main(out: Path) -> None:
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder = pictures(Path(place) / "pictures")
        made = Path(place) / "runs"
        runs(folder, made)
        for run in sorted(made.iterdir()):
            for gone in ("checkpoints", "tensorboard"):
                shutil.rmtree(run / gone, ignore_errors=True)
            tensors, said = outputs(run, folder)
            shutil.copytree(run, out / run.name, dirs_exist_ok=True)
            save_file(tensors, out / run.name / "outputs.safetensors")
            (out / run.name / "outputs.json").write_text(
                json.dumps(said, indent=1), encoding="utf-8"
            )
            file = out / run.name / "config.json"
            file.write_text(
                file.read_text(encoding="utf-8").replace(place, "elsewhere"), encoding="utf-8"
            )
    encoders(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
