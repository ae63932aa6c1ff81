"""Open-set retrieval (bioscan5m) against a loop, on classes of which some were never trained on."""

import csv
import json

import numpy as np
import pytest
import torch

import amodal
from amodal.cli import main
from amodal.core import Column, Embeddings
from amodal.evaluate import Embedded, NotApplicable
from amodal.evaluate.protocols.open_set import harmonic_mean, open_set

GENUS = {"ant": "A", "ape": "A", "bee": "B", "bat": "B", "cow": "C"}


def records(species, seed, noise=0.9, share=0.8):
    rng = np.random.default_rng(seed)
    centres = dict(zip(GENUS, np.random.default_rng(9).normal(size=(len(GENUS), 6))))
    own = np.stack([centres[s or "cow"] for s in species])
    columns = {}
    for source in ("image", "dna"):
        rows = np.sort(rng.permutation(len(species))[: round(share * len(species))])
        x = (own + rng.normal(0, noise, own.shape))[rows]
        columns[source] = Column(torch.tensor(x, dtype=torch.float32), torch.from_numpy(rows))
    z = Embeddings(columns, len(species))
    labels = {
        "species": np.array(species, dtype=object),
        "genus": np.array([GENUS.get(s) for s in species], dtype=object),
    }
    return Embedded([f"{seed}-{i}" for i in range(len(species))], z, z, labels)


def parts():
    rng = np.random.default_rng(0)
    train = records([*rng.choice(["ant", "bee"], 40), None, None], 1)
    test = records(
        [*rng.choice(["ant", "bee"], 30), *rng.choice(["ape", "bat", "cow"], 50), None], 2
    )
    role = np.full(len(test), "query", dtype=object)
    role[
        [
            i
            for i, s in enumerate(test.labels["species"])
            if s in ("ape", "bat", "cow") and i % 3 == 0
        ]
    ] = "key"
    test.labels["role"] = role
    return train, test


@pytest.mark.parametrize("label", ["species", "genus"])
def test_it_is_what_a_loop_finds(label):
    train, test = parts()
    result = open_set(train, test, label=label, by="species", role="role")
    for a in ("image", "dna"):
        for b in ("image", "dna"):
            keys = [
                (v, train.labels[label][r])
                for v, r in zip(train.aligned[b].values, train.aligned[b].rows)
                if train.labels["species"][r]
            ]
            keys += [
                (v, test.labels[label][r])
                for v, r in zip(test.aligned[b].values, test.aligned[b].rows)
                if test.labels["role"][r] == "key"
            ]
            hits = {"seen": {}, "unseen": {}}
            for v, r in zip(test.aligned[a].values, test.aligned[a].rows):
                species = test.labels["species"][r]
                if species is None or test.labels["role"][r] == "key":
                    continue
                cosine = [float(torch.cosine_similarity(v, k, dim=0)) for k, _ in keys]
                truth = test.labels[label][r]
                group = "seen" if species in ("ant", "bee") else "unseen"
                hits[group].setdefault(truth, []).append(keys[int(np.argmax(cosine))][1] == truth)
            micro = {g: np.mean(sum(h.values(), [])) for g, h in hits.items()}
            macro = {g: np.mean([np.mean(x) for x in h.values()]) for g, h in hits.items()}
            for kind, value in (("top-1", micro), ("macro top-1", macro)):
                for group in hits:
                    assert result.value(a, f"{kind}, {group}", target=b) == pytest.approx(
                        value[group]
                    )
                expected = 2 / (1 / value["seen"] + 1 / value["unseen"])
                assert result.value(a, f"{kind}, harmonic mean", target=b) == pytest.approx(
                    expected
                )


def test_chance_is_what_a_random_key_gives():
    train, test = parts()
    row = next(
        r
        for r in open_set(train, test, label="species", role="role").rows
        if r["metric"] == "top-1, seen"
    )
    keys = [
        train.labels["species"][r]
        for r in train.aligned["image"].rows
        if train.labels["species"][r]
    ]
    keys += [
        test.labels["species"][r]
        for r in test.aligned["image"].rows
        if test.labels["role"][r] == "key"
    ]
    asked = [
        test.labels["species"][r]
        for r in test.aligned["image"].rows
        if test.labels["species"][r] in ("ant", "bee")
    ]
    assert row["chance"] == pytest.approx(np.mean([keys.count(s) / len(keys) for s in asked]))
    assert row["n"] == len(asked)


def test_without_roles_half_of_each_unseen_class_are_keys_whatever_the_order():
    train, test = parts()
    found = open_set(train, test, label="species")
    unseen = [s for s in test.labels["species"] if s in ("ape", "bat", "cow")]
    asked = sum(
        len([s for s in unseen if s == c]) - len([s for s in unseen if s == c]) // 2
        for c in set(unseen)
    )
    whole = records(list(test.labels["species"]), 2, share=1.0)
    row = next(
        r for r in open_set(train, whole, label="species").rows if r["metric"] == "top-1, unseen"
    )
    assert row["n"] == asked
    assert found.spec["by"] == "species"


def test_what_cannot_be_asked_is_refused_with_a_reason():
    train, _ = parts()
    with pytest.raises(NotApplicable, match="was in training"):
        open_set(train, train, label="species")
    assert harmonic_mean(0, 0) == 0 and harmonic_mean(0.5, 0) == 0


def test_a_table_with_barcodes_ranks_and_roles_is_measured_by_the_verb(tmp_path, monkeypatch):
    """The columns of BIOSCAN-5M, with `part` and `role` made of its split (docs/evaluating.md)."""
    rng = np.random.default_rng(3)
    kinds = [f"Genus{g} species{s}" for g in range(3) for s in range(3)]
    barcode = {kind: rng.choice(list("ACGT"), 80) for kind in kinds}
    rows = []
    for i in range(144):
        kind = kinds[i % 9]
        unseen = i % 3 == 2
        letters = np.where(rng.random(80) < 0.03, "N", barcode[kind])
        part = "test" if unseen else "train" if i % 4 else "test"
        known = part == "test" or i % 8 != 1
        rows.append(
            {
                "processid": f"P{i}",
                "dna_barcode": "".join(letters),
                "genus": kind.split()[0],
                "species": kind if known else "",
                "part": part,
                "role": "key" if unseen and i % 2 else "query",
            }
        )
    with open(tmp_path / "specimens.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    monkeypatch.chdir(tmp_path)
    main(["init", "specimens.csv"])
    data = amodal.open(tmp_path / "specimens.csv")
    assert data.fields["dna_barcode"].k == 4
    amodal.pretrain(
        "mae", data, "run", fields=["dna_barcode"], size="nano", steps=1, progress=False
    )
    main(
        [
            *("evaluate", "run", "--data", "specimens.csv", "--protocols", "open_set"),
            *("--label", "genus", "--protocol.by", "species", "--protocol.role", "role"),
            *("--json", "report.json"),
        ]
    )
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["results"][0]["rows"]
    counted = {row["metric"]: row["n"] for row in found}
    measured = [rows[i] for part in ("valid", "test") for i in data.split(part)]  # few: both
    unseen = [r for r in measured if r["species"].endswith("2") and r["role"] == "query"]
    assert counted["top-1, unseen"] == len(unseen)
    seen = [r for r in measured if r["species"] and not r["species"].endswith("2")]
    assert counted["top-1, seen"] == len(seen)
    best = next(r for r in found if r["metric"] == "macro top-1, harmonic mean")
    assert best["value"] > 0.9 > 0.5 > best["chance"]
