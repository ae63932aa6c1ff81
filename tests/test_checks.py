"""The audit tells a clean bill from no answer; types of what people call are right."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import audit

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], 0, "1 of 1 packages looked up, 0 with"),
        (
            [{"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]}],
            1,
            "a 1: X-1, mended in 2",
        ),
        ([{"name": "a", "skip_reason": "could not be audited"}], 2, "NOT DONE"),
        (
            [{"name": c, "version": "1", "vulns": []} for c in "abc"]
            + [{"name": "d", "skip_reason": "?"}],
            2,
            "NOT COMPLETE",
        ),
        (None, 2, "could not be asked: no route"),
    ],
)
def test_no_answer_is_not_a_clean_bill(answer, code, words, tmp_path, capsys):
    fake = tmp_path / "fake.py"
    said = "" if answer is None else json.dumps({"dependencies": answer})
    fake.write_text(
        f"import sys; print({said!r}); print('no route', file=sys.stderr); sys.exit({int(code == 1)})",
        encoding="utf-8",
    )
    assert audit.main((sys.executable, str(fake))) == code
    captured = capsys.readouterr()
    assert words in captured.out + captured.err


@pytest.mark.slow  # `make lint` asks the first half
def test_types_of_what_people_call(tmp_path):
    """And a mistake in using it is seen, which it is only if the package says that it has types."""
    pytest.importorskip("mypy")
    user = tmp_path / "user.py"
    user.write_text("import amodal\n\nmodel: amodal.Model = amodal.load(3)\n", encoding="utf-8")
    own = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True)
    assert own.returncode == 0, own.stdout
    config = ["--ignore-missing-imports", "--follow-imports", "silent", "--config-file", ""]
    used = subprocess.run(
        [sys.executable, "-m", "mypy", *config, str(user)], cwd=ROOT, capture_output=True, text=True
    )
    assert 'incompatible type "int"' in used.stdout, used.stdout
