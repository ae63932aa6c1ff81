"""Events in every form: lists of objects, objects of lists, JSON; dates, missing cells, ties in
time."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from amodal import data
from amodal.core import AmodalError, Batch, Column
from amodal.modalities import BadValue, guess, kind, make
from amodal.nn.encoder import Encoder

SHOP = make("events", columns=["item", "price"], categories={"item": ["milk", "tea"]})
LIST = [
    {"time": 3.0, "item": "tea", "price": 2.5},
    {"time": 1.0, "item": "milk", "price": None},
    {"time": 1.0, "item": "rum", "price": 9, "note": "new"},
]
COLUMNS = {"time": [3.0, 1, 1.0], "item": ["tea", "milk", "rum"], "price": [2.5, None, 9]}
VALUE = np.array([[0, 0, np.nan], [0, 2, 9], [2, 1, 2.5]], dtype=np.float32)


def test_kinds_of_raw(tmp_path):
    (tmp_path / "a.events").write_text("\n".join(map(json.dumps, LIST)), encoding="utf-8")
    records = np.array(
        [(3, "tea", 2.5), (1, "milk", np.nan), (1, "rum", 9)],
        dtype=[("time", "f8"), ("item", "U4"), ("price", "f4")],
    )
    raws = (
        LIST,
        tuple(LIST),
        COLUMNS,
        {k: np.array(v, dtype=object) for k, v in COLUMNS.items()},
        records,
        json.dumps(LIST).encode(),
        json.dumps(COLUMNS).encode(),
        tmp_path / "a.events",
        {
            "time": ["2024-01-01T00:00:03", "2024-01-01T00:00:01Z", "2024-01-01T00:00:01"],
            "item": COLUMNS["item"],
            "price": ["2.5", "", "9"],
        },
    )
    for raw in raws:
        value = SHOP.decode(raw)
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, VALUE)
    # dates hold to the second over a century: they are subtracted before they become float32
    far = SHOP.decode(
        {"time": ["2024-01-31T23:59:58", "2024-01-31T23:59:59"], "item": ["tea", "tea"]}
    )
    assert far[:, 0].tolist() == [0, 1]
    np.testing.assert_array_equal(
        make("events", columns=["item"], categories={"item": ["3"]}, time="").decode(
            [{"item": 3.0}, {"item": "3"}]
        ),
        [[0, 0], [1, 0]],
    )


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ([], "no events"),
        ({}, "no events"),
        ({"time": []}, "no events"),
        (7, "a int is no events"),
        ([{"time": 1, "item": "tea"}, 3], "event 1 is no object"),
        ([{"item": "tea"}], "no time 'time'; it has item"),
        ([{"time": None, "item": "tea"}], "event 0 has no time"),
        ([{"time": 1, "Item": "tea"}], "none of the fields .*; did you mean item"),
        ([{"time": 1, "item": None}], "every cell is missing"),
        ({"time": [1, 2], "item": ["tea"]}, "different length"),
        ({"time": 1, "item": "tea"}, "time: expected a list"),
        ([{"time": 1, "price": "cheap"}], "price: 'cheap' is not a number"),
        ([{"time": 1, "price": [1, 2]}], "price"),
        (b"{", "not JSON"),
        (b"[1]", "event 0 is no object"),
    ],
)
def test_bad_values(raw, reason):
    with pytest.raises(BadValue, match=reason):
        SHOP.decode(raw)


def test_the_latest_are_retained():
    events = make("events", max_events=2)
    np.testing.assert_array_equal(
        events.decode([{"time": t, "value": t} for t in (5, 1, 9)]),
        np.array([[0, 5], [4, 9]], np.float32),
    )


def test_gaps_are_within_a_record():
    values = SHOP.collate([VALUE, VALUE[::2]])
    torch.testing.assert_close(SHOP.gaps(values), torch.tensor([0, 0, 2.0, 0, 2]).log1p())
    plain = make("events", columns=[], step=0.5, log=False)
    gaps = plain.gaps(
        plain.collate([np.array([[0], [1], [1.5]], np.float32), np.array([[0]], np.float32)])
    )
    assert gaps.tolist() == [0, 2, 1, 0]
    assert plain.targets(plain.collate([np.zeros((2, 1), np.float32)])).shape == (2, 2)


def test_a_token_is_an_event_where_it_was():
    module = SHOP.tokenizer(8)
    tokens = module(Column(SHOP.collate([VALUE]), torch.tensor([1])), "s", 2)
    assert tokens.position.tolist() == [
        [0, 0, 0],
        [0, 1, 0],
        [2, 2, 0],
    ] and tokens.row.tolist() == [1, 1, 1]
    targets = SHOP.targets(SHOP.collate([VALUE]))
    np.testing.assert_allclose(
        targets[:, 3:], [[0, np.nan, 0], [2, 9, 0], [1, 2.5, np.log(3)]], rtol=1e-6
    )


def test_views():
    events = make("events", columns=["n"], mean=[0, 0], std=[1, 1])
    value = np.stack([np.arange(100) * 2.0, np.arange(100)], 1).astype(np.float32)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        local = events.augment(value, "local", rng)
        assert 19 <= len(local) <= 61 and local[0, 0] == 0
        assert (np.diff(local[:, 1]) == 1).all() and (
            np.diff(local[:, 0]) == 2
        ).all()  # one stretch, as it is
        weak, strong = events.augment(value, "weak", rng), events.augment(value, "strong", rng)
        assert 70 <= len(weak) <= 100 and 30 <= len(strong) <= 100
        for view in (weak, strong):
            assert view[0, 0] == 0 and (np.diff(view[:, 0]) > 0).all()
        assert (
            np.isnan(strong[:, 1]).any()
            and (np.diff(strong[~np.isnan(strong[:, 1]), 1]) < -0.5).any()
        )
        for view in ("weak", "strong", "local"):
            assert len(events.augment(value[:1], view, rng)) == 1


def test_infer():
    rng = np.random.default_rng(0)
    days = [f"2024-02-{d:02d}" for d in range(1, 21)]
    raw = [
        {
            "who": ["a", "b"] * 10,
            "when": days,
            "n": rng.normal(5, 2, 20).tolist(),
            "more": [[1]] * 20,
        }
        for _ in range(9)
    ]
    events = kind("events").infer(raw)
    assert (events.time, events.columns, events.step) == ("when", ("who", "n"), 86400.0)
    assert events.categories == {"who": ("a", "b")} and events.max_events == 25
    np.testing.assert_allclose((events.mean[1], events.std[1]), (5, 2), atol=0.5)
    assert events.mean[0] == 0 and events.std[0] == 1
    assert kind("events").infer(raw, columns=["n"]).columns == ("n",)
    assert kind("events").infer([[{"item": "x"}, {"item": "y"}]]).time == ""
    assert kind("events").infer([[{"date": 3}, {"date": 4}]]).columns == ()


def test_guess():
    assert guess([LIST, COLUMNS]) == "events" and guess([COLUMNS]) == "events"
    assert guess([json.dumps(LIST).encode()]) == "events"
    assert (
        guess([{"time": [1, 2], "x": [1.5, 2]}]) == "series"
        and guess([{"a": ["x", "y"]}]) == "series"
    )
    assert guess([[{"bytes": b"\x89PNG", "path": None}] * 2]) != "events"


@pytest.mark.parametrize("form", ["jsonl", "struct of lists", "list of structs"])
def test_tables_of_events(tmp_path, form):
    """From a file to vectors: init, the schema written and read again, decoding, embedding."""
    rows = [
        [
            {"time": i + j * 0.5, "item": "tea" if j % 2 else "milk", "price": 1.0 * j}
            for j in range(3 + i % 4)
        ]
        for i in range(30)
    ]
    if form == "struct of lists":
        rows = [{name: [e[name] for e in row] for name in row[0]} for row in rows]
    if form == "jsonl":
        (tmp_path / "r.jsonl").write_text(
            "\n".join(json.dumps({"visits": r}) for r in rows), encoding="utf-8"
        )
    else:
        pq.write_table(pa.table({"visits": rows}), tmp_path / "r.parquet")
    report = data.init(tmp_path)
    assert "events" in str(report)
    dataset = data.open(tmp_path)
    assert dataset.fields["visits"] == make(
        "events",
        columns=["item", "price"],
        categories={"item": ["milk", "tea"]},
        step=0.5,
        max_events=8,
        mean=dataset.fields["visits"].mean,
        std=dataset.fields["visits"].std,
    )
    values = [dataset.value(i, "visits") for i in range(4)]
    assert [len(v) for v in values] == [3, 4, 5, 6]
    column = Column(dataset.fields["visits"].collate(values), torch.arange(4))
    assert (
        Encoder(dataset.fields, size="nano")(Batch.of(4, {"visits": column}))[
            "visits"
        ].values.shape[0]
        == 4
    )


def test_queries():
    assert SHOP.queries(LIST) == [LIST] and SHOP.queries(COLUMNS) == [COLUMNS]
    assert SHOP.queries(json.dumps(LIST)) == [LIST] and SHOP.queries([LIST, COLUMNS]) == [
        LIST,
        COLUMNS,
    ]


def test_parameters_are_checked():
    for options, reason in (
        ({"columns": ["a", "a"]}, "different names"),
        ({"columns": ["time"]}, "without the time"),
        ({"mean": [0]}, "events.mean has 1 numbers for 1 fields and the gaps"),
        ({"step": 0}, "a step above 0"),
        ({"categories": {"colour": ["red"]}}, "colour"),
    ):
        with pytest.raises(AmodalError, match=reason):
            make("events", **options)
