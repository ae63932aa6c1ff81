"""What users of other libraries run to pretrain: the libraries' augmentations, models and losses, and
the optimizers of their examples, in a plain loop over pictures that are decoded beforehand.

SimCLR and BYOL have the small ResNet that lightly's own benchmark has for pictures of this size
(`resnet-9`), with its SGD; MAE and DINO a ViT of 4 blocks, 128 wide; open_clip's CLIP two such towers.
"""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as Picture
from torch import Tensor, nn

from amodal.core import Column, Embeddings
from amodal.data import Dataset
from amodal.evaluate.context import Pair
from amodal.inference.embed import Embedded

SHAPE: dict[str, Any] = {"embed_dim": 128, "depth": 4, "num_heads": 4}
TIMED = 12
"""Steps by which the length of a training is set; the first third warms up."""


@dataclass
class Recipe:
    """What a library's user would run.

    Args:
        package: The library.
        parts: All modules that are trained.
        augment: Picture -> its views, tensors.
        still: Picture -> tensor, for embedding.
        encode: Field -> (values of the field: tensors of `still`, or texts) -> (n, D) features.
        loss: (views, numbers of the records) -> loss.
        optimizer: Of `parts`.
        after: What follows an update.
        rate: Factor of the learning rate at step 0, 1, …
    """

    package: str
    parts: nn.Module
    augment: Callable[[Any], Any]
    still: Callable[[Any], Tensor]
    encode: Mapping[str, Callable[[Any], Tensor]]
    loss: Callable[[Sequence[Tensor], Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    after: Callable[[], None] = lambda: None
    rate: Callable[[int], float] = lambda step: 1.0

    def __post_init__(self) -> None:
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.rate)

    def step(self, views: Sequence[Tensor], which: Tensor) -> None:
        """One update."""
        self.optimizer.zero_grad()
        self.loss(views, which).backward()
        self.optimizer.step()
        self.schedule.step()
        self.after()


@dataclass(frozen=True)
class Data:
    """Pictures in memory, as a library's user has them.

    Args:
        dataset: With the fields of a testbed.
        image: The field of pictures.
        text: The field of texts that is paired with them, "" without.
    """

    dataset: Dataset
    image: str
    text: str = ""

    def records(self, part: str) -> np.ndarray:
        """Numbers of the records of a part that have all fields."""
        rows = np.asarray(self.dataset.split(part))
        here = self.dataset.present(self.image)[rows]
        if self.text:
            here &= self.dataset.present(self.text)[rows]
        return np.asarray(rows[here])

    def pictures(self, rows: np.ndarray) -> list[Any]:
        """Decoded, in RGB."""
        values = (self.dataset.value(int(i), self.image) for i in rows)  # (C, H, W)
        return [
            Picture.fromarray(np.moveaxis(np.asarray(v), 0, -1).squeeze()).convert("RGB")
            for v in values
        ]

    def texts(self, rows: np.ndarray) -> list[str]:
        """As they are."""
        return [str(self.dataset.raw(int(i), self.text)) for i in rows]


class Augmented(torch.utils.data.Dataset[Any]):
    """(views, number) of pictures in memory."""

    def __init__(self, pictures: Sequence[Any], augment: Callable[[Any], Any]) -> None:
        self.pictures, self.augment = pictures, augment

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> tuple[Sequence[Tensor], int]:
        return self.augment(self.pictures[i]), i


def pretrained(
    name: str, data: Data, *, batch_size: int, seed: int, seconds: float, check: Callable[[], None]
) -> tuple[Recipe, int]:
    """Train for so many CPU seconds. The schedule is as long as the steps that fit in, by the pace of
    a few of them.

    Args:
        name: Of RECIPES.
        data: To train on its training part.
        batch_size: Rows of a step.
        seed: Of weights, order and augmentation.
        seconds: Of this process, data and augmentation included.
        check: Called after each step.

    Returns:
        What was trained, and its steps.
    """
    rows = data.records("train")
    pictures = data.pictures(rows)
    texts = data.texts(rows) if data.text else []
    batch_size = min(batch_size, len(rows))

    def begun(steps: int) -> tuple[Recipe, Iterator[Any]]:
        torch.manual_seed(seed)
        np.random.seed(seed)  # some augmentations draw from these two
        random.seed(seed)
        recipe = RECIPES[name](pictures[0].size[0], steps, texts, batch_size)
        return recipe, _batches(Augmented(pictures, recipe.augment), batch_size, seed)

    recipe, batches = begun(TIMED)
    times = [time.process_time()]
    for _ in range(TIMED):
        recipe.step(*next(batches))
        times.append(time.process_time())
        check()
    pace = mean(b - a for a, b in zip(times[TIMED // 3 :], times[TIMED // 3 + 1 :]))
    steps = max(1, round(seconds / pace))
    recipe, batches = begun(steps)
    for _ in range(steps):
        recipe.step(*next(batches))
        check()
    recipe.parts.eval()
    return recipe, steps


def _batches(pictures: Augmented, batch_size: int, seed: int) -> Iterator[Any]:
    generator = torch.Generator().manual_seed(seed)
    loader = torch.utils.data.DataLoader(
        pictures, batch_size=batch_size, shuffle=True, drop_last=True, generator=generator
    )
    while True:
        yield from loader


@torch.no_grad()
def embedded(recipe: Recipe, data: Data, part: str) -> Pair:
    """The training records and those of a part in the vectors of what was trained."""
    pair = []
    for name in ("train", part):
        rows = data.records(name)
        columns = {}
        for field, encode in recipe.encode.items():
            values: Sequence[Any] = data.texts(rows) if field == data.text else data.pictures(rows)
            chunks = [values[i : i + 256] for i in range(0, len(values), 256)]
            if field == data.image:
                inputs: list[Any] = [torch.stack([recipe.still(v) for v in c]) for c in chunks]
            else:
                inputs = list(chunks)
            vectors = torch.cat([encode(chunk).flatten(1) for chunk in inputs])
            columns[field] = Column(vectors.float(), torch.arange(len(rows)))
        made = Embeddings(columns, len(rows))
        dataset = data.dataset
        labels = {label: np.asarray(dataset.label(label)[rows]) for label in dataset.labels}
        keys = [dataset.keys[i] for i in rows]
        pair.append(Embedded(keys, made, made, labels))
    return pair[0], pair[1]


def convnet() -> nn.Module:
    """lightly's ResNet-9 for small pictures, a quarter as wide, as this is for one core."""
    from lightly.models import ResNetGenerator

    return nn.Sequential(
        *list(ResNetGenerator("resnet-9", width=0.25).children())[:-1],
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def vit(side: int, **options: Any) -> nn.Module:
    """A ViT of 4 blocks, 128 wide."""
    from timm.models.vision_transformer import VisionTransformer

    patch = 4 if side < 64 else 8
    return VisionTransformer(img_size=side, patch_size=patch, num_classes=0, **SHAPE, **options)


def normalised() -> Callable[[Any], Tensor]:
    """Picture -> tensor, by ImageNet's mean and deviation."""
    from lightly.transforms.utils import IMAGENET_NORMALIZE
    from torchvision import transforms

    scale = transforms.Normalize(IMAGENET_NORMALIZE["mean"], IMAGENET_NORMALIZE["std"])
    steps: Callable[[Any], Tensor] = transforms.Compose([transforms.ToTensor(), scale])
    return steps


def cosine(steps: int, warmup: int = 0) -> Callable[[int], float]:
    """Step -> factor of the learning rate: a linear warm-up, then half a cosine."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return (1 + math.cos(math.pi * min(1, (step - warmup) / max(steps - warmup, 1)))) / 2

    return factor


def sgd(parts: nn.Module, batch_size: int) -> torch.optim.Optimizer:
    """Of lightly's benchmark on small pictures."""
    rate = 0.06 * batch_size / 128
    return torch.optim.SGD(parts.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)


def simclr(side: int, steps: int, _: Sequence[str], batch_size: int) -> Recipe:
    """lightly's."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms.simclr_transform import SimCLRTransform

    backbone, head = convnet(), SimCLRProjectionHead(128, 128, 128)
    parts, criterion = nn.Sequential(backbone, head), NTXentLoss()

    def loss(views: Sequence[Tensor], which: Tensor) -> Tensor:
        return cast(Tensor, criterion(*map(parts, views)))

    augment = SimCLRTransform(input_size=side, gaussian_blur=0.0)  # as lightly has it for 32 pixels
    return Recipe(
        "lightly",
        parts,
        augment,
        normalised(),
        {"image": backbone},
        loss,
        sgd(parts, batch_size),
        rate=cosine(steps),
    )


def byol(side: int, steps: int, _: Sequence[str], batch_size: int) -> Recipe:
    """lightly's."""
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
    from lightly.models.utils import update_momentum
    from lightly.transforms.simclr_transform import SimCLRTransform
    from lightly.utils.scheduler import cosine_schedule

    backbone, head = convnet(), BYOLProjectionHead(128, 512, 128)
    student, predictor = nn.Sequential(backbone, head), BYOLPredictionHead(128, 512, 128)
    teacher, criterion, at = copy.deepcopy(student), NegativeCosineSimilarity(), [0]
    parts = nn.ModuleList([student, predictor])

    def loss(views: Sequence[Tensor], which: Tensor) -> Tensor:
        with torch.no_grad():
            taught = [teacher(view) for view in views]
        learnt = [predictor(student(view)) for view in views]
        return cast(Tensor, (criterion(learnt[0], taught[1]) + criterion(learnt[1], taught[0])) / 2)

    def after() -> None:
        update_momentum(student, teacher, m=cosine_schedule(at[0], steps, 0.996, 1))
        at[0] += 1

    augment = SimCLRTransform(input_size=side, gaussian_blur=0.0)
    optimizer = sgd(parts, batch_size)
    return Recipe(
        "lightly",
        parts,
        augment,
        normalised(),
        {"image": backbone},
        loss,
        optimizer,
        after,
        cosine(steps),
    )


def mae(side: int, steps: int, _: Sequence[str], batch_size: int, ratio: float = 0.75) -> Recipe:
    """lightly's."""
    from lightly.models import utils
    from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
    from lightly.transforms.mae_transform import MAETransform

    backbone = MaskedVisionTransformerTIMM(vit(side))
    length, patch = backbone.sequence_length, 4
    decoder = MAEDecoderTIMM(
        num_patches=length - 1,
        patch_size=patch,
        embed_dim=128,
        decoder_embed_dim=64,
        decoder_depth=2,
        decoder_num_heads=2,
    )

    def loss(views: Sequence[Tensor], which: Tensor) -> Tensor:
        images, rows = views[0], len(views[0])
        keep, hide = utils.random_token_mask((rows, length), mask_ratio=ratio)
        seen = decoder.embed(backbone.encode(images, idx_keep=keep))
        places = utils.set_at_index(
            utils.repeat_token(decoder.mask_token, (rows, length)), keep, seen
        )
        predicted = decoder.predict(utils.get_at_index(decoder.decode(places), hide))
        return F.mse_loss(predicted, utils.get_at_index(utils.patchify(images, patch), hide - 1))

    parts = nn.ModuleList([backbone, decoder])
    optimizer = torch.optim.AdamW(parts.parameters(), lr=1.5e-4, betas=(0.9, 0.95))
    augment = MAETransform(input_size=side)
    return Recipe("lightly", parts, augment, normalised(), {"image": backbone}, loss, optimizer)


def dino(
    side: int, steps: int, _: Sequence[str], batch_size: int, prototypes: int = 1024
) -> Recipe:
    """lightly's."""
    from lightly.loss import DINOLoss
    from lightly.models.modules import DINOProjectionHead
    from lightly.models.utils import update_momentum
    from lightly.transforms.dino_transform import DINOTransform
    from lightly.utils.scheduler import cosine_schedule

    def network() -> nn.ModuleList:
        return nn.ModuleList(
            [vit(side, dynamic_img_size=True), DINOProjectionHead(128, 256, 64, prototypes)]
        )

    student, teacher = network(), network()  # weight norm cannot be copied by deepcopy
    teacher.load_state_dict(student.state_dict())
    criterion = DINOLoss(output_dim=prototypes, warmup_teacher_temp_epochs=5)
    parts, at = nn.ModuleList([student, teacher]), [0]

    def through(model: nn.ModuleList, view: Tensor) -> Tensor:
        return cast(Tensor, model[1](model[0](view)))

    def loss(views: Sequence[Tensor], which: Tensor) -> Tensor:
        with torch.no_grad():
            taught = [through(teacher, view) for view in views[:2]]
        learnt = [through(student, view) for view in views]
        return cast(Tensor, criterion(taught, learnt, epoch=0))

    def after() -> None:
        momentum = cosine_schedule(at[0], steps, 0.996, 1)
        at[0] += 1
        for fast, slow in zip(student, teacher):
            update_momentum(fast, slow, m=momentum)

    small = max(4, side // 8 * 4)
    augment = DINOTransform(global_crop_size=side, local_crop_size=small, n_local_views=4)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.001)
    return Recipe(
        "lightly",
        parts,
        augment,
        normalised(),
        {"image": student[0]},
        loss,
        optimizer,
        after,
    )


def clip(side: int, steps: int, texts: Sequence[str], batch_size: int) -> Recipe:
    """open_clip's. Its warm-up of 10,000 steps would leave it untrained here: it is a twentieth of
    the steps, then half a cosine."""
    from open_clip import SimpleTokenizer
    from open_clip.loss import ClipLoss
    from open_clip.model import CLIP
    from open_clip.transform import image_transform

    vision = {"layers": 4, "width": 128, "head_width": 32, "patch_size": 8, "image_size": side}
    text = {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 4}
    model, criterion, tokenizer = CLIP(128, vision, text), ClipLoss(), SimpleTokenizer()
    train, still = image_transform(side, is_train=True), image_transform(side, is_train=False)
    ids = tokenizer(list(texts))

    def loss(views: Sequence[Tensor], which: Tensor) -> Tensor:
        return cast(Tensor, criterion(*model(views[0], ids[which])))

    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [{"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}]
    groups = [{"params": matrices, "weight_decay": 0.2}, *others]
    optimizer = torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.98), eps=1e-6)
    return Recipe(
        "open_clip",
        model,
        lambda image: [train(image)],
        still,
        {
            "image": model.encode_image,
            "caption": lambda some: model.encode_text(tokenizer(list(some))),
        },
        loss,
        optimizer,
        rate=cosine(steps, max(1, steps // 20)),
    )


RECIPES: Mapping[str, Callable[[int, int, Sequence[str], int], Recipe]] = {
    "byol": byol,
    "clip": clip,
    "dino": dino,
    "mae": mae,
    "simclr": simclr,
}
"""Method -> (side of the pictures, steps, texts, batch size) -> what a library's user runs."""
