"""Figures of maps beside those of a computation of its own from the files that were written."""

import numpy as np
import pytest
from PIL import Image as Pillow

from amodal.core import AmodalError
from amodal.data import open as open_data
from amodal.maps import map_records as run_map
from amodal.train.run_dir import hash_keys
from tests.maps.planted import Run, picture, planted, records, squares

QUERIES = "1=a red square,2=a green square,3=a blue square"
QUIET = {"progress": False, "pictures": 0, "untrained": False}


@pytest.fixture(scope="module")
def data():
    return records()


@pytest.fixture(scope="module")
def model(data):
    return planted(data)


def labels_of(maps, key):
    return np.asarray(Pillow.open(maps.path / "labels" / f"{key}.png"))


def mean_iou(maps, masks, layer_of):
    """Of all pixels of the classes {class: layer}, from the label maps as they were written."""
    guess = np.stack([labels_of(maps, str(key)) for key in range(len(masks))])
    truth = np.stack(masks)
    counts = np.isin(truth, list(layer_of))
    scores = []
    for number, layer in layer_of.items():
        marked, true = (guess == layer) & counts, truth == number
        scores.append((marked & true).sum() / (marked | true).sum())
    return np.mean(scores)


def figure(maps, column="this map"):
    (score,) = maps.scores
    return score.values[column]


def test_what_lies_below_a_threshold_was_missed(model, data, tmp_path):
    """Otherwise the highest threshold would have the best figure."""
    _, masks, _ = squares()
    values = []
    for threshold in (0.5, 0.9, 0.9999):
        options = {"queries": QUERIES, "label": "mask", "threshold": threshold, **QUIET}
        maps = run_map(model, data, tmp_path / str(threshold), **options)
        values.append(figure(maps))
        assert values[-1] == pytest.approx(mean_iou(maps, masks, {1: 0, 2: 1, 3: 2}))
    assert values[0] == pytest.approx(1) and values[2] < 0.7 * values[0]


def test_one_query_is_measured_against_all_other_classes(model, data, tmp_path):
    """What is marked in squares of other colours is wrong, whatever class they are."""
    _, masks, _ = squares()
    only = [(mask == 1).astype(int) for mask in masks]
    for threshold in (0.5, -1.0):  # at -1 all is marked
        options = {"queries": "1=a red square", "label": "mask", "threshold": threshold, **QUIET}
        maps = run_map(model, data, tmp_path / str(threshold), **options)
        assert figure(maps) == pytest.approx(mean_iou(maps, only, {0: 0, 1: 1}))
        assert maps.unscored == 0
    with pytest.raises(AmodalError, match="no pixel of 'mask' has the class 7 of the query"):
        run_map(model, data, tmp_path / "seven", queries="7=red", label="mask", **QUIET)


def test_a_single_query_is_what_a_mask_marks(model, tmp_path):
    pictures, masks, captions = squares()
    marks = [np.where(mask == 1, 255, 0).astype(np.uint8) for mask in masks]
    columns = {"image": pictures, "text": captions, "mask": marks}
    masked = open_data(columns, name="squares", fields={"text": "text"})
    maps = run_map(
        model, masked, tmp_path / "m", queries="a red square", label="mask", threshold=0.8, **QUIET
    )
    assert figure(maps) > 0.9


def test_records_that_were_trained_on_are_not_measured(data, tmp_path):
    """Here those of which the map is right."""
    model = planted(data)
    colours = ("red", "green", "blue")
    pictures, masks = zip(*[picture(colours[i % 3], 4 * i, 8) for i in range(6)])
    wrong = [m if i < 3 else (m > 0) * (1 + m % 3) for i, m in enumerate(masks)]
    columns = {"image": list(pictures), "text": ["a square"] * 6}
    columns["mask"] = [np.asarray(m, np.uint8) for m in wrong]
    mixed = open_data(columns, name="squares", fields={"text": "text"})
    options = {"queries": QUERIES, "label": "mask", **QUIET}

    def measured(name, keys):
        trained = np.sort(hash_keys(keys)) if keys else None
        run = Run(model.encoder, model.config, trained=trained, method=model.method)
        return run_map(run, mixed, tmp_path / name, **options)

    everything, rest = measured("all", []), measured("rest", "012")
    assert everything.held_out is None and "trained on" not in everything.sentence
    assert figure(rest) == 0 < figure(everything)
    assert rest.labelled == 3
    assert "measured on the 3 records that the run was not trained on" in rest.sentence
    flattered = measured("flattered", "012345")
    assert figure(flattered) == figure(everything)
    assert "the run was trained on all 6 of them, so that this flatters" in flattered.sentence


def test_other_words_of_another_field_need_another_folder(tmp_path):
    pictures, _, captions = squares()
    columns = {"image": pictures, "text": captions, "title": captions}
    twice = open_data(columns, fields={"text": "text", "title": "text"})
    run = planted(twice, fields=("image", "text", "title"))
    run_map(run, twice, tmp_path / "m", queries="red,green", text_field="text", **QUIET)
    with pytest.raises(AmodalError, match="text_field differ"):
        run_map(run, twice, tmp_path / "m", queries="red,green", text_field="title", **QUIET)
