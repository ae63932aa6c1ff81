"""MMA-DFER, Chumachenko et al. 2024, arXiv:2404.09010: section 3, and the authors' code."""

import pytest
import torch

from amodal.core import AmodalError
from amodal.methods.adaptation.mma_dfer import PAPER_RECIPE
from tests.golden.harness import Reference, defaults, golden
from tests.golden.transformers import block, gelu, linear, norm, sines
from tests.methods.bench import method

SINGLE = 1e-6
"""Positions of steps in time are in single precision."""


class MMADFER(Reference):
    lead, prompts, every, bottleneck, meet = "picture", 3, 6, 8, True
    hidden, depth, balanced, frozen = 32, 1, False, True
    blocks, head_heads = 2, 8

    def check_start(self):
        """Gates are shut; encoders are frozen."""
        p, d = dict(self.encoder.named_parameters()), self.encoder.width
        for name, value in p.items():
            assert value.requires_grad == (name.startswith("block_hook") or not self.frozen), name
        groups = len(range(0, self.blocks, self.every))
        for f in self.encoder.fields:
            if self.prompts:
                assert p[f"block_hook.start.{f}"].shape == (groups * self.prompts, d)
                assert p[f"block_hook.later.{f}"].shape == (groups, self.prompts, d)
                for part in ("start", "later"):
                    assert 0.9 < p[f"block_hook.{part}.{f}"].std() * d**0.5 < 1.1
            if self.bottleneck:
                assert p[f"block_hook.gate.{f}"].shape == (self.blocks,)
                assert not p[f"block_hook.gate.{f}"].any()
                assert p[f"block_hook.down.{f}.0.0.weight"].shape == (self.bottleneck, d)
        assert self.w["head.project.weight"].shape == (self.hidden, d)
        assert f"head.trunk.blocks.{self.depth}.up.weight" not in self.w
        assert self.min_batch_size == 1

    def losses(self, batch):
        self.p = dict(self.encoder.named_parameters())
        of_row = dict(zip(batch.labels["kind"].rows.tolist(), batch.labels["kind"].values.tolist()))
        tokens, found = self.encoder.tokenize(batch), {}
        for r in range(batch.size):
            own = {f: t.x[t.row == r] for f, t in tokens.items() if (t.row == r).any()}
            if not own or r not in of_row:
                continue
            times = {f: t.position[t.row == r, 0] for f, t in tokens.items()}
            logits = self.over_time(self.side_by_side(own), times)
            loss = logits.logsumexp(0) - logits[of_row[r]]
            found.setdefault(of_row[r] if self.balanced else 0, []).append(loss)
        if not found:
            return {"supervised": 0 * self.w["head.head.bias"].sum()}
        classes = [sum(losses) / len(losses) for losses in found.values()]
        return {"supervised": sum(classes) / len(classes)}

    def side_by_side(self, x):
        """Field -> tokens at the end: blocks, and between them prompts and a bottleneck in which
        fields get the mean of what each other one says."""
        own, names = {f: len(t) for f, t in x.items()}, "block_hook"
        for i in range(self.blocks):
            if i == 0 and self.prompts:
                x = {f: torch.cat([t, self.p[f"{names}.start.{f}"]]) for f, t in x.items()}
            x = {
                f: block(self.p, f"trunks.{f}.blocks.{i}", t, self.encoder.num_heads)
                for f, t in x.items()
            }
            if self.bottleneck:
                x = self.adapted(x, i)
            if self.prompts and i % self.every == 0:  # some of the prompts are added to
                for f in x:
                    at = own[f] + i // self.every * self.prompts
                    new = torch.zeros_like(x[f])
                    new[at : at + self.prompts] = self.p[f"{names}.later.{f}"][i // self.every]
                    x[f] = x[f] + new
        return {f: norm(self.p, f"trunks.{f}.norm", t[: own[f]]) for f, t in x.items()}

    def adapted(self, x, i):
        down, up, low = "block_hook.down", "block_hook.up", {}
        for f, t in x.items():
            low[f] = norm(self.p, f"{down}.{f}.{i}.1", linear(self.p, f"{down}.{f}.{i}.0", t))
        made = {}
        for f, t in x.items():
            others = [low[o].mean(0) for o in x if o != f and self.meet]
            said = sum(others) / len(others) if others else 0
            update = gelu(linear(self.p, f"{up}.{f}.{i}.0", low[f] + said))
            made[f] = t + torch.tanh(self.p[f"block_hook.gate.{f}"][i]) * update
        return made

    def over_time(self, x, times):
        """A step is what the field says at a moment and what the others say; a transformer with a
        class token reads the steps."""
        others = [t.mean(0) for f, t in x.items() if f != self.lead]
        said = sum(others) / len(others) if others else 0
        if self.lead in x:
            moments = sorted(set(times[self.lead].tolist()))
            steps = [x[self.lead][times[self.lead] == m].mean(0) + said for m in moments]
        else:
            moments, steps = [0.0], [said]
        position = torch.tensor([[m, 0.0, 0.0] for m in moments])
        y = linear(self.w, "head.project", torch.stack(steps)) + sines(position, self.hidden)
        y = torch.cat([self.w["head.cls.token"][None], y])
        for i in range(self.depth):
            y = block(self.w, f"head.trunk.blocks.{i}", y, self.head_heads)
        return linear(self.w, "head.head", norm(self.w, "head.trunk.norm", y)[0])


def hold(fields=("picture", "words"), rows=6, size="nano", blocks=2, **options):
    """`blocks` of each encoder."""
    options = {"hidden": 32, "bottleneck": 8} | options
    reference = type("MMADFER", (MMADFER,), {"blocks": blocks, "lead": fields[0]} | options)
    golden(
        "mma_dfer",
        reference,
        views=("weak",),
        fields=fields,
        rows=rows,
        size=size,
        tolerance=SINGLE,
        **options,
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"every": 1, "prompts": 2, "bottleneck": 16},
        {"meet": False, "balanced": True},
        {"prompts": 0, "depth": 2},
        {"bottleneck": 0},
        {"bottleneck": 0, "prompts": 0},
        {"frozen": False, "balanced": True},
    ],
)
def test_two_steps(options):
    hold(**options)


@pytest.mark.parametrize("every", [2, 3])
def test_prompts_are_added_to_group_by_group(every):
    hold(size="tiny", blocks=4, rows=3, every=every)


@pytest.mark.parametrize("lead", ["words", "signal", "picture"])
@pytest.mark.parametrize("meet", [True, False])
def test_steps_in_time_of_one_of_three_fields(lead, meet):
    hold(("picture", "words", "signal"), rows=6, lead=lead, meet=meet)


@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows(rows):
    hold(rows=rows)


@pytest.mark.parametrize("hidden,heads", [(48, 8), (36, 4), (30, 2), (15, 1)])
def test_heads_divide_the_width(hidden, heads):
    reference = {"hidden": hidden, "head_heads": heads}
    golden(
        "mma_dfer",
        type("MMADFER", (MMADFER,), reference),
        views=("weak",),
        tolerance=SINGLE,
        hidden=hidden,
        bottleneck=8,
    )


def test_defaults():
    """The authors' configuration."""
    assert defaults("mma_dfer") == {
        "label": "",
        "classes": 0,
        "lead": "",
        "prompts": 3,
        "every": 6,
        "bottleneck": 128,
        "meet": True,
        "hidden": 512,
        "depth": 1,
        "balanced": False,
        "frozen": True,
    }
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 1e-4, 1e-2, (0.9, 0.999))
    assert (r.schedule, r.warmup, r.clip) == ("cosine", 0.0, 0.0)
    assert (r.batch_size, r.epochs, r.resolution) == (8, 25.0, 224)


def test_a_label_and_two_classes_are_needed():
    for wrong in ({"label": ""}, {"classes": 1}):
        with pytest.raises(AmodalError, match="at least 2"):
            method("mma_dfer", **wrong)
    assert method("mma_dfer", classes=2).classes == 2
