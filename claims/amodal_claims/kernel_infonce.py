"""Kernel-InfoNCE (row 132): contrast on a finite graph finds the eigenspace of its Laplacian, and a
mixture of kernels learns no worse than the Gaussian. Tan et al., ICLR 2024, arXiv:2303.15103.

Graph: real digits, 400 of them for each seed, joined to their ten nearest neighbours by pixels.
Embeddings are free (ten numbers a digit, no network) and minimise the exact expectation of the
loss, so nothing but the loss decides where they end. Kernels: SimCLR on pictures of digits; each
arm has the same three temperatures to choose from on the validation part. A dataset opened from
arrays has a split of its own, by row."""

import numpy as np
import torch
from torch.nn.functional import normalize

from amodal import methods
from amodal.diagnose.similarity_graph import neighbour_graph, smooth_functions, subspace_alignment
from amodal.objectives.kernel_nce import graph_info_nce
from amodal.objectives.spectral import graph_spectral
from amodal_claims import Comparison, _digits
from amodal_claims._arms import Budget, features, probe, trained

CLAIM = (
    "Free embeddings of 400 digits that minimise InfoNCE on the graph of their neighbours span the first ten eigenvectors of its Laplacian "
    "far better than random ones do (alignment higher by .5 at least), and SimCLR with the mean of the Gaussian and the Laplacian kernel's "
    "losses gives a linear probe within .01 of the Gaussian kernel's or better."
)
DATA = _digits.DATA
SEEDS = 5
NODES, NEIGHBOURS, WIDTH, DESCENT = 400, 10, 10, 300
BUDGET = Budget(steps=80, batch=64, rates=(2e-3,))
TEMPERATURES = (0.2, 0.5, 1.0)
ARMS = {
    "gaussian": {"mixture": "none", "gamma": 2.0},
    "laplacian": {"mixture": "none", "gamma": 1.0},
    "sum": {"mixture": "sum"},
}
ALIGNMENT = "mean squared cosine of principal angles with ten Laplacian eigenvectors"
ACCURACY = "accuracy of a linear probe, held-out digits"
COMPARISONS = (
    Comparison(
        "InfoNCE on a graph, against random",
        ALIGNMENT,
        "alignment, gaussian",
        "alignment, random",
        margin=0.5,
    ),
    Comparison(
        "Gaussian + Laplacian, against Gaussian",
        ACCURACY,
        "probe, sum",
        "probe, gaussian",
        margin=-0.01,
    ),
)


def minimised(loss, seed):
    """Free embeddings after a fixed number of steps of Adam on `loss`."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(NODES, WIDTH, dtype=torch.float64, generator=generator).requires_grad_()
    descent = torch.optim.Adam([z], lr=0.05)
    for _ in range(DESCENT):
        descent.zero_grad()
        loss(z).backward()
        descent.step()
    return z.detach()


def on_a_graph(seed, digits):
    """name -> alignment with the first eigenvectors of the Laplacian."""
    rows = np.random.default_rng(seed).permutation(len(digits))[:NODES]
    pixels = torch.from_numpy(np.stack([digits.value(int(i), "pix") for i in rows]))
    graph = neighbour_graph(pixels - pixels.mean(0), NEIGHBOURS)
    _, smooth = smooth_functions(graph, WIDTH)
    ends = {
        "random": normalize(
            torch.randn(NODES, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=1
        ),
        "spectral contrastive loss": minimised(lambda z: graph_spectral(z, z, graph), seed),
    }
    for name, gamma in (("gaussian", 2.0), ("laplacian", 1.0)):
        z = minimised(lambda z, g=gamma: graph_info_nce(z, graph, temperature=1.0, gamma=g), seed)
        ends[name] = normalize(z, dim=1)
    return {f"alignment, {name}": subspace_alignment(z, smooth) for name, z in ends.items()}


def measure(seed, dataset):
    found = on_a_graph(seed, dataset)
    pictures, label = _digits.pictures(dataset)
    train, valid, test = (pictures.split(part) for part in ("train", "valid", "test"))

    def accuracy(method, rows):
        seen, held = (features(method.encoder, pictures, r)[_digits.FIELD] for r in (train, rows))
        return probe(seen, label[train], held, label[rows])

    for arm, options in ARMS.items():

        def at(temperature, options=options):
            def make(encoder):
                return methods.build("kernel_infonce", encoder, temperature=temperature, **options)

            return trained(pictures, train, make, BUDGET, seed, *BUDGET.rates)

        tried = [at(t) for t in TEMPERATURES]
        found[f"probe, {arm}"] = accuracy(max(tried, key=lambda m: accuracy(m, valid)), test)
    return found
