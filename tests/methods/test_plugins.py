"""Methods and backbones of installed plug-ins: by name in every verb, and named where they lack."""

import json
import sys
import warnings

import numpy as np
import pytest

import amodal
from amodal import catalog, cli, methods
from amodal.core import AmodalError, registry
from amodal.nn.backbones.plugin import PluginBackbone
from tests.core.plugin_folder import write

METHOD = """
from amodal.methods.contract import Method
from amodal.methods.contrastive.clip import clip

def mine(encoder, *, width: int = 8) -> Method:
    "Args:\\n    width: Of the space."
    return clip(encoder, width=width)

def wrong(encoder, width): ...
"""
BACKBONE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.map = nn.Linear(3, width)
    def forward(self, padded, lengths):
        return self.map(padded)

def net(modality, which="16"):
    return Net(int(which)) if which.isdigit() else which
"""
WAVES = """
from dataclasses import dataclass
from amodal.modalities.series import Series

@dataclass(frozen=True)
class Waves(Series):
    suffixes = frozenset({".npy"})
    magic = ()
"""
BROUGHT = {
    "methods": ({"mine": "mine"}, METHOD, "mine", ()),
    "modalities": ({"waves": "Waves"}, WAVES, "clip", ()),
    "backbones": ({"net": "net"}, BACKBONE, "clip", ("--backbone", "curve=net:8")),
}
"""Kind of plug-in -> its entry points and source, and a run that needs it."""
QUICK = {"size": "nano", "steps": 2, "batch_size": 8, "progress": False, "device": "cpu"}


@pytest.fixture
def install(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def forget():
        registry.installed.cache_clear()
        catalog.pages.cache_clear()

    def one(kind, entries, source, name="odd-plugin"):
        write(folder, name, entries, source, kind)
        forget()

    def remove():
        monkeypatch.undo()
        forget()
        for file in folder.glob("*.py"):
            sys.modules.pop(file.stem, None)

    one.remove = remove
    yield one
    remove()


@pytest.fixture(scope="module")
def records():
    rng = np.random.default_rng(0)
    columns = {
        "text": [f"number {i}" for i in range(24)],
        "curve": [rng.normal(size=(9, 3)).astype(np.float32) for _ in range(24)],
    }
    return amodal.open(columns, fields={"text": "text", "curve": "series"})


def test_a_run_of_a_plugins_method_opens_where_it_is_installed(install, records, tmp_path):
    install("methods", {"mine": "mine"}, METHOD)
    run = tmp_path / "run"
    model = amodal.pretrain("mine", records, run, options={"width": 6}, **QUICK)
    assert json.loads((run / "spec.json").read_text(encoding="utf-8"))["plugin"] == "odd-plugin 1.0"
    assert amodal.load(run).encoder.heads_width == 6 and model.method is not None
    assert "mine" in catalog.pages() and catalog.pages()["mine"].options[0][0] == "width"
    install.remove()
    with pytest.raises(AmodalError, match="mine of the plug-in odd-plugin 1.0.*install odd-plugin"):
        amodal.load(run)


def test_names_and_signatures_of_plugins(install):
    install("methods", {"mine": "mine", "wrong": "wrong"}, METHOD)
    with pytest.raises(AmodalError, match="Did you mean mine"):
        methods.function("mien")
    with pytest.raises(AmodalError, match="wrong.*takes 'width' by position"):
        methods.function("wrong")
    assert methods.function("mine").__name__ == "mine" and not methods.is_user_code("mine")
    install("methods", {"mine": "mine"}, METHOD, "other-plugin")
    with pytest.raises(AmodalError, match="(odd.*other|other.*odd)-plugin 1.0"):
        methods.function("mine")


def test_a_run_with_a_plugins_backbone(install, records, tmp_path):
    install("backbones", {"net": "net"}, BACKBONE)
    run = tmp_path / "run"
    amodal.pretrain(
        "clip", records, run, backbones={"curve": "net:32"}, train_backbones=True, **QUICK
    )
    model = amodal.load(run)
    assert model.encoder.tokenizers["curve"].module.map.weight.shape == (32, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fresh = model.untrained().encoder.tokenizers["curve"].module.map.weight
    assert not (fresh == model.encoder.tokenizers["curve"].module.map.weight).all()
    with pytest.raises(AmodalError, match="must give a torch module"):
        amodal.pretrain("clip", records, tmp_path / "b", backbones={"curve": "net:x"}, **QUICK)
    with pytest.raises(AmodalError, match="Did you mean net"):
        amodal.pretrain("clip", records, tmp_path / "b", backbones={"curve": "nte"}, **QUICK)
    field = records.fields["curve"]
    install("backbones", {"net": "net"}, BACKBONE, "other-plugin")
    with pytest.raises(AmodalError, match="two of amodal.backbones are called 'net'"):
        amodal.load(run)
    install.remove()
    with pytest.raises(
        AmodalError, match="backbone net of the plug-in odd-plugin 1.0.*install odd-plugin"
    ):
        amodal.load(run)
    with pytest.raises(AmodalError, match="entry points .amodal.backbones. have 'net'"):
        PluginBackbone("net:32", field, 8)


def curves(folder, modality):
    """24 records of a text and a curve, whose modality dataset.toml names."""
    rng = np.random.default_rng(0)
    for i in range(24):
        file = folder / "ab"[i % 2] / f"{i:02}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"number {i}", encoding="utf-8")
        np.save(file.with_suffix(".npy"), rng.normal(size=(9, 3)).astype(np.float32))
    amodal.init(folder)
    toml = folder / "dataset.toml"
    toml.write_text(
        toml.read_text(encoding="utf-8").replace('"series"', f'"{modality}"'), encoding="utf-8"
    )
    return next(name for name in amodal.open(folder).fields if name != "text")


VERBS = {
    "evaluate": "evaluate {run} --data {data}",
    "embed": "embed {run} --data {data} --out {out}.parquet",
    "index": "index {run} --data {data}",
    "search": "search {run} --text number",
    "view": "view {run}",
    "serve": "serve {run}",
    "export": "export {run} --to safetensors",
    "predict": "predict {run} --data {data} --out {out}.csv",
    "adapt": "adapt {run} --data {data} --label folder --out {out}",
    "init_from": "pretrain clip --data {data} --init-from {run} --out {out}",
    "resume": "pretrain {method} --data {data} --out {run} --resume",
    "config": "pretrain --config {run}/config.toml --out {out}",
}


@pytest.mark.parametrize("kind", BROUGHT)
def test_every_verb_names_the_distribution_of_a_plugin_that_is_gone(
    install, tmp_path, capsys, kind
):
    entries, source, method, options = BROUGHT[kind]
    install(kind, entries, source)
    data, run, (name,) = tmp_path / "data", tmp_path / "run", entries
    field = curves(data, "waves" if kind == "modalities" else "series")
    options = [word.replace("curve=", f"{field}=") for word in options]
    short = ["--size", "nano", "--steps", "2", "--batch-size", "8", "--device", "cpu"]
    cli.main(["pretrain", method, "--data", str(data), "--out", str(run), *short, *options])
    spec = json.loads((run / "spec.json").read_text(encoding="utf-8"))
    assert spec["plugins"] == {kind: {name: "odd-plugin 1.0"}}
    model = amodal.load(run, device="cpu")
    copy = model.save(tmp_path / "copy")
    model.method = None  # an encoder alone
    encoder = model.save(tmp_path / "encoder")
    cli.main(["pretrain", "--config", f"{run}/config.toml", "--out", f"{tmp_path}/second"])
    install.remove()
    word = {"methods": "method", "modalities": "modality", "backbones": "backbone"}[kind]
    message = (
        f"error: this run needs the {word} {name} of the plug-in odd-plugin 1.0, which is not "
        "installed here: pip install odd-plugin\n"
    )
    place = {"run": run, "data": data, "out": tmp_path / "out", "method": method}
    for verb, line in VERBS.items():
        capsys.readouterr()
        with pytest.raises(SystemExit):
            cli.main(line.format(**place).split())
        assert capsys.readouterr().err == message, verb
    for folder in (copy, *([] if kind == "methods" else [encoder])):
        with pytest.raises(AmodalError, match="pip install odd-plugin"):
            amodal.load(folder)


def test_a_config_needs_no_plugin_that_is_replaced(install, tmp_path):
    install("methods", {"mine": "mine"}, METHOD)
    data, run = tmp_path / "data", tmp_path / "run"
    curves(data, "series")
    amodal.pretrain("mine", data, run, **QUICK)
    install.remove()
    config = ["--config", f"{run}/config.toml", "--out", f"{tmp_path}/second", "--device", "cpu"]
    cli.main(["pretrain", "clip", *config])
    assert amodal.load(tmp_path / "second").config["method"] == "clip"


def test_a_plugin_of_another_distribution_is_named(install, records, tmp_path):
    install("methods", {"mine": "mine"}, METHOD)
    amodal.pretrain("mine", records, tmp_path / "run", **QUICK)
    spec = json.loads((tmp_path / "run/spec.json").read_text(encoding="utf-8"))
    for plugins in ({"methods": {"mine": "first-plugin 2.0"}}, {"methods": 3}, {"nets": {}}, 3):
        (tmp_path / "run/spec.json").write_text(
            json.dumps(spec | {"plugins": plugins}), encoding="utf-8"
        )
        if plugins == {"methods": {"mine": "first-plugin 2.0"}}:
            with pytest.warns(UserWarning, match="of the plug-in first-plugin 2.0, and here it is"):
                amodal.load(tmp_path / "run")
        else:
            with pytest.raises(AmodalError, match="plugins must be tables"):
                amodal.load(tmp_path / "run")


def test_a_method_that_is_amodals_own_now_is_named(install, records, tmp_path):
    amodal.pretrain("clip", records, tmp_path / "run", **QUICK)
    spec = json.loads((tmp_path / "run/spec.json").read_text(encoding="utf-8"))
    needed = {"plugins": {"methods": {"clip": "odd-plugin 1.0"}}}
    (tmp_path / "run/spec.json").write_text(json.dumps(spec | needed), encoding="utf-8")
    with pytest.warns(UserWarning, match="of the plug-in odd-plugin 1.0, and here it is of amodal"):
        amodal.load(tmp_path / "run")


def test_runs_of_before_name_the_plugin_of_their_method(install, records, tmp_path):
    install("methods", {"mine": "mine"}, METHOD)
    amodal.pretrain("mine", records, tmp_path / "run", **QUICK)
    spec = json.loads((tmp_path / "run/spec.json").read_text(encoding="utf-8"))
    del spec["plugins"]
    (tmp_path / "run/spec.json").write_text(json.dumps(spec), encoding="utf-8")
    install.remove()
    with pytest.raises(AmodalError, match="mine of the plug-in odd-plugin 1.0.*install odd-plugin"):
        amodal.load(tmp_path / "run")


SHAPES = '''
"""Shapes of a test."""
LICENCE, PACKAGES = "CC0-1.0", ()

def write(out, archives):
    (out / "records.csv").write_text("text,folder\\n" + "".join(f"number {i},{i % 2}\\n" for i in range(24)))
    (out / "dataset.toml").write_text(
        'records = "records.csv"\\n[fields.text]\\nmodality = "text"\\ncolumn = "text"\\n'
    )
'''


def test_a_data_set_of_a_plugin_that_is_gone(install, tmp_path, monkeypatch, capsys):
    cache = tmp_path / "cache"
    monkeypatch.setenv("AMODAL_CACHE", str(cache))
    install("datasets", {"shapes": "__name__"}, "")  # the module itself, see below
    folder = tmp_path / "site"
    (folder / "odd_plugin.py").write_text(SHAPES, encoding="utf-8")
    entry_points = next(folder.glob("*.dist-info")) / "entry_points.txt"
    entry_points.write_text("[amodal.datasets]\nshapes = odd_plugin\n", encoding="utf-8")
    registry.installed.cache_clear()
    cli.main(["data", "shapes"])
    run = tmp_path / "run"
    short = ["--size", "nano", "--steps", "2", "--batch-size", "8", "--device", "cpu"]
    cli.main(["pretrain", "simclr", "--data", "shapes", "--out", str(run), *short])
    assert 'shapes = "odd-plugin"' in (run / "config.toml").read_text(encoding="utf-8")
    install.remove()
    monkeypatch.setenv("AMODAL_CACHE", str(cache))
    second = ["pretrain", "--config", f"{run}/config.toml", "--out"]
    cli.main([*second, str(tmp_path / "second")])  # the records are still there
    words = "the data set shapes of the plug-in odd-plugin, which is not installed here: pip install odd-plugin"
    capsys.readouterr()
    for line in (["evaluate", str(run), "--data", "shapes"], ["data", "shapes"]):
        with pytest.raises(SystemExit):
            cli.main(line)
        assert words in capsys.readouterr().err
    (cache / "plugins").rename(tmp_path / "elsewhere")
    for line in ([*second, str(tmp_path / "third")], ["view", str(run)]):
        with pytest.raises(SystemExit):
            cli.main(line)
        assert words in capsys.readouterr().err
    with pytest.raises(AmodalError, match="install the distribution that has it .*amodal.datasets"):
        amodal.data.sets.page("shapes")


def test_names_that_may_be_of_plugins_say_so():
    from amodal import modalities
    from amodal.evaluate import protocol

    for ask, name, kind in (
        (methods.function, "my_method", "methods"),
        (modalities.kind, "my_modality", "modalities"),
        (protocol, "my_protocol", "protocols"),
    ):
        with pytest.raises(AmodalError, match=f"If '{name}' is of a plug-in.*amodal.{kind}"):
            ask(name)
