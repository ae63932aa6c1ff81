"""scripts/same_loss.py sees a changed loss, and nothing where none changed."""

import shutil

from scripts import same_loss


def test_a_changed_loss_is_seen(tmp_path):
    for part in ("amodal", "tests"):
        shutil.copytree(
            same_loss.ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("bundled", "ledger", "__pycache__")
        )
    page = tmp_path / "amodal" / "methods" / "contrastive" / "clip.py"
    page.write_text(page.read_text().replace("temperature: float = 0.07", "temperature: float = 0.0700001"))
    before, after = (same_loss.losses(code, "clip,mae", 1) for code in (same_loss.ROOT, tmp_path))
    lines = {name: (verdict, shown) for name, verdict, shown in same_loss.compared(before, after)}
    assert lines["mae"] == ("same", "")
    assert lines["clip"][0] == "differs" and "info_nce" in lines["clip"][1]


def test_verdicts():
    old = {"a": [["1 x", "0x1p+0"]], "b": [["1 x", "0x1p+0"]], "c": [["error", "no"]], "d": []}
    new = {"a": [["1 x", "0x1p+0"]], "b": [["1 x", "0x1.0000000000001p+0"]], "c": [["error", "no"]], "e": []}
    verdicts = {name: verdict for name, verdict, _ in same_loss.compared(old, new)}
    assert verdicts == {"a": "same", "b": "differs", "c": "fails in both", "d": "gone", "e": "new"}


def test_an_unknown_revision_is_an_error_and_leaves_nothing(capsys):
    try:
        same_loss.main(["no-such-revision"])
    except SystemExit as stop:
        assert "no revision 'no-such-revision'" in str(stop.code)
    else:
        raise AssertionError("it went on")
