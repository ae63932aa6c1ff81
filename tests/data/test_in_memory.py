"""What people have in memory is read as the same rows on disk are."""

import datetime
import re

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import torch
from PIL import Image as Picture
from scipy import sparse
from torch.utils.data import DataLoader, IterableDataset

import amodal
from amodal.core import AmodalError, AmodalWarning

N = 24


def picture(i):
    rng = np.random.default_rng(i)
    return Picture.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table with paths of pictures, texts and numbers, with gaps."""
    root = tmp_path_factory.mktemp("rows")
    for i in range(N):
        picture(i).save(root / f"{i}.png")
    frame().to_csv(root / "t.csv", index=False)
    return root


def frame(root=None):
    at = (lambda i: f"{i}.png") if root is None else (lambda i: str(root / f"{i}.png"))
    return pd.DataFrame(
        {
            "photo": [None if i == 3 else at(i) for i in range(N)],
            "words": [f"a sentence about thing {i} of many" for i in range(N)],
            "weight": [np.nan if i == 5 else (i + 0.5) / 7 for i in range(N)],
            "height": [i**2 for i in range(N)],
            "colour": ["red" if i % 2 else "blue" for i in range(N)],
        }
    )


class Numbered(torch.utils.data.Dataset):
    """As torchvision's sets are: pairs of a picture and a class number."""

    classes = ("cat", "dog", "owl")

    def __init__(self):
        self.asked = 0

    def __len__(self):
        return N

    def __getitem__(self, i):
        if i >= N:
            raise IndexError
        self.asked += 1
        return picture(i), i % 3


class Stream(IterableDataset):
    def __iter__(self):
        return iter(frame().drop(columns="photo").to_dict("records"))


def test_a_frame_is_the_table_of_its_rows(folder, monkeypatch):
    monkeypatch.chdir(folder)  # where relative paths of a frame start
    on_disk, here = amodal.open(folder / "t.csv"), amodal.as_dataset(frame())
    assert here.keys == on_disk.keys
    assert here.fields == on_disk.fields and list(here.labels) == list(on_disk.labels) == ["colour"]
    assert (here.parts == on_disk.parts).all()
    for i in (0, 3, 5):
        for field in here.fields:
            np.testing.assert_equal(here.value(i, field), on_disk.value(i, field))


@pytest.mark.parametrize(
    "make",
    [
        lambda f: f.to_dict("records"),
        lambda f: pa.Table.from_pandas(f, preserve_index=False),
        lambda f: pa.Table.from_pandas(f, preserve_index=False).to_reader(),
        lambda f: datasets.Dataset.from_pandas(f),
        lambda f: (row for row in f.to_dict("records")),
        lambda f: f.set_index("words"),
    ],
    ids=["records", "arrow", "arrow reader", "huggingface", "generator", "index with a name"],
)
def test_whatever_holds_the_rows_has_the_same_records(folder, make):
    of_frame, other = amodal.as_dataset(frame(folder)), amodal.as_dataset(make(frame(folder)))
    assert other.keys == of_frame.keys
    assert set(other.fields) == set(of_frame.fields)
    assert list(other.label("colour")) == list(of_frame.label("colour"))
    for field in of_frame.fields:
        assert (other.present(field) == of_frame.present(field)).all()


def test_huggingface_pictures_classes_and_splits():
    features = datasets.Features(
        {"photo": datasets.Image(), "animal": datasets.ClassLabel(names=["cat", "dog"])}
    )
    rows = {"photo": [picture(i) for i in range(N)], "animal": [i % 2 for i in range(N)]}
    one = datasets.Dataset.from_dict(rows, features=features)
    both = datasets.DatasetDict({"train": one.select(range(20)), "test": one.select([22, 21])})
    dataset = amodal.as_dataset(both)
    assert len(dataset) == 22 and len(dataset.split("test")) == 2
    assert list(dataset.label("animal"))[-2:] == ["cat", "dog"]
    np.testing.assert_equal(dataset.value(20, "photo"), np.moveaxis(np.asarray(picture(22)), -1, 0))


def test_items_of_torch_are_read_when_they_are_needed():
    items = Numbered()
    dataset = amodal.as_dataset(items)
    assert set(dataset.fields) == {"x"} and list(dataset.labels) == ["label"]
    asked = items.asked
    assert list(dataset.label("label"))[:4] == ["cat", "dog", "owl", "cat"]
    assert items.asked == asked, "labels are remembered"
    np.testing.assert_equal(dataset.value(7, "x"), np.moveaxis(np.asarray(picture(7)), -1, 0))
    assert items.asked > asked
    assert amodal.as_dataset(Numbered()).keys == dataset.keys, "names follow from content"
    assert amodal.as_dataset(Numbered()).fingerprint == dataset.fingerprint


def test_streams_are_read_up_to_a_limit(capsys):
    dataset = amodal.as_dataset(Stream(), limit=10)
    assert len(dataset) == 10 and "words" in dataset.fields
    assert "read 10/10" in capsys.readouterr().err


def test_an_array_is_records_of_one_field():
    rows = np.random.default_rng(0).normal(size=(N, 16, 2)).astype(np.float32)
    for values in (rows, torch.from_numpy(rows)):
        dataset = amodal.as_dataset(values)
        assert set(dataset.fields) == {"x"} and len(dataset) == N
        np.testing.assert_array_equal(dataset.raw(3, "x"), rows[3])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([], "an empty list"),
        ([1, 2], "a list of int"),
        ([{"a": 1}, "b"], "a list of str"),
        (iter(()), "no row in them"),
        (frame().iloc[:0], "no row in them"),
        (3, "not of type int"),
        (object(), "not of type object"),
        (frame().rename(columns={"words": "photo"}), "more than one column is called 'photo'"),
    ],
)
def test_what_is_no_data_is_said(wrong, message):
    with pytest.raises(AmodalError, match=message):
        amodal.as_dataset(wrong)


def test_a_limit_is_a_number_of_records():
    with pytest.raises(AmodalError, match="limit is at least 1, not 0"):
        amodal.as_dataset(Stream(), limit=0)


def test_a_loader_of_torch_makes_batches_that_an_encoder_takes(folder):
    dataset = amodal.as_dataset(frame(folder))
    loader = DataLoader(dataset, batch_size=8, collate_fn=dataset.collate)
    batches = list(loader)
    assert [b.size for b in batches] == [8, 8, 8]
    ours = next(iter(amodal.data.Loader(dataset, range(8), batch=8, shuffle=False)))
    first = batches[0]
    assert first.keys == ours.keys and set(first.columns) == set(ours.columns)
    assert first.columns["photo"].rows.tolist() == [0, 1, 2, 4, 5, 6, 7]
    for field, column in ours.columns.items():
        mine, theirs = first.columns[field].values, column.values
        if isinstance(theirs, torch.Tensor):
            torch.testing.assert_close(mine, theirs, equal_nan=True)
        else:
            torch.testing.assert_close(mine.flat, theirs.flat)
    assert dataset.classes("colour") == ["blue", "red"]
    assert first.labels["colour"].values.tolist() == [0, 1] * 4


def test_items_by_number(folder):
    dataset = amodal.as_dataset(frame(folder))
    assert dataset[-1]["__key__"] == dataset.keys[-1] and dataset[3]["photo"] is None
    assert len(list(dataset)) == N
    with pytest.raises(IndexError, match=f"record {N} of {N}"):
        dataset[N]
    with pytest.raises(AmodalError, match="asked for by its number"):
        dataset["photo"]
    with pytest.raises(AmodalError, match="one record at least"):
        dataset.collate([])


def test_an_unreadable_item_names_the_record(tmp_path):
    (tmp_path / "0.png").write_bytes(b"no picture")
    picture(1).save(tmp_path / "1.png")
    dataset = amodal.as_dataset([{"photo": str(tmp_path / f"{i}.png")} for i in range(2)])
    with pytest.raises(AmodalError, match=f"photo of the record {dataset.keys[0]!r} cannot"):
        dataset[0]


def test_to_pandas_and_back(folder):
    dataset = amodal.as_dataset(frame(folder))
    table = dataset.to_pandas()
    assert list(table.columns) == ["key", "photo", "words", "table", "colour", "part"]
    assert list(table["key"]) == dataset.keys
    assert set(table["part"]) <= {"train", "valid", "test"}
    assert table["table"][4] == {"weight": 4.5 / 7, "height": 16}
    assert table["photo"][3] is None or table["photo"].isna()[3]


def test_a_series_is_values_in_its_order():
    words = [f"a sentence about thing {i}" for i in range(12)]
    series = pd.Series(words, index=range(11, -1, -1))
    dataset = amodal.as_dataset(series)
    assert [dataset.raw(i, "x") for i in range(12)] == words
    assert len(amodal.as_dataset(series[series.index > 5])) == 6


def test_classes_of_splits_may_be_in_another_order():
    def split(names, values):
        features = datasets.Features(
            {"words": datasets.Value("string"), "animal": datasets.ClassLabel(names=names)}
        )
        rows = {
            "words": [f"sentence {i} of {names} on {v}" for i, v in enumerate(values)],
            "animal": [names.index(v) for v in values],
        }
        return datasets.Dataset.from_dict(rows, features=features)

    values = ["cat", "cat", "dog"] * 4
    both = datasets.DatasetDict(
        {"train": split(["cat", "dog"], values), "test": split(["dog", "cat"], values)}
    )
    assert list(amodal.as_dataset(both).label("animal")) == values * 2


def test_items_of_a_subset_keep_their_labels(folder):
    whole = amodal.as_dataset(frame(folder))
    part = whole.subset([1, 2, 5])
    expected = [whole.classes("colour").index(whole.label("colour")[i]) for i in (1, 2, 5)]
    assert whole.collate(list(part)).labels["colour"].values.tolist() == expected
    with pytest.raises(AmodalError, match="none of its records is called"):
        part.collate([whole[0]])


def test_fields_may_be_called_key_and_row():
    rows = {
        "key": [f"a sentence about thing {i % 9}" for i in range(12)],
        "row": [f"another one on subject {i % 7}" for i in range(12)],
    }
    dataset = amodal.as_dataset(rows, fields={"key": "text", "row": "text"})
    batch = dataset.collate([dataset[2], dataset[4]])
    assert batch.keys == (dataset.keys[2], dataset.keys[4]) and set(batch.columns) == {"key", "row"}
    assert list(dataset.to_pandas()["__key__"]) == dataset.keys


class Fails(Numbered):
    def __getitem__(self, i):
        if i == 5:
            raise RuntimeError("the disk is gone")
        return super().__getitem__(i)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Fails, "item 5 of this Fails cannot be read: RuntimeError: the disk is gone"),
        (lambda: frame().set_index("words", drop=False), "more than one column is called 'words'"),
        (lambda: pa.table([[1], [2]], names=["a", "a"]), "more than one column is called 'a'"),
        (lambda: frame().rename(columns={"words": 1, "weight": "1"}), "is called '1'"),
        (lambda: np.array(3.0), "a single number is no data"),
        (lambda: {"a": np.array(3.0)}, "column 'a' is a single value; give one for each record"),
        (lambda: sparse.eye(4).tocsr(), "give matrix.toarray"),
        (lambda: {"a": sparse.eye(4).tocsr()}, "column 'a' is a sparse matrix of scipy"),
        (lambda: DataLoader(Numbered(), batch_size=2), "give the dataset in it: loader.dataset"),
        (lambda: LazyFrame(), "give frame.collect"),
        (lambda: frame().rename(columns={"words": ""}), "a column has no name; give it one"),
        (lambda: {"a": [[]] * 20}, "a: every cell is empty"),
        (lambda: np.full((20, 3), np.nan), "x: every cell is empty"),
        (lambda: np.zeros((20, 0)), "x: every cell is empty"),
    ],
)
def test_what_cannot_be_rows_is_said(make, message):
    with pytest.raises(AmodalError, match=message):
        amodal.as_dataset(make())


class LazyFrame:
    """As polars has it."""

    def collect(self): ...

    def collect_schema(self): ...


def test_what_no_modality_reads_is_said_once_and_the_rest_is_read():
    for odd in ({1, 2}, 1j, object()):
        rows = [{"a": i / 7, "odd": odd} for i in range(20)]
        with pytest.warns(AmodalWarning, match="the column 'odd' is left out: no modality reads"):
            dataset = amodal.as_dataset(rows)
        assert dataset.fields["table"].columns == ("a",)
        assert dataset.collate([dataset[3]]).size == 1


def test_durations_and_times_of_a_day_are_seconds():
    hours = pd.to_timedelta(np.arange(20), unit="h")
    day = [datetime.time(i, 30) for i in range(20)]
    nanoseconds = hours.to_numpy()
    for source in (
        pd.DataFrame({"x": np.arange(20) / 7, "taken": hours, "at": day}),
        pa.table({"x": np.arange(20) / 7, "taken": pa.array(nanoseconds), "at": day}),
        {"x": np.arange(20) / 7, "taken": nanoseconds, "at": day},
    ):
        dataset = amodal.as_dataset(source)
        table = dataset.fields["table"]
        assert table.columns == ("x", "taken", "at")
        row = dataset.raw(2, "table")
        decoded = table.decode(row)
        expected = table.decode({"x": 2 / 7, "taken": 7200.0, "at": 2.5 * 3600})
        np.testing.assert_allclose(np.asarray(decoded, dtype=float), expected, atol=1e-5)


def test_a_dict_of_streams_is_splits():
    one = datasets.Dataset.from_dict({"x": (np.arange(20) / 7).tolist()})
    other = datasets.Dataset.from_dict({"x": (np.arange(9) / 3).tolist()})
    streams = {"train": one.to_iterable_dataset(), "test": other.to_iterable_dataset()}
    dataset = amodal.as_dataset(datasets.IterableDatasetDict(streams), limit=12)
    assert len(dataset.split("train")) == 12 and len(dataset.split("test")) == 9


@pytest.mark.parametrize(
    "make",
    [
        lambda x: pa.array(x),
        lambda x: pa.chunked_array([x[:9], x[9:]]),
        lambda x: ds.dataset(pa.table({"x": x})),
    ],
    ids=["array", "chunks", "dataset"],
)
def test_whatever_arrow_has_is_read(make):
    x = np.random.default_rng(0).normal(size=20)
    dataset = amodal.as_dataset(make(x))
    assert [dataset.raw(i, "table")["x"] for i in range(20)] == x.tolist()


def test_levels_of_an_index_with_names_are_columns():
    table = frame().drop(columns="photo").set_index(["colour", "height"])
    dataset = amodal.as_dataset(table)
    assert list(dataset.labels) == ["colour"] and "height" in dataset.fields["table"].columns


def test_records_are_chosen_by_numbers_or_a_mask():
    whole = amodal.as_dataset(frame())
    mask = np.arange(N) % 2 == 0
    for choice in (np.flatnonzero(mask), np.flatnonzero(mask).tolist(), mask, mask.tolist()):
        assert whole.subset(choice).keys == whole.keys[::2]
        assert (whole.subset(choice).parts == whole.parts[::2]).all()
    last = whole.subset([-1, 0])
    assert last.keys == [whole.keys[-1], whole.keys[0]]
    np.testing.assert_equal(last.value(0, "words"), whole.value(N - 1, "words"))
    assert (last.present("words") == whole.present("words")[[-1, 0]]).all()
    assert len(whole.subset([])) == 0


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ([100], f"has no record 100: it has {N}, from 0 to {N - 1}"),
        ([0, -N - 1], f"has no record {-N - 1}"),
        ([True, False], f"a mask of 2 for the {N} records"),
        ([0.5], "chosen by a list of their numbers"),
        ("words", "not by 'words'"),
        (3, "not by 3"),
        ([[0, 1]], "chosen by a list of their numbers"),
    ],
)
def test_a_choice_that_is_none_is_refused(choice, message):
    with pytest.raises(AmodalError, match=re.escape(message)):
        amodal.as_dataset(frame()).subset(choice)


def test_a_subset_of_torch_is_one_of_the_dataset():
    whole = amodal.as_dataset(frame())
    first, second = torch.utils.data.random_split(whole, [0.5, 0.5])
    inner = torch.utils.data.Subset(first, [2, 0])
    for choice, numbers in ((first, first.indices), (inner, [first.indices[i] for i in (2, 0)])):
        dataset = amodal.as_dataset(choice)
        assert dataset.keys == [whole.keys[i] for i in numbers]
        assert dataset.fields == whole.fields
    with pytest.raises(AmodalError, match="decoded already.*Give the dataset itself"):
        amodal.as_dataset(torch.utils.data.ConcatDataset([first, second]))


def test_tensors_that_numpy_lacks_are_read_as_what_they_hold():
    rows = torch.randn(N, 16, 2, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    for source in (rows, {"x": rows}, {"x": list(rows)}, [{"x": row} for row in rows]):
        np.testing.assert_array_equal(amodal.as_dataset(source).raw(3, "x"), rows[3].float())
    sparse = (rows.float() * (rows > 0)).to_sparse()
    np.testing.assert_array_equal(
        amodal.as_dataset({"x": sparse}).raw(3, "x"), sparse.to_dense()[3]
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.empty(N, 16, device="meta"), "device 'meta', which has no values"),
        (np.ones((N, 16, 2)) * 1j, "np.stack([x.real, x.imag], -1)"),
    ],
)
def test_arrays_without_numbers_are_refused(values, message):
    for source in (values, {"x": values}, [{"x": row} for row in values]):
        with pytest.raises(AmodalError, match=re.escape(message)):
            amodal.as_dataset(source)


def test_masked_values_are_missing():
    rng = np.random.default_rng(0)
    rows, hidden = rng.normal(size=(N, 16, 2)), rng.random((N, 16, 2)) > 0.8
    ages, gone = np.arange(N) ** 2, np.arange(N) % 3 == 0
    names = np.array([f"a name such as {i}" for i in range(N)])
    columns = {
        "x": np.ma.masked_array(rows, hidden),
        "age": np.ma.masked_array(ages, gone),
        "words": np.ma.masked_array(names, gone),
    }
    dataset = amodal.as_dataset(columns)
    np.testing.assert_array_equal(dataset.raw(3, "x"), np.where(hidden, np.nan, rows)[3])
    assert (dataset.present("words") == ~gone).all()
    ages_read = [dataset.reader.get(i, "age") for i in range(N)]
    assert ages_read == [None if gone[i] else ages[i] for i in range(N)]
    assert np.isnan(amodal.as_dataset(columns["x"]).raw(3, "x")).sum() == hidden[3].sum()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"b", "a"}, "a set has no order"),
        (frozenset("ab"), "a set has no order"),
        ({"a": {"b": [1, 2, 3]}}, "column 'a' is a dict of b, and a column is a list"),
        (frame().to_dict(), r"a dict of 0, 1, 2, 3, … .*frame.to_dict\('list'\)"),
        ({"words": {"y", "x"}}, "column 'words' must be a list.*not set"),
    ],
)
def test_what_has_no_order_or_no_rows_is_refused(source, message):
    with pytest.raises(AmodalError, match=message):
        amodal.as_dataset(source)


def test_names_of_files_and_sets_are_offered_where_they_are_near(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("watch", "photos"):
        (tmp_path / name).mkdir()
    with pytest.raises(AmodalError) as error:
        amodal.as_dataset("nopath")
    assert "no file or folder 'nopath' in" in str(error.value)
    assert "no set of this name" in str(error.value) and "watch" not in str(error.value)
    for wrong, right in (("phots", "photos"), ("digts", "digits")):
        with pytest.raises(AmodalError, match=rf"Did you mean {right}\?"):
            amodal.as_dataset(wrong)


def test_a_loop_of_ones_own_goes_on_without_a_bad_value(tmp_path):
    rows = [
        {"photo": np.full((8, 8, 3), 9 * i, np.uint8), "words": f"thing {i}"} for i in range(24)
    ]
    rows[3]["photo"] = str(tmp_path / "nosuch.png")
    dataset = amodal.as_dataset(rows, fields={"photo": "image", "words": "text"})
    options = dict(batch_size=8, collate_fn=dataset.collate)
    with pytest.raises(AmodalError, match=r"nosuch.png. To go on .* take dataset.readable\(\)"):
        list(DataLoader(dataset, **options))
    readable = dataset.readable()
    with pytest.warns(
        AmodalWarning, match="photo of the record .* it is missing from now on"
    ) as seen:
        for _ in range(2):
            batches = list(DataLoader(readable, **options))
    assert len(seen) == 1 and seen[0].filename == __file__
    assert [len(batch.columns["photo"]) for batch in batches] == [7, 8, 8]
    assert [len(batch.columns["words"]) for batch in batches] == [8, 8, 8]
    assert readable[3]["photo"] is None
    with pytest.raises(AmodalError):
        dataset[3]
