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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column
from amodal.export.dense_encoder import DenseEncoder, why_not_exportable
from amodal.export.model_card import model_card
from amodal.modalities import name_of
from amodal.modalities.image import Image
from amodal.modalities.shared.protocols import is_pixel_map
from amodal.nn.attention.bias import is_bias
from amodal.nn.encoder import Encoder
from amodal.nn.pooling import AttentionPool, ClsPool, PerceptronPool
from amodal.nn.positions import is_rotary
from amodal.nn.saved import read_config
from amodal.nn.transformer import Block, Transformer

if TYPE_CHECKING:
    from amodal.model import Model

PROCESSORS = {"stretch": "SiglipImageProcessor", "crop": "PerceiverImageProcessor"}
"""`Image.fit` -> the image processor that does the same (the second crops, then resizes)."""
TOLERANCE = 1e-4  # largest difference from the encoder, in units of its largest component


def write(model: Model, out: Path) -> list[Path]:
    """Write the card of a model and the towers that transformers can load.

    Args:
        model: The model.
        out: The folder, which holds the model already.

    Returns:
        The files.

    Raises:
        AmodalError: If a tower disagrees with the encoder.
    """
    encoder = copy.deepcopy(model.encoder).cpu().float().eval()
    reasons = {field: why for field in encoder.fields if (why := why_no_tower(encoder, field))}
    towers = towers_of(encoder)
    written = [file for field in towers for file in tower(encoder, field, out / field)]
    digest = read_config(out / "config.json")["weights_sha256"]
    card = model_card(model, digest, towers=towers, reasons=reasons)
    (out / "README.md").write_text(card, encoding="utf-8")
    return [*written, out / "README.md"]


def towers_of(encoder: Encoder) -> list[str]:
    """The fields whose tower transformers has."""
    return [field for field in encoder.fields if not why_no_tower(encoder, field)]


def why_no_tower(encoder: Encoder, field: str) -> str:
    """Why transformers has no counterpart of this field's tower; "" if it has."""
    if encoder.fields[field].layout != "grid":
        kind = name_of(encoder.fields[field])
        return f"transformers has no architecture that takes {kind} values as this encoder does"
    image = cast(Image, encoder.fields[field])
    if image.fit not in PROCESSORS:
        what = (
            "bars in the mean colour round a picture that is not square, and no image processor of "
            "transformers does the same"
            if is_pixel_map(image)
            else "each at its own aspect, and SigLIP's vision model reads squares; its ONNX file "
            "takes any number of patches"
        )
        return f"it fits pictures by {image.fit!r}, {what}"
    if isinstance(encoder, Encoder) and encoder.contextual(field):
        return "it has a backbone, of another shape than SigLIP's vision model"
    if reason := why_not_exportable(encoder, field):
        return reason
    if (
        encoder.mixer != "attention"
        or encoder.block_hook is not None
        or encoder.routing.fusion_tokens is not None
    ):
        return "its trunk has parts that SigLIP's vision model lacks"
    if is_rotary(encoder.positions):
        return "its positions are rotary, SigLIP's are added"
    if is_bias(encoder.positions):
        return "its positions are a bias of attention, SigLIP's are added"
    if encoder.recorded_args.get("layer_scale"):
        return "its blocks scale what they add, which SigLIP's vision model does not"
    if isinstance(encoder.pools[field], PerceptronPool):
        return "it pools by a perceptron, which SigLIP's vision model lacks"
    if isinstance(encoder.pools[field], (ClsPool, AttentionPool)):
        return f"it pools by {encoder.pool_name}, which SigLIP's vision model does in another way"
    if encoder.heads is not None and not isinstance(encoder.heads[field], nn.Linear):
        return "its head is more than a linear map"
    try:
        import transformers  # noqa: F401
    except ImportError:
        return (
            "the package transformers was missing when this was written: pip install "
            "'amodal[language]'"
        )
    return ""


def tower(encoder: Encoder, field: str, out: Path) -> list[Path]:
    """Write SigLIP's vision model with the weights of one field of pictures, its preprocessor and
    projection. Raises AmodalError if it disagrees with the encoder."""
    from transformers import AutoModel, SiglipVisionConfig, SiglipVisionModel

    dense, image = DenseEncoder(encoder, field), cast(Image, encoder.fields[field])
    trunk = cast(Transformer, dense.trunk)
    blocks = cast("list[Block]", trunk.blocks)
    config = SiglipVisionConfig(
        hidden_size=encoder.width,
        num_hidden_layers=len(blocks),
        num_attention_heads=encoder.num_heads,
        intermediate_size=cast(nn.Linear, blocks[0].up).out_features,
        num_channels=image.channels,
        image_size=image.size,
        patch_size=image.tile,
        hidden_act="gelu",
        vision_use_head=False,
        layer_norm_eps=cast(nn.LayerNorm, blocks[0].norm1).eps,
    )
    made: Any = SiglipVisionModel(config)
    made.eval()
    fill(getattr(made, "vision_model", made), dense)  # transformers 4 has it one level further down
    with _quiet():
        made.save_pretrained(out)
    (out / "preprocessor_config.json").write_text(
        json.dumps(preprocessor(image), indent=1), encoding="utf-8"
    )
    if encoder.heads is not None:
        save_file(
            {k: v.contiguous() for k, v in encoder.heads[field].state_dict().items()},
            out / "projection.safetensors",
        )
    with _quiet():
        loaded = AutoModel.from_pretrained(out, trust_remote_code=False, use_safetensors=True)
    error = disagreement(encoder, field, loaded.eval())
    if not error <= TOLERANCE:
        shutil.rmtree(out)
        raise AmodalError(
            f"the tower of {field!r} in {out} differs from the encoder by {error:.2g}, more than "
            f"{TOLERANCE:g}. Please report this with "
            "the versions that `amodal doctor` prints."
        )
    return sorted(out.iterdir())


def preprocessor(image: Image) -> dict[str, Any]:
    """preprocessor_config.json: what `image.decode` and standardisation do to a picture of 8 bits.

    transformers cuts out the middle square to a whole pixel, amodal to half a pixel; there the
    outermost pixels also see a little of what is beyond.
    """
    mean, std = (list(map(float, s)) for s in image.scale())
    side = {"height": image.size, "width": image.size}
    about: dict[str, Any] = {
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
def _quiet() -> Iterator[None]:
    """No progress bars of transformers for what takes a moment."""
    from transformers.utils import logging as untyped

    logging = cast(Any, untyped)

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@torch.no_grad()
def fill(vision: Any, dense: DenseEncoder) -> None:
    """Copy weights into SigLIP's vision model (untyped). Its position embedding also holds the
    token of the field."""
    inside = vision.embeddings
    inside.patch_embedding.weight.copy_(
        dense.field.project.weight.view_as(inside.patch_embedding.weight)
    )
    inside.patch_embedding.bias.copy_(dense.field.project.bias)
    place = dense.field_token.expand_as(inside.position_embedding.weight)
    if dense.position is not None:
        place = place + dense.position(dense.field.position)
    inside.position_embedding.weight.copy_(place)
    trunk = cast(Transformer, dense.trunk)
    vision.post_layernorm.load_state_dict(trunk.norm.state_dict())
    for mine, its in zip(cast("list[Block]", trunk.blocks), vision.encoder.layers):
        qkv = cast(nn.Linear, mine.attention.qkv)
        bias: Tensor | None = qkv.bias
        for i, part in enumerate(
            (its.self_attn.q_proj, its.self_attn.k_proj, its.self_attn.v_proj)
        ):
            part.weight.copy_(qkv.weight.chunk(3)[i])
            part.bias.zero_() if bias is None else part.bias.copy_(bias.chunk(3)[i])
        its.self_attn.out_proj.load_state_dict(mine.attention.out.state_dict())
        for a, b in ((mine.norm1, its.layer_norm1), (mine.norm2, its.layer_norm2)):
            b.load_state_dict(a.state_dict())
        its.mlp.fc1.load_state_dict(mine.up.state_dict())
        its.mlp.fc2.load_state_dict(mine.down.state_dict())


@torch.no_grad()
def disagreement(encoder: Encoder, field: str, loaded: nn.Module) -> float:
    """The largest difference between the tower and the encoder on made-up pictures."""
    image = cast(Image, encoder.fields[field])
    pictures = DenseEncoder(encoder, field).field.examples(5, 1, np.random.default_rng(0))
    column = Column(image.collate(pictures), torch.arange(5))
    wanted = encoder(Batch.of(5, {field: column}))[field].flat
    mean, std = (torch.tensor(s).view(-1, 1, 1) for s in image.scale())
    output = loaded(pixel_values=(column.flat - mean) / std).last_hidden_state.mean(1)
    output = encoder.heads[field](output) if encoder.heads is not None else output
    return float((output - wanted).abs().max() / wanted.abs().max().clamp_min(1))
