"""Missing-aware prompts, Lee et al. 2023, arXiv:2303.03369: sections 3.2 and 3.3, and the authors'
code."""

import pytest
import torch

from amodal.methods.missing_modality.missing_aware_prompts import PAPER_RECIPE
from tests.golden.harness import Reference, defaults, golden
from tests.golden.transformers import attend, block, gelu, linear, mlp, norm

FIELDS = ("picture", "words")


class Prompts(Reference):
    prompt_type, length, layers, accumulate, missing_aware = "input", 16, 6, True, True
    hidden, depth = 2.0, 2

    def check_start(self):
        """One set for each way in which fields are there, for as many layers as have prompts; the
        transformer is frozen, and one for all fields."""
        learns = {n for n, p in self.encoder.named_parameters() if p.requires_grad}
        assert learns == {"block_hook.tokens"} and self.encoder.trunk == "joint"
        tokens, d = dict(self.encoder.named_parameters())["block_hook.tokens"], self.encoder.width
        sets = 2 ** len(self.encoder.fields) - 1 if self.missing_aware else 1
        assert tokens.shape == (sets, min(self.layers, self.depth), self.length, d)
        assert 0.01 < tokens.std() < 0.03
        self.check_head(d, int(self.hidden * d))

    def check_head(self, d, hidden):
        self.assert_shapes(head__net__0__weight=(hidden, d), head__net__2__weight=(3, hidden))

    def losses(self, batch):
        self.p = dict(self.encoder.named_parameters())
        of_row = dict(zip(batch.labels["kind"].rows.tolist(), batch.labels["kind"].values.tolist()))
        tokens, losses = self.encoder.tokenize(batch), []
        for r in range(batch.size):
            own = {f: t.x[t.row == r] for f, t in tokens.items() if (t.row == r).any()}
            if own and r in of_row:
                x = self.transformer(torch.cat(list(own.values())), self.pattern(own))
                logits = self.classifier(x)
                losses.append(logits.logsumexp(0) - logits[of_row[r]])
        if not losses:
            return {"predict/kind": 0 * self.p["block_hook.tokens"].sum()}
        return {"predict/kind": sum(losses) / len(losses)}

    def pattern(self, present):
        """Which set of prompts: fields that are there are the ones of a binary number."""
        if not self.missing_aware:
            return 0
        return sum(2**i for i, f in enumerate(self.encoder.fields) if f in present) - 1

    def transformer(self, x, pattern):
        """The mean of a record's own tokens at the end."""
        n, heads = len(x), self.encoder.num_heads
        for i in range(self.depth):
            name = f"trunks.all.blocks.{i}"
            if i >= self.layers:
                x = block(self.p, name, x, heads)
                continue
            prompts = self.p["block_hook.tokens"][pattern, i]
            if self.prompt_type == "attention":
                x = self.with_prefix(name, x, prompts)
            else:  # before the tokens; earlier ones stay, or are replaced
                x = torch.cat([prompts, x if self.accumulate else x[-n:]])
                x = block(self.p, name, x, heads)
        return norm(self.p, "trunks.all.norm", x[-n:]).mean(0)

    def with_prefix(self, name, x, prompts):
        """One half of the prompts are more keys, the other half their values."""
        k, v = prompts.chunk(2)
        q, own_k, own_v = linear(
            self.p, f"{name}.attention.qkv", norm(self.p, f"{name}.norm1", x)
        ).chunk(3, 1)
        read = attend(q, torch.cat([k, own_k]), torch.cat([v, own_v]), self.encoder.num_heads)
        x = x + linear(self.p, f"{name}.attention.out", read)
        return x + mlp(self.p, name, norm(self.p, f"{name}.norm2", x))

    def classifier(self, x):
        return linear(self.w, "head.net.2", gelu(linear(self.w, "head.net.0", x)))


def hold(fields=FIELDS, rows=6, size="nano", depth=2, **options):
    """`depth` is that of the encoder."""
    reference = type("Prompts", (Prompts,), {"depth": depth} | options)
    golden(
        "missing_aware_prompts",
        reference,
        views=("weak",),
        fields=fields,
        rows=rows,
        size=size,
        **options,
    )


@pytest.mark.parametrize("prompt_type", ["input", "attention"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layers": 1, "length": 4},
        {"missing_aware": False, "length": 2, "hidden": 1.5},
        {"accumulate": False, "length": 6},
    ],
)
def test_two_steps(prompt_type, options):
    hold(prompt_type=prompt_type, **options)


@pytest.mark.parametrize("options", [{}, {"accumulate": False}, {"prompt_type": "attention"}])
def test_upper_blocks_have_no_prompts(options):
    """Those of lower ones stay among the tokens."""
    hold(size="tiny", depth=4, layers=2, length=4, rows=4, **options)


@pytest.mark.parametrize("prompt_type", ["input", "attention"])
def test_two_steps_of_more_fields(prompt_type):
    hold(("picture", "words", "facts"), rows=8, length=2, prompt_type=prompt_type)


@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows(rows):
    hold(rows=rows)


def test_a_linear_head():
    class Linear(Prompts):
        hidden = 0.0

        def check_head(self, d, hidden):
            self.assert_shapes(head__net__0__weight=(3, d))

        def classifier(self, x):
            return linear(self.w, "head.net.0", x)

    golden("missing_aware_prompts", Linear, views=("weak",), fields=FIELDS, hidden=0.0)


def test_other_views():
    reference = type("Prompts", (Prompts,), {})
    golden("missing_aware_prompts", reference, views=("plain",), also={"view": "plain"})


def test_defaults():
    """The authors' configuration, of all their data sets."""
    assert defaults("missing_aware_prompts") == {
        "label": "",
        "targets": (),
        "task": "auto",
        "prompt_type": "input",
        "length": 16,
        "layers": 6,
        "accumulate": True,
        "missing_aware": True,
        "hidden": 2.0,
        "head_norm": False,
        "blank": True,
        "missing": 0.0,
        "missing_fields": "",
        "view": "weak",
    }
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 1e-2, 2e-2, (0.9, 0.98))
    assert (r.schedule, r.warmup, r.clip) == ("linear", 0.1, 0.0)
    assert (r.batch_size, r.epochs, r.resolution) == (256, 20.0, 384)
