"""Vectors of values in memory."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image as Picture

import amodal
from amodal.core import AmodalError, AmodalWarning
from amodal.inference import encode

COLOURS = ("red", "green", "blue")


def picture(i):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[4:12, 4:12, i % 3] = 200
    pixels[0, 0] = i
    return Picture.fromarray(pixels)


def frame(n):
    return pd.DataFrame(
        {
            "photo": [picture(i) for i in range(n)],
            "words": [f"a {COLOURS[i % 3]} square number {i}" for i in range(n)],
        }
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    out = tmp_path_factory.mktemp("encode") / "run"
    return amodal.pretrain("clip", frame(48), out, size="nano", steps=2, batch_size=16)


@pytest.fixture(scope="module")
def embedded(model):
    return model.embed(frame(5)).aligned


def test_values_are_embedded_as_records_are(model, embedded):
    words = frame(5)["words"].tolist()
    np.testing.assert_allclose(model.encode(words), embedded["words"].values, atol=1e-5)
    photos = frame(5)["photo"].tolist()
    np.testing.assert_allclose(model.encode(photos), embedded["photo"].values, atol=1e-5)
    by_two = model.encode(words, field="text", batch_size=2)
    np.testing.assert_allclose(by_two, embedded["words"].values, atol=1e-5)
    assert by_two.dtype == np.float32


def test_a_single_value_is_a_vector(model, embedded):
    one = model.encode(frame(1)["words"][0])
    assert one.shape == (model.encoder.space_width,)
    np.testing.assert_allclose(one, embedded["words"].values[0], atol=1e-5)
    tensor = model.encode(picture(0), convert_to_tensor=True, normalize_embeddings=True)
    assert isinstance(tensor, torch.Tensor)
    assert tensor.norm() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "records",
    [frame(5), frame(5).to_dict("records"), frame(5).to_dict("list")],
    ids=["frame", "records", "columns"],
)
def test_records_are_fused(model, embedded, records):
    np.testing.assert_allclose(model.encode(records), embedded.fused().values, atol=1e-5)


def test_records_may_lack_fields(model):
    rows = frame(3).to_dict("records")
    del rows[1]["photo"]
    with pytest.warns(
        AmodalWarning, match="1 of 4 records has no value that can be read.*: number 3"
    ):
        vectors = model.encode([*rows, {"photo": None, "words": None}])
    assert np.isnan(vectors[3]).all() and np.isfinite(vectors[:3]).all()
    alone = model.similarity(vectors[1], model.encode(rows[1]["words"]))
    assert alone.item() == pytest.approx(1, abs=1e-5)


def test_records_without_a_vector_are_said(model, embedded):
    words = frame(5)["words"].tolist()
    with pytest.warns(AmodalWarning) as seen:
        vectors = model.encode(
            {"words": [None, *words[1:4], None], "photo": [picture(0)] * 5}, field="words"
        )
    [warning] = seen
    assert "2 of 5 records have no words that can be read" in str(warning.message)
    assert "numbers 0, 4, from 0" in str(warning.message) and warning.filename == __file__
    keep = np.isfinite(vectors).all(1)  # what the warning advises
    np.testing.assert_allclose(vectors[keep], embedded["words"].values[1:4], atol=1e-5)


def test_similarity_is_the_cosine(model):
    words, photos = (
        model.encode(frame(4)["words"].tolist()),
        model.encode(frame(3)["photo"].tolist()),
    )
    cosines = model.similarity(words, photos)
    assert cosines.shape == (4, 3) and isinstance(cosines, np.ndarray)
    expected = words @ photos.T / np.outer(*(np.linalg.norm(x, axis=1) for x in (words, photos)))
    np.testing.assert_allclose(cosines, expected, atol=1e-5)
    assert isinstance(model.similarity(torch.from_numpy(words), photos), torch.Tensor)
    assert model.similarity(words[0], photos).shape == (1, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode([3, "a"]), r"say which field .* reads photo \(image\), words \(text\)"),
        (lambda m: m.encode([]), "no values to embed"),
        (lambda m: m.encode("a", field=["words"]), "field must be the name of one field"),
        (lambda m: m.encode(["a", None]), r"value 1 of 2 is missing: leave it out, or give rec"),
        (lambda m: m.encode(pd.Series(["a", np.nan])), "value 1 of 2 is missing"),
        (lambda m: m.save(None), "path must be a folder; it is NoneType"),
        (lambda m: m.encode("a", field="wrods"), "Did you mean words"),
        (lambda m: m.encode("a", batch_size=0), "batch_size is a whole number, at least 1, not 0"),
        (lambda m: m.encode([b"no picture"], field="photo"), "cannot read"),
        (lambda m: m.encode({"sound": ["a", "b"]}), "has no field of this run"),
        (lambda m: m.similarity(np.ones((2, 3)), np.ones((2, 3))), "a has the shape"),
    ],
)
def test_what_is_meant_must_be_clear(model, call, message):
    with pytest.raises(AmodalError, match=message):
        call(model)


def test_names_of_files_are_not_taken_for_words_without_a_word(model, tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(2)]
    for i, file in enumerate(files):
        picture(i).save(file)
    names = [str(file) for file in files]
    with pytest.warns(AmodalWarning, match="names of files, .* encode.values, field='photo'"):
        words = model.encode(names)
    np.testing.assert_allclose(words, model.encode(names, field="words"), atol=1e-6)
    pictures = model.encode(names, field="photo")
    np.testing.assert_allclose(model.encode(files), pictures, atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode(["no file.png", "a red square"])


def test_pictures_whose_file_is_closed_or_damaged_are_said(model, tmp_path):
    file = tmp_path / "a.png"
    Picture.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8)).save(file)
    closed = Picture.open(file)
    closed.close()
    file.write_bytes(file.read_bytes()[:9000])
    for wrong in (closed, Picture.open(file)):
        with pytest.raises(AmodalError, match="the picture that Pillow opened cannot be read"):
            model.encode([wrong], field="photo")


def test_sizes_of_batches_may_be_of_numpy(model):
    assert model.encode(["a", "b"], batch_size=np.int64(1)).shape[0] == 2


def test_records_and_a_field_are_the_vectors_of_that_field(model, embedded):
    for records in (frame(5), frame(5).to_dict("records"), frame(5).to_dict("list")):
        vectors = model.encode(records, field="words")
        np.testing.assert_allclose(vectors, embedded["words"].values, atol=1e-5)


def test_values_of_a_series_and_of_a_generator(model, embedded):
    words = frame(5)["words"]
    for values in (words, words.sort_index(), (w for w in words), words.to_numpy()):
        np.testing.assert_allclose(
            model.encode(values, field="words"), embedded["words"].values, atol=1e-5
        )
    np.testing.assert_allclose(model.encode(words), embedded["words"].values, atol=1e-5)


@pytest.mark.parametrize("values", [5, None])
def test_what_is_no_value_is_said(model, values):
    with pytest.raises(AmodalError, match="encode takes a value, a list of values or records"):
        model.encode(values)


def test_similarity_takes_vectors_alone(model):
    with pytest.raises(AmodalError, match="compares vectors"):
        model.similarity("a", "b")
    grown = torch.ones(2, model.encoder.space_width, requires_grad=True)
    assert model.similarity(grown, grown.detach().bfloat16()).shape == (2, 2)


def test_the_model_is_where_it_was_after_another_device(model, embedded, monkeypatch):
    words, moved = frame(5)["words"].tolist(), []
    there = model.encode(words, device="cpu")
    np.testing.assert_allclose(there, embedded["words"].values, atol=1e-5)
    assert model.encode("a", device=torch.device("cpu")).shape == there[0].shape
    monkeypatch.setattr(encode, "pick_device", torch.device)
    monkeypatch.setattr(type(model.encoder), "to", lambda self, device: moved.append(str(device)))
    model.encode(words, device="cuda:0")
    with pytest.raises(AmodalError, match="no values to embed"):
        model.encode([], device="cuda:0")
    assert moved == ["cuda:0", str(model.device)] * 2


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("gpu", "no device is called 'gpu'. Did you mean cuda. There"),
        ("GPU:1", "no device is called 'GPU:1'. Did you mean cuda:1. There"),
        ("meta", "holds no values"),
        (["cpu", "cuda"], "device must be the name of one device: .* it is list"),
        ("cuda:99", "no CUDA device is available|there is no device cuda:99"),
    ],
)
def test_a_device_that_is_none(model, device, message):
    before = model.encode("a")
    with pytest.raises(AmodalError, match=message):
        model.encode("a", device=device)
    np.testing.assert_array_equal(model.encode("a"), before)


def test_a_model_is_exported_as_by_the_command_line(model, tmp_path):
    files = model.export(tmp_path / "plain")
    assert {file.name for file in files} >= {"model.safetensors", "spec.json", "config.json"}
    opened = amodal.load(tmp_path / "plain", device="cpu")
    np.testing.assert_array_equal(opened.encode(["a b"]), model.encode(["a b"]))
    assert all(file.exists() for file in model.export(tmp_path / "hub", to="huggingface"))
    with pytest.raises(AmodalError, match="no form to export to is called 'onxx'. Did you mean on"):
        model.export(tmp_path / "x", to="onxx")
    with pytest.raises(AmodalError, match="out must be a folder"):
        model.export(None)


def test_warnings_of_encode_point_at_the_line_of_the_user(model, tmp_path):
    picture(0).save(tmp_path / "0.png")
    damaged = frame(3).assign(photo=[b"no picture", *frame(3)["photo"][1:]])
    part = frame(3)[["words"]]
    for values in ([str(tmp_path / "0.png")], damaged, part):
        with pytest.warns(AmodalWarning) as seen:
            model.encode(values)
        assert {warning.filename for warning in seen} == {__file__}


def test_tensors_in_a_list_are_pictures_as_arrays_are(model, embedded):
    arrays = [np.asarray(picture(i)) for i in range(5)]
    for values in (
        [torch.tensor(array) for array in arrays],
        [torch.tensor(array).permute(2, 0, 1) for array in arrays],
        torch.tensor(np.stack(arrays)),
    ):
        vectors = model.encode(values, field="photo")
        np.testing.assert_allclose(vectors, embedded["photo"].values, atol=1e-5)


@pytest.mark.parametrize("as_value", [np.asarray, torch.tensor], ids=["array", "tensor"])
@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)], ids=["HWC", "CHW"])
def test_the_array_of_one_picture_is_one_value(model, embedded, as_value, axes):
    one = as_value(np.asarray(picture(1)).transpose(axes).copy())
    vector = model.encode(one, field="photo")
    np.testing.assert_allclose(vector, embedded["photo"].values[1], atol=1e-5)
    np.testing.assert_allclose(model.encode(one[None], field="photo"), vector[None], atol=1e-6)


def test_grey_pictures_one_after_the_other_are_as_many_vectors(model):
    assert model.encode(np.zeros((5, 16, 16), np.uint8), field="photo").shape[0] == 5
    assert model.encode(np.zeros((16, 16), np.uint8), field="photo").ndim == 1


def test_floats_up_to_255_are_not_read_as_another_picture_silently(model):
    pixels = np.asarray(picture(1))
    with pytest.raises(AmodalError, match="go from 0 to 200, .* divide them by 255, or give bytes"):
        model.encode([pixels.astype("float32")], field="photo")
    with pytest.warns(AmodalWarning, match="divide them by 255"):
        model.encode([{"photo": pixels.astype("float32"), "words": "a red square"}])
    unit = model.encode([pixels / 255], field="photo")
    np.testing.assert_allclose(unit, model.encode([pixels], field="photo"), atol=1e-3)
