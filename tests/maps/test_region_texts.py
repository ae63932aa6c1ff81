"""`amodal map --texts`: texts on regions of pictures, in a folder."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import amodal
from amodal.cli import main
from amodal.core import AmodalError, Tokens
from amodal.core.region_text import RegionText
from amodal.maps.region_texts import best_of_each, drawing
from amodal.modalities import make
from amodal.nn.patch_vectors import token_boxes
from tests.methods.test_deepvs import run as run
from tests.methods.test_deepvs import scenes


def test_boxes_of_a_grid():
    place = torch.cartesian_prod(torch.zeros(1), torch.arange(2.0), torch.arange(3.0))
    tokens = Tokens.of(torch.zeros(6, 4), torch.tensor([1]), torch.tensor([6]), place, "image", 2)
    boxes = token_boxes(tokens)
    assert list(boxes) == [1] and len(boxes[1]) == 6
    assert boxes[1][0] == (0, 0, pytest.approx(1 / 3), 0.5)
    assert boxes[1][5] == (pytest.approx(2 / 3), 0.5, 1, 1)


def test_a_folder_with_a_table_and_pictures(run):
    model, data, folder = run
    result = model.map(data, folder / "align", texts="align", pictures=2, progress=False)
    assert result.records == 40 and 0 <= result.own_share <= 1
    assert "chance 50%" in result.sentence and str(len(result.rows)) in result.sentence
    with (folder / "align" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result.rows) and set(rows[0]) == {
        *("key", "snippet", "left", "top", "right", "bottom", "score"),
    }
    of_first = " ".join(r["snippet"] for r in rows if r["key"] == data.keys[0])
    assert of_first == " ".join(str(data.raw(0, "text")).split())
    drawn = sorted((folder / "align" / "regions").iterdir())
    assert len(drawn) == 2 and Pillow.open(drawn[0]).width == 320
    written = model.map(
        {"image": scenes(3)["image"]}, folder / "write", texts="write", progress=False
    )
    assert written.own_share is None and written.records == 3 and "written" in written.sentence
    with pytest.raises(AmodalError, match="made otherwise"):
        model.map(data, folder / "align", texts="write", progress=False)


def test_the_command_and_its_mistakes(run, tmp_path, capsys):
    model, data, folder = run
    with pytest.raises(AmodalError, match="Did you mean align"):
        model.map(data, tmp_path / "a", texts="aling")
    with pytest.raises(AmodalError, match="go without queries, resolution"):
        model.map(data, tmp_path / "a", texts="align", queries="a,b", resolution=64)
    with pytest.raises(AmodalError, match="no record of .* has image and text"):
        model.map({"image": scenes(3)["image"]}, tmp_path / "a", texts="align", progress=False)
    plain = amodal.pretrain("clip", data, tmp_path / "clip", size="nano", steps=1, batch_size=8)
    with pytest.raises(AmodalError, match="places no texts on regions; deepvs does"):
        plain.map(data, tmp_path / "a", texts="align")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i, picture in enumerate(scenes(4)["image"]):
        Pillow.fromarray(picture).save(pictures / f"{i}.png")
    run_folder = str(folder / "run")
    main(
        [
            "map",
            run_folder,
            "--data",
            str(pictures),
            "--out",
            str(tmp_path / "w"),
            "--texts",
            "write",
        ]
    )
    assert "texts written on regions of image of 4 records" in " ".join(
        capsys.readouterr().out.split()
    )


def test_of_each_written_text_the_likeliest_region_is_drawn():
    box = (0.0, 0.0, 0.5, 0.5)
    texts = [
        RegionText(0, "b", box, -2.0),
        RegionText(0, "a", box, -1.0),
        RegionText(0, "b", box, -0.5),
    ]
    assert [(t.text, t.score) for t in best_of_each(texts)] == [("b", -0.5), ("a", -1.0)]


def test_a_drawing_has_the_box_in_its_colour():
    data = amodal.open({"image": [np.full((20, 40, 3), 7, np.uint8)] * 4})
    field = make("image", size=16, channels=3, patch=8, fit="crop")
    page = drawing(data, "image", field, 0, [RegionText(0, "a", (0.0, 0.0, 0.5, 1.0), 1.0)])
    assert page.shape == (160 + 16 + 4, 320, 3)
    box = np.argwhere((page[:160] != 7).any(2))
    # of the middle square, 80 to 240 pixels across, the left half
    assert box.min(0).tolist() == [0, 80] and box.max(0).tolist() == [159, 159]
