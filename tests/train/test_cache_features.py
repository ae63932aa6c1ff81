"""Features of frozen backbones, computed once: the same training, without running the backbone
again."""

import json

import numpy as np
import pytest
import torch

import amodal
from amodal import data
from amodal.core import AmodalError
from amodal.nn.backbones import pretrained
from amodal.nn.encoder import Encoder
from amodal.train import cache_features

pytest.importorskip("timm")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """40 pictures with a series beside them, one of which cannot be read; and the weights of a tiny
    network."""
    import timm
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("remember")
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (16, 16, 3), dtype=np.uint8) for _ in range(40)]
    images[7] = b"no picture"
    images[9] = None
    series = [rng.normal(size=(6, 2)).astype(np.float32) for _ in range(40)]
    dataset = data.open({"image": images, "signal": series, "kind": ["a", "b"] * 20})
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=32)
    save_file(model.state_dict(), folder / "vit.safetensors")
    return dataset, f"timm:test_vit:32@{folder / 'vit.safetensors'}"


def encoder_of(pictures):
    dataset, spec = pictures
    torch.manual_seed(1)
    backbones = {"image": pretrained.backbone(spec, dataset.fields["image"], 64)}
    return Encoder(dataset.fields, size="nano", backbones=backbones).eval()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AMODAL_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("pooled", [True, False])
def test_vectors_are_those_of_the_backbone_itself(pictures, pooled):
    dataset, encoder = pictures[0], encoder_of(pictures)
    seen = cache_features.with_cached_features(
        dataset, encoder, torch.device("cpu"), pooled=pooled, progress=False
    )
    plain, cached = (
        next(iter(data.Loader(d, range(40), batch=40, shuffle=False))) for d in (dataset, seen)
    )
    assert (
        cached["image"].rows.tolist() == plain["image"].rows.tolist() and len(cached["image"]) == 38
    )
    tokens = cached["image"].values.lengths
    assert (tokens == 1).all() if pooled else (tokens > 1).all()
    with torch.no_grad():
        for source, column in encoder(plain).columns.items():
            assert torch.allclose(column.values, encoder(cached)[source].values, atol=5e-3), source


def test_the_backbone_runs_once_and_a_stopped_pass_goes_on(pictures, monkeypatch):
    dataset, encoder = pictures[0], encoder_of(pictures)
    monkeypatch.setattr(cache_features, "CHUNK", 16)
    monkeypatch.setattr(cache_features, "BATCH_SIZE", 8)
    calls, look = [], cache_features.compute_features

    def stopping(*arguments):
        calls.append(len(arguments[1]))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return look(*arguments)

    monkeypatch.setattr(cache_features, "compute_features", stopping)
    with pytest.raises(KeyboardInterrupt):
        cache_features.with_cached_features(
            dataset, encoder, torch.device("cpu"), pooled=True, progress=False
        )
    seen = cache_features.with_cached_features(
        dataset, encoder, torch.device("cpu"), pooled=True, progress=False
    )
    assert len(calls) == 4 + 3  # the chunk that was begun, and the one after it
    cache_features.with_cached_features(
        dataset, encoder, torch.device("cpu"), pooled=True, progress=False
    )
    assert len(calls) == 7
    assert seen.value(39, "image").shape == (1, 64 + 3) and seen.value(9, "image") is None


def test_other_weights_or_other_data_are_computed_anew(pictures, cache):
    dataset, encoder = pictures[0], encoder_of(pictures)
    cache_features.with_cached_features(
        dataset, encoder, torch.device("cpu"), pooled=True, progress=False
    )
    with torch.no_grad():
        next(encoder.tokenizers["image"].body.parameters()).add_(1)
    cache_features.with_cached_features(
        dataset, encoder, torch.device("cpu"), pooled=True, progress=False
    )
    cache_features.with_cached_features(
        dataset.subset(range(30)), encoder, torch.device("cpu"), pooled=True, progress=False
    )
    assert len(list((cache / "features").iterdir())) == 3


def test_a_run_on_features_is_a_run_like_others(pictures, tmp_path, monkeypatch):
    dataset, spec = pictures
    how = {"size": "nano", "steps": 3, "batch": 8, "backbones": {"image": spec}, "progress": False}
    model = amodal.pretrain("clip", dataset, tmp_path / "run", cache_features="mean", **how)
    assert (
        json.loads((tmp_path / "run" / "config.json").read_text())["schedule"]["cache_features"]
        == "mean"
    )
    found = model.embed(dataset)
    assert len(found.aligned["image"]) == 38 and len(found.bad) == 1
    calls, look = [], cache_features.compute_features
    monkeypatch.setattr(
        cache_features, "compute_features", lambda *arguments: calls.append(1) or look(*arguments)
    )
    report = model.evaluate(dataset, protocols=["knn"], label="kind")
    assert not calls and report.about["fingerprint"] == dataset.fingerprint
    quarantined = (tmp_path / "run" / "quarantine.jsonl").read_text()
    assert "image" in quarantined


def test_what_features_cannot_do_is_said(pictures, tmp_path):
    dataset, spec = pictures
    how = {"size": "nano", "steps": 2, "progress": False}
    with pytest.raises(AmodalError, match="multiple views of image"):
        amodal.pretrain(
            "simclr",
            dataset,
            tmp_path / "a",
            cache_features="mean",
            backbones={"image": spec},
            **how,
        )
    with pytest.raises(AmodalError, match="no frozen backbone"):
        amodal.pretrain("clip", dataset, tmp_path / "b", cache_features="mean", **how)
    with pytest.raises(AmodalError, match="mean"):
        amodal.pretrain(
            "clip", dataset, tmp_path / "c", cache_features="men", backbones={"image": spec}, **how
        )
