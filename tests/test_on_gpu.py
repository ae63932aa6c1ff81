"""What is to be run on a GPU runs here at its smallest, and through another shell as on another
machine."""

import json
import sys
import tarfile

import pytest

from scripts.on_gpu import __main__ as on_gpu
from scripts.on_gpu.pieces import PIECES


def test_the_tree_is_sent_and_a_piece_comes_back(tmp_path, capsys):
    out = tmp_path / "found.json"
    call = ["--device", "cpu", "--dry-run", "--only", "varlen", "--out", str(out)]
    assert on_gpu.main([*call, "--through", "sh -c", "--python", sys.executable]) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert (
        found["varlen"]["ok"] and found["varlen"]["largest relative error"]["torch.float32"] < 1e-4
    )
    assert "varlen" in capsys.readouterr().out


def test_a_piece_that_fails_says_why_and_the_others_stay(tmp_path, capsys):
    out = tmp_path / "found.json"
    out.write_text(json.dumps({"memory": {"ok": True}}), encoding="utf-8")
    assert (
        on_gpu.main(["--device", "cuda:77", "--dry-run", "--only", "varlen", "--out", str(out)])
        == 1
    )
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["memory"]["ok"] and not found["varlen"]["ok"] and found["varlen"]["reason"]
    assert "FAILED" in capsys.readouterr().out


def test_a_name_that_there_is_not(capsys):
    with pytest.raises(SystemExit):
        on_gpu.main(["--only", "varlan"])
    assert "varlen" in capsys.readouterr().err


def test_the_archive_is_small_and_whole(tmp_path):
    file = on_gpu.pack(tmp_path / "tree.tar.gz")
    assert file.stat().st_size < on_gpu.MOST_BYTES
    with tarfile.open(file) as archive:
        names = archive.getnames()
    assert {
        "amodal/core/host.py",
        "benchmarks/steps.py",
        "scripts/on_gpu/pieces.py",
        "pyproject.toml",
    } <= set(names)
    assert not any("__pycache__" in n or n.startswith((".", "/")) for n in names)


@pytest.mark.parametrize("piece", ["contract-float32-1", "one-process", "memory"])
def test_a_piece_runs_on_a_cpu(piece):
    assert PIECES[piece]("cpu", True)


def test_whole_steps_beside_those_of_a_library():
    """In a process of its own, for the benches read their sizes when they are imported."""
    found = on_gpu.run_piece("steps-clip", "cpu", True, "", None, sys.executable)
    assert found["ok"] and ("left out" in found or found["f32"]["peer's time over ours"] > 0), found
