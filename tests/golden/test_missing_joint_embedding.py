"""Missing modality prediction, Kim and Kim 2024, arXiv:2407.12616: read-only prompts, predictors and
the loss of VICReg (Bardes et al. 2022, arXiv:2105.04906, equations 1 to 6 and the authors' code)."""

import itertools

import pytest
import torch

from amodal.masking.modality_dropout import drop_modalities
from tests.golden.harness import Reference, defaults, golden
from tests.golden.transformers import block, gelu, linear, norm

TWO = ("picture", "words")


class Missing(Reference):
    prompts, hidden, weight, drop, tune = 4, 256, 1.0, 0.3, "bias"
    invariance, variance, covariance = 25.0, 25.0, 1.0
    blocks, outside = 2, ()

    def check_start(self):
        """Encoders are frozen but for their biases; each has prompts of its own."""
        d, fields = self.encoder.width, list(self.encoder.fields)
        for name, p in self.encoder.named_parameters():
            learns = {"bias": name.endswith("bias"), "none": False, "all": True}[self.tune]
            assert p.requires_grad == learns, name
        for f in fields:
            tokens = self.w[f"prompts.tokens.{f}"]
            assert tokens.shape == (self.prompts, d) and 0.01 < tokens.std() < 0.03
        for a, b in itertools.permutations(fields, 2):
            shape = (self.hidden, self.prompts * d)
            assert self.w[f"fusion.predictors.{a}>{b}.0.weight"].shape == shape
            assert self.w[f"fusion.predictors.{a}>{b}.2.weight"].shape == (d, self.hidden)
        assert self.w["fusion.head.weight"].shape == (3, d * len(fields))
        assert self.min_batch_size == 2

    def losses(self, batch):
        z, guess = self.read(batch)
        nothing = 0 * self.w["fusion.head.bias"].sum()
        pairs = list(itertools.permutations(self.encoder.fields, 2))
        terms = {}
        for a, b in pairs:
            rows = [r for r in range(batch.size) if (a, r) in z and (b, r) in z]
            loss = nothing
            if rows:
                predicted = torch.stack([guess[a, b, r] for r in rows])
                loss = self.vicreg(predicted, torch.stack([z[b, r] for r in rows]))
            terms[f"vicreg/{a}>{b}"] = self.weight * loss / len(pairs)
        return terms | {"supervised": self.supervised(batch, z, guess, nothing)}

    def read(self, batch):
        """(field, row) -> embedding, (field, other, row) -> prediction."""
        self.p = dict(self.encoder.named_parameters())
        z, guess = {}, {}
        for f, tokens in self.encoder.tokenize(batch).items():
            if f in self.outside:
                tokens = self.encoder.encode({f: tokens})[f]
            run = self.reader if f in self.outside else self.transformer
            for r in tokens.row.unique().tolist():
                x, states = run(f, tokens.x[tokens.row == r])
                z[f, r] = x.mean(0)
                for other in self.encoder.fields:
                    if other != f:
                        guess[f, other, r] = self.predictor(f"{f}>{other}", states.flatten())
        return z, guess

    def transformer(self, f, x):
        return self.read_only(self.p, f"trunks.{f}", f, x, self.blocks)

    def reader(self, f, x):
        """A backbone cannot take prompts in: they read its finished tokens, which stay."""
        assert f"prompts.readers.{f}.blocks.1.up.weight" not in self.w
        return x, self.read_only(self.w, f"prompts.readers.{f}", f, x, 1)[1]

    def read_only(self, w, name, f, x, blocks):
        """Prompts see all; the field's own tokens do not see the prompts."""
        n = len(x)
        x = torch.cat([x, self.w[f"prompts.tokens.{f}"]])
        see = torch.ones(len(x), len(x), dtype=torch.bool)
        see[:n, n:] = False
        for i in range(blocks):
            x = block(w, f"{name}.blocks.{i}", x, self.encoder.num_heads, see)
        x = norm(w, f"{name}.norm", x)
        return x[:n], x[n:]

    def predictor(self, name, x):
        name = f"fusion.predictors.{name}"
        return linear(self.w, f"{name}.2", gelu(linear(self.w, f"{name}.0", x)))

    def vicreg(self, predicted, true):
        n, d = true.shape
        loss = self.invariance * ((predicted - true) ** 2).sum() / (n * d)
        if n == 1:  # which has no variance
            return loss
        for x in (predicted, true):
            for j in range(d):
                std = (x[:, j].var() + 1e-4).sqrt()
                loss = loss + self.variance * (1 - std).clamp(min=0) / d / 2
            centred = x - x.mean(0)
            cov = centred.T @ centred / (n - 1)
            off = (cov**2).sum() - (torch.diagonal(cov) ** 2).sum()
            loss = loss + self.covariance * off / d
        return loss

    def supervised(self, batch, z, guess, nothing):
        """Late fusion: of a field that is missing or was hidden, the mean of what the others that
        are visible predict."""
        fields = list(self.encoder.fields)
        of_row = dict(zip(batch.labels["kind"].rows.tolist(), batch.labels["kind"].values.tolist()))
        present = {f: torch.tensor([(f, r) in z for r in range(batch.size)]) for f in fields}
        visible = drop_modalities(present, batch.seeds, self.drop)
        losses = []
        for r, label in of_row.items():
            seen = [f for f in fields if visible[f][r]]
            if not seen:
                continue
            joined = [
                z[f, r] if f in seen else sum(guess[s, f, r] for s in seen) / len(seen)
                for f in fields
            ]
            logits = linear(self.w, "fusion.head", torch.cat(joined))
            losses.append(logits.logsumexp(0) - logits[label])
        return sum(losses) / len(losses) if losses else nothing


def hold(fields=TWO, rows=6, size="nano", blocks=2, **options):
    """`blocks` of each encoder."""
    options = {"hidden": 16, "prompts": 2} | options
    reference = type("Missing", (Missing,), {"blocks": blocks} | options)
    golden(
        "missing_joint_embedding",
        reference,
        views=("weak",),
        fields=fields,
        rows=rows,
        size=size,
        **options,
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompts": 3, "hidden": 8, "weight": 0.4, "drop": 0.6},
        {"invariance": 3.0, "variance": 2.0, "covariance": 0.5, "drop": 0.0},
        {"tune": "none"},
        {"tune": "all"},
    ],
)
def test_two_steps(options):
    hold(**options)


def test_two_steps_of_more_fields():
    hold(("picture", "words", "facts"), rows=8, drop=0.5)


def test_prompts_of_a_backbone():
    reference = type("Missing", (Missing,), {"outside": ("picture",), "hidden": 16, "prompts": 2})
    golden(
        "missing_joint_embedding",
        reference,
        views=("weak",),
        also={"backbones": {"picture": "convnet:width=8,stages=2,norm=batch"}},
        hidden=16,
        prompts=2,
    )


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(rows):
    hold(rows=rows)


def test_defaults():
    """25, 25 and 1: VICReg, section 4.2."""
    assert defaults("missing_joint_embedding") == {
        "label": "",
        "classes": 0,
        "prompts": 4,
        "hidden": 256,
        "weight": 1.0,
        "invariance": 25.0,
        "variance": 25.0,
        "covariance": 1.0,
        "drop": 0.3,
        "tune": "bias",
    }
    golden("missing_joint_embedding", Missing, views=("weak",))
