"""volume: matched and mixed tuples, counted by hand."""

import torch

from amodal.core import Column, Embeddings
from amodal.diagnose.volume import volume
from amodal.objectives.gram_volume import gram_volume


def embeddings(noise):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(12, 6, generator=generator)
    columns = {}
    for name, rows in (("a", range(12)), ("b", range(2, 12)), ("c", range(0, 11))):
        rows = torch.tensor(list(rows))
        columns[name] = Column(
            base[rows] + noise * torch.randn(len(rows), 6, generator=generator), rows
        )
    return Embeddings(columns, 12)


def test_each_set_of_fields_is_counted_over_its_own_records():
    found = {row["sources"]: row for row in volume(embeddings(0.5))}
    assert {s: row["n"] for s, row in found.items()} == {
        "a + b": 10,
        "a + c": 11,
        "b + c": 9,
        "a + b + c": 9,
    }
    _, vectors = embeddings(0.5).complete(["a", "b", "c"])
    true = gram_volume(vectors)
    mixed = gram_volume([vectors[0], vectors[1].roll(1, 0), vectors[2].roll(2, 0)])
    row = found["a + b + c"]
    assert (
        abs(row["matched"] - float(true.mean())) < 1e-5
        and abs(row["mixed"] - float(mixed.mean())) < 1e-5
    )
    assert abs(row["auroc"] - float((true[:, None] < mixed[None]).float().mean())) < 1e-5


def test_aligned_fields_are_detected_and_unrelated_ones_are_not():
    assert volume(embeddings(0.01))[-1]["auroc"] > 0.99
    assert 0.2 < volume(embeddings(1e4))[-1]["auroc"] < 0.8
