"""`amodal diagnose`: numbers are those of `amodal.diagnose`, and the sentence says what stands out."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.nn.functional import normalize

import amodal
from amodal.cli import main
from amodal.core import AmodalError, Column, Embeddings
from amodal.data import Loader
from amodal.data import open as open_data
from amodal.diagnose.dimension import intrinsic_dimension
from amodal.diagnose.neighbours import mutual_knn
from amodal.evaluate import diagnoses
from amodal.evaluate.diagnoses import DIAGNOSES
from amodal.evaluate.diagnosis import MEANING, Diagnosis
from amodal.inference.embed import Embedded
from amodal.nn.experts import Experts

N, D = 40, 16


def embedded(other=None, rank=D):
    """Two fields, by default with nearly the same vectors; the last record lacks the second."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(N, rank, generator=generator) @ torch.randn(rank, D, generator=generator)
    b = a + 0.1 * torch.randn(N, D, generator=generator) if other is None else other
    columns = {"a": Column(a, torch.arange(N)), "b": Column(b[: N - 1], torch.arange(N - 1))}
    space = Embeddings(columns, N)
    return Embedded([f"r{i}" for i in range(N)], space, space)


def sentence(z, *names):
    rows = [
        {"diagnosis": n, "source": s, "target": t, "metric": m, "value": v, "untrained": None}
        for (n, s, t, m), v in diagnoses._measured(z, names or tuple(DIAGNOSES)).items()
    ]
    return Diagnosis("set", rows, diagnoses._odd(z), N)


def test_numbers_are_those_of_the_functions():
    z = embedded()
    a, b = z.features["a"].values, z.features["b"].values
    found = diagnoses._measured(z, tuple(DIAGNOSES))
    assert found["dimension", "a", "", "intrinsic"] == intrinsic_dimension(a)
    assert found["neighbours", "a", "b", "shared"] == mutual_knn(a[: N - 1], b, k=10)
    assert found["neighbours", "a", "b", "chance"] == pytest.approx(10 / 38)
    assert found["volume", "a + b", "", "auroc"] > 0.99
    explained = {metric for *_, metric in found} - {"n", "width", "chance"}
    others = {"layer", "by the last"}  # by passes of their own
    others |= {"reach", "used", "effective", "sure", "share"}
    assert explained == set(MEANING) - others


def test_what_stands_out_is_said():
    assert sentence(embedded()).sentence == "nothing stands out"
    flat = sentence(embedded(rank=1), "spectrum").sentence
    assert "a uses 1.0 of 16 dimensions" in flat
    random = torch.randn(N, D, generator=torch.Generator().manual_seed(5))
    assert "hardly more alike than those of different" in sentence(embedded(random)).sentence
    far = embedded()
    far.aligned["b"].values.add_(50.0)
    far.aligned["a"].values.sub_(50.0)
    assert "a and b lie apart (gap 1.99 of at most 2)" in sentence(far, "geometry").sentence


def test_a_mismatched_pair_is_the_oddest_record():
    z = embedded()
    b = z.aligned["b"].values
    b[7], b[8] = b[8].clone(), b[7].clone()
    odd = sentence(z).odd
    assert set([*odd][:2]) == {"r7", "r8"} and len(odd) < 5, "others are as alike as most"
    assert "r39" not in odd, "it has one field only"
    wrong = 1 - (normalize(z.aligned["a"].values[:39], dim=1) * normalize(b, dim=1)).sum(1)
    assert odd["r7"] == pytest.approx(float(wrong[7] - wrong.mean()), abs=1e-5)
    random = torch.randn(N, D, generator=torch.Generator().manual_seed(5))
    assert sentence(embedded(random)).odd == {}, (
        "nothing can be said where there is no common space"
    )


def test_few_records_are_no_collapse_and_ties_are_no_neighbours():
    z = embedded()
    some = z.only(np.arange(N) < 4)
    few = Diagnosis("set", sentence(some, "spectrum").rows, records=4)
    assert few.sentence == "nothing stands out", "four records span three dimensions"
    tied = Column(z.features["a"].values[torch.arange(N) % 3], torch.arange(N))
    same = Embedded(z.keys, z.aligned, Embeddings({"a": tied, "b": tied}, N))
    assert diagnoses._measured(same, ("neighbours",)) == {}


def test_signs_that_mean_nothing_make_no_record_odd():
    z = embedded()
    z.aligned["b"].values[5] *= -1
    assert "r5" in sentence(z).odd
    blind = dataclasses.replace(z, abs_cosine=True)
    assert sentence(blind).odd == {} and not diagnoses._measured(blind, ("geometry",))


def test_fields_of_different_width_are_not_compared():
    z = embedded()
    other = Column(z.aligned["b"].values[:, :4], z.aligned["b"].rows)
    apart = Embeddings({"a": z.aligned["a"], "b": other}, N)
    found = diagnoses._measured(Embedded(z.keys, apart, z.features), tuple(DIAGNOSES))
    assert {name for name, *_ in found} == set(DIAGNOSES) - {"geometry", "volume"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    rng = np.random.default_rng(0)
    columns = {
        s: [{"x": float(v), "y": float(w)} for v, w in rng.normal(size=(30, 2))] for s in "ab"
    }
    folder = tmp_path_factory.mktemp("diagnose")
    quick = dict(steps=2, size="nano", progress=False, logger=None)
    return amodal.pretrain("clip", open_data(columns), folder / "run", **quick), open_data(columns)


def test_a_run_stands_beside_itself_before_training(run):
    model, data = run
    found = model.diagnose(data, progress=False)
    assert found.records == 30 and all(row["untrained"] is not None for row in found.rows)
    before = diagnoses._measured(model.untrained().embed(data), ("spectrum",))
    rank = next(r for r in found.rows if (r["source"], r["metric"]) == ("a", "rank"))
    assert rank["untrained"] == pytest.approx(before["spectrum", "a", "", "rank"])
    assert rank["value"] != rank["untrained"]
    part = model.diagnose(data, only=["spectrum"], part="test", progress=False)
    assert part.records == len(data.split("test"))
    some = model.diagnose(data, only=["spectrum"], records=9, untrained=False, progress=False)
    assert some.records == 9 and {row["diagnosis"] for row in some.rows} == {"spectrum"}
    assert all(row["untrained"] is None for row in some.rows)


def test_tables_and_the_file(run, tmp_path):
    found = run[0].diagnose(run[1], progress=False)
    console = Console(width=160, record=True)
    console.print(found.table())
    text = console.export_text()
    assert "spectrum (in brackets: untrained)" in text and "dimensions in use" in text
    assert "a ~ b" in text and found.sentence[:40] in text
    written = json.loads(found.save(tmp_path / "deep" / "d.json").read_text(encoding="utf-8"))
    assert written["records"] == 30 and written["rows"] == found.rows


def test_what_cannot_be_diagnosed_says_why(run, tmp_path, capsys):
    model, data = run
    with pytest.raises(AmodalError, match="Did you mean spectrum"):
        model.diagnose(data, only=["spectrun"])
    with pytest.raises(AmodalError, match="three records at least, and here are 2"):
        model.diagnose(data.subset(np.arange(2)), progress=False)
    with pytest.raises(AmodalError, match="records at least 3, not 0 and -1"):
        model.diagnose(data, records=-1)
    broken = copy.deepcopy(model)
    for weight in broken.encoder.parameters():
        weight.data.fill_(torch.nan)
    with pytest.raises(AmodalError, match="not finite: the run has diverged"):
        broken.diagnose(data, untrained=False, progress=False)
    (tmp_path / "file").touch()
    with pytest.raises(AmodalError, match="could not write"):
        model.diagnose(data, only=["spectrum"], progress=False).save(tmp_path / "file" / "d.json")
    table = tmp_path / "t.csv"
    table.write_text(
        "key,x,y\n" + "\n".join(f"r{i},{i / 7},{i % 5}" for i in range(20)), encoding="utf-8"
    )
    amodal.pretrain("simclr", str(table), tmp_path / "r", steps=2, size="nano", progress=False)
    main(
        ["diagnose", str(tmp_path / "r"), "--data", str(table), "--json", str(tmp_path / "o.json")]
    )
    said = capsys.readouterr().out
    assert "spectrum" in said and (tmp_path / "o.json").exists()
    with pytest.raises(SystemExit) as ended:
        main(["diagnose", str(tmp_path / "r"), "--data", str(table), "--only", "dimensions"])
    assert ended.value.code == 2 and "Did you mean dimension" in capsys.readouterr().err


def test_the_layers_that_agree_most_are_named():
    from amodal.evaluate.layer_agreement import most_alike_of

    turn = torch.linspace(0, 6, 40)[:, None]
    circle = torch.cat([turn.cos(), turn.sin()], 1)
    noise = torch.randn(4, 40, 5, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(40)
    a = [Column(x, rows) for x in (noise[0], circle, noise[1])]
    b = [Column(x[5:], rows[5:]) for x in (noise[2], noise[3], 3 * circle)]
    row = most_alike_of({"a": a, "b": b}, "a", "b")
    assert (row["layer"], row["other layer"], row["n"]) == (2, 3, 35)
    assert row["shared"] == pytest.approx(1.0) and row["by the last"] < 0.6
    assert row["by chance"] == pytest.approx(10 / 34)
    with pytest.raises(AmodalError, match="more than 10 records"):
        most_alike_of({"a": [c.at(rows < 9) for c in a], "b": b}, "a", "b")


def test_layers_are_those_of_backbones(folder, tmp_path, capsys):
    run = tmp_path / "run"
    nets = {"image": "timm:resnet18:32@scratch"}
    amodal.pretrain("clip", folder, run, size="nano", steps=1, backbones=nets, progress=False)
    with pytest.raises(AmodalError, match="two fields with backbones .* here are image"):
        amodal.load(run).diagnose(folder, only=["layers"], progress=False)
    with pytest.raises(AmodalError, match="only layers"):
        amodal.load(run).diagnose(folder, only=["layers", "volume"], progress=False)


def test_experts_are_counted_as_they_are_used(tmp_path):
    """By a loop over tokens, with thresholds that leave some out."""
    columns = {
        "a": [{"x": float(i % 5), "y": float(i)} for i in range(30)],
        "b": [{"x": float(i % 7)} for i in range(30)],
    }
    data = open_data(columns)
    quick = dict(steps=3, size="nano", progress=False, logger=None)
    model = amodal.pretrain("limoe", data, tmp_path / "run", **quick)
    trunk = model.encoder.trunks["all"]
    layers = [module for module in trunk.modules() if isinstance(module, Experts)]
    layers[0].router.data = torch.randn(8, 64, generator=torch.Generator().manual_seed(0)) / 4
    batch = next(iter(Loader(data, np.arange(30), batch=30, shuffle=False)))
    logits = {}
    with torch.no_grad():
        model.encoder.encode(model.encoder.tokenize(batch), router_logits=logits)
    surest = [t.x.softmax(1).max(1).values for t in logits["all", 0].values()]
    layers[0].threshold[::2] = torch.cat(surest).median()
    found = model.diagnose(data, only=["experts"], progress=False)
    assert {row["diagnosis"] for row in found.rows} == {"routing", "experts"}
    values = {(r["source"], r["metric"]): r["value"] for r in found.rows}
    passed, chosen = {}, {}
    for field in "ab":
        for e in range(8):
            passed[field, e] = 0
        probabilities = logits["all", 0][field].x.softmax(1)
        for p in probabilities:
            e = int(p.argmax())
            passed[field, e] += bool(p[e] >= layers[0].threshold[e])
        chosen[field] = sum(passed[field, e] for e in range(8))
        assert values[field, "tokens"] == len(probabilities) and values[field, "experts"] == 8
        assert values[field, "reach"] == pytest.approx(chosen[field] / len(probabilities))
        least = max(1, 0.01 * chosen[field])
        assert values[field, "used"] == sum(passed[field, e] >= least for e in range(8))
        mean = probabilities.double().mean(0)
        assert values[field, "effective"] == pytest.approx(float((-mean * mean.log()).sum().exp()))
        assert values[field, "sure"] == pytest.approx(float(probabilities.max(1).values.mean()))
    assert 0 < sum(chosen.values()) < sum(len(logits["all", 0][f].x) for f in "ab")
    for e in range(8):
        expert = f"expert {e + 1}"
        mine = passed["a", e] + passed["b", e]
        assert values[expert, "share"] == pytest.approx(mine / sum(chosen.values()))
        if mine:
            assert values[expert, "from a"] == pytest.approx(passed["a", e] / mine)
        else:
            assert (expert, "from a") not in values
    # before training nothing is left out; both are in the whole diagnosis too
    reach = [r["untrained"] for r in found.rows if r["metric"] == "reach"]
    assert reach and set(reach) == {1.0}
    whole = model.diagnose(data, untrained=False, progress=False)
    assert {"routing", "experts", "spectrum"} <= {row["diagnosis"] for row in whole.rows}

    deep = amodal.pretrain(
        "limoe", data, tmp_path / "two", trunk="separate", **quick | {"size": "tiny"}
    )
    found = deep.diagnose(data, only=["experts"], untrained=False, progress=False)
    named = {row["source"] for row in found.rows if row["diagnosis"] == "routing"}
    assert named == {f"{f}, sparse block {n} of trunk {f}" for f in "ab" for n in (1, 2)}


def test_a_router_that_has_collapsed_stands_out(run):
    def entry(source, metric, value):
        numbers = {"source": source, "target": "", "metric": metric, "value": value}
        return {"diagnosis": "routing", "untrained": None} | numbers

    rows = [entry("words", "experts", 32.0), entry("words", "used", 4.0)]
    rows += [entry("image", "experts", 32.0), entry("image", "used", 5.0)]
    rows += [entry("words", "reach", 0.5), entry("image", "reach", 0.9)]
    assert Diagnosis("set", rows).sentence == (
        "tokens of words go to 4 of 32 experts; 50% of the tokens of words reach no expert"
    )
    with pytest.raises(AmodalError, match="no experts to look at.*--experts"):
        run[0].diagnose(run[1], only=["experts"], progress=False)
