"""A recipe: its fields, who sets them, and what they do in a run."""

import dataclasses
import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import amodal
from amodal import methods
from amodal.core import AmodalError, Column, Recipe, Tokens, field_of, view_of
from amodal.core.recipe import NAMES, renamed
from amodal.nn.drop_path import drop_paths
from amodal.train import optim, run_config
from amodal.train.collapse_monitor import CollapseMonitor
from amodal.train.loop import train
from amodal.train.pretrain import pretrain
from amodal.train.run_setup import resolve_recipe
from amodal.train.schedule import Plateau, factor, weight_decay
from amodal.train.settings import read_settings
from amodal.train.step import gradients
from tests.methods.bench import batch, exact, fields, method

QUICK = dict(size="nano", batch_size=16, seed=1, progress=False, logger=None)


def sha(run) -> str:
    return json.loads((run / "config.json").read_text(encoding="utf-8"))["weights_sha256"]


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("lr", -0.1, "lr must be 0 or more; it is -0.1"),
        ("lr", "high", "lr must be a number; it is 'high'"),
        ("optimizer", "adan", "no optimizer is called 'adan'. Did you mean"),
        ("schedule", "cosinus", "Did you mean cosine"),
        ("lr_scaling", "cubic/2", "lr_scaling must be none, linear/ROWS"),
        ("betas", (0.9,), "betas must be 2 numbers"),
        ("steps", 2.5, "steps must be a whole number; it is 2.5"),
        ("batch_size", -1, "batch_size must be a whole number above 0; it is -1"),
        ("fsdp", 1, "fsdp must be true or false; it is 1"),
        ("views", 3, "views must be field or modality"),
        ("stages", (0.5, 0.9), "stages must be shares of the steps that end with 1"),
        ("warmup", 1.5, "warmup must be a share of the steps"),
        ("ema", 1, "ema must be a number from 0 to below 1"),
    ],
)
def test_a_bad_value_names_field_value_and_what_is_expected(field, value, expected):
    with pytest.raises(AmodalError, match=expected):
        Recipe(**{field: value})


def test_a_misspelt_field_and_two_lengths_are_mistakes():
    with pytest.raises(AmodalError, match="Did you mean batch_size"):
        read_settings("clip", {"batchsize": 3})
    with pytest.raises(AmodalError, match="epochs or steps, not both"):
        Recipe(epochs=2, steps=3)
    with pytest.raises(AmodalError, match="batch_size is set twice"):
        renamed({"batch": 2, "batch_size": 3})
    with pytest.raises(AmodalError, match="must be an amodal.Recipe, not dict"):
        read_settings("clip", {"recipe": {"lr": 1.0}})


@pytest.mark.parametrize(
    ("usual", "meant"),
    [
        ("learning_rate", "lr"),
        ("num_epochs", "epochs"),
        ("wd", "weight_decay"),
        ("arch", "backbones"),
        ("gradient_accumulation_steps", "micro_batch_size"),
    ],
)
def test_what_other_tools_call_a_setting_is_understood(usual, meant):
    with pytest.raises(AmodalError, match=rf"called '{usual}'. Did you mean {meant}\?"):
        read_settings("clip", {usual: 1})
    if meant in NAMES:
        with pytest.raises(AmodalError, match=rf"Did you mean {meant}\?"):
            amodal.Embedder("clip").set_params(**{usual: 1})


def test_page_recipe_and_keywords_in_that_order(monkeypatch):
    assert read_settings("clip", {}).recipe == Recipe()
    page = methods.page("clip")
    monkeypatch.setattr(
        page, "RECIPE", Recipe(optimizer="lars", lr=0.3, epochs=800.0), raising=False
    )
    assert read_settings("clip", {"weight_decay": 0.1}).recipe == Recipe(
        optimizer="lars", lr=0.3, epochs=800.0, weight_decay=0.1
    )
    assert read_settings("clip", {"steps": 7}).recipe.epochs is None, (
        "one length takes back the other"
    )
    own = Recipe(lr=2.0)
    assert read_settings("clip", {"recipe": own, "lr": None, "ema": 0.9}).recipe == Recipe(
        lr=2.0, ema=0.9
    )
    with pytest.warns(DeprecationWarning, match="micro is called micro_batch_size now"):
        assert read_settings("clip", {"micro": 4}).recipe.micro_batch_size == 4


def test_what_is_left_open_follows_from_size_and_data():
    usual = resolve_recipe(Recipe(), records=1000, rows=64, pool=64, size="nano")
    assert (
        usual.steps == 50 * 15 and usual.lr == 2e-3 * (64 / 256) ** 0.5 and usual.batch_size == 64
    )
    linear = resolve_recipe(
        Recipe(lr=0.4, lr_scaling="linear/256", epochs=2.0), 1000, 64, 64, "nano"
    )
    assert linear.lr == pytest.approx(0.1) and linear.steps == 30 and linear.lr_scaling == "none"
    warm = resolve_recipe(
        Recipe(lr=0.4, lr_scaling="sqrt/256", warmup_epochs=3), 1000, 64, 64, "nano"
    )
    assert warm.lr == pytest.approx(0.2) and warm.warmup_steps == 45
    assert resolve_recipe(warm, 500, 64, 64, "nano").lr == warm.lr, (
        "what is resolved stays as it is"
    )


def test_schedules():
    step = Recipe(schedule="step", warmup_steps=2, milestones=(0.5, 0.75), decay_rate=0.5)
    assert [factor(step, s, 8) for s in range(8)] == [0.5, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    assert [factor(Recipe(schedule="constant", warmup=0.5), s, 4) for s in range(4)] == [
        0.5,
        1,
        1,
        1,
    ]
    linear = Recipe(schedule="linear", warmup_steps=2)
    assert [factor(linear, s, 6) for s in range(6)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    decay = Recipe(weight_decay=0.04, weight_decay_end=0.4)
    assert [weight_decay(decay, s, 3) for s in (1, 2, 3)] == pytest.approx([0.04, 0.22, 0.4])


class Loss:
    def __init__(self, loss):
        self.loss = loss


def test_a_plateau_drops_the_rate_and_goes_on_from_its_state():
    recipe, losses = (
        Recipe(schedule="plateau", patience=2, decay_rate=0.1),
        [3, 2, 2, 2, 1, 1.5, 1.5],
    )

    def run(plateau, some):
        factors = []
        for loss in some:
            plateau.update(Loss(float(loss)))
            plateau.end_interval()
            factors.append(plateau.factor)
        return factors

    straight = run(Plateau(recipe), losses)
    assert straight == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01])
    first = Plateau(recipe)
    run(first, losses[:3])
    second = Plateau(recipe)
    second.restore(json.loads(json.dumps(first.state())))
    assert run(second, losses[3:]) == straight[3:]


def test_layers_further_from_the_output_learn_slower():
    m = method("clip", sources=("words", "facts"))
    layers = optim.layers_above(m)
    trunk = {n: v for n, v in layers.items() if n.startswith("encoder.trunks.words.blocks")}
    assert {v for n, v in trunk.items() if ".blocks.1." in n} == {1}
    assert {v for n, v in trunk.items() if ".blocks.0." in n} == {2}
    assert {v for n, v in layers.items() if ".tokenizers." in n} == {3}
    groups = optim.parameter_groups(m, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    assert {g["lr_multiplier"] for g in groups} == {1.0, 0.5, 0.25, 0.125}


def test_parts_learn_at_rates_of_their_own():
    m = method("m3col", sources=("words", "facts"))
    factors = {"heads.alone.words.": 1, "heads.": 2, "encoder.tokenizers.words.": 0.5}
    recipe = Recipe(lr=1.0, lr_multipliers=factors)
    assert recipe.written()["lr_multipliers"] == factors
    assert Recipe.of(recipe.written()) == recipe
    optimizer = optim.make(recipe, m)
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {
        name: next((f for prefix, f in factors.items() if name.startswith(prefix)), 1.0)
        for name, p in m.named_parameters()
        if p.requires_grad
    }
    assert {n: rate[id(p)] for n, p in m.named_parameters() if p.requires_grad} == expected
    assert set(expected.values()) == {0.5, 1.0, 2.0}
    with pytest.raises(AmodalError, match="Did you mean heads."):
        optim.make(Recipe(lr=1.0, lr_multipliers={"head.": 2.0}), m)
    for wrong in ({"heads.": -1.0}, {"heads.": "fast"}, ["heads."]):
        with pytest.raises(AmodalError, match="lr_multipliers must be"):
            Recipe(lr_multipliers=wrong)


FIELDS = ("words", "facts")


@pytest.mark.parametrize("name", ["clip", "simclr", "dino"])
def test_drop_path_is_of_the_row_whatever_the_micro_batch(name):
    def made():
        return exact(method(name, sources=FIELDS))

    whole, pieces, plain = made(), made(), made()
    seen = exact(batch(whole.views, size=9, sources=FIELDS))
    one = gradients(whole, seen, drop_path=0.5)
    other = gradients(pieces, seen, micro=2, drop_path=0.5)
    without = gradients(plain, seen)
    for term in one:
        torch.testing.assert_close(one[term], other[term], rtol=1e-9, atol=1e-9)
    assert any(abs(float(one[term] - without[term])) > 1e-6 for term in one)
    for a, b in zip(whole.parameters(), pieces.parameters()):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("trunk", ["separate", "shared", "joint"])
def test_views_of_a_row_draw_for_themselves_side_by_side_as_alone(trunk):
    torch.manual_seed(0)
    encoder = exact(amodal.Encoder(fields(tuple(FIELDS)), size="nano", trunk=trunk))
    seen = exact(batch(("strong", "strong"), size=9, sources=FIELDS))
    views = {view: [s for s in seen.columns if view_of(s) == view] for view in (1, 2)}
    with drop_paths(0.5, seen.seeds):
        together = encoder(seen)
        for names in views.values():
            alone = encoder(replace(seen, columns={n: seen.columns[n] for n in names}))
            for name in names:
                torch.testing.assert_close(together[name].values, alone[name].values)
    field = field_of(views[1][0])
    twice = replace(seen, columns=dict(seen.columns) | {f"{field}:2": seen.columns[f"{field}:1"]})
    with drop_paths(0.5, seen.seeds):
        both = encoder(twice)
    assert not torch.allclose(both[f"{field}:1"].values, both[f"{field}:2"].values)


def test_drop_path_spares_a_teacher_and_refuses_rows_that_are_no_records():
    m = method("clip", sources=FIELDS).requires_grad_(False)
    seen = batch(("plain",), size=4, sources=FIELDS)
    expected = m.encoder(seen)
    with drop_paths(0.9, seen.seeds):
        assert torch.equal(m.encoder(seen)["words"].values, expected["words"].values)
        m.requires_grad_(True)
        assert not torch.equal(m.encoder(seen)["words"].values, expected["words"].values)
    tokens = Tokens.of(
        torch.zeros(2, 64),
        torch.arange(2),
        torch.ones(2, dtype=torch.int64),
        torch.zeros(2, 3),
        "words",
        2,
    )
    with drop_paths(0.9, seen.seeds), pytest.raises(AmodalError, match="one sequence a record"):
        m.encoder.trunks["words"](tokens)


@pytest.mark.parametrize("optimizer", ["sgd", "lars", "lamb", "lion", "muon", "adafactor"])
def test_each_optimizer_learns_and_resumes_bit_for_bit(optimizer, tmp_path):
    recipe = Recipe(
        optimizer=optimizer,
        lr=1e-2,
        weight_decay_end=0.2,
        layer_decay=0.8,
        schedule="plateau",
        patience=1,
        steps=6,
    )
    seen = [batch(("plain",), seed=i, sources=FIELDS) for i in range(6)]

    def run(folder, until=6, resume=False):
        folder.mkdir(exist_ok=True)
        m = method("clip", sources=FIELDS)

        def batches(first):
            if until < 6 and not resume:
                return iter([*seen[first:until], None])
            return iter(seen[first:])

        quiet = dict(
            monitor=CollapseMonitor([]),
            tensorboard=False,
            progress=False,
            save_every=1,
            log_every=2,
        )
        train(m, batches, recipe, folder, resume=resume, **quiet)
        return m

    before = method("clip", sources=FIELDS)
    straight = run(tmp_path / "straight")
    with pytest.raises(AttributeError):
        run(tmp_path / "broken", until=3)
    resumed = run(tmp_path / "broken", resume=True)
    for (name, a), b in zip(straight.state_dict().items(), resumed.state_dict().values()):
        assert torch.equal(a, b), name
    moved = [
        n
        for (n, a), b in zip(before.named_parameters(), straight.parameters())
        if not torch.equal(a, b)
    ]
    assert len(moved) > 20


def test_muon_turns_matrices_and_lars_adapts_them_alone():
    m = method("clip", sources=FIELDS)
    muon = optim.make(Recipe(optimizer="muon", lr=0.1, steps=1), m)
    turned = [p for g in muon.param_groups if not g["use_fallback"] for p in g["params"]]
    others = [p for g in muon.param_groups if g["use_fallback"] for p in g["params"]]
    tables = {id(x.weight) for x in m.modules() if isinstance(x, torch.nn.Embedding)}
    assert turned and all(p.dim() > 1 and min(p.shape) > 1 and id(p) not in tables for p in turned)
    assert tables <= {id(p) for p in others} and len(turned) + len(others) == len(
        list(m.parameters())
    )
    lars = optim.make(Recipe(optimizer="lars", lr=0.1, weight_decay=0.0, steps=1), m)
    for group in lars.param_groups:
        assert group["always_adapt"] == all(p.dim() > 1 for p in group["params"])


def test_a_run_says_its_recipe_and_its_file_runs_it_a_second_time(folder, tmp_path):
    settings = {"ema": 0.9, "warmup_steps": 2, "clip": 0.5, "options": {"temperature": 0.2}}
    first = pretrain("clip", folder, tmp_path / "first", epochs=1, **settings, **QUICK)
    config = json.loads((first / "config.json").read_text(encoding="utf-8"))
    assert (
        config["recipe"]["ema"] == 0.9 and config["recipe"]["steps"] == config["schedule"]["steps"]
    )
    found = run_config.read(first / "config.toml")
    assert found["method"] == "clip" and Path(found["data"]) == Path(folder).resolve()
    second = pretrain(
        found.pop("method"), found.pop("data"), tmp_path / "again", progress=False, **found
    )
    assert sha(second) == sha(first)
    recipe = tomllib.loads((first / "config.toml").read_text(encoding="utf-8"))["recipe"]
    assert Recipe.of(recipe).steps == config["schedule"]["steps"]
    with pytest.raises(AmodalError, match="another recipe"):
        pretrain("clip", folder, first, epochs=1, resume=True, **settings | {"clip": 0.4}, **QUICK)


def test_views_resolution_and_stages_of_a_recipe(folder, tmp_path):
    run = pretrain(
        "simclr",
        folder,
        tmp_path / "run",
        steps=2,
        views={"image": ("weak", "strong")},
        resolution=16,
        **QUICK,
    )
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    encoder = json.loads((run / "spec.json").read_text(encoding="utf-8"))["encoder"]
    assert encoder["args"]["fields"]["image"]["size"] == 16
    assert config["recipe"]["views"] == {"image": ["weak", "strong"]}
    mistakes = [
        ({"views": {"image": ("weak",)}}, "views of image must be 2"),
        ({"views": {"imgae": ("weak", "weak")}}, "Did you mean image"),
        ({"stages": (0.5, 1.0)}, "stages has 2 shares, and this method learns in 1"),
    ]
    for settings, words in mistakes:
        with pytest.raises(AmodalError, match=words):
            pretrain("simclr", folder, tmp_path / "other", steps=2, **settings, **QUICK)
    with pytest.raises(AmodalError, match="no field of .* has pixels"):
        pretrain(
            "simclr", folder, tmp_path / "text", fields=["text"], steps=2, resolution=8, **QUICK
        )


def test_every_field_is_written_and_read():
    whole = Recipe(
        **{
            "views": {"image": ("weak",)},
            "lr_multipliers": {"heads.": 2.0},
            "stages": (0.5, 1.0),
            "lr": 1.0,
            "steps": 3,
            "warmup_steps": 1,
        },
        **{"weight_decay_end": 0.1, "resolution": 8, "batch_size": 4, "micro_batch_size": 2},
        decay=0.3,
    )
    assert set(whole.written()) == set(NAMES) - {"epochs", "warmup_epochs"}
    assert Recipe.of(json.loads(json.dumps(whole.written()))) == whole
    assert dataclasses.replace(whole) == whole and isinstance(amodal.Recipe(), Recipe) and Column
