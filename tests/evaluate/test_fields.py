"""retrieval, zero_shot, missing_modality and cross_modal_transfer where the answer is known."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from amodal.core import AmodalError, Column, Embeddings
from amodal.evaluate import Embedded, NotApplicable
from amodal.evaluate.protocols.cross_modal_transfer import cross_modal_transfer
from amodal.evaluate.protocols.missing_modality import missing_modality, subsets
from amodal.evaluate.protocols.retrieval import ranked, retrieval
from amodal.evaluate.protocols.zero_shot import zero_shot
from amodal.stats.ranking import chance_of
from tests.evaluate.made import CLASSES, made


def by_loop(query, gallery, same, ks):
    """Metrics one query at a time."""
    q, g, ranks = normalize(query, dim=1), normalize(gallery, dim=1), []
    for i in range(len(q)):
        order = (g @ q[i]).argsort(descending=True).tolist()
        ranks.append(1 + next(place for place, j in enumerate(order) if same[j] == same[i]) - 0)
        right = [j for j in range(len(g)) if same[j] == same[i]]
        first = min(order.index(j) for j in right)
        ranks[-1] = 1 + first
    ranks = np.array(ranks)
    return {f"recall@{k}": np.mean(ranks <= k) for k in ks} | {
        "MRR": np.mean(1 / ranks),
        "median rank": np.median(ranks),
    }


@pytest.mark.parametrize("repeated", [False, True])
def test_retrieval_agrees_with_a_loop(repeated):
    g = torch.Generator().manual_seed(0)
    gallery = torch.randn(41, 8, generator=g)
    same = torch.arange(41) // 3 if repeated else torch.arange(41)
    if repeated:
        gallery = gallery[same]
    query = gallery + 1.5 * torch.randn(41, 8, generator=g)
    found = {r["metric"]: r["value"] for r in ranked(query, gallery, same if repeated else None)}
    for name, value in by_loop(query, gallery, same.tolist(), (1, 5, 10)).items():
        assert found[name] == pytest.approx(value, abs=1e-6), name


def test_chance_of_retrieval_is_what_random_ranks_give():
    sizes = np.repeat([1, 3, 6], [10, 9, 6])
    rng, ranks = np.random.default_rng(0), []
    for _ in range(4000):
        m = sizes[rng.integers(25)]
        ranks.append(rng.permutation(25)[:m].min() + 1)
    ranks, chance = np.array(ranks), chance_of(sizes, 25, (1, 5))
    assert chance["recall@1"] == pytest.approx(np.mean(ranks <= 1), abs=0.03)
    assert chance["recall@5"] == pytest.approx(np.mean(ranks <= 5), abs=0.03)
    assert chance["MRR"] == pytest.approx(np.mean(1 / ranks), abs=0.03)


def test_a_collapsed_encoder_scores_chance():
    same = torch.ones(50, 8)
    rows = {r["metric"]: r for r in ranked(same, same)}
    for name in ("recall@1", "recall@10", "MRR"):
        assert rows[name]["value"] == pytest.approx(rows[name]["chance"], rel=1e-6)


def test_retrieval_takes_records_that_have_both_and_says_when_none_do():
    test = made(seed=2, share=0.5)
    result = retrieval(None, test)
    both = len(np.intersect1d(test.aligned["image"].rows, test.aligned["sound"].rows))
    assert {r["n"] for r in result.rows} == {both} and result.value(
        "image", "recall@10", target="sound"
    ) > 0.5
    apart = {
        s: Column(c.values[:40], torch.arange(40) + 40 * i)
        for i, (s, c) in enumerate(test.aligned.columns.items())
    }
    lone = Embedded([str(i) for i in range(80)], Embeddings(apart, 80), Embeddings(apart, 80))
    with pytest.raises(NotApplicable, match="no two fields occur together"):
        retrieval(None, lone)


def test_zero_shot_reads_prompts():
    test = made(seed=2)
    centres = {
        c: test.aligned["image"].values[torch.from_numpy(test.labels["kind"] == c)].mean(0)
        for c in CLASSES
    }
    asked = []

    def embed_text(sentences):
        asked.extend(sentences)
        return torch.stack([centres[next(c for c in CLASSES if c in s)] for s in sentences])

    result = zero_shot(
        None, test, label="kind", embed_text=embed_text, templates=("a photo of a {}", "{}")
    )
    assert asked[:2] == ["a photo of a bird", "bird"] and result.spec["prompts"]["cat"] == [
        "a photo of a cat",
        "cat",
    ]
    assert result.value("image", "accuracy") > 0.85 and result.rows[0]["chance"] == pytest.approx(
        1 / 3
    )
    with pytest.raises(NotApplicable, match="is a number"):
        zero_shot(None, test, label="size", embed_text=embed_text)
    with pytest.raises(AmodalError, match="template needs one {}"):
        zero_shot(None, test, label="kind", embed_text=embed_text, templates=("a photo",))


def test_missing_measures_each_subset_on_its_own_records():
    sources = ("image", "sound", "text")
    train, test = (
        made(seed=1, sources=sources, noise=2.0),
        made(seed=2, sources=sources, noise=2.0, share=0.7),
    )
    result = missing_modality(train, test, label="kind")
    rows = {
        r["source"]: r
        for r in result.rows
        if r.get("probe") == "linear" and r["metric"] == "accuracy"
    }
    assert set(rows) == {"+".join(s) for s in subsets(sources)} and len(rows) == 7
    assert rows["image"]["n"] == len(test.aligned["image"]) > rows["image+sound+text"]["n"]
    assert rows["image+sound+text"]["value"] == rows["image+sound+text"]["full"], (
        "nothing is missing"
    )
    singles = np.mean([rows[s]["value"] for s in sources])
    pairs = np.mean([rows[s]["value"] for s in rows if s.count("+") == 1])
    assert singles < pairs < rows["image+sound+text"]["value"] + 0.02
    assert rows["image"]["full"] > rows["image"]["value"]
    found = [r for r in result.rows if r.get("target") == "text"]
    assert {r["source"] for r in found} == {"image", "sound", "image+sound"}
    assert "label" in missing_modality(train, test).spec and all(
        "target" in r for r in missing_modality(train, test).rows
    )
    assert len(subsets([str(i) for i in range(8)])) == 8 + 8 + 1


def test_missing_reruns_a_joint_network():
    test = made(seed=2)
    asked = []

    def re_fuse(names):
        asked.append(tuple(names))
        return test.aligned.fused(names)

    joint = Embedded(test.keys, test.aligned, test.features, test.labels, re_fuse)
    missing_modality(made(seed=1), joint, label="kind")
    assert ("image",) in asked and ("sound",) in asked


def test_transfer_needs_an_aligned_space():
    aligned = cross_modal_transfer(made(seed=1), made(seed=2), label="kind", few=5)
    apart = {"unaligned": ("sound",)}
    rotated = cross_modal_transfer(
        made(seed=1, **apart), made(seed=2, **apart), label="kind", few=5
    )
    for probe in ("knn", "linear"):
        stays = aligned.value("image", "accuracy", target="image", probe=probe)
        crosses = aligned.value("image", "accuracy", target="sound", probe=probe)
        assert crosses > stays - 0.1 > 0.6
        assert rotated.value("image", "accuracy", target="sound", probe=probe) < 0.6
        assert rotated.value("sound", "accuracy", target="sound", probe=probe) > 0.7
    assert len({(r["source"], r["target"]) for r in aligned.rows}) == 4


def test_a_constant_gap_between_sources_does_not_matter_to_transfer():
    def shifted(e):
        moved = Column(e.aligned["sound"].values + 4.0, e.aligned["sound"].rows)
        both = Embeddings({**e.aligned.columns, "sound": moved}, len(e))
        return Embedded(e.keys, both, both, e.labels)

    train, test = shifted(made(seed=1)), shifted(made(seed=2))
    centred = cross_modal_transfer(train, test, label="kind").value(
        "image", "accuracy", target="sound", probe="knn"
    )
    raw = cross_modal_transfer(train, test, label="kind", centre=False).value(
        "image", "accuracy", target="sound", probe="knn"
    )
    assert centred > 0.8 > raw


def test_one_source_is_not_enough():
    lone = made(seed=1, sources=("image",))
    for protocol in (
        lambda: retrieval(None, lone),
        lambda: missing_modality(lone, lone),
        lambda: cross_modal_transfer(lone, lone, label="kind"),
    ):
        with pytest.raises(NotApplicable, match="there is only image"):
            protocol()
