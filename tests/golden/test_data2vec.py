"""data2vec, Baevski et al. 2022, arXiv:2202.03555: sections 3.2 and 3.3, equations 1 and 2."""

import pytest
import torch

from amodal.masking.by_layout import layout_mask
from tests.golden.harness import Reference, defaults, golden

LAYOUT = {"picture": "grid", "signal": "signal"}


class Data2vec(Reference):
    top, beta, momentum, final_momentum = 2, 2.0, 0.999, 0.9999
    image, sequence, span, other = 0.6, 0.49, 10, 0.15

    def __init__(self, page):
        super().__init__(page)
        self.teacher = self.add_network("teacher")

    def check_start(self):
        """The teacher begins as the student."""
        for key, value in self.teacher.state_dict().items():
            assert torch.equal(value, self.encoder.state_dict()[key]), key
        # a mask token is drawn as BERT's weights are, with a deviation of 0.02
        assert 0.01 < self.w["mask.picture"].std() < 0.04

    def losses(self, batch):
        content = self.encoder.patchify(batch)
        # section 3.2: the teacher shares the student's feature encoder
        with torch.no_grad():
            whole = {s: self.teacher.add_positions(tokens) for s, tokens in content.items()}
        terms = {}
        for s, tokens in content.items():
            hidden = layout_mask(
                LAYOUT.get(s, "other"),
                tokens,
                batch.seeds,
                image=self.image,
                sequence=self.sequence,
                span=self.span,
                other=self.other,
            )
            shown = torch.where(hidden[:, None], self.w[f"mask.{s}"], tokens.x)
            masked = self.encoder.add_positions(tokens.with_x(shown))
            states = self.encoder.encode({s: masked})[s].x[hidden]
            predicted = states @ self.w[f"predictors.{s}.weight"].T + self.w[f"predictors.{s}.bias"]
            target = self.targets(s, whole[s])[hidden]
            terms[f"regress/{s}"] = self.smooth_l1(predicted, target) / len(content)
        return terms

    def targets(self, source, tokens):
        """Section 3.3: of each of the top blocks the output of the feed-forward layer before the
        residual connection, normalised, and their mean."""
        blocks = []
        with torch.no_grad():

            def collect(outputs, _):
                blocks.extend(outputs)
                return outputs[-1]

            self.teacher.encode({source: tokens}, collect)
        return sum(self.normalised(source, x, tokens) for x in blocks[-self.top :]) / self.top

    def normalised(self, source, x, tokens):
        """Instance norm over the sequence for signals, layer norm for the rest, without weights."""
        if LAYOUT.get(source) != "signal":
            var, mean = torch.var_mean(x, dim=1, keepdim=True, unbiased=False)
            return (x - mean) / (var + 1e-5).sqrt()
        made = torch.empty_like(x)
        for row in tokens.row.unique():
            at = tokens.row == row
            var, mean = torch.var_mean(x[at], dim=0, keepdim=True, unbiased=False)
            made[at] = (x[at] - mean) / (var + 1e-5).sqrt()
        return made

    def smooth_l1(self, predicted, target):
        """Equation 2."""
        error = (target - predicted).abs()
        square, linear = error**2 / (2 * self.beta), error - self.beta / 2
        return torch.where(error <= self.beta, square, linear).mean()

    def after_step(self, step, steps):
        """Section 3.2: momentum rises linearly; the teacher shares the student's tokenizer and
        positions."""
        m = self.momentum + (self.final_momentum - self.momentum) * step / steps
        student = self.encoder.state_dict()
        for name, value in self.teacher.state_dict().items():
            front = not name.startswith("trunks.")
            value.copy_(student[name] if front else m * value + (1 - m) * student[name])


@pytest.mark.parametrize("fields", [("picture", "signal"), ("picture", "words", "facts")])
def test_two_steps(fields):
    golden("data2vec", Data2vec, views=("weak",), fields=fields, top=2)


@pytest.mark.parametrize(
    "options",
    [
        {"top": 1, "beta": 0.3, "momentum": 0.5, "final_momentum": 0.9},
        {"top": 2, "image": 0.4, "sequence": 0.3, "span": 2, "other": 0.4},
    ],
)
def test_two_steps_with_other_options(options):
    reference = type("Data2vec", (Data2vec,), dict(options))
    golden("data2vec", reference, views=("weak",), fields=("picture", "signal", "words"), **options)


def test_defaults():
    """Momenta, masks and beta: section 4.1 (images), 4.2 (speech) and 4.3 (text)."""
    assert defaults("data2vec") == {
        "top": 3,
        "beta": 2.0,
        "image": 0.6,
        "sequence": 0.49,
        "span": 10,
        "other": 0.15,
        "momentum": 0.999,
        "final_momentum": 0.9999,
    }
