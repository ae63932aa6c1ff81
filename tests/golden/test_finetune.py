"""Fine-tuning: what of an encoder learns, and what is asked of its vectors. Biases: Ben Zaken et al.
2022, arXiv:2106.10199. Differences of low rank: Hu et al. 2022, arXiv:2106.09685, section 4.1.
Adapters and prompts: Chumachenko et al. 2024, arXiv:2404.09010, for a field alone; prompts of joint
trunks: the shallow ones of Jia et al. 2022, arXiv:2203.12119. Survival: Cox 1972, with Breslow's
ties."""

import dataclasses

import pytest
import torch

from amodal import methods
from amodal.core import AmodalError, Column
from amodal.nn.heads.supervised import Target
from tests.golden import harness
from tests.golden.harness import Reference, defaults, golden
from tests.golden.transformers import block, gelu, linear, norm
from tests.methods.bench import batch, method

KIND = Target("kind", "classes", ("a", "b", "c"))
AGE = Target("age", "amount", mean=40.0, std=12.0)
SIDE = Target("side", "classes", ("left", "right"))
DEATH = Target("days,dead", "survival", ("no", "yes"))
TUNINGS = ("full", "head", "bias", "lora", "adapters", "prompts")


class FineTuning(Reference):
    """A head reads the vectors of all fields side by side; one is learned for a field that a record
    lacks."""

    targets, tuning, hidden, rank, smoothing, depth = (KIND,), "full", 0, 8, 0.0, 2

    def check_start(self):
        d, fields = self.encoder.width, list(self.encoder.fields)
        outputs, joint = sum(t.width for t in self.targets), self.encoder.trunk == "joint"
        inputs = d if joint else len(fields) * d
        if self.hidden:
            first = (self.hidden, inputs)
            self.assert_shapes(head__net__0__weight=first, head__net__2__bias=(outputs,))
        else:
            self.assert_shapes(head__net__0__weight=(outputs, inputs))
        absent = {n: v for n, v in self.w.items() if "absent" in n}
        assert absent.keys() == (set() if joint else {f"head.absent.{f}" for f in fields})
        assert not any(v.any() for v in absent.values())
        assert self.min_batch_size == 1
        assert all(p.requires_grad for p in self.w.values())
        for name, p in self.encoder.named_parameters():
            assert p.requires_grad == self.learns(name), name
            if name.endswith(".b"):
                assert not p.any() and p.shape[1] == self.rank, name
            if name.endswith(".a"):
                assert p.shape[0] == self.rank and 0.4 < p.std() * p.shape[1] ** 0.5 < 0.7, name
            if ".gate." in name:
                assert not p.any()
            if ".start." in name:
                assert p.shape == (self.rank, d)
            if name == "block_hook.tokens":
                assert p.shape == (1, 1, self.rank, d)
        if self.tuning == "lora":
            maps = [n for n in dict(self.encoder.named_parameters()) if n.endswith(".a")]
            assert len(maps) == 4 * self.depth * len(self.encoder.trunks)

    def learns(self, name):
        """What of the encoder does."""
        return {
            "full": True,
            "head": False,
            "bias": name.endswith("bias"),
            "lora": name.endswith((".a", ".b")),
            "adapters": name.startswith("block_hook"),
            "prompts": name.startswith("block_hook"),
        }[self.tuning]

    def losses(self, batch):
        self.p = self.composed()
        tokens = self.encoder.tokenize(batch)
        fields, outputs = sorted(self.encoder.fields), {}
        for r in range(batch.size):
            own = {f: t.x[t.row == r] for f, t in tokens.items() if (t.row == r).any()}
            if own and self.encoder.trunk == "joint":
                outputs[r] = self.head(self.joint_trunk(torch.cat(list(own.values()))))
            elif own:
                absent = {f: self.w[f"head.absent.{f}"] for f in fields}
                z = {f: self.trunk(f, x) for f, x in own.items()}
                outputs[r] = self.head(torch.cat([z.get(f, absent[f]) for f in fields]))
        terms, at = {}, 0
        for t in self.targets:
            part = {r: y[at : at + t.width] for r, y in outputs.items()}
            at += t.width
            values = [
                dict(zip(batch.labels[n].rows.tolist(), batch.labels[n].values.tolist()))
                for n in t.labels
            ]
            rows = [r for r in part if all(r in v for v in values)]
            loss = getattr(self, t.kind)(part, rows, t, *values)
            terms[f"predict/{t.name}"] = loss / len(self.targets)
        return terms

    def composed(self):
        """Weights, with W + 2 B A where a difference of low rank is learned: the authors' alpha is twice
        the rank for RoBERTa."""
        p, mark = dict(self.encoder.named_parameters()), ".parametrizations.weight"
        for name in [n for n in p if n.endswith(f"{mark}.original")]:
            map_name = name.removesuffix(f"{mark}.original")
            a, b = p[f"{map_name}{mark}.0.a"], p[f"{map_name}{mark}.0.b"]
            p[f"{map_name}.weight"] = p[name] + 2 * b @ a
        return p

    def trunk(self, field, x):
        own = len(x)
        for i in range(self.depth):
            if self.tuning == "prompts" and i == 0:
                x = torch.cat([x, self.p[f"block_hook.start.{field}"]])
            x = block(self.p, f"trunks.{field}.blocks.{i}", x, self.encoder.num_heads)
            if self.tuning == "adapters":
                low = linear(self.p, f"block_hook.down.{field}.{i}.0", x)
                low = norm(self.p, f"block_hook.down.{field}.{i}.1", low)
                up = gelu(linear(self.p, f"block_hook.up.{field}.{i}.0", low))
                x = x + torch.tanh(self.p[f"block_hook.gate.{field}"][i]) * up
            if self.tuning == "prompts" and i == 0:
                x = torch.cat([x[:own], x[own:] + self.p[f"block_hook.later.{field}"][0]])
        return norm(self.p, f"trunks.{field}.norm", x[:own]).mean(0)

    def joint_trunk(self, x):
        """Prompts come before the first block and stay to the last."""
        own = len(x)
        if self.tuning == "prompts":
            x = torch.cat([x, self.p["block_hook.tokens"][0, 0]])
        for i in range(self.depth):
            x = block(self.p, f"trunks.all.blocks.{i}", x, self.encoder.num_heads)
        return norm(self.p, "trunks.all.norm", x[:own]).mean(0)

    def head(self, x):
        y = linear(self.w, "head.net.0", x)
        return linear(self.w, "head.net.2", gelu(y)) if self.hidden else y

    def nothing(self):
        return 0 * self.w["head.net.0.bias"].sum()

    def classes(self, outputs, rows, target, of_row):
        """Cross-entropy with smoothed labels."""
        total = self.nothing()
        for r in rows:
            log_p = outputs[r] - outputs[r].logsumexp(0)
            total = total - (1 - self.smoothing) * log_p[int(of_row[r])]
            total = total - self.smoothing * log_p.mean()
        return total / max(len(rows), 1)

    def amount(self, outputs, rows, target, of_row):
        """Squared error, in deviations."""
        total = self.nothing()
        for r in rows:
            total = total + (outputs[r][0] - (of_row[r] - target.mean) / target.std) ** 2
        return total / max(len(rows), 1)

    def survival(self, outputs, rows, target, time, event):
        """At each event: who of those still at risk it is."""
        came = [r for r in rows if event[r] == target.event]
        total = self.nothing()
        for r in came:
            at_risk = torch.stack([outputs[o][0] for o in rows if time[o] >= time[r]])
            total = total + at_risk.logsumexp(0) - outputs[r][0]
        return total / max(len(came), 1)


def hold(fields=("picture", "words"), rows=6, view="weak", targets=(KIND,), **options):
    reference = type("FineTuning", (FineTuning,), {"targets": targets} | options)
    label = ",".join(t.name for t in targets)
    golden(
        "finetune",
        reference,
        views=(view,),
        fields=fields,
        rows=rows,
        also={"view": view, "targets": targets, "label": label},
        **options,
    )


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("fields", [("picture", "words"), ("words", "signal", "facts")])
def test_two_steps(fields, tuning):
    hold(fields, tuning=tuning)


@pytest.mark.parametrize(
    "options",
    [
        {"hidden": 10, "smoothing": 0.3},
        {"smoothing": 0.1, "view": "plain"},
        {"tuning": "lora", "rank": 3},
        {"tuning": "adapters", "rank": 5, "hidden": 7},
        {"tuning": "prompts", "rank": 2},
    ],
)
def test_two_steps_with_other_options(options):
    hold(**options)


@pytest.mark.parametrize("tuning", [t for t in TUNINGS if t != "adapters"])
def test_two_steps_of_a_joint_trunk(monkeypatch, tuning):
    monkeypatch.setattr(methods, "encoder_options", lambda name: {"trunk": "joint"})
    hold(("picture", "words", "facts"), tuning=tuning, rank=3)


def with_labels(monkeypatch):
    def labelled(*args, **kwargs):
        rows = batch(*args, **kwargs)
        more = {
            "age": Column(torch.tensor([41.0, 60.5, 33.0]).double(), torch.tensor([0, 2, 5])),
            "side": Column(torch.tensor([1, 0, 1, 1]), torch.tensor([0, 1, 2, 5])),
            "days": Column(
                torch.tensor([9.0, 4.0, 4.0, 7.0, 2.0]).double(), torch.tensor([0, 1, 2, 3, 5])
            ),
            "dead": Column(torch.tensor([0, 1, 1, 1, 0]), torch.tensor([0, 1, 2, 4, 5])),
        }
        return dataclasses.replace(rows, labels=rows.labels | more)

    monkeypatch.setattr(harness, "batch", labelled)


@pytest.mark.parametrize(
    "targets",
    [(AGE,), (KIND, AGE), (KIND, SIDE, AGE), (DEATH,), (dataclasses.replace(DEATH, event=0),)],
)
def test_two_steps_of_other_labels(monkeypatch, targets):
    with_labels(monkeypatch)
    task = "survival" if targets[0].kind == "survival" else "auto"
    hold(targets=targets, task=task)


@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows(rows):
    hold(rows=rows)


def test_no_label(monkeypatch):
    def without(*args, **kwargs):
        none = Column(torch.tensor([], dtype=torch.int64), torch.tensor([], dtype=torch.int64))
        return dataclasses.replace(batch(*args, **kwargs), labels={"kind": none})

    monkeypatch.setattr(harness, "batch", without)
    hold()


def test_defaults():
    assert defaults("finetune") == {
        "label": "",
        "targets": (),
        "task": "auto",
        "tuning": "full",
        "hidden": 0,
        "rank": 8,
        "smoothing": 0.0,
        "view": "weak",
    }
    with pytest.raises(AmodalError, match="Did you mean lora"):
        method("finetune", tuning="lor")
