"""Kernel-InfoNCE: contrast is spectral clustering of what counts as similar, so its kernel may be
chosen, and mixed. Tan, Zhang, Yang and Yuan, ICLR 2024, arXiv:2303.15103. Losses: Kernel-InfoNCE
with exp(-|z_i - z_j|^gamma / temperature), alone or two of them mixed. Of one field two augmented
views are compared as in SimCLR; of several, every two fields of a record as in CLIP, whose graph is
bipartite. Graph, Laplacian and alignment with its eigenvectors: `amodal.diagnose.similarity_graph`.
Row 132 of the catalogue.

Differs:
- Mixtures are weighted sums of two losses over one temperature, as in the authors' program, and not
  the loss of a sum of kernels. There the second kernel is always Gaussian; `other_gamma` is ours.
- Temperature, weight and learning rate they find by a random search over .01 to 1, 0 to 1 and .01
  to 10, and do not say what it found. The defaults are a Laplacian and a Gaussian kernel in equal
  parts at .5, which are ours. `PAPER_RECIPE` is that of their script for CIFAR-10, whose rate and
  temperature are those of the Gaussian kernel. LARS here leaves biases and norms out, theirs adapts
  them; the cosine ends at a hundredth of the rate, theirs at 0.
- Encoder: theirs is a ResNet-50 or a ResNet-18, on pictures of 32 pixels with a first convolution
  of 3 pixels and without pooling: `--backbone image=convnet:layers=50,width=64`. Of larger pictures
  `image=timm:resnet50@scratch`. A linear map to the encoder's width is between their features and
  the projector, and what is probed is behind it. Ours is a transformer unless one says so.
- Projector: as wide inside as what the encoder gives (2,048 there). Its first layer has no bias,
  which the BatchNorm behind it would subtract; its last one has a bias, theirs has none.
- Views are two of "strong", whose crops have 20 to 100 % of the area. Theirs of CIFAR have 8 to 100
  % and no blur: `unblurred`, in the recipe. Each is normalised for itself by the BatchNorm, as
  theirs is.
- A term of 1e-6 under their logarithm is left out, and squared distances are at least 1e-8 under a
  root.
- Several fields, each two as in CLIP: the paper has the theory of it, and no experiment. A linear
  map takes each field to the common space, without a projector.
- Product: the encoder, for probes by `amodal evaluate` (`linear`). The graph of augmentations
  and its spectrum, which the theory speaks of, are measured from Python alone.
- Left out: the arc-cosine kernels, distances of other norms than Euclid's, and the spectral loss of
  their program as a method (`amodal.objectives` has it).
"""

from functools import partial

from torch import Tensor

from amodal.core import Embeddings, Recipe, unknown
from amodal.methods.shared.shapes import Towers, field_pairs, share, view_pairs
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.objectives.kernel_nce import concatenated_kernel_nce, kernel_info_nce

MIXTURES = ("none", "sum", "concatenation")

PAPER_RECIPE = Recipe(
    optimizer="lars",
    lr=1.5,
    weight_decay=1e-6,
    schedule="cosine",
    warmup_epochs=10,
    clip=0.0,
    views={"image": ("unblurred", "unblurred")},
    batch_size=256,
    epochs=100,
)
"""Of pictures alone: the authors' script for CIFAR-10."""


def kernel_infonce(
    encoder: Encoder,
    *,
    mixture: str = "sum",
    gamma: float = 1.0,
    other_gamma: float = 2.0,
    weight: float = 0.5,
    temperature: float = 0.5,
    width: int = 128,
) -> Towers:
    """Build Kernel-InfoNCE.

    Args:
        encoder: Of any fields.
        mixture: "sum" of two kernels' losses, "concatenation" (each kernel has half of the
            coordinates), or "none".
        gamma: Exponent of the first kernel, 1 for Laplacian, 2 for Gaussian.
        other_gamma: Exponent of the second kernel.
        weight: Of the first loss, between 0 and 1; the second has the rest.
        temperature: Of all kernels, where the Gaussian one is SimCLR at half of it.
        width: Of the space that is compared, twice as much with concatenation.
    """
    if mixture not in MIXTURES:
        raise unknown("kernel_infonce.mixture", mixture, MIXTURES)
    one_field = len(encoder.fields) == 1
    width = 2 * width if mixture == "concatenation" else width
    kernel = partial(kernel_info_nce, temperature=temperature, within=one_field)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        if mixture == "concatenation":
            gammas = (gamma, other_gamma)
            return concatenated_kernel_nce(
                a, b, gammas=gammas, share=weight, temperature=temperature, within=one_field
            )
        first = kernel(a, b, gamma=gamma)
        if mixture == "none":
            return first
        return weight * first + (1 - weight) * kernel(a, b, gamma=other_gamma)

    def objective(z: Embeddings) -> dict[str, Tensor]:
        pairs = (view_pairs if one_field else field_pairs)(z)
        return share({f"kernel/{a}~{b}": loss(*z.pair(a, b)) for a, b in pairs})

    if not one_field:
        return Towers(encoder.align(width), objective)
    heads = {f: Projector(encoder.width, width, hidden=encoder.width) for f in encoder.fields}
    return Towers(encoder, objective, heads=heads, views=("strong", "strong"))
