"""Multi-assignment Sinkhorn, Swetha et al. 2023, arXiv:2308.13077: section 3 and algorithm 1, with the
authors' code for what is compared with what."""

import itertools

import pytest
import torch

from amodal.methods.clustering.multi_sk import PAPER_RECIPE
from tests.golden.harness import Reference, common, defaults, golden, unit

COST_TEMPERATURE, DAMPED = 0.1, 0.25


class MultiSK(Reference):
    width, temperature, anchors, assigned, epsilon, iterations = 8, 0.05, 5, 0.5, 0.07, 20
    queue, weight, across = 0, 1.0, True
    minor, minor_weight, blocks, head = "", 0.1, 0, "perceptron"

    def check_start(self):
        assert self.encoder.space_width == self.width and self.min_batch_size == 2
        for f in self.encoder.fields:
            assert self.w[f"anchors.own/{f}"].shape == (self.anchors, self.encoder.width)
            assert self.w[f"anchors.shared/{f}"].shape == (self.anchors, self.width)
            held = self.queue if self.weight else 0
            assert self.w[f"queue/own/{f}"].shape == (held, self.encoder.width)
            assert self.w[f"queue/shared/{f}"].shape == (held, self.width)
            assert self.w[f"queued/{f}"] == 0
            gated = (self.width, self.width) if self.head == "gated" else None
            gate = getattr(self.encoder.heads[f], "gate", None)
            assert (None if gate is None else gate.weight.shape) == gated
            above = f"extra_blocks.{f}."
            names = {n.removeprefix(above) for n in self.encoder.state_dict() if above in n}
            depth = {n.split(".")[1] for n in names if n.startswith("blocks.")}
            assert len(depth) == self.blocks and bool(names) == bool(self.blocks), names

    def losses(self, batch):
        shared, spaces = self.encoder(batch).columns, {}
        for f, t in self.encoder.patchify(batch).items():
            means = [t.x[t.row == r].mean(0) for r in shared[f].rows.tolist()]
            spaces["own", f] = torch.stack(means) if means else t.x
            spaces["shared", f] = shared[f].values
        self.new = {name: unit(x) for name, x in spaces.items()}
        fields, terms = list(shared), {}
        pairs = list(itertools.combinations(fields, 2))
        total_weight = sum(self.weight_of(a, b) for a, b in pairs)
        for a, b in pairs:
            x, y = (unit(v) for v in common(shared, a, b))
            term = self.info_nce(x @ y.T / self.temperature)
            terms[f"info_nce/{a}~{b}"] = self.weight_of(a, b) * term / total_weight
        full = [f for f in fields if self.weight and self.w[f"queued/{f}"] >= self.queue]
        for a, b in itertools.product(full, full):
            if a == b or self.across:
                total = self.weight * self.weight_of(a, b) * self.consistency(shared, a, b)
                terms[f"anchors/{b}~{a}"] = total / total_weight
        return terms

    def weight_of(self, a, b):
        """tv_weight, ta_weight, … and c_loss_1_1, … of the authors' configuration: a tenth with
        sound, also of sound alone."""
        minor = self.minor.split(",")
        return self.minor_weight if a in minor or b in minor else 1.0

    def info_nce(self, logits):
        """The sum of both directions, as in the authors' NormSoftmaxLoss."""
        n = len(logits)
        if n < 2:
            return 0 * logits.sum()
        rows = sum(z.diag() - z.logsumexp(1) for z in (logits, logits.T))
        return -rows.sum() / n

    def consistency(self, shared, a, b):
        """How a's input space sees a, and how b's place in the joint space is seen from the anchors
        of a there: each is the target of the other."""
        rows = [r for r in shared[a].rows.tolist() if r in shared[b].rows.tolist()]
        scores, targets = [], []
        for space, f in (("own", a), ("shared", b)):
            anchors = unit(self.w[f"anchors.{space}/{a}"])
            new = self.new[space, f]
            every = torch.cat([self.w[f"queue/{space}/{f}"], new]) @ anchors.T
            assigned = self.sinkhorn(every.detach())[self.queue :]
            mine = [shared[f].rows.tolist().index(r) for r in rows]
            scores.append((new @ anchors.T)[mine])
            targets.append(assigned[mine])
        return self.cost(scores[0], targets[1]) + self.cost(scores[1], targets[0])

    def cost(self, scores, target):
        """Binary cross-entropy, with an exponential as the logit."""
        if not scores.numel():
            return 0 * scores.sum()
        x = (scores / COST_TEMPERATURE).exp()
        return ((x.neg().exp() + 1).log() + (1 - target) * x).mean()

    def sinkhorn(self, scores):
        """K slices of the scores, of which the last R are not damped; sums over rows, slices and
        anchors are set in turn."""
        (n, k), r = scores.shape, max(int(self.assigned * self.anchors), 1)
        factors = [DAMPED] * (k - r) + [1.0] * r
        if not n:
            return scores
        q = torch.stack([scores * f / self.epsilon for f in factors])
        q = (q - q.max()).exp()
        for _ in range(self.iterations):
            q = q / q.sum(1, keepdim=True) * n / k
            q = q / q.sum(0, keepdim=True)
            q = q / q.sum(2, keepdim=True)
        total = q[k - r :].sum(0)
        low, high = total.min(1, keepdim=True).values, total.max(1, keepdim=True).values
        return (total - low) / (high - low).clamp(min=1e-300)

    def after_step(self, step, steps):
        for (space, f), x in self.new.items() if self.weight else ():
            name = f"queue/{space}/{f}"
            whole = torch.cat([self.w[name], x.detach()])
            self.w[name] = whole[len(whole) - self.queue :]
            if space == "own":
                self.w[f"queued/{f}"] = self.w[f"queued/{f}"] + len(x)


def multi_sk(**options):
    return type("MultiSK", (MultiSK,), options)


SMALL = {"width": 8, "anchors": 5, "queue": 0}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fields": ("picture", "words", "facts"), "queue": 3},
        {"queue": 4, "iterations": 3},
        {"across": False},
        {"queue": 6, "across": False},
        {"assigned": 0.1},
        {"temperature": 0.2, "assigned": 0.2, "epsilon": 0.2, "weight": 0.3, "anchors": 6},
        {"assigned": 0.9, "anchors": 3, "width": 4},
        {"weight": 0.0, "queue": 4},
        {"fields": ("picture", "words", "facts"), "minor": "facts", "head": "gated"},
        {
            "fields": ("picture", "words", "facts"),
            "minor": "facts,words",
            "minor_weight": 0.4,
            "weight": 1.2,
        },
        {"blocks": 1, "head": "gated"},
    ],
)
def test_two_steps(options):
    own = {k: v for k, v in (SMALL | options).items() if k != "fields"}
    # logits are exponentials of cosines over a tenth
    golden("multi_sk", multi_sk(**own), views=("weak",), tolerance=1e-8, **(SMALL | options))


@pytest.mark.parametrize("rows", [1, 2])
def test_one_pair_and_none(rows):
    golden("multi_sk", multi_sk(**SMALL), views=("weak",), rows=rows, **SMALL)


def test_defaults():
    """configs/pretraining/resnet_tva.yaml of the authors, whose joint space is 6,144 wide."""
    assert defaults("multi_sk") == {
        "width": 128,
        "temperature": 0.05,
        "anchors": 64,
        "assigned": 0.5,
        "epsilon": 0.07,
        "iterations": 20,
        "queue": 5500,
        "weight": 1.0,
        "across": True,
        "head": "perceptron",
        "blocks": 0,
        "minor": "",
        "minor_weight": 0.1,
    }


def test_recipe():
    """The rate falls by a tenth after each of 15 epochs."""
    r = PAPER_RECIPE
    assert r.epochs == 15 and r.lr == 5e-5 and r.batch_size == 216 and r.ema == 0.9999
    assert r.schedule == "step" and r.decay_rate == 0.9 and r.weight_decay == 0
    assert r.milestones == pytest.approx([k / 15 for k in range(1, 15)])
