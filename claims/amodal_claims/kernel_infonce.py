"""Kernel-InfoNCE (row 132): a mixture of a Gaussian and a Laplacian kernel against the Gaussian alone.
Tan et al., ICLR 2024, arXiv:2303.15103.

Three tables of features of real handwritten digits, each through a perceptron of its own, every two
compared as in the paper's theory of bipartite graphs (CLIP); its experiments have two views of
pictures. Each arm has the same three temperatures to choose from on 200 validation records. Digits
are told by a linear probe on five labels a class. Chosen beforehand on the control alone: the page
`_tables` says what and why. An earlier form of this claim trained on pictures of digits, where all
labels of simple features do better, and beside it found the Laplacian's eigenvectors by contrast on
a finite graph: that is a theorem, and stands in the tests of `amodal.diagnose.similarity_graph`.
"""

from functools import partial

from amodal import methods
from amodal_claims import Comparison, _tables

CLAIM = (
    "Contrast with the mean of the Gaussian's and the Laplacian kernel's losses gives features from "
    "which five labels a class predict digits better than contrast with the Gaussian kernel alone does."
)
DATA = _tables.DATA
STEPS = (200, 400)
ROW = 132
TEMPERATURES = (0.2, 0.5, 1.0)
ARMS = {
    "gaussian": {"mixture": "none", "gamma": 2.0},
    "laplacian": {"mixture": "none", "gamma": 1.0},
    "sum": {"mixture": "sum"},
}
PRIMARY = Comparison(
    "Gaussian + Laplacian against Gaussian",
    _tables.ACCURACY,
    "sum",
    "gaussian",
    # The paper's gains are of one to two points. A quarter of the control's errors here is two.
    interest=0.02,
)
SECONDARY = (Comparison("Laplacian against Gaussian", _tables.ACCURACY, "laplacian", "gaussian"),)
FLOORS = ("chance", "untrained", "simple features")


def make(options, temperature, encoder):
    method = methods.build("kernel_infonce", encoder, temperature=temperature, **options)
    method.views = ("strong",)
    return method


def of_arm(arm, seed, digits, steps):
    """Accuracy at the temperature that is best on validation records."""
    parts = _tables.division(digits, seed, ROW)
    tried = [
        _tables.learnt(partial(make, ARMS[arm], t), digits, parts.train, seed, steps)
        for t in TEMPERATURES
    ]
    best = max(tried, key=lambda encoder: _tables.probed(encoder, digits, parts, valid=True))
    return {arm: _tables.probed(best, digits, parts)}


def floors(seed, dataset):
    begun = partial(make, ARMS["gaussian"], 0.5)
    return _tables.floors(begun, _tables.tables(dataset), seed, ROW)


def control(seed, dataset, steps):
    return of_arm("gaussian", seed, _tables.tables(dataset), steps)


def measure(seed, dataset, steps):
    digits, found = _tables.tables(dataset), {}
    for arm in ARMS:
        found |= of_arm(arm, seed, digits, steps)
    return found
