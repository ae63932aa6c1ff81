"""The tokens of text in a run: learnt from its training part, kept by whatever goes on from it."""

import json
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from tokenizers import Tokenizer

import amodal
from amodal import data
from amodal.core import AmodalError
from amodal.export import export
from amodal.inference.embed import embed_values
from amodal.modalities.text import Text
from amodal.plan import plan
from amodal.train.pretrain import pretrain

QUICK = dict(size="nano", batch_size=16, seed=1, progress=False, steps=2)


@pytest.fixture(scope="module")
def records(folder):
    return data.open(folder)


@pytest.fixture(scope="module")
def caption(records):
    return next(name for name, m in records.fields.items() if isinstance(m, Text))


@pytest.fixture(scope="module")
def run(records, tmp_path_factory):
    return pretrain("clip", records, tmp_path_factory.mktemp("runs") / "run", **QUICK)


def test_a_run_has_the_tokens_of_its_training_part(run, records, caption):
    part = records.split("train")
    text = amodal.load(run).encoder.fields[caption]
    texts = [records.raw(int(i), caption) for i in np.random.default_rng(0).permutation(part)]
    assert text.merges == Text().learn_tokens([t for t in texts if t is not None]) != ""
    assert text.patch == 1 and len(text.decode("a picture")) == 2
    theirs = Tokenizer.from_file(str(run / f"tokenizer-{caption}.json"))
    assert theirs.encode("a red picture").ids == text.decode("a red picture").tolist()


def test_a_run_is_used_and_exported_with_its_tokens(run, records, caption, tmp_path):
    model = amodal.load(run)
    model.save(tmp_path / "saved")
    saved = amodal.load(tmp_path / "saved")
    assert saved.encoder.fields == model.encoder.fields
    model.index(records)
    hits = model.search(text="a red picture", k=3)
    assert len(hits) == 3

    export(model, "onnx", tmp_path / "onnx")
    theirs = Tokenizer.from_file(str(tmp_path / "onnx" / f"tokenizer-{caption}.json"))
    ids = np.array([theirs.encode("a red picture").ids])
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / f"{caption}.onnx"))
    (graph,) = session.run(None, {"ids": ids, "lengths": np.array([ids.shape[1]])})
    wanted = embed_values(model.encoder, caption, ["a red picture"])
    np.testing.assert_allclose(graph, wanted, atol=1e-4)


def test_what_goes_on_from_a_run_keeps_its_tokens(run, records, caption, tmp_path):
    more = data.open(
        {
            caption: [f"an altogether different sentence, number {i}" for i in range(60)],
            "image": [np.full((24, 20, 3), i, np.uint8) for i in range(60)],
        },
        fields={caption: Text(), "image": records.fields["image"]},
    )
    goes_on = pretrain("clip", more, tmp_path / "on", init_from=run, **QUICK)
    assert amodal.load(goes_on).encoder.fields[caption] == amodal.load(run).encoder.fields[caption]


def test_a_run_resumes_with_its_tokens_only(run, records, caption):
    pretrain("clip", records, run, resume=True, **QUICK)
    for parameters, message in (
        ({"vocabulary_size": 300}, r"vocabulary_size = 8192, and the new one is 300"),
        ({"tokens": "bytes"}, r"tokens = 'subwords', and the new one is 'bytes'"),
    ):
        other = records.with_fields(
            records.fields | {caption: replace(records.fields[caption], **parameters)}
        )
        with pytest.raises(AmodalError, match=rf"another encoder.*{caption}\.{message}"):
            pretrain("clip", other, run, resume=True, **QUICK)
    spec = json.loads((run / "spec.json").read_text(encoding="utf-8"))
    spec["encoder"]["args"]["fields"][caption]["merges"] = "a b"
    whole = (run / "spec.json").read_text(encoding="utf-8")
    (run / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    with pytest.raises(AmodalError, match=rf"another encoder.*{caption}\.merges = "):
        pretrain("clip", records, run, resume=True, **QUICK)
    (run / "spec.json").write_text(whole, encoding="utf-8")


def test_bytes_stay_an_option(records, caption, tmp_path):
    parameters = {caption: replace(records.fields[caption], tokens="bytes")}
    out = pretrain(
        "clip", records.with_fields(records.fields | parameters), tmp_path / "r", **QUICK
    )
    text = amodal.load(out).encoder.fields[caption]
    assert text.tokens == "bytes" and text == parameters[caption] and text.vocab_size == 256
    assert not list(out.glob("tokenizer-*"))


def test_char_vgs_reads_characters(records, caption, tmp_path):
    parameters = {caption: replace(records.fields[caption], tokens="bytes")}
    for name, dataset in (("a", records), ("b", records.with_fields(records.fields | parameters))):
        out = pretrain("char_vgs", dataset, tmp_path / name, **QUICK)
        text = amodal.load(out).encoder.fields[caption]
        assert text.tokens == "characters" and text.merges == "", "ASCII needs no merge"
        assert text.decode("a red").tolist() == list(b"a red")


def test_a_run_of_few_texts_says_that_they_are_bytes(tmp_path, capfd):
    columns = {
        "text": list("abcdefghijklmnopqrstuvwx"),
        "image": [np.zeros((8, 8, 3), np.uint8)] * 24,
    }
    dataset = data.open(columns, fields={"text": "text", "image": "image"})
    options = QUICK | dict(progress=True, batch_size=8)
    out = pretrain("simclr", dataset, tmp_path / "few", **options)
    assert "too few training texts" in " ".join(capfd.readouterr().err.split())
    assert amodal.load(out).encoder.fields["text"].merges == ""


@pytest.mark.parametrize("method", ["mae", "softmask_vl"])
def test_whole_words_are_masked(records, method, tmp_path):
    small = {"queue": 8, "width": 16} if method == "softmask_vl" else {}
    out = pretrain(
        method, records, tmp_path / "words", options=small | {"whole_words": True}, **QUICK
    )
    assert amodal.load(out).config["options"]["whole_words"] is True


def test_plan_counts_the_tokens_that_a_run_has(records, caption):
    assert caption in str(plan("clip", size="nano", gpus=1, samples=1e4, data=records).notes)


def test_captions_are_generated(records, caption, tmp_path):
    out = pretrain(
        "deepvs",
        records,
        tmp_path / "r",
        options={"captions": 0.5, "width": 16, "hidden": 16},
        **QUICK | {"steps": 4},
    )
    model = amodal.load(out)
    batch = next(iter(data.Loader(records.with_fields(model.encoder.fields), [0, 1], batch=2)))
    texts = model.method.generate(batch, beams=1, longest=5)
    assert all(isinstance(text, str) for text in texts.values()) and texts
