"""SimCLR, Chen et al. 2020, arXiv:2002.05709: equation 1 and algorithm 1."""

import pytest
import torch

from tests.golden.harness import Reference, defaults, golden, pairs_of_views, projector, unit


class SimCLR(Reference):
    temperature, width = 0.5, 8

    def check_start(self):
        """Section 4.2: one hidden layer, as wide as the representation."""
        wide = self.encoder.width
        self.assert_shapes(
            heads__picture__0__weight=(wide, wide), heads__words__3__weight=(self.width, wide)
        )

    def losses(self, batch):
        columns = self.encoder(batch).columns
        z = {s: projector(self.w, f"heads.{s[:-2]}", c.values) for s, c in columns.items()}
        pairs = pairs_of_views(list(z))
        return {f"nt_xent/{a}~{b}": self.loss(z[a], z[b]) / len(pairs) for a, b in pairs}

    def loss(self, first, second):
        """Algorithm 1: row k of the first view and row k of the second are a positive pair."""
        z, n = unit(torch.cat([first, second])), len(first)
        if not n:
            return 0 * z.sum()
        total = 0
        for i in range(2 * n):
            j = (i + n) % (2 * n)
            weight = [torch.exp(z[i] @ z[k] / self.temperature) for k in range(2 * n)]
            total = total - torch.log(weight[j] / sum(weight[k] for k in range(2 * n) if k != i))
        return total / (2 * n)


@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_two_steps(temperature):
    reference = type("SimCLR", (SimCLR,), {"temperature": temperature})
    golden("simclr", reference, views=("strong", "strong"), temperature=temperature, width=8)


def test_one_pair_and_none():
    for rows in (1, 2):  # of the first there is no picture
        golden("simclr", SimCLR, views=("strong", "strong"), rows=rows, width=8)


def test_defaults():
    """Temperature: their table 5's best with many epochs is 0.5 (batch 256 to 8192, figure 9);
    128 dimensions: section 2.1."""
    assert defaults("simclr") == {"temperature": 0.5, "width": 128}
    reference = type("SimCLR", (SimCLR,), {"width": 128})
    golden("simclr", reference, views=("strong", "strong"))
