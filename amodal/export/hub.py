"""Hugging Face: a folder in the Hub's layout, whose parts `transformers` loads as far as it has the
architecture.

    OUT/README.md, config.json, model.safetensors   as `amodal.load` reads them; the card has the
                                                    Hub's metadata
    OUT/FIELD/      a vision tower that `AutoModel.from_pretrained` loads without code of ours
                    (SigLIP's), with its preprocessor
    OUT/FIELD/projection.safetensors                 from the mean of its tokens to the space where
                                                     fields are compared

Only pictures have a counterpart: a ViT of plain pre-norm blocks without a class token is SigLIP's
vision model, weight by weight. Each tower is run on made-up pictures and compared with the encoder
before it is handed out.
"""

from __future__ import annotations

import copy
import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from amodal import catalog
from amodal.core import AmodalError, Batch, Column
from amodal.export._alone import Alone, reason_against
from amodal.modalities import name_of
from amodal.modalities.image import Image
from amodal.nn.encoder import Encoder
from amodal.nn.pooling import AttentionPool, ClsPool
from amodal.nn.saved import read_config
from amodal.train.run_dir import card as run_card

PROCESSORS = {"stretch": "SiglipImageProcessor", "crop": "PerceiverImageProcessor"}
"""`Image.fit` -> the image processor that does the same: the latter cuts out the middle square,
then resizes it."""
TOLERANCE = 1e-4  # largest difference from the encoder, in units of its largest component


def write(model, out: Path) -> list[Path]:
    """The folder of `model`, its card, and the towers that transformers can load. Raises
    AmodalError if a tower disagrees."""
    encoder = copy.deepcopy(model.encoder).cpu().float().eval()
    reasons = {field: why for field in encoder.fields if (why := reason_not(encoder, field))}
    written = []
    for field in encoder.fields:
        if field not in reasons:
            written += tower(encoder, field, out / field)
    digest = read_config(out / "config.json")["weights_sha256"]
    (out / "README.md").write_text(card(model, digest, reasons), encoding="utf-8")
    return [*written, out / "README.md"]


def reason_not(encoder: Encoder, field: str) -> str:
    """Why transformers has no counterpart of this field's tower; "" if it has."""
    if encoder.fields[field].layout != "grid":
        kind = name_of(encoder.fields[field])
        return f"transformers has no architecture that reads {kind} values as this encoder does"
    if encoder.fields[field].fit not in PROCESSORS:
        return (
            f"it fits pictures by {encoder.fields[field].fit!r}, bars in the mean colour round a picture that is not square, and no "
            "image processor of transformers does the same"
        )
    if reason := reason_against(encoder, field):
        return reason
    if (
        encoder.mixer != "attention"
        or encoder.block_hook is not None
        or encoder.routing.fusion_tokens is not None
    ):
        return "its trunk has parts that SigLIP's vision model lacks"
    if encoder.positions == "rotary":
        return "its positions are rotary, SigLIP's are added"
    if isinstance(encoder.pools[field], (ClsPool, AttentionPool)):
        return f"it pools by {encoder.pool_name}, which SigLIP's vision model does in another way"
    if encoder.heads is not None and not isinstance(encoder.heads[field], nn.Linear):
        return "its head is more than a linear map"
    try:
        import transformers  # noqa: F401
    except ImportError:
        return "the package transformers was not there when this was written: pip install 'amodal[language]'"
    return ""


def tower(encoder: Encoder, field: str, out: Path) -> list[Path]:
    """SigLIP's vision model with the weights of one field of pictures, its preprocessor and
    projection."""
    from transformers import AutoModel, SiglipVisionConfig, SiglipVisionModel

    alone, image = Alone(encoder, field), encoder.fields[field]
    blocks = alone.trunk.blocks
    shape = dict(
        hidden_size=encoder.width, num_hidden_layers=len(blocks), num_channels=image.channels
    )
    shape |= dict(
        num_attention_heads=encoder.num_heads, intermediate_size=blocks[0].up.out_features
    )
    pieces = dict(
        image_size=image.size, patch_size=image.tile, hidden_act="gelu", vision_use_head=False
    )
    made = SiglipVisionModel(
        SiglipVisionConfig(**shape, **pieces, layer_norm_eps=blocks[0].norm1.eps)
    ).eval()
    fill(
        getattr(made, "vision_model", made), alone
    )  # transformers 4 keeps it one level further down
    with _quiet():
        made.save_pretrained(out)
    (out / "preprocessor_config.json").write_text(json.dumps(preprocessor(image), indent=1))
    if encoder.heads is not None:
        save_file(
            {k: v.contiguous() for k, v in encoder.heads[field].state_dict().items()},
            out / "projection.safetensors",
        )
    with _quiet():
        loaded = AutoModel.from_pretrained(out)
    error = disagreement(encoder, field, loaded)
    if not error <= TOLERANCE:
        shutil.rmtree(out)
        raise AmodalError(
            f"the tower of {field!r} in {out} differs from the encoder by {error:.2g}, more than {TOLERANCE:g}. Please report this with "
            "the versions that `amodal doctor` prints."
        )
    return sorted(out.iterdir())


def preprocessor(image: Image) -> dict:
    """preprocessor_config.json: what `image.decode` and standardising do to a picture of 8 bits.
    The middle square is cut out to a whole pixel there, to half a pixel here, where the outermost
    pixels also see a little of what is beyond."""
    mean, std = (list(map(float, s)) for s in image.scale())
    side = {"height": image.size, "width": image.size}
    about = {
        "image_processor_type": PROCESSORS[image.fit],
        "do_resize": True,
        "size": side,
        "resample": 2,
    }
    if image.fit == "crop":
        about |= {"do_center_crop": True, "crop_size": side}
    if image.channels == 3:
        about |= {"do_convert_rgb": True}
    about |= {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    return about | {"image_mean": mean, "image_std": std}


@contextmanager
def _quiet():
    """Without bars for what takes a moment."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@torch.no_grad()
def fill(vision: nn.Module, alone: Alone) -> None:
    """The weights of `alone` in SigLIP's places. A position there also carries what marks the field
    here."""
    inside = vision.embeddings
    inside.patch_embedding.weight.copy_(
        alone.field.project.weight.view_as(inside.patch_embedding.weight)
    )
    inside.patch_embedding.bias.copy_(alone.field.project.bias)
    place = alone.field_token.expand_as(inside.position_embedding.weight)
    if alone.position is not None:
        place = place + alone.position(alone.field.position)
    inside.position_embedding.weight.copy_(place)
    vision.post_layernorm.load_state_dict(alone.trunk.norm.state_dict())
    for mine, its in zip(alone.trunk.blocks, vision.encoder.layers):
        bias = mine.attention.qkv.bias
        for i, part in enumerate(
            (its.self_attn.q_proj, its.self_attn.k_proj, its.self_attn.v_proj)
        ):
            part.weight.copy_(mine.attention.qkv.weight.chunk(3)[i])
            part.bias.zero_() if bias is None else part.bias.copy_(bias.chunk(3)[i])
        its.self_attn.out_proj.load_state_dict(mine.attention.out.state_dict())
        for a, b in ((mine.norm1, its.layer_norm1), (mine.norm2, its.layer_norm2)):
            b.load_state_dict(a.state_dict())
        its.mlp.fc1.load_state_dict(mine.up.state_dict())
        its.mlp.fc2.load_state_dict(mine.down.state_dict())


@torch.no_grad()
def disagreement(encoder: Encoder, field: str, loaded: nn.Module) -> float:
    """The largest difference between the tower and the encoder on made-up pictures."""
    image = encoder.fields[field]
    pictures = Alone(encoder, field).field.examples(5, 1, np.random.default_rng(0))
    column = Column(image.collate(pictures), torch.arange(5))
    wanted = encoder(Batch.of(5, {field: column}))[field].values
    mean, std = (torch.tensor(s).view(-1, 1, 1) for s in image.scale())
    found = loaded.eval()(pixel_values=(column.values - mean) / std).last_hidden_state.mean(1)
    found = encoder.heads[field](found) if encoder.heads is not None else found
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1))


def card(model, digest: str, reasons: dict[str, str]) -> str:
    """README.md with the Hub's metadata, made from the run."""
    config, fields = model.config, model.fields
    row = catalog.find(config["method"])
    kinds = sorted({name_of(m) for m in fields.values()})
    tags = ["amodal", "self-supervised-learning", config["method"], *kinds]
    front = [
        "---",
        "library_name: amodal",
        "pipeline_tag: feature-extraction",
        "tags:",
        *(f"- {json.dumps(t)}" for t in tags),
    ]
    sources = ", ".join(f"`{f}` ({name_of(m)})" for f, m in fields.items())
    paper = (
        f" ([arXiv:{row.paper}](https://arxiv.org/abs/{row.paper}))"
        if row is not None and row.paper
        else ""
    )
    method = f"the method of *{row.title}*" if row is not None else config["method"]
    parts = [
        "\n".join([*front, "---"]),
        run_card(config, digest).split("`amodal.load` takes")[0].strip(),
        f"An encoder of {sources}, trained by {method}{paper}. Each source becomes a vector; vectors of different sources are "
        "compared by cosine. Any source of a record may be missing.",
        _use(fields, reasons),
        _measured(model),
        "## Limits\n\nIt knows what its training data shows and no more; how good it is on other data is to be measured there, by "
        "`amodal evaluate`. The licence of the weights is for whoever trained them to say.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _use(fields: dict, reasons: dict[str, str]) -> str:
    lines = [
        "## Use",
        "```python",
        "import amodal",
        'model = amodal.load("FOLDER")',
        'vectors = model.embed("DATA").aligned',
        "```",
    ]
    lines += [
        "`FOLDER` is a copy of this folder (`huggingface_hub.snapshot_download` makes one). Weights are safetensors, the rest is",
        "JSON: nothing in it is run.",
    ]
    for field in fields:
        if field not in reasons:
            lines += [
                "",
                f"`{field}` alone, without amodal:",
                "```python",
                "from transformers import AutoImageProcessor, AutoModel",
            ]
            lines += [
                f'tower = AutoModel.from_pretrained("FOLDER/{field}")',
                f'pixels = AutoImageProcessor.from_pretrained("FOLDER/{field}")(pictures, return_tensors="pt")',
            ]
            lines += [
                "features = tower(**pixels).last_hidden_state.mean(1)",
                "```",
                _prepared(fields[field]),
            ]
            lines += [
                f"`{field}/projection.safetensors`, where there is one, is the linear map from there to the space of all fields."
            ]
    lines += [f"\n`{field}` is loaded by amodal only: {why}." for field, why in reasons.items()]
    return "\n".join(lines)


def _prepared(image: Image) -> str:
    how = {"stretch": "stretched to a square", "crop": "cut to their middle square"}[image.fit]
    bands = {1: "grey", 3: "colour"}.get(image.channels, f"{image.channels}-channel")
    return f"It takes {bands} pictures of 8 bits; those that are not square are {how}, then resized to {image.size} x {image.size} pixels."


def _measured(model) -> str:
    """The last line of the run's log, where the run is still there."""
    log = model.path / "metrics.jsonl" if model.path is not None else None
    if log is None or not log.exists() or not (lines := log.read_text().splitlines()):
        return ""
    last = json.loads(lines[-1])
    kept = {
        k: v
        for k, v in last.items()
        if k == "loss" or k.split("/")[0] in ("loss", "rank", "uniformity", "alignment")
    }
    rows = "\n".join(
        f"| {name} | {value:.4g} |"
        for name, value in kept.items()
        if isinstance(value, (int, float))
    )
    return f"## At the end of training\n\nOn records held out: effective rank, uniformity, alignment.\n\n| | |\n|---|---|\n{rows}"
