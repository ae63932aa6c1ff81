"""Zero-shot CLIP for interstitial lung disease, Van Uden et al. 2023, arXiv:2306.01111: CLIP's loss
(Radford et al. 2021, figure 3) goes on with montages and reports, of which one side may rest."""

import pytest

from amodal.core import AmodalError
from tests.golden.harness import defaults, golden
from tests.golden.pairs import PairsOfFields
from tests.methods.bench import method


class ClipIld(PairsOfFields):
    """What rests is a side's tower; the map of its vectors into the common space still learns."""

    learn = "both"

    def check_start(self):
        super().check_start()
        for name, p in self.encoder.named_parameters():
            part, field = name.split(".")[:2]
            side = "text" if self.encoder.fields[field].kind == "text" else "seen"
            assert p.requires_grad == (part == "heads" or self.learn in ("both", side)), name

    def loss(self, logits):
        n, total = len(logits), 0
        for i in range(n):
            total = total + logits[i].logsumexp(0) + logits[:, i].logsumexp(0) - 2 * logits[i, i]
        return total / n / 2


def hold(fields=("picture", "words"), rows=6, **options):
    options = {"width": 8} | options
    reference = type("ClipIld", (ClipIld,), options)
    golden("clip_ild", reference, views=("weak",), fields=fields, rows=rows, **options)


@pytest.mark.parametrize("fields", [("picture", "words"), ("signal", "words", "facts")])
@pytest.mark.parametrize("learn", ["both", "seen", "text"])
def test_two_steps(fields, learn):
    hold(fields, learn=learn)


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.5}, {"temperature": 0.1, "max_scale": 4.0}, {"temperature": 0.004}],
)
def test_two_steps_at_another_temperature(options):
    hold(**options)


@pytest.mark.parametrize("learn", ["both", "seen", "text"])
@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows(rows, learn):
    hold(rows=rows, learn=learn)


def test_defaults():
    """CLIP's temperature."""
    assert defaults("clip_ild") == {
        "learn": "both",
        "width": 128,
        "temperature": 0.07,
        "max_scale": 100.0,
    }
    hold(width=128)
    with pytest.raises(AmodalError, match="text field"):
        method("clip_ild", sources=("words",))
