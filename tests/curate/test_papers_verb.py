"""`amodal papers`: summaries and their report from the command line, and summaries of others."""

import json

import pytest

from amodal.cli import main
from amodal.core import AmodalError
from amodal.curate.cs_papersum import read_summaries
from amodal.data import open as open_data
from amodal.evaluate.paper_topics import read_topics


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "key": f"p{i}",
            "title": f"On part{i}",
            "abstract": f"We propose part{i} for graphs. Results improve by {i} percent. In future "
            f"we plan to add item{i}.",
            "venue": "ACL" if i % 2 else "KDD",
            "year": 2019 + i % 4,
            "tldr": f"The part{i} for graphs works." if i else None,
        }
        for i in range(40)
    ]
    (tmp_path / "papers.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8"
    )
    return tmp_path / "papers.jsonl"


def run(capsys, *words):
    main(["papers", *map(str, words)])
    return capsys.readouterr().out


def test_summaries_a_report_and_a_search(table, capsys):
    (table.parent / "topics.txt").write_text(
        "graphs: graph, network\n\npictures: image\n", encoding="utf-8"
    )
    shown = run(
        capsys,
        *(table, "--out", "made", "--topics", "topics.txt"),
        *("--find", "plan to add item7", "--find-in", "future_work"),
    )
    lines = [json.loads(x) for x in (table.parent / "made/summaries.jsonl").open()]
    assert len(lines) == 40 and lines[3]["summary"]["future_work"].endswith("item3.")
    report = json.loads((table.parent / "made/report.json").read_text(encoding="utf-8"))
    assert set(report["trends"]) == {"graphs", "pictures"} and len(report["papers"]) == 40
    assert report["trends"]["graphs"]["shares"] == [1.0] * 4
    assert "venue KDD" in shown and "add item7." in shown.splitlines()[-5]
    resumed = run(capsys, table, "--out", "made", "--topics", "2")
    assert "40 summaries" in resumed
    assert (
        len((table.parent / "made/summaries.jsonl").read_text(encoding="utf-8").splitlines()) == 40
    )


def test_a_language_model_is_a_function_of_the_users(table, capsys):
    (table.parent / "model.py").write_text(
        "def ask(prompt):\n"
        "    if 'part3 ' in prompt:\n"
        "        return 'I cannot say.'\n"
        "    return 'Key takeaways: A graph.\\nKeywords: graphs, parts'\n",
        encoding="utf-8",
    )
    shown = run(capsys, table, "--out", "made", "--ask", "model.py:ask")
    assert "39 summaries, 1 failed" in shown and "no summary of" in shown
    line = json.loads((table.parent / "made/summaries.jsonl").open().readline())
    assert line["summary"] == {"key_takeaways": "A graph.", "keywords": ["graphs", "parts"]}


def test_summaries_of_others_are_columns_or_lines(table, capsys):
    run(capsys, table, "--out", "made", "--summaries", "tldr")
    report = json.loads((table.parent / "made/report.json").read_text(encoding="utf-8"))
    assert len(report["papers"]) == 39 and len(report["without"]) == 1
    assert report["papers"][4]["summary"]["tldr"] == "The part5 for graphs works."
    assert not (table.parent / "made/summaries.jsonl").exists()
    dataset = open_data(table)
    lines = [
        {
            "key": dataset.keys[0],
            "summary": {"method": "Graphs.", "keywords": ["a", "b"], "x": None},
        },
        {"key": dataset.keys[1], "summary": "A text."},
        {"key": dataset.keys[2], "summary": None},
    ]
    file = table.parent / "theirs.jsonl"
    file.write_text("".join(json.dumps(x) + "\n" for x in lines[:2]), encoding="utf-8")
    assert dict(read_summaries(dataset, str(file))) == {
        dataset.keys[0]: {"method": "Graphs.", "keywords": ("a", "b")},
        dataset.keys[1]: {"summary": "A text."},
    }
    file.write_text(json.dumps(lines[2]) + "\n", encoding="utf-8")
    with pytest.raises(AmodalError, match="neither a text nor fields"):
        read_summaries(dataset, str(file))
    with pytest.raises(AmodalError, match="no file"):
        read_summaries(dataset, "gone.jsonl")
    with pytest.raises(AmodalError, match="Did you mean tldr"):
        read_summaries(dataset, "tldrs")


def test_topics_are_a_number_or_a_file(tmp_path):
    assert read_topics("7") == 7
    (tmp_path / "t.txt").write_text("a: x , y\nb c: z\n", encoding="utf-8")
    assert read_topics(str(tmp_path / "t.txt")) == {"a": ("x", "y"), "b c": ("z",)}
    (tmp_path / "t.txt").write_text("a: x\nnothing\n", encoding="utf-8")
    with pytest.raises(AmodalError, match="line 2 of"):
        read_topics(str(tmp_path / "t.txt"))
    with pytest.raises(AmodalError, match="a number, or a file"):
        read_topics("seven")
