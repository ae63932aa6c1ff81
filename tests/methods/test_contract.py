"""Every method keeps the contract of `amodal.methods.contract`, with every kind of data and any of
it missing."""

import dataclasses
import os
import re
from pathlib import Path

import pytest
import torch

from amodal import data, methods
from amodal.core import Batch, Column, Recipe
from amodal.methods.contract import Clock
from amodal.nn import config as encoder_config
from amodal.nn.encoder import Encoder
from amodal.nn.scale import Scale
from amodal.train import distributed
from amodal.train.collapse_monitor import CollapseMonitor
from amodal.train.loop import train
from amodal.train.step import gradients, total
from tests.methods.bench import FIELDS, REFUSED, batch, exact, fields, method, raw
from tests.processes import run_ranks

NAMES = (
    os.environ.get("AMODAL_ONLY", "").split(",")
    if os.environ.get("AMODAL_ONLY")
    else methods.names()
)
"""AMODAL_ONLY=gram,slip looks at these pages alone."""
each_method = pytest.mark.parametrize("name", NAMES)


def gradient(m) -> dict[str, torch.Tensor]:
    return {n: p.grad.clone() for n, p in m.named_parameters() if p.grad is not None and p.numel()}


def assert_same_gradient(one: dict, other: dict, tolerance: float = 1e-9) -> None:
    largest = max(g.abs().max() for g in one.values())
    for n in one.keys() | other.keys():
        a, b = (g.get(n, torch.zeros(())) for g in (one, other))
        assert (a - b).abs().max() <= tolerance * largest, n


@each_method
def test_losses_are_finite_and_each_term_reaches_the_encoder(name):
    m = method(name)
    first = m.losses(m.features(batch(m.views)))
    losses = m.losses(m.features(batch(m.views)))  # a queue has something in it now
    for term in first:
        m.zero_grad()
        loss = losses[term]
        assert loss.isfinite() and loss.dim() == 0
        loss.backward(retain_graph=True)
        assert (
            sum(float(p.grad.abs().sum()) for p in m.encoder.parameters() if p.grad is not None) > 0
        ), term


@each_method
@pytest.mark.parametrize("absent", [*[(s,) for s in FIELDS], FIELDS[1:], FIELDS])
def test_any_field_may_be_absent_from_a_batch(name, absent):
    m = method(name)
    terms = gradients(m, batch(m.views, absent=absent))
    assert torch.stack(list(terms.values())).isfinite().all()
    present = {n: p.grad for n, p in m.named_parameters() if p.grad is not None and p.numel()}
    assert all(g.isfinite().all() for g in present.values())
    trained = {n for n, p in m.named_parameters() if p.requires_grad and p.numel()}
    # every tower is part of the graph, so that processes that lack a field do not wait for those
    # that have it
    towers = {n for n in trained if "trunks" in n or "tokenizers" in n}
    assert towers <= present.keys(), sorted(towers - present.keys())


@each_method
def test_micro_batches_give_the_gradient_of_the_whole_batch(name):
    whole, pieces = exact(method(name)), exact(method(name))
    values = gradients(whole, exact(batch(whole.views, size=9)))
    accumulated = gradients(pieces, exact(batch(pieces.views, size=9)), micro=4)
    for term in values:
        torch.testing.assert_close(values[term], accumulated[term], rtol=1e-9, atol=1e-9)
    assert_same_gradient(gradient(whole), gradient(pieces))


@each_method
def test_a_row_gives_the_same_features_wherever_it_stands(name):
    m = method(name).eval()
    whole = batch(m.views, size=8)
    with torch.no_grad():
        all_rows, part = m.features(whole), m.features(whole.between(3, 6))
    for source in part:
        expected = all_rows[source].between(3, 6)
        assert torch.equal(part[source].rows, expected.rows)
        torch.testing.assert_close(part[source].flat, expected.flat, rtol=1e-4, atol=1e-5)


def share_of(whole: Batch, rank: int) -> Batch:
    """Uneven shares; the second rank has no words at all."""
    return whole.between(0, 5) if rank == 0 else whole.between(5, 8)


def without_late_words(whole: Batch) -> Batch:
    columns = {
        s: c.at(c.rows < 5) if s.startswith("words") else c for s, c in whole.columns.items()
    }
    return dataclasses.replace(whole, columns=columns)


def split(name: str) -> tuple[int | None, ...]:
    """Micro-batches that two processes try. `test_conv_contract.py` tries whole batches, for the
    methods that it does not refuse."""
    return (None, 2) if name in REFUSED else (2,)


def one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    found = {}
    for name in NAMES:
        for micro in split(name):
            m = exact(method(name, seed=0))
            if rank == 1:  # another start must not matter: ranks agree on rank 0's weights
                with torch.no_grad():
                    for p in m.parameters():
                        p.add_(1)
            distributed.broadcast_module(m)
            terms = gradients(
                m, share_of(without_late_words(exact(batch(m.views))), rank), micro=micro
            )
            found[name, micro] = terms, gradient(m)
    torch.save(found, f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_gradient_of_one(tmp_path):
    run_ranks(one_rank, tmp_path)
    ranks = [torch.load(tmp_path / f"rank{r}.pt") for r in range(2)]
    for name in NAMES:
        alone = exact(method(name))
        terms = gradients(alone, without_late_words(exact(batch(alone.views))))
        expected = gradient(alone)
        for found in ranks:
            for micro in split(name):
                values, grads = found[name, micro]
                for term in terms:
                    torch.testing.assert_close(
                        values[term], terms[term], rtol=1e-9, atol=1e-9, msg=f"{name} {term}"
                    )
                assert_same_gradient(expected, grads)


@pytest.fixture(scope="module")
def records():
    import numpy as np

    rng = np.random.default_rng(0)
    columns = {
        s: [raw(s, rng) if (i + k) % 4 else None for i in range(40)] for k, s in enumerate(FIELDS)
    }
    kinds = [None if i % 4 == 3 else f"kind {i % 3}" for i in range(40)]
    return data.open(columns | {"kind": kinds}).with_fields(fields())


@each_method
def test_stop_and_resume_is_the_straight_run_bit_for_bit(name, records, tmp_path):
    """What a new process has of a run is its checkpoint of the second step. Three steps are an
    epoch: the resumed run begins the second one."""

    def run(folder, resume=False):
        m = method(name)

        def batches(first, groups=None):
            some = dict(
                views=m.views, labels=m.labels, groups=groups, seed=3, steps=4, start_step=first
            )
            return data.Loader(records, range(24), batch=8, **some)

        recipe = Recipe(steps=4, lr=1e-3, ema=0.9)
        quiet = dict(monitor=CollapseMonitor([]), tensorboard=False, progress=False)
        survey = data.Loader(records, range(24), batch=16, shuffle=False)
        return m, train(
            m, batches, recipe, folder, resume=resume, records=survey, save_every=2, **quiet
        )

    for folder in ("straight", "stopped"):
        (tmp_path / folder / "checkpoints").mkdir(parents=True)
    straight, state = run(tmp_path / "straight")
    second = Path("checkpoints", "step-00000002")
    (tmp_path / "straight" / second).rename(tmp_path / "stopped" / second)
    resumed, state_resumed = run(tmp_path / "stopped", resume=True)
    for a, b in ((straight, resumed), (state, state_resumed)):
        for (n, x), y in zip(a.state_dict().items(), b.state_dict().values()):
            assert torch.equal(x, y), n


@each_method
def test_embeds_and_survives_a_round_trip(name):
    m = method(name)
    m.on_step_end(Clock(1, 10))
    encoder = m.encoder.eval()
    rebuilt = encoder_config.build(encoder.spec)
    rebuilt.load_state_dict(encoder.state_dict())
    plain = batch(("plain",))
    with torch.no_grad():
        one, other = encoder(plain), rebuilt.eval()(plain)
    assert set(FIELDS) <= set(one)
    for source in one:
        assert one[source].values.dim() == 2 and one[source].values.isfinite().all()
        assert torch.equal(one[source].values, other[source].values)
    for field in FIELDS:
        assert len(one[field]) == len(plain[field])
        # a field alone is embedded as it is in company: search compares vectors of records that
        # have different fields
        with torch.no_grad():
            alone = encoder(plain.only(field))[field]
        torch.testing.assert_close(alone.values, one[field].values, rtol=1e-4, atol=1e-5)


@each_method
def test_the_page_names_its_paper_and_says_what_each_option_is(name):
    page = methods.page(name)
    assert re.search(r"arXiv:\d{4}\.\d{4,5}", page.__doc__), "the docstring should name the paper"
    documented = methods.function(name).__doc__ or ""
    assert all(re.search(rf"\b{option}\b", documented) for option in methods.options(name)), (
        "an option without a word about it"
    )


def test_a_typo_in_a_method_or_an_option_offers_the_nearest():
    with pytest.raises(ValueError, match="Did you mean simclr"):
        methods.page("simcl")
    with pytest.raises(ValueError, match="Did you mean common"):
        method("decur", comon=0.5)
    with pytest.raises(ValueError, match="Did you mean tuning"):
        methods.parse("finetune", {"tunin": "head"})
    with pytest.raises(ValueError, match="decur.common must be a float"):
        methods.parse("decur", {"common": "half"})


def test_options_are_read_by_their_old_names():
    for name, renamed in methods.OLD_OPTIONS.items():
        assert set(renamed.values()) <= methods.options(name).keys(), name
        assert not renamed.keys() & methods.options(name).keys(), name
    with pytest.warns(DeprecationWarning, match="finetune.how is called tuning now"):
        assert methods.parse("finetune", {"how": "head"}) == {"tuning": "head"}
    with pytest.raises(ValueError, match="finetune.tuning is set twice"):
        methods.parse("finetune", {"how": "head", "tuning": "full"})


def test_total_is_the_sum():
    assert total({"a": torch.tensor(1.0), "b": torch.tensor(2.0)}) == 3


def test_features_must_not_hold_other_rows():
    """The bench itself: rows are where they are said to be."""
    b = batch(("plain",))
    assert isinstance(b["words"], Column) and b.present().shape == (8, 4)


@pytest.mark.parametrize("pool", ["mean", "cls"])
@pytest.mark.parametrize("name", ["mae", "data2vec", "i_jepa"])
def test_what_is_hidden_is_what_is_predicted_whatever_the_pooling(name, pool):
    """A CLS token before each row moves every other token along; losses must follow the tokens."""
    torch.manual_seed(0)
    encoder = Encoder(fields(), size="nano", pool=pool, **methods.encoder_options(name))
    m = methods.build(name, encoder)
    counts = {s: int(c.values[:, 1].sum()) for s, c in m.features(batch(m.views)).columns.items()}
    assert counts == {
        s: int(c.values[:, 1].sum())
        for s, c in method(name).features(batch(m.views)).columns.items()
    }


def test_a_scale_that_reached_its_bound_can_come_back():
    scale = Scale(1000.0, most=100.0)
    value = scale()
    value.backward()
    assert abs(value.item() - 100) < 1e-3 and scale.log.grad > 0
