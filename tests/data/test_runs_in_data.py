"""A run that lies among its data is none of the records."""

import pytest
from PIL import Image

import amodal
from amodal.core import AmodalError


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(30):
        Image.new("RGB", (16, 16), (8 * i, 200, 9)).save(folder / f"{i}.png")
    return folder


def test_a_run_in_a_folder_below_is_passed_over(photos):
    before = amodal.open(photos)
    options = dict(size="nano", steps=1, progress=False)
    model = amodal.pretrain("simclr", photos, photos / "run", **options)
    after = amodal.open(photos)
    assert after.keys == before.keys and list(after.fields) == ["image"]
    assert len(model.index(photos)) == 30


def test_a_run_in_the_folder_of_the_data_is_refused(photos):
    with pytest.raises(AmodalError, match="holds the data(.|\n)*photos/run"):
        amodal.pretrain("simclr", photos, photos, size="nano", steps=1, progress=False)
    assert not (photos / "config.json").exists()
