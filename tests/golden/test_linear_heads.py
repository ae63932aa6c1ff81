"""Two locked towers with linear maps ("LL" of LiT, Zhai et al. 2022, arXiv:2111.07991), dropout of
what goes into the maps (Srivastava et al. 2014), and CLIP's loss."""

import pytest
import torch

from amodal.core import Column, name_code
from amodal.masking.hashing import uniform
from tests.golden.harness import defaults, golden
from tests.golden.test_cca import Cca
from tests.methods.bench import method


class LinearHeads(Cca):
    dropout, hidden = 0.5, 0

    def vectors(self, batch):
        columns = {}
        for field, column in self.encoder.features(batch).columns.items():
            mean, z = self.w[f"mean/{field}"], []
            for x, row in zip(column.values, column.rows.tolist()):
                draws = uniform(batch.seeds[row : row + 1], name_code(field), torch.arange(len(x)))
                stays = (draws >= self.dropout).double()
                z.append(self.head(field, mean + (x - mean) * stays / (1 - self.dropout)))
            columns[field] = Column(torch.stack(z), column.rows)
        return columns

    def head(self, field, x):
        head = self.encoder.heads[field]
        if not self.hidden:
            return head.weight @ x + head.bias
        x = head.linear.weight @ x + head.linear.bias
        typical = (x * x).mean().sqrt()
        hidden = head.into.weight @ (x / (typical + 1e-6)) + head.into.bias
        hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        return x + typical * (head.out.weight @ hidden + head.out.bias)


@pytest.mark.parametrize("fields", [("picture", "words"), ("picture", "words", "facts")])
@pytest.mark.parametrize("dropout, hidden", [(0.5, 0), (0.2, 0), (0.0, 0), (0.5, 12)])
def test_two_steps(fields, dropout, hidden):
    reference = type("LinearHeads", (LinearHeads,), {"dropout": dropout, "hidden": hidden})
    golden(
        "linear_heads", reference, views=("weak",), fields=fields, dropout=dropout, hidden=hidden
    )


def test_defaults():
    assert defaults("linear_heads") == {
        "dropout": 0.5,
        "hidden": 0,
        "temperature": 0.07,
        "max_scale": 100.0,
    }
    page = method("linear_heads", sources=("picture", "words"), hidden=12)
    assert page.lr_multipliers == {}
    head = page.encoder.heads["words"]
    assert head.into.out_features == 12 and not head.out.weight.any() and not head.out.bias.any()
