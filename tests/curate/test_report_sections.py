"""Sections and sentences of reports."""

from amodal.curate.report_sections import report_sections, sentences_about

REPORT = """CT of the chest without contrast.
INDICATION: cough.
 Findings: Ground-glass opacities in both bases. No effusion.
Mild reticulation; see comparison: none.
LUNGS AND AIRWAYS: Honeycombing is absent.

Impression : Probable UIP.
findings: addendum."""


def test_sections_by_heading_in_any_case_and_in_order():
    found = report_sections(REPORT)
    assert list(found) == ["", "indication", "findings", "lungs and airways", "impression"]
    assert found[""] == "CT of the chest without contrast." and found["indication"] == "cough."
    assert found["findings"].startswith("Ground-glass") and found["findings"].endswith("addendum.")
    assert "comparison: none" in found["findings"], "a heading begins a line"
    assert (
        found["lungs and airways"] == "Honeycombing is absent."
        and found["impression"] == "Probable UIP."
    )
    assert report_sections("nothing here") == {"": "nothing here"} and report_sections("") == {}
    assert report_sections("A: 1\nB: 2", headings=("b",)) == {"": "A: 1", "b": "2"}


def test_sentences_in_which_a_word_stands_as_a_whole():
    text = "Ground-glass opacities in both bases. No effusion.\nThe lungs are clear. A plunge of 3.5 mm."
    assert sentences_about(text, ["lung"]) == ["The lungs are clear."]
    assert sentences_about(text, ["ground-glass", "effusion"]) == [
        "Ground-glass opacities in both bases.",
        "No effusion.",
    ]
    assert sentences_about(text, ["bone"]) == []
