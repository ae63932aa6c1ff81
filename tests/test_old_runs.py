"""Runs of revision 263cbe3 (scripts/store_old_runs.py) load, and embed, predict and find what they
did then."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import amodal
from amodal.core import AmodalError
from amodal.nn import config as encoder_config
from amodal.nn.old_runs import old_name
from tests.methods.bench import batch
from tests.old_runs.records import pictures

STORED = Path(__file__).parent / "old_runs"
RUNS = ("encoder", "head", "lora", "generative", "whole", "ensemble", "backbone")
ENCODERS = json.loads((STORED / "encoders.json").read_text(encoding="utf-8"))
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # processors sum in orders of their own: up to 3e-6 was seen


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("records") / "pictures")


@pytest.fixture
def run(request, tmp_path):
    """A copy, so that nothing can write into the stored one."""
    return Path(shutil.copytree(STORED / request.param, tmp_path / request.param))


each_run = pytest.mark.parametrize("run", RUNS, indirect=True)


@each_run
def test_embeds_what_it_did(run, folder):
    embedded = amodal.load(run).embed(folder)
    now = {f"features/{s}": embedded.features[s].values for s in embedded.features}
    now |= {f"aligned/{s}": embedded.aligned[s].values for s in embedded.aligned}
    then = load_file(run / "outputs.safetensors")
    assert now.keys() == then.keys()
    for name, value in then.items():
        torch.testing.assert_close(now[name], value, **CLOSE)


@pytest.mark.parametrize("run", ["head", "lora", "whole"], indirect=True)
def test_predicts_what_it_did(run, folder):
    then = json.loads((run / "outputs.json").read_text(encoding="utf-8"))["predict"]
    now = amodal.load(run).predict(folder).to_pydict()
    assert now.keys() == then.keys()
    for name, values in then.items():
        if isinstance(values[0], float):
            assert now[name] == pytest.approx(values, abs=1e-6), name
        else:
            assert now[name] == values, name


@pytest.mark.parametrize("run", ["head", "lora", "whole"], indirect=True)
def test_is_written_anew_as_a_whole_method_that_predicts_the_same(run, folder, tmp_path):
    old = amodal.load(run)
    new = amodal.load(old.save(tmp_path / "new"))
    assert not (tmp_path / "new/head.safetensors").exists()
    assert new.spec["format"] == 2 and new.spec["method"] == old.config["method"]
    assert new.predict(folder).equals(old.predict(folder))
    before, after = old.embed(folder), new.embed(folder)
    for name in before.features:
        assert torch.equal(before.features[name].values, after.features[name].values)
    assert amodal.load(new.save(tmp_path / "newer")).predict(folder).equals(old.predict(folder))


@pytest.mark.parametrize("run", ["head"], indirect=True)
def test_a_head_beside_an_unknown_method_is_written_as_finetune(run, folder, tmp_path):
    """Methods that had other weights too, which runs of format 1 did not keep."""
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    (run / "config.json").write_text(json.dumps(config | {"method": "cta_ttt"}), encoding="utf-8")
    old = amodal.load(run)
    new = amodal.load(old.save(tmp_path / "new"))
    assert new.spec["method"] == "finetune"
    assert new.predict(folder).equals(old.predict(folder))


@pytest.mark.parametrize("run", ["head"], indirect=True)
def test_saving_an_old_run_runs_no_code_that_its_config_names(run, tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('it was imported')", encoding="utf-8")
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    evil = {"method": f"{tmp_path}/evil.py:method"}
    (run / "config.json").write_text(json.dumps(config | evil), encoding="utf-8")
    amodal.load(run).save(tmp_path / "new")
    assert amodal.load(tmp_path / "new").spec["method"] == "finetune"


@pytest.mark.parametrize("run", ["whole"], indirect=True)
def test_a_method_that_is_code_is_not_run_from_an_old_config(run, tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit('it was imported')", encoding="utf-8")
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    evil = {"method": f"{tmp_path}/evil.py:method"}
    (run / "config.json").write_text(json.dumps(config | evil), encoding="utf-8")
    with pytest.raises(AmodalError, match="names its method"):
        amodal.load(run)


@pytest.mark.parametrize(
    ("run", "verb"), [("generative", "generate"), ("encoder", "search")], indirect=["run"]
)
def test_finds_what_it_did(run, verb):
    then = json.loads((run / "outputs.json").read_text(encoding="utf-8"))[verb]
    hits = getattr(amodal.load(run), verb)(text="a red picture", k=5)
    assert [h.key for h in hits] == [key for key, *_ in then]
    assert [h.score for h in hits] == pytest.approx([score for _, score, _ in then], abs=1e-6)
    assert [h.part if verb == "generate" else h.source for h in hits] == [
        source for *_, source in then
    ]


@torch.no_grad()
def by_name(name: str, shape: list[int]) -> torch.Tensor:
    """The weights that scripts/store_old_runs.py drew for a tensor of this name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big")
    value = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.1
    return value.abs() if name.endswith("running_var") else value


@pytest.mark.parametrize("name", ENCODERS)
def test_the_encoder_of_every_method_is_built_from_its_old_description(name):
    old = ENCODERS[name]
    encoder = encoder_config.build(old["encoder"]).eval()
    then_called = {old_name(encoder, n): v for n, v in encoder.state_dict().items()}
    assert {n: list(v.shape) for n, v in then_called.items()} == old["shapes"]
    for n, value in then_called.items():
        if value.is_floating_point():
            value.copy_(by_name(n, old["shapes"][n]))
    with torch.no_grad():
        now = encoder(batch(("plain",), seed=5))
    then = load_file(STORED / "encoders.safetensors")
    assert {f"{name}/{s}" for s in now} == {n for n in then if n.startswith(f"{name}/")}
    for source in now:
        torch.testing.assert_close(now[source].values, then[f"{name}/{source}"], **CLOSE)


@pytest.mark.parametrize("run", ["encoder"], indirect=True)
def test_an_unfinished_run_is_refused_with_a_sentence(run):
    (run / "model.safetensors").unlink()
    with pytest.raises(AmodalError, match="has not been finished.*--resume"):
        amodal.load(run)
