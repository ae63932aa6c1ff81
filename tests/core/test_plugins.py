"""Plug-ins: found by entry points, imported when used, skipped and named when broken."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from rich.console import Console

from amodal import catalog, data, doctor, evaluate, methods, modalities
from amodal.core import AmodalError, registry
from amodal.data import bundled, sets
from amodal.nn.backbones.pretrained import backbone
from tests.core.plugin_folder import write

GOOD = """
from dataclasses import dataclass
from amodal.modalities.series import Series

@dataclass(frozen=True)
class Waves(Series):
    suffixes = frozenset({".waves"})
    magic = ()
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a distribution with one module and its entry points."""
    monkeypatch.syspath_prepend(tmp_path)
    caches = (registry.installed, catalog.pages)

    def one(
        name: str, entries: dict[str, str], source: str = GOOD, kind: str = "modalities"
    ) -> None:
        write(tmp_path, name, entries, source, kind)
        for cached in caches:
            cached.cache_clear()

    yield one
    for cached in caches:
        cached.cache_clear()
    for file in tmp_path.glob("*.py"):
        sys.modules.pop(file.stem, None)


def printed(table) -> str:
    console = Console(width=140, record=True, file=open("/dev/null", "w", encoding="utf-8"))
    console.print(table)
    return console.export_text()


def test_a_plugin_is_one_of_the_modalities(install):
    install("waves-plugin", {"waves": "Waves"})
    assert "waves_plugin" not in sys.modules and modalities.names()[-1] == "waves"
    assert "waves_plugin" not in sys.modules  # a name needs no import
    waves = modalities.make("waves", channels=["a"])
    assert modalities.name_of(waves) == "waves" and modalities.config(waves)["modality"] == "waves"
    assert modalities.make(**modalities.config(waves)) == waves
    assert modalities.guess(".waves") == "waves" and modalities.guess(".csv") == "series"
    with pytest.raises(AmodalError, match="Did you mean waves"):
        modalities.kind("wavess")
    assert "modalities: waves of waves-plugin 1.0 (waves_plugin:Waves)" in printed(doctor.report())


def test_one_that_raises_is_skipped_and_named(install, caplog):
    install("waves-plugin", {"waves": "Waves"})
    install("odd-plugin", {"odd": "Odd"}, "import there_is_no_such_module\n")
    assert set(modalities.every()) - set(registry.pages("modalities")) == {"waves"}
    assert "the plug-in odd of odd-plugin 1.0 (odd_plugin:Odd) is skipped" in caplog.text
    with pytest.raises(AmodalError, match="odd-plugin 1.0.*ModuleNotFoundError.*amodal doctor"):
        modalities.kind("odd")
    assert [plugin.name for plugin in registry.broken_plugins()] == ["odd"]
    text = printed(doctor.report())
    assert "odd of odd-plugin 1.0 (odd_plugin:Odd), broken:" in text and "Traceback" in text
    assert "import there_is_no_such_module" in text


@pytest.mark.parametrize(
    ("entries", "source", "reason"),
    [
        ({"waves": "Waves"}, "Waves = 3\n", "no frozen dataclass that inherits"),
        ({"wave": "Waves"}, GOOD, "kind = 'waves', its entry point 'wave'"),
        ({"waves": "Wave"}, GOOD, "has no attribute 'Wave'"),
        ({"waves": "Waves"}, "raise SystemExit('no licence')\n", "no licence"),
        (
            {"waves": "Waves"},
            "from dataclasses import dataclass\nfrom amodal.modalities import Modality\n"
            "@dataclass(frozen=True)\nclass Waves(Modality):\n    pass\n",
            "lacks what a modality has: augment, collate, decode, describe, infer",
        ),
    ],
)
def test_one_that_is_no_modality_says_why(install, entries, source, reason):
    install("waves-plugin", entries, source)
    assert set(modalities.every()) == set(registry.pages("modalities"))
    with pytest.raises(AmodalError, match=reason):
        modalities.kind(next(iter(entries)))


def test_two_of_one_name_are_an_error_that_names_both(install):
    install("waves-plugin", {"waves": "Waves"})
    install("other-plugin", {"waves": "Waves"})
    with pytest.raises(
        AmodalError, match="'waves'.*(waves-plugin.*other-plugin|other-plugin.*waves-plugin)"
    ):
        modalities.kind("waves")
    assert "two of amodal.modalities are called 'waves'" in printed(doctor.report())


def test_two_of_one_name_leave_other_names_alone(install):
    """Those of the package, of other plug-ins, and the suffixes of all of them."""
    install("first-plugin", {"odd": "Odd"}, "raise ValueError\n")
    install("second-plugin", {"odd": "Odd"}, "raise ValueError\n")
    install("waves-plugin", {"waves": "Waves"})
    assert modalities.kind("image").kind == "image" and modalities.kind("waves").kind == "waves"
    assert modalities.names()[-1] == "waves" and modalities.guess(".waves") == "waves"
    with pytest.raises(AmodalError, match="Did you mean waves"):
        modalities.kind("wavess")
    text = printed(doctor.report())
    assert "two of amodal.modalities are called 'odd'" in text and "waves of waves-plugin" in text


def open_data(name):
    return data.open(name) if name in bundled.NAMES else sets.page(name)


def curve():
    return modalities.make("series", channels=["a"])


ASKED = {  # kind -> a name of our own, and how it is asked for
    "methods": ("clip", methods.function),
    "modalities": ("image", modalities.kind),
    "protocols": ("knn", evaluate.protocol),
    "backbones": ("gru", lambda name: backbone(name, curve(), 8)),
    "datasets": ("digits", open_data),
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [*((k, n) for k, (n, _) in ASKED.items()), ("datasets", "tuxpaint"), ("protocols", "absence")],
)
def test_a_name_of_our_own_stays_our_own_and_a_warning_says_so(install, kind, name):
    install("waves-plugin", {name: "Waves"}, kind=kind)
    ask = ASKED[kind][1]
    own = registry.installed(kind).shadowed[name]
    assert name not in registry.plugins(kind) and "waves_plugin:Waves of waves-plugin 1.0" in own
    with pytest.warns(UserWarning, match="amodal's own, not waves_plugin:Waves of waves-plugin"):
        ask(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(name)
    assert "waves_plugin" not in sys.modules
    assert f"'{name}' of amodal.{kind} is amodal's own, not" in printed(doctor.report())


@pytest.mark.parametrize("kind", registry.KINDS)
def test_two_of_one_name_are_an_error_for_that_name_alone_in_every_group(install, kind):
    name, ask = ASKED[kind]
    install("first-plugin", {"twice": "Odd"}, "raise ValueError\n", kind)
    install("second-plugin", {"twice": "Odd"}, "raise ValueError\n", kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(name)
    with pytest.raises(AmodalError, match="'twice'.*first_plugin:Odd of first-plugin.*second-plug"):
        ask("twice")


BARE = "from dataclasses import dataclass\nfrom amodal.modalities import Modality\n"
PROTOCOL = "from amodal.evaluate import Protocol\nclass P(Protocol):\n    name = "


@pytest.mark.parametrize(
    ("kind", "source", "reason"),
    [
        ("methods", "odd = 3", "a method is a name or a function .* not of type int"),
        ("methods", "def odd(): ...", "odd.. takes no encoder"),
        ("methods", "async def odd(encoder): ...", "odd.. is async, and nothing awaits it"),
        ("methods", "def odd(encoder): yield", "odd.. is a generator"),
        ("modalities", "odd = 3", "no frozen dataclass that inherits amodal.modalities.Modality"),
        (
            "modalities",
            f"{BARE}@dataclass(frozen=True)\nclass odd(Modality):\n    size: int\n",
            "lacks what a modality has: augment, collate, decode, describe, infer, predictor",
        ),
        ("protocols", "def odd(train, test): ...", "plugin:odd is no protocol: an object of a sub"),
        ("protocols", f"{PROTOCOL}'odd'\nodd = P()", "has neither `run` nor `measure`"),
        (
            "protocols",
            f"{PROTOCOL}'knn'\n    def run(self, context): ...\nodd = P",
            "says name = 'knn', its entry point 'odd'",
        ),
        ("backbones", "odd = 'resnet18'", "a function .modality, which=''. .* not of type str"),
        ("backbones", "from torch import nn\nodd = nn.Linear(2, 2)", "not of type Linear"),
        ("backbones", "def odd(): ...", r"odd takes \(\), and is called with \(modality\)"),
        ("datasets", "odd = 3", "is no data set: it lacks a function write"),
        ("datasets", "class odd:\n    def write(self): ...\n", "it lacks a function write"),
    ],
)
def test_an_object_that_does_not_fit_is_named_in_one_sentence(install, kind, source, reason):
    install("odd-plugin", {"odd": "odd"}, source + "\n", kind)
    with pytest.raises(
        AmodalError, match=f"odd of odd-plugin 1.0 .* cannot be used: .*{reason}"
    ) as e:
        ASKED[kind][1]("odd")
    assert "doctor" not in str(e.value)
    lines = doctor.plugins()
    at = next(i for i, line in enumerate(lines) if line.startswith(f"{kind}: odd of odd-plugin"))
    assert lines[at].endswith("broken:") and re.search(reason, lines[at + 1])
    assert lines[at + 1].strip().rstrip(".") in str(e.value) and "Traceback" not in "".join(lines)
    assert catalog.listing()  # a plug-in that does not fit breaks no list
    if kind == "methods":
        with pytest.raises(AmodalError, match=reason):
            catalog.shown("odd")


@pytest.mark.parametrize("ending", ["raise SystemExit(3)", "class E(BaseException): ...\nraise E"])
@pytest.mark.parametrize("kind", registry.KINDS)
def test_a_plug_in_that_ends_the_program_ends_only_itself(install, kind, ending):
    install("odd-plugin", {"odd": "odd"}, ending + "\n", kind)
    with pytest.raises(AmodalError, match="odd of odd-plugin 1.0 .* cannot be used: .*(exit|E)"):
        ASKED[kind][1]("odd")
    assert "Traceback" in "".join(doctor.plugins())


def test_names_of_every_kind(install):
    with pytest.raises(AmodalError, match="Did you mean methods"):
        registry.plugins("method")
    install("method-plugin", {"my-method": "method"}, "def method(encoder): ...\n", kind="methods")
    plugin = registry.plugins("methods")["my_method"]
    assert plugin.load()(None) is None and plugin.distribution == "method-plugin 1.0"
    with pytest.raises(AmodalError, match="my_method"):
        registry.load("methods", "my_methot", "method")


def test_nothing_is_scanned_at_import():
    code = (
        "import sys, importlib.metadata as m; calls = []\n"
        "real = m.entry_points; m.entry_points = lambda **k: (calls.append(k), real(**k))[1]\n"
        "import amodal, amodal.core.registry, amodal.modalities, amodal.methods, amodal.data\n"
        "print(sum(k.get('group', '').startswith('amodal') for k in calls))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "0", done.stderr
