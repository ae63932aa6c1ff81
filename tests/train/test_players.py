"""Games of two players, and methods that make their own data, in the one loop."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from amodal.core import AmodalError, Column, Embeddings, Recipe
from amodal.masking.hashing import normal
from amodal.methods.contract import Method
from amodal.nn.encoder import Encoder
from amodal.train import distributed
from amodal.train.collapse_monitor import CollapseMonitor
from amodal.train.loop import train
from amodal.train.players import Players
from amodal.train.step import gradients
from tests.methods.bench import batch, exact, fields
from tests.processes import run_ranks

FIELDS = ("words", "facts")


class Game(Method):
    """The encoder moves features to where a critic takes them for noise that `collect` brings; the
    critic tells them apart."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = Encoder(fields(FIELDS), size="nano")
        self.critic = nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 1))
        self.collected = 0

    def collect(self, whole):
        assert not torch.is_grad_enabled()
        self.collected += 1
        noise = normal(whole.seeds.unsqueeze(1), torch.arange(64, device=whole.seeds.device))
        column = Column(noise.to(self.critic[0].weight.dtype), torch.arange(whole.size))
        return dataclasses.replace(whole, labels=whole.labels | {"noise": column})

    def features(self, whole):
        seen = self.encoder.features(whole.only(*FIELDS))
        return Embeddings(seen.columns | {"noise": whole.labels["noise"]}, whole.size)

    def losses(self, features):
        made, real = self.critic(features["words"].values), self.critic(features["noise"].values)
        return {
            "generator/fool": softplus(-made).mean(),
            "critic/real": softplus(-real).mean(),
            "critic/made": softplus(made).mean(),
        }

    def optimizers(self, make):
        return {
            "generator/": make(self.encoder.parameters()),
            "critic/": make(self.critic.parameters()),
        }


RECIPE = Recipe(steps=6, lr=1e-3, optimizer="adamw")


def collected(m, whole):
    with torch.no_grad():
        return m.collect(whole)


def players(m, recipe=RECIPE) -> Players:
    return Players(m, recipe)


def test_a_term_changes_its_player_only():
    m = exact(Game())
    seen = collected(m, exact(batch(("plain",), sources=FIELDS)))
    gradients(m, seen, players=players(m))
    found = {n: p.grad.clone() for n, p in m.named_parameters() if p.grad is not None}
    for prefix, part in (("generator/", "encoder."), ("critic/", "critic.")):
        m.zero_grad()
        terms = m.losses(m.features(seen))
        sum(term for name, term in terms.items() if name.startswith(prefix)).backward()
        for name, p in m.named_parameters():
            if name.startswith(part) and p.grad is not None:
                torch.testing.assert_close(found[name], p.grad, rtol=1e-9, atol=1e-12)


def test_micro_batches_are_the_whole_batch():
    whole, pieces = exact(Game()), exact(Game())
    seen = collected(whole, exact(batch(("plain",), size=9, sources=FIELDS)))
    one = gradients(whole, seen, players=players(whole))
    other = gradients(pieces, seen, micro=2, players=players(pieces))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-9, atol=1e-9)
    for (name, a), b in zip(whole.named_parameters(), pieces.parameters()):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12)


def one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    m = exact(Game())
    seen = collected(m, exact(batch(("plain",), sources=FIELDS)))
    terms = gradients(m, seen.between(5 * rank, 5 + 3 * rank), players=players(m))
    grads = {n: p.grad for n, p in m.named_parameters() if p.grad is not None}
    torch.save((terms, grads, distributed.world()), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_ranks_are_the_whole_batch(tmp_path):
    run_ranks(one_rank, tmp_path)
    m = exact(Game())
    seen = collected(m, exact(batch(("plain",), sources=FIELDS)))
    terms = gradients(m, seen, players=players(m))
    for rank in range(2):
        its, grads, world = torch.load(tmp_path / f"{rank}.pt")
        assert world == 2
        for name in terms:
            torch.testing.assert_close(its[name], terms[name], rtol=1e-9, atol=1e-9)
        for name, p in m.named_parameters():
            if name in grads:
                expected = torch.zeros_like(p) if p.grad is None else p.grad
                torch.testing.assert_close(grads[name], expected, rtol=1e-9, atol=1e-12)


SEEN = [batch(("plain",), seed=i, sources=FIELDS) for i in range(6)]


class Stop(Exception):
    pass


def run(folder, until=6, resume=False, make=Game, recipe=RECIPE):
    folder.mkdir(exist_ok=True)
    m = make()

    def batches(first):
        for i, one in enumerate(SEEN[first:], first):
            if i >= until:
                raise Stop
            yield one

    quiet = dict(monitor=CollapseMonitor([]), tensorboard=False, progress=False, save_every=1)
    train(m, batches, recipe, folder, resume=resume, **quiet)
    return m


@pytest.mark.parametrize("optimizer", ["adamw", "lamb"])
def test_a_game_resumes_bit_for_bit(tmp_path, optimizer):
    recipe = dataclasses.replace(RECIPE, optimizer=optimizer)
    start, straight = Game(), run(tmp_path / "straight", recipe=recipe)
    with pytest.raises(Stop):
        run(tmp_path / "broken", until=3, recipe=recipe)
    resumed = run(tmp_path / "broken", resume=True, recipe=recipe)
    assert straight.collected == 6 and resumed.collected == 3
    for (name, a), b in zip(straight.state_dict().items(), resumed.state_dict().values()):
        assert torch.equal(a, b), name
    for part in ("encoder.trunks.words", "critic"):
        moved = (
            not torch.equal(a, b)
            for (n, a), b in zip(start.named_parameters(), straight.parameters())
            if part in n
        )
        assert any(moved), part


class Nobody(Game):
    def losses(self, features):
        return super().losses(features) | {"other": self.critic[0].weight.sum()}


class Both(Game):
    def optimizers(self, make):
        return {"generator/": make(self.parameters()), "critic/": make(self.critic.parameters())}


class Idle(Game):
    def optimizers(self, make):
        return {"generator/": make(self.encoder.parameters())}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            Nobody,
            "'other' belongs to 0 players; its name must begin with one of 'generator/', 'critic/'",
        ),
        (Both, "critic.0.* is changed by two players, 'generator/' and 'critic/'"),
        (Idle, "critic.0.weight requires a gradient, and no player changes it"),
    ],
)
def test_a_game_without_clear_players_is_refused(tmp_path, make, words):
    with pytest.raises(AmodalError, match=words):
        run(tmp_path / "run", make=make)
