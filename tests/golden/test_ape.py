"""APE, Rosenfeld et al. 2022, arXiv:2210.03927: section 2. Two encoders are frozen; small functions on
top of them learn by CLIP's loss."""

import pytest
import torch

from tests.golden.harness import defaults, golden
from tests.golden.pairs import PairsOfFields
from tests.golden.transformers import block, norm


class Vectors:
    """Of the rows that have one."""

    def __init__(self, of_row, like):
        self.rows = torch.tensor(list(of_row), dtype=torch.int64)
        self.values = torch.stack([*of_row.values(), like])[:-1]


class Frozen:
    """Gives columns of vectors, as the encoder's forward would."""

    def __init__(self, columns):
        self.columns = columns


class APE(PairsOfFields):
    anchor, blocks, layers = "picture", 1, 0

    def check_start(self):
        """Nothing below the heads learns; the anchor has a linear map alone."""
        super().check_start()
        for name, p in self.encoder.named_parameters():
            assert p.requires_grad == name.startswith(("extra_blocks.", "heads.")), name
        extended = self.blocks and not self.layers
        others = set(self.encoder.fields) - {self.anchor} if extended else set()
        names = dict(self.encoder.named_parameters())
        assert {n.split(".")[1] for n in names if n.startswith("extra_blocks")} == others
        for f in others:
            assert f"extra_blocks.{f}.blocks.{self.blocks - 1}.up.weight" in names
            assert f"extra_blocks.{f}.blocks.{self.blocks}.up.weight" not in names

    def losses(self, batch):
        encoder = self.encoder
        self.encoder = lambda batch: Frozen(self.columns(encoder, batch))
        try:
            return super().losses(batch)
        finally:
            self.encoder = encoder

    def columns(self, encoder, batch):
        """Field -> vectors: tokens of the frozen tower, blocks over them, their mean, a map."""
        p, found = dict(encoder.named_parameters()), {}
        for f, tokens in encoder.tokenize(batch).items():
            of_row = {}
            for r in sorted(set(tokens.row.tolist())):
                x = self.through(p, f"trunks.{f}", tokens.x[tokens.row == r], encoder.num_heads)
                x = self.through(p, f"extra_blocks.{f}", x.detach(), encoder.num_heads)
                of_row[r] = self.head(p, f, x.mean(0))
            found[f] = Vectors(of_row, 0 * self.head(p, f, tokens.x.new_zeros(encoder.width)))
        return found

    def head(self, p, field, x):
        """A linear map; or a perceptron of so many layers, of which the last one has a bias too."""
        if not self.layers or field == self.anchor:
            return p[f"heads.{field}.weight"] @ x
        for i in range(self.layers):
            x = p[f"heads.{field}.{2 * i}.weight"] @ x + p[f"heads.{field}.{2 * i}.bias"]
            x = x if i == self.layers - 1 else x.clamp(min=0)
        return x

    def through(self, p, name, x, heads):
        blocks = {int(n.split(".")[3]) for n in p if n.startswith(f"{name}.blocks.")}
        for i in sorted(blocks):
            x = block(p, f"{name}.blocks.{i}", x, heads)
        return norm(p, f"{name}.norm", x) if blocks else x

    def loss(self, logits):
        n = len(logits)
        rows = sum(logits[i].logsumexp(0) - logits[i, i] for i in range(n))
        columns = sum(logits[:, i].logsumexp(0) - logits[i, i] for i in range(n))
        return (rows + columns) / n / 2


def hold(fields=("picture", "words"), rows=6, **options):
    options = {"width": 8} | options
    reference = type("APE", (APE,), options)
    golden("ape", reference, views=("weak",), fields=fields, rows=rows, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"blocks": 2, "temperature": 0.3},
        {"blocks": 0},
        {"anchor": "words"},
        {"layers": 4},
        {"layers": 2, "anchor": "words", "blocks": 3},
        {"temperature": 2.0, "max_scale": 0.4},
        {"temperature": 0.02, "max_scale": 20.0},
    ],
)
def test_two_steps(options):
    hold(**options)


@pytest.mark.parametrize("anchor", ["picture", "facts"])
def test_two_steps_of_three_fields(anchor):
    hold(("picture", "words", "facts"), anchor=anchor)


@pytest.mark.parametrize("rows", [1, 2])
def test_one_pair_and_none(rows):
    hold(rows=rows)


def test_the_anchor_is_the_first_that_is_no_text():
    fields = ("words", "picture")
    golden("ape", type("APE", (APE,), {"width": 8}), views=("weak",), fields=fields, width=8)


def test_defaults():
    """The temperature is CLIP's."""
    assert defaults("ape") == {
        "anchor": "",
        "blocks": 1,
        "layers": 0,
        "width": 256,
        "temperature": 0.07,
        "max_scale": 100.0,
    }
    hold(width=256)
