"""`amodal align` without a method: candidates on cached features, and the closed form unless another
is better by more than noise."""

import json

import numpy as np
import pytest
import torch

import amodal
from amodal import data
from amodal.core import AmodalError
from amodal.studies import align as module
from amodal.studies import trainer
from amodal.studies.align import CANDIDATES, CLOSED_FORM, align, chosen
from amodal.studies.outcome import Outcome
from amodal.train import feature_store

pytest.importorskip("timm")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AMODAL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """300 pairs of pictures of one pattern, and the weights of a tiny network."""
    import timm
    from safetensors.torch import save_file

    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("align")
    sides = {"left": [], "right": []}
    for _ in range(300):
        pattern = rng.normal(size=(4, 4, 3)) * 40 + 128
        for side in sides.values():
            picture = np.kron(pattern + 5 * rng.normal(size=pattern.shape), np.ones((4, 4, 1)))
            side.append(picture.clip(0, 255).astype(np.uint8))
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", img_size=32).state_dict(), folder / "vit.safetensors")
    spec = f"timm:test_vit:32@{folder / 'vit.safetensors'}"
    return data.open(sides), {"left": spec, "right": spec}


@pytest.mark.filterwarnings("ignore:timm.test_vit")
def test_it_compares_chooses_and_trains(pictures, tmp_path, monkeypatch):
    dataset, backbones = pictures
    some = [c for c in CANDIDATES if "dropout 0.5, weight decay 0.05" in c.name or not c.options]
    monkeypatch.setattr(module, "CANDIDATES", tuple(some))
    out = tmp_path / "run"
    alignment = align(dataset, out, backbones, steps=4, progress=False, logger=None)
    assert set(alignment.scores) == {c.name for c in some} and len(some) == 3
    assert CLOSED_FORM in alignment.summary and alignment.chosen in alignment.summary
    assert alignment.scores[CLOSED_FORM] > 0.6
    assert alignment.scores[alignment.chosen] >= alignment.scores[CLOSED_FORM]
    stored = json.loads((out / "alignment.json").read_text(encoding="utf-8"))
    assert stored["chosen"] == alignment.chosen and stored["scores"] == alignment.scores
    model, config = amodal.load(out), json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert config["chosen_on"] == "valid"
    assert config["schedule"]["cache_features"] == "mean" and model.encoder.width == 768
    rows = model.evaluate(dataset, protocols=["retrieval"], simple=False, progress=False).rows()
    assert all(r["value"] > 0.4 for r in rows if r["metric"] == "recall@10")
    with pytest.raises(AmodalError, match="holds a run already"):
        align(dataset, out, backbones, steps=4, progress=False)
    monkeypatch.setattr(module, "work", None)  # what was chosen stays chosen
    resumed = align(dataset, out, backbones, steps=4, progress=False, logger=None, resume=True)
    assert resumed.chosen == alignment.chosen


@pytest.mark.filterwarnings("ignore:timm.test_vit")
def test_trials_run_the_backbones_once(pictures, tmp_path, monkeypatch):
    dataset, backbones = pictures
    calls = []
    compute = feature_store.compute_features

    def counted(body, values, *more):
        calls.append(len(values))
        return compute(body, values, *more)

    monkeypatch.setattr(feature_store, "compute_features", counted)
    monkeypatch.setattr(module, "CANDIDATES", CANDIDATES[:2])
    align(dataset, tmp_path / "run", backbones, steps=2, progress=False, logger=None)
    assert sum(calls) == 2 * len(dataset)


@pytest.mark.filterwarnings("ignore:timm.test_vit")
def test_it_begins_with_a_line_and_goes_on_with_the_trials_that_are_done(
    pictures, tmp_path, monkeypatch, capsys
):
    dataset, backbones = pictures
    monkeypatch.setattr(module, "CANDIDATES", CANDIDATES[:3])
    begun, whole, out = [], trainer.trained, tmp_path / "run"

    def interrupted(setup, job, callbacks=()):
        if job.candidate.name not in begun:
            begun.append(job.candidate.name)
        elif stop:
            raise AssertionError("a trial that is done is trained repeated")
        if stop and len(begun) == 3:
            raise KeyboardInterrupt
        return whole(setup, job, callbacks)

    monkeypatch.setattr(trainer, "trained", interrupted)
    stop = True
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        align(dataset, out, backbones, steps=2, logger=None)
    said = capsys.readouterr().err
    assert said.startswith("align on ") and "then 3 ways" in said
    assert [*out.glob(".trials-*")] and not (out / "config.json").exists()
    stop, repeated = False, []
    monkeypatch.setattr(
        trainer,
        "trained",
        lambda setup, job, calls=(): repeated.append(job) or whole(setup, job, calls),
    )
    assert len(align(dataset, out, backbones, steps=2, progress=False, logger=None).scores) == 3
    assert len(repeated) == 1 and not [*out.glob(".trials-*")]


@pytest.mark.filterwarnings("ignore:timm.test_vit")
def test_a_method_that_is_asked_for_is_trained_as_it_is(pictures, tmp_path):
    dataset, backbones = pictures
    for method, width in (("ape", 128), ("cca", 768)):
        out = tmp_path / method
        found = align(dataset, out, backbones, method=method, steps=2, progress=False, logger=None)
        assert (found.chosen, found.summary) == (method, "")
        assert amodal.load(out).encoder.width == width and not (out / "alignment.json").exists()
        with pytest.raises(AmodalError, match=f"add --method {method}"):
            align(dataset, out, backbones, steps=2, progress=False, resume=True)


def test_mistakes_are_reported(pictures, tmp_path):
    dataset, backbones = pictures
    with pytest.raises(AmodalError, match="need the method"):
        align(dataset, tmp_path / "a", backbones, options={"dropout": 0.1})
    with pytest.raises(AmodalError, match="add --method"):
        align(dataset, tmp_path / "a", backbones, tokens=True)
    with pytest.raises(AmodalError, match="Did you mean steps"):
        align(dataset, tmp_path / "a", backbones, stepz=3)


def outcome(score, error=0.02):
    task = {"standard_error": error}
    return Outcome(score, details={"tasks": {"one": task, "other": task}})


def test_the_closed_form_is_chosen_unless_another_is_better_by_more_than_noise(tmp_path):
    level = chosen({CLOSED_FORM: outcome(0.600), "heads": outcome(0.613)}, tmp_path)
    assert level.chosen == CLOSED_FORM and "level within noise (0.014)" in level.summary
    better = chosen({CLOSED_FORM: outcome(0.600), "heads": outcome(0.616)}, tmp_path)
    assert better.chosen == "heads" and "the closed form has 0.600" in better.summary
    worse = chosen({CLOSED_FORM: outcome(0.600), "heads": outcome(0.5)}, tmp_path)
    assert worse.chosen == CLOSED_FORM and "the best other, heads, has 0.500" in worse.summary
    alone = chosen({CLOSED_FORM: outcome(0.6), "heads": Outcome(failed="no")}, tmp_path)
    assert alone.chosen == CLOSED_FORM and alone.summary.endswith("validation part")
    failed = chosen({CLOSED_FORM: Outcome(failed="no"), "heads": outcome(0.1)}, tmp_path)
    assert failed.chosen == "heads" and failed.summary.endswith("the closed form failed")
    with pytest.raises(AmodalError, match="nothing could be trained: no"):
        chosen({CLOSED_FORM: Outcome(failed="no")}, tmp_path)
