"""chrF against sacrebleu, where it is installed, and by hand."""

import pytest

from amodal.stats.chrf import chrf

TEXTS = ["Eine rote Katze.", "Der Hund", "", "Ein", "völlig anders 42"]
REFERENCES = ["Eine rote Katze.", "Ein großer Hund.", "Ein Haus.", "Ein Baum", "Das ist Ärger"]


@pytest.mark.parametrize("options", [{}, {"longest": 4, "beta": 1.0}])
def test_as_sacrebleu_counts(options):
    sacrebleu = pytest.importorskip("sacrebleu")
    peer = sacrebleu.CHRF(char_order=options.get("longest", 6), beta=int(options.get("beta", 2)))
    for some in (slice(None), slice(1, 2), slice(3, 4)):
        theirs = peer.corpus_score(TEXTS[some], [REFERENCES[some]]).score
        assert 100 * chrf(TEXTS[some], REFERENCES[some], **options) == pytest.approx(
            theirs, abs=1e-9
        )


def test_by_hand():
    # runs of 1: a b / a c share one of two each way; runs of 2: ab / ac share none; P = R = (1/2 +
    # 0) / 2
    assert chrf(["a b"], ["ac"]) == pytest.approx(0.25)
    assert (
        chrf(["abc"], ["abc"]) == 1
        and chrf(["x"], ["y"]) == 0
        and chrf([], []) == 0
        and chrf([""], ["a"]) == 0
    )
    with pytest.raises(ValueError, match="1 texts and 2"):
        chrf(["a"], ["a", "b"])
