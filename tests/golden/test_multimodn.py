"""MultiModN, Swamy et al. 2023, arXiv:2309.14118: section 3, and the authors' loss."""

import dataclasses

import pytest
import torch

from amodal.core import Column
from amodal.methods.fusion.multimodn import PAPER_RECIPE
from tests.golden import harness, naive
from tests.golden.harness import Reference, defaults, golden
from tests.methods.bench import batch

KIND = {"name": "kind", "kind": "classes", "classes": ("a", "b", "c")}
SIDE = {"name": "side", "kind": "classes", "classes": ("left", "right")}


class MultiModN(Reference):
    order, change, hidden, state_width, targets = ("picture", "words"), 0.003, 32, 50, (KIND,)
    shuffle, separate, layers = False, False, 1

    def check_start(self):
        assert self.w["steps.start"].shape == (self.state_width,)
        assert self.w["steps.start"].std() > 0  # drawn, so that no unit is like another
        assert self.w["steps.start"].requires_grad

    def losses(self, batch):
        h = self.encoder.features(batch).columns
        start = dict.fromkeys(range(batch.size), self.w["steps.start"])
        after, sizes = {f: {} for f in self.order}, {f: {} for f in self.order}
        for row in range(batch.size):
            state = start[row]
            for field in self.order_of(row, batch):
                if field not in h or row not in h[field].rows.tolist():
                    continue  # a missing field is skipped
                value = h[field].values[h[field].rows.tolist().index(row)]
                w = self.w[f"steps.steps.{field}.weight"], self.w[f"steps.steps.{field}.bias"]
                new = w[0] @ torch.cat([value, state]) + w[1]
                after[field][row], sizes[field][row] = new, ((new - state) ** 2).mean()
                state = new
        errors = [self.errors(states, batch) for states in (start, *after.values())]
        changes = [sum(s.values()) / len(s) for s in sizes.values() if s]
        terms = {}
        for target in self.targets:
            total = sum(e[target["name"]] for e in errors)
            terms[f"predict/{target['name']}"] = total / len(errors) / len(self.targets)
        if self.change:
            terms["change"] = self.change * sum(changes) / len(self.order)
        return terms

    def order_of(self, row, batch):
        """Of the fields, that of a record; while shuffling, by a number drawn for each."""
        if not self.shuffle:
            return self.order
        seed = int(batch.seeds[row])
        drawn = {f: naive.uniform(seed, i) for i, f in enumerate(self.order)}
        return sorted(self.order, key=drawn.get)

    def errors(self, states, batch):
        """Of each task, the mean cross-entropy of those records whose label is known."""
        made, begin = {}, 0
        for target in self.targets:
            label, width = batch.labels[target["name"]], len(target["classes"])
            losses = []
            for row, state in states.items():
                if row in label.rows.tolist():
                    y = int(label.values[label.rows.tolist().index(row)])
                    outputs = self.decode(state)[begin : begin + width]
                    losses.append(outputs.logsumexp(0) - outputs[y])
            made[target["name"]] = sum(losses) / len(losses) if losses else 0.0
            begin += width
        return made

    def decode(self, state):
        if self.separate:
            return torch.cat([self.decoder(state, n) for n in range(len(self.targets))])
        if self.hidden:
            x = self.w["head.net.0.weight"] @ state + self.w["head.net.0.bias"]
            x = x * (1 + torch.erf(x / 2**0.5)) / 2
            return self.w["head.net.2.weight"] @ x + self.w["head.net.2.bias"]
        return self.w["head.net.0.weight"] @ state + self.w["head.net.0.bias"]

    def decoder(self, state, task):
        """The authors' MLPDecoder: ReLU between linear layers."""
        for layer in range(self.layers):
            name = f"head.net.of_tasks.{task}.{2 * layer}"
            state = (self.w[f"{name}.weight"] @ state + self.w[f"{name}.bias"]).relu()
            assert len(state) == self.hidden
        name = f"head.net.of_tasks.{task}.{2 * self.layers}"
        return self.w[f"{name}.weight"] @ state + self.w[f"{name}.bias"]


KNOWN = ("hidden", "change", "targets", "separate", "layers")


def hold(sequence=("picture", "words"), fields=None, **options):
    known = {k: v for k, v in options.items() if k in KNOWN}
    known |= {"shuffle": options.get("shuffle", False)}
    known |= {"order": sequence, "state_width": options.get("state", 50)}
    golden(
        "multimodn",
        type("MultiModN", (MultiModN,), known),
        views=(options.get("view", "weak"),),
        fields=fields or sequence,
        **options,
    )


def test_two_steps():
    hold()


def test_two_steps_of_three_fields_in_another_order():
    hold(
        ("words", "facts", "picture"), ("picture", "words", "facts"), order="words, facts, picture"
    )


@pytest.mark.parametrize(
    "options",
    [{"hidden": 0, "state": 7}, {"change": 2.0, "state": 9, "hidden": 5}, {"view": "plain"}],
)
def test_two_steps_with_other_options(options):
    hold(**options)


def test_two_steps_with_an_order_of_its_own_for_each_record():
    hold(("picture", "words", "facts"), shuffle=True, change=0.5)


def with_another(monkeypatch, change):
    monkeypatch.setattr(harness, "batch", lambda *a, **k: change(batch(*a, **k)))


def test_two_steps_of_two_tasks(monkeypatch):
    def labelled(rows):
        side = Column(torch.tensor([1, 0, 1, 1]), torch.tensor([0, 1, 2, 5]))
        return dataclasses.replace(rows, labels={**rows.labels, "side": side})

    with_another(monkeypatch, labelled)
    hold(targets=(KIND, SIDE), change=0.5)
    for layers in (0, 1, 2):
        hold(targets=(KIND, SIDE), separate=True, layers=layers, hidden=6)


def test_two_steps_where_no_record_has_a_field(monkeypatch):
    """Sums are divided by the number of all fields, as in the authors' program."""
    with_another(monkeypatch, lambda rows: rows.only("picture"))
    hold(change=0.5)


def test_defaults():
    """A state of 50 and hidden layers of 32: the authors' MIMIC experiments. 0.3 / 100: Titanic."""
    options = defaults("multimodn")
    assert (options["state"], options["hidden"], options["change"]) == (50, 32, 0.003)
    assert options["shuffle"] is False and options["view"] == "weak"
    assert options["separate"] is False and options["layers"] == 1
    r = PAPER_RECIPE
    assert (r.optimizer, r.lr, r.weight_decay, r.betas) == ("adamw", 1e-3, 0.0, (0.9, 0.999))
    assert (r.schedule, r.clip, r.batch_size, r.epochs) == ("constant", 0.0, 16, 100.0)
