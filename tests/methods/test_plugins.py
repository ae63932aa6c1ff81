"""Methods and backbones of installed plug-ins: by name in every verb, and named where they lack."""

import json
import sys
import warnings

import numpy as np
import pytest

import amodal
from amodal import catalog, methods
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
    assert json.loads((run / "spec.json").read_text())["plugin"] == "odd-plugin 1.0"
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
        AmodalError, match="net:32' is of the plug-in odd-plugin 1.0.*install odd-plugin"
    ):
        amodal.load(run)
    with pytest.raises(AmodalError, match="entry points .amodal.backbones. have 'net'"):
        PluginBackbone("net:32", field, 8)
