"""The protocol generation: BLEU against sacrebleu and by hand, and texts that a run writes."""

import json
import random

import numpy as np
import pytest

import amodal
from amodal.cli import main
from amodal.core import AmodalError
from amodal.stats.bleu import WORD, bleu
from amodal.stats.chrf import chrf

NAMES = ("zero", "one", "two", "three", "four")


def test_as_sacrebleu_counts():
    sacrebleu = pytest.importorskip("sacrebleu")
    rng = random.Random(0)
    words = "a b c d e f, g. (h) it's".split()
    references = [" ".join(rng.choices(words, k=rng.randint(3, 12))) for _ in range(40)]
    texts = [
        " ".join(w if rng.random() < 0.8 else rng.choice(words) for w in r.split()[: 2 + i % 9])
        for i, r in enumerate(references)
    ]
    apart = [[" ".join(WORD.findall(t)) for t in side] for side in (texts, references)]
    peer = sacrebleu.BLEU(tokenize="none", smooth_method="none")
    expected = peer.corpus_score(apart[0], [apart[1]]).score / 100
    assert bleu(texts, references) == pytest.approx(expected, abs=1e-9)
    long = [t + " a b c d" for t in references]
    expected = peer.corpus_score([" ".join(WORD.findall(t)) for t in long], [apart[1]]).score / 100
    assert bleu(long, references) == pytest.approx(expected, abs=1e-9)


def test_bleu_by_hand():
    # 5 of 6 words, 3 of 5 pairs, 1 of 4 triples; one word is missing, so the penalty is e^(1 - 7/6)
    made, reference = "the cat sat on a mat", "the cat sat on the red mat"
    assert bleu([made], [reference], longest=2) == pytest.approx(
        (5 / 6 * 3 / 5) ** 0.5 * np.exp(1 - 7 / 6)
    )
    assert bleu(["a a a a a"], ["a b c d e"], longest=1) == pytest.approx(1 / 5)
    assert bleu([reference], [reference]) == pytest.approx(1)
    assert bleu(["x"], ["x"]) == 0.0 and bleu([""], ["x"]) == 0.0
    with pytest.raises(ValueError, match="1 texts and 0 references"):
        bleu(["x"], [])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on numbers in digits and in words; every tenth record has no words."""
    folder = tmp_path_factory.mktemp("numbers")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(200):
        a, b = rng.integers(5, size=2)
        said = f"the number {NAMES[a]} and the number {NAMES[b]}"
        rows.append({"key": f"r{i}", "digits": f"{a} {b}", "said": said if i % 10 else None})
    (folder / "numbers.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8"
    )
    (folder / "dataset.toml").write_text(
        'records = "numbers.jsonl"\nkey = "key"\n[fields.digits]\nmodality = "text"\n'
        '[fields.said]\nmodality = "text"\n',
        encoding="utf-8",
    )
    data = amodal.open(folder)
    options = {"depth": 1, "target": "said"}
    amodal.pretrain(
        *("cuni_mmt", data, folder / "run"),
        **{"size": "nano", "steps": 1, "batch_size": 16, "progress": False, "options": options},
    )
    return folder, data, {r["key"]: r["said"] for r in rows}


def test_what_is_written_is_held_against_the_texts_of_the_same_records(run):
    folder, data, said = run
    model = amodal.load(folder / "run")
    seen = []

    def generate(batch, beams=4):
        assert "said" not in batch.sources and beams == 2
        seen.extend(batch.keys)
        texts = [(said[key] or "").replace("the number zero", "zero") for key in batch.keys]
        return {row: text for row, text in enumerate(texts) if row % 3}

    model.method.generate = generate
    report = model.evaluate(data, protocols=["generation"], beams=2, progress=False)
    rows = {row["metric"]: row for row in report["generation"].rows}
    made = [key for i, key in enumerate(seen) if i % 3]
    assert made and all(said[key] for key in seen)
    texts = [said[key].replace("the number zero", "zero") for key in made]
    references = [said[key] for key in made]
    for name, metric in (("BLEU", bleu), ("chrF", chrf)):
        assert rows[name]["value"] == pytest.approx(metric(texts, references))
        assert rows[name]["n"] == len(made) and rows[name]["chance"] < rows[name]["value"]
    # digits that are the same are nearest, and so is what was said of them
    assert rows["BLEU, nearest record"]["value"] > 0.5
    assert {r["source"] for r in report["generation"].rows} == {"digits"}


def test_the_verb_and_what_writes_nothing(run, tmp_path, capsys):
    folder, data, _ = run
    main(
        [
            *("evaluate", str(folder / "run"), "--data", str(folder)),
            *("--protocols", "generation", "--protocol.beams", "1", "--records", "8"),
            *("--json", str(tmp_path / "report.json")),
        ]
    )
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["results"][0]["rows"]
    assert {"BLEU", "chrF", "BLEU, nearest record"} <= {row["metric"] for row in found}
    assert "chrF" in capsys.readouterr().out
    amodal.pretrain(
        "clip", data, tmp_path / "clip", size="nano", steps=1, batch_size=8, progress=False
    )
    with pytest.raises(AmodalError, match="writes no text"):
        amodal.load(tmp_path / "clip").evaluate(data, protocols=["generation"], progress=False)
