"""Methods and backbones of a user's own: by callable, by file, by module; trained, resumed, loaded
and refused."""

import functools
import hashlib
import inspect
import json
import re
import sys
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import amodal
from amodal import cli, methods
from amodal.core import AmodalError
from amodal.core import part as parts
from amodal.core.references import FILE_PREFIX, load_reference, reference_to
from amodal.data import sets

PAGE = '''
"""A page outside the package."""

import os

from amodal.methods.contract import Method
from amodal.methods.shared.shapes import Towers, field_pairs
from amodal.objectives.info_nce import info_nce

ENCODER = {"pool": "attention"}


def pulled(encoder, *, temperature: float = 0.2, width: int = 8):
    def objective(z):
        return {f"pull/{a}~{b}": info_nce(*z.pair(a, b), temperature=temperature) for a, b in field_pairs(z)}

    return Stops(encoder.align(width), objective)


class Stops(Towers):
    def on_step_end(self, clock):
        if clock.step == int(os.environ.get("STOP_AT", 0)):
            raise KeyboardInterrupt


def by_position(encoder, width):
    return encoder


def nothing(encoder):
    return encoder
'''
QUICK = {"size": "nano", "steps": 4, "batch": 16, "progress": False}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2)

    def forward(self, x):
        return self.conv(x).relu()


@pytest.fixture
def file(tmp_path):
    page = tmp_path / "mine.py"
    page.write_text(PAGE, encoding="utf-8")
    return page


def same(a, b, folder):
    one, two = a.embed(folder), b.embed(folder)
    assert all(torch.equal(one.features[s].values, two.features[s].values) for s in one.features)


def test_a_method_in_a_file_is_trained_resumed_and_loaded(file, folder, tmp_path, monkeypatch):
    method, run = f"{file}:pulled", tmp_path / "run"
    model = amodal.pretrain(method, folder, run, options={"temperature": "0.1"}, **QUICK)
    assert model.encoder.pool_name == "attention" and model.config["method"] == "pulled"
    spec = json.loads((run / "spec.json").read_text(encoding="utf-8"))
    assert spec["code"]["name"].endswith(":pulled") and len(spec["code"]["sha256"]) == 64
    assert spec["options"]["temperature"] == 0.1
    same(model, amodal.load(run, method=method), folder)
    same(model, amodal.load(run, method=methods.function(method)), folder)
    assert model.evaluate(folder, label="folder", protocols=["knn"]).results
    copy = amodal.load(model.save(tmp_path / "copy"), method=method)
    same(model, copy, folder)
    with pytest.raises(AmodalError, match=r"pass it: amodal\.load\(RUN, method=pulled\)"):
        amodal.load(run)
    with pytest.raises(AmodalError, match="was trained with .*:pulled, not with"):
        amodal.load(run, method=f"{file}:nothing")
    halted = tmp_path / "halted"
    straight = amodal.pretrain(method, folder, tmp_path / "straight", checkpoint_every=2, **QUICK)
    monkeypatch.setenv("STOP_AT", "3")
    with pytest.raises(KeyboardInterrupt):
        amodal.pretrain(method, folder, halted, checkpoint_every=2, **QUICK)
    monkeypatch.delenv("STOP_AT")
    resumed = amodal.pretrain(method, folder, halted, resume=True, checkpoint_every=2, **QUICK)
    for a, b in zip(straight.method.state_dict().values(), resumed.method.state_dict().values()):
        assert torch.equal(a, b)


def test_a_callable_is_a_method(folder, tmp_path):
    def mine(encoder, *, width: int = 4):
        return methods.build("clip", encoder, width=width)

    model = amodal.pretrain(mine, folder, tmp_path / "run", **QUICK)
    assert model.encoder.heads_width == 4
    same(model, amodal.load(tmp_path / "run", method=mine), folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("by_position", "takes 'width' by position"),
        ("puled", "Did you mean pulled"),
        ("nothing", r"nothing\(\) returned Encoder"),
    ],
)
def test_what_cannot_be_a_method_says_why(file, folder, tmp_path, name, words):
    with pytest.raises(AmodalError, match=words):
        amodal.pretrain(f"{file}:{name}", folder, tmp_path / "run", **QUICK)


def test_files_that_are_not_there_or_do_not_run(tmp_path):
    with pytest.raises(AmodalError, match="there is no file"):
        methods.function(str(tmp_path / "none.py") + ":f")
    (tmp_path / "broken.py").write_text("1 / 0", encoding="utf-8")
    with pytest.raises(AmodalError, match="cannot be run: ZeroDivisionError"):
        methods.function(str(tmp_path / "broken.py") + ":f")
    with pytest.raises(AmodalError, match="cannot be imported"):
        methods.function("no_such_package.module:f")


@pytest.mark.parametrize("backbone", [Net(), Net], ids=["module", "factory"])
def test_a_module_is_a_backbone(backbone, folder, tmp_path):
    run = tmp_path / "run"
    model = amodal.pretrain(
        "clip", folder, run, backbones={"image": backbone}, train_backbones=True, **QUICK
    )
    net = model.encoder.tokenizers["image"].module
    assert isinstance(net, Net) and model.encoder.contextual("image")
    same(model, amodal.load(run, backbones={"image": Net()}), folder)
    with pytest.raises(
        AmodalError, match=r"pass it when you load the run: amodal\.load\(RUN, backbones="
    ):
        amodal.load(run)
    with pytest.raises(AmodalError, match="hiding some of them hides nothing"):
        amodal.pretrain("mae", folder, tmp_path / "no", backbones={"image": Net()}, **QUICK)


class Scaled(nn.Module):
    def __init__(self, width, scale):
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, width, 3, stride=2), scale

    def forward(self, x):
        return self.conv(x) * self.scale


def test_two_fields_with_backbones_of_one_class_keep_their_own(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (16, 16, 3), dtype=np.uint8) for _ in range(32)]
    data, run = {"a": pictures[:16], "b": pictures[16:]}, tmp_path / "run"

    def made():
        return {"a": Scaled(8, 1.0), "b": Scaled(12, 3.0)}

    trained = amodal.pretrain(
        "clip", data, run, backbones=made(), train_backbones=True, device="cpu", **QUICK
    )
    stored = load_file(run / "model.safetensors")
    for model in (trained, amodal.load(run, backbones=made(), device="cpu")):
        one, two = (model.encoder.tokenizers[field].module for field in ("a", "b"))
        assert (one.scale, two.scale) == (1.0, 3.0)
        assert (one.conv.out_channels, two.conv.out_channels) == (8, 12)
        state = model.method.state_dict()
        assert state.keys() == stored.keys()
        assert all(torch.equal(state[name], stored[name]) for name in stored)
    for backbones, words in (
        ({"nosuch": Scaled(8, 1.0)}, r"no field with a backbone .*'nosuch'\. There are: a, b"),
        ({"a": Scaled(8, 1.0)}, r"backbones=\{'b': MODULE\}"),
        (made() | {"b": Net()}, r":Scaled as the backbone of 'b', not with .*:Net"),
    ):
        with pytest.raises(AmodalError, match=words):
            amodal.load(run, backbones=backbones, device="cpu")


def pictures():
    """Two fields of pictures."""
    rng = np.random.default_rng(0)
    return {f: list(rng.integers(0, 255, (16, 16, 16, 3), dtype=np.uint8)) for f in ("a", "b")}


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16 * 16 * 3, 6)

    def forward(self, x):
        return self.layer(x.flatten(1))


def weight(model, field):
    return model.encoder.tokenizers[field].module.layer.weight.detach().clone()


def test_no_model_changes_by_what_is_done_with_its_module(tmp_path):
    """Neither do the modules: each model has copies, and a field of its own."""
    mine, data = Dense(), pictures()
    runs, before = [tmp_path / "one", tmp_path / "two"], mine.layer.weight.detach().clone()
    learning = {"train_backbones": True, "device": "cpu", **QUICK}
    models = [
        amodal.pretrain(
            "clip", data, run, backbones={"a": mine, "b": Dense()}, seed=seed, **learning
        )
        for seed, run in enumerate(runs)
    ]
    assert torch.equal(mine.layer.weight, before) and mine.layer.weight.requires_grad
    stored = [load_file(run / "model.safetensors") for run in runs]
    loaded = [amodal.load(run, backbones={"a": mine, "b": mine}, device="cpu") for run in runs]
    for two in (models, loaded):
        for model, tensors in zip(two, stored):
            for field in "ab":
                name = f"encoder.tokenizers.{field}.module.layer.weight"
                assert torch.equal(weight(model, field), tensors[name])
    assert torch.equal(mine.layer.weight, before)
    assert not torch.equal(weight(models[0], "a"), weight(models[1], "a"))


def test_one_module_for_two_fields_learns_in_neither(tmp_path):
    mine, data = Dense(), pictures()
    wrapped = nn.Sequential(mine, nn.ReLU())
    for other, words in ((mine, "are the same module"), (wrapped, "share weights")):
        with pytest.raises(AmodalError, match=f"the backbones of 'a' and 'b' {words}.*deepcopy"):
            amodal.pretrain(
                "clip",
                data,
                tmp_path / "no",
                backbones={"a": mine, "b": other},
                train_backbones=True,
                **QUICK,
            )
    assert not (tmp_path / "no").exists()
    frozen = amodal.pretrain(
        "clip", data, tmp_path / "run", backbones={"a": mine, "b": mine}, device="cpu", **QUICK
    )
    assert all(torch.equal(weight(frozen, field), mine.layer.weight) for field in "ab")


def test_a_module_that_cannot_be_copied_is_named(tmp_path):
    class Uncopied(Dense):
        def __deepcopy__(self, memo):
            raise TypeError("not me")

    with pytest.raises(AmodalError, match="deepcopy of the module .*Uncopied raised TypeError"):
        amodal.pretrain(
            "clip", pictures(), tmp_path / "no", backbones={"a": Uncopied(), "b": Dense}, **QUICK
        )


def test_bad_backbones_are_refused(folder, tmp_path):
    for backbone, words in ((3, "a torch module"), (lambda: 3, "a torch module")):
        with pytest.raises(AmodalError, match=words):
            amodal.pretrain("clip", folder, tmp_path / "no", backbones={"image": backbone}, **QUICK)
    norm = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(AmodalError, match="keeps no running statistics"):
        amodal.pretrain(
            "clip",
            folder,
            tmp_path / "no",
            backbones={"image": norm},
            train_backbones=True,
            **QUICK,
        )


def test_factories_that_fail_are_named(folder, tmp_path):
    def fails():
        raise OSError("no weights here")

    run = tmp_path / "run"
    amodal.pretrain("clip", folder, run, backbones={"image": Net}, **QUICK)
    for backbone, words in (
        (fails, r"fails\(\), .* raised OSError: no weights here \(.*test_own_code.py, line"),
        (nn.Linear, r"Linear\(\), called without arguments .* raised TypeError: .*in_features"),
        (lambda: 3, "which returned int"),
        (3, "a torch module, .* not of type int"),
    ):
        with pytest.raises(AmodalError, match=words):
            amodal.pretrain("clip", folder, tmp_path / "no", backbones={"image": backbone}, **QUICK)
        with pytest.raises(AmodalError, match=words):
            amodal.load(run, backbones={"image": backbone})


def test_a_spec_cannot_import_anything(folder, tmp_path):
    run = tmp_path / "run"
    amodal.pretrain("clip", folder, run, **QUICK)
    (tmp_path / "evil.py").write_text("raise SystemExit('it was imported')", encoding="utf-8")
    spec = json.loads((run / "spec.json").read_text(encoding="utf-8"))
    for name in (
        "evil:Thing",
        "os.path:Thing",
        "nn..:Thing",
        "amodal.cli:Main",
        "cli:Main",
        "nn.saved:Path",
        "subprocess.x:Popen",
    ):
        spec["encoder"]["part"] = name
        (run / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        with pytest.raises(AmodalError, match="part|plug-in"):
            amodal.load(run)
        with pytest.raises(AmodalError):
            parts.part_class(name)


def test_a_spec_imports_of_a_plug_in_only_what_its_entry_points_import(
    folder, tmp_path, monkeypatch
):
    run, site = tmp_path / "run", tmp_path / "site"
    amodal.pretrain("clip", folder, run, **QUICK)
    package = site / "goodplug"
    (package / "inner").mkdir(parents=True)
    part = "from amodal.core.part import Part\nclass Good(Part): ...\n"
    lazy = "def __getattr__(name):\n    from goodplug import evil\n"
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "inner/__init__.py").write_text(part, encoding="utf-8")
    (package / "page.py").write_text(
        part + "import goodplug.inner\nplain = 3\n" + lazy, encoding="utf-8"
    )
    (package / "evil.py").write_text("raise SystemExit('it was imported')", encoding="utf-8")
    about = site / "goodplug-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: goodplug\nVersion: 1.0\n", encoding="utf-8"
    )
    (about / "entry_points.txt").write_text(
        "[amodal.methods]\ngood = goodplug.page:plain\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(site)
    spec = json.loads((run / "spec.json").read_text(encoding="utf-8"))
    try:
        for name, words in (
            ("goodplug.evil:Evil", r"does not import .* \(goodplug.page\)"),
            ("goodplug.none:Evil", "does not import"),
            ("goodplug.page:Evil", "goodplug.page has no Evil"),
        ):
            spec["encoder"]["part"] = name
            (run / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
            with pytest.raises(AmodalError, match=words):
                amodal.load(run)
            with pytest.raises(AmodalError, match=words):
                parts.part_class(name)
        for module in ("goodplug.page", "goodplug.inner"):
            assert parts.part_class(f"{module}:Good").__module__ == module
    finally:
        for module in [m for m in sys.modules if m.startswith("goodplug")]:
            del sys.modules[module]


@pytest.mark.parametrize("name", ["{}/evil.py:method", "evil:method", ["evil:method"]])
def test_a_spec_cannot_name_a_method_that_is_code(folder, tmp_path, monkeypatch, name):
    run = tmp_path / "run"
    amodal.pretrain("clip", folder, run, **QUICK)
    (tmp_path / "evil.py").write_text("raise SystemExit('it was imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    spec = json.loads((run / "spec.json").read_text(encoding="utf-8"))
    spec["method"] = name.format(tmp_path) if isinstance(name, str) else name
    (run / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    with pytest.raises(AmodalError, match="names its method"):
        amodal.load(run)


def test_a_mistake_in_own_code_is_named_by_its_line(folder, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("def broken(encoder):\n    return encoder.nothing_like_it\n", encoding="utf-8")
    with pytest.raises(AmodalError, match=r"broken\(\) raised AttributeError: .*line \d+"):
        amodal.pretrain(f"{file}:broken", folder, tmp_path / "run", **QUICK)


def test_a_backbone_that_does_not_fit_names_its_input(folder, tmp_path):
    backbones = {"image": nn.Linear(77, 4)}
    with pytest.raises(AmodalError, match=r"Linear, called with image values, a tensor \(N, 3, "):
        amodal.pretrain("clip", folder, tmp_path / "run", backbones=backbones, **QUICK)


def test_a_runs_own_toml_finds_its_file_from_any_folder(folder, tmp_path, monkeypatch):
    (tmp_path / "page.py").write_text(PAGE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    amodal.pretrain("page.py:pulled", folder, tmp_path / "run", **QUICK)
    assert f'method = "{tmp_path / "page.py"}:pulled"' in (tmp_path / "run/config.toml").read_text(
        encoding="utf-8"
    )


NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2)
    def forward(self, x):
        return self.conv(x).relu()
"""


def test_the_command_line_opens_a_run_with_own_code(file, folder, tmp_path, capsys):
    net = tmp_path / "net.py"
    net.write_text(NET, encoding="utf-8")
    run, out = tmp_path / "run", tmp_path / "vectors.parquet"
    method, backbone = f"{file}:pulled", f"image={net}:Net"
    made = load_reference(f"{net}:Net")()
    amodal.pretrain(method, folder, run, backbones={"image": made}, train_backbones=True, **QUICK)
    words = ["embed", str(run), "--data", str(folder), "--out", str(out)]
    for option, missing in (
        (["--method", method], "pass it when you load the run"),
        (["--backbone", backbone], "pulled of your own"),
    ):
        with pytest.raises(SystemExit):
            cli.main([*words, *option])
        assert missing in capsys.readouterr().err
    cli.main([*words, "--method", method, "--backbone", backbone])
    assert out.exists()
    tuned = ["adapt", str(run), "--data", str(folder), "--label", "folder", "--out"]
    tuned += [str(tmp_path / "head"), "--steps", "2", "--batch-size", "8", "--tuning", "head"]
    cli.main([*tuned, f"--method={method}", "--backbone", backbone])
    with pytest.raises(SystemExit):
        cli.main(["pretrain", "clip", "--data", str(folder), "--out", "x", "--method", method])
    assert "amodal pretrain METHOD" in capsys.readouterr().err


TYPED = """
from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from amodal import methods

if TYPE_CHECKING:
    from amodal import Method
    from amodal.nn.encoder import Encoder

ENCODER = {"pool": "attention"}


def checked(encoder: Encoder, *, width: int = 4) -> Method:
    return methods.build("clip", encoder, width=width)


class Maker:
    def __call__(self, encoder: Encoder, *, width: int = 4) -> Method:
        return methods.build("clip", encoder, width=width)


bound = functools.partial(checked, width=6)
maker = Maker()
short = lambda encoder, *, width=4: checked(encoder, width=width)


def unwritable(encoder, *, write=print):
    return methods.build("clip", encoder)
"""


@pytest.mark.parametrize("name", ["checked", "bound", "maker"])
def test_options_are_typed_whatever_is_callable(folder, tmp_path, name):
    (tmp_path / "typed.py").write_text(TYPED, encoding="utf-8")
    method, run = f"{tmp_path / 'typed.py'}:{name}", tmp_path / "run"
    assert methods.parse(method, {"width": "5"}) == {"width": 5}
    with pytest.raises(AmodalError, match=r"\.width must be a int, not 'wide'"):
        methods.parse(method, {"width": "wide"})
    model = amodal.pretrain(method, folder, run, **QUICK)
    assert model.encoder.heads_width == (6 if name == "bound" else 4)
    assert model.encoder.pool_name == "attention"
    code = json.loads((run / "spec.json").read_text(encoding="utf-8"))["code"]
    assert code["name"].endswith(":Maker" if name == "maker" else ":checked") and code["sha256"]
    same(model, amodal.load(run, method=method), folder)
    same(model, amodal.load(run, method=load_reference(method)), folder)


def test_a_lambda_is_loaded_by_its_reference(folder, tmp_path):
    (tmp_path / "typed.py").write_text(TYPED, encoding="utf-8")
    method, run = f"{tmp_path / 'typed.py'}:short", tmp_path / "run"
    model = amodal.pretrain(method, folder, run, **QUICK)
    same(model, amodal.load(run, method=method), folder)


def test_the_options_of_a_class_are_those_of_its_constructor():
    class Own:
        width: str

        def __init__(self, encoder, *, width: int = 4):
            pass

    assert methods.parse(Own, {"width": "5"}) == {"width": 5}


def test_what_has_no_signature_or_no_json_is_named(folder, tmp_path):
    with pytest.raises(AmodalError, match="dict does not say which arguments it takes"):
        methods.function(dict)
    (tmp_path / "typed.py").write_text(TYPED, encoding="utf-8")
    method = f"{tmp_path / 'typed.py'}:unwritable"
    with pytest.raises(AmodalError, match=r"unwritable\.write is of type builtin_function"):
        amodal.pretrain(method, folder, tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()


def test_an_object_that_is_no_method_is_not_printed(monkeypatch):
    monkeypatch.setenv("TOKEN", "hunter2")
    with pytest.raises(AmodalError, match="not of type _Environ") as error:
        methods.function("os:environ")
    assert "hunter2" not in str(error.value)


def run_cli(*words):
    short = ["--size", "nano", "--steps", "2", "--batch-size", "16", "--device", "cpu"]
    cli.main(["pretrain", *map(str, words), *short])


def test_the_command_line_trains_with_a_module_of_a_file(folder, tmp_path, monkeypatch, capsys):
    home = tmp_path / "home"
    home.mkdir()
    (home / "net.py").write_text(NET, encoding="utf-8")
    monkeypatch.chdir(home)
    run_cli("clip", "--data", folder, "--out", "run", "--backbone", "image=net.py:Net")
    assert "--backbone image=net.py:Net" in capsys.readouterr().out
    text = (home / "run/config.toml").read_text(encoding="utf-8")
    assert f'image = "{home / "net.py"}:Net"' in text
    cli.main(["embed", "run", f"--data={folder}", "--out=v.parquet", "--backbone=image=net.py:Net"])
    monkeypatch.chdir(tmp_path)
    run_cli("--config", home / "run/config.toml", "--out", "second")
    (home / "mine.toml").write_text(
        f'method = "clip"\ndata = "{folder}"\n[backbones]\nimage = "net.py:Net"\n', encoding="utf-8"
    )
    run_cli("--config", home / "mine.toml", "--out", "third")
    for run in ("run", "second", "third"):
        where = home / run if run == "run" else tmp_path / run
        model = amodal.load(where, backbones={"image": f"{home / 'net.py'}:Net"})
        assert type(model.encoder.tokenizers["image"].module).__name__ == "Net"
    for backbone, words in (
        ("net.py:Net", "there is no file net.py"),
        (f"{home}/net.py:Nett", "Did you mean Net"),
        ("no_such.nets:Net", "no library of backbones is called 'no_such.nets'.*FILE.py:NAME"),
        ("tests.test_own_code:PAGE", "of type str"),
        ("__main__:Nett", "no name in __main__ is called 'Nett'"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            run_cli("clip", "--data", folder, "--out", "no", "--backbone", f"image={backbone}")
        assert re.search(words, capsys.readouterr().err)
    (home / "mine.toml").write_text('backbone = "net.py:Net"\n', encoding="utf-8")
    with pytest.raises(SystemExit):
        run_cli("clip", "--data", folder, "--config", home / "mine.toml", "--out", "no")
    assert "Did you mean backbones" in capsys.readouterr().err


def test_a_reference_is_a_backbone_in_python(folder, tmp_path):
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    backbones = {"image": f"{tmp_path / 'net.py'}:Net"}
    model = amodal.pretrain("clip", folder, tmp_path / "run", backbones=backbones, **QUICK)
    same(model, amodal.load(tmp_path / "run", backbones=backbones), folder)


def test_a_python_run_with_importable_code_has_a_config(file, folder, tmp_path):
    """A function and a class that a module has are named, so the file alone runs."""
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    method, net = load_reference(f"{file}:pulled"), load_reference(f"{tmp_path / 'net.py'}:Net")
    run = tmp_path / "run"
    amodal.pretrain(method, folder, run, backbones={"image": net}, **QUICK)
    text = (run / "config.toml").read_text(encoding="utf-8")
    assert f'method = "{file}:pulled"' in text and "own_code" not in text
    run_cli("--config", run / "config.toml", "--out", tmp_path / "second")
    backbones = {"image": net}
    second = amodal.load(tmp_path / "second", method=method, backbones=backbones)
    assert second.config["method"] == "pulled"


def test_a_python_run_with_other_code_says_what_to_pass(file, folder, tmp_path, capsys):
    """What was made by hand, or stands in a function, has no name that leads to it."""
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    pulled = load_reference(f"{file}:pulled")

    def mine(encoder, *, width: int = 8):
        return pulled(encoder, width=width)

    net = load_reference(f"{tmp_path / 'net.py'}:Net")()
    run, config = tmp_path / "run", ("--config", tmp_path / "run/config.toml")
    amodal.pretrain(mine, folder, run, backbones={"image": net}, **QUICK)
    passed = ((), (f"{file}:pulled",), ("--backbone", f"image={tmp_path / 'net.py'}:Net"))
    needs = (r":test_a_python.*mine as `amodal pretrain FILE.py:NAME`", "--backbone image=FILE.py")
    for words, messages in zip(passed, (needs, needs[1:], needs[:1])):
        with pytest.raises(SystemExit):
            run_cli(*words, *config, "--out", tmp_path / "no")
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and all(re.search(m, error) for m in messages), error
        assert sum(bool(re.search(m, error)) for m in needs) == len(messages)
    run_cli(*passed[1], *passed[2], *config, "--out", tmp_path / "second")
    assert (tmp_path / "second/model.safetensors").exists()


def test_code_of_the_program_itself_is_not_named(monkeypatch):
    """Importing it would run it once more."""
    program = sys.modules["__main__"]

    def mine(encoder): ...

    monkeypatch.setattr(mine, "__module__", "__main__")
    monkeypatch.setattr(program, "mine", mine, raising=False)
    assert reference_to(mine) == ""
    assert reference_to(Net) == "tests.test_own_code:Net" and reference_to(Net()) == ""


def fresh(*changes):
    """Edit files, and forget what was imported of them, as another process has not imported it."""
    for file, before, after in changes:
        text = file.read_text(encoding="utf-8")
        assert before in text
        file.write_text(text.replace(before, after), encoding="utf-8")
    for module in [m for m in sys.modules if m.startswith(FILE_PREFIX)]:
        del sys.modules[module]


def stop(monkeypatch, train):
    """Train until step 3."""
    monkeypatch.setenv("STOP_AT", "3")
    with pytest.raises(KeyboardInterrupt):
        train()
    monkeypatch.delenv("STOP_AT")


def test_a_changed_method_is_not_resumed_in_silence(file, folder, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"

    def train(**more):
        return amodal.pretrain(f"{file}:pulled", folder, run, checkpoint_every=2, **QUICK, **more)

    def spec():
        return json.loads((run / "spec.json").read_text(encoding="utf-8"))

    stop(monkeypatch, train)
    first = spec()["code"]
    fresh((file, "temperature=temperature)", "temperature=2 * temperature)"))
    words = r"cannot continue with changed code: .*mine\.py \(method pulled\).*accept-changed-code"
    with pytest.raises(AmodalError, match=words):
        train(resume=True)
    assert spec()["code"] == first and "earlier_code" not in spec()
    stop(monkeypatch, lambda: train(resume=True, accept_changed_code=True))
    second = spec()["code"]
    assert second["sha256"] != first["sha256"]
    assert spec()["earlier_code"] == [{"what": "method", **first}]
    fresh((file, "def pulled", "# a comment\n\n\ndef pulled"))
    train(resume=True)
    assert spec()["code"] == second and spec()["earlier_code"] == [{"what": "method", **first}]
    copy = amodal.load(run, method=f"{file}:pulled").save(tmp_path / "copy")
    copied = json.loads((copy / "spec.json").read_text(encoding="utf-8"))
    assert copied["earlier_code"] == spec()["earlier_code"]


def test_changed_code_is_named_where_a_run_is_used(file, folder, tmp_path, capsys):
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    method, net, run = f"{file}:pulled", f"{tmp_path / 'net.py'}:Net", tmp_path / "run"
    options = {"backbones": {"image": net}, "train_backbones": True}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        amodal.pretrain(method, folder, run, **options, **QUICK)
        amodal.load(run, method=method, backbones={"image": net})
    fresh(
        (tmp_path / "net.py", "relu()", "sigmoid()"),
        (file, "class Stops(Towers):", "class Stops(Towers):\n    more = 1\n"),
    )
    with pytest.warns(UserWarning) as seen:
        model = amodal.load(run, method=method, backbones={"image": net})
    messages = [str(w.message) for w in seen]
    assert len(messages) == 2 and all("the weights fit" in m for m in messages), messages
    assert "mine.py (method pulled)" in messages[0]
    assert "net.py (backbone of image Net) is not the code that" in messages[1]
    stored = json.loads((run / "spec.json").read_text(encoding="utf-8"))
    copied = json.loads((model.save(tmp_path / "copy") / "spec.json").read_text(encoding="utf-8"))
    assert copied == stored  # the weights are those of the code of then
    words = ["embed", run, "--data", folder, "--out", tmp_path / "v.parquet"]
    with pytest.warns(UserWarning, match="the weights fit"):
        cli.main([*map(str, words), "--method", method, "--backbone", f"image={net}"])


def test_a_changed_module_is_resumed_when_accepted(file, folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "net.py").write_text(NET, encoding="utf-8")
    net = tmp_path / "net.py"
    words = (f"{file}:pulled", "--data", folder, "--out", tmp_path / "run", "--save-every", 1)
    words += ("--backbone", f"image={net}:Net", "--steps", 4)
    monkeypatch.setenv("STOP_AT", "2")
    with pytest.raises(SystemExit):
        run_cli(*words)
    monkeypatch.delenv("STOP_AT")

    def stored():
        spec = json.loads((tmp_path / "run/spec.json").read_text(encoding="utf-8"))
        return spec["encoder"]["args"]["backbones"]["image"]["args"]["source"], spec

    first, _ = stored()
    fresh((net, "relu()", "sigmoid()"))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run_cli(*words, "--resume")
    error = capsys.readouterr().err
    assert f"{net} (backbone of image Net) differs" in error and error.count("\n") == 1
    run_cli(*words, "--resume", "--accept-changed-code")
    second, spec = stored()
    assert spec["earlier_code"] == [
        {"what": "backbone of image", "name": "net.py:Net", "sha256": first}
    ]
    assert second != first and "accept" not in (tmp_path / "run/config.toml").read_text(
        encoding="utf-8"
    )
    run_cli(*words, "--resume")
    with pytest.raises(AmodalError, match="is for a run that is resumed"):
        amodal.pretrain("clip", folder, tmp_path / "no", accept_changed_code=True, **QUICK)


class DenseOfPictures(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 6)

    def forward(self, x):
        return self.layer(x.mean((2, 3)))


def test_runs_with_own_code_are_adapted_and_started_from(file, folder, tmp_path, capsys):
    net = tmp_path / "net.py"
    net.write_text(NET, encoding="utf-8")
    method, backbones = f"{file}:pulled", {"image": f"{net}:Net"}
    run = tmp_path / "run"
    amodal.pretrain(method, folder, run, backbones=backbones, train_backbones=True, **QUICK)
    model = amodal.load(run, method=method, backbones=backbones)
    options = {"label": "folder", "tuning": "head", "steps": 2, "batch_size": 8, "progress": False}
    tuned = model.adapt(folder, tmp_path / "head", **options)
    assert tuned.predict(folder).num_rows and tuned.untrained().encoder
    second = tuned.adapt(folder, tmp_path / "again", **options)
    same(second, amodal.load(tmp_path / "again", backbones=backbones), folder)

    dense = tmp_path / "dense"
    amodal.pretrain("clip", folder, dense, backbones={"image": DenseOfPictures}, **QUICK)
    mine = amodal.load(dense, backbones={"image": DenseOfPictures})
    low_rank = mine.adapt(folder, tmp_path / "lora", **options | {"tuning": "lora"})
    before, after = (m.encoder.tokenizers["image"].module.layer.weight for m in (mine, low_rank))
    assert not torch.equal(before, after)
    same(low_rank, amodal.load(tmp_path / "lora", backbones={"image": DenseOfPictures}), folder)

    started, code = tmp_path / "started", {"init_method": method, "init_backbones": backbones}
    for passed, words in (
        ({}, r"pass it: init_method=pulled, .* --init-method FILE\.py:pulled"),
        (
            {"init_method": method},
            r"init_backbones=\{'image': Net\}, .* --init-backbone image=FILE",
        ),
    ):
        with pytest.raises(AmodalError, match=words):
            amodal.pretrain("clip", folder, started, init_from=run, **passed, **QUICK)
    with pytest.raises(AmodalError, match="init_from is not set"):
        amodal.pretrain("clip", folder, started, init_method=method, **QUICK)
    assert not started.exists()
    amodal.pretrain("clip", folder, started, init_from=run, **code, **QUICK)
    text = (started / "config.toml").read_text(encoding="utf-8")
    assert f'init_method = "{method}"' in text and f'[init_backbones]\nimage = "{net}:Net"' in text
    run_cli("--config", started / "config.toml", "--out", tmp_path / "second")
    words = ("clip", "--data", folder, "--out", tmp_path / "third", "--init-from", run)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run_cli(*words)
    assert "--init-method FILE.py:pulled" in capsys.readouterr().err
    run_cli(*words, "--init-method", method, "--init-backbone", f"image={net}:Net")
    plain = ("clip", "--data", folder, "--out", tmp_path / "fourth", "--init-from", started)
    with pytest.raises(SystemExit):
        run_cli(*plain, "--init-method", method)
    assert "amodal's own clip; leave init_method out" in capsys.readouterr().err


def test_the_arguments_of_a_partial_are_in_the_config(file, folder, tmp_path, capsys):
    pulled = load_reference(f"{file}:pulled")
    run, second = tmp_path / "run", tmp_path / "second"
    bound = functools.partial(pulled, temperature=0.07, width=4)
    amodal.pretrain(bound, folder, run, options={"width": 6}, **QUICK)
    run_cli("--config", run / "config.toml", "--out", second)
    configs = [json.loads((r / "config.json").read_text(encoding="utf-8")) for r in (run, second)]
    assert configs[0]["options"] == configs[1]["options"] == {"temperature": 0.07, "width": 6}

    other = tmp_path / "other.py"
    other.write_text(
        "from amodal import methods\n\n"
        "def other(encoder, *, more=1):\n    return methods.build('clip', encoder)\n",
        encoding="utf-8",
    )
    without = functools.partial(load_reference(f"{other}:other"), more=None)
    amodal.pretrain(without, folder, tmp_path / "none", **QUICK)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        run_cli("--config", tmp_path / "none/config.toml", "--out", tmp_path / "no")
    assert "other with more=None bound by functools.partial" in capsys.readouterr().err


class Counting:
    """A method that changes its own state."""

    def __init__(self, scale):
        self.scale, self.calls = scale, 0

    def __call__(self, encoder):
        self.calls += 1
        return methods.build("clip", encoder, max_scale=self.scale)


def test_another_state_of_an_object_or_closure_is_noticed(folder, tmp_path):
    def made(scale):
        limit = [scale]

        def mine(encoder):
            return methods.build("clip", encoder, max_scale=limit[0])

        return mine

    for number, make in enumerate((Counting, made)):
        run = tmp_path / str(number)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            amodal.pretrain(make(50.0), folder, run, checkpoint_every=2, **QUICK)
            amodal.load(run, method=make(50.0))
            amodal.pretrain(make(50.0), folder, run, checkpoint_every=2, resume=True, **QUICK)
        with pytest.raises(AmodalError, match="cannot continue with changed code: .*own_code"):
            amodal.pretrain(make(60.0), folder, run, checkpoint_every=2, resume=True, **QUICK)


class Steep(nn.Module):
    def __init__(self, slope=0.1):
        super().__init__()
        self.conv, self.slope = nn.Conv2d(3, 6, 3, stride=2), slope

    def forward(self, x):
        return nn.functional.leaky_relu(self.conv(x), self.slope)


def layers(slope=0.1):
    return nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.LeakyReLU(slope))


@pytest.mark.parametrize("factory", [Steep, layers])
def test_other_arguments_of_layers_are_noticed(factory, folder, tmp_path):
    run = tmp_path / "run"
    backbones = {"image": factory}
    amodal.pretrain("clip", folder, run, backbones=backbones, train_backbones=True, **QUICK)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        amodal.load(run, backbones={"image": factory()})
    with pytest.warns(UserWarning, match="backbone of image .* is not the code that the run"):
        amodal.load(run, backbones={"image": lambda: factory(0.5)})


def test_runs_of_before_are_resumed_with_the_same_code(file, folder, tmp_path, monkeypatch):
    """They have the hash of the plain text."""
    run = tmp_path / "run"
    options = {"checkpoint_every": 2, "backbones": {"image": Net}, **QUICK}
    stop(monkeypatch, lambda: amodal.pretrain(f"{file}:pulled", folder, run, **options))
    spec = json.loads((run / "spec.json").read_text(encoding="utf-8"))
    plain = [
        hashlib.sha256(inspect.getsource(code).encode()).hexdigest()
        for code in (load_reference(f"{file}:pulled"), Net)
    ]
    spec["code"]["sha256"], spec["encoder"]["args"]["backbones"]["image"]["args"]["source"] = plain
    (run / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        amodal.pretrain(f"{file}:pulled", folder, run, resume=True, **options)


def test_a_module_sees_no_missing_cell(tmp_path):
    sets.ensure("wine", say=lambda line: None)
    wine = amodal.open("wine").select(["basic"])
    net = torch.nn.Linear(len(wine.fields["basic"].columns), 16)
    run = amodal.pretrain(
        "vicreg",
        wine,
        tmp_path / "run",
        size="nano",
        steps=3,
        batch_size=16,
        progress=False,
        logger=None,
        backbones={"basic": net},
        train_backbones=True,
    )
    assert all(p.isfinite().all() for p in run.encoder.parameters())
    table = amodal.open(
        {"cells": [{"a": 1.0, "b": "x"}, {"a": None, "b": "y"}, {"a": 3.0, "b": None}] * 20}
    ).fields["cells"]
    values = torch.tensor([[float("nan"), float("nan")], [3.0, 1.0]])
    filled = table.for_module(values)
    assert values.isnan().sum() == 2 and filled.isfinite().all()
    assert filled.tolist() == [[2.0, -1.0], [3.0, 1.0]], "the mean of a; no code of b"
