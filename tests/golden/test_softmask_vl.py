"""Text-driven soft masks, Park and Han 2023, arXiv:2304.00719: soft-masked matching, focal contrast
and masked words, on the losses of ALBEF, Li et al. 2021, arXiv:2107.07651."""

import itertools
import math

import pytest
import torch
from torch.nn.functional import softplus

from amodal.core import name_code
from amodal.masking.hashing import hash_bits
from amodal.masking.random import random_keep, random_keep_units
from amodal.masking.soft import one_map
from amodal.objectives.matching import hard_negatives
from tests.golden.harness import Reference, defaults, golden, unit
from tests.methods.bench import method

HEADS = 2
PATCH = 4


class SoftMask(Reference):
    soft, hard, warmup, gamma, augment, ratio = 1.0, 0.0, 0.0, 2.0, True, 0.5
    whole_words = False
    width, depth, temperature, momentum, queue, words = 8, 2, 0.07, 0.995, 7, "words"

    def __init__(self, page):
        super().__init__(page)
        self.momentum_encoder = self.add_network("momentum_encoder")

    def check_start(self):
        """The copy begins as the encoder, the queues empty."""
        for key, value in self.momentum_encoder.state_dict().items():
            assert torch.equal(value, self.encoder.state_dict()[key]), key
        assert self.encoder.space_width == self.width and self.min_batch_size == 2
        assert not self.w["queues.count"].any() and self.w["progress"] == 0
        for name in ("picture", self.words):
            self.assert_shapes(**{f"queues__queue_{name}": (self.queue, self.width)})
        begin = self.w["scale.log"].detach().exp()
        assert torch.isclose(begin, torch.tensor(1 / self.temperature).double(), rtol=1e-6)
        assert f"matcher.cross.blocks.{self.depth - 1}.up.weight" in self.w
        assert f"matcher.cross.blocks.{self.depth}.up.weight" not in self.w
        assert 0.01 < self.w["masked_words.token"].std() < 0.04

    def losses(self, batch):
        self.texts = batch[self.words].values.split()
        content = self.encoder.patchify(batch)
        others = [s for s in content if s != self.words]
        hidden = self.masked(content[self.words], batch.seeds)
        tokens = {s: self.lists(self.encode(s, t)) for s, t in content.items()}
        shown = torch.where(hidden[:, None], self.w["masked_words.token"], content[self.words].x)
        masked = self.lists(self.encode(self.words, content[self.words].with_x(shown)))
        if self.augment:
            tokens[self.words] = masked
        aligned = {
            s: {r: x.mean(0) @ self.encoder.heads[s].weight.T for r, x in rows.items()}
            for s, rows in tokens.items()
        }
        with torch.no_grad():
            keys = self.momentum_encoder(batch).columns
        self.keys = {s: dict(zip(c.rows.tolist(), c.values)) for s, c in keys.items()}
        terms = {}
        pairs = list(itertools.combinations(content, 2))
        for a, b in pairs:
            both = self.contrast(aligned[a], b) + self.contrast(aligned[b], a)
            terms[f"itc/{a}~{b}"] = both / 2 / len(pairs)
        targets = self.targets(batch, content[self.words], hidden)
        for s in others:
            same, wrong, left = self.match(aligned, tokens, s, batch.seeds)
            n = len(others)
            terms[f"itm/{s}"] = self.matching(same, wrong) / n
            if self.soft and self.w["progress"] >= self.warmup:
                terms[f"soft/{s}"] = self.soft * self.matching(left, wrong) / n
            terms[f"mlm/{s}"] = self.guessed(masked, tokens[s], targets) / n
        return terms

    def encode(self, source, content):
        return self.encoder.encode({source: self.encoder.add_positions(content)})[source]

    def lists(self, tokens):
        """Row -> its tokens."""
        return {r: tokens.x[tokens.row == r] for r in sorted(set(tokens.row.tolist()))}

    def scale(self):
        """ALBEF keeps temperatures above .001; the bound lets gradients through."""
        log = self.w["scale.log"]
        return log.exp() if log.exp() <= 1000 else 1000 * (log - log.detach()).exp()

    def masked(self, tokens, seeds):
        bits = hash_bits(seeds, name_code(f"masked {self.words}"))[tokens.row]
        if not self.whole_words:
            return ~random_keep(tokens.row, bits, tokens.within(), self.ratio)
        word = [
            bytes(text[:i].tolist()).count(b" ")
            for text in self.texts
            for i in range(0, len(text), PATCH)
        ]
        return ~random_keep_units(tokens.row, bits, torch.tensor(word), self.ratio)

    # focal contrast

    def contrast(self, queries, name):
        """Focal InfoNCE of a row's key among those of other rows and of earlier ones."""
        queue, count = self.w[f"queues.queue_{name}"], self.w["queues.count"][self.order(name)]
        earlier = queue[max(len(queue) - int(count), 0) :]
        rows = [r for r in queries if r in self.keys[name]]
        keys = [unit(self.keys[name][r]) for r in rows] + [unit(k) for k in earlier]
        total = 0 * sum(q.sum() for q in queries.values()) + 0 * self.w["scale.log"]
        if len(keys) < 2 or not rows:
            return total
        for i, r in enumerate(rows):
            logits = torch.stack([unit(queries[r]) @ k for k in keys]) * self.scale()
            log_p = logits[i] - logits.logsumexp(0)
            total = total - (1 - log_p.exp()) ** self.gamma * log_p
        return total / len(rows)

    def order(self, name):
        prefix = "queues.queue_"
        return [n.removeprefix(prefix) for n in self.w if n.startswith(prefix)].index(name)

    # matching

    def match(self, aligned, tokens, s, seeds):
        """Logits of pairs that belong together, of mismatched ones, and of the former again with
        what a word looks at attenuated."""
        rows = [r for r in tokens[self.words] if r in tokens[s]]
        if not rows:
            empty = 0 * sum(p.sum() for n, p in self.w.items() if n.startswith("matcher."))
            return empty[None][:0], empty[None][:0], empty[None][:0]
        vectors = [torch.stack([aligned[x][r] for r in rows]) for x in (self.words, s)]
        negatives = []
        for (x, y), (a, b) in zip(((self.words, s), (s, self.words)), (vectors, vectors[::-1])):
            bits = hash_bits(seeds[rows], name_code(f"{x}>{y}"))
            t = 1 / self.scale().detach()
            negatives.append(hard_negatives(a, b, bits, temperature=t).tolist())
        words, seen = ([tokens[x][r] for r in rows] for x in (self.words, s))
        same, left = [], []
        for i, r in enumerate(rows):
            score, weights = self.score(words[i], seen[i])
            same.append(score)
            relevance = torch.autograd.grad(score, weights, retain_graph=True)[0]
            maps = (relevance * weights).relu().mean(0).detach()
            one = one_map(maps[None], torch.tensor([len(maps)]), seeds[[r]])[0]
            left.append(self.score(words[i], seen[i], self.strength(one))[0])
        wrong = [self.score(words[i], seen[j])[0] for i, j in enumerate(negatives[0]) if j >= 0]
        wrong += [self.score(words[j], seen[i])[0] for i, j in enumerate(negatives[1]) if j >= 0]
        same, left = torch.stack(same), torch.stack(left)
        return same, torch.stack(wrong) if wrong else same[:0], left

    def strength(self, relevance):
        """1 - A, with A stretched to [0, 1]; or 0 where A is above a height, and 1 elsewhere."""
        low, high = relevance.min(), relevance.max()
        a = (relevance - low) / (high - low).clamp(min=1e-12)
        return (a <= self.hard).double() if self.hard else 1 - a

    def matching(self, same, wrong):
        """Binary cross-entropy, the mean over all pairs."""
        loss = torch.cat([softplus(-same), softplus(wrong)])
        return loss.mean() if len(loss) else loss.sum()

    def score(self, words, seen, strength=None):
        out, weights = self.read(words, seen, strength)
        w = self.w
        return (out.mean(0) @ w["matcher.head.weight"].T + w["matcher.head.bias"])[0], weights

    def read(self, x, y, strength=None):
        """Blocks of self-attention, attention to the other field, and an MLP, norms before. Returns
        the weights of the last block too."""
        y = self.norm("matcher.cross.norm_keys", y)
        if strength is not None:
            y = y * strength[:, None]
        for i in range(self.depth):
            name = f"matcher.cross.blocks.{i}"
            z = self.norm(f"{name}.norm1", x)
            x = x + self.attention(f"{name}.self_attention", z, z)[0]
            made, weights = self.attention(
                f"{name}.cross_attention", self.norm(f"{name}.norm2", x), y
            )
            x = x + made
            z = self.linear(f"{name}.up", self.norm(f"{name}.norm3", x))
            x = x + self.linear(f"{name}.down", z * (1 + torch.erf(z / math.sqrt(2))) / 2)
        return self.norm("matcher.cross.norm", x), weights

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, name, x):
        var, mean = torch.var_mean(x, dim=-1, keepdim=True, unbiased=False)
        return (x - mean) / (var + 1e-5).sqrt() * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def attention(self, name, x, y):
        q = self.linear(f"{name}.query", x).chunk(HEADS, 1)
        k, v = (z.chunk(HEADS, 1) for z in self.linear(f"{name}.key_value", y).chunk(2, 1))
        weights = torch.stack(
            [torch.softmax(a @ b.T / math.sqrt(a.shape[1]), 1) for a, b in zip(q, k)]
        )
        made = torch.cat([weight @ c for weight, c in zip(weights, v)], 1)
        return self.linear(f"{name}.out", made), weights

    # masked words

    def targets(self, batch, tokens, hidden):
        """Row -> the bytes of each hidden token, by its place."""
        column, found = batch[self.words], {}
        for r, text in zip(column.rows.tolist(), column.values.split()):
            of_row = hidden[tokens.row == r].tolist()
            pieces = [text[i : i + PATCH].tolist() for i in range(0, len(text), PATCH)]
            found[r] = {i: p for i, (p, h) in enumerate(zip(pieces, of_row)) if h}
        return found

    def guessed(self, masked, seen, targets):
        """Cross-entropy of the bytes of hidden tokens, given the other tokens and the other field;
        the mean over tokens of the whole batch."""
        losses = []
        for r in masked:
            if r in seen:
                out = self.read(masked[r], seen[r])[0]
                for i, piece in targets[r].items():
                    logits = self.linear("masked_words.predictor.0", out[i]).view(PATCH, -1)
                    each = [logits[k].logsumexp(0) - logits[k, b] for k, b in enumerate(piece)]
                    losses.append(sum(each) / len(each))
        zero = 0 * self.w["masked_words.predictor.0.weight"].sum()
        return sum(losses) / len(losses) if losses else zero

    def after_step(self, step, steps):
        """The copy follows; its keys enter the queues, the oldest leave."""
        m = self.momentum
        with torch.no_grad():
            for t, p in zip(self.momentum_encoder.parameters(), self.encoder.parameters()):
                t.copy_(m * t + (1 - m) * p)
        self.w["progress"] = torch.full_like(self.w["progress"], step / steps)
        count = self.w["queues.count"].clone()
        for name, rows in self.keys.items():
            queue = torch.cat([self.w[f"queues.queue_{name}"], *(k[None] for k in rows.values())])
            self.w[f"queues.queue_{name}"] = queue[len(rows) :].detach()
            count[self.order(name)] += len(rows)
        self.w["queues.count"] = count


def softmask(**options):
    return type("SoftMask", (SoftMask,), options)


SMALL = {"width": 8, "queue": 7}
NOW = {"warmup": 0.0, "ratio": 0.5}
VIEWS = {"picture": ("weak",), "words": ("plain",)}


def held(views=VIEWS, fields=("picture", "words"), rows=6, **options):
    options = SMALL | NOW | options
    golden("softmask_vl", softmask(**options), views=views, fields=fields, rows=rows, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gamma": 0.0, "temperature": 0.3, "momentum": 0.5},
        {"gamma": 0.7, "soft": 0.3, "hard": 0.4, "queue": 3},
        {"augment": False, "soft": 0.0},
        {"augment": False, "ratio": 0.3, "depth": 1, "width": 6},
        {"warmup": 0.2},
        {"warmup": 0.9},
        {"whole_words": True, "warmup": 0.9},
        {"temperature": 0.0005},
    ],
)
def test_two_steps(options):
    held(**options)


def test_two_steps_of_three_fields():
    """Each of the others is matched with the words; all are contrasted."""
    views = VIEWS | {"facts": ("weak",)}
    held(views=views, fields=("picture", "words", "facts"), rows=4)


def test_any_field_may_take_the_part_of_the_words():
    page = method("softmask_vl", sources=("picture", "words"), text_field="picture")
    assert page.views == {"picture": ("plain",), "words": ("weak",)}
    assert page.masked_words.field == "picture"


def test_other_views_are_distorted():
    views = {"picture": ("strong",), "words": ("plain",)}
    options = SMALL | NOW | {"view": "strong"}
    golden("softmask_vl", softmask(**SMALL, **NOW), views=views, **options)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(rows):
    held(rows=rows)


def test_defaults():
    """ALBEF's space, temperature, queue and momentum; the focal loss is that of detection."""
    assert defaults("softmask_vl") == {
        "text_field": "",
        "soft": 1.0,
        "hard": 0.0,
        "warmup": 0.1,
        "gamma": 2.0,
        "augment": True,
        "view": "weak",
        "ratio": 0.15,
        "width": 256,
        "depth": 2,
        "temperature": 0.07,
        "momentum": 0.995,
        "queue": 65536,
        "whole_words": False,
    }
