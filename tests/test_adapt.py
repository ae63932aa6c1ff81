"""From a run to one that tells labels, as a user goes about it."""

import json

import numpy as np
import pytest
import torch

import amodal
from amodal import data
from amodal.adapt import adapt, few_shot
from amodal.core import AmodalError


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapt")
    digits = data.open("digits")
    quick = {"size": "nano", "steps": 2, "batch_size": 32, "progress": False}
    amodal.pretrain("clip", digits, folder / "run", recipe="plain", **quick)
    amodal.pretrain("clip", digits, folder / "networks", **quick)
    return digits, folder


def run(start, name, **settings):
    digits, folder = start
    settings = {"steps": 3, "batch": 32, "progress": False} | settings
    adapt(folder / "run", digits, folder / name, label=label_of(digits), **settings)
    return amodal.load(folder / name)


def label_of(digits):
    return next(iter(digits.labels))


@pytest.mark.parametrize("tuning", ["full", "head", "bias", "lora", "adapters", "prompts"])
def test_each_tuning_gives_a_run_that_predicts_labels(start, tuning):
    digits, folder = start
    model, before = run(start, tuning, tuning=tuning), amodal.load(folder / "run")
    table = model.predict(digits, part="test")
    probabilities = [c for c in table.column_names if c.startswith(f"{label_of(digits)}=")]
    assert len(table) == len(digits.split("test")) and len(probabilities) == 10
    total = sum(np.array(table[c]) for c in probabilities)
    assert np.allclose(total, 1, atol=1e-5)
    old, new = before.encoder.state_dict(), model.encoder.state_dict()
    added = {n for n in new if n not in old}
    assert all(n.startswith("block_hook.") for n in added) and bool(added) == (
        tuning in ("adapters", "prompts")
    )
    changed = {n for n in old if not torch.equal(old[n], new[n])}
    assert not any(n.startswith("heads.") for n in changed)
    expected = {
        "full": lambda n: not n.startswith("heads."),
        "head": lambda n: False,
        "bias": lambda n: n.rpartition(".")[2].startswith("bias"),
        "lora": lambda n: n.startswith("trunks.") and n.endswith("weight"),
    }.get(tuning, lambda n: False)
    assert all(map(expected, changed)) and bool(changed) == (tuning in ("full", "bias", "lora"))


@pytest.mark.parametrize("tuning", ["full", "head", "bias", "lora"])
def test_networks_from_scratch_are_tuned_as_transformers_are(start, tuning):
    digits, folder = start
    name, settings = f"networks {tuning}", {"steps": 3, "batch_size": 32, "progress": False}
    adapt(
        folder / "networks",
        digits,
        folder / name,
        tuning=tuning,
        label=label_of(digits),
        **settings,
    )
    old, new = (amodal.load(folder / n).encoder.state_dict() for n in ("networks", name))
    changed = {n for n in old if not torch.equal(old[n], new[n])}
    expected = {
        "full": lambda n: n.startswith(("tokenizers.", "field_token.", "pools.")),
        "head": lambda n: False,
        "bias": lambda n: n.endswith(".bias"),
        "lora": lambda n: ".body." in n and n.endswith("weight"),
    }[tuning]
    assert all(map(expected, changed)) and bool(changed) == (tuning != "head"), changed


def test_tuning_between_blocks_says_how_to_get_blocks(start):
    digits, folder = start
    with pytest.raises(AmodalError, match="--backbone FIELD=tokens"):
        adapt(folder / "networks", digits, folder / "no", label=label_of(digits), tuning="prompts")


def test_shots_are_so_many_records_of_each_class_and_others_for_another_seed(start):
    digits, folder = start
    run(start, "few", tuning="head", shots=2)
    config = json.loads((folder / "few" / "config.json").read_text(encoding="utf-8"))
    assert config["data"]["train"] == 20 and config["schedule"]["adapt"] == {
        "shots": 2,
        "base_to_new": False,
    }
    first, second = (
        few_shot(label_of(digits), 2, seed)(digits, digits.split("train")) for seed in (0, 1)
    )
    assert len(first) == 20 and set(first) != set(second)
    values, counts = np.unique(
        digits.label(label_of(digits))[first].astype(str), return_counts=True
    )
    assert len(values) == 10 and (counts == 2).all()
    trained = [set(np.load(folder / name / "trained.npy")) for name in ("run", "few")]
    assert trained[0] <= trained[1]  # what the encoder has seen before is not tested on either


def test_going_on_with_other_records_is_refused(start):
    run(start, "other", tuning="head", shots=2, batch=16)
    with pytest.raises(AmodalError, match="another schedule"):
        run(start, "other", tuning="head", shots=3, batch=16, resume=True)


def test_a_run_that_has_adapters_gets_no_others_in_their_place(start):
    digits, folder = start
    run(start, "adapters first", tuning="adapters")
    for tuning in ("adapters", "prompts", "mma_dfer"):
        with pytest.raises(AmodalError, match="begin with the run that it was adapted from"):
            adapt(
                folder / "adapters first",
                digits,
                folder / "no",
                label=label_of(digits),
                tuning=tuning,
                steps=2,
            )


def test_mistakes_are_reported(start):
    digits, folder = start
    label = label_of(digits)
    with pytest.raises(AmodalError, match="lora"):
        adapt(folder / "run", digits, folder / "no", label=label, tuning="lorra")
    with pytest.raises(AmodalError, match="learns from no label"):
        adapt(folder / "run", digits, folder / "no", label=label, tuning="clip")
    with pytest.raises(AmodalError, match="at least one record"):
        adapt(folder / "run", digits, folder / "no", label=label, shots=0)
    with pytest.raises(AmodalError, match="amodal adapt"):
        amodal.load(folder / "run").predict(digits)
    with pytest.raises(AmodalError, match=label):
        adapt(folder / "run", digits, folder / "no", label=label[:-1], tuning="head")
    for wrong, words in (
        ({"tuning": "capsule_attn"}, "predicts none"),
        ({"tuning": "mma_dfer", "task": "survival"}, "takes no task"),
        ({"tuning": "head", "size": "tiny"}, "setting of adapt"),
        ({"tuning": "head", "average": 0.9}, "leave ema out"),
        ({"tuning": "head", "shots": 2, "label": f"{label},{label}"}, "names more than one"),
    ):
        with pytest.raises(AmodalError, match=words):
            adapt(
                folder / "run",
                digits,
                folder / "no",
                **({"label": label, "steps": 2, "progress": False} | wrong),
            )


def test_the_old_name_of_tuning_still_works(start):
    digits, folder = start
    arguments = {"label": label_of(digits), "steps": 2, "progress": False}
    with (
        pytest.warns(DeprecationWarning, match="how is called tuning now"),
        pytest.raises(AmodalError, match="Did you mean lora"),
    ):
        adapt(folder / "run", digits, folder / "no", how="lorra", **arguments)
    with pytest.raises(AmodalError, match="tuning is set twice"):
        adapt(folder / "run", digits, folder / "no", how="head", tuning="head", **arguments)


def test_a_damaged_head_is_not_used(start):
    run(start, "damaged", tuning="head")
    weights = start[1] / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(AmodalError, match="model.safetensors is damaged"):
        amodal.load(start[1] / "damaged")


def test_a_head_is_saved_and_loaded(start, tmp_path):
    model = run(start, "kept", tuning="head")
    model.save(tmp_path / "copy")
    loaded = amodal.load(tmp_path / "copy")
    assert loaded.predict(start[0], part="test").equals(model.predict(start[0], part="test"))


def test_base_classes_alone_are_learnt_and_both_halves_are_predicted_by_name(tmp_path):
    rng = np.random.default_rng(0)
    kinds = ["boat", "car", "plane", "train"]
    names = [kinds[i % 4] for i in range(120)]
    series = [rng.normal(kinds.index(n), 0.1, (8, 2)).astype(np.float32) for n in names]
    toys = data.open(
        {"signal": series, "words": [f"a {n} of {i}" for i, n in enumerate(names)], "kind": names}
    )
    quick = {"size": "nano", "steps": 2, "batch_size": 32, "progress": False}
    amodal.pretrain("clip", toys, tmp_path / "run", recipe="plain", **quick)
    adapt(
        tmp_path / "run",
        toys,
        tmp_path / "base",
        label="kind",
        base_to_new=True,
        tuning="mmrl",
        shots=5,
        steps=2,
        progress=False,
    )
    config = json.loads((tmp_path / "base" / "config.json").read_text(encoding="utf-8"))
    assert (
        config["options"]["targets"][0]["classes"] == ["boat", "car"]
        and config["data"]["train"] == 10
    )
    report = amodal.load(tmp_path / "base").evaluate(toys, protocols=["base_to_new"], label="kind")
    found = {row["target"]: row for row in report["base_to_new"].rows if row["source"] == "signal"}
    base, new = found["base"]["value"], found["new"]["value"]
    assert found["harmonic mean"]["value"] == pytest.approx(
        2 * base * new / (base + new) if base + new else 0
    )
    assert found["base"]["n"] + found["new"]["n"] == found["harmonic mean"]["n"]


TELLERS = [
    "m3col",
    "missing_joint_embedding",
    "mma_dfer",
    "mhsa_dms",
    "multimodn",
    "mm_guidance",
    "biofusionnet",
]


@pytest.mark.parametrize("method", TELLERS)
def test_a_method_that_predicts_by_more_than_a_head_is_saved_whole(start, tmp_path, method):
    digits, label = start[0].select(["fou", "zer"]), label_of(start[0])
    options = {"label": label} | ({"task": "auto"} if method == "biofusionnet" else {})
    how = {"size": "nano", "steps": 2, "batch": 32, "progress": False}
    model = amodal.pretrain(method, digits, tmp_path / "run", options=options, **how)
    table = model.predict(digits, part="test")
    total = sum(np.array(table[f"{label}={c}"]) for c in "0123456789")
    assert len(table) == len(digits.split("test")) and np.allclose(total, 1, atol=1e-5)
    report = model.evaluate(digits, protocols=["head"], label=label, untrained=False)
    assert report["head"].value("fused", "accuracy", target=label) >= 0
    model.save(tmp_path / "copy")
    assert amodal.load(tmp_path / "copy").predict(digits, part="test").equals(table)


def test_data_that_lacks_a_whole_field_is_predicted_by_the_rest(start, tmp_path):
    both, label = start[0].select(["fou", "zer"]), label_of(start[0])
    how = {"size": "nano", "steps": 2, "batch": 32, "progress": False}
    options = {"label": label, "deploy": "fou"}
    guided = amodal.pretrain("mm_guidance", both, tmp_path / "guided", options=options, **how)
    headed = run(start, "two", tuning="head")
    lone = data.open(
        {"fou": [both.raw(i, "fou") for i in range(60)]}, fields={"fou": both.fields["fou"]}
    )
    for model in (guided, headed):
        with pytest.warns(UserWarning, match="has no"):
            table = model.predict(lone)
        assert len(table) == 60 and table[label].null_count == 0
    np.testing.assert_allclose(
        np.array(guided.predict(both.subset(range(60)))[f"{label}=3"]),
        np.array(guided.predict(lone)[f"{label}=3"]),
        atol=1e-5,
    )
    other = data.open({"name": [f"w {i}" for i in range(20)]})
    with pytest.raises(AmodalError):
        guided.predict(other)
