"""Plug-ins: found by entry points, imported when used, skipped and named when broken."""

import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from amodal import doctor, modalities
from amodal.core import AmodalError, registry
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
    caches = (registry.installed,)

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
    console = Console(width=140, record=True, file=open("/dev/null", "w"))
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
            "abstract",
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


def test_one_with_a_name_of_our_own_is_an_error(install):
    install("waves-plugin", {"image": "Waves"})
    with pytest.raises(AmodalError, match="'image'.*amodal .* itself.*waves-plugin 1.0"):
        modalities.kind("image")
    assert modalities.kind("text").kind == "text" and "image" in modalities.every()
    assert "are called 'image'" in printed(doctor.report())


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
