"""mcl_multistage: stages train an encoder each, among records of one group, and clusters of all
past stages make the groups."""

import numpy as np
import pytest
import torch

from amodal import data, methods
from amodal.core import AmodalError, Column, Embeddings, Recipe
from amodal.nn.encoder import Encoder
from amodal.train.collapse_monitor import CollapseMonitor
from amodal.train.loop import train
from amodal.train.step import gradients
from tests.methods.bench import batch, exact, fields, method

FIELDS = ("words", "facts")


def made(fields=FIELDS, **options):
    return exact(
        method(
            "mcl_multistage", sources=fields, **({"width": 8, "clusters": 3, "parts": 3} | options)
        )
    )


@pytest.mark.parametrize("fields", [("picture",), FIELDS])
def test_each_stage_trains_its_own_encoder(fields):
    m = made(fields)
    assert m.stages == (1 / 3, 2 / 3, 1.0)
    b = exact(batch(m.views, size=12, sources=fields))
    for stage in range(3):
        m.on_stage_start(stage)
        m.zero_grad(set_to_none=True)
        gradients(m, b)
        reached = {
            n
            for n, p in m.encoder.named_parameters()
            if p.grad is not None and p.grad.abs().sum() > 0
        }
        assert reached and all(n.startswith(f"members.{stage}.") for n in reached)
        assert [all(p.grad is not None for p in each.parameters()) for each in m.stage_heads] == [
            i == stage for i in range(3)
        ]


def test_a_group_is_the_tuple_of_clusters_of_all_stages_before():
    m = made()
    generator = torch.Generator().manual_seed(0)
    rows = torch.tensor([i for i in range(40) if i != 7])
    features = torch.randn(39, 3 * m.encoder.width, dtype=torch.float64, generator=generator)
    seen = Embeddings(
        {"words": Column(features, rows), "facts": Column(features[:0], rows[:0])}, 40
    )
    one, two = m.refresh(1, lambda: seen), m.refresh(2, lambda: seen)
    first, second = (m.clustered(i, seen) for i in (0, 1))
    assert first.unique().tolist() == [0, 1, 2, 3] and int(first[7]) == 3
    tuples = {(int(a), int(b)) for a, b in zip(first, second)}
    assert one.unique().numel() == 4 and two.unique().numel() == len(tuples) > 4
    for i in range(40):
        for j in range(40):
            assert (one[i] == one[j]) == (first[i] == first[j])
            assert (two[i] == two[j]) == (first[i] == first[j] and second[i] == second[j])
    assert [int(g) for g in one[first.argsort()]] == sorted(one.tolist())


def test_a_stage_begins_at_the_start_or_where_the_last_one_ended():
    for carry_on in (False, True):
        m = made(carry_on=carry_on)
        start = {n: v.clone() for n, v in m.encoder.members[1].state_dict().items()}
        with torch.no_grad():
            for p in m.encoder.first.parameters():
                p.add_(1)
        seen = Embeddings(
            {s: Column(torch.eye(8, 192).double(), torch.arange(8)) for s in FIELDS}, 8
        )
        m.refresh(1, lambda seen=seen: seen)
        for name, value in m.encoder.members[1].state_dict().items():
            assert torch.equal(
                value, start[name] + carry_on if value.is_floating_point() else value
            )


def test_a_run_draws_later_batches_from_one_group(tmp_path):
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice(["red", "boat", "sea", "on"], 4)) for _ in range(24)]
    tables = [
        {"age": float(i % 2 * 10 + rng.normal()), "colour": "red" if i % 2 else "blue"}
        for i in range(24)
    ]
    records = data.open({"words": words, "facts": tables}).with_fields(fields(FIELDS))
    torch.manual_seed(0)
    m = methods.build(
        "mcl_multistage",
        Encoder(fields(FIELDS), size="nano"),
        parts=2,
        clusters=2,
        cluster_field="facts",
        width=8,
    )
    groups_of, drawn = {}, []

    def batches(first, groups=None):
        groups_of.update({} if groups is None else dict(enumerate(groups)))
        for one in data.Loader(
            records, range(24), batch=4, seed=1, steps=12, start_step=first, groups=groups
        ):
            drawn.append([int(k) for k in one.keys])
            yield one

    survey = data.Loader(records, range(24), batch=8, shuffle=False)
    quiet = dict(monitor=CollapseMonitor([]), tensorboard=False, progress=False)
    trained = train(m, batches, Recipe(steps=12, lr=1e-3), tmp_path, records=survey, **quiet)
    assert len(trained.members) == 2 and len(groups_of) == 24
    assert sum(len({groups_of[i] for i in keys}) == 1 for keys in drawn[-6:]) >= 4


def test_options():
    with pytest.raises(AmodalError, match="Did you mean facts"):
        made(cluster_field="fact")
    with pytest.raises(AmodalError, match="at least"):
        made(parts=0)
    assert made(parts=1).encoder.first.heads_width == 8
