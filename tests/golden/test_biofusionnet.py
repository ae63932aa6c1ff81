"""BioFusionNet, Mondal et al. 2024, arXiv:2402.10717: sections III-C to III-E, and the authors' code."""

import dataclasses

import pytest
import torch
from torch.nn.functional import relu

from amodal.core import Column, name_code
from amodal.masking.hashing import normal, uniform
from amodal.methods.fusion.biofusionnet import PAPER_RECIPE
from amodal.nn.heads.supervised import Target
from tests.golden import harness
from tests.golden.harness import Reference, defaults, golden
from tests.golden.transformers import attend, block, linear, norm
from tests.methods.bench import batch

KIND = Target("kind", "classes", ("a", "b", "c"))
DEATH = Target("days,dead", "survival", ("no", "yes"))


class BioFusionNet(Reference):
    elbo, latent, depth, hidden, dropout = 1.0, 8, 1, 32, 0.0
    patches, late, outputs = "picture", "", 3
    event_weight = 5.0

    def check_start(self):
        d, fields = self.encoder.width, [f for f in self.encoder.fields if f != self.late]
        h, half, quarter, least = (max(self.hidden // part, 1) for part in (1, 2, 4, 16))
        self.assert_shapes(
            fusion__layers__0__0__weight=(h, d * len(fields)),
            fusion__layers__1__0__weight=(half, h),
            fusion__layers__2__0__weight=(quarter, half),
            fusion__layers__3__0__weight=(least, quarter + d * bool(self.late)),
            head__net__0__weight=(self.outputs, least),
        )
        assert f"fusion.transformer.blocks.{self.depth}.up.weight" not in self.w
        if self.elbo:
            self.assert_shapes(vae__mean__weight=(self.latent, 2 * self.latent))
        assert self.min_batch_size == 1
        assert all(p.requires_grad for p in self.encoder.parameters())

    def losses(self, batch):
        tokens = self.encoder.encode(self.encoder.tokenize(batch))
        outputs, elbo = {}, []
        for r in range(batch.size):
            present = {f: t.x[t.row == r] for f, t in tokens.items() if (t.row == r).any()}
            if self.elbo and self.patches in present:
                present[self.patches], loss = self.autoencode(present[self.patches], batch.seeds[r])
                elbo.append(loss)
            if present:
                outputs[r] = self.output(present, batch.seeds[r])
        terms = self.supervised(batch, outputs)
        if self.elbo and self.patches in tokens:
            each = torch.cat(elbo) if elbo else 0 * self.w["vae.mean.bias"]
            terms["elbo"] = self.elbo * each.mean()
        return terms

    def supervised(self, batch, outputs):
        """A label with classes, which the page takes too."""
        labels = batch.labels["kind"]
        losses = [
            outputs[r].logsumexp(0) - outputs[r][y]
            for r, y in zip(labels.rows.tolist(), labels.values.tolist())
            if r in outputs
        ]
        nothing = 0 * self.w["head.net.0.bias"].sum()
        return {"predict/kind": sum(losses) / len(losses) if losses else nothing}

    def autoencode(self, x, seed):
        """Squared error and divergence from a standard normal variable, summed over dimensions as
        in the authors' code, and here divided by the number of inputs. Means go on. What is to be
        decoded is fixed, as the authors' descriptors are."""
        inside = relu(linear(self.w, "vae.in_proj.0", x))
        mean = linear(self.w, "vae.mean", inside)
        log_var = linear(self.w, "vae.log_variance", inside)
        z = mean + (log_var / 2).exp() * self.noise(x, seed)
        made = linear(self.w, "vae.out_proj.2", relu(linear(self.w, "vae.out_proj.0", z)))
        error = ((made - x.detach()) ** 2).sum(1)
        prior = -(1 + log_var - mean**2 - log_var.exp()).sum(1) / 2
        return linear(self.w, "vae.latent_proj", mean), (error + prior) / x.shape[1]

    def noise(self, x, seed):
        """Of each token by its place."""
        place, number = torch.arange(len(x))[:, None], torch.arange(self.latent)
        return normal(seed[None, None], name_code("compressed"), place, number).double()

    def output(self, present, seed):
        """Two stages of attention to the other field, one back to the field's own input, a
        transformer, and layers that clinical variables join last."""
        late = present.pop(self.late, None)
        co = {f: self.read("first", f, present, present) for f in present}
        dual = {f: self.read("second", f, co, co) for f in present}
        back = {
            f: self.attention(f"fusion.attention.back.{f}", dual[f], present[f]) for f in present
        }
        fields = [f for f in self.encoder.fields if f != self.late]
        vectors = self.fused(back)
        x = torch.cat([vectors.get(f, self.w[f"fusion.absent.{f}"]) for f in fields])
        for i in range(4):
            if i == 3 and self.late:
                z = self.w[f"fusion.absent.{self.late}"] if late is None else late.mean(0)
                x = torch.cat([x, z])
            name = f"fusion.layers.{i}"
            x = relu(norm(self.w, f"{name}.1", linear(self.w, f"{name}.0", x)))
            if i < 2 and self.dropout:
                place = torch.arange(len(x))
                stays = uniform(seed[None], name_code(f"dropout {i}"), place) >= self.dropout
                x = x * stays / (1 - self.dropout)
        return linear(self.w, "head.net.0", x)

    def read(self, stage, f, queries, keys):
        others = [keys[o] for o in keys if o != f]
        others = torch.cat(others) if others else queries[f][:0]
        return self.attention(f"fusion.attention.{stage}.{f}", queries[f], others)

    def attention(self, name, x, y):
        """One head; of nothing it reads zero."""
        q, (k, v) = (
            linear(self.w, f"{name}.query", x),
            linear(self.w, f"{name}.key_value", y).chunk(2, 1),
        )
        read = attend(q, k, v, 1) if len(y) else torch.zeros_like(x)
        return linear(self.w, f"{name}.out", read)

    def fused(self, x):
        """A transformer over the tokens of all fields; of each field the mean."""
        if not x:
            return {}
        kind = [f for f in x for _ in x[f]]
        y = torch.cat(list(x.values()))
        for i in range(self.depth):
            y = block(self.w, f"fusion.transformer.blocks.{i}", y, self.encoder.num_heads)
        y = norm(self.w, "fusion.transformer.norm", y)
        return {f: y[[k == f for k in kind]].mean(0) for f in x}


class Survival(BioFusionNet):
    """The weighted Cox loss, with the risk sets of Cox: who is still under observation."""

    outputs = 1

    def supervised(self, batch, outputs):
        time, dead = (
            dict(zip(batch.labels[n].rows.tolist(), batch.labels[n].values.tolist()))
            for n in ("days", "dead")
        )
        rows = [r for r in outputs if r in time and r in dead]
        weight = {r: self.event_weight if dead[r] else 1.0 for r in rows}
        total, events = 0 * self.w["head.net.0.bias"].sum(), 0
        for i in rows:
            if dead[i]:
                at_risk = [weight[j] * outputs[j][0].exp() for j in rows if time[j] >= time[i]]
                total = total + weight[i] * (torch.log(sum(at_risk)) - outputs[i][0])
                events += weight[i]
        return {"predict/days,dead": total / max(events, 1e-9)}


def linear_of(network, x):
    return x @ network.weight.T + network.bias


class Descriptors(BioFusionNet):
    """The paper's order: descriptors of patches through an autoencoder that learns first and then
    is fixed, one layer of attention among what it makes of them, and fusion."""

    stage, patches = 0, "signal"

    def __init__(self, page):
        page.on_stage_start(self.stage)
        super().__init__(page)

    def check_start(self):
        d, body = self.encoder.width, self.encoder.tokenizers["signal"].body
        assert body.autoencoder.mean.weight.shape == (self.latent, 2 * self.latent)
        assert body.autoencoder.in_proj[0].weight.shape == (2 * self.latent, 2)
        assert self.encoder.tokenizers["signal"].project.weight.shape == (d, self.latent)
        learns = {n for n, p in self.encoder.named_parameters() if p.requires_grad}
        first = {n for n in learns if n.startswith("tokenizers.signal.body.autoencoder.")}
        assert (learns == first and len(first) == 10) if self.stage == 0 else not first
        assert any(p.requires_grad for p in self.w.values()) == bool(self.stage)

    def losses(self, batch):
        if self.stage == 0:
            return {"elbo": self.elbo * torch.cat(self.of_patches(batch)).mean()}
        tokens = self.encoder.encode(self.encoder.tokenize(batch.only("words")))
        tokens = {"words": [tokens["words"].x[tokens["words"].row == r] for r in range(batch.size)]}
        tokens["signal"] = self.slides(batch)
        outputs = {}
        for r in range(batch.size):
            present = {f: x[r] for f in ("signal", "words") if len((x := tokens[f])[r])}
            if present:
                outputs[r] = self.output(present, batch.seeds[r])
        return self.supervised(batch, outputs)

    def lists(self, batch):
        """Row -> its descriptors in deviations from the means of all records."""
        series, column = self.encoder.fields["signal"], batch["signal"]
        mean, std = (torch.tensor(m, dtype=torch.float64) for m in (series.mean, series.std))
        lists = column.values.flat.split(column.values.lengths.tolist())
        return {r: (x - mean) / std for r, x in zip(column.rows.tolist(), lists)}

    def of_patches(self, batch):
        vae, losses = self.encoder.tokenizers["signal"].body.autoencoder, []
        for r, x in self.lists(batch).items():
            inside = relu(linear_of(vae.in_proj[0], x))
            mean, log_var = linear_of(vae.mean, inside), linear_of(vae.log_variance, inside)
            z = mean + (log_var / 2).exp() * self.noise(x, batch.seeds[r])
            made = linear_of(vae.out_proj[2], relu(linear_of(vae.out_proj[0], z)))
            prior = -(1 + log_var - mean**2 - log_var.exp()).sum(1) / 2
            losses.append((((made - x) ** 2).sum(1) + prior) / 2)
        return losses

    def slides(self, batch):
        """Row -> the tokens of its patches, of which there may be none."""
        reader, out = self.encoder.tokenizers["signal"], {}
        vae, attention = reader.body.autoencoder, reader.body.attention
        for r, x in self.lists(batch).items():
            mean = linear_of(vae.mean, relu(linear_of(vae.in_proj[0], x)))
            q, (k, v) = (
                linear_of(attention.query, mean),
                linear_of(attention.key_value, mean).chunk(2, 1),
            )
            mixed = torch.softmax(q @ k.T / self.latent**0.5, 1) @ v
            out[r] = linear_of(reader.project, linear_of(attention.out, mixed))
        return {r: out.get(r, torch.zeros(0)) for r in range(batch.size)}


def hold(base=BioFusionNet, fields=("picture", "words"), rows=6, target=KIND, **options):
    options = {"dropout": 0.0, "hidden": 32, "latent": 8, "depth": 1} | options
    reference = type("BioFusionNet", (base,), options)
    also = {"targets": (target,), "label": target.name}
    golden(
        "biofusionnet", reference, views=("weak",), fields=fields, rows=rows, also=also, **options
    )


@pytest.mark.parametrize(
    "options",
    [
        {"elbo": 0.0},
        {"patches": "words"},
        {"depth": 2, "elbo": 0.3, "latent": 5, "patches": "picture"},
        {"hidden": 16, "dropout": 0.3, "patches": "picture"},
        {"late": "words", "patches": "picture"},
        {"late": "picture", "elbo": 0.0},
    ],
)
def test_two_steps(options):
    hold(**options)


@pytest.mark.parametrize("options", [{"late": "facts"}, {"dropout": 0.2}])
def test_two_steps_of_three_fields(options):
    hold(fields=("words", "picture", "facts"), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"stage": 0},
        {"stage": 1, "elbo": 0.3},
        {"stage": 0, "elbo": 0.3, "latent": 5, "rows": 2},
        {"stage": 1, "latent": 5, "depth": 2, "dropout": 0.3},
    ],
)
def test_an_autoencoder_of_descriptors_learns_first(options):
    stage = options.pop("stage")
    base = type("Descriptors", (Descriptors,), {"stage": stage})
    hold(base, fields=("signal", "words"), patches="signal", pretrain=0.25, **options)


def test_narrow_layers():
    hold(hidden=8, elbo=0.0)


def test_a_field_alone_does_not_join_late():
    also = {"targets": (KIND,), "label": "kind", "late": "picture"}
    options = {"dropout": 0.0, "hidden": 32, "latent": 8, "depth": 1}
    reference = type("BioFusionNet", (BioFusionNet,), options)
    golden("biofusionnet", reference, views=("weak",), fields=("picture",), also=also, **options)


@pytest.mark.parametrize("event_weight", [5.0, 1.0, 0.25])
def test_survival(monkeypatch, event_weight):
    def labelled(*args, **kwargs):
        whole = batch(*args, **kwargs)
        days = torch.tensor([9.0, 4.0, 4.0, 7.0, 2.0]).double()
        dead = torch.tensor([0, 1, 1, 1, 0])
        more = {
            "days": Column(days, torch.tensor([0, 1, 2, 3, 5])),
            "dead": Column(dead, torch.tensor([0, 1, 2, 4, 5])),
        }
        return dataclasses.replace(whole, labels=whole.labels | more)

    monkeypatch.setattr(harness, "batch", labelled)
    hold(Survival, target=DEATH, event_weight=event_weight)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(rows):
    hold(rows=rows)


def test_defaults():
    """The authors' configuration."""
    assert defaults("biofusionnet") == {
        "label": "",
        "targets": (),
        "task": "survival",
        "event_weight": 5.0,
        "late": "",
        "patches": "",
        "pretrain": 0.0,
        "elbo": 1.0,
        "latent": 256,
        "depth": 3,
        "hidden": 512,
        "dropout": 0.1,
    }
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 1e-4, 0.01, (0.9, 0.999))
    assert (r.schedule, r.warmup, r.clip) == ("constant", 0.0, 0.0)
    assert (r.batch_size, r.epochs, r.resolution) == (12, 1000.0, 224)
