"""Evolution against what is known in closed form, and the generated insects against their own
labels."""

import numpy as np
import pytest
from amodal_claims.sets import phylogeny
from amodal_claims.sets.shared import evolution
from scipy.linalg import expm


@pytest.mark.parametrize("length", [0.01, 0.3, 4.0])
def test_k80_is_the_exponential_of_its_rates(length):
    kappa = 4.0
    rates = np.full((4, 4), 1.0)
    rates[np.arange(4), evolution.TRANSITION] = kappa
    np.fill_diagonal(rates, 0)
    np.fill_diagonal(rates, -rates.sum(1))
    exact = expm(rates * length / -rates[0, 0])
    transition, transversion = evolution.k80(length, kappa)
    np.testing.assert_allclose(transition, exact[0, 2], atol=1e-12)
    np.testing.assert_allclose(transversion, exact[0, 1] + exact[0, 3], atol=1e-12)


def test_mutations_come_as_often_as_they_should_and_to_the_right_letters():
    rng, before = np.random.default_rng(0), np.repeat(np.arange(4), 20_000)
    after = evolution.mutated(before, 0.5, rng, kappa=4.0)
    transition, transversion = evolution.k80(0.5, 4.0)
    for letter, other in enumerate(evolution.TRANSITION):
        shares = np.bincount(after[before == letter], minlength=4) / 20_000
        assert shares[other] == pytest.approx(transition, abs=0.01)
        assert shares[letter] == pytest.approx(1 - transition - transversion, abs=0.01)
        assert shares[evolution.TRANSVERSIONS[letter]] == pytest.approx(
            np.full(2, transversion / 2), abs=0.01
        )


def test_a_tree_has_its_tips_and_nested_clades():
    tree = evolution.birth_death(np.random.default_rng(3), 40)
    assert len(tree.tips) == 40 and tree.end[tree.tips] == pytest.approx(np.ones(40))
    assert (tree.start[1:] == tree.end[tree.parent[1:]]).all() and (
        tree.parent < np.arange(len(tree.parent))
    ).all()
    few, many = tree.clades(5), tree.clades(17)
    assert len(set(few)) == 5 and len(set(many)) == 17
    assert len(set(zip(few, many))) == 17  # no small clade lies in two large ones


def test_traits_of_close_kin_are_alike_as_far_as_the_tree_says():
    tree = evolution.birth_death(np.random.default_rng(3), 12)
    x = evolution.traits(tree, 20_000, np.random.default_rng(0))[tree.tips]
    shared = np.zeros((12, 12))
    for i, a in enumerate(tree.tips):
        for j, b in enumerate(tree.tips):
            shared[i, j] = max(tree.end[n] for n in tree.line(a) if n in tree.line(b))
    np.testing.assert_allclose(x @ x.T / x.shape[1], shared, atol=0.05)


@pytest.fixture(scope="module")
def rows():
    phylogeny_records, phylogeny.RECORDS = phylogeny.RECORDS, 900
    try:
        return phylogeny.specimens()
    finally:
        phylogeny.RECORDS = phylogeny_records


def test_unseen_species_are_never_trained_on_and_every_species_can_be_known(rows):
    of = {}
    for row in rows:
        of.setdefault(row["true_species"], set()).add(row["role"])
        assert (row["split"] == "train") == (row["role"] in ("train", "pretrain"))
    assert len(of) == phylogeny.SPECIES
    unseen = {s for s, roles in of.items() if "key" in roles}
    assert 0.2 < len(unseen) / len(of) < 0.3
    for species, roles in of.items():
        assert (
            roles == {"key", "query"}
            if species in unseen
            else "train" in roles and not roles & {"key", "query"}
        )
    seen_genera = {row["true_genus"] for row in rows if row["role"] == "train"}
    assert {row["true_genus"] for row in rows} == seen_genera


def test_ranks_are_known_from_the_top_down_and_names_say_what_is_known(rows):
    for row in rows:
        known = [row[rank] for rank in (*phylogeny.RANKS, "species")]
        assert known[0] and all(above for above, below in zip(known, known[1:]) if below)
        assert row["species"] in (None, row["true_species"]) and row["genus"] in (
            None,
            row["true_genus"],
        )
        assert (row["species"] is None) == (row["role"] == "pretrain")
        assert len(row["dna"]) >= phylogeny.SITES - 110
        assert row["names"].split() == list(dict.fromkeys(" ".join(k for k in known if k).split()))


def test_barcodes_are_nearer_inside_a_species_than_a_genus_than_anything(rows):
    rng, apart = np.random.default_rng(0), {"species": [], "genus": [], "none": []}
    for i, j in rng.integers(len(rows), size=(6000, 2)):
        a, b = rows[i], rows[j]
        if (
            i == j
            or "-" in a["dna"] + b["dna"]
            or min(len(a["dna"]), len(b["dna"])) < phylogeny.SITES
        ):
            continue  # not aligned
        kin = (
            "species"
            if a["true_species"] == b["true_species"]
            else "genus"
            if a["true_genus"] == b["true_genus"]
            else "none"
        )
        apart[kin].append(
            np.mean([x != y for x, y in zip(a["dna"], b["dna"]) if "N" not in (x, y)])
        )
    assert (
        np.mean(apart["species"]) < 0.02 < np.mean(apart["genus"]) < 0.08 < np.mean(apart["none"])
    )
