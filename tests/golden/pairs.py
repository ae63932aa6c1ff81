"""For golden tests of methods that compare every two fields of a record in a common space, by cosines
over a learned temperature."""

import itertools

import torch

from tests.golden.harness import Reference, common, unit


class LearnedTemperature(Reference):
    """Cosines in a common space over a learned temperature.

    Attributes:
        log: The page's name of the logarithm of its inverse.
        temperature: At the start.
        max_scale: Bound of its inverse. Papers clip the parameter after a step; the page clips its
            value and lets the gradient through, and so does this.
    """

    log, temperature, max_scale, width = "learned.log", 0.07, 100.0, 8

    def check_start(self):
        assert self.encoder.space_width == self.width and self.min_batch_size == 2
        begin = self.w[self.log].detach().exp()
        assert torch.isclose(begin, torch.tensor(1 / self.temperature).double(), rtol=1e-6)

    def scale(self):
        log = self.w[self.log]
        if log.detach().exp() > self.max_scale:
            return self.max_scale * (log - log.detach()).exp()
        return log.exp()


class PairsOfFields(LearnedTemperature):
    """`loss(logits)` is that of one pair of fields; `term` is how the page names it."""

    term = "info_nce"

    def losses(self, batch):
        columns = self.encoder(batch).columns
        pairs = list(itertools.combinations(columns, 2))
        terms = {}
        for a, b in pairs:
            x, y = (unit(z) for z in common(columns, a, b))
            if len(x) < 2:
                loss = 0 * (x.sum() + y.sum())
            else:
                loss = self.loss(x @ y.T * self.scale())
            terms[f"{self.term}/{a}~{b}"] = loss / len(pairs)
        return terms

    def loss(self, logits):
        raise NotImplementedError
