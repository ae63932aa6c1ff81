"""The form huggingface: the Hub's layout, a card made from the run, and towers that transformers
loads."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import amodal
from amodal.core import AmodalError
from amodal.export import export, hub
from amodal.modalities.image import Image as ImageField
from tests.export.models import encoder, model, records
from tests.export.test_weights import CARD

transformers = pytest.importorskip("transformers")


def written(made, out):
    trained = model(made)
    trained.config |= CARD
    trained.path = out.parent
    (out.parent / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 9}\n{"step": 2, "loss": 1.25, "rank/photo": 7.5}\n', encoding="utf-8"
    )
    files = export(trained, "huggingface", out)
    assert all(f.exists() for f in files) and {f.suffix for f in out.rglob("*.*")} <= {
        ".json",
        ".safetensors",
        ".md",
    }
    return trained


@pytest.mark.parametrize(
    "shape",
    [dict(), dict(trunk="shared", positions="learned"), dict(trunk="joint", positions="none")],
    ids=["separate", "shared", "joint"],
)
def test_a_tower_of_pictures_is_loaded_by_transformers_without_code_of_ours(tmp_path, shape):
    made = encoder("photo", "caption", **shape)
    made = made if shape else made.align(16)
    trained = written(made, tmp_path / "out")
    tower = transformers.AutoModel.from_pretrained(tmp_path / "out/photo", trust_remote_code=False)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out/photo")
    photos = records(6)["photo"]
    with torch.no_grad():
        pixels = processor([Image.fromarray(p) for p in photos], return_tensors="pt")
        found = tower(**pixels).last_hidden_state.mean(1)
    if not shape:
        found = found @ load_file(tmp_path / "out/photo/projection.safetensors")["weight"].T
    assert (tmp_path / "out/photo/projection.safetensors").exists() == (not shape)
    wanted = trained.embed(records(6)).aligned["photo"].values
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def test_the_folder_is_what_amodal_loads_and_the_card_says_what_it_is(tmp_path):
    trained = written(encoder("photo", "caption").align(16), tmp_path / "out")
    loaded = amodal.load(tmp_path / "out", device="cpu")
    a, b = trained.embed(records()).aligned, loaded.embed(records()).aligned
    assert all(torch.equal(a[s].values, b[s].values) for s in a)
    huggingface_hub = pytest.importorskip("huggingface_hub")
    card = huggingface_hub.ModelCard.load(tmp_path / "out/README.md")
    assert card.data.library_name == "amodal" and card.data.pipeline_tag == "feature-extraction"
    assert {"clip", "image", "text"} <= set(card.data.tags)
    for said in (
        "arxiv.org/abs/2103.00020",
        "30 records, 24 trained on",
        "| rank/photo | 7.5 |",
        'AutoModel.from_pretrained("FOLDER/photo")',
        "`caption` is loaded by amodal only",
        json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))["weights_sha256"],
    ):
        assert said in card.text


@pytest.mark.parametrize(
    "shape, why",
    [
        (dict(pool="cls"), "pools by cls"),
        (dict(positions="rotary"), "rotary"),
        (dict(positions="alibi"), "bias of attention"),
        (dict(hidden=8), "more than a linear"),
    ],
)
def test_what_transformers_lacks_is_left_out_and_the_card_says_why(tmp_path, shape, why):
    hidden = shape.pop("hidden", 0)
    written(encoder("photo", **shape).align(16, hidden=hidden), tmp_path / "out")
    assert not (tmp_path / "out/photo").exists() and why in (tmp_path / "out/README.md").read_text(
        encoding="utf-8"
    )
    assert amodal.load(tmp_path / "out", device="cpu").fields


@pytest.mark.parametrize("fit", ["stretch", "crop"])
def test_the_preprocessor_does_to_pictures_what_the_encoder_does(tmp_path, fit):
    image = ImageField(size=16, channels=3, fit=fit, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(hub.preprocessor(image)), encoding="utf-8"
    )
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    mean, std = (torch.tensor(s).view(3, 1, 1) for s in image.scale())
    for width, height in ((16, 16), (60, 40), (40, 90), (10, 20)):
        pixels = np.random.default_rng(width).integers(
            0, 255, (height // 5, width // 5, 3), dtype=np.uint8
        )
        for picture in (
            Image.fromarray(pixels).resize((width, height)),
            Image.new("L", (width, height), 77),
        ):
            found = processor(picture, return_tensors="pt")["pixel_values"][0] * std + mean
            wanted = torch.from_numpy(image.decode(picture).astype(np.float32) / 255)
            wrong = (found - wanted).abs() * 255  # levels; 8 bits are rounded twice
            assert float(wrong[:, 1:-1, 1:-1].max()) < 2.5, (width, height)
            assert float(wrong.max()) < 20, (
                "at the cut, the encoder's kernel also sees what was cut away"
            )


def test_a_way_to_fit_pictures_that_transformers_lacks_is_refused(tmp_path):
    made = encoder("photo").align(16)
    made.fields["photo"] = dataclasses.replace(made.fields["photo"], fit="pad")
    assert "'pad'" in hub.why_no_tower(made, "photo")


def test_a_tower_that_disagrees_is_not_handed_out_in_silence(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "fill", lambda vision, alone: None)
    with pytest.raises(AmodalError, match="tower of 'photo'.*differs from the encoder"):
        written(encoder("photo"), tmp_path / "out")
    assert not (tmp_path / "out/photo").exists()
