"""A run of grace, loaded from disk, names records itself."""

import json
import math

import pytest
import torch

import amodal
from amodal import cli
from amodal.core import AmodalError
from amodal.data import Loader


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("grace") / "run"
    options = {"branch": 4, "leaf": 4, "depth": 1, "most": 128, "width": 16}
    amodal.pretrain(
        "grace", folder, out, size="nano", steps=12, batch=32, options=options, progress=False
    )
    return out


def test_a_loaded_run_finds_what_the_method_does(run, folder):
    model = amodal.load(run)
    records = model.read(folder)
    part = records.split("train")
    assert model.retriever.keys == [records.keys[i] for i in part]
    method, text = model.retriever.method, "a red picture"
    loaded = amodal.load(run).retriever.method
    for a, b in zip(method.state_dict().values(), loaded.state_dict().values()):
        assert torch.equal(a, b)
    hits = model.generate(text=text, k=len(part))
    assert sorted(h.key for h in hits) == sorted(model.retriever.keys), (
        "as many beams as records: every one of them, once"
    )
    assert 0 < sum(math.exp(h.score) for h in hits) < 1, "what is no identifier has the rest"
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True) and len(
        {h.part for h in hits}
    ) == len(hits)
    # by hand: the text of a record, through the method
    i = next(i for i in part if records.present("text")[i])
    (batch,) = Loader(records, [i], batch=1, shuffle=False)
    number = method.find(batch, beams=10).values[0, 0]
    assert (
        model.generate(text=records.raw(int(i), "text"), k=1)[0].key
        == model.retriever.keys[int(number)]
    )


def test_a_saved_copy_finds_the_same(run, tmp_path):
    model = amodal.load(run)
    loaded = amodal.load(model.save(tmp_path / "copy"))
    assert loaded.generate(text="blue", k=4) == model.generate(text="blue", k=4)
    (tmp_path / "copy" / "keys.json").write_text("[]", encoding="utf-8")
    with pytest.raises(AmodalError, match="has 0 records.*of another run"):
        amodal.load(tmp_path / "copy").generate(text="blue")
    (tmp_path / "copy" / "keys.json").write_text("{", encoding="utf-8")
    with pytest.raises(AmodalError, match="keys.json.*cannot be read"):
        amodal.load(tmp_path / "copy").generate(text="blue")


def test_the_command_line(run, capsys):
    cli.main(["search", str(run), "--text", "a red picture", "--generate", "--k", "3", "--json"])
    hits = json.loads(capsys.readouterr().out)
    assert len(hits) == 3 and all(h["source"] == "identifier" and h["part"] for h in hits)
    cli.main(["search", str(run), "--text", "a red picture", "--generate", "--k", "3"])
    assert f"identifier: {hits[0]['part']}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["search", str(run), "--text", "red", "--generate", "--where", "folder=red"])
    assert "--where is of an index" in capsys.readouterr().err


def test_what_cannot_be_asked_is_said(run, folder, tmp_path):
    model = amodal.load(run)
    picture = str(next(folder.rglob("*.png")))
    with pytest.raises(AmodalError, match="for its field 'text' alone, not for image"):
        model.generate(image=picture)
    with pytest.raises(AmodalError, match="alone, not for text, image"):
        model.generate(text="red", image=picture)
    with pytest.raises(AmodalError, match="needs something to look for"):
        model.generate()
    with pytest.raises(AmodalError, match="k = 0"):
        model.generate(text="red", k=0)
    other = amodal.pretrain(
        "clip", folder, tmp_path / "clip", size="nano", steps=1, batch=16, progress=False
    )
    with pytest.raises(
        AmodalError, match="writes no identifiers.*clip finds records by an index.*train grace"
    ):
        other.generate(text="red")
