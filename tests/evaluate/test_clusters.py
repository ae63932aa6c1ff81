"""Ward and adjusted mutual information against scikit-learn, and the protocol on vectors whose
classes are known."""

import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_mutual_info_score

from amodal.evaluate import NotApplicable
from amodal.evaluate.protocols.cluster import cluster
from amodal.stats.clustering import adjusted_mutual_information, ward
from tests.evaluate.made import made


@pytest.mark.parametrize("n, clusters", [(2, 1), (7, 7), (60, 5), (150, 40), (150, 1)])
def test_ward_is_scikit_learns(n, clusters):
    x = np.random.default_rng(n).normal(size=(n, 4)) * [1, 2, 3, 0.1]
    ours, theirs = (
        ward(x, clusters),
        AgglomerativeClustering(clusters, linkage="ward").fit_predict(x),
    )
    assert len(set(ours)) == clusters
    assert (np.equal.outer(ours, ours) == np.equal.outer(theirs, theirs)).all()


def test_ward_of_equal_rows_and_of_impossible_numbers():
    assert len(set(ward(np.zeros((5, 2)), 3))) == 3
    for clusters in (0, 6):
        with pytest.raises(ValueError, match="cannot make"):
            ward(np.zeros((5, 2)), clusters)


@pytest.mark.parametrize("classes", [(3, 3), (20, 4), (50, 50), (1, 4), (1, 1)])
def test_agreement_is_scikit_learns(classes):
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, k, 80) for k in classes)
    half = np.where(np.arange(80) < 40, a, b)
    for one, other in ((a, b), (a, half), (a, a)):
        assert adjusted_mutual_information(one, other) == pytest.approx(
            adjusted_mutual_info_score(one, other), abs=1e-9
        )
    apart = np.arange(80)
    assert adjusted_mutual_information(apart, apart) == 1


def test_the_protocol_finds_the_classes_of_each_source_and_of_all_side_by_side():
    result = cluster(None, made(share=0.8), label="kind")
    assert [r["source"] for r in result.rows] == ["image", "sound", "image+sound"]
    assert all(r["value"] > 0.6 for r in result.rows)
    assert result.rows[2]["n"] < result.rows[0]["n"] == 240
    assert cluster(None, made(), label="kind", most=50).rows[0]["n"] == 50
    shuffled = made()
    np.random.default_rng(0).shuffle(shuffled.labels["kind"])
    assert abs(cluster(None, shuffled, label="kind").value("image", "AMI")) < 0.05
    with pytest.raises(NotApplicable, match="is a number"):
        cluster(None, made(), label="size")
