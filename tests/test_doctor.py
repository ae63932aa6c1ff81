"""The doctor's table."""

import tomllib
from pathlib import Path

from rich.console import Console

from amodal import doctor


def printed(table) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w", encoding="utf-8"))
    console.print(table)
    return console.export_text()


def test_it_says_what_there_is():
    text = printed(doctor.report())
    for word in ("python", "torch", "cpu", "threads", "bf16", "digits, globe", "GiB", "methods"):
        assert word in text


def test_a_missing_extra_is_shown_with_the_command_that_gets_it(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: "" if name == "onnxruntime" else "1.0")
    assert "onnxscript 1.0; without onnxruntime: pip install 'amodal[onnx]'" in printed(
        doctor.report()
    )


def test_every_extra_of_the_package_is_looked_at():
    project = tomllib.loads(
        (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    )["project"]
    assert set(doctor.extras()) == set(project["optional-dependencies"]) - {*doctor.GROUPS}
    assert not doctor.extras()["view"].startswith("amodal")  # which that extra includes
