"""The size at which a run reads pictures: of the recipe, the data or the backbone."""

import io
import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from safetensors.torch import save_file

import amodal
from amodal import data
from amodal.core import AmodalError
from amodal.export import export
from amodal.modalities.image import Image
from amodal.modalities.shared.image_sizes import median_side
from amodal.nn.backbones.pretrained import backbone, input_size
from amodal.train import packaged
from amodal.train.run_setup import with_resolution

timm = pytest.importorskip("timm")
QUICK = {"size": "nano", "steps": 2, "batch_size": 4, "progress": False, "logger": None}


def photos(side: int = 64, n: int = 12) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (side, side + 20, 3), dtype=np.uint8) for _ in range(n)]


def dataset(side: int = 64, **options) -> data.Dataset:
    return data.open({"image": photos(side)}, fields={"image": Image(**options)})


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(timm.create_model("resnet18", num_classes=0).state_dict(), file)
    return file


def test_a_backbone_says_at_which_size_it_reads():
    assert input_size("timm:resnet18@x", Image()) == 224
    assert input_size("timm:resnet18:96@x", Image()) == 96
    assert input_size("timm:efficientnet_b3", Image()) == 288
    assert input_size(torch.nn.Linear(1, 1), Image()) == 0
    with pytest.raises(AmodalError, match="model of timm"):
        input_size("timm:resnet81", Image())


def test_a_field_is_decoded_at_the_size_of_its_backbone(weights):
    before = dataset(size=32, patch=8)
    after = packaged.match_inputs(before, {"image": f"timm:resnet18:96@{weights}"})
    assert (after.fields["image"].size, after.fields["image"].patch) == (96, 8)
    # the detail of the file, not the 32 pixels of before enlarged
    value, small = after.value(0, "image"), before.value(0, "image")
    assert value.shape == (3, 96, 96) and small.shape == (3, 32, 32)
    assert value.astype(float).std() > 1.5 * small.astype(float).std()
    assert packaged.notes_of(before, after, {"image": f"timm:resnet18:96@{weights}"}) == [
        "image: read at 96 pixels a side, as timm:resnet18:96 takes it, not at 32"
    ]
    same = packaged.match_inputs(after, {"image": f"timm:resnet18:96@{weights}"})
    assert same is after


def test_a_run_reads_pictures_as_its_backbone_takes_them(weights, tmp_path, capsys):
    options = QUICK | {"progress": True, "backbones": {"image": f"timm:resnet18:64@{weights}"}}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*enlarges.*")
        amodal.pretrain("simclr", dataset(size=32), tmp_path / "run", **options)
    assert "image: read at 64 pixels a side" in capsys.readouterr().err
    model = amodal.load(tmp_path / "run")
    assert model.encoder.fields["image"].size == 64
    body = model.encoder.tokenizers["image"].body
    torch.testing.assert_close(body.mean.flatten(), torch.tensor(body.model.pretrained_cfg["mean"]))
    with pytest.raises(AmodalError, match=r"resolution is 96.*64 pixels.*timm:resnet18:96@"):
        amodal.pretrain("simclr", dataset(), tmp_path / "other", resolution=96, **options)


def test_an_encoder_of_ones_own_says_when_it_enlarges(weights):
    with pytest.warns(UserWarning, match="enlarges this field's 32; set size = 64"):
        backbone(f"timm:resnet18:64@{weights}", Image(32), 8)


def test_a_resolution_above_that_of_the_pictures_says_what_would_do():
    with pytest.warns(
        UserWarning, match="has 64 pixels a side.*12.2 times.*resolution 64 would do"
    ):
        assert with_resolution(dataset(size=32), 224).fields["image"].size == 224
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert with_resolution(dataset(size=32), 64).fields["image"].size == 64
        assert with_resolution(dataset(200, size=32, patch=16), 128).fields["image"].size == 128


def test_mae_has_the_crops_of_its_paper_on_pictures_alone(tmp_path):
    both = data.open(
        {"image": photos(), "words": [f"a picture {i}" for i in range(12)]},
        fields={"image": Image(16), "words": "text"},
    )
    amodal.pretrain("mae", both, tmp_path / "both", **QUICK)
    written = json.loads((tmp_path / "both" / "config.json").read_text(encoding="utf-8"))["recipe"][
        "views"
    ]
    assert written == {"image": ["crop"]}
    amodal.pretrain("mae", both.select(["words"]), tmp_path / "words", **QUICK)
    assert (
        "views"
        not in json.loads((tmp_path / "words" / "config.json").read_text(encoding="utf-8"))[
            "recipe"
        ]
    )
    amodal.pretrain("mae", both, tmp_path / "weak", views={"image": ("weak",)}, **QUICK)
    assert json.loads((tmp_path / "weak" / "config.json").read_text(encoding="utf-8"))["recipe"][
        "views"
    ] == {"image": ["weak"]}


@pytest.mark.parametrize("method", ["mae", "data2vec", "dino"])
def test_native_aspect_from_training_to_the_exported_graph(method, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    shapes = [(40, 90), (90, 40), (64, 64), (24, 32)] * 4
    pictures = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    native = data.open({"image": pictures}, fields={"image": Image(64, 3, 16, "native")})
    amodal.pretrain(method, native, tmp_path / "run", workers=1, **QUICK)
    model = amodal.load(tmp_path / "run")
    export(model, "onnx", tmp_path / "onnx")  # it compares the graph with the encoder
    inputs = onnxruntime.InferenceSession(tmp_path / "onnx" / "image.onnx").get_inputs()
    assert [len(i.shape) for i in inputs] == [3, 1] and isinstance(inputs[0].shape[1], str)
    export(model, "huggingface", tmp_path / "hub")
    assert "each at its own aspect" in (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")
    model.index(native, tmp_path / "index")
    query = io.BytesIO()
    Pillow.fromarray(pictures[1]).save(query, "PNG")
    hits = model.search(index=tmp_path / "index", image=query.getvalue(), k=1)
    assert hits[0].key == native.keys[1] and hits[0].score > 0.999


def test_sizes_are_read_from_headers(tmp_path):
    Pillow.fromarray(photos(64)[0]).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    assert median_side([whole[:60], tmp_path / "a.png", photos(64)[0], b"no picture"]) == 64
