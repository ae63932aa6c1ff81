"""MLEM, Moskvoretskii et al. 2024, arXiv:2401.15935, section 3, and the authors' code: slices of a
sequence attract each other (CoLES); then a decoder writes the sequence from a vector that is
aligned to the frozen one by SigLIP's loss."""

import copy
import math

import pytest
import torch

from amodal.core import Column, field_of, view_of
from amodal.methods.contrastive.mlem import PAPER_RECIPE
from amodal.nn.attention.cache import KeyValueCache
from tests.golden.harness import Reference, defaults, golden, unit
from tests.golden.naive import positions
from tests.methods.bench import batch, exact, method

FIELDS = ("words", "signal")
STAGES = {
    "mlem": (("contrast",), ("reconstruct", "align")),
    "contrastive": (("contrast",),),
    "generative": (("reconstruct",),),
    "sum": (("contrast", "reconstruct"),),
}


class Mlem(Reference):
    objective, stage, slices, margin, hardest, width = "mlem", 0, 2, 0.5, 5, 8
    weight, scale, bias, decoder, depth, heads = 1.0, 10.0, -10.0, 12, 2, 2
    contrastive_share = 0.5

    def __init__(self, page):
        page.on_stage_start(self.stage)
        super().__init__(page)
        self.frozen = self.add_network("frozen_encoder")
        self.page_stages, self.terms = page.stages, STAGES[self.objective][self.stage]

    def check_start(self):
        two = self.objective == "mlem"
        assert self.page_stages == ((self.contrastive_share, 1.0) if two else (1.0,))
        assert self.min_batch_size == 2
        assert torch.allclose(self.w["logit.log"].exp(), torch.tensor(self.scale).double())
        assert self.w["logit.bias"] == self.bias
        learns = {name.split(".")[0] for name, v in self.w.items() if v.requires_grad}
        assert learns == {
            part
            for part, term in (("decoder", "reconstruct"), ("logit", "align"))
            if term in self.terms
        }
        assert all(p.requires_grad for p in self.encoder.parameters())
        if self.objective != "generative":
            assert self.encoder.space_width == self.width
        for f in self.encoder.fields:
            # a GRU reads sequences; nothing is added to what a new decoder reads
            assert hasattr(self.encoder.trunks[f], "gru")
            assert not self.w[f"decoder.decoders.{f}.start.bias"].any()
            assert f"decoder.decoders.{f}.blocks.{self.depth - 1}.up.weight" in self.w
            assert f"decoder.decoders.{f}.blocks.{self.depth}.up.weight" not in self.w

    def losses(self, batch):
        terms = {}
        whole = [s for s in batch.columns if view_of(s) == 1]
        if "contrast" in self.terms:
            terms["contrast"] = self.contrast(
                batch.only(*(s for s in batch.columns if s not in whole))
            )
        seen = batch.only(*whole)
        h = self.encoder.features(seen)
        if "reconstruct" in self.terms:
            content = self.encoder.patchify(seen)
            for s in whole:
                loss = self.reconstruct(field_of(s), h.columns[s], content[s], batch.columns[s])
                terms[f"reconstruct/{s}"] = loss / len(whole)
        if "align" in self.terms:
            with torch.no_grad():
                anchors = self.frozen(seen).columns
            g = self.encoder(seen).columns
            for s in whole:
                terms[f"align/{s}"] = self.align(g[s].values, anchors[s].values) / len(whole)
        return terms

    def contrast(self, batch):
        """Squared distances within a record; and of each slice to the nearest ones of others."""
        z, record = [], []
        for column in self.encoder(batch).columns.values():
            z += list(unit(column.values))
            record += column.rows.tolist()
        total, n = 0 * sum(v.sum() for v in z), len(z)
        distance = {
            (i, j): ((z[i] - z[j]) ** 2).sum() for i in range(n) for j in range(n) if i != j
        }
        for i in range(n):
            total = total + sum(distance[i, j] for j in range(i) if record[i] == record[j])
            others = [j for j in range(n) if record[i] != record[j]]
            others.sort(key=lambda j: float(distance[i, j].detach()))
            # 0: all of them, each pair once
            chosen = others[: self.hardest] if self.hardest else [j for j in others if j < i]
            for j in chosen:
                near = distance[i, j]
                # of equal slices there is no direction to push them to
                d = near.sqrt() if near > 0 else near
                total = total + (self.margin - d).clamp(min=0) ** 2
        return total / max(n, 1)

    def align(self, g, c):
        """SigLIP: each pair is one of a record, or not."""
        g, c, total = unit(g), unit(c), 0
        if len(g) < 1:
            return 0 * g.sum()
        for i in range(len(g)):
            for j in range(len(c)):
                logit = self.w["logit.log"].exp() * (g[i] @ c[j]) + self.w["logit.bias"]
                total = total + torch.nn.functional.softplus(-logit if i == j else logit)
        return self.weight * total / len(g)

    def reconstruct(self, field, vectors, content, column):
        """The mean over tokens of all records."""
        losses = []
        for row, h, value in zip(vectors.rows.tolist(), vectors.values, column.values.split()):
            states = self.decode(field, h, content.x[content.row == row])
            pieces = self.pieces(field, value)
            assert len(pieces) == len(states)
            losses += [self.token(field, x, piece) for x, piece in zip(states, pieces)]
        return sum(losses) / len(losses) if losses else 0 * content.x.sum()

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def norm(self, name, x):
        var, mean = torch.var_mean(x, dim=-1, keepdim=True, unbiased=False)
        return (x - mean) / (var + 1e-5).sqrt() * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def decode(self, field, h, content):
        """The state before each event, from those before it. Cross-attention to one vector has the
        weight 1, so that a linear map of the vector is left of it."""
        name = f"decoder.decoders.{field}"
        x = torch.cat(
            [self.linear(f"{name}.start", h)[None], self.linear(f"{name}.in_proj", content[:-1])]
        )
        place = torch.tensor([[t, 0, 0] for t in range(len(x))]).double()
        x = x + positions(place, self.decoder)
        for i in range(self.depth):
            block = f"{name}.blocks.{i}"
            x = x + self.linear(f"{name}.context.{i}", h)
            y = self.linear(f"{block}.attention.qkv", self.norm(f"{block}.norm1", x))
            q, k, v = (part.chunk(self.heads, 1) for part in y.chunk(3, 1))
            made = torch.zeros_like(x)
            size = self.decoder // self.heads
            for head in range(self.heads):
                for t in range(len(x)):
                    logits = k[head][: t + 1] @ q[head][t] / math.sqrt(size)
                    seen = logits.softmax(0) @ v[head][: t + 1]
                    made = made.index_put(
                        (torch.tensor(t), torch.arange(head * size, (head + 1) * size)), seen
                    )
            x = x + self.linear(f"{block}.attention.out", made)
            y = self.linear(f"{block}.up", self.norm(f"{block}.norm2", x))
            x = x + self.linear(f"{block}.down", y * (1 + torch.erf(y / math.sqrt(2))) / 2)
        return self.norm(f"{name}.norm", x)

    def pieces(self, field, value):
        """The bytes of a token, or its sample in deviations."""
        if field == "words":
            return [value[i : i + 4].tolist() for i in range(0, len(value), 4)]
        mean, std = (
            torch.tensor(v, dtype=torch.float64) for v in self.encoder.fields[field].scale()
        )
        assert self.encoder.fields[field].patch == 1
        return list((value.double() - mean) / std)

    def token(self, field, x, piece):
        """Cross-entropy of bytes, squared error of numbers; the mean over those of a token."""
        if field == "words":
            logits = self.linear("decoder.predictors.words.0", x).view(4, -1)
            return sum(row.logsumexp(0) - row[b] for row, b in zip(logits, piece)) / len(piece)
        return ((self.linear(f"decoder.predictors.{field}", x) - piece) ** 2).mean()


def hold(fields=FIELDS, rows=6, stage=0, **options):
    options = {"width": 8, "slices": 2, "decoder": 12, "depth": 2} | options
    reference = type("Mlem", (Mlem,), options | {"stage": stage})
    views = ("plain", *["local"] * options["slices"])
    golden("mlem", reference, views=views, fields=fields, rows=rows, **options)


@pytest.mark.parametrize(
    "objective, stage",
    [("mlem", 0), ("mlem", 1), ("contrastive", 0), ("generative", 0), ("sum", 0)],
)
def test_two_steps(objective, stage):
    hold(objective=objective, stage=stage)


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "contrastive", "hardest": 0, "margin": 1.2, "fields": ("signal",)},
        {"objective": "contrastive", "hardest": 1, "margin": 0.9, "slices": 4},
        {"objective": "sum", "hardest": 2, "decoder": 18, "heads": 3, "depth": 1},
        {"objective": "mlem", "stage": 1, "scale": 3.0, "bias": -2.0, "weight": 0.3},
        {"objective": "mlem", "stage": 0, "contrastive_share": 0.2, "weight": 0.3},
    ],
)
def test_two_steps_with_other_options(options):
    hold(**options)


@pytest.mark.parametrize("objective, stage", [("sum", 0), ("mlem", 1)])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(rows, objective, stage):
    hold(rows=rows, objective=objective, stage=stage)


def test_the_second_stage_begins_with_a_fresh_encoder_and_freezes_the_trained_one():
    page = exact(method("mlem", sources=FIELDS))
    assert not page.refresh_first  # between the stages alone
    start = copy.deepcopy(page.encoder.state_dict())
    loss = sum(page.losses(page.features(exact(batch(page.views, sources=FIELDS)))).values())
    loss.backward()
    with torch.no_grad():
        for p in page.encoder.parameters():
            p -= 0.1 * p.grad
    trained = copy.deepcopy(page.encoder.state_dict())
    page.refresh(1, None)
    for network, expected in ((page.encoder, start), (page.frozen_encoder, trained)):
        assert all(torch.equal(v, expected[n]) for n, v in network.state_dict().items())
    assert not all(torch.equal(start[n], trained[n]) for n in start)


def test_a_sequence_is_written_token_by_token():
    """The states of `step` are those of all tokens at once, for rows beside each other."""
    page = exact(method("mlem", sources=FIELDS, decoder=12, depth=2))
    torch.manual_seed(0)
    with torch.no_grad():
        for p in page.decoder.parameters():
            p += 0.1 * torch.randn_like(p)
    reference, decoder = Mlem(page), page.decoder.decoders["signal"]
    h, content = torch.randn(3, 64).double(), torch.randn(3, 4, 64).double()
    expected = [reference.decode("signal", one, x) for one, x in zip(h, content)]
    cache = KeyValueCache()
    for t in range(4):
        last = content[:, t - 1] if t else None
        states = decoder.step(Column(h, torch.tensor([1, 4, 7])), last, cache)
        torch.testing.assert_close(states, torch.stack([x[t] for x in expected]))
        assert not states.requires_grad


def test_defaults():
    """The authors' configuration for the data set Age, and CoLES's margin; SigLIP's start."""
    assert defaults("mlem") == {
        "objective": "mlem",
        "contrastive_share": 0.5,
        "slices": 4,
        "margin": 0.5,
        "hardest": 5,
        "width": 64,
        "weight": 1.0,
        "scale": 10.0,
        "bias": -10.0,
        "decoder": 128,
        "depth": 3,
        "heads": 2,
    }
    options = {"width": 64, "slices": 4, "decoder": 128, "depth": 3}
    hold(rows=2, **options)
    hold(rows=2, stage=1, **options)
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 3e-3, 1e-3, (0.9, 0.999))
    assert (r.schedule, r.warmup, r.clip, r.batch_size) == ("constant", 0.0, 0.0, 128)
    assert r.epochs == 320.0  # 70 and 250
