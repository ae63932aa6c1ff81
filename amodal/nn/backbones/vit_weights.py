"""The weights of a plain vision transformer of timm, in an encoder of this library.

As a backbone such a model sees every patch before a method can hide one. In an encoder of our own,
of the same layers (Dosovitskiy et al., ICLR 2021, arXiv:2010.11929), MAE, data2vec, iBOT and all
other methods go on from its weights: `--init-from timm:NAME@WEIGHTS`. The class token becomes that
of `pool="cls"`, the table of positions one of `positions="grid:SIDE"`, and scales of layers
(LayerScale) are multiplied into the maps before them. Norms have another epsilon: 1e-5, not 1e-6.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from amodal.core import AmodalError
from amodal.modalities import Modality
from amodal.modalities.image import Image
from amodal.nn.backbones import timm as timm_models
from amodal.nn.encoder import Encoder
from amodal.nn.positions import Grid
from amodal.nn.transformer import SIZES, Block, Size, Transformer
from amodal.nn.trunks import ALL

LIBRARY = "timm"
EXPECTED = (
    "--init-from takes a run, or a plain ViT of timm with weights: timm:vit_base_patch16_224@FILE, "
    "or @pretrained"
)


@dataclass(frozen=True)
class VitWeights:
    """A vision transformer of timm, whose layers are those of an encoder of this library.

    Args:
        spec: timm:NAME@WEIGHTS.
        model: The model.
        side: Of its input, in pixels.
        mean, std: Of each channel in 0 … 1, as it was trained.
    """

    spec: str
    model: Any
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return int(self.model.patch_embed.patch_size[0])

    @property
    def size(self) -> str:
        """The size of encoders that has its width, depth and heads; see `check_size`."""
        return next(name for name, size in SIZES.items() if self._shape == _shape_of(size))

    @property
    def _shape(self) -> tuple[int, int, int]:
        """Width, blocks and heads."""
        blocks = self.model.blocks
        return self.model.embed_dim, len(blocks), blocks[0].attn.num_heads

    def check_size(self) -> None:
        """Check that encoders of some size have its width, depth and heads.

        Raises:
            AmodalError: If none have.
        """
        if self._shape in map(_shape_of, SIZES.values()):
            return
        width, depth, heads = self._shape
        sizes = "; ".join(f"{n} {s.width}, {s.depth}, {s.heads}" for n, s in SIZES.items())
        raise AmodalError(
            f"{self.spec} has width {width}, {depth} blocks and {heads} heads, and no size of "
            f"encoders has these ({sizes})"
        )

    @property
    def pool(self) -> str:
        """The pooling that reads what it reads: a class token, or the mean."""
        return "mean" if self.model.cls_token is None else "cls"

    def pictures(self, fields: Mapping[str, Modality], resolution: int | None) -> dict[str, Image]:
        """The fields of pictures, decoded as the model was trained.

        Args:
            fields: Name -> modality.
            resolution: Pixels a side in place of the model's own.

        Raises:
            AmodalError: If there is none, or one with neither 1 nor 3 channels.
        """
        found = {f: cast(Image, m) for f, m in self.fields_of(fields).items()}
        if not found:
            raise AmodalError(
                f"{self.spec} reads pictures, and no field that learns here has any: "
                f"{', '.join(f'{f} ({m.kind})' for f, m in fields.items())}"
            )
        side = resolution or self.side
        if side % self.patch:
            raise AmodalError(
                f"patches of {self.patch} pixels, as of {self.spec}, do not tile pictures of "
                f"{side}; take --resolution {max(1, round(side / self.patch)) * self.patch}"
            )
        read = {}
        for field, image in found.items():
            if image.channels not in (1, 3):
                raise AmodalError(
                    f"{self.spec} sees 3 channels, and {field!r} has {image.channels}; leave the "
                    "field out (--fields), or begin without --init-from"
                )
            read[field] = replace(
                image, size=side, patch=self.patch, channels=3, mean=self.mean, std=self.std
            )
        return read

    @staticmethod
    def fields_of(
        fields: Mapping[str, Modality], without: Collection[str] = ()
    ) -> dict[str, Modality]:
        """The fields that hold pictures, `without` those that a backbone reads."""
        return {f: m for f, m in fields.items() if LIBRARY in m.backbones and f not in without}

    @torch.no_grad()
    def encoder(self, fields: Mapping[str, Modality], trunk: str, pool: str) -> Encoder:
        """An encoder of its fields of pictures that computes what the model computes.

        Args:
            fields: Of `pictures`, at the resolution of the run.
            trunk: "separate", "shared" or "joint".
            pool: "cls" for what the model's class token reads, or another.
        """
        encoder = Encoder(fields, size=self.size, trunk=trunk, positions=grid_of(fields), pool=pool)
        assert isinstance(encoder.position, Grid)
        table = encoder.position.table
        prefix_PD, grid_HWD = self.position_table()
        table.copy_(resampled(grid_HWD, len(table)))
        filters = self.model.patch_embed.proj
        for field in fields:
            project = cast(nn.Linear, encoder.tokenizers[field].project)
            project.weight.copy_(filters.weight.flatten(1))
            project.bias.copy_(_or_zeros(filters.bias, project.bias))
            encoder.field_token[field].zero_()
            if pool == "cls" and self.model.cls_token is not None:
                token = encoder.pools[field].get_parameter("token")
                token.copy_(self.model.cls_token[0, 0] + prefix_PD.sum(0))
            key = field if field in encoder.trunks else ALL
            self._fill(cast(Transformer, encoder.trunks[key]))
        return encoder

    def position_table(self) -> tuple[Tensor, Tensor]:
        """The positions of the class token, (1, D) or (0, D), and of patches (H, W, D)."""
        table_PD = self.model.pos_embed[0]
        rows, columns = self.model.patch_embed.grid_size
        before = len(table_PD) - rows * columns
        return table_PD[:before], table_PD[before:].unflatten(0, (rows, columns))

    def _fill(self, trunk: Transformer) -> None:
        for ours, theirs in zip(trunk.blocks, self.model.blocks, strict=True):
            assert isinstance(ours, Block)
            qkv, out = cast(nn.Linear, ours.attention.qkv), ours.attention.out
            _copy(ours.norm1, theirs.norm1)
            _copy(qkv, theirs.attn.qkv)
            _copy(out, theirs.attn.proj, _scale(theirs.ls1))
            _copy(ours.norm2, theirs.norm2)
            _copy(ours.up, theirs.mlp.fc1)
            _copy(ours.down, theirs.mlp.fc2, _scale(theirs.ls2))
        _copy(trunk.norm, self.model.norm)


def vit_weights(source: str | Path) -> VitWeights | None:
    """The model that `--init-from` names; None where it names a run.

    Args:
        source: A folder, or timm:NAME@WEIGHTS.

    Raises:
        AmodalError: For a library or a network that cannot be taken, and without weights.
    """
    source = str(source)  # the command line reads a path
    if ":" not in source or Path(source).exists():
        return None
    library, _, rest = source.partition(":")
    if library in ("transformers", "open_clip", "sentence-transformers", "voice"):
        raise AmodalError(
            f"{source} is a backbone and no start for our own layers: --backbone FIELD={source} "
            f"--train-backbones. {EXPECTED}"
        )
    if library != LIBRARY:
        return None
    name, _, weights = rest.partition("@")
    if not weights or weights == timm_models.SCRATCH:
        raise AmodalError(f"{source} names no weights. {EXPECTED}")
    if "/" in name or ":" in name:
        plain = name.partition("/")[0].partition(":")[0]
        raise AmodalError(
            f"{source} names a layer or a size, which --init-from does not take: "
            f"{LIBRARY}:{plain}@{weights}, with --resolution for another size"
        )
    side = timm_models.input_size(rest)
    body, _, _ = timm_models.build(rest, Image(size=side or 224, patch=0), True)
    model: Any = body.get_submodule("model")
    if reason := not_plain(model):
        raise AmodalError(
            f"{source} {reason}, so its weights do not fit our layers. As a backbone it goes with "
            f"methods that hide no patches (simclr, dino, …): --backbone FIELD={source} "
            f"--train-backbones. {EXPECTED}"
        )
    mean, std = (tuple(float(v) for v in t.flatten()) for t in (body.mean, body.std))
    made = VitWeights(source, model, int(body.side), mean, std)
    made.check_size()  # before anything is read
    return made


def not_plain(model: Any) -> str:
    """Why the layers of a model of timm are not those of this library; "" if they are."""
    from timm.layers.layer_scale import LayerScale
    from timm.models.vision_transformer import VisionTransformer

    if type(model) is not VisionTransformer:
        return f"is a {type(model).__name__} and no VisionTransformer"
    if getattr(model, "reg_token", None) is not None:
        return "has registers"
    if model.pos_embed is None:
        return "has no table of positions"
    if not _is_identity(model.norm_pre) or not _is_identity(model.patch_embed.norm):
        return "has a norm before its blocks"
    if not isinstance(model.norm, nn.LayerNorm):
        return "has no norm between its blocks and its pooling"
    block: Any
    for block in model.blocks:
        parts = vars(block)["_modules"]
        if set(parts) - {"drop_path1", "drop_path2"} != PARTS:
            return f"has blocks of another kind ({type(block).__name__})"
        attention, mlp = block.attn, block.mlp
        extra = [getattr(attention, n, None) for n in ("q_norm", "k_norm", "norm")]
        extra += [getattr(mlp, "norm", None)]
        if not all(map(_is_identity, extra)):
            return "has norms inside its attention or its perceptrons"
        if not hasattr(mlp, "fc1") or getattr(mlp, "gate", None) is not None:
            return f"has perceptrons of another kind ({type(mlp).__name__})"
        if type(mlp.act) is not nn.GELU or mlp.act.approximate != "none":
            return f"has another activation than GELU ({mlp.act})"
        if not all(_is_identity(s) or isinstance(s, LayerScale) for s in (block.ls1, block.ls2)):
            return "has scales of another kind"
    return ""


PARTS = {"norm1", "attn", "ls1", "norm2", "mlp", "ls2"}


def grid_of(fields: Mapping[str, Modality]) -> str:
    """The kind of positions for fields of pictures: a table with as many patches a side."""
    pictures = cast(Mapping[str, Image], fields)
    return f"grid:{max(m.size // m.tile for m in pictures.values())}"


def resampled(table_HWD: Tensor, side: int) -> Tensor:
    """A table of positions at another number of patches (side, side, D), as timm has it."""
    if table_HWD.shape[:2] == (side, side):
        return table_HWD
    table_1DHW = table_HWD.float().permute(2, 0, 1)[None]
    wanted = interpolate(
        table_1DHW, (side, side), mode="bicubic", antialias=True, align_corners=False
    )
    return wanted[0].permute(1, 2, 0).to(table_HWD.dtype)


def _shape_of(size: Size) -> tuple[int, int, int]:
    return size.width, size.depth, size.heads


def _is_identity(module: Any) -> bool:
    return module is None or isinstance(module, nn.Identity)


def _scale(module: Any) -> Tensor | None:
    return None if _is_identity(module) else cast(Tensor, module.gamma)


def _or_zeros(bias: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if bias is None else bias


def _copy(ours: Any, theirs: Any, scale: Tensor | None = None) -> None:
    """Weights and bias, each output times its scale."""
    weight, bias = theirs.weight, _or_zeros(theirs.bias, ours.bias)
    if scale is not None:
        weight, bias = scale[:, None] * weight, scale * bias
    ours.weight.copy_(weight)
    ours.bias.copy_(bias)
