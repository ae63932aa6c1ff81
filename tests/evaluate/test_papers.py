"""The report of a collection of papers and its summaries."""

import json

import numpy as np
import pytest
from rich.console import Console

import amodal
from amodal.core import AmodalError
from amodal.curate.cs_papersum import cs_papersum
from amodal.evaluate import papers
from amodal.evaluate.summaries import WORD, TfIdf, compare_likeness, derangement, mean_interval

FIELDS = ("graphs", "vision", "speech", "robots")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """240 papers of words of their own; "graphs" grows, and the last paper is the first one again."""
    rng, rows = np.random.default_rng(0), []
    for i in range(240):
        year = 2019 + i % 6
        p = np.array([0.05 + 0.1 * (i % 6), 0.2, 0.2, 0.2])
        topic = FIELDS[rng.choice(4, p=p / p.sum())]
        said = [
            f"We propose {topic} item{i}a item{i}b.",
            f"The item{i}a of item{i}c works.",
            f"Results of item{i}b improve by item{i}c.",
        ]
        rows.append(
            {
                "title": f"On item{i}a",
                "abstract": " ".join(said),
                "venue": "ACL" if i % 3 else "KDD",
                "year": year,
            }
        )
    rows[-1] = dict(rows[0], year=2024, venue="KDD") | {"title": "On item0a"}
    file = tmp_path_factory.mktemp("papers") / "papers.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return amodal.open(file)


@pytest.fixture(scope="module")
def made(corpus):
    return cs_papersum(corpus, progress=False)


@pytest.fixture(scope="module")
def report(corpus, made):
    return papers(corpus, made, topics={f: [f] for f in FIELDS})


def test_summaries_fit_their_papers_in_all_and_by_group(report):
    whole, groups = report.rows[0], report.rows[1:]
    assert (
        whole["papers"] == 240
        and whole["alignment"]["auroc"] > 0.99
        and whole["overlap"]["auroc"] > 0.99
    )
    assert [(r["group"], r["value"]) for r in groups] == [("venue", "ACL"), ("venue", "KDD")] + [
        ("year", str(y)) for y in range(2019, 2025)
    ]
    by_venue = [r for r in groups if r["group"] == "venue"]
    mean = sum(r["papers"] * r["alignment"]["mean"] for r in by_venue) / 240
    assert mean == pytest.approx(whole["alignment"]["mean"])
    low, high = whole["alignment"]["interval"]
    assert low < whole["alignment"]["mean"] < high and whole["alignment"]["shuffled"] < low
    assert report.doubtful() == []


def test_summaries_of_other_papers_are_doubted(corpus, made):
    keys, mixed = list(made), dict(made)
    wrong = keys[10:20]
    for key, other in zip(wrong, keys[50:60]):
        mixed[key] = made[other]
    del mixed[keys[100]]
    report = papers(corpus, mixed)
    assert set(wrong) <= set(report.doubtful()) and len(report.doubtful()) <= 20
    assert report.without == [keys[100]] and report.rows[0]["papers"] == 239


def test_topics_that_grow_are_listed_with_their_shares(report):
    assert [n for n, t in report.trends.items() if t.q < 0.05 and t.slope > 0] == ["graphs"]
    assert (
        report.years == dict.fromkeys(range(2019, 2025), 40)
        and len(report.trends["graphs"].shares) == 6
    )
    assert sum(report.shares[f]["ACL"] for f in FIELDS) == pytest.approx(1)


def test_papers_that_stand_there_twice(corpus, report):
    assert [pair[:2] for pair in report.duplicates] == [(corpus.keys[0], corpus.keys[-1])]


def test_search_in_one_field(corpus, report):
    key, cosine, text = report.find("we propose item17b", "method", 3)[0]
    assert key == corpus.keys[17] and "item17b" in text and 0 < cosine <= 1
    assert report.find("item33a", "text", 1)[0][0] == corpus.keys[33]
    with pytest.raises(AmodalError, match="Did you mean method"):
        report.find("x", "metod")


def test_a_report_is_shown_and_saved(report, tmp_path):
    console = Console(width=160, record=True, file=open("/dev/null", "w", encoding="utf-8"))
    console.print(report.table())
    shown = console.export_text()
    assert "venue KDD" in shown and "near duplicates" in shown and "graphs" in shown
    report.save(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert saved["rows"][0]["papers"] == len(saved["papers"]) == 240 and set(
        saved["trends"]
    ) == set(FIELDS)


def test_own_vectors_and_plain_texts(corpus):
    report = papers(
        corpus,
        {k: corpus.raw(i, "abstract") for i, k in enumerate(corpus.keys)},
        by=(),
        topics=3,
        embed=hashed,
    )
    assert (
        report.rows[0]["alignment"]["mean"] == pytest.approx(1)
        and len(report.rows) == 1
        and len(report.trends) == 3
    )


def hashed(texts):
    return (
        np.array(
            [[sum(map(ord, w)) % 7 == i for i in range(7) for w in [t]] for t in texts], dtype=float
        )
        + 0.01
    )


def test_what_is_wrong_is_said(corpus, made):
    with pytest.raises(AmodalError, match="1 summaries are of none"):
        papers(corpus, {"nobody": "text"})
    with pytest.raises(AmodalError, match="two papers"):
        papers(corpus, {corpus.keys[0]: "text"})
    with pytest.raises(AmodalError, match="Did you mean venue"):
        papers(corpus, made, by=["venu"])
    with pytest.raises(AmodalError, match="needs a list of words"):
        papers(corpus, made, topics={"a": "word"})
    with pytest.raises(AmodalError, match="a year is a number"):
        papers(corpus, made, year="title", by=())


def test_tf_idf_is_that_of_scikit_learn():
    learn = pytest.importorskip("sklearn.feature_extraction.text")
    texts = ["The cat sat, the cat ran.", "A dog ran", "cats and dogs", ""]
    peer = learn.TfidfVectorizer(token_pattern=WORD.pattern)
    want, own = peer.fit_transform(texts).toarray(), TfIdf(texts)
    order = [peer.vocabulary_[w] for w in own.vocabulary]
    assert own(texts) == pytest.approx(want[:, order], abs=1e-6)
    assert list(TfIdf(texts, most=1).vocabulary) == ["ran"]


def test_the_calibrated_likeness_and_its_mean():
    rng = np.random.default_rng(2)
    own, null = rng.normal(1, 1, 50).round(1), rng.normal(0, 1, 50).round(1)
    found = compare_likeness(own, null)
    assert found.p == pytest.approx([(1 + sum(n >= x for n in null)) / 51 for x in own])
    half = 1.96 * own.std() / 50**0.5
    assert mean_interval(own, draws=4000) == pytest.approx(
        (own.mean() - half, own.mean() + half), abs=0.03
    )
    part = found.of(np.arange(20))
    assert part.auroc == pytest.approx(
        np.mean([(a > b) + (a == b) / 2 for a in own[:20] for b in null[:20]])
    )
    assert sorted(derangement(7, 1)) == list(range(7)) and all(derangement(7, 1) != np.arange(7))
    with pytest.raises(AmodalError, match="no other"):
        derangement(1)
