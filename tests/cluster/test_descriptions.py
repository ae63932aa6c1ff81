"""What is said of clusters is what sets them apart."""

import numpy as np

from amodal import data
from amodal.cluster.descriptions import cluster_words, descriptions
from amodal.data.attributes import Attributes


def described(columns, cluster, **options):
    records = data.open(columns)
    return descriptions(Attributes(records), records.keys, np.array(cluster), **options)


CLUSTER = [0] * 10 + [1] * 10


def test_cells_classes_and_columns_that_no_field_reads():
    rng = np.random.default_rng(0)
    rows = [
        {"mass": (4000 if c else 3000) + float(i % 5), "sex": "female" if i % 2 else "male"}
        for i, c in enumerate(CLUSTER)
    ]
    island = ["Dream" if c else "Biscoe" for c in CLUSTER]
    island[0] = "Dream"
    found = described({"body": rows, "noise": list(rng.normal(size=(20, 9, 1)))}, CLUSTER)
    assert found == {0: "mass 3002 (else 4002)", 1: "mass 4002 (else 3002)"}
    both = described({"body": [r | {"island": i} for r, i in zip(rows, island)]}, CLUSTER, most=2)
    assert both[0] == "mass 3002 (else 4002), island Biscoe 90% (else 0%)"
    assert both[1] == "mass 4002 (else 3002), island Dream 100% (else 10%)"


def test_numbers_have_as_many_digits_as_their_difference_takes():
    rows = [{"year": 2007.2 if c else 2008.5, "pay": 12_000.0 if c else 9_000.0} for c in CLUSTER]
    assert (
        described({"of": rows}, CLUSTER)[1] == "year 2007.2 (else 2008.5), pay 12,000 (else 9000)"
    )
    rows = [{"share": 0.0123 if c else 0.0157} for c in CLUSTER]
    assert described({"of": rows}, CLUSTER)[0] == "share 0.0157 (else 0.0123)"


def test_words_of_texts():
    ends = ("dog in the snow", "cat on the sofa")
    texts = [f"picture {i}: a {ends[0] if c else ends[1]}" for i, c in enumerate(CLUSTER)]
    found = described({"caption": texts}, CLUSTER, most=4)
    assert "words cat 100% (else 0%)" in found[0] and "words sofa 100% (else 0%)" in found[0]
    assert "words dog 100% (else 0%)" in found[1] and "the 1" not in found[1]


def test_nothing_is_said_where_nothing_sets_a_cluster_apart():
    rows = [{"mass": float(i % 5)} for i in range(20)]
    assert described({"body": rows}, CLUSTER) == {0: "", 1: ""}


def test_records_without_a_cluster_are_on_neither_side():
    rows = [{"mass": c + i % 3 / 10} for i, c in enumerate(CLUSTER)] + [{"mass": 1e6}] * 5
    found = described({"body": rows}, CLUSTER + [-1] * 5)
    assert found == {0: "mass 0.1 (else 1.1)", 1: "mass 1.1 (else 0.1)"}


def test_tiny_numbers():
    rows = [{"conc": 1e-9 if c else 3e-9} for c in CLUSTER]
    assert described({"of": rows}, CLUSTER)[0] == "conc 3e-09 (else 1e-09)"


def test_clusters_are_called_by_words_of_labels_and_texts():
    """Not by what few of their records have, however rare it is elsewhere."""
    animals = ("cat", "dog")
    texts = [f"picture {i}: a {animals[c]}" for i, c in enumerate(CLUSTER * 4)]
    texts[:4] = [f"{text} rare" for text in texts[:4]]
    rows = [{"mass": c + i % 3 / 10} for i, c in enumerate(CLUSTER * 4)]
    records = data.open({"caption": texts, "body": rows})
    kind = np.array(["pet" if c else None for c in CLUSTER * 4], dtype=object)
    cluster = np.array(CLUSTER * 4)
    words = cluster_words(Attributes(records), records.keys, cluster, {"kind": kind}, most=9)
    assert set(words[0].split(", ")) == {"cat", "low mass"}, "4 of 40 are rare"
    assert set(words[1].split(", ")) == {"dog", "high mass"}, "everybody with a label has the same"
    side = np.array(["left", "right"], dtype=object)[cluster]
    words = cluster_words(Attributes(records), records.keys, cluster, {"side": side}, most=1)
    assert words == {0: "left", 1: "right"}, "labels come first where all say the same"
    nothing = data.open({"body": [{"mass": float(i % 5)} for i in range(20)]})
    empty = cluster_words(Attributes(nothing), nothing.keys, np.array(CLUSTER), {})
    assert empty == {0: "", 1: ""}


def test_a_cluster_is_not_called_by_what_few_of_its_records_have_at_all():
    cluster = np.array(CLUSTER * 4)
    kind = np.where(cluster, "boat", "tree").astype(object)
    kind[np.flatnonzero(cluster)[4:]] = None  # 4 of 40 boats are known to be boats
    dataset = data.open({"body": [{"mass": float(i % 5)} for i in range(80)]})
    words = cluster_words(Attributes(dataset), dataset.keys, cluster, {"kind": kind})
    assert words == {0: "tree", 1: ""}
