"""Forward and backward of the losses against lightly and open_clip, float32, gradients to all
inputs; products of both sides by the library that the training loop uses (`amodal.core.matmul`)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.core.matmul import fast_products
from amodal.objectives.barlow import barlow_twins
from amodal.objectives.dino import dino_loss, update_center
from amodal.objectives.info_nce import info_nce, nt_xent
from amodal.objectives.sigmoid import sigmoid_loss
from amodal.objectives.vicreg import vicreg
from benchmarks._limits import of_bandwidth, of_peak
from benchmarks._timing import Row, compare

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _inputs(count: int, rows: int, width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(rows, width, generator=generator).to(DEVICE).requires_grad_()
        for _ in range(count)
    ]


def _step(loss: Callable[..., Tensor], inputs: list[Tensor]) -> Callable[[], object]:
    """Forward and backward, returning nothing so that gradients die with the call."""

    def step() -> None:
        torch.autograd.grad(loss(*inputs), inputs, allow_unused=True)  # targets get none

    return step


@fast_products()  # as in the training loop, for both sides
def _row(what: str, inputs: list[Tensor], ours: Callable, peer_name: str, peer: Callable) -> Row:
    mine, theirs = ours(*inputs), peer(*inputs)
    torch.testing.assert_close(
        mine, theirs, rtol=1e-3, atol=1e-3
    )  # a comparison of different things proves nothing
    del mine, theirs
    step = _step(ours, inputs)
    row = of_peak(compare(what, step, peer_name, _step(peer, inputs)), step)
    # Without a matrix product the least is to read every input and to write its gradient.
    return row if row.flops else of_bandwidth(row, 2 * sum(x.nbytes for x in inputs))


def run() -> list[Row]:
    from lightly.loss import BarlowTwinsLoss, DINOLoss, NTXentLoss, VICRegLoss
    from open_clip.loss import ClipLoss, SigLipLoss

    rows = []
    for n in (1024, 4096):
        what = f"NT-Xent N {n} D 128"
        peer = NTXentLoss(temperature=0.5)
        rows.append(
            _row(
                what,
                _inputs(2, n, 128),
                lambda a, b: nt_xent(a, b, temperature=0.5),
                "lightly",
                peer,
            )
        )

    clip, siglip = ClipLoss(), SigLipLoss()
    for scale in (1 / 0.07, 100.0):
        number = torch.tensor(scale, device=DEVICE)
        rows.append(
            _row(
                f"InfoNCE N 4096 D 512, scale {scale:.0f}",
                _inputs(2, 4096, 512),
                lambda a, b, t=1 / scale: info_nce(a, b, temperature=t),
                "open_clip",
                lambda a, b, s=number: clip(F.normalize(a, dim=1), F.normalize(b, dim=1), s),
            )
        )
    rows.append(
        _row(
            "SigLIP N 4096 D 512",
            _inputs(2, 4096, 512),
            lambda a, b: sigmoid_loss(a, b, scale=10.0, bias=-10.0),
            "open_clip",
            lambda a, b: siglip(
                F.normalize(a, dim=1),
                F.normalize(b, dim=1),
                a.new_tensor(10.0),
                a.new_tensor(-10.0),
            ),
        )
    )
    for n, d in ((256, 8192), (1024, 2048)):
        rows.append(
            _row(
                f"Barlow Twins N {n} D {d}",
                _inputs(2, n, d),
                barlow_twins,
                "lightly",
                BarlowTwinsLoss(),
            )
        )
    for n, d in ((256, 8192), (1024, 2048)):
        rows.append(_row(f"VICReg N {n} D {d}", _inputs(2, n, d), vicreg, "lightly", VICRegLoss()))

    prototypes, crops = 65536, 8
    center = torch.zeros(prototypes, device=DEVICE)
    teacher = [x.detach() for x in _inputs(2, 32, prototypes)]

    def ours(*student: Tensor) -> Tensor:
        loss = dino_loss(student, teacher, teacher_temperature=0.04, center_K=center)
        update_center(center, teacher)  # the peer does it too
        return loss

    def peer(*student: Tensor) -> Tensor:
        theirs = DINOLoss(output_dim=prototypes, teacher_temp=0.04).to(DEVICE)
        return theirs(teacher, list(student))

    rows.append(
        _row(
            f"DINO N 32, 2 + 6 views, K {prototypes}",
            _inputs(crops, 32, prototypes),
            ours,
            "lightly",
            peer,
        )
    )
    return rows
