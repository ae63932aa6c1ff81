"""Alignment and uniformity. Wang and Isola, ICML 2020, arXiv:2005.10242, equations 1 and 2."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.evaluate import TWO_FIELDS, Protocol, Result
from amodal.evaluate.context import Context


class Alignment(Protocol):
    """How near the two values of a record are, and how evenly all values lie on the sphere."""

    name, needs, default = "alignment", (TWO_FIELDS,), False
    headlines = ("alignment", "uniformity")

    @dataclass(frozen=True)
    class Options:
        """
        Args:
            t: Of the Gaussian kernel of uniformity.
        """

        t: float = 2.0

    def run(self, context: Context) -> Result:
        a, b = context.test.sources[:2]
        _, (x, y) = context.test.aligned.complete([a, b])
        x, y = normalize(x, dim=1), normalize(y, dim=1)
        pair = {
            "source": a,
            "target": b,
            "n": len(x),
            "chance": 2.0,
        }  # of directions that are independent
        t = context.options.t
        rows = [
            pair | {"metric": "alignment", "value": float((x - y).square().sum(1).mean())},
            pair
            | {
                "metric": "uniformity",
                "value": (uniformity(x, t) + uniformity(y, t)) / 2,
                "chance": 0.0,
            },
        ]
        return Result(self.name, {"t": t}, rows)


def uniformity(z_ND: Tensor, t: float) -> float:
    """log mean exp(-t |a - b|^2) over pairs of different rows; lower is more even."""
    return float(torch.pdist(z_ND).square().mul(-t).exp().mean().log())
