"""MVPt, Suris et al. 2022, arXiv:2206.07148: transformers over the segments of a video and of its music,
InfoNCE in both directions. Tracks are compared as wholes, by a class token, and segment with segment,
where the other segments of a track are negatives like those of any other."""

import itertools

import pytest
import torch

from tests.golden.harness import common, defaults, golden, unit
from tests.golden.pairs import LearnedTemperature


def info_nce(x, y, scale):
    """Both directions; of one pair there is nothing to tell apart."""
    if len(x) < 2:
        return 0 * (x.sum() + y.sum() + scale)
    logits = unit(x) @ unit(y).T * scale
    n = len(logits)
    total = sum(logits[i].logsumexp(0) + logits[:, i].logsumexp(0) for i in range(n))
    return (total / 2 - logits.diagonal().sum()) / n


class Mvpt(LearnedTemperature):
    log = "scale.log"
    timed, length, track, segment = ("words", "signal"), 2.0, 1.0, 1.0

    def check_start(self):
        super().check_start()
        assert all(p.requires_grad for p in self.encoder.parameters())

    def losses(self, batch):
        columns, terms = self.encoder(batch).columns, {}
        pairs = list(itertools.combinations(columns, 2))
        if self.track:
            for a, b in pairs:
                loss = info_nce(*common(columns, a, b), self.scale())
                terms[f"track/{a}~{b}"] = self.track * loss / len(pairs)
        timed = [p for p in pairs if p[0] in self.timed and p[1] in self.timed]
        if self.segment:
            context = self.encoder.encode(self.encoder.tokenize(batch))
            for a, b in timed:
                one, other = (self.segments(context[f], f) for f in (a, b))
                moments = [m for m in one if m in other]
                x, y = (
                    torch.stack([s[m] for m in moments]) if moments else torch.zeros(0, self.width)
                    for s in (one, other)
                )
                loss = info_nce(x.double(), y.double(), self.scale())
                terms[f"segment/{a}~{b}"] = self.segment * loss / len(timed)
        return terms

    def segments(self, tokens, field):
        """(row, number of the segment) -> its vector: the mean of the tokens in it, which have seen
        the whole sequence. The first token of a row is the class token."""
        found, seen = {}, set()
        for i, row in enumerate(tokens.row.tolist()):
            if row in seen:
                moment = row, int(float(tokens.position[i, 0]) / self.length)
                found.setdefault(moment, []).append(tokens.x[i])
            seen.add(row)
        head = self.encoder.heads[field].weight
        return {m: torch.stack(x).mean(0) @ head.T for m, x in found.items()}


def hold(fields=("words", "signal"), rows=6, timed="words, signal", **options):
    options = {"width": 8, "length": 2.0} | options
    named = tuple(f.strip() for f in timed.split(",")) if timed else ("signal",)
    reference = type("Mvpt", (Mvpt,), options | {"timed": named})
    golden("mvpt", reference, views=("plain",), fields=fields, rows=rows, timed=timed, **options)


@pytest.mark.parametrize("length", [1.0, 1.5, 2.0, 40.0])
def test_two_steps(length):
    """At 40 steps a segment is the whole of what stands in the row."""
    hold(length=length)


@pytest.mark.parametrize(
    "options",
    [
        {"track": 0.3, "segment": 2.0},
        {"track": 0.0},
        {"segment": 0.0},
        {"temperature": 0.5},
        {"max_scale": 5.0},
    ],
)
def test_two_steps_with_other_options(options):
    hold(**options)


def test_two_steps_of_more_fields():
    """All are compared as wholes, those in time by segments; facts are in time if one says so."""
    hold(("picture", "words", "signal"), rows=7)
    hold(("words", "signal", "facts"), rows=7, timed="facts,signal,words", segment=0.7)
    hold(("picture", "signal"), timed="", track=0.5)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(rows):
    hold(rows=rows)
    hold(rows=rows, segment=0.0)


def test_defaults():
    assert defaults("mvpt") == {
        "timed": "",
        "length": 1.0,
        "track": 1.0,
        "segment": 1.0,
        "width": 256,
        "temperature": 0.07,
        "max_scale": 100.0,
    }
    hold(width=256, length=1.0)
