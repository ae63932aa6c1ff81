"""Action-aware learning, Aubret et al. 2024, arXiv:2407.06704, and the authors' code: views before and
after an action, NT-Xent between them, and between both and the action."""

import pytest
import torch

from amodal.methods.contrastive.aa_ssl import PAPER_RECIPE
from tests.golden.harness import Reference, batch_norm, defaults, golden, projector, unit

FIELDS = ("picture", "facts")


def nt_xent(first, second, temperature):
    """Of all 2 N vectors, but a vector with itself."""
    z, n = unit(torch.cat([first, second])), len(first)
    total = 0 * z.sum()
    for i in range(2 * n if n > 1 else 0):
        logits = z @ z[i] / temperature
        others = [k for k in range(2 * n) if k != i]
        total = total + (logits[others].logsumexp(0) - logits[(i + n) % (2 * n)]) / (2 * n)
    return total


class ActionAware(Reference):
    action, weight, width, hidden, pair_hidden = "facts", 1.0, 8, 256, 1024
    temperature, action_temperature = 0.1, 0.1

    def check_start(self):
        """Perceptrons with one hidden layer and BatchNorm; of actions, a second one without weights."""
        d = self.encoder.width
        views = [f for f in self.encoder.fields if f != self.action]
        for f in views:
            self.assert_shapes(**{f"learned__z__{f}__0__weight": (self.hidden, d)})
            self.assert_shapes(**{f"learned__z__{f}__3__weight": (self.width, self.hidden)})
            self.assert_shapes(**{f"learned__pair__{f}__0__weight": (self.pair_hidden, 2 * d)})
            self.assert_shapes(**{f"learned__pair__{f}__3__weight": (self.width, self.pair_hidden)})
        self.assert_shapes(learned__action__0__weight=(self.hidden, d))
        self.assert_shapes(learned__action__3__weight=(self.width, self.hidden))
        assert "learned.action.4.weight" not in self.w
        assert self.min_batch_size == 2

    def losses(self, batch):
        h = self.encoder(batch).columns
        views = [f for f in self.encoder.fields if f != self.action]
        terms, actions = {}, {}
        for f in views:
            z = [projector(self.w, f"learned.z.{f}", h[f"{f}:{i}"].values) for i in (1, 2)]
            terms[f"nt_xent/{f}"] = nt_xent(*z, self.temperature) / len(views)
            pair, action = self.complete(h, f)
            r = projector(self.w, f"learned.pair.{f}", pair)
            loss = nt_xent(self.action_head(action), r, self.action_temperature)
            actions[f"action/{f}"] = self.weight * loss / len(views)
        return terms | actions

    def complete(self, h, f):
        """Both views side by side, and the action, of the rows that have all."""
        columns = [h[f"{f}:1"], h[f"{f}:2"], h[self.action]]
        of_row = [dict(zip(c.rows.tolist(), c.values)) for c in columns]
        rows = [r for r in of_row[0] if all(r in o for o in of_row)]
        none = columns[0].values[:0]
        before, after, action = (
            torch.stack([o[r] for r in rows]) if rows else none for o in of_row
        )
        return torch.cat([before, after], 1), action

    def action_head(self, x):
        """A perceptron, and BatchNorm without weights."""
        w, ones = self.w, torch.ones(self.width).double()
        x = batch_norm(w, "learned.action.1", x @ w["learned.action.0.weight"].T).relu()
        x = x @ w["learned.action.3.weight"].T
        plain = {"learned.action.4.weight": ones, "learned.action.4.bias": 0 * ones}
        with_weights = w | plain
        x = batch_norm(with_weights, "learned.action.4", x)
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            w[f"learned.action.4.{name}"] = with_weights[f"learned.action.4.{name}"]
        return x


def hold(fields=FIELDS, rows=6, **options):
    options = {"action": "facts", "width": 8, "hidden": 12, "pair_hidden": 10} | options
    reference = type("ActionAware", (ActionAware,), options)
    views = {f: ("strong", "strong") for f in fields if f != options["action"]}
    golden("aa_ssl", reference, views=views, fields=fields, rows=rows, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight": 0.3, "temperature": 0.4, "action_temperature": 0.7},
        {"action": "picture", "width": 6},
    ],
)
def test_two_steps(options):
    hold(**options)


def test_two_steps_of_more_fields():
    hold(("picture", "words", "facts"), rows=8)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows(rows):
    hold(rows=rows)


def test_defaults():
    """The authors' configuration."""
    assert defaults("aa_ssl") == {
        "action": "action",
        "first": "",
        "second": "",
        "weight": 1.0,
        "width": 128,
        "hidden": 256,
        "pair_hidden": 1024,
        "temperature": 0.1,
        "action_temperature": 0.1,
    }
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 5e-4, 1e-6, (0.9, 0.999))
    assert (r.schedule, r.warmup, r.clip) == ("constant", 0.0, 0.0)
    assert (r.batch_size, r.epochs) == (256, 100.0)
