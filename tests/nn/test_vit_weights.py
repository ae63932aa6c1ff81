"""`--init-from timm:NAME@FILE`: our own layers compute what a ViT of timm computes."""

import json
import shutil
import tomllib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import save_file
from torch import nn

import amodal
from amodal.cli import main
from amodal.core import POSITION_DIMS, AmodalError, AmodalWarning, Batch, Column
from amodal.modalities.image import Image
from amodal.nn.backbones.vit_weights import (
    VitWeights,
    grid_of,
    not_plain,
    resampled,
    vit_weights,
)
from amodal.nn.positions import Grid, additive, sincos

timm = pytest.importorskip("timm")
NAME = "vit_small_patch32_224"


def small(**options):
    """A network of the layers of a ViT, 384 wide, with 12 blocks, and weights that are all set."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    known = dict(img_size=32, patch_size=8, embed_dim=384, depth=12, num_heads=6, num_classes=0)
    model = VisionTransformer(**known | options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def weights_of(model, side=32):
    return VitWeights("timm:any@file", model, side, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def same_norms(encoder):
    """The epsilon of timm, so that the rest can be compared closely."""
    for module in encoder.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    return encoder.eval()


def vectors(encoder, x_NCHW, field="image"):
    columns = {field: Column(x_NCHW, torch.arange(len(x_NCHW)))}
    return encoder.features(Batch.of(len(x_NCHW), columns))[field].values


def scaled(weights, x_NCHW):
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (weights.mean, weights.std))
    return (x_NCHW - mean) / std


@pytest.mark.parametrize("trunk", ["separate", "joint"])
@pytest.mark.parametrize("options", [{}, {"init_values": 0.5}, {"qkv_bias": False}])
def test_the_class_token_reads_what_it_read(options, trunk):
    model = small(**options)
    weights = weights_of(model)
    assert (weights.size, weights.patch, weights.pool) == ("small", 8, "cls")
    fields = weights.pictures({"image": Image(size=64)}, None)
    encoder = same_norms(weights.encoder(fields, trunk, "cls"))
    x_NCHW = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        expected = model.forward_features(scaled(weights, x_NCHW))[:, 0]
        torch.testing.assert_close(vectors(encoder, x_NCHW), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options", [{"class_token": False, "global_pool": ""}, {"no_embed_class": True}]
)
def test_models_without_a_class_token_and_without_its_position(options):
    model = small(**options)
    weights = weights_of(model)
    assert weights.pool == ("cls" if model.cls_token is not None else "mean")
    fields = weights.pictures({"image": Image(size=64)}, None)
    encoder = same_norms(weights.encoder(fields, "separate", weights.pool))
    x_NCHW = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        states = model.forward_features(scaled(weights, x_NCHW))
        expected = states.mean(1) if model.cls_token is None else states[:, 0]
        torch.testing.assert_close(vectors(encoder, x_NCHW), expected, rtol=1e-4, atol=1e-4)


def test_at_another_resolution_positions_are_resampled_as_timm_does():
    model = small()
    larger = small(img_size=56)
    state = model.state_dict()
    larger.load_state_dict({n: v for n, v in state.items() if n != "pos_embed"}, strict=False)
    from timm.layers import resample_abs_pos_embed

    table = resample_abs_pos_embed(model.pos_embed, [7, 7], num_prefix_tokens=1)
    larger.pos_embed.data = table
    weights = weights_of(model)
    fields = weights.pictures({"image": Image(size=64)}, 56)
    assert fields["image"].size == 56 and grid_of(fields) == "grid:7"
    encoder = same_norms(weights.encoder(fields, "separate", "cls"))
    x_NCHW = torch.rand(2, 3, 56, 56)
    with torch.no_grad():
        expected = larger.forward_features(scaled(weights, x_NCHW))[:, 0]
        torch.testing.assert_close(vectors(encoder, x_NCHW), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(AmodalError, match="do not tile pictures of 60; take --resolution 64"):
        weights.pictures({"image": Image(size=64)}, 60)
    assert resampled(torch.rand(4, 4, 2), 4).shape == (4, 4, 2)


def test_a_table_over_the_plane_lies_between_its_entries():
    grid = Grid(12, 3)
    table = grid.table.detach()
    at = lambda *place: grid(torch.tensor([place], dtype=torch.float32))[0].detach()  # noqa: E731
    assert torch.equal(at(0, 1, 2), table[1, 2])
    torch.testing.assert_close(at(0, 0.5, 2), (table[0, 2] + table[1, 2]) / 2)
    torch.testing.assert_close(at(0, 1, 0.25), 0.75 * table[1, 0] + 0.25 * table[1, 1])
    assert torch.equal(at(0, -3, 9), table[0, 2])
    time = torch.tensor([[5.0] + [0.0] * (POSITION_DIMS - 1)])
    order = sincos(time, 12) - sincos(torch.zeros_like(time), 12)
    torch.testing.assert_close(at(5, 0, 0), table[0, 0] + order[0])
    assert isinstance(additive("grid:3", 12), Grid) and len(Grid(12, 1)(torch.zeros(4, 3))) == 4
    for name in ("grid", "grid:0", "grid:x"):
        with pytest.raises(AmodalError, match="grid:SIDE"):
            additive(name, 12)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Random weights of a model of timm."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    save_file(timm.create_model(NAME, num_classes=0).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(12):
        pixels = np.kron(rng.integers(0, 255, (4, 4, 3)), np.ones((16, 16, 1)))
        Pillow.fromarray(pixels.astype("uint8")).save(folder / f"{i}.png")
    return folder


def test_a_method_that_hides_patches_goes_on_from_a_vit(file, pictures, tmp_path, capsys):
    spec, run = f"timm:{NAME}@{file}", tmp_path / "run"
    words = ["pretrain", "mae", "--data", str(pictures), "--init-from", spec, "--out", str(run)]
    main([*words, "--steps", "1", "--batch-size", "4", "--resolution", "64", "--lr", "1e-9"])
    assert "151 of 151 weights taken" in " ".join(capsys.readouterr().err.split())
    model = amodal.load(run)
    image = model.encoder.fields["image"]
    assert (image.size, image.patch, image.mean) == (64, 32, (0.5, 0.5, 0.5))
    started = vit_weights(spec)
    fields = started.pictures({"image": image}, 64)
    assert fields["image"] == replace(image)
    expected = started.encoder(fields, "joint", "cls").eval()
    x_NCHW = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            vectors(model.encoder, x_NCHW), vectors(expected, x_NCHW), rtol=1e-4, atol=1e-4
        )
    for weight in model.encoder.parameters():
        weight.data.zero_()
    with torch.no_grad():  # what it is compared with by `evaluate` is the model as it came
        before = vectors(model.untrained().encoder.eval(), x_NCHW)
        assert torch.equal(before, vectors(expected, x_NCHW))
    spec_of_run = json.loads((run / "config.json").read_text(encoding="utf-8"))
    spec_of_run["schedule"]["init_from"] = f"timm:{NAME}@gone.safetensors"
    (run / "config.json").write_text(json.dumps(spec_of_run), encoding="utf-8")
    model = amodal.load(run)
    with pytest.warns(AmodalWarning, match="gone.safetensors.*a random one"):
        assert not torch.allclose(vectors(model.untrained().encoder.eval(), x_NCHW), before)
    assert model.embed(str(pictures)).features["image"].values.shape == (12, 384)


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        (f"timm:{NAME}", {}, "names no weights.*@FILE, or @pretrained"),
        (f"timm:{NAME}@scratch", {}, "names no weights"),
        (f"timm:{NAME}:64@FILE", {}, f"timm:{NAME}@.*with --resolution for another size"),
        (f"timm:{NAME}@FILE", {"size": "base"}, "is of size small, and the setting is base"),
        (f"timm:{NAME}@FILE", {"positions": "rotary"}, "leave --positions rotary out"),
        (f"timm:{NAME}@FILE", {"experts": 4}, "leave --experts 4 out"),
        ("transformers:facebook/dinov2", {}, "no start for our own layers: --backbone"),
        ("timm:vit_smal_patch32_224@FILE", {}, "Did you mean vit_small_patch32_224"),
    ],
)
def test_what_cannot_be_started_from(spec, settings, message, file, pictures, tmp_path):
    spec = spec.replace("FILE", str(file))
    with pytest.raises(AmodalError, match=message):
        amodal.pretrain(
            "mae",
            str(pictures),
            tmp_path / "run",
            init_from=spec,
            steps=1,
            progress=False,
            **settings,
        )
    assert not (tmp_path / "run" / "config.json").exists()


def test_pictures_of_other_channels_and_data_without_pictures(file):
    weights = weights_of(small())
    with pytest.raises(AmodalError, match="sees 3 channels, and 'maps' has 5"):
        weights.pictures({"maps": Image(size=32, channels=5)}, None)
    grey = weights.pictures({"grey": Image(size=32, channels=1, mean=(0.1,), std=(0.2,))}, None)
    assert (grey["grey"].channels, grey["grey"].mean) == (3, weights.mean)
    data = amodal.open({"wave": [[[1.0], [2.0]]] * 8})
    with pytest.raises(AmodalError, match=r"no field that learns here has any: wave \(series\)"):
        amodal.pretrain("mae", data, "unused", init_from=f"timm:{NAME}@{file}", progress=False)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"reg_tokens": 4}, "has registers"),
        ({"pre_norm": True}, "has a norm before its blocks"),
        ({"qk_norm": True}, "has norms inside"),
        ({"act_layer": nn.SiLU}, "another activation than GELU"),
        ({"pos_embed": "none"}, "no table of positions"),
        ({"fc_norm": True, "global_pool": "avg"}, "no norm between its blocks and its pooling"),
    ],
)
def test_other_networks_are_refused(options, reason):
    assert reason in not_plain(small(**options))
    assert not_plain(small()) == ""
    assert "no VisionTransformer" in not_plain(timm.create_model("resnet10t"))


def test_sizes_that_no_encoder_has():
    with pytest.raises(AmodalError, match="width 192, 12 blocks and 3 heads, and no size"):
        weights_of(small(embed_dim=192, num_heads=3)).check_size()
    weights_of(small()).check_size()


def test_a_network_of_no_size_is_refused_before_anything_is_read(tmp_path):
    file = tmp_path / "vit.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), file)
    with pytest.raises(AmodalError, match="width 192, 12 blocks and 3 heads, and no size"):
        vit_weights(f"timm:vit_tiny_patch16_224@{file}")


def weights_in(run):
    return (run / "model.safetensors").read_bytes()


QUICK = ["--steps", "1", "--batch-size", "4"]


@pytest.fixture(scope="module")
def begun(file, pictures, tmp_path_factory):
    """A run that began with a ViT."""
    run = tmp_path_factory.mktemp("begun") / "run"
    words = ["pretrain", "mae", "--data", str(pictures), "--init-from", f"timm:{NAME}@{file}"]
    main([*words, "--out", str(run), "--resolution", "64", *QUICK])
    return run


def test_a_run_that_began_with_a_vit_is_repeated_by_its_config(begun, tmp_path):
    settings = tomllib.loads((begun / "config.toml").read_text(encoding="utf-8"))
    assert not settings.keys() & {"size", "positions", "pool"}, "they follow from the ViT"
    same = tmp_path / "same"
    main(["pretrain", "--config", str(begun / "config.toml"), "--out", str(same)])
    assert weights_in(same) == weights_in(begun)
    # a config.toml of an earlier version has what was derived
    main(
        ["pretrain", "--config", str(begun / "config.toml"), "--out", str(tmp_path / "earlier")]
        + ["--size", "small", "--positions", "grid:2", "--pool", "cls"]
    )
    assert weights_in(tmp_path / "earlier") == weights_in(begun)
    larger = tmp_path / "larger"
    main(
        ["pretrain", "--config", str(begun / "config.toml"), "--out", str(larger)]
        + ["--resolution", "96"]
    )
    assert amodal.load(larger).encoder.positions == "grid:3"


def test_a_run_goes_on_from_a_run_that_began_with_a_vit(begun, pictures, tmp_path, capsys):
    words = ["pretrain", "mae", "--data", str(pictures), *QUICK, "--lr", "1e-9"]
    source, encoders = begun, {}
    for name, more in {"again": [], "larger": ["--resolution", "96"]}.items():  # the second in turn
        main([*words, "--init-from", str(source), "--out", str(tmp_path / name), *more])
        source = tmp_path / name
        assert "151 of 151 weights taken" in " ".join(capsys.readouterr().err.split())
        encoders[name] = amodal.load(source).encoder
        assert (encoders[name].size, encoders[name].pool_name) == ("small", "cls")
    assert [e.positions for e in encoders.values()] == ["grid:2", "grid:3"]
    table, larger = (e.position.table.detach() for e in encoders.values())
    torch.testing.assert_close(larger, resampled(table, 3), rtol=1e-4, atol=1e-4)
    main(
        ["pretrain", "--config", str(tmp_path / "again" / "config.toml")]
        + ["--out", str(tmp_path / "same")]
    )
    assert weights_in(tmp_path / "same") == weights_in(tmp_path / "again")
    main([*words, "--init-from", str(begun), "--out", str(tmp_path / "mean"), "--pool", "mean"])
    assert amodal.load(tmp_path / "mean").encoder.pool_name == "mean"


def test_a_method_with_other_trunks_goes_on_from_such_a_run(begun, pictures, tmp_path, capsys):
    """`mae` has one trunk for all fields, `simclr` one for each."""
    source = begun
    for method in ("simclr", "mae"):
        words = ["pretrain", method, "--data", str(pictures), *QUICK, "--lr", "1e-9"]
        main([*words, "--init-from", str(source), "--out", str(tmp_path / method)])
        source = tmp_path / method
        assert "151 of 151 weights taken" in " ".join(capsys.readouterr().err.split())
    trunks = [amodal.load(r).encoder.trunks for r in (begun, tmp_path / "simclr", source)]
    assert [[*t] for t in trunks] == [["all"], ["image"], ["all"]]
    torch.testing.assert_close(trunks[2].state_dict(), trunks[0].state_dict(), rtol=0, atol=1e-6)


def test_the_model_that_a_run_began_with_has_the_column_frozen(begun, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(60):
        (tmp_path / "data" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 155, (64, 64, 3)) + [100 * (i % 2), 0, 0]
        Pillow.fromarray(pixels.astype("uint8")).save(tmp_path / f"data/{'ab'[i % 2]}/{i}.png")
    shutil.copytree(begun, tmp_path / "run")
    model = amodal.load(tmp_path / "run")
    for weight in model.encoder.parameters():
        weight.data.zero_()  # as if training had spoilt it
    ask = dict(label="folder", protocols=["knn"], progress=False)
    report = model.evaluate(str(tmp_path / "data"), **ask)
    row = next(r for r in report.rows() if r["metric"] == "accuracy" and r["source"] == "image")
    assert row["frozen"] == row["untrained"] > row["value"]
    headings = [c.header for c in report.table().columns]
    assert "frozen" in headings and "untrained" not in headings
    assert "its pretrained model" in report.about["summary"]
    assert model.evaluate(str(tmp_path / "data"), untrained=False, **ask).frozen is None
    config = tmp_path / "run" / "config.json"
    gone = json.loads(config.read_text(encoding="utf-8"))
    gone["schedule"]["init_from"] = f"timm:{NAME}@gone.safetensors"
    config.write_text(json.dumps(gone), encoding="utf-8")
    with pytest.warns(AmodalWarning, match="gone.safetensors"):
        report = amodal.load(tmp_path / "run").evaluate(str(tmp_path / "data"), **ask)
    assert report.frozen is None and report.untrained is not None, "these are random"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": "base"}, "is of size small, and the setting is base: leave --size out"),
        ({"size": "tiny"}, "is of size small, and the setting is tiny: leave --size out"),
        ({"positions": "grid:4"}, "has positions grid:2 here, .* and the setting is grid:4"),
    ],
)
@pytest.mark.parametrize("from_run", [True, False])
def test_what_is_set_must_not_contradict_what_it_starts_from(
    settings, message, from_run, begun, file, pictures, tmp_path
):
    start = begun if from_run else f"timm:{NAME}@{file}"
    settings = settings | {"init_from": start, "resolution": 64, "steps": 1, "progress": False}
    with pytest.raises(AmodalError, match=message):
        amodal.pretrain("mae", str(pictures), tmp_path / "run", **settings)
