"""Networks that fields get on small data: when, when not, and that a run keeps what it got."""

import shutil
import tomllib

import numpy as np
import pytest
import torch

import amodal
from amodal.core import AmodalError, Recipe
from amodal.methods import recipes
from amodal.modalities import make
from amodal.nn.backbones.pretrained import TOKENS
from amodal.studies import Candidate, Job, Setup
from amodal.train import run_config
from amodal.train.pretrain import pretrain
from amodal.train.run_setup import with_resolution
from amodal.train.settings import read_settings
from amodal.train.small_networks import with_small_networks

QUICK = {"steps": 2, "size": "nano", "batch_size": 8, "progress": False, "logger": None}
NETWORKS = {"image": "convnet:width=8,stages=2,norm=group", "table": "mlp:width=8,norm=layer"}


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    """A file of encoders, as the script writes it."""
    path = tmp_path / "small.toml"
    path.write_text(
        "[clip.encoders]\n" + "".join(f'{kind} = "{spec}"\n' for kind, spec in NETWORKS.items()),
        encoding="utf-8",
    )
    content = recipes.small_recipes(path)
    monkeypatch.setattr(recipes, "small_recipes", lambda: content)


def records(side=12):
    rng = np.random.default_rng(0)
    return {
        "photo": [rng.integers(0, 255, (side, side, 3), dtype=np.uint8) for _ in range(40)],
        "facts": [{"a": float(x), "b": float(x * x)} for x in rng.normal(size=40)],
        "text": [f"number {i}" for i in range(40)],
    }


@pytest.fixture(scope="module")
def data():
    return amodal.open(records())


def networks(run):
    tokenizers = amodal.load(run).encoder.tokenizers
    return {f: t.name for f, t in tokenizers.items() if hasattr(t, "body")}


def added(data, method="clip", rows=100, **settings):
    return with_small_networks(method, read_settings(method, settings), data, rows)[1]


def test_fields_of_measured_kinds_get_a_network(data):
    assert added(data) == {"photo": NETWORKS["image"], "facts": NETWORKS["table"]}
    assert added(data, recipe=Recipe(lr=1e-3)) == added(data), "a recipe says nothing of networks"


@pytest.mark.parametrize(
    "why",
    [
        dict(method="siglip"),
        dict(rows=recipes.SMALL),
        dict(recipe="plain"),
        dict(size="base"),
        dict(pool="cls"),
        dict(cache_features="mean"),
    ],
    ids=str,
)
def test_where_nothing_was_measured_or_something_else_is_asked_for_there_is_none(data, why):
    assert added(data, **why) == {}


def test_what_is_set_for_a_field_stays(data):
    got = added(data, backbones={"photo": TOKENS, "facts": "mlp"})
    assert got == {}
    settings = read_settings("clip", {"backbones": {"photo": TOKENS}})
    settings, got = with_small_networks("clip", settings, data, 100)
    assert got == {"facts": NETWORKS["table"]}
    assert settings.backbones == {"photo": TOKENS, "facts": NETWORKS["table"]}


def test_tokens_of_a_field_that_is_not_there_are_a_mistake(data):
    with pytest.raises(AmodalError, match="Did you mean photo"):
        added(data, backbones={"photos": TOKENS})


def test_pictures_that_are_large_or_of_any_aspect_have_none():
    assert "photo" not in added(amodal.open(records(80)))
    assert not make("image", size=32, fit="native").suits_small_networks
    assert make("image", size=64).suits_small_networks


def test_a_run_says_what_it_got_and_keeps_it(data, tmp_path, monkeypatch, capsys):
    run = pretrain("clip", data, tmp_path / "a", **QUICK | {"progress": True})
    said = " ".join(capsys.readouterr().err.split())
    assert "photo: convnet" in said
    assert "--backbone photo=tokens for a transformer" in said
    assert networks(run) == {"photo": NETWORKS["image"], "facts": NETWORKS["table"]}
    written = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    assert written["backbones"] == networks(run)
    tokens = pretrain("clip", data, tmp_path / "b", backbones={"photo": TOKENS}, **QUICK)
    assert networks(tokens) == {"facts": NETWORKS["table"]}
    # a run goes on with its networks by its config, whatever is chosen by then
    monkeypatch.setattr(recipes, "small_recipes", dict)
    settings = run_config.read(run / "config.toml")
    other = pretrain(settings.pop("method"), data, tmp_path / "c", **settings)
    assert networks(other) == networks(run)


def test_a_run_that_starts_from_another_has_its_networks(data, tmp_path):
    first = pretrain("clip", data, tmp_path / "a", **QUICK)
    other = pretrain("siglip", data, tmp_path / "b", init_from=first, **QUICK)
    assert networks(other) == networks(first)
    plain = pretrain("clip", data, tmp_path / "c", recipe="plain", **QUICK)
    other = pretrain("clip", data, tmp_path / "d", init_from=plain, **QUICK)
    assert networks(other) == {}, "what it learnt is of tokens"


@pytest.mark.parametrize("begun, resumed", [("today", "before"), ("before", "today")])
@pytest.mark.parametrize("has_toml", [True, False])
def test_an_interrupted_run_goes_on_with_what_it_has(
    data, tmp_path, monkeypatch, capsys, begun, resumed, has_toml
):
    chosen = {"today": recipes.small_recipes(), "before": {}}
    settings = QUICK | {"save_every": 1, "backbones": {"facts": TOKENS}}
    monkeypatch.setattr(recipes, "small_recipes", lambda: chosen[begun])
    folder = pretrain("clip", data, tmp_path / "a", **settings)
    before = amodal.load(folder).embed(data).features["photo"].values
    (folder / "model.safetensors").unlink()
    shutil.rmtree(folder / "checkpoints/step-00000002")
    if not has_toml:  # as of a run whose settings no command line can say
        (folder / "config.toml").unlink()
    monkeypatch.setattr(recipes, "small_recipes", lambda: chosen[resumed])
    settings |= {"backbones": None, "resume": True, "progress": True}
    pretrain("clip", data, folder, **settings)
    after = amodal.load(folder).embed(data).features["photo"].values
    assert networks(folder).keys() == ({"photo"} if begun == "today" else set())
    assert torch.equal(before, after) and "did best" not in capsys.readouterr().err
    written = tomllib.loads((folder / "config.toml").read_text(encoding="utf-8"))["backbones"]
    assert written["facts"] == TOKENS, "what was asked for at first is not lost"


def test_a_config_is_the_run_that_wrote_it(data, tmp_path, monkeypatch):
    """Also of a run that started with tokens from one that has networks."""
    first = pretrain("clip", data, tmp_path / "a", **QUICK)
    monkeypatch.setattr(recipes, "small_recipes", dict)
    tokens = dict.fromkeys(("photo", "facts"), TOKENS)
    for backbones in (tokens, None):
        run = pretrain("clip", data, tmp_path / "b", init_from=first, backbones=backbones, **QUICK)
        settings = run_config.read(run / "config.toml")
        other = pretrain(settings.pop("method"), data, tmp_path / "c", **settings)
        a, b = (amodal.load(r).embed(data).features["photo"].values for r in (run, other))
        assert networks(run) == networks(other) and torch.equal(a, b)
        assert bool(networks(run)) == (backbones is None)
        for folder in (run, other):
            shutil.rmtree(folder)


def test_the_resolution_that_is_read_decides():
    large = amodal.open(records(80))
    small = with_resolution(large, 32, {})
    assert "photo" in added(small) and "photo" not in added(large)


def test_a_method_without_backbones_says_how_to_start_from_networks(data, tmp_path):
    first = pretrain("clip", data, tmp_path / "a", **QUICK)
    with pytest.raises(AmodalError, match="FIELD=tokens, if it is of the run of --init-from"):
        pretrain("mae", data, tmp_path / "b", init_from=first, **QUICK)


@pytest.mark.parametrize("spec", ["token", "tokens:2"])
def test_misspelt_tokens_are_a_sentence(data, tmp_path, spec):
    with pytest.raises(AmodalError, match="Did you mean tokens|without options"):
        pretrain("clip", data, tmp_path / "a", backbones={"photo": spec}, **QUICK)


def test_studies_say_whether_candidates_have_them(data):
    job = Job(Candidate("clip"), "", 0, 0, 1)
    usual = Setup(data, (), label_free=True, small_recipes=True).run_settings(job)["backbones"]
    assert usual is None, "`pretrain` decides"
    pinned = Setup(data, (), label_free=True).run_settings(job)["backbones"]
    assert pinned == dict.fromkeys(data.fields, TOKENS)
