"""Rows of tables: numbers, categories, missing cells."""

import datetime
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from amodal.core import AmodalError, Column
from amodal.modalities import BadValue, kind, make

TABLE = make(
    "table",
    columns=["age", "colour"],
    categories={"colour": ["blue", "red"]},
    mean=[40, 0],
    std=[10, 1],
)


def test_kinds_of_raw(tmp_path):
    row = {"colour": "red", "age": 30, "else": [1, 2]}
    (tmp_path / "row.json").write_text(json.dumps({"colour": "red", "age": 30}), encoding="utf-8")
    del row["else"]
    for raw in (
        row,
        tmp_path / "row.json",
        json.dumps(row).encode(),
        [30, "red"],
        np.array([30, "red"], dtype=object),
        {"age": "30", "colour": " red"},
    ):
        assert TABLE.decode(raw).tolist() == [30, 1]
    assert make("table").decode(3.5).tolist() == [3.5]
    assert make("table", categories={"value": ["a"]}).decode("a").tolist() == [0]


def test_missing_and_unseen_cells():
    for missing in (None, float("nan"), "", "NA", " n/a ", np.float32("nan"), np.inf):
        np.testing.assert_array_equal(TABLE.decode({"age": missing, "colour": "red"}), [np.nan, 1])
    np.testing.assert_array_equal(TABLE.decode({"age": 3, "colour": None}), [3, np.nan])
    np.testing.assert_array_equal(TABLE.decode({"colour": "green"}), [np.nan, 2])  # "other"
    assert "colour=(other)" in TABLE.describe(TABLE.decode({"colour": "green"}))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({"age": None, "colour": ""}, "every cell is missing"),
        ({"agee": 3}, "it has agee; did you mean age\\?"),
        ({}, "it has nothing"), ([1], "1 cell for 2 columns"), ([1, 2, 3], "3 cells for 2 columns"),
        ({"age": "old", "colour": "red"}, "age: 'old' is not a number"), ({"age": [1]}, "age: a cell must be"),
        (b"{", "not JSON"), (b"\xff\xfe\xfd", "not JSON"), (b"[1, 2, 3]", "3 cells"), ("red", "1 cell for"),
    ],
)  # fmt: skip
def test_bad_values(raw, reason):
    with pytest.raises(BadValue, match=reason):
        TABLE.decode(raw)


def test_one_token_for_each_cell_that_is_there():
    values = TABLE.collate([TABLE.decode(r) for r in ([30, "red"], [None, "blue"], [50, None])])
    tokens = TABLE.tokenizer(8)(Column(values, torch.tensor([0, 2, 3])), "table", 4)
    assert tokens.row.tolist() == [0, 0, 2, 3]
    assert tokens.position[:, 0].tolist() == [0, 1, 1, 0]
    np.testing.assert_allclose(TABLE.targets(values), [[0, -1], [1, 1], [1, 0], [0, 1]])


def test_token_content():
    """A number moves its token along one line; each category, the unseen one too, has a place of
    its own."""
    module = TABLE.tokenizer(8)

    def token(raw):
        column = Column(TABLE.collate([TABLE.decode(raw)]), torch.zeros(1, dtype=torch.int64))
        return module(column, "table", 1).x[0]

    low, middle, high = (token({"age": a}) for a in (30, 40, 50))
    torch.testing.assert_close(high - middle, middle - low)
    colours = torch.stack([token({"colour": c}) for c in ("blue", "red", "green", "grey")])
    distance = torch.cdist(colours, colours)
    assert distance[2, 3] == 0 and (distance[:3, :3] + torch.eye(3) > 0.05).all()


def test_loss_by_kind_of_column():
    target = torch.tensor([[0, -1.0], [1, 2.0]])
    prediction = torch.randn(2, 2 + 3, requires_grad=True)
    loss = TABLE.token_loss(prediction, target)
    torch.testing.assert_close(loss[0], (prediction[0, 0] + 1) ** 2)
    torch.testing.assert_close(
        loss[1], torch.nn.functional.cross_entropy(prediction[1, 2:], torch.tensor(2))
    )
    loss.sum().backward()
    assert prediction.grad[0, 2:].abs().sum() == 0 and prediction.grad[1, :2].abs().sum() == 0


@pytest.mark.parametrize("patch", [1, 2])
def test_targets_of_numbers_and_of_categories_apart(patch):
    """A token of two columns may have both."""
    table = replace(TABLE, patch=patch)
    values = torch.tensor([[30.0, 1.0], [torch.nan, 2.0], [50.0, torch.nan]])
    target = table.targets(values)
    (numbers, of_numbers), (codes, of_codes) = table.target_kinds(target)
    assert numbers.tolist() == ([True, False, False, True] if patch == 1 else [True, False, True])
    assert codes.tolist() == ([False, True, True, False] if patch == 1 else [True, True, False])
    prediction = torch.randn(len(target), 2 + 3)
    apart = [table.token_loss(prediction, t) for t in (of_numbers, of_codes)]
    assert not apart[0][~numbers].any() and not apart[1][~codes].any()
    whole = (apart[0] + apart[1]) / (numbers.float() + codes.float())
    torch.testing.assert_close(whole, table.token_loss(prediction, target))
    picture = make("image", size=8, channels=1, patch=4)
    patches = torch.randn(4, 16)
    ((there, same),) = picture.target_kinds(patches)
    assert there.tolist() == [True] * 4 and torch.equal(same, patches)


def test_logits_of_other_columns_do_not_compete():
    table = make("table", columns=["a", "b"], categories={"a": ["x"], "b": ["y", "z"]})
    prediction = torch.tensor([[0, 0, 9.0, 0, 99, 99, 99]], requires_grad=True)
    loss = table.token_loss(prediction, torch.tensor([[0.0, 0.0]]))
    assert loss.item() < 0.01
    loss.sum().backward()
    assert prediction.grad.isfinite().all()


def test_views():
    columns = [f"c{i}" for i in range(20)]
    table = make(
        "table", columns=columns, categories={"c0": ["a", "b"]}, std=[1] * 20, mean=[0] * 20
    )
    value = np.ones(20, np.float32)
    value[5] = np.nan
    shares = {v: [] for v in ("weak", "strong", "local")}
    for seed in range(60):
        for view in shares:
            out = table.augment(value, view, np.random.default_rng(seed))
            assert np.isnan(out[5]) and (np.isnan(out[0]) or out[0] == 1)
            shares[view].append(np.isfinite(out).sum() / 19)
        lonely = np.full(20, np.nan, np.float32)
        lonely[7] = 3
        assert np.isfinite(table.augment(lonely, "local", np.random.default_rng(seed))[7])
    assert abs(np.mean(shares["weak"]) - 0.9) < 0.04 and abs(np.mean(shares["strong"]) - 0.7) < 0.05
    assert abs(np.mean(shares["local"]) - 0.35) < 0.06


def test_infer():
    rows = [
        {"age": "31", "town": "Oslo", "seen": datetime.date(2020, 1, 2), "code": 1.0, "flag": True},
        {"age": 33, "town": "Rome", "seen": None, "code": 2.0, "flag": False},
        {
            "age": None,
            "town": "Oslo",
            "seen": datetime.date(2020, 1, 3),
            "code": 2.0,
            "flag": True,
            "late": 5,
        },
    ]
    table = kind("table").infer(rows)
    assert table.columns == ("age", "town", "seen", "code", "flag", "late")
    assert table.categories == {"town": ("Oslo", "Rome"), "flag": ("False", "True")}
    assert table.mean[:2] == (32.0, 0.0) and table.std[:2] == (1.0, 1.0)
    coded = kind("table").infer(rows, columns=["code"], categories={"code": ["1", "2"]})
    assert [coded.decode(r).tolist() for r in rows] == [[0], [1], [1]]
    assert kind("table").infer([np.arange(3.0), np.ones(3)]).columns == ("c0", "c1", "c2")
    many = kind("table").infer([{"name": f"n{i}"} for i in range(400)])
    assert len(many.categories["name"]) == 256


def test_parameters_are_checked():
    with pytest.raises(AmodalError, match="Did you mean colour"):
        make("table", columns=["colour"], categories={"color": ["red"]})
    with pytest.raises(AmodalError, match="different names"):
        make("table", columns=["a", "a"])


def test_a_wide_table_has_one_token_for_a_group_of_columns():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20, 100)).astype(np.float32)
    table = kind("table").infer(list(rows))
    assert table.patch == 4
    rows[0, :8] = np.nan  # two whole groups
    rows[1, 5] = np.nan
    values = table.collate([table.decode(r) for r in rows])
    tokens = table.tokenizer(16)(Column(values, torch.arange(20)), "wide", 20)
    assert tokens.lengths().tolist() == [23, *[25] * 19]
    target = table.targets(values)
    assert target.shape == (len(tokens), 8)
    assert target[:, 4:].isnan().sum() == 1
    # exact predictions lose nothing, whatever is missing
    exact = torch.zeros(len(tokens), 100).scatter(
        1, target[:, :4].long(), target[:, 4:].nan_to_num()
    )
    assert table.token_loss(exact, target).abs().max() < 1e-10
    # the first token of the first row that has all of its columns is the sum of its cells
    cells = replace(table, patch=1).tokenizer(16)
    cells.load_state_dict({k: v for k, v in table.tokenizer(16).state_dict().items()})
    whole = table.tokenizer(16)
    whole.load_state_dict(cells.state_dict())
    one = Column(values[2:3], torch.tensor([0]))
    torch.testing.assert_close(whole(one, "wide", 1).x[0], cells(one, "wide", 1).x[:4].sum(0) / 2)


def test_dates_in_text_are_numbers():
    days = [{"day": f"2024-01-{d:02d}", "code": f"x{d % 2}"} for d in range(1, 11)]
    table = kind("table").infer(days)
    assert list(table.categories) == ["code"]
    noon = table.decode({"day": "2024-01-01T12:00:00Z"})[0] - table.decode({"day": "2024-01-01"})[0]
    assert abs(noon - 43200) <= 128  # what float32 tells apart
    with pytest.raises(BadValue, match="day: '2024-02-31' is not a number"):
        table.decode({"day": "2024-02-31"})


def test_a_column_is_what_most_of_its_cells_are():
    table = kind("table").infer(
        [{"a": i / 7, "b": str(i)} for i in range(9)] + [{"a": "oops", "b": "x"}]
    )
    assert list(table.categories) == ["b"]  # digits as text may be codes
    with pytest.raises(BadValue, match="a: 'oops' is not a number"):
        table.decode({"a": "oops", "b": "1"})


@pytest.mark.parametrize("raw", ["5", "width=5", [5], b"[1, 2, 3]"])
def test_the_forms_of_a_row_are_said(raw):
    table = make("table", columns=["width", "height"])
    with pytest.raises(BadValue) as error:
        table.decode(table.queries(raw)[0])
    assert "for 2 columns (width, height); a row is a list with a cell for each" in str(error.value)
    form = str(error.value).partition("such as ")[2]
    assert table.decode(table.queries(form)[0])[0] == 1.5  # what is said is taken
