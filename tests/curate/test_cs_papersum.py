"""Structured summaries: their check, what a language model answers, sentences that are taken out,
and a run that goes on."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import amodal
from amodal.core import AmodalError
from amodal.curate.cs_papersum import (
    PARTS,
    ExtractiveSummariser,
    Part,
    PromptedSummariser,
    centroid,
    cs_papersum,
    lead,
    textrank,
    validate_summary,
)
from amodal.curate.shared.cells import cells
from amodal.curate.shared.near import near_duplicates, shingles
from amodal.curate.shared.sentences import keyterms, random_rank, sentences, top_sentences, words
from amodal.curate.shared.summary_fields import build_prompt, parse_answer

GOOD = {"key_takeaways": "It works.", "keywords": ["graphs", "sparse attention"]}
ANSWER = "Key takeaways: It works.\nFuture work: More data.\nKeywords: graphs, sparse attention"
TEXT = (
    "Reading long texts is an important problem. Attention over long texts is slow. We propose sparse attention over blocks of the texts. "
    "Sparse attention outperforms dense attention on long texts by 3 percent. In future, pictures remain to be read."
)


def test_a_summary_is_checked_and_put_in_order():
    assert list(
        validate_summary({"keywords": ["a  b"], "key_takeaways": " It\n works. ", "method": " "})
    ) == [
        "key_takeaways",
        "keywords",
    ]
    assert validate_summary(GOOD) == {
        "key_takeaways": "It works.",
        "keywords": ("graphs", "sparse attention"),
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"futur_work": "x"}, "there is no field 'futur_work'; did you mean future_work"),
        ({"key_takeaways": None}, "the field 'key_takeaways' is missing"),
        ({"keywords": "graphs"}, "'keywords' is a list of texts, not one text"),
        ({"method": 3}, "'method' is a text, not int"),
        ({"keywords": ["a", 0]}, "'keywords' is a list of texts, not int"),
        ({"keywords": ["a", "A"]}, "says the same twice"),
        ({"method": "w " * 151}, "has 151 words where 150 are the most"),
    ],
)
def test_what_is_wrong_with_a_summary_is_said(change, reason):
    with pytest.raises(AmodalError, match=re.escape(reason)):
        validate_summary(GOOD | change)


def test_all_faults_are_listed_at_once_with_what_was_meant():
    with pytest.raises(AmodalError) as fault:
        validate_summary({"key_takeaway": "x", "keywords": []})
    assert "'key_takeaways' is missing ('key_takeaway' is there)" in str(fault.value)
    assert "'keywords' is missing" in str(fault.value) and "future_work" in str(fault.value)


def test_an_answer_is_read_however_its_labels_are_written():
    want = {
        "key_takeaways": "It works. Always.",
        "future_work": "More: data.",
        "keywords": ("graphs", "nets"),
    }
    assert (
        parse_answer(
            "Key takeaways: It works.\nAlways.\n\nFuture work: More: data.\nKeywords: graphs, nets."
        )
        == want
    )
    assert (
        parse_answer(
            "**Key takeaways:** It works. Always.\n- future_work: More: data.\n* KEYWORDS:\n- graphs\n- nets"
        )
        == want
    )


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Sure, here it is.\n" + ANSWER, "words before the first label: 'Sure, here it is.'"),
        (ANSWER + "\nKeywords: more", "the label 'Keywords' stands twice"),
        (
            ANSWER + "\nFutur work: more",
            "no field is called 'Futur work'; did you mean Future work",
        ),
        ("Method: x", "the field 'key_takeaways' is missing"),
    ],
)
def test_an_answer_that_cannot_be_read_says_why(answer, reason):
    with pytest.raises(AmodalError, match=re.escape(reason)):
        parse_answer(answer)


word = st.text("abcdefgh", min_size=2, max_size=6)
text = st.lists(word, min_size=1, max_size=8).map(" ".join)


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries(
        {"key_takeaways": text, "keywords": st.lists(word, min_size=1, unique=True)},
        optional={"method": text},
    )
)
def test_what_is_written_as_asked_is_read_as_it_was(summary):
    lines = {p.name: p.label for p in PARTS}
    written = (
        f"{lines[n]}: {v if isinstance(v, str) else ', '.join(v)}" for n, v in summary.items()
    )
    assert parse_answer("\n".join(written)) == validate_summary(summary)


def test_the_question_names_every_field_and_holds_the_paper():
    asked = build_prompt("A title", "A text.")
    assert (
        all(f"\n{p.label}: <" in asked for p in PARTS)
        and "Title: A title" in asked
        and "Text: A text." in asked
    )


def test_a_language_model_is_asked_once_more_with_the_reason():
    prompts, replies = [], iter(["Nothing.", "Keywords: a, b", ANSWER])

    def ask(prompt):
        prompts.append(prompt)
        return next(replies)

    assert PromptedSummariser(ask)("T", "text")["future_work"] == "More data."
    assert prompts[0] == build_prompt("T", "text") and all(
        p.startswith(prompts[0]) for p in prompts[1:]
    )
    assert (
        "words before the first label" in prompts[1] and "'key_takeaways' is missing" in prompts[2]
    )
    with pytest.raises(
        AmodalError, match="none of 2 replies could be read; the last one: there are words before"
    ):
        PromptedSummariser(lambda prompt: "no", tries=2)("T", "text")
    with pytest.raises(AmodalError, match="it returned NoneType"):
        PromptedSummariser(lambda prompt: None)("T", "text")


def test_sentences_are_taken_by_what_they_show():
    summary = ExtractiveSummariser(count=1)("", TEXT)
    said = sentences(TEXT)
    assert summary["importance"] == said[0] and summary["method"] == said[2]
    assert summary["performance"] == said[3] and summary["future_work"] == said[4]
    assert summary["key_takeaways"] in said and summary["keywords"][0] in ("attention", "texts")
    assert "future_work" not in ExtractiveSummariser()("", "We propose a thing. It is a thing.")
    own = [Part("gist", "what it says", needed=True), Part("data", "what on", cues=("data",))]
    assert ExtractiveSummariser(count=1, rank=lead, parts=own)("", "It works. On dataset C.") == {
        "gist": "It works.",
        "data": "On dataset C.",
    }


def test_sentences_end_where_they_do():
    text = 'As Fig. 2 of J. Smith et al. Shows, e.g. Trees grow. Do they? "Yes." (In 3.5 years.)\nNot here\n\nbut here. 你好。再见。'
    assert sentences(text) == [
        "As Fig. 2 of J. Smith et al. Shows, e.g. Trees grow.",
        "Do they?",
        '"Yes."',
        "(In 3.5 years.)",
        "Not here",
        "but here.",
        "你好。",
        "再见。",
    ]
    assert sentences(" \n ") == []


def slow_textrank(sentences, steps=400):
    bags = [words(s) for s in sentences]
    like = [
        [
            0
            if i == j or np.log(max(len(a), 1)) + np.log(max(len(b), 1)) <= 0
            else sum(w in b for w in set(a)) / (np.log(len(a)) + np.log(len(b)))
            for j, b in enumerate(bags)
        ]
        for i, a in enumerate(bags)
    ]
    score = [1.0] * len(sentences)
    for _ in range(steps):
        score = [
            0.15
            + 0.85
            * sum(like[j][i] * score[j] / sum(like[j]) for j in range(len(sentences)) if like[j][i])
            for i in range(len(sentences))
        ]
    return score


def test_textrank_is_the_fixed_point_of_its_formula_and_pagerank_of_the_same_graph():
    said = sentences(TEXT) + ["Attention is slow.", "Nothing else."]
    assert textrank(said) == pytest.approx(slow_textrank(said), abs=1e-9)
    networkx = pytest.importorskip("networkx")
    linked = [s for s, r in zip(said, textrank(said)) if r > 0.16]
    graph = networkx.Graph()
    for i, a in enumerate(linked):
        for j, b in enumerate(linked[:i]):
            if shared := len(set(words(a)) & set(words(b))):
                graph.add_edge(j, i, weight=shared / np.log(len(words(a)) * len(words(b))))
    peer = networkx.pagerank(graph, tol=1e-12, max_iter=1000)
    assert textrank(linked) / len(linked) == pytest.approx(
        [peer[i] for i in range(len(linked))], abs=1e-8
    )
    assert textrank([]).shape == (0,) and textrank(["one"]).tolist() == pytest.approx([0.15])


def test_keyterms_are_pagerank_of_neighbouring_words():
    networkx = pytest.importorskip("networkx")
    said = words(TEXT)
    graph = networkx.Graph((a, b) for a, b in zip(said, said[1:]) if a != b)
    peer = networkx.pagerank(graph, tol=1e-12, max_iter=1000)
    assert keyterms(TEXT, 4) == sorted(peer, key=lambda w: -round(peer[w], 12))[:4]


def test_the_centroid_is_the_cosine_with_scikit_learns_sum():
    learn = pytest.importorskip("sklearn.feature_extraction.text")
    said = sentences(TEXT)
    table = learn.TfidfVectorizer(analyzer=words, norm=None).fit_transform(said).toarray()
    middle = table.sum(0)
    peer = table @ middle / np.linalg.norm(table, axis=1) / np.linalg.norm(middle)
    assert centroid(said) == pytest.approx(peer) and centroid(["", "of the"]).tolist() == [0, 0]


def test_the_best_stand_in_the_order_of_the_text():
    said = list("abcd")
    assert top_sentences(said, lambda s: np.array([1, 3, 2, 3]), 2) == ["b", "d"] and top_sentences(
        said, lead, 2
    ) == ["a", "b"]
    assert top_sentences(said, lead, 9) == said
    draws = {tuple(top_sentences(said, random_rank(seed), 2)) for seed in range(40)}
    assert len(draws) == 6 and top_sentences(said, random_rank(1), 2) == top_sentences(
        said, random_rank(1), 2
    )
    with pytest.raises(AmodalError, match="at least 1 sentence"):
        top_sentences(said, lead, 0)


@pytest.mark.parametrize("least", [0.3, 0.5, 0.8, 1.0])
def test_near_duplicates_are_those_of_comparing_all(least):
    rng = np.random.default_rng(5)
    texts = [" ".join(rng.choice(list("abc"), rng.integers(0, 9))) for _ in range(60)]
    sets = [shingles(t) for t in texts]
    want = {
        (i, j): len(a & b) / len(a | b)
        for j, b in enumerate(sets)
        for i, a in enumerate(sets[:j])
        if a and b and len(a & b) / len(a | b) >= least
    }
    found = near_duplicates(texts, least)
    assert {(i, j): index for i, j, index in found} == want and len(found) == len(want) > 3
    with pytest.raises(AmodalError, match="0 < least"):
        near_duplicates(texts, 0)


@pytest.fixture
def table(tmp_path):
    def write(rows):
        lines = [
            json.dumps(
                {
                    "id": f"p{i}",
                    "title": f"Paper {i}",
                    "abstract": t,
                    "venue": "ACL",
                    "year": 2020 + i,
                }
            )
            for i, t in enumerate(rows)
        ]
        (tmp_path / "papers.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return amodal.open(tmp_path / "papers.jsonl")

    return write


def test_a_run_goes_on_where_it_was(table, tmp_path):
    out, calls = tmp_path / "out.jsonl", []

    def ask(prompt):
        calls.append(prompt)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return ANSWER

    rows = [TEXT, "Another text.", "A third one.", ""]
    papers = table(rows)
    with pytest.raises(KeyboardInterrupt):
        cs_papersum(papers, PromptedSummariser(ask), out=out, progress=False)
    with open(out, "a", encoding="utf-8") as stream:
        stream.write('{"key": "cut of')
    made = cs_papersum(papers, PromptedSummariser(ask), out=out, progress=False)
    assert (
        len(calls) == 4
        and len(made) == 3
        and list(made.failed.values()) == ["the field 'abstract' is empty"]
    )
    assert [
        json.loads(line)["summary"]["future_work"]
        for line in out.read_text(encoding="utf-8").splitlines()
    ] == ["More data."] * 3
    rows[1] = "Another text, changed."
    resumed = cs_papersum(table(rows), PromptedSummariser(ask), out=out, progress=False)
    assert len(calls) == 5 and len(resumed) == 3
    assert cs_papersum(table(rows), out=out, progress=False)[papers.keys[0]]["method"].startswith(
        "We propose"
    )
    (tmp_path / "no.jsonl").write_text('{"a": 1}\n', encoding="utf-8")
    with pytest.raises(AmodalError, match="holds no summaries"):
        cs_papersum(papers, out=tmp_path / "no.jsonl", progress=False)


def test_a_paper_that_cannot_be_done_ends_nothing(table):
    papers = table([TEXT, "Bad one.", "Fine."])
    made = cs_papersum(
        papers,
        PromptedSummariser(lambda p: "?" if "Bad one." in p else ANSWER, tries=1),
        progress=False,
    )
    assert (
        set(made) | set(made.failed) == set(papers.keys)
        and "none of 1 replies" in made.failed[papers.keys[1]]
    )
    with pytest.raises(AmodalError, match="no summary could be made of 3 papers"):
        cs_papersum(papers, PromptedSummariser(lambda p: "?", tries=1), progress=False)
    with pytest.raises(AmodalError, match="Did you mean abstract"):
        cs_papersum(papers, text="abstrct", progress=False)


def test_cells_are_found_wherever_they_are(table):
    papers = table(["One.", "Two."])
    assert cells(papers, "year") == [2020, 2021] and cells(papers, "abstract") == ["One.", "Two."]
    assert cells(papers, "venue") == ["ACL", "ACL"]
    with pytest.raises(AmodalError, match="Did you mean venue"):
        cells(papers, "venu")
