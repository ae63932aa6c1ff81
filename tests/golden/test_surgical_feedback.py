"""Self-supervised fine-tuning of Gupta et al. 2024, arXiv:2411.10919: the masked reconstruction of
VideoMAE (Tong et al. 2022, arXiv:2203.12602, section 3) goes on with unlabelled clips."""

import math

import pytest
import torch

from amodal.core import AmodalError, name_code
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep
from amodal.masking.tube import tube_keep
from amodal.methods.fusion.surgical_feedback import PAPER_RECIPE
from tests.golden.harness import Reference, defaults, golden
from tests.golden.transformers import block, linear, norm, sines
from tests.methods.bench import method

PATCH = 8
SINGLE = 1e-6
"""Positions, and the scale of a signal, are in single precision."""


class Continued(Reference):
    """Each field is hidden, encoded and made again by itself, and all share a decoder."""

    ratio, decoder_depth, fields, heads = 0.9, 4, "", 1

    def __init__(self, page):
        super().__init__(page)
        kinds = {f: m.kind for f, m in self.encoder.fields.items()}
        self.learns = (
            self.fields.split(",") if self.fields else [f for f in kinds if kinds[f] != "text"]
        )

    def check_start(self):
        """The decoder is half as wide; what does not learn is frozen."""
        assert self.encoder.trunk == "separate" and self.min_batch_size == 1
        wide = self.encoder.width
        self.assert_shapes(decoder__in_proj__weight=(wide // 2, wide))
        depth = {n.split(".")[3] for n in self.w if n.startswith("decoder.trunk.blocks.")}
        assert depth == {str(i) for i in range(self.decoder_depth)}
        for name, p in self.encoder.named_parameters():
            field = next(f for f in self.encoder.fields if f in name.split("."))
            assert p.requires_grad == (field in self.learns), name
        predicted = {n.split(".")[1] for n in self.w if n.startswith("predictors.")}
        assert predicted == set(self.learns)

    def losses(self, batch):
        tokens = self.encoder.tokenize(batch.only(*self.learns))
        keep = {s: self.visible(s, t, batch.seeds) for s, t in tokens.items()}
        seen = self.encoder.encode({s: t.keep(keep[s]) for s, t in tokens.items()})
        hidden = {s: t.keep(~keep[s]) for s, t in tokens.items()}
        decoded = self.decode(seen, hidden, batch.size)
        terms = {}
        for s, x in decoded.items():
            predicted, target = linear(self.w, f"predictors.{s}", x), self.targets(s, batch[s])
            total = 0 * predicted.sum()
            for y, t in zip(predicted, target[~keep[s]]):
                real = ~t.isnan()
                total = total + ((y[real] - t[real]) ** 2).mean()
            terms[f"reconstruct/{s}"] = total / max(len(x), 1) / len(decoded)
        return terms

    def visible(self, source, t, seeds):
        """A place is hidden at all times; where a value has one place, times are hidden."""
        draws, order = hash_bits(seeds, name_code(source))[t.row], t.within()
        if self.encoder.fields[source].kind == "image":
            return tube_keep(t.row, draws, order, t.position, self.ratio)
        return random_keep(t.row, draws, order, self.ratio)

    def decode(self, seen, hidden, size):
        """The decoder sees what was encoded, and a mask with its position for what was hidden; what
        it makes of the hidden ones is returned."""
        parts = [(s, t, linear(self.w, "decoder.in_proj", t.x)) for s, t in seen.items()]
        masks = {s: self.w[f"decoder.mask.{s}"] for s in hidden}
        parts += [(s, t, masks[s].expand(len(t), -1)) for s, t in hidden.items()]
        x = torch.cat(
            [y + sines(t.position, y.shape[1]) + self.w[f"decoder.field.{s}"] for s, t, y in parts]
        )
        rows, out = torch.cat([t.row for _, t, _ in parts]), torch.zeros_like(x)
        for r in range(size):
            y = x[rows == r]
            for i in range(self.decoder_depth):
                y = block(self.w, f"decoder.trunk.blocks.{i}", y, self.heads)
            at = (rows == r).nonzero()[:, 0]
            out = out.index_copy(0, at, norm(self.w, "decoder.trunk.norm", y))
        pieces = out.split([len(t) for _, t, _ in parts])
        return dict(zip(hidden, pieces[len(seen) :]))

    def targets(self, source, column):
        """Pixels of a patch by their mean and deviation, as MAE's authors write it; stretches of
        samples in deviations of their channel, of which the last may be cut off."""
        if self.encoder.fields[source].kind == "image":
            patches = [
                image[:, i : i + PATCH, j : j + PATCH].flatten().double()
                for image in (column.values - 0.5) / 0.25
                for i in range(0, image.shape[1], PATCH)
                for j in range(0, image.shape[2], PATCH)
            ]
            if not patches:
                return torch.zeros(0, 3 * PATCH * PATCH).double()
            x = torch.stack(patches)
            return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-6).sqrt()
        series = self.encoder.fields[source]
        mean, std = (torch.tensor(v).double() for v in series.scale())
        made = []
        for value in column.values.split():
            x = (value.double() - mean) / std
            x = torch.nn.functional.pad(x, (0, 0, 0, -len(x) % series.patch), value=math.nan)
            made.append(x.reshape(-1, series.patch * x.shape[1]))
        return torch.cat(made)


def hold(fields=("picture", "words", "signal"), rows=6, size="nano", heads=1, learns="", **options):
    reference = type("Continued", (Continued,), {"fields": learns, "heads": heads} | options)
    golden(
        "surgical_feedback",
        reference,
        views=("weak",),
        fields=fields,
        rows=rows,
        size=size,
        tolerance=SINGLE,
        also={"fields": learns},
        **options,
    )


@pytest.mark.parametrize(
    "fields", [("picture",), ("picture", "words"), ("picture", "words", "signal")]
)
@pytest.mark.parametrize("ratio", [0.9, 0.5])
def test_two_steps(fields, ratio):
    hold(fields, ratio=ratio, decoder_depth=2)


def test_two_steps_of_fields_that_are_named():
    hold(learns="signal", decoder_depth=1)
    hold(("picture", "facts", "signal"), learns="signal,picture", ratio=0.75)


def test_two_steps_of_a_wider_encoder():
    """Heads of the decoder are 32 wide."""
    hold(("picture", "words"), size="tiny", heads=2)


@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows(rows):
    hold(("picture", "words"), rows=rows)


def test_defaults():
    """VideoMAE's share and decoder."""
    assert defaults("surgical_feedback") == {"ratio": 0.9, "fields": "", "decoder_depth": 4}
    hold()
    with pytest.raises(AmodalError, match="text alone"):
        method("surgical_feedback", sources=("words",))


def test_the_recipe_is_the_authors():
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 5e-7, 0.05, (0.9, 0.999))
    assert (r.schedule, r.warmup_steps, r.clip) == ("linear", 0, 1.0)
    assert (r.batch_size, r.resolution, r.epochs) == (24, 224, 500.0)
    assert r.views == {"image": ("plain",)}
