"""The paper's networks by commands: a public CLIP that a rate of 0 makes a run is the teacher of a
convolutional network from scratch."""

import pytest
import torch

from amodal.cli import main
from amodal.core import Batch, Column
from amodal.methods.saved import load_run
from tests.tiny_clip import clip_folder

pytest.importorskip("timm")
pytest.importorskip("transformers")


def test_a_public_clip_judges_the_views_of_a_network_from_scratch(folder, tmp_path):
    (tmp_path / "clip").mkdir()
    public, model = clip_folder(tmp_path / "clip", 24)
    image, text = "image", "text"
    main(
        [
            *("pretrain", "clip", "--data", str(folder), "--fields", f"{image},{text}"),
            *("--size", "nano", "--method.width", "24", "--steps", "1", "--lr", "0"),
            *("--batch-size", "4", "--out", str(tmp_path / "CLIP"), "--backbone"),
            *(f"{field}=transformers:{public}@projected" for field in (image, text)),
        ]
    )
    main(
        [
            *("pretrain", "mmcl_theory", "--data", str(folder), "--fields", image),
            *("--recipe", "paper", "--resolution", "32", "--batch-size", "4", "--steps", "2"),
            *("--method.teacher", str(tmp_path / "CLIP"), "--out", str(tmp_path / "run")),
            *("--backbone", f"{image}=timm:test_resnet:32@scratch"),
        ]
    )
    method = load_run(tmp_path / "run").method
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    views = {f"{image}:{view}": Column(images, torch.arange(5)) for view in (1, 2)}
    with torch.no_grad():
        expected = model.get_image_features(pixel_values=(images - 0.4) / 0.25).pooler_output
        judged = method.features(Batch.of(5, views)).teacher
    for source in views:
        torch.testing.assert_close(judged[source].values, expected, rtol=1e-4, atol=1e-5)
    assert any(p.requires_grad for p in method.encoder.parameters())
    assert not any(p.requires_grad for p in method.teacher.parameters())
