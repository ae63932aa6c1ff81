"""Small samples of `python -m benchmarks.faults`, whose full counts stand in docs/robustness.md."""

import sys

import pytest

from benchmarks.faults import fuzz, kills, media


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_of_every_kind_are_quarantined_or_as_their_format_allows(tmp_path):
    found = media.run(350, tmp_path, seed=3, apart=False, shown=False)
    assert not found["wrong"]
    assert (
        found["outcomes"]["quarantined"] > 150
        and sum(found["outcomes"].values()) == found["files"] >= 280
    )


def test_what_is_undamaged_is_not_called_damaged(tmp_path):
    """The judge of the test above sees differences: a lost value, a changed one, one that is
    missing in the file."""
    case = {"key": "a", "ending": ".png", "damage": "bits", "before": "1", "checked": True}
    entry = {"bad": "", "value": "1", "grown": 0}
    assert media.judge(case, entry, set()) == ("same", "")
    assert (
        media.judge(case, entry | {"value": "2"}, set())[1]
        == "a changed value in a format with checksums"
    )
    assert media.judge(case | {"checked": False}, entry | {"value": "2"}, set()) == ("changed", "")
    assert media.judge(case, entry | {"value": ""}, set())[1] == "lost without a word"
    assert (
        media.judge(case, entry | {"bad": "why", "value": ""}, set())[1]
        == "not in the quarantine file"
    )
    assert media.judge(case, {"fault": "hang"}, set()) == ("fault", "hang")


def test_a_run_killed_at_a_random_moment_ends_as_a_straight_one(tmp_path):
    found = kills.run(
        {"pretrain": 1}, tmp_path, seed=4, records=8, steps=24, twice=False, shown=False
    )
    assert not found["pretrain"]["wrong"] and found["pretrain"]["kills"] >= 1


@pytest.mark.skipif(sys.platform != "linux", reason="libFuzzer is on Linux")
def test_the_fuzzer_runs_and_finds_what_is_there_to_find(tmp_path):
    pytest.importorskip("atheris")
    found = fuzz.run(2, tmp_path, names=("table",), shown=False)
    assert not found["wrong"] and found["all_inputs"] > 100
