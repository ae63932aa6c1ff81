"""SimCLR: two augmented views of a value are contrasted within the batch.

Chen et al., ICML 2020, arXiv:2002.05709. Loss: their eq. 1. With more than one field, each learns
from its own two views.

Differs: from the authors' `run.py`, for pictures of ImageNet:

- encoder: ResNet-50 there; here a small network below 100,000 records, else a transformer over
  tokens, unless one says so: `--backbone image=timm:resnet50@scratch --resolution 224`.
- head: two layers as theirs, a BatchNorm after the first; theirs has one after the second too, and
  the second version three layers. `width` is theirs, the hidden layer as wide as the encoder.
- temperature: 0.1 there for ImageNet with batches of 4,096, 0.5 for CIFAR-10, which is ours.
- views: two of "strong", of 20-100 % of the area; theirs of 8-100 % (`simclr`, in `PAPER_RECIPE`).
- optimizer: `PAPER_RECIPE`. LARS here leaves biases and norms out, as theirs; the cosine ends at a
  hundredth of the rate, theirs at 0. BatchNorm counts the batch of all processes there.
"""

from torch import Tensor

from amodal.core import Embeddings, Recipe
from amodal.methods.shared.shapes import Towers, share, view_pairs
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.objectives.info_nce import nt_xent

PAPER_RECIPE = Recipe(
    optimizer="lars",
    lr=0.3,
    lr_scaling="linear/256",
    weight_decay=1e-6,
    momentum=0.9,
    schedule="cosine",
    warmup_epochs=10.0,
    clip=0.0,
    views={"image": ("simclr", "simclr")},
    batch_size=4096,
    epochs=1000.0,
)


def simclr(encoder: Encoder, *, temperature: float = 0.5, width: int = 128) -> Towers:
    """NT-Xent between two strong views of each value.

    Args:
        encoder: Trained in place.
        temperature: Temperature of the softmax.
        width: Output width of the projector, which training alone uses.
    """
    heads = {f: Projector(encoder.width, width, hidden=encoder.width) for f in encoder.fields}

    def objective(z: Embeddings) -> dict[str, Tensor]:
        return share(
            {
                f"nt_xent/{a}~{b}": nt_xent(*z.pair(a, b), temperature=temperature)
                for a, b in view_pairs(z)
            }
        )

    return Towers(encoder, objective, heads=heads, views=("strong", "strong"))
