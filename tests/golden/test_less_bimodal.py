"""Less bimodal supervision, Segal, Bogin and Berant 2022, arXiv:2211.00262: co-attention over two
encoders, masked words and matching on pairs, and then a task; and the authors' code."""

import pytest
import torch
from torch.nn.functional import softplus

from amodal.core import name_code
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep
from amodal.methods.fusion.less_bimodal import PAPER_RECIPE
from amodal.objectives.matching import swap_partners
from tests.golden.harness import Reference, defaults, golden
from tests.golden.transformers import gelu, linear, mlp, norm, read, read_block

PATCH = 4


class LessBimodal(Reference):
    pairs, depth, ratio, swap, cross_rate, head_rate = 0.5, 2, 0.15, 0.5, 5.0, 10.0
    words, with_label = "words", False

    def __init__(self, page):
        super().__init__(page)
        c = self.cross_rate
        rates = {"co": c, "match": c, "masked": c, "head": self.head_rate}
        assert page.lr_multipliers == rates

    def check_start(self):
        d, others = self.encoder.width, [f for f in self.encoder.fields if f != self.words]
        for f in self.encoder.fields:
            for i in range(self.depth):
                assert f"co.blocks.{f}.{i}.up.weight" in self.w
            assert f"co.blocks.{f}.{self.depth}.up.weight" not in self.w
        assert self.min_batch_size == 1
        if self.pairs:
            self.assert_shapes(match__weight=(1, 2 * d), masked__token=(d,))
            assert 0.01 < self.w["masked.token"].std() < 0.04
        if self.with_label:
            self.assert_shapes(head__net__0__weight=(2 * d, 2 * d * len(others)))
            self.assert_shapes(head__net__2__weight=(3, 2 * d))
            for f in others:
                assert not self.w[f"head.absent.{f}"].any()
        for name, p in self.encoder.named_parameters():
            assert p.requires_grad, name
        for name, p in self.w.items():  # each stage has heads of its own
            rests = ("match.", "masked.") if not self.pairs else ("head.",)
            assert p.requires_grad != name.startswith(rests), name

    def losses(self, batch):
        return self.on_pairs(batch) if self.pairs else self.task(batch)

    def on_pairs(self, batch):
        content = self.encoder.patchify(batch)
        others = [f for f in self.encoder.fields if f != self.words]
        text = content[self.words]
        hidden = self.masked(text, batch.seeds)
        tokens = {f: self.lists(self.encode(f, t)) for f, t in content.items()}
        shown = torch.where(hidden[:, None], self.w["masked.token"], text.x)
        masked = self.lists(self.encode(self.words, text.with_x(shown)))
        targets = self.targets(batch, text, hidden)
        terms = {}
        for f in others:
            guessed = self.guessed(masked, tokens[f], f, targets)
            terms[f"mlm/{f}"] = guessed / len(others)
        for f in others:
            terms[f"itm/{f}"] = self.matching(tokens, f, batch.seeds) / len(others)
        return terms

    def encode(self, field, content):
        return self.encoder.encode({field: self.encoder.add_positions(content)})[field]

    def lists(self, tokens):
        """Row -> its tokens."""
        return {r: tokens.x[tokens.row == r] for r in sorted(set(tokens.row.tolist()))}

    def masked(self, tokens, seeds):
        bits = hash_bits(seeds, name_code(f"masked {self.words}"))[tokens.row]
        return ~random_keep(tokens.row, bits, tokens.within(), self.ratio)

    def targets(self, batch, tokens, hidden):
        """Row -> the bytes of each hidden token, by its place."""
        column, found = batch[self.words], {}
        for r, text in zip(column.rows.tolist(), column.values.split()):
            of_row = hidden[tokens.row == r].tolist()
            pieces = [text[i : i + PATCH].tolist() for i in range(0, len(text), PATCH)]
            found[r] = {i: p for i, (p, h) in enumerate(zip(pieces, of_row)) if h}
        return found

    def co_attend(self, x, y, f):
        """Words x and field y: both streams read each other as they were before the layer."""
        for i in range(self.depth):
            seen = norm(self.w, f"co.keys.{self.words}.{i}", y)
            said = norm(self.w, f"co.keys.{f}.{i}", x)
            x, y = (
                self.layer(f"co.blocks.{self.words}.{i}", x, seen),
                self.layer(f"co.blocks.{f}.{i}", y, said),
            )
        return norm(self.w, f"co.norms.{self.words}", x), norm(self.w, f"co.norms.{f}", y)

    def layer(self, name, x, y):
        """Attention to an empty stream reads zero, to which the bias of the output is added."""
        if len(x) and len(y):
            return read_block(self.w, name, x, y, self.encoder.num_heads)
        z = norm(self.w, f"{name}.norm1", x)
        x = x + read(self.w, f"{name}.self_attention", z, z, self.encoder.num_heads)
        x = x + self.w[f"{name}.cross_attention.out.bias"]
        return x + mlp(self.w, name, norm(self.w, f"{name}.norm3", x))

    def both(self, x, y, f):
        """One vector of each stream; the authors join those of their class tokens."""
        return torch.cat([t.sum(0) / max(len(t), 1) for t in self.co_attend(x, y, f)])

    def guessed(self, masked, seen, f, targets):
        """Masked words: the other field is seen."""
        losses = []
        for r in masked:
            if r in seen:
                out = self.co_attend(masked[r], seen[r], f)[0]
                for i, piece in targets[r].items():
                    logits = linear(self.w, "masked.predictor.0", out[i]).view(PATCH, -1)
                    each = [logits[k].logsumexp(0) - logits[k, b] for k, b in enumerate(piece)]
                    losses.append(sum(each) / len(each))
        zero = 0 * self.w["masked.predictor.0.weight"].sum()
        return sum(losses) / len(losses) if losses else zero

    def matching(self, tokens, f, seeds):
        """Whole words with their own value or, one time in two, with that of another row."""
        rows = [r for r in tokens[self.words] if r in tokens[f]]
        if not rows:
            return 0 * self.w["match.bias"].sum()
        partner = swap_partners(hash_bits(seeds[rows], name_code(f"swap {f}")), self.swap).tolist()
        total = 0
        for i, r in enumerate(rows):
            pair = self.both(tokens[self.words][r], tokens[f][rows[partner[i]]], f)
            score = linear(self.w, "match", pair)[0]
            total = total + (softplus(-score) if partner[i] == i else softplus(score))
        return total / len(rows)

    def task(self, batch):
        """The words with each other field side by side, and two layers."""
        tokens = {
            f: self.lists(t) for f, t in self.encoder.encode(self.encoder.tokenize(batch)).items()
        }
        others = [f for f in sorted(self.encoder.fields) if f != self.words]
        of_row = dict(zip(batch.labels["kind"].rows.tolist(), batch.labels["kind"].values.tolist()))
        losses, nothing = [], torch.zeros(0, self.encoder.width).double()
        for r, label in of_row.items():
            own = {f: of_field.get(r, nothing) for f, of_field in tokens.items()}
            words = own[self.words]
            z = {f: self.both(words, own[f], f) for f in others if len(words) + len(own[f])}
            if not z:
                continue
            joined = torch.cat([z.get(f, self.w[f"head.absent.{f}"]) for f in others])
            logits = linear(self.w, "head.net.2", gelu(linear(self.w, "head.net.0", joined)))
            losses.append(logits.logsumexp(0) - logits[label])
        total = sum(losses) / len(losses) if losses else 0 * self.w["head.net.2.bias"].sum()
        return {"predict/kind": total}


def hold(fields=("picture", "words"), rows=6, view="weak", words="words", label=False, **options):
    options = {"depth": 2, "ratio": 0.5, "pairs": 1.0} | options
    own = options | {"words": words, "with_label": label}
    views = {f: ("plain",) if f == words else (view,) for f in fields}
    also = {"view": view} | ({} if label else {"targets": (), "label": ""})
    reference = type("LessBimodal", (LessBimodal,), own)
    golden("less_bimodal", reference, views=views, fields=fields, rows=rows, also=also, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"depth": 1, "ratio": 0.3, "swap": 0.9, "cross_rate": 2.0, "head_rate": 3.0},
        {"swap": 0.0, "label": True, "pairs": 0.5},
    ],
)
def test_two_steps_on_pairs(options):
    hold(**options)


@pytest.mark.parametrize("options", [{}, {"depth": 1}])
def test_two_steps_of_the_task(options):
    hold(pairs=0.0, label=True, **options)


def test_records_without_words_are_predicted_from_the_other_field():
    """The first field is missing where the label is not."""
    hold(("words", "picture"), pairs=0.0, label=True, depth=1)


@pytest.mark.parametrize("pairs", [0.0, 1.0])
def test_two_steps_of_more_fields(pairs):
    hold(("picture", "words", "facts"), label=not pairs, depth=1, pairs=pairs)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(rows):
    hold(rows=rows, depth=1)
    hold(rows=rows, depth=1, pairs=0.0, label=True)


def test_other_views_are_distorted():
    hold(view="strong", depth=1)


def test_defaults():
    """The authors' configuration: rates of pairs, and that of a task's head."""
    assert defaults("less_bimodal") == {
        "text_field": "",
        "label": "",
        "targets": (),
        "task": "auto",
        "pairs": 0.5,
        "depth": 2,
        "ratio": 0.15,
        "swap": 0.5,
        "cross_rate": 5.0,
        "head_rate": 10.0,
        "view": "weak",
    }
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 1e-4, 0.01, (0.9, 0.98))
    assert (r.schedule, r.warmup, r.clip) == ("linear", 0.1, 0.0)
    assert (r.batch_size, r.epochs, r.resolution) == (48 * 10 * 8, 10.0, 224)
