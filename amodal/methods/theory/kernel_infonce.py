"""Kernel-InfoNCE: contrast is spectral clustering of what counts as similar, so its kernel may be
chosen, and mixed. Tan, Zhang, Yang and Yuan, ICLR 2024, arXiv:2303.15103. Losses: Kernel-InfoNCE
with exp(-|z_i - z_j|^gamma / temperature), alone or two of them mixed. Of one field two augmented
views are compared as in SimCLR; of several, every two fields of a record as in CLIP, whose graph is
bipartite. Graph, Laplacian and alignment with its eigenvectors: `amodal.diagnose.similarity_graph`.
Row 132 of the catalogue. The paper finds gamma, share and temperature by random search; the
defaults here are its Gaussian-Laplacian pair in equal parts."""

from functools import partial

from torch import Tensor

from amodal.core import Embeddings, unknown
from amodal.methods.shared.shapes import Towers, field_pairs, share, view_pairs
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.objectives.kernel_nce import concatenated, kernel_info_nce

MIXTURES = ("none", "sum", "concatenation")


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
            return concatenated(
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
