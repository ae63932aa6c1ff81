"""Merkx and Frank 2019, arXiv:1903.11393: the encoder of section 2, equations 1 to 3, and the hinge.

The encoder's GRU is PyTorch's and the tokens are the encoder's; attention, heads and loss are
written out.
"""

import itertools

import pytest
import torch

from amodal.core import AmodalError
from amodal.methods.contrastive.char_vgs import PAPER_RECIPE
from tests.golden.harness import Reference, common, defaults, golden, unit
from tests.methods.bench import batch, method


class CharVgs(Reference):
    margin, reduction, width = 0.2, "sum", 8

    def check_start(self):
        assert self.min_batch_size == 2
        assert self.encoder.space_width == (self.width or self.encoder.width)
        assert isinstance(self.encoder.trunks["words"].gru, torch.nn.GRU)
        assert self.encoder.trunks["words"].gru.bidirectional
        assert self.encoder.pools["words"].score[0].out_features == 128
        has_bias = hasattr(self.encoder.heads["picture"], "bias")
        assert (has_bias and self.encoder.heads["picture"].bias is not None) == (not self.width)

    def losses(self, batch):
        contexts = self.encoder.encode(self.encoder.tokenize(batch))
        z = {}
        for f, tokens in contexts.items():
            column = batch.columns[f]
            z[f] = type(column)(self.vectors(f, tokens, column.rows.tolist()), column.rows)
        pairs, terms = list(itertools.combinations(z, 2)), {}
        for a, b in pairs:
            x, y = common(z, a, b)
            terms[f"hinge/{a}~{b}"] = self.hinge(x, y) / len(pairs)
        return terms

    def vectors(self, field, tokens, rows):
        """Equation 3: each dimension has weights of its own, which add up to 1 over the states."""
        score, head = self.encoder.pools[field].score, self.encoder.heads[field]
        made = []
        for row in rows:
            states = tokens.x[tokens.row == row]
            hidden = (states @ score[0].weight.T + score[0].bias).tanh()
            weights = (hidden @ score[2].weight.T + score[2].bias).exp()
            x = (weights / weights.sum(0) * states).sum(0)
            if self.width:
                x = head.weight @ x
            elif field == "picture":  # pictures alone have a map, into the space of sentences
                x = head.weight @ x + head.bias
            made.append(x)
        return torch.stack(made)

    def hinge(self, x, y):
        """Over all mismatched pairs of a batch, in both directions."""
        x, y, n = unit(x), unit(y), len(x)
        if n < 2:
            return 0 * (x.sum() + y.sum())
        total = 0
        for i in range(n):
            matched = (x[i] * y[i]).sum()
            rows = [(self.margin + (x[i] * y[j]).sum() - matched) for j in range(n) if j != i]
            columns = [(self.margin + (x[j] * y[i]).sum() - matched) for j in range(n) if j != i]
            for terms in (rows, columns):
                losses = torch.stack(terms).relu()
                total = (
                    total
                    + {"sum": losses.sum, "mean": losses.mean, "hardest": losses.max}[
                        self.reduction
                    ]()
                )
        return total / n


def hold(fields=("picture", "words"), **options):
    options = {"width": 8} | options
    known = {k: v for k, v in options.items() if hasattr(CharVgs, k)}
    golden(
        "char_vgs", type("CharVgs", (CharVgs,), known), views=("plain",), fields=fields, **options
    )


@pytest.mark.parametrize("fields", [("picture", "words"), ("picture", "words", "facts")])
def test_two_steps(fields):
    hold(fields)


def test_two_steps_of_the_paper_s_heads():
    hold(width=0)


@pytest.mark.parametrize("options", [{"margin": 0.9}, {"reduction": "mean"}, {"margin": 0.02}])
def test_two_steps_with_other_options(options):
    hold(**options)


def test_two_steps_of_the_hardest():
    hold(reduction="hardest", margin=0.5)


def test_cycles_are_of_equal_length_and_keep_one_optimizer():
    page = method("char_vgs", sources=("picture", "words"), cycles=5)
    assert page.stages == pytest.approx((0.2, 0.4, 0.6, 0.8, 1.0))
    assert page.keeps_optimizer is True
    with pytest.raises(AmodalError, match="at least one cycle"):
        method("char_vgs", sources=("picture", "words"), cycles=0)


@pytest.mark.parametrize("width", [0, 8])
def test_vectors_of_the_last_snapshots_are_added_up(width):
    """One of each cycle's end: those before the last, and the encoder itself."""
    page = method("char_vgs", sources=("picture", "words"), cycles=4, snapshots=3, width=width)
    plain = method("char_vgs", sources=("picture", "words"), cycles=4, width=width)
    inputs = batch(("plain",), sources=("picture", "words"))
    assert page.refresh_first is False and not hasattr(plain, "refresh")
    assert page.stages == plain.stages and len(page.stages) == 4 and page.views == plain.views
    narrow = method(
        "char_vgs", sources=("picture", "words"), cycles=4, snapshots=2, width=width, margin=0.9
    )
    wide = method("char_vgs", sources=("picture", "words"), cycles=4, width=width, margin=0.9)
    pair = [
        {k: float(v.detach()) for k, v in one.losses(one.features(inputs)).items()}
        for one in (narrow, wide)
    ]
    assert pair[0] == pytest.approx(pair[1])
    trained = {n for n, p in page.encoder.named_parameters() if p.requires_grad}
    assert trained == {f"members.0.{n}" for n, _ in plain.encoder.named_parameters()}
    ends = []
    for stage in range(4):
        if stage:
            assert page.refresh(stage, None) is None
        with torch.no_grad():
            for p in page.encoder.first.parameters():
                p += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(stage))
        page.train()
        plain.encoder.load_state_dict(page.encoder.first.state_dict())
        z = plain.encoder.eval()(inputs)
        ends.append({f: unit(z[f].values) for f in ("picture", "words")})
        alone = page.encoder(inputs)
        torch.testing.assert_close(
            alone["words"].values, plain.encoder.train()(inputs)["words"].values
        )
    page.eval()
    for f in ("picture", "words"):
        want = sum(end[f] for end in ends[-3:])
        torch.testing.assert_close(page.encoder(inputs)[f].values, want)
    assert page.encoder.space_width == plain.encoder.space_width
    assert page.encoder.feature_width("words") == 3 * plain.encoder.feature_width("words")
    assert page.encoder.features(inputs)["words"].values.shape[1] == page.encoder.feature_width(
        "words"
    )
    with pytest.raises(AmodalError, match="there are 1 to 4, not 5"):
        method("char_vgs", sources=("picture", "words"), cycles=4, snapshots=5)
    with pytest.raises(AmodalError, match="there are 1 to 4, not 0"):
        method("char_vgs", sources=("picture", "words"), cycles=4, snapshots=0)


def test_without_a_sequence_there_is_no_space_of_sentences():
    with pytest.raises(AmodalError, match="a field of text"):
        method("char_vgs", sources=("picture", "facts"), width=0)


def test_defaults():
    """0.2 and 8 cycles of four epochs: section 2, and the authors' programs."""
    assert defaults("char_vgs") == {
        "width": 128,
        "margin": 0.2,
        "reduction": "sum",
        "cycles": 8,
        "snapshots": 1,
    }
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 1e-4, 0.0, (0.9, 0.999))
    # each cycle rises for its first half
    assert (r.schedule, r.warmup, r.clip, r.batch_size, r.epochs) == ("cosine", 0.5, 0.0, 32, 32.0)
