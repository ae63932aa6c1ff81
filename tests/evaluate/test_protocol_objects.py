"""Protocols as objects: needs, options, order, old names, and protocols from outside the package."""

import ast
import importlib.metadata
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import amodal
from amodal.core import AmodalError
from amodal.core.registry import installed, plugins
from amodal.evaluate import (
    LABEL,
    TWO_FIELDS,
    Context,
    Need,
    NotApplicable,
    Protocol,
    Report,
    Result,
    changes_records,
    evaluate,
    needed_parts,
    protocol,
    protocol_names,
)
from amodal.evaluate import runner as runner_module
from amodal.evaluate.old_names import OLD_NAMES
from amodal.evaluate.options import fits
from amodal.evaluate.protocols.knn import knn
from tests.evaluate.made import made

USUAL = "head knn linear survival cluster retrieval zero_shot missing_modality cross_modal_transfer open_set "
USUAL += "track_identification"


class Cosine(Protocol):
    """Mean cosine of the two values of a record."""

    name, needs = "cosine", (TWO_FIELDS,)

    @dataclass(frozen=True)
    class Options:
        pairs: int = 1000
        names: tuple[str, ...] = ()

    def run(self, context):
        a, b = context.test.sources[:2]
        rows, (x, y) = context.test.aligned.complete([a, b])
        chosen = np.random.default_rng(context.seed).permutation(len(rows))[: context.options.pairs]
        value = float(torch.cosine_similarity(x[chosen], y[chosen], dim=1).mean())
        row = {
            "source": a,
            "target": b,
            "metric": "cosine",
            "value": value,
            "chance": 0.0,
            "n": len(chosen),
        }
        return Result(self.name, {"pairs": context.options.pairs}, [row])


@pytest.fixture(scope="module")
def records():
    rng = np.random.default_rng(0)
    values = {name: list(rng.normal(size=(60, 5)).astype(np.float32)) for name in "ab"}
    return amodal.open(values)


@pytest.fixture(scope="module")
def encoder(records):
    torch.manual_seed(0)
    return amodal.Encoder(records.fields, size="nano").align(16)


def test_every_file_holds_a_protocol_of_its_name_and_the_order_is_by_rank():
    names = protocol_names()
    assert names[: len(USUAL.split())] == USUAL.split()
    for name in names:
        one = protocol(name)
        assert one.name == name and one.default == (name in USUAL.split()) and type(one).__doc__
        measure = type(one).measure
        if measure is None:  # it reads more than embedded records
            assert type(one).run is not Protocol.run and type(one).Options.__doc__
        else:
            assert measure.__name__ == name and measure.__doc__


def test_the_runner_names_no_protocol():
    tree = ast.parse(Path(runner_module.__file__).read_text(encoding="utf-8"))
    strings = {
        n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    }
    assert not strings & {*protocol_names(), *OLD_NAMES}


def test_an_object_does_what_its_function_does():
    train, test = made(seed=1), made(seed=2)
    one = protocol("knn")
    context = Context.on(train, test, label="kind", options=one.filled({"k": 3}))
    assert one.run(context) == knn(train, test, label="kind", k=3)


def test_old_names_still_work(records, encoder):
    for old, new in OLD_NAMES.items():
        assert protocol(old).name == protocol(old.replace("_", "-")).name == new
    report = evaluate(encoder, records, protocols=["missing"], progress=False)
    assert (
        report["missing"] is report["missing_modality"]
        and report.results[0].protocol == "missing_modality"
    )


def test_old_reports_are_read(tmp_path):
    row = {
        "source": "a",
        "metric": "accuracy",
        "value": 0.5,
        "chance": 0.1,
        "n": 9,
        "part": "random",
    }
    results = [{"protocol": old, "spec": {"label": "kind"}, "rows": [row]} for old in OLD_NAMES]
    skipped = {"identify": "no", "transfer (kind)": "no"}
    (tmp_path / "old.json").write_text(
        json.dumps({"about": {}, "results": results, "skipped": skipped}), encoding="utf-8"
    )
    report = Report.load(tmp_path / "old.json")
    assert [r.protocol for r in report.results] == list(OLD_NAMES.values())
    assert list(report.skipped) == ["track_identification", "cross_modal_transfer (kind)"]
    assert report["absence"].value("a", "accuracy") == 0.5 and report.table().row_count == len(
        OLD_NAMES
    )


def test_needs_decide_what_is_skipped_and_why(records, encoder):
    class Never(Need):
        name = "never"

        def check(self, context):
            raise NotApplicable("it needs what nobody has")

    class Hopeless(Cosine):
        name, needs = "hopeless", (Never(),)

    class Labelled(Cosine):
        name, needs = "labelled", (LABEL, TWO_FIELDS)

    report = evaluate(encoder, records, protocols=[Cosine, Hopeless(), Labelled()], progress=False)
    assert [r.protocol for r in report.results] == ["cosine"]
    assert (
        report.skipped["hopeless"] == "it needs what nobody has"
        and "needs a label" in report.skipped["labelled"]
    )


def test_nothing_is_embedded_for_protocols_that_read_no_vectors(records, monkeypatch):
    class Named(Protocol):
        name = "named"

        def run(self, context):
            row = {
                "source": "a",
                "metric": "fields",
                "value": float(len(context.dataset.fields)),
                "chance": 0.0,
                "n": 1,
            }
            return Result(self.name, {}, [row])

    monkeypatch.setattr(needed_parts, "embed_records", None)
    torch.manual_seed(0)
    encoder = amodal.Encoder(records.fields, size="nano")
    report = evaluate(encoder, records, protocols=[Named()], baseline=encoder, progress=False)
    assert report["named"].value("a", "fields") == 2 and report.test is None


def test_a_protocol_of_an_object_a_file_and_a_module_are_one(
    records, encoder, tmp_path, monkeypatch
):
    source = "from tests.evaluate.test_protocol_objects import Cosine\n\n\nclass Mine(Cosine):\n    name = 'mine'\n\n\nONE = Mine()\n"
    (tmp_path / "own_protocols.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "own_protocols.py"
    for which in (f"{file}:Mine", f"{file}:ONE", "own_protocols:Mine", Cosine, Cosine()):
        report = evaluate(encoder, records, protocols=[which], pairs=10, seed=3, progress=False)
        assert report.results[0].value("a", "cosine", target="b") == pytest.approx(
            evaluate(encoder, records, protocols=[Cosine()], pairs=10, seed=3, progress=False)[
                "cosine"
            ].rows[0]["value"]
        )
        assert (
            report.table(every=True).row_count == 1
            and report.save(tmp_path / "report.json").exists()
        )
    assert Report.load(tmp_path / "report.json")["cosine"].spec == {"pairs": 10}


def test_mistakes_with_protocols_from_outside(records, encoder, tmp_path):
    (tmp_path / "bad.py").write_text("import there_is_no_such_module\n", encoding="utf-8")
    (tmp_path / "good.py").write_text("Mine = 3\n", encoding="utf-8")

    def refused(which, **options):
        with pytest.raises(AmodalError) as error:
            evaluate(encoder, records, protocols=[which], progress=False, **options)
        return str(error.value)

    assert "there is no file" in refused(f"{tmp_path / 'none.py'}:Mine")
    assert "ModuleNotFoundError" in refused(f"{tmp_path / 'bad.py'}:Mine")
    assert "Did you mean Mine" in refused(f"{tmp_path / 'good.py'}:Nine")
    assert "is no protocol: an object of a subclass" in refused(f"{tmp_path / 'good.py'}:Mine")
    assert "'no_such_package.x' cannot be imported" in refused("no_such_package.x:Mine")
    assert "is no protocol" in refused(print)
    assert "Did you mean pairs" in refused(Cosine(), pair=3)
    assert "pairs = 'ten': the protocol cosine needs int here" in refused(Cosine(), pairs="ten")
    assert "names = 'a'" in refused(Cosine(), names="a"), "a text is no tuple of texts"

    class Nameless(Protocol):
        pass

    class Empty(Protocol):
        name = "empty"

    class Wrong(Cosine):
        name = "wrong"

        def run(self, context):
            return 3

    assert "has no name" in refused(Nameless)
    assert "has neither `run` nor `measure`" in refused(Empty)
    assert "returned int, and a Result is needed" in refused(Wrong)


@pytest.fixture(autouse=True)
def forget_plugins():
    installed.cache_clear()
    yield
    installed.cache_clear()


def entry(name, value):
    return importlib.metadata.EntryPoint(name, value, "amodal.protocols")


def plug(monkeypatch, *points):
    installed.cache_clear()
    monkeypatch.setattr(
        "importlib.metadata.entry_points",
        lambda group: points if group == "amodal.protocols" else [],
    )


def test_plugins_are_found_and_run(records, encoder, monkeypatch):
    plug(monkeypatch, entry("cosine", f"{__name__}:Cosine"))
    assert list(plugins("protocols")) == ["cosine"] and plugins("methods") == {}
    assert protocol_names()[-1] == "small_objects" and "cosine" in protocol_names()
    assert "cosine" in {r.protocol for r in evaluate(encoder, records, progress=False).results}
    with pytest.raises(AmodalError, match="Did you mean cosine"):
        protocol("cosin")


def test_broken_plugins_say_whose_they_are(records, encoder, monkeypatch):
    plug(monkeypatch, entry("broken", "there_is_no_such_module:X"))
    with pytest.raises(
        AmodalError,
        match="the plug-in broken of .*there_is_no_such_module:X.*ModuleNotFoundError",
    ):
        evaluate(encoder, records, protocols=["broken"], progress=False)
    with pytest.warns(UserWarning, match="the plug-in broken of .* left out"):
        assert evaluate(encoder, records, progress=False).results
    plug(monkeypatch, entry("one", "a:X"), entry("one", "b:X"))
    with pytest.raises(AmodalError, match=r"two of amodal.protocols are called 'one'"):
        protocol("one")
    assert "one" not in protocol_names() and protocol("knn").name == "knn"
    plug(monkeypatch, entry("knn", "a:X"))
    with pytest.warns(UserWarning, match="'knn' of amodal.protocols is amodal's own, not a:X of"):
        assert type(protocol("knn")).__module__.startswith("amodal.")
    assert "knn" in protocol_names() and protocol("linear").name == "linear"


def test_which_protocols_read_values_anew():
    assert (
        changes_records(["knn", "absence"])
        and not changes_records(["knn", "missing"])
        and not changes_records([])
    )


def test_values_fit_their_annotations():
    from collections.abc import Mapping, Sequence
    from typing import Any, Literal

    good = [
        (3, int),
        (np.int64(3), int),
        (3, float),
        (True, bool),
        ("a", str),
        (None, int | None),
        ([1], Sequence[int]),
    ]
    good += [
        ((1.5, 2), Sequence[float]),
        (("a", "b"), tuple[str, str]),
        ([("a", "b")], Sequence[tuple[str, str]]),
    ]
    good += [
        ({"a": 1}, Mapping[str, int]),
        ("x", Literal["x", "y"]),
        (object(), Any),
        (np.arange(3), Sequence[int]),
    ]
    assert all(fits(value, hint) for value, hint in good)
    bad = [
        (3.5, int),
        (True, int),
        ("3", float),
        ("ab", Sequence[str]),
        (["a"], Sequence[int]),
        (("a",), tuple[str, str]),
    ]
    bad += [(3, str), ([], Mapping[str, int]), ("z", Literal["x", "y"]), (3, None)]
    assert not any(fits(value, hint) for value, hint in bad)


def test_old_names_of_options_are_taken(records, encoder):
    old, new = (
        evaluate(encoder, records, protocols=["retrieval"], progress=False, **options)
        for options in ({"at": (2,)}, {"recall_at": (2,)})
    )
    assert old["retrieval"].spec == new["retrieval"].spec
    assert new["retrieval"].spec["recall_at"] == [2]


class Wrong(Protocol):
    needs = ()

    def __init__(self, rows, name="wrong", result=None):
        self.rows, self.result = rows, result or name
        self.name = name

    def run(self, context):
        return Result(self.result, {}, self.rows)


GOOD = {"source": "a", "metric": "m", "value": 1.0, "chance": 0.0, "n": 3}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"metric": "m"}], "row 0 of the protocol wrong has no 'source'"),
        ([GOOD, GOOD | {"value": "high"}], "'value' of row 1 .* is 'high', and must be a number"),
        ([GOOD | {"value": True}], "must be a number"),
        ([GOOD | {"metric": 3}], "must be a text"),
    ],
)
def test_a_row_that_is_none_is_named(rows, says, digits_encoder):
    encoder, data = digits_encoder
    with pytest.raises(AmodalError, match=says):
        evaluate(encoder, data, protocols=[Wrong(rows)], progress=False)


def test_results_of_two_protocols_are_never_mixed_up(digits_encoder):
    encoder, data = digits_encoder
    with pytest.raises(AmodalError, match="called 'knn'.*another name"):
        evaluate(encoder, data, protocols=["knn", Wrong([GOOD], "knn")], progress=False)
    with pytest.raises(AmodalError, match="returned the result of 'knn'"):
        evaluate(encoder, data, protocols=[Wrong([GOOD], result="knn")], progress=False)
    one = Wrong([GOOD])
    assert len(evaluate(encoder, data, protocols=[one, one], progress=False).results) == 1


@pytest.fixture(scope="module")
def digits_encoder():
    data = amodal.open("wine")
    return amodal.Encoder(data.fields, size="nano"), data
