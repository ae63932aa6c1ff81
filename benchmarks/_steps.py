"""A whole training step of ours and of the libraries people use: forward, loss, backward,
optimizer, moving averages."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal import methods, modalities
from amodal.core import Batch, Column
from amodal.core.matmul import fast_products
from amodal.methods.contract import Clock
from amodal.nn.encoder import Encoder
from amodal.nn.transformer import size_of
from amodal.train.optim import adamw, clip_gradients
from amodal.train.precision import context
from amodal.train.step import gradients, total

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIDE, PATCH = map(int, os.environ.get("AMODAL_BENCH_PICTURE", "64,8").split(","))
"""Of pictures and patches, in pixels."""
AUTOCAST = {"f32": nullcontext, "bf16": lambda: torch.autocast(DEVICE.type, torch.bfloat16)}
NAMES = {"f32": "float32"}


@dataclass
class Side:
    """What takes a step. parts: the modules that learn or follow."""

    step: Callable[[str], float]
    parts: nn.Module

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.parts.parameters())


def computes_in_bf16(precision: str, size: str) -> bool:
    """Whether ours computes in bf16 when asked for this precision."""
    chosen = context(NAMES.get(precision, precision), DEVICE, size_of(size).width)
    return isinstance(chosen, torch.autocast)


# Ours: the page, the optimizer and the step of the training loop


def ours(name: str, fields: dict, batch: Batch, size: str, encoder: dict, **options) -> Side:
    torch.manual_seed(0)
    built = Encoder(fields, size=size, **methods.encoder_options(name) | encoder)
    method = methods.build(name, built, **options).to(DEVICE).train()
    optimizer, batch = (
        adamw(method, lr=1e-4, lr_multipliers=method.lr_multipliers),
        batch.to(DEVICE),
    )

    @fast_products()
    def step(precision: str) -> float:
        method.zero_grad(set_to_none=True)
        chosen = context(NAMES.get(precision, precision), DEVICE, built.width)
        terms = gradients(method, batch, precision=chosen)
        clip_gradients(method.parameters(), 1.0)
        loss = float(total(terms))
        optimizer.step()
        method.on_step_end(Clock(1, 1000))
        return loss

    return Side(step, method)


def image_field() -> dict:
    return {"image": modalities.make("image", size=SIDE, channels=3, patch=PATCH)}


def pictures(rows: int, side: int = SIDE, seed: int = 0) -> Tensor:
    return torch.rand(rows, 3, side, side, generator=torch.Generator().manual_seed(seed))


def whole(rows: int, values: dict) -> Batch:
    return Batch.of(rows, {source: Column(v, torch.arange(rows)) for source, v in values.items()})


# Theirs


@dataclass
class Recipe:
    """loss: of a batch; fused, clip: of the optimizer, as the library's own trainer sets them;
    after: what follows an update."""

    parts: nn.Module
    loss: Callable[[], Tensor]
    fused: bool | None = None
    clip: float | None = None
    after: Callable[[], None] = field(default=lambda: None)


def theirs(recipe: Recipe) -> Side:
    """The library's step with AdamW: mixed precision is autocast around model and loss, as their
    trainers do it."""
    recipe.parts.to(DEVICE).train()
    learning = [p for p in recipe.parts.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-4, weight_decay=0.05, fused=recipe.fused)

    def step(precision: str) -> float:
        half: AbstractContextManager = AUTOCAST[precision]()
        optimizer.zero_grad()
        with half:
            loss = recipe.loss()
        loss.backward()
        if recipe.clip:
            nn.utils.clip_grad_norm_(learning, recipe.clip)
        optimizer.step()
        recipe.after()
        return float(loss.detach())

    return Side(step, recipe.parts)


def open_clip(rows: int, size: str, context: int, width: int = 128) -> Recipe:
    from open_clip.loss import ClipLoss
    from open_clip.model import CLIP

    shape = size_of(size)
    vision = {"layers": shape.depth, "width": shape.width, "head_width": shape.width // shape.heads}
    vision |= {"patch_size": PATCH, "image_size": SIDE}
    text = {
        "context_length": context,
        "vocab_size": 258,
        "width": shape.width,
        "heads": shape.heads,
    }
    model, criterion = CLIP(width, vision, text | {"layers": shape.depth}), ClipLoss()
    images, texts = pictures(rows).to(DEVICE), torch.full((rows, context), 100, device=DEVICE)

    def loss() -> Tensor:
        return criterion(*model(images, texts))

    return Recipe(model, loss)


def timm_vit(size: str, **options) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    shape = size_of(size)
    return VisionTransformer(
        img_size=SIDE,
        patch_size=PATCH,
        embed_dim=shape.width,
        depth=shape.depth,
        num_heads=shape.heads,
        num_classes=0,
        **options,
    )


def lightly_simclr(rows: int, size: str) -> Recipe:
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead

    width = size_of(size).width
    model = nn.Sequential(timm_vit(size), SimCLRProjectionHead(width, width, 128)).to(DEVICE)
    criterion, views = (
        NTXentLoss(temperature=0.5),
        [pictures(rows, seed=s).to(DEVICE) for s in (1, 2)],
    )
    return Recipe(model, lambda: criterion(*map(model, views)))


def lightly_mae(rows: int, size: str, ratio: float, depth: int) -> Recipe:
    from lightly.models import utils
    from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM

    shape, images = size_of(size), pictures(rows).to(DEVICE)
    backbone = MaskedVisionTransformerTIMM(timm_vit(size))
    length, half = backbone.sequence_length, shape.width // 2
    decoder = MAEDecoderTIMM(
        num_patches=(SIDE // PATCH) ** 2,
        patch_size=PATCH,
        embed_dim=shape.width,
        decoder_embed_dim=half,
        decoder_depth=depth,
        decoder_num_heads=half // 32,
    )

    def loss() -> Tensor:
        keep, hide = utils.random_token_mask((rows, length), mask_ratio=ratio, device=DEVICE)
        seen = decoder.embed(backbone.encode(images, idx_keep=keep))
        places = utils.repeat_token(decoder.mask_token, (rows, length))
        decoded = decoder.decode(utils.set_at_index(places, keep, seen.type_as(places)))
        target = utils.get_at_index(utils.patchify(images, PATCH), hide - 1)
        return F.mse_loss(decoder.predict(utils.get_at_index(decoded, hide)), target)

    return Recipe(nn.ModuleList([backbone, decoder]), loss)


def lightly_dino(rows: int, size: str, prototypes: int, local: int) -> Recipe:
    from lightly.loss import DINOLoss
    from lightly.models.modules import DINOProjectionHead
    from lightly.models.utils import update_momentum

    width = size_of(size).width
    student = nn.ModuleList(
        [timm_vit(size, dynamic_img_size=True), DINOProjectionHead(width, 256, 64, prototypes)]
    )
    teacher = copy_of(student)
    large = [pictures(rows, seed=s).to(DEVICE) for s in (1, 2)]
    small = [pictures(rows, SIDE // 2, seed=3 + s).to(DEVICE) for s in range(local)]
    criterion = DINOLoss(output_dim=prototypes).to(DEVICE)

    def through(model: nn.ModuleList, view: Tensor) -> Tensor:
        backbone, head = model
        return head(backbone(view))

    def loss() -> Tensor:
        with torch.no_grad():
            taught = [through(teacher, view) for view in large]
        return criterion(taught, [through(student, view) for view in (*large, *small)], epoch=0)

    def after() -> None:
        for fast, slow in zip(student, teacher):
            update_momentum(fast, slow, 0.996)

    return Recipe(nn.ModuleList([student, teacher]), loss, after=after)


def copy_of(module: nn.Module) -> nn.Module:
    """Heads with weight norm cannot be copied by `deepcopy`: the copy of one that was built anew,
    with its weights."""
    try:
        twin = copy.deepcopy(module)
    except RuntimeError:
        from lightly.models.modules import DINOProjectionHead

        backbone, head = module
        last = head.last_layer
        twin = nn.ModuleList(
            [
                copy.deepcopy(backbone),
                DINOProjectionHead(head.layers[0].in_features, 256, 64, last.out_features),
            ]
        )
        twin.load_state_dict(module.state_dict())
    return twin.requires_grad_(False)


def transformers_mae(rows: int, size: str, ratio: float, depth: int) -> Recipe:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    config = ViTMAEConfig(
        image_size=SIDE, patch_size=PATCH, mask_ratio=ratio, **_transformer(size, depth)
    )
    model, images = ViTMAEForPreTraining(config), pictures(rows).to(DEVICE)
    return Recipe(model, lambda: model(images).loss, fused=True, clip=1.0)


def transformers_videomae(
    rows: int, size: str, ratio: float, depth: int, frames: int = 16
) -> Recipe:
    from transformers import VideoMAEConfig, VideoMAEForPreTraining

    config = VideoMAEConfig(
        image_size=SIDE, patch_size=PATCH, num_frames=frames, **_transformer(size, depth)
    )
    model = VideoMAEForPreTraining(config)
    video = torch.rand(rows, frames, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(
        DEVICE
    )
    length = frames // config.tubelet_size * (SIDE // PATCH) ** 2
    hidden = torch.rand(rows, length, generator=torch.Generator().manual_seed(1)).argsort(
        1
    ) < round(length * ratio)
    hidden = hidden.to(DEVICE)
    return Recipe(model, lambda: model(video, bool_masked_pos=hidden).loss, fused=True, clip=1.0)


def _transformer(size: str, depth: int) -> dict:
    shape = size_of(size)
    half = shape.width // 2
    return {
        "hidden_size": shape.width,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "intermediate_size": 4 * shape.width,
        "decoder_hidden_size": half,
        "decoder_num_hidden_layers": depth,
        "decoder_num_attention_heads": half // 32,
        "decoder_intermediate_size": 4 * half,
    }
