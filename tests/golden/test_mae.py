"""MAE, He et al. 2022, arXiv:2111.06377, section 3, with one encoder and one decoder for all fields
as in MultiMAE, arXiv:2204.01678."""

import math

import pytest
import torch
from torch.nn.functional import pad

from amodal.core import name_code
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep, random_keep_units
from amodal.methods.shared.shapes import row_losses
from tests.golden.harness import Reference, defaults, golden
from tests.methods.bench import batch, method

PATCH = 8
SINGLE = 1e-6
"""Positions, and the scale of a signal, are in single precision."""


class MAE(Reference):
    ratio, depth, together, heads = 0.75, 2, True, 1

    def check_start(self):
        """The decoder is half as wide as the encoder here; it ends in one linear layer."""
        assert self.encoder.trunk == "joint"  # one encoder for all fields
        wide = self.encoder.width
        self.assert_shapes(decoder__in_proj__weight=(wide // 2, wide))
        assert f"decoder.trunk.blocks.{self.depth - 1}.up.weight" in self.w
        assert f"decoder.trunk.blocks.{self.depth}.up.weight" not in self.w

    def losses(self, batch):
        self.fields = {name: self.encoder.fields[name] for name in batch.columns}
        tokens = self.encoder.tokenize(batch)
        keep = self.mask(tokens, batch.seeds)
        seen = self.encoder.encode({s: t.keep(keep[s]) for s, t in tokens.items()})
        hidden = {s: t.keep(~keep[s]) for s, t in tokens.items()}
        decoded = self.decode(seen, hidden, batch.size)
        terms = {}
        for s, x in decoded.items():
            predicted = x @ self.w[f"predictors.{s}.weight"].T + self.w[f"predictors.{s}.bias"]
            target = self.targets(s, batch[s])[~keep[s]]
            real = ~target.isnan()
            error = torch.where(real, predicted - target.nan_to_num(), 0.0) ** 2
            # "the mean squared error on masked patches": of each patch, then of patches
            terms[f"reconstruct/{s}"] = (error.sum(1) / real.sum(1)).mean() / len(decoded)
        return terms

    def mask(self, tokens, seeds):
        """A random 75 % of the tokens of a record, all fields together, or each by itself."""
        if not self.together:
            return {
                s: random_keep(t.row, hash_bits(seeds, name_code(s))[t.row], t.within(), self.ratio)
                for s, t in tokens.items()
            }
        order, row, taken = [], [], torch.zeros(len(seeds), dtype=torch.int64)
        for t in tokens.values():
            for r in t.row.tolist():
                order.append(int(taken[r]))
                row.append(r)
                taken[r] += 1
        row = torch.tensor(row)
        keep = random_keep(row, seeds[row], torch.tensor(order), self.ratio)
        return dict(zip(tokens, keep.split([len(t) for t in tokens.values()])))

    def decode(self, seen, hidden, size):
        """The decoder sees encoded visible tokens, and a mask token with its position for each
        hidden one; what it makes of the hidden ones is returned."""
        w, inputs = self.w, []
        for t in seen.values():
            inputs.append((t, t.x @ w["decoder.in_proj.weight"].T + w["decoder.in_proj.bias"]))
        for s, t in hidden.items():
            inputs.append((t, w[f"decoder.mask.{s}"].expand(len(t), -1)))
        names = [*seen, *hidden]
        x = [
            x + positions(t.position, x.shape[1]) + w[f"decoder.field.{s}"]
            for s, (t, x) in zip(names, inputs)
        ]
        rows = torch.cat([t.row for t, _ in inputs])
        x = torch.cat(x)
        out = torch.zeros_like(x)
        for r in range(size):  # no row sees another
            out = out.index_copy(0, (rows == r).nonzero()[:, 0], self.trunk(x[rows == r]))
        pieces = out.split([len(t) for t, _ in inputs])
        return dict(zip(hidden, pieces[len(seen) :]))

    def trunk(self, x):
        """Transformer blocks of Dosovitskiy et al. 2021: attention, then an MLP, norms before."""
        w = self.w
        for i in range(self.depth):
            name = f"decoder.trunk.blocks.{i}"
            y = self.norm(f"{name}.norm1", x)
            qkv = y @ w[f"{name}.attention.qkv.weight"].T + w[f"{name}.attention.qkv.bias"]
            made = []
            q, k, v = (part.chunk(self.heads, 1) for part in qkv.chunk(3, 1))
            for h in range(self.heads):
                attention = torch.softmax(q[h] @ k[h].T / math.sqrt(q[h].shape[1]), dim=1)
                made.append(attention @ v[h])
            y = torch.cat(made, 1) @ w[f"{name}.attention.out.weight"].T
            x = x + y + w[f"{name}.attention.out.bias"]
            y = self.norm(f"{name}.norm2", x) @ w[f"{name}.up.weight"].T + w[f"{name}.up.bias"]
            y = y * (1 + torch.erf(y / math.sqrt(2))) / 2
            x = x + y @ w[f"{name}.down.weight"].T + w[f"{name}.down.bias"]
        return self.norm("decoder.trunk.norm", x)

    def norm(self, name, x):
        var, mean = torch.var_mean(x, dim=-1, keepdim=True, unbiased=False)
        return (x - mean) / (var + 1e-5).sqrt() * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def targets(self, source, column):
        if source == "signal":
            return self.samples(column)
        pixels = (column.values.double() - 0.5) / 0.25  # as a typical photograph
        patches = [
            image[:, i : i + PATCH, j : j + PATCH].flatten()
            for image in pixels
            for i in range(0, image.shape[1], PATCH)
            for j in range(0, image.shape[2], PATCH)
        ]
        # section 3, reconstruction target: normalised by the mean and the deviation of the patch,
        # with the unbiased variance and 1e-6 of the authors' code
        x = torch.stack(patches)
        return (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-6).sqrt()

    def samples(self, column):
        """Stretches of samples, in deviations of their channel; the last one may be cut off."""
        series = self.fields["signal"]
        mean, std = (torch.tensor(v).double() for v in series.scale())
        made = []
        for value in column.values.split():
            x = (value.double() - mean) / std
            x = pad(x, (0, 0, 0, -len(x) % series.patch), value=math.nan)
            made.append(x.reshape(-1, series.patch * x.shape[1]))
        return torch.cat(made)


def positions(position, width):
    """Sines and cosines of each of three coordinates, at width // 6 wavelengths."""
    bands = width // 6
    columns = [
        position[:, axis].double() / 10000 ** (k / bands) for axis in range(3) for k in range(bands)
    ]
    angle = torch.stack(columns, 1)
    return torch.cat([angle.sin(), angle.cos(), angle.new_zeros(len(angle), width - 6 * bands)], 1)


class OfWords(MAE):
    """Of texts: the cross-entropy of hidden bytes, of which words are hidden whole."""

    patch, together = 4, False

    def losses(self, batch):
        self.texts = batch["words"].values.split()
        tokens = self.encoder.tokenize(batch)
        keep = self.mask(tokens, batch.seeds)
        hidden = {s: t.keep(~keep[s]) for s, t in tokens.items()}
        seen = self.encoder.encode({s: t.keep(keep[s]) for s, t in tokens.items()})
        x = self.decode(seen, hidden, batch.size)["words"]
        name = "predictors.words.0"
        logits = x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]
        logits = logits.view(len(x), self.patch, -1)
        loss = [
            sum(row[i].logsumexp(0) - row[i, byte] for i, byte in enumerate(piece)) / len(piece)
            for row, piece, shown in zip(self.spread(logits, keep), self.pieces(), keep["words"])
            if not shown
        ]
        return {"reconstruct/words": sum(loss) / len(loss)}

    def spread(self, hidden, keep):
        """One entry for each token, also for those that are seen."""
        left = iter(hidden)
        return [None if shown else next(left) for shown in keep["words"]]

    def pieces(self):
        """The bytes of each token."""
        texts = [text.tolist() for text in self.texts]
        return [t[i : i + self.patch] for t in texts for i in range(0, len(t), self.patch)]

    def mask(self, tokens, seeds):
        t = tokens["words"]
        draws = hash_bits(seeds, name_code("words"))[t.row]
        return {"words": random_keep_units(t.row, draws, torch.tensor(self.words()), self.ratio)}

    def words(self):
        """The number of the word that the first byte of each token is of."""
        return [
            bytes(text[:i].tolist()).count(b" ")
            for text in self.texts
            for i in range(0, len(text), self.patch)
        ]


def test_two_steps_with_whole_words():
    reference = type("OfWords", (OfWords,), {"ratio": 0.6})
    options = {"ratio": 0.6, "together": False, "whole_words": True, "tolerance": SINGLE}
    golden("mae", reference, views=("weak",), fields=("words",), rows=8, **options)


def test_one_row_without_a_picture():
    """Nothing is hidden, and nothing is lost."""

    class Nothing(MAE):
        def losses(self, batch):
            return {"reconstruct/picture": 0 * self.w["decoder.in_proj.weight"].sum()}

    golden("mae", Nothing, views=("weak",), fields=("picture",), rows=1)


def test_losses_are_added_up_in_single_precision_at_least():
    tokens = method("mae", sources=("picture",)).encoder.tokenize(
        batch(("weak",), 3, sources=("picture",))
    )["picture"]
    column = row_losses(torch.full((len(tokens),), 1 / 3, dtype=torch.bfloat16), tokens)
    assert column.values.dtype == torch.float32


@pytest.mark.parametrize("fields", [("picture",), ("picture", "signal")])
def test_two_steps(fields):
    golden("mae", MAE, views=("weak",), fields=fields, tolerance=SINGLE)


def test_two_steps_with_other_options():
    reference = type("MAE", (MAE,), {"ratio": 0.5, "depth": 1})
    options = {"ratio": 0.5, "decoder_depth": 1}
    golden(
        "mae", reference, views=("weak",), fields=("picture", "signal"), tolerance=SINGLE, **options
    )


def test_two_steps_with_masks_of_each_field():
    reference = type("MAE", (MAE,), {"together": False})
    options = {"tolerance": SINGLE, "together": False}
    golden("mae", reference, views=("weak",), fields=("picture", "signal"), **options)


def test_two_steps_of_a_wider_encoder():
    """Heads of the decoder are 32 wide."""
    reference = type("MAE", (MAE,), {"heads": 2})
    golden("mae", reference, views=("weak",), fields=("picture",), size="tiny", tolerance=SINGLE)


def test_defaults():
    """75 %: section 4.1."""
    paper = {"ratio": 0.75, "together": True, "whole_words": False}
    assert defaults("mae") == paper | {"decoder_depth": 2}
