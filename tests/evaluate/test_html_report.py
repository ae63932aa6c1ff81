"""The page of a report: what is on it, and that no text of a user's is code in it."""

import base64

import numpy as np
import pytest
from lxml import html

import amodal
from amodal.core import AmodalError
from amodal.data import Label
from amodal.evaluate import Report, evaluate
from tests.evaluate.test_yardsticks import encoder_for

NASTY = "<script>alert('é&\"')</script>"
FIELD = NASTY.replace("/", "_")  # as a dataset names its fields


@pytest.fixture(scope="module")
def report():
    rng = np.random.default_rng(0)
    label = rng.choice([NASTY, "plain"], 160)
    text = [f"{'sea' if one == NASTY else 'wood'} {rng.integers(10**6)} tree" for one in label]
    curve = list(rng.normal(size=(160, 6)).astype(np.float32))
    data = {NASTY: text, "curve": curve, "kind": label.tolist()}
    records = amodal.open(data, name=NASTY)
    records.labels.update({"kind": Label()})
    return evaluate(
        encoder_for(records),
        records,
        baseline=encoder_for(records, 1),
        label="kind",
        protocols=["knn", "retrieval", "head", "zero_shot"],
        progress=False,
    )


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    return report.save_html(tmp_path_factory.mktemp("page") / "new" / "r.html").read_text(
        encoding="utf-8"
    )


def test_texts_of_a_user_are_never_code(page):
    tree = html.fromstring(page)
    assert "<script" not in page and not tree.xpath("//script")
    assert not [a for e in tree.iter() for a in e.attrib if a.startswith("on")]
    assert tree.xpath("//h1")[0].text == NASTY
    assert FIELD in [e.text for e in tree.xpath("//td")]
    assert NASTY in tree.text_content(), "the class, among the options of zero-shot"
    (policy,) = tree.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
    assert policy.startswith("default-src 'none'")
    sources = tree.xpath("//@src | //@href")
    assert sources and all(s.startswith("data:image/png;base64,") for s in sources)


def test_the_page_has_the_sentence_the_tables_and_why_something_was_skipped(report, page):
    tree = html.fromstring(page)
    assert tree.xpath("//p[@class='summary']")[0].text == report.about["summary"]
    titles = [e.text for e in tree.xpath("//h2")]
    assert titles[:3] == ["knn: kind", "retrieval", "zero_shot: kind"]
    assert titles[-2:] == ["Skipped", "How it was measured"] and "Pictures" in titles
    listed = [e.text for e in tree.xpath("//li")]
    for name, reason in report.skipped.items():
        assert f"{name}: {reason}" in listed
    assert any("1,000 draws, seed 0" in text for text in listed)
    assert any(text.startswith("versions: Python ") and "torch" in text for text in listed)
    assert f"simple features of {FIELD}: tf-idf" in listed
    heads = [e.text for e in tree.xpath("(//table)[1]//th")]
    compared = [f"trained - {name}" for name in ("joined", "simple", "untrained")]
    assert heads[-5:] == ["untrained", "chance", *compared]


def test_intervals_are_drawn_where_the_values_are(report, page):
    tree = html.fromstring(page)
    row = next(
        r
        for r in report.rows()
        if (r["protocol"], r["source"], r["metric"]) == ("knn", "curve", "accuracy")
    )
    (line,) = [
        e
        for e in tree.xpath("(//table)[1]/tbody/tr")
        if [td.text for td in e][0] == "curve" and e[2].text == "accuracy"
    ]
    low, high = row["intervals"]["trained"]
    drawn = line.xpath(".//line[@stroke-width]")[0]
    assert float(drawn.get("x1")) == pytest.approx(4 + 172 * low, abs=0.1)
    assert float(drawn.get("x2")) == pytest.approx(4 + 172 * high, abs=0.1)
    dot = line.xpath(".//circle")[0]
    assert float(dot.get("cx")) == pytest.approx(4 + 172 * row["value"], abs=0.1)
    assert len(line.xpath(".//circle")) == 4, "joined, simple and untrained too"


def test_pictures_are_inside_and_can_be_left_out(report, page, tmp_path):
    for source in html.fromstring(page).xpath("//img/@src"):
        assert base64.b64decode(source.partition(",")[2]).startswith(b"\x89PNG")
    plain = report.save_html(tmp_path / "r.html", figures=False).read_text(encoding="utf-8")
    assert "<img" not in plain and "<svg" in plain
    read = Report.load(report.save(tmp_path / "r.json", figures=False))
    assert read.save_html(tmp_path / "s.html", figures=False).read_text(encoding="utf-8") == plain
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(AmodalError, match="could not write the report"):
        report.save_html(tmp_path / "file" / "r.html", figures=False)
