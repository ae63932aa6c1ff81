"""SigLIP, Zhai et al. 2023, arXiv:2303.15343: equation 1 and algorithm 1."""

import itertools

import pytest
import torch

from tests.golden.harness import Reference, common, defaults, golden, unit


class SigLIP(Reference):
    scale, bias, width = 10.0, -10.0, 8

    def check_start(self):
        assert self.encoder.space_width == self.width
        begin = {n: self.w[n].detach() for n in ("learned.log", "learned.bias")}
        assert torch.isclose(
            begin["learned.log"].exp(), torch.tensor(self.scale).double(), rtol=1e-6
        )
        assert torch.isclose(begin["learned.bias"], torch.tensor(self.bias).double(), rtol=1e-6)

    def losses(self, batch):
        columns = self.encoder(batch).columns
        t, b = self.w["learned.log"].exp(), self.w["learned.bias"]
        pairs = list(itertools.combinations(columns, 2))
        terms = {}
        for one, other in pairs:
            x, y = (unit(z) for z in common(columns, one, other))
            n, total = len(x), 0
            for i in range(n):
                for j in range(n):
                    z = 1 if i == j else -1
                    total = total - torch.log(1 / (1 + torch.exp(z * (-t * (x[i] @ y[j]) - b))))
            total = total if n else 0 * (x.sum() + y.sum())
            terms[f"sigmoid/{one}~{other}"] = total / max(n, 1) / len(pairs)
        return terms


@pytest.mark.parametrize("fields", [("picture", "words"), ("picture", "words", "facts")])
@pytest.mark.parametrize("scale,bias", [(10.0, -10.0), (3.0, -1.0)])
def test_two_steps(fields, scale, bias):
    reference = type("SigLIP", (SigLIP,), {"scale": scale, "bias": bias})
    golden("siglip", reference, views=("weak",), fields=fields, width=8, scale=scale, bias=bias)


def test_one_pair_and_none():
    for rows in (1, 2):
        golden("siglip", SigLIP, views=("weak",), rows=rows, width=8)


def test_defaults():
    """t' = log 10, b = -10: section 3.2."""
    assert defaults("siglip") == {"width": 128, "scale": 10.0, "bias": -10.0}
    golden("siglip", type("SigLIP", (SigLIP,), {"width": 128}), views=("weak",))
