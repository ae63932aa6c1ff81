"""What the libraries' users run for `time_to_quality`: their augmentations, models, losses, and the
optimizers of their examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks._steps import copy_of

SHAPE = {"embed_dim": 128, "depth": 4, "num_heads": 4}


@dataclass
class Peer:
    """augment: picture -> its views; still: picture -> tensor, for looking; look: tensors ->
    features; loss: (views, numbers of the records) -> loss; rate: of the learning rate at step 0,
    1, …; after: what follows an update."""

    package: str
    parts: nn.Module
    augment: Callable
    still: Callable
    look: Callable[[Tensor], Tensor]
    loss: Callable[[Sequence[Tensor], Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    after: Callable[[], None] = lambda: None
    rate: Callable[[int], float] = lambda step: 1.0

    def __post_init__(self):
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.rate)

    def step(self, views: Sequence[Tensor], which: Tensor) -> None:
        self.optimizer.zero_grad()
        self.loss(views, which).backward()
        self.optimizer.step()
        self.schedule.step()
        self.after()


class Augmented(torch.utils.data.Dataset):
    """(views, number) of pictures in memory."""

    def __init__(self, pictures: Sequence, augment: Callable):
        self.pictures, self.augment = pictures, augment

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int):
        return self.augment(self.pictures[i]), i


def vit(side: int, **options) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=side, patch_size=4 if side < 64 else 8, num_classes=0, **SHAPE, **options
    )


def normalised() -> Callable:
    from lightly.transforms.utils import IMAGENET_NORMALIZE
    from torchvision import transforms as T

    return T.Compose(
        [T.ToTensor(), T.Normalize(IMAGENET_NORMALIZE["mean"], IMAGENET_NORMALIZE["std"])]
    )


def simclr(side: int, steps: int, _: Sequence[str]) -> Peer:
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform

    backbone, head = vit(side), SimCLRProjectionHead(128, 128, 128)
    parts, criterion = nn.Sequential(backbone, head), NTXentLoss()

    def loss(views: Sequence[Tensor], which: Tensor) -> Tensor:
        return criterion(*map(parts, views))

    optimizer = torch.optim.SGD(parts.parameters(), lr=0.06)
    return Peer(
        "lightly", parts, SimCLRTransform(input_size=side), normalised(), backbone, loss, optimizer
    )


def mae(side: int, steps: int, _: Sequence[str], ratio: float = 0.75) -> Peer:
    from lightly.models import utils
    from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
    from lightly.transforms import MAETransform

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
    optimizer = torch.optim.AdamW(parts.parameters(), lr=1.5e-4)
    return Peer(
        "lightly", parts, MAETransform(input_size=side), normalised(), backbone, loss, optimizer
    )


def dino(side: int, steps: int, _: Sequence[str], prototypes: int = 1024) -> Peer:
    from lightly.loss import DINOLoss
    from lightly.models.modules import DINOProjectionHead
    from lightly.models.utils import update_momentum
    from lightly.transforms import DINOTransform
    from lightly.utils.scheduler import cosine_schedule

    student = nn.ModuleList(
        [vit(side, dynamic_img_size=True), DINOProjectionHead(128, 256, 64, prototypes)]
    )
    teacher, criterion = (
        copy_of(student),
        DINOLoss(output_dim=prototypes, warmup_teacher_temp_epochs=5),
    )
    parts, at = nn.ModuleList([student, teacher]), [0]

    def through(model: nn.ModuleList, view: Tensor) -> Tensor:
        return model[1](model[0](view))

    def loss(views: Sequence[Tensor], which: Tensor) -> Tensor:
        with torch.no_grad():
            taught = [through(teacher, view) for view in views[:2]]
        return criterion(taught, [through(student, view) for view in views], epoch=0)

    def after() -> None:
        momentum = cosine_schedule(at[0], steps, 0.996, 1)
        at[0] += 1
        for fast, slow in zip(student, teacher):
            update_momentum(fast, slow, m=momentum)

    small = max(4, side // 8 * 4)
    augment = DINOTransform(global_crop_size=side, local_crop_size=small, n_local_views=4)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.001)
    return Peer("lightly", parts, augment, normalised(), student[0], loss, optimizer, after)


def clip(side: int, steps: int, texts: Sequence[str]) -> Peer:
    """open_clip's warm-up of 10,000 steps would leave it untrained here: it is a twentieth of the
    steps, then half a cosine."""
    from open_clip import SimpleTokenizer
    from open_clip.loss import ClipLoss
    from open_clip.model import CLIP
    from open_clip.transform import image_transform

    vision = {"layers": 4, "width": 128, "head_width": 32, "patch_size": 8, "image_size": side}
    text = {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 4}
    model, criterion, ids = CLIP(128, vision, text), ClipLoss(), SimpleTokenizer()(list(texts))
    train, still = image_transform(side, is_train=True), image_transform(side, is_train=False)

    def loss(views: Sequence[Tensor], which: Tensor) -> Tensor:
        return criterion(*model(views[0], ids[which]))

    def rate(step: int) -> float:
        warmup = max(1, steps // 20)
        if step < warmup:
            return (step + 1) / warmup
        return (1 + math.cos(math.pi * min(1, (step - warmup) / (steps - warmup)))) / 2

    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [{"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0}]
    groups = [{"params": matrices, "weight_decay": 0.2}, *others]
    optimizer = torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.98), eps=1e-6)
    return Peer(
        "open_clip",
        model,
        lambda image: [train(image)],
        still,
        model.encode_image,
        loss,
        optimizer,
        rate=rate,
    )
