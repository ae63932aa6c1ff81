"""scripts/same_loss.py sees a changed loss, gradient or state, and nothing where none changed."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from scripts import same_loss


def verdicts(lines):
    return {name: (verdict, shown) for name, verdict, shown in lines}


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    return same_loss.trace(
        same_loss.ROOT, tmp_path_factory.mktemp("traces") / "before", "clip,dino,mae", 1
    )


def test_a_changed_loss_is_seen(before, tmp_path):
    for part in ("amodal", "tests", "scripts"):
        shutil.copytree(
            same_loss.ROOT / part,
            tmp_path / part,
            ignore=shutil.ignore_patterns("ledger", "__pycache__"),
        )
    clip = tmp_path / "amodal" / "methods" / "contrastive" / "clip.py"
    clip.write_text(
        clip.read_text(encoding="utf-8").replace(
            "temperature: float = 0.07", "temperature: float = 0.0700001"
        ),
        encoding="utf-8",
    )
    dino = tmp_path / "amodal" / "methods" / "distillation" / "dino.py"
    dino.write_text(
        dino.read_text(encoding="utf-8").replace(
            "center_momentum: float = 0.9,", "center_momentum: float = 0.8,"
        ),
        encoding="utf-8",
    )
    after = same_loss.trace(tmp_path, tmp_path / "after", "clip,dino,mae", 1, before)
    lines = verdicts(same_loss.compared(before, after))
    assert lines["mae"] == ("same", "")
    assert lines["clip"][0] == "differs" and "fixed/learned.log" in lines["clip"][1], (
        "it begins with the other weights"
    )
    assert lines["dino"][0] == "differs" and "1/after/centers" in lines["dino"][1], (
        "no loss of one step shows it"
    )


def test_a_trace_has_terms_gradients_buffers_and_embeddings(before):
    kinds = {same_loss.parts(key)[1] for key in load_file(before / "dino.safetensors")}
    assert kinds == set(same_loss.KINDS)


def made(folder, tensors, names=None):
    folder.mkdir()
    save_file(tensors, folder / "m.safetensors")
    if names:
        (folder / "m.json").write_text(json.dumps(names), encoding="utf-8")
    return folder


def test_names_are_mapped_and_tolerance_is_a_share_of_the_largest(tmp_path):
    one = torch.tensor([1.0, 100.0])
    old = made(
        tmp_path / "old",
        {"initial/a.b": one, "1/gradient/a.b": one.clone(), "1/term/x/a.b": one[0].clone()},
    )
    near = one + torch.tensor([5e-5, 0.0])
    tensors = {"initial/a.c": one, "1/gradient/a.c": near, "1/term/x/a.b": one[0].clone()}
    new = made(tmp_path / "new", tensors, {"a.b": "a.c"})
    assert "1/gradient/a.b: differs by" in verdicts(same_loss.compared(old, new))["m"][1]
    assert verdicts(same_loss.compared(old, new, 1e-6))["m"] == ("same", "")
    (new / "m.json").unlink()
    assert verdicts(same_loss.compared(old, new))["m"] == ("differs", "initial/a.b is gone")


def test_what_is_gone_new_or_fails(tmp_path):
    old, new = made(tmp_path / "old", {"1/term/x": torch.ones(())}), tmp_path / "new"
    new.mkdir()
    (new / "n.error").write_text("ValueError: no", encoding="utf-8")
    (old / "n.error").write_text("ValueError: no", encoding="utf-8")
    assert verdicts(same_loss.compared(old, new)) == {
        "m": ("gone", ""),
        "n": ("fails", "ValueError: no"),
    }
    save_file({"1/term/x": torch.ones(()), "1/term/y": torch.ones(())}, new / "m.safetensors")
    assert verdicts(same_loss.compared(old, new))["m"] == ("differs", "1/term/y is new")


def test_an_unknown_revision_is_an_error_and_leaves_nothing(tmp_path):
    with pytest.raises(SystemExit, match="no revision 'no-such-revision'"):
        same_loss.main(["no-such-revision", "--traces", str(tmp_path)])
    assert not list(tmp_path.iterdir())
