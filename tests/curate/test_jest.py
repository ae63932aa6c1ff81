"""Joint example selection against the matrix form of algorithm 1, and over several processes."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from amodal import curate, methods
from amodal.curate.jest import UNSCORED, Jest
from amodal.curate.shared.pair_scores import LOSSES, PairScore, Sigmoid, Softmax, draw
from amodal.masking.hashing import uniform
from amodal.nn.encoder import Encoder
from amodal.train import distributed
from tests.methods.bench import batch as make_batch
from tests.methods.bench import fields
from tests.processes import run_ranks


def vectors(n, seed, width=6):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, width, generator=generator) for _ in range(4)]


def sigmoid_matrix(a, b, scale, bias):
    n = len(a)
    loss = torch.zeros(n, n)
    for i in range(n):
        for j in range(n):
            sign = 1 if i == j else -1
            logit = scale * float(F.cosine_similarity(a[i], b[j], dim=0)) + bias
            loss[i, j] = float(np.log1p(np.exp(-sign * logit)))
    return loss


def drawn_from_matrix(score, count, seeds, chunks):
    """Algorithm 1 word for word: indicator vectors and the whole matrix."""
    n, picked = len(score), []
    sizes = [len(part) for part in np.array_split(np.arange(count), chunks)]
    for number, size in enumerate(sizes):
        logits = [
            float(score[i, i]) + sum(float(score[i, k] + score[k, i]) for k in picked)
            for i in range(n)
        ]
        noise = [-np.log(-np.log(float(u) + 2.0**-25)) for u in uniform(seeds, number)]
        noisy = sorted((-(logits[i] + noise[i]), i) for i in range(n) if i not in picked)
        picked += [i for _, i in noisy[:size]]
    return sorted(picked)


@pytest.mark.parametrize("chunks", [1, 3, 12])
@pytest.mark.parametrize("signs", [(1.0, -1.0), (1.0,), (-1.0,)])
def test_sigmoid_draws_are_those_of_the_score_matrix(chunks, signs):
    a, b, c, d = vectors(40, seed=1)
    models = [(c if s < 0 else a, d if s < 0 else b, s) for s in signs]
    score = sum(s * sigmoid_matrix(x, y, 4.0, -2.0) for x, y, s in models)
    pair = PairScore(torch.arange(40), 40, [(s, Sigmoid(x, y, 4.0, -2.0)) for x, y, s in models])
    seeds = torch.arange(40) * 7919
    drawn = draw(pair.diagonal(), pair.add_drawn, 12, seeds, chunks)
    assert drawn.tolist() == drawn_from_matrix(score, 12, seeds, chunks)


def test_what_a_chunk_adds_is_the_loss_of_the_enlarged_batch():
    """Sum of the diagonal and the rest over the order of drawing = the loss of the drawn batch, both
    ways of every pair of rows."""
    a, b, *_ = vectors(9, seed=2)
    loss, whole = Sigmoid(a, b, 5.0, -3.0), sigmoid_matrix(a, b, 5.0, -3.0)
    total, rest = 0.0, torch.zeros(9)
    for row in (4, 1, 7, 2):
        total += float(loss.diagonal[row] + rest[row])
        rest = loss.add_drawn(torch.tensor([row])).clone()
    at = torch.tensor([4, 1, 7, 2])
    assert total == pytest.approx(float(whole[at][:, at].sum()), rel=1e-5)


def test_softmax_is_the_info_nce_of_each_row_among_those_drawn():
    a, b, *_ = vectors(8, seed=3)
    loss = Softmax(a, b, 9.0)
    assert torch.equal(loss.add_drawn(torch.tensor([], dtype=torch.int64)), torch.zeros(8))
    loss.add_drawn(torch.tensor([5, 0]))
    rest = loss.add_drawn(torch.tensor([3]))
    logits = 9.0 * F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
    for i in range(8):
        among = [5, 0, 3]
        ahead = torch.logsumexp(logits[i, among], 0)
        back = torch.logsumexp(logits[among, i], 0)
        assert float(loss.diagonal[i] + rest[i]) == pytest.approx(
            float((ahead + back) / 2 - logits[i, i]), rel=1e-5, abs=1e-5
        )


def test_the_first_chunk_follows_the_softmax_of_its_scores():
    diagonal = torch.tensor([2.0, 1.0, 0.0, -1.0])
    counts = torch.zeros(4)
    for trial in range(4000):
        counts[draw(diagonal, None, 1, torch.arange(4) + 1_000_003 * trial)] += 1
    torch.testing.assert_close(counts / 4000, diagonal.softmax(0), atol=0.03, rtol=0)


def test_rows_without_a_pair_come_last():
    a, b, *_ = vectors(3, seed=4)
    pair = PairScore(torch.tensor([1, 4, 5]), 6, [(1.0, Sigmoid(a, b, 1.0, 0.0))])
    diagonal = pair.diagonal()
    assert diagonal[[0, 2, 3]].tolist() == [0, 0, 0] and torch.equal(
        diagonal[[1, 4, 5]], Sigmoid(a, b, 1.0, 0.0).diagonal
    )
    diagonal = diagonal.index_fill(0, torch.tensor([0, 2, 3]), UNSCORED)
    assert {1, 4, 5} < set(draw(diagonal, pair.add_drawn, 4, torch.arange(6), 4).tolist())


def clip_of(names, seed=0):
    torch.manual_seed(seed)
    chosen = {n: m for n, m in fields().items() if n in names}
    return methods.build("siglip", Encoder(chosen, size="nano"))


def super_batch(size=24):
    return make_batch(("weak",), size=size).only("picture", "words")


def selection(rank_batch, **options):
    method = clip_of(("picture", "words"))
    choose = Jest(clip_of(("picture", "words"), seed=1).encoder, keep=0.25, chunks=3, **options)
    choose.prepare(method, micro_batch_size=5, gather=distributed.gather, rank=distributed.rank())
    return choose(method, rank_batch, 1), choose


@pytest.mark.parametrize(
    "options", [{}, {"score": "easy"}, {"score": "hard"}, {"joint": False}, {"loss": "softmax"}]
)
def test_the_batch_is_as_large_as_asked_and_differs_by_score(options):
    chosen, choose = selection(super_batch(), **options)
    assert chosen.size == 6 and set(chosen.keys) < set(super_batch().keys)
    assert selection(super_batch(), **options)[0].keys == chosen.keys
    expected = {
        "scored": 0 if options.get("score") == "easy" else 24,
        "referred": 0 if options.get("score") == "hard" else 24,
    }
    assert choose.rows == expected | {"trained": 6}
    assert choose.cost()["work"] == pytest.approx((18 + sum(expected.values())) / 18, abs=1e-3)


def test_cached_rows_are_not_computed_twice():
    whole = super_batch()
    first, choose = selection(whole, cache_features=True)
    second = choose(clip_of(("picture", "words")), whole, 2)
    assert choose.rows["referred"] == 24 and first.keys == second.keys == selection(whole)[0].keys


def one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    whole = super_batch()
    share = whole.between(0, 12) if rank == 0 else whole.between(12, 24)
    chosen, _ = selection(share)
    torch.save(chosen.keys, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_choose_what_one_chooses(tmp_path):
    run_ranks(one_rank, tmp_path)
    keys = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert sum(map(list, keys), []) == list(selection(super_batch())[0].keys)
    assert set(keys[0]) <= set(super_batch().keys[:12])


def test_options_are_checked():
    with pytest.raises(ValueError, match="Did you mean keep"):
        curate.batch_selector("jest", {"kep": "0.2"})
    with pytest.raises(ValueError, match="needs a reference"):
        curate.batch_selector("jest", {"keep": "0.5"})
    with pytest.raises(ValueError, match="Did you mean jest"):
        curate.batch_selector("jst", {})
    assert curate.batch_selector("jest", {"score": "hard", "keep": "0.5"}).keep == 0.5
    with pytest.warns(DeprecationWarning, match="jest.remember is called cache_features"):
        assert curate.batch_selector("jest", {"score": "hard", "remember": "true"}).cache_features
    mae = methods.build("mae", Encoder(fields(), size="nano"))
    with pytest.raises(ValueError, match="compares them"):
        curate.batch_selector("jest", {"score": "hard"}).prepare(mae)


def test_a_reference_that_reads_otherwise_is_refused():
    method = clip_of(("picture", "words"))
    other = clip_of(("picture", "words")).encoder
    other.fields["picture"] = dataclasses.replace(other.fields["picture"], patch=4)
    with pytest.raises(ValueError, match="otherwise"):
        Jest(other).prepare(method)


@pytest.mark.parametrize("name", ["slip", "clip_rocket", "gram"])
def test_a_learner_without_a_loss_per_row_is_scored_by_the_one_passed(name):
    torch.manual_seed(0)
    method = methods.build(
        name, Encoder({n: m for n, m in fields().items() if n in ("picture", "words")}, size="nano")
    )
    for options in ({}, {"loss": "softmax"}, {"scale": 14.0}):
        with pytest.raises(ValueError, match="--curate.loss softmax --curate.scale"):
            Jest(None, score="hard", **options).prepare(method)
    choose = Jest(None, score="hard", keep=0.25, loss="softmax", scale=14.0)
    choose.prepare(method)
    assert (
        choose(method, make_batch(method.views, size=24, sources=("picture", "words")), 1).size == 6
    )


def test_the_learners_own_loss_and_scale_count_unless_others_are_passed(monkeypatch):
    asked = []

    class Asked(Softmax):
        def __init__(self, *pair_and_logits):
            asked.append(pair_and_logits[2:])
            super().__init__(*pair_and_logits)

    chosen = {n: m for n, m in fields().items() if n in ("picture", "words")}
    clip = methods.build("clip", Encoder(chosen, size="nano"))
    monkeypatch.setitem(LOSSES, "softmax", Asked)
    for options in ({}, {"scale": 3.0}):
        choose = Jest(None, score="hard", keep=0.25, **options)
        choose.prepare(clip)
        choose(clip, super_batch(), 1)
    assert [scale for scale, _ in asked] == [float(clip.learned().detach()), 3.0]


def test_scores_are_computed_in_the_precision_of_the_run():
    seen = []
    method = clip_of(("picture", "words"))
    choose = Jest(clip_of(("picture", "words"), seed=1).encoder, keep=0.25)
    choose.prepare(method, precision=torch.autocast("cpu", torch.bfloat16))
    choose.gather = lambda z: (seen.extend(c.values.dtype for c in z.columns.values()), z)[1]
    assert choose(method, super_batch(), 1).size == 6
    assert seen.count(torch.bfloat16) == 4, "both fields of learner and reference"


def test_the_cache_does_not_hold_whole_batches():
    _, choose = selection(super_batch(), cache_features=True)
    vectors = [v for fields in choose.cache.values() for v in fields.values()]
    assert vectors and all(
        v.untyped_storage().nbytes() == v.nbytes and v.device.type == "cpu" for v in vectors
    )
