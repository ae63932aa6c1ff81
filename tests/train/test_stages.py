"""What a method may ask of the loop beyond steps: stages, batches of one group, gradient surgery, a
choice of rows."""

from pathlib import Path

import numpy as np
import pytest
import torch

from amodal import data
from amodal.core import AmodalError, Batch, Recipe
from amodal.data.groups import GroupSampler
from amodal.methods.shared.shapes import Towers
from amodal.nn.encoder import Encoder
from amodal.objectives.info_nce import info_nce
from amodal.train import distributed, loop
from amodal.train.collapse_monitor import CollapseMonitor
from amodal.train.loop import train
from amodal.train.precision import context
from amodal.train.schedule import Stages
from amodal.train.step import gradients
from tests.methods.bench import batch, exact, fields
from tests.processes import run_ranks

RECORDS = 24


class Staged(Towers):
    """Learns both towers, then only that of the words, among records whose group its survey made
    up."""

    stages, refresh_first = (0.5, 1.0), False

    def __init__(self, encoder):
        super().__init__(
            encoder, lambda z: {"info_nce": info_nce(*z.pair("words", "facts"), temperature=0.1)}
        )
        self.begun, self.surveys = [], []
        self.register_buffer("mean", torch.zeros(encoder.width))

    def refresh(self, stage, see):
        seen = see()
        self.surveys.append((stage, seen.size))
        self.mean.copy_(seen["facts"].values.mean(0))
        return torch.arange(seen.size) % 2

    def on_stage_start(self, stage):
        self.begun.append(stage)
        self.encoder.requires_grad_(True)
        if stage:
            self.encoder.trunks["facts"].requires_grad_(False)


@pytest.fixture
def records():
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice(["red", "boat", "sea", "on"], 4)) for _ in range(RECORDS)]
    tables = [
        {"age": float(rng.normal()), "colour": str(rng.choice(["red", "blue"]))}
        for _ in range(RECORDS)
    ]
    own = fields(("words", "facts"))
    return data.open({"words": words, "facts": tables}).with_fields(own)


def run(
    records,
    folder,
    *,
    until=8,
    resume=False,
    seen=None,
    choose=None,
    make=Staged,
    encoders=None,
    **settings,
):
    torch.manual_seed(0)
    method = make(Encoder(fields(("words", "facts")), size="nano"))
    folder.mkdir(exist_ok=True)

    def batches(first, groups=None):
        loader = data.Loader(
            records, range(RECORDS), batch=6, seed=1, steps=8, start_step=first, groups=groups
        )
        for i, one in enumerate(loader):
            if first + i >= until:
                raise InterruptedError
            if seen is not None:
                seen.append([int(k) for k in one.keys])
            yield one

    survey = data.Loader(records, range(RECORDS), batch=5, shuffle=False)
    quiet = dict(monitor=CollapseMonitor([]), save_every=1, tensorboard=False, progress=False)
    encoder = train(
        method,
        batches,
        Recipe(steps=8, lr=1e-3, **settings),
        folder,
        records=survey,
        resume=resume,
        choose=choose,
        **quiet,
    )
    if encoders is not None:
        encoders.append(encoder)
    return method


def test_a_stage_begins_with_a_survey_and_draws_batches_of_one_group(records, tmp_path):
    seen = []
    method = run(records, tmp_path / "run", seen=seen)
    assert method.begun == [0, 1] and method.surveys == [(1, RECORDS)]
    later = [keys for keys in seen if len({k % 2 for k in keys}) == 1]
    assert len(later) >= 4, "the second stage has batches of one group"
    fixed = run(records, tmp_path / "half", until=8, make=First)
    for name, value in fixed.encoder.trunks["facts"].state_dict().items():
        assert torch.equal(value, method.encoder.trunks["facts"].state_dict()[name]), (
            "frozen in the second stage"
        )
    assert not torch.equal(
        fixed.encoder.trunks["words"].norm.weight, method.encoder.trunks["words"].norm.weight
    )


class First(Staged):
    """Learns nothing in the second stage."""

    def on_stage_start(self, stage):
        self.requires_grad_(not stage)
        if stage:
            self.encoder.heads = None
            self.idle = torch.nn.Parameter(torch.zeros(()))
            self.objective = lambda z: {"idle": self.idle * 1.0}


@pytest.mark.parametrize("stop", [2, 4, 6])
def test_a_run_of_stages_resumes_bit_for_bit(records, tmp_path, stop):
    straight = run(records, tmp_path / "straight")
    with pytest.raises(InterruptedError):
        run(records, tmp_path / "broken", until=stop)
    resumed = run(records, tmp_path / "broken", resume=True)
    assert resumed.begun[0] == (1 if stop > 4 else 0)
    for (name, a), b in zip(straight.state_dict().items(), resumed.state_dict().values()):
        assert torch.equal(a, b), name


class OneStage(Towers):
    """The words and the facts, in one stage."""

    def __init__(self, encoder):
        super().__init__(
            encoder, lambda z: {"info_nce": info_nce(*z.pair("words", "facts"), temperature=0.1)}
        )


class Cycles(OneStage):
    stages, keeps_optimizer = (0.5, 1.0), True

    def on_stage_start(self, stage):
        """Nothing changes."""


class FreshCycles(Cycles):
    keeps_optimizer = False


def test_stages_that_keep_the_optimizer_are_one_training(records, tmp_path):
    constant = {"schedule": "constant", "warmup_steps": 0}
    one, same, fresh = (
        run(records, tmp_path / make.__name__, make=make, **constant).state_dict()
        for make in (OneStage, Cycles, FreshCycles)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], fresh[name]) for name in one)
    with pytest.raises(InterruptedError):
        run(records, tmp_path / "broken", make=Cycles, until=5, **constant)
    resumed = run(records, tmp_path / "broken", make=Cycles, resume=True, **constant).state_dict()
    assert all(torch.equal(one[name], resumed[name]) for name in one)


class Exchanging(First):
    """Its survey puts another network in the place of the encoder."""

    def refresh(self, stage, see):
        self.encoder.requires_grad_(False)
        for p in self.encoder.parameters():
            p.fill_(7.0)


def test_the_average_of_a_network_that_a_refresh_replaces_restarts(records, tmp_path):
    encoders = []
    method = run(records, tmp_path / "run", make=Exchanging, ema=0.9, encoders=encoders)
    assert encoders[0] is not method.encoder
    for (name, a), b in zip(encoders[0].state_dict().items(), method.encoder.state_dict().values()):
        assert torch.equal(a, b), name


class Early(Staged):
    """Learns in one stage, from groups that a survey makes before it."""

    stages, refresh_first = (1.0,), True


@pytest.mark.parametrize("stop", [2, 5])
def test_a_survey_before_the_first_stage(records, tmp_path, stop):
    seen = []
    straight = run(records, tmp_path / "straight", make=Early, seen=seen)
    assert straight.surveys == [(0, RECORDS)]
    assert len(seen) >= 8 and all(len({k % 2 for k in keys}) == 1 for keys in seen)
    with pytest.raises(InterruptedError):
        run(records, tmp_path / "broken", until=stop, make=Early)
    resumed = run(records, tmp_path / "broken", resume=True, make=Early)
    assert resumed.surveys == [], "the checkpoint holds its groups"
    for (name, a), b in zip(straight.state_dict().items(), resumed.state_dict().values()):
        assert torch.equal(a, b), name
    with pytest.raises(AmodalError, match="needs all records"):
        train(
            Early(Encoder(fields(("words", "facts")))),
            lambda first: [],
            Recipe(steps=4, lr=1e-3),
            tmp_path,
            monitor=CollapseMonitor([]),
        )


class Blind(Towers):
    """Learns in two stages and wants to see nothing in between."""

    stages, refresh_first = (0.5, 1.0), False

    def __init__(self, encoder):
        super().__init__(
            encoder, lambda z: {"info_nce": info_nce(*z.pair("words", "facts"), temperature=0.1)}
        )


def test_nothing_is_embedded_for_a_method_that_does_not_look(records, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(loop, "embed_all", lambda *_: calls.append(1))
    run(records, tmp_path / "blind", make=Blind)
    run(records, tmp_path / "exchanging", make=Exchanging)
    assert not calls


def test_a_survey_sees_float32_on_the_cpu_in_the_precision_of_the_run(records):
    method = Staged(Encoder(fields(("words", "facts")), size="nano"))
    survey = data.Loader(records, range(RECORDS), batch=5, shuffle=False)
    cpu = torch.device("cpu")
    plain, rough = (
        loop.embed_all(method, survey, cpu, context(choice, cpu)) for choice in ("float32", "bf16")
    )
    for s in plain.sources:
        assert rough[s].values.dtype == torch.float32 and not torch.equal(
            plain[s].values, rough[s].values
        )
        torch.testing.assert_close(plain[s].values, rough[s].values, rtol=0.1, atol=0.1)


class Own(Early):
    """Each process makes something else of what it sees."""

    def fit_statistics(self, records):
        self.mean.fill_(1.0 + distributed.rank())
        self.studied = self.mean.clone()

    def refresh(self, stage, see):
        self.studied = self.mean.clone()
        return (torch.arange(see().size) + distributed.rank()) % 2


def one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    words = [" ".join(rng.choice(["red", "boat", "sea", "on"], 4)) for _ in range(RECORDS)]
    tables = [{"age": float(rng.normal()), "colour": "red"} for _ in range(RECORDS)]
    records = data.open({"words": words, "facts": tables}).with_fields(fields(("words", "facts")))
    method, group_lists = Own(Encoder(fields(("words", "facts")), size="nano")), []

    def batches(first, groups=None):
        group_lists.append(groups)
        some = dict(seed=1, steps=2, start_step=first, rank=rank, world=2, groups=groups)
        return data.Loader(records, range(RECORDS), batch=6, **some)

    (out := Path(folder) / str(rank)).mkdir()
    survey = data.Loader(records, range(RECORDS), batch=5, shuffle=False)
    train(
        method,
        batches,
        Recipe(steps=2, lr=1e-3),
        out,
        records=survey,
        monitor=CollapseMonitor([]),
        tensorboard=False,
        progress=False,
    )
    torch.save((method.studied, torch.as_tensor(group_lists[0])), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_what_the_first_process_sees_holds_for_all(tmp_path):
    run_ranks(one_rank, tmp_path)
    (mean, groups), (its_mean, its_groups) = (
        torch.load(tmp_path / f"{rank}.pt") for rank in range(2)
    )
    assert (mean == 1).all() and torch.equal(mean, its_mean)
    assert groups.tolist() == [0, 1] * (RECORDS // 2) and torch.equal(groups, its_groups)


def test_stages_without_a_survey_are_refused(records, tmp_path):
    method = Staged(Encoder(fields(("words", "facts")), size="nano"))
    with pytest.raises(AmodalError, match="needs all records"):
        train(
            method,
            lambda first: [],
            Recipe(steps=4, lr=1e-3),
            tmp_path,
            monitor=CollapseMonitor([]),
        )


def test_stages_have_a_schedule_of_their_own():
    stages = Stages.of((0.25, 1.0), 8)
    assert [stages.stage_of(s) for s in range(1, 9)] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert [stages.position(s) for s in (1, 2, 3, 8)] == [(0, 2), (1, 2), (0, 6), (5, 6)]


def test_batches_of_groups_hold_each_record_at_most_once_an_epoch():
    labels = np.repeat([0, 1, 2, 3], [9, 2, 14, 5])
    order = GroupSampler(labels, 4, seed=3)
    for epoch in range(3):
        batches = [order.batch_indices(epoch, i) for i in range(order.batches)]
        together = np.concatenate(batches)
        assert (
            all(len(b) == 4 for b in batches)
            and len(set(together)) == len(together) >= len(labels) - 3
        )
        pure = sum(len(set(labels[b])) == 1 for b in batches)
        assert pure >= 9 // 4 + 14 // 4 + 5 // 4
        assert all(
            (a == b).all()
            for a, b in zip(
                batches,
                [GroupSampler(labels, 4, 3).batch_indices(epoch, i) for i in range(order.batches)],
            )
        )
    assert not np.array_equal(order.batch_indices(0, 0), order.batch_indices(1, 0))


def test_records_of_no_group_are_in_no_batch():
    labels = np.array([0, -1, 1, -1] * 8)
    order = GroupSampler(labels, 4, seed=3)
    assert order.batches == 4
    for epoch in range(2):
        drawn = np.concatenate([order.batch_indices(epoch, i) for i in range(order.batches)])
        assert sorted(drawn) == np.flatnonzero(labels >= 0).tolist()
    few = GroupSampler(labels[:6], 4, seed=3)
    assert few.batches == 1 and sorted(few.batch_indices(0, 0)) == [0, 2, 4], "less than a batch"


def test_choose_says_which_rows_are_learnt_from(records, tmp_path):
    sizes = []

    def choose(method, one, step):
        chosen = one.at(torch.tensor([0, 2, 5]))
        sizes.append((step, chosen.size, chosen.keys == (one.keys[0], one.keys[2], one.keys[5])))
        return chosen

    run(records, tmp_path / "run", choose=choose)
    assert sizes == [(i, 3, True) for i in range(1, 9)]


def test_rows_taken_out_of_a_batch_keep_their_values_and_labels():
    whole = batch(("plain",))
    index = torch.tensor([1, 4, 6])
    part = whole.at(index)
    for source in whole.columns:
        for new, old in enumerate(index.tolist()):
            one, other = part[source].between(new, new + 1), whole[source].between(old, old + 1)
            assert len(one) == len(other)
            mine, its = (getattr(c.values, "flat", c.values) for c in (one, other))
            assert torch.equal(mine, its)
    assert part.labels["kind"].rows.tolist() == [0, 1, 2] and part.labels[
        "kind"
    ].values.tolist() == [1, 1, 0]


@pytest.mark.parametrize("micro", [None, 3])
def test_gradient_surgery_gets_the_gradient_of_each_term(micro):
    def make():
        torch.manual_seed(0)
        encoder = Encoder(fields(), size="nano").align(16)
        pairs = [("words", "facts"), ("picture", "facts")]
        return exact(
            Towers(
                encoder,
                lambda z: {f"{a}~{b}": info_nce(*z.pair(a, b), temperature=0.2) for a, b in pairs},
            )
        )

    one: Batch = exact(batch(("plain",)))
    plain = make()
    terms = gradients(plain, one)
    summed = {n: p.grad for n, p in plain.named_parameters()}
    alone = {}
    for name in terms:
        m = make()
        m.losses(m.features(one))[name].backward()
        alone[name] = {n: p.grad for n, p in m.named_parameters()}

    m = make()
    m.combine_gradients = lambda g: sum(g.values())
    gradients(m, one, micro=micro)
    for n, p in m.named_parameters():
        expected = summed[n] if summed[n] is not None else torch.zeros_like(p)
        torch.testing.assert_close(p.grad, expected, rtol=1e-9, atol=1e-12)

    m = make()
    m.combine_gradients = lambda g: 2 * g["words~facts"] - g["picture~facts"]
    gradients(m, one, micro=micro)
    for n, p in m.named_parameters():
        first, second = (
            alone[t][n] if alone[t][n] is not None else torch.zeros_like(p) for t in alone
        )
        torch.testing.assert_close(p.grad, 2 * first - second, rtol=1e-9, atol=1e-12)


class Studious(Staged):
    """Notes what it is shown before the first step."""

    stages = (1.0,)
    seen: list = []

    def fit_statistics(self, records):
        self.seen.append([key for batch in records for key in batch.keys])
        self.mean.fill_(7.0)


def test_a_method_may_study_the_records_once_before_the_first_step(records, tmp_path):
    Studious.seen = []
    with pytest.raises(InterruptedError):
        run(records, tmp_path, until=3, make=Studious)
    assert Studious.seen == [list(records.keys)]
    method = run(records, tmp_path, resume=True, make=Studious)
    assert len(Studious.seen) == 1, "not again after a resume"
    assert (method.mean == 7).all(), "the checkpoint holds what it learnt"
