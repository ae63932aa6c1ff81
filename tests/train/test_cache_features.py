"""Features of frozen backbones, computed once: the same training, without running the backbone
again."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import amodal
from amodal import data
from amodal.core import AmodalError
from amodal.export.vectors import write_vectors
from amodal.nn.backbones import pretrained
from amodal.nn.encoder import Encoder
from amodal.train import cache_features, feature_store

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
    monkeypatch.setattr(feature_store, "CHUNK", 16)
    monkeypatch.setattr(feature_store, "BATCH_SIZE", 8)
    calls, look = [], feature_store.compute_features

    def stopping(*arguments):
        calls.append(len(arguments[1]))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return look(*arguments)

    monkeypatch.setattr(feature_store, "compute_features", stopping)
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
        json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["schedule"][
            "cache_features"
        ]
        == "mean"
    )
    found = model.embed(dataset)
    assert len(found.aligned["image"]) == 38 and len(found.bad) == 1
    calls, look = [], feature_store.compute_features
    monkeypatch.setattr(
        feature_store, "compute_features", lambda *arguments: calls.append(1) or look(*arguments)
    )
    report = model.evaluate(dataset, protocols=["knn"], label="kind")
    assert not calls and report.about["fingerprint"] == dataset.fingerprint
    quarantined = (tmp_path / "run" / "quarantine.jsonl").read_text(encoding="utf-8")
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """130 pictures in files that a table names and two numbers beside each."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    lines = ["picture,kind,x,y"]
    for i in range(130):
        pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{'ab'[i % 2]},{rng.normal():.3f},{rng.normal():.3f}")
    (folder / "records.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def rows_seen(monkeypatch):
    """How many values each pass of the backbone was given."""
    calls, original = [], feature_store.compute_features

    def counted(body, values, *more):
        calls.append(len(values))
        return original(body, values, *more)

    monkeypatch.setattr(feature_store, "compute_features", counted)
    return calls


def trained(data, spec, out, **more):
    how = {"size": "nano", "steps": 2, "batch_size": 8, "progress": False}
    how |= {"backbones": {"picture": spec}, "cache_features": "mean"}
    return amodal.pretrain("clip", data, out, **how | more)


def vectors(model, data):
    embedded = model.embed(data)
    return {s: c.values for s, c in embedded.aligned.columns.items()}


def test_embed_index_and_evaluate_run_no_backbone_on_a_hit(
    folder, pictures, tmp_path, rows_seen, monkeypatch
):
    data, spec = folder / "records.csv", pictures[1]
    model = trained(data, spec, tmp_path / "run")
    assert sum(rows_seen) == 130
    rows_seen.clear()
    body, forwards = model.encoder.tokenizers["picture"].body, []
    body.register_forward_hook(lambda *_: forwards.append(1))
    hit = vectors(model, data)
    index = model.index(data)
    write_vectors(model, data, tmp_path / "v.parquet", progress=False)
    report = model.evaluate(data, protocols=["knn", "linear"], label="kind", progress=False)
    assert not rows_seen and not forwards and len(index) == 130 and report.rows()
    monkeypatch.setenv("AMODAL_CACHE", str(tmp_path / "other"))
    missed = vectors(model, data)
    assert sum(rows_seen) == 130 and forwards
    for source, values in hit.items():
        assert torch.allclose(values, missed[source], atol=1e-3), source
    # without the cache at all: means in float16 against all tokens
    model.config["schedule"].pop("cache_features")
    plain = vectors(model, data)
    assert sum(rows_seen) == 130
    for source, values in hit.items():
        assert torch.allclose(values, plain[source], atol=5e-3), source


def test_a_miss_computes_what_is_read_and_caches_whole_chunks(
    folder, pictures, tmp_path, rows_seen, monkeypatch
):
    monkeypatch.setattr(feature_store, "CHUNK", 32)
    monkeypatch.setattr(feature_store, "BATCH_SIZE", 8)
    data = folder / "records.csv"
    model = trained(data, pictures[1], tmp_path / "run")
    monkeypatch.setenv("AMODAL_CACHE", str(tmp_path / "other"))
    rows_seen.clear()
    dataset = model.with_features(model.read(data))
    # a whole chunk, three quarters of the next, little of the third
    rows = [*range(32), *range(32, 56), 70, 66, 90]
    some = amodal.evaluate.embed_records(model.encoder, dataset, rows)
    assert sum(rows_seen) == 32 + 32 + 3 and rows_seen[-1] == 3
    store = dataset.stores["picture"]
    assert [store.holds(i) for i in (0, 31, 63, 64, 70, 129)] == [True] * 3 + [False] * 3
    repeated = amodal.evaluate.embed_records(model.encoder, dataset, rows)
    assert sum(rows_seen) == 67, "the second encoder of an evaluation finds them in memory"
    assert torch.equal(some.aligned["picture"].values, repeated.aligned["picture"].values)
    every = vectors(model, data)["picture"]
    assert torch.allclose(some.aligned["picture"].values, every[rows], atol=1e-3)


def test_tokens_are_not_cached_by_the_way(folder, pictures, tmp_path, rows_seen, monkeypatch):
    data = folder / "records.csv"
    model = trained(data, pictures[1], tmp_path / "run", cache_features="tokens")
    rows_seen.clear()
    hit = vectors(model, data)
    assert not rows_seen
    monkeypatch.setenv("AMODAL_CACHE", str(tmp_path / "other"))
    missed = vectors(model, data)
    assert sum(rows_seen) == 130 and not list((tmp_path / "other").rglob("*.npy"))
    assert torch.allclose(hit["picture"], missed["picture"], atol=1e-3)


def test_a_changed_picture_is_seen_though_its_table_is_the_same(
    folder, pictures, tmp_path, rows_seen
):
    from PIL import Image

    data = folder / "records.csv"
    model = trained(data, pictures[1], tmp_path / "run")
    before = vectors(model, data)["picture"]
    rows_seen.clear()
    file = folder / "3.png"
    original = file.read_bytes()
    try:
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(file)
        assert amodal.open(data).fingerprint == model.config["data"]["fingerprint"]
        after = vectors(model, data)["picture"]
    finally:
        file.write_bytes(original)
    assert sum(rows_seen) == 130, "another key, so nothing is taken from the cache"
    changed = (before - after).abs().amax(1) > 1e-2
    assert changed.nonzero().flatten().tolist() == [3]


def test_another_backbone_or_another_size_of_picture_misses(folder, pictures):
    device, records = torch.device("cpu"), data.open(folder / "records.csv")
    picture = records.fields["picture"]

    def folder_of(modality=picture, weights=0.0, pooled=True):
        dataset = records.with_fields(records.fields | {"picture": modality})
        backbone = pretrained.backbone(pictures[1], modality, 64)
        encoder = Encoder(dataset.fields, size="nano", backbones={"picture": backbone}).eval()
        with torch.no_grad():
            next(backbone.body.parameters()).add_(weights)
        seen = cache_features.reuse_features(dataset, encoder, device, pooled=pooled)
        return seen.stores["picture"].folder

    smaller = dataclasses.replace(picture, size=picture.size // 2)
    same = folder_of()
    assert folder_of() == same
    assert len({same, folder_of(smaller), folder_of(weights=1.0), folder_of(pooled=False)}) == 4


def test_a_run_that_was_not_trained_on_features_does_not_use_them(
    folder, pictures, tmp_path, rows_seen
):
    data = folder / "records.csv"
    trained(data, pictures[1], tmp_path / "run")
    model = trained(data, pictures[1], tmp_path / "plain", cache_features="")
    rows_seen.clear()
    assert model.with_features(model.read(data)).fields == model.fields
    vectors(model, data)
    assert not rows_seen


def test_a_selection_of_fields_keeps_the_features(pictures):
    dataset, encoder = pictures[0], encoder_of(pictures)
    seen = cache_features.with_cached_features(
        dataset, encoder, torch.device("cpu"), pooled=True, progress=False
    )
    chosen = seen.select(["image"])
    assert list(chosen.fields) == ["image"] and chosen.value(0, "image").shape == (1, 67)
    assert list(seen.select(["signal"]).stores) == []


def test_a_module_of_ones_own_has_no_cached_features(pictures):
    dataset = pictures[0]
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(8))
    module(dataset.fields["image"].collate([]).new_zeros(1, 3, 16, 16))
    frozen = pretrained.backbone(module, dataset.fields["image"], 64)
    encoder = Encoder(dataset.fields, size="nano", backbones={"image": frozen})
    with pytest.raises(AmodalError, match="no frozen backbone whose features could be cached"):
        cache_features.with_cached_features(dataset, encoder, torch.device("cpu"), pooled=True)
