"""The options of a run beside those of its recipe.

Python, the command line and RUN/config.toml all use this one dataclass. It imports nothing that
takes time.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path


def _option(default: object, help: str, *, metavar: str = "", name: str = "") -> typing.Any:
    """A field; `metavar` and `name` are of its option on the command line, where they differ."""
    return field(default=default, metadata={"help": help, "metavar": metavar, "name": name})


@dataclass(frozen=True)
class RunOptions:
    """What is trained and where; `help` in the metadata of each field describes it.

    `amodal.train.settings.Settings` has more, for code alone.

    Args:
        curate: A page of `amodal.curate`. Super-batches, from which it selects, are 1 / keep times
            as large as batches.
        init_from: Folder of a run, or timm:NAME@WEIGHTS of a plain ViT
            (`amodal.nn.backbones.vit_weights`). Of its encoder's weights those are taken whose
            names and shapes agree. Where it is such a ViT, or a run that began with one, its size,
            positions and pooling are taken too (`amodal.train.start`).
        cache_features: See `amodal.train.cache_features`. "" runs the backbones at every step.
        conflict: It costs a few steps and does not change the training.
        logger: Also a callable (step, values) -> None, or a sequence of these and names; None for
            metrics.jsonl alone.
        recipe_from: See `amodal.methods.recipes`. "" leaves it to the method and the size of the
            data. `recipe="small"` sets it too.
    """

    size: str | None = _option(
        None,
        "of the encoder: nano, tiny, small, base, large or huge; by default tiny, or as the ViT "
        "that --init-from begins with",
    )
    fields: Sequence[str] | None = _option(None, "fields to use; by default all", metavar="A,B")
    seed: int = _option(0, "of weights, records, augmentation and masks")
    resume: bool = _option(False, "continue the run in --out")
    accept_changed_code: bool = _option(
        False, "resume although code of your own is not what the run was started with"
    )
    deterministic: bool = _option(
        False, "sum in one order, on a GPU too; a resumed run takes the threads that it had"
    )
    trunk: str | None = _option(
        None,
        "separate, shared or joint, or transformers:DIR of a pretrained ViLT; by default as in "
        "the method's paper",
    )
    positions: str | None = _option(
        None,
        "position embedding: sincos, ground, learned, rotary, alibi, none, grid:SIDE of patches, "
        "relative:SIDE, the largest distance, or axial:rescale=2, rotary in a crop",
    )
    pool: str | None = _option(None, "pooling: mean, cls or attention")
    experts: int | None = _option(
        None, "of every second block of the trunk, 0 for none; by default as in the method's paper"
    )
    backbones: dict[str, str] | None = _option(
        None,
        "timm:NAME@pretrained, timm:NAME@scratch, transformers:DIR; or small ones from scratch: "
        "convnet, caffenet and amdim (images), vgg (images, sound), resnet1d (series, sound), "
        "transmil (lists of vectors), mlp and vector_transformer (tables), gru and lstm "
        "(sequences), with options after a colon: "
        "convnet:width=64,norm=group; or FILE.py:NAME of your own. Some methods have one by "
        "default on small data: FIELD=tokens takes it away",
        metavar="FIELD=SPEC",
        name="backbone",
    )
    train_backbones: bool = _option(
        False, "train pretrained backbones too; those from scratch learn anyway"
    )
    workers: int = _option(0, "processes that decode records; 0: a thread of the training process")
    device: str = _option("auto", "auto, cpu, cuda, cuda:N")
    save_every: int = _option(0, "steps between checkpoints; 0: a fifth of the run")
    matmul: str = _option(
        "auto", "library of float32 products on a CPU: auto (measured), torch or onednn"
    )
    curate: str = _option(
        "", "online data selection, such as jest; its options: --curate.NAME VALUE"
    )
    init_from: str | Path = _option(
        "",
        "start from the weights of this run that fit, or of timm:NAME@WEIGHTS, a plain ViT",
        metavar="RUN",
    )
    cache_features: str = _option(
        "",
        "compute these outputs of frozen backbones once, without augmentation",
        metavar="mean|tokens",
    )
    conflict: bool = _option(False, "log the cosines between the gradients of the loss terms")
    logger: str | Callable[..., typing.Any] | Sequence[typing.Any] | None = _option(
        "tensorboard", "tensorboard, wandb, mlflow, trackio; or none", metavar="A,B"
    )
    recipe_from: str = _option(
        "",
        "paper, small or plain; by default the paper's, without one that for small data",
        name="recipe",
    )
