"""M3CoL, Kumar et al. 2024, arXiv:2409.17777: section 3, and the authors' code."""

import itertools

import pytest
import torch

from amodal.masking.hashing import hash_bits, uniform
from amodal.masking.mixing import batch_seed, beta, partners
from amodal.methods.contrastive.m3col import PAPER_RECIPE
from tests.golden.harness import Reference, defaults, golden, unit
from tests.golden.naive import code


class M3CoL(Reference):
    weight, m3co_share, alpha, mix_probability = 0.1, 0.33, 0.15, 0.5
    temperature, soft_temperature, mixup, mixup_alpha, hidden = 0.1, 0.125, "", 0.2, 8

    def __init__(self, page):
        super().__init__(page)
        self.fields = [n.split(".")[-1] for n in self.w if n.startswith("heads.absent.")]

    def check_start(self):
        """Classifiers of the authors' code: two hidden layers of one width. Nothing is done yet."""
        width, n = self.encoder.width, len(self.fields)
        for head in ("fused", *(f"alone.{f}" for f in self.fields)):
            inputs = n * width if head == "fused" else width
            shapes = [tuple(self.w[f"heads.{head}.{i}.weight"].shape) for i in (0, 2, 4)]
            assert shapes == [(self.hidden, inputs), (self.hidden, self.hidden), (3, self.hidden)]
        for f in self.fields:
            assert 0.01 < self.w[f"heads.absent.{f}"].std() < 0.04, f
        assert self.w["progress"] == 0 and self.min_batch_size == 2
        assert all(p.requires_grad for p in self.encoder.parameters())

    def head(self, name, x):
        for i in (0, 2, 4):
            x = x @ self.w[f"heads.{name}.{i}.weight"].T + self.w[f"heads.{name}.{i}.bias"]
            x = x.relu() if i < 4 else x
        return x

    def losses(self, batch):
        """Section 3.3: the sum of all classifiers and of the contrast, which weighs `weight`.

        With three modalities and more each is mixed against each other one, and all such pairs
        together weigh as one for each modality does, which is what the authors sum."""
        label = dict(zip(batch.labels["kind"].rows.tolist(), batch.labels["kind"].values.tolist()))
        z, second, lam = self.represent(batch, label)
        terms = {"supervised/fused": self.supervised(self.fused(z), label, second, lam, "fused")}
        for f in self.fields:
            logits = {row: self.head(f"alone.{f}", x[None])[0] for row, x in z[f].items()}
            terms[f"supervised/{f}"] = self.supervised(logits, label, second, lam, f)
        if self.weight:
            pairs = list(itertools.permutations(self.fields, 2))
            for a, b in pairs:
                rows = [row for row in z[a] if row in z[b]]
                loss = self.contrast(z, a, b, rows, batch.seeds[rows]) if rows else self.nothing()
                share = len(self.fields) / len(pairs)
                terms[f"contrast/{a}>{b}"] = self.weight * share * loss
        return terms

    def contrast(self, z, a, b, rows, seeds):
        x, y = (torch.stack([z[f][row] for row in rows]) for f in (a, b))
        if float(self.w["progress"]) < self.m3co_share:
            return self.m3co(x, y, hash_bits(seeds, code(f"{a}>{b}")))
        return self.multisclip(x, y)

    def nothing(self):
        return 0 * self.w["heads.fused.0.bias"].sum()

    def represent(self, batch, label):
        """Row -> vector of each field; of rows whose inputs are mixed, the label of the second and
        the share of the first."""
        tokens, second, lam = self.encoder.patchify(batch), {}, torch.ones(())
        if self.mixup:
            t = tokens[self.mixup]
            place = {row: (t.row == row).nonzero().flatten().tolist() for row in t.row.tolist()}
            rows = [row for row in place if row in label]
            seeds = hash_bits(batch.seeds[rows], code(self.mixup))
            lam = beta(batch_seed(seeds), self.mixup_alpha)
            x = list(t.x)
            for row, partner in zip(rows, partners(seeds).tolist()):
                second[row] = label[rows[partner]]
                here, there = place[row], place[rows[partner]]
                for i, at in enumerate(here):  # in the same relative place of a shorter text
                    other = there[i * len(there) // len(here)]
                    x[at] = float(lam) * t.x[at] + (1 - float(lam)) * t.x[other]
            tokens = tokens | {self.mixup: t.with_x(torch.stack(x))}
        tokens = self.encoder.encode({f: self.encoder.add_positions(t) for f, t in tokens.items()})
        z = {}
        for f, t in tokens.items():
            z[f] = {row: t.x[t.row == row].mean(0) for row in sorted(set(t.row.tolist()))}
        return z, second, lam

    def fused(self, z):
        """Vectors side by side; one is learned for a modality that a row lacks."""
        rows = sorted({row for own in z.values() for row in own})
        absent = {f: self.w[f"heads.absent.{f}"] for f in self.fields}
        both = {row: [z[f].get(row, absent[f]) for f in self.fields] for row in rows}
        return {row: self.head("fused", torch.cat(parts)[None])[0] for row, parts in both.items()}

    def supervised(self, logits, label, second, lam, name):
        """Cross-entropy; of mixed inputs with both labels. The fused classifier sees one mixed
        modality among others that are not."""
        # in single precision, as it is drawn
        share = {"fused": 1 - (1 - lam) / len(self.fields), self.mixup: lam}
        total, known = 0, [row for row in logits if row in label]
        for row in known:
            log_p = logits[row] - logits[row].logsumexp(0)
            s = float(share.get(name, 1.0)) if row in second else 1.0
            total = total - s * log_p[label[row]]
            if row in second:
                total = total - (1 - s) * log_p[second[row]]
        return total / len(known) if known else self.nothing()

    def m3co(self, x, y, seeds):
        """Equations 2 to 4: each of x is mixed with probability 1/2, and is to be found halfway
        between two of y; and from y to the mixtures."""
        n, partner = len(x), partners(seeds).tolist()
        share = beta(seeds, self.alpha).double()
        chosen = uniform(hash_bits(seeds, code("mixed"))) < self.mix_probability
        share = [float(s) if c else 1.0 for s, c in zip(share, chosen)]
        mixed = [share[i] * x[i] + (1 - share[i]) * x[partner[i]] for i in range(n)]
        logits = unit(torch.stack(mixed)) @ unit(y).T / self.temperature
        total = 0
        for i in range(n):
            for j, weight in ((i, share[i]), (partner[i], 1 - share[i])):
                total = total + weight * (logits[i, j] - logits[i].logsumexp(0))
                total = total + weight * (logits[i, j] - logits[:, j].logsumexp(0))
        return -total / n / 2

    def multisclip(self, x, y):
        """Equation 5: what is alike in y is to be alike between x and y, seen from both sides."""
        x, y = unit(x), unit(y)
        target = (y @ y.T / self.soft_temperature).softmax(1)
        logits = x @ y.T / self.soft_temperature
        there, back = logits.log_softmax(1), logits.T.log_softmax(1)
        return -((target * there).sum(1).mean() + (target * back).sum(1).mean()) / 2

    def after_step(self, step, steps):
        self.w["progress"] = torch.full_like(self.w["progress"], step / steps)


def hold(fields=("picture", "words"), rows=6, **options):
    options = {"hidden": 8} | options
    reference = type("M3CoL", (M3CoL,), options)
    golden("m3col", reference, views=("weak",), fields=fields, rows=rows, **options)


@pytest.mark.parametrize("fields", [("picture", "words"), ("picture", "words", "facts")])
@pytest.mark.parametrize("m3co_share", [0.33, 0.25, 0.0])
def test_two_steps(fields, m3co_share):
    """Of 4 steps the contrast changes after the second, after the first, or is MultiSClip alone."""
    hold(fields, m3co_share=m3co_share)


@pytest.mark.parametrize(
    "options",
    [
        {"mix_probability": 1.0, "alpha": 0.7, "temperature": 0.3, "weight": 0.4},
        {"mix_probability": 0.0},
        {"m3co_share": 0.0, "soft_temperature": 0.5, "weight": 2.0},
        {"weight": 0.0},
    ],
)
def test_two_steps_with_other_options(options):
    hold(rows=9, **options)


@pytest.mark.parametrize("m3co_share", [1.0, 0.0])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(rows, m3co_share):
    """Of one row there is no picture, of two and three rows one pair."""
    hold(rows=rows, m3co_share=m3co_share)


@pytest.mark.parametrize("mixup", ["picture", "words", "facts"])
def test_two_steps_of_mixed_inputs(mixup):
    hold(("picture", "words", "facts"), rows=9, mixup=mixup, mixup_alpha=0.8)
    hold(("picture", mixup) if mixup != "picture" else ("facts", mixup), rows=9, mixup=mixup)


def test_defaults():
    """The authors' configuration; no inputs are mixed unless asked."""
    assert defaults("m3col") == {
        "label": "",
        "classes": 0,
        "weight": 0.1,
        "m3co_share": 0.33,
        "alpha": 0.15,
        "mix_probability": 0.5,
        "temperature": 0.1,
        "soft_temperature": 0.125,
        "mixup": "",
        "mixup_alpha": 0.2,
        "hidden": 256,
    }
    hold(hidden=256)
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 5e-5, 1e-4, (0.9, 0.999))
    assert (r.schedule, r.decay_rate, r.batch_size, r.epochs) == ("plateau", 0.2, 128, 25.0)
    assert (r.warmup_steps, r.clip, r.lr_multipliers) == (0, 0.0, {"heads.": 2.0})
