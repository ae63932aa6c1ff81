"""Insects that never were: 3,000 specimens of 144 species on one generated tree, as picture,
barcode, names, and place.

Source: computed here, the same in every process. Licence: CC0-1.0. Stands in for BIOSCAN-5M
(arXiv:2406.12723), which no package holds, with the truth known. A birth-death tree is cut into 6
orders, 18 families and 48 genera. `dna`: 402 sites that evolve under K80 (kappa 4; the third
position of a codon six times as fast as the first), with variation inside a species, unknown
letters, gaps, cut ends and, in a third, late beginnings. `image`: 48 pixels, drawn from twelve
traits in Brownian motion on the same tree, with variation, turned and moved. `names`: order,
family, genus, species, as far as they are known. `place`: latitude, longitude and size, which drift
along the tree too; a fifth missing.

Split as there: of most specimens of a seen species only upper ranks are known (`role` pretrain), of
some the species (train, valid, test); a quarter of the species occurs in no training record: half
of their specimens are keys, half queries. Labels `order` to `species` are what is known,
`true_genus` and `true_species` what is so. Abundance is uneven. Left out: hybrids, sexes,
insertions, wrong labels.
"""

import colorsys
import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from amodal.data.sets.shared.writing import describe, field, records
from amodal_claims.sets.shared import evolution as _evolution

PACKAGES = ()
LICENCE = "CC0-1.0"
RECORDS, SPECIES = 3000, 144
RANKS = {"order": 6, "family": 18, "genus": 48}
SITES, KAPPA, DIVERGENCE, WITHIN = 402, 4.0, 0.3, 0.004
POSITIONS = (0.41, 0.12, 2.47)  # relative rates of the three positions of a codon
ROOT = (0.3, 0.16, 0.16, 0.38)  # of A, C, G, T: rich in A and T, as in insects
UNSEEN, LEAST = 0.25, 6
ROLES = {"pretrain": 0.6, "train": 0.2, "valid": 0.05, "test": 0.15}
KNOWN = {"order": 1.0, "family": 0.7, "genus": 0.3, "species": 0.0}  # of specimens to pre-train on
TRAITS, VARIATION = 12, 0.15
SIDE, OVERSAMPLED = 48, 4
LETTERS = np.array(list("ACGT"))


def write(out: Path, archives: list[Path]) -> None:
    rows = specimens()
    places = [row.pop("place") for row in rows]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    records(
        out,
        columns
        | {name: [p and p[name] for p in places] for name in ("latitude", "longitude", "size")},
    )
    describe(
        out,
        {
            "image": field("image", size=SIDE, channels=3, patch=12),
            "dna": field("sequence", k=4, max_length=104),
            "names": field("text", max_length=24, patch=3),
            "place": field("table", columns=["latitude", "longitude", "size"]),
        },
        dict.fromkeys([*RANKS, "species", "role", "true_genus", "true_species"], "category"),
        title="Generated insects on one tree",
        licence=LICENCE,
        split="split",
    )


def specimens(seed: int = 28) -> list[dict[str, Any]]:
    """All records, from one random generator."""
    rng = np.random.default_rng(seed)
    tree = _evolution.birth_death(rng, SPECIES)
    clades = {rank: tree.clades(count) for rank, count in RANKS.items()} | {
        "species": np.arange(SPECIES)
    }
    names = {rank: _named(rank, len(np.unique(of)), rng) for rank, of in clades.items()}
    rate = DIVERGENCE * np.tile(POSITIONS, SITES // 3)
    root = rng.choice(4, SITES, p=ROOT)
    barcode = _evolution.sequences(tree, root, rate, rng, kappa=KAPPA)[tree.tips]
    appearance = _evolution.traits(tree, TRAITS, rng)[tree.tips]
    home = _evolution.traits(tree, 2, rng)[tree.tips] * [12, 40] + [45, -80]
    unseen = _unseen(clades["genus"], rng)
    many = rng.lognormal(0, 0.8, SPECIES)
    count = LEAST + rng.multinomial(RECORDS - LEAST * SPECIES, many / many.sum())
    rows, specimen_count = [], [0] * SPECIES
    for s in np.repeat(np.arange(SPECIES), count):
        role = str(
            rng.choice(("key", "query"))
            if unseen[s]
            else rng.choice(list(ROLES), p=list(ROLES.values()))
        )
        # Each species has at least one record by which it can be recognised.
        first = (("key", "query") if unseen[s] else ("train",))[specimen_count[s] :]
        role, specimen_count[s] = (first[0] if first else role), specimen_count[s] + 1
        truth = {rank: names[rank][of[s]] for rank, of in clades.items()}
        truth["species"] = f"{truth['genus']} {truth['species']}"
        # One draw for all ranks: if a rank is unknown, so are the lower ones.
        depth = rng.random() if role == "pretrain" else -1.0
        seen = {rank: name if depth < KNOWN[rank] else None for rank, name in truth.items()}
        seen_appearance = appearance[s] + VARIATION * rng.standard_normal(TRAITS)
        where = home[s] + rng.standard_normal(2) * [2, 5]
        place = {
            "latitude": where[0],
            "longitude": where[1],
            "size": float(4 * np.exp(0.5 * seen_appearance[0])),
        }
        rows.append(
            {
                "image": picture(seen_appearance, rng),
                "dna": sequenced(barcode[s], rate, rng),
                "names": " ".join(
                    n for r, n in seen.items() if n and not (r == "genus" and seen["species"])
                ),
                "place": place if rng.random() > 0.2 else None,
                **seen,
                "role": role,
                "split": {"pretrain": "train", "train": "train", "valid": "valid"}.get(
                    role, "test"
                ),
                "true_genus": truth["genus"],
                "true_species": truth["species"],
            }
        )
    order = rng.permutation(len(rows))
    return [{"key": f"specimen-{k:04d}"} | rows[i] for k, i in enumerate(order)]


def _unseen(genus: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(S,) bool: species to hold out, each from a genus that keeps another."""
    unseen = np.zeros(len(genus), dtype=bool)
    for s in rng.permutation(len(genus)):
        others = (genus == genus[s]) & ~unseen
        if unseen.sum() < UNSEEN * len(genus) and others.sum() > 1:
            unseen[s] = True
    return unseen


def sequenced(barcode: np.ndarray, rate: np.ndarray, rng: np.random.Generator) -> str:
    """One specimen's barcode.

    It has a few substitutions. One letter in 200 is unknown, one barcode in 50 has a gap, one in
    ten is cut short at the end, and one in three lacks up to 30 of the first sites.

    Args:
        barcode: (SITES,) codes of A, C, G, T, of the species.
        rate: (SITES,) of substitution.
        rng: of what is random.
    """
    codes = _evolution.mutated(barcode, rate * (WITHIN / DIVERGENCE), rng, kappa=KAPPA)
    letters = np.where(rng.random(SITES) < 0.005, "N", LETTERS[codes])
    if rng.random() < 0.02:
        gap = int(rng.integers(SITES // 3)) * 3
        letters[gap : gap + 3] = "-"
    first = int(rng.integers(1, 31)) if rng.random() < 1 / 3 else 0
    return "".join(
        letters[first : SITES - (int(rng.integers(20, 80)) if rng.random() < 0.1 else 0)]
    )


def picture(appearance: np.ndarray, rng: np.random.Generator) -> bytes:
    """Draw an insect from above, with wings, legs, feelers and stripes.

    Args:
        appearance: (TRAITS,).
        rng: of light, noise, rotation and position.

    Returns:
        A PNG.
    """
    share = 1 / (1 + np.exp(-1.6 * appearance))  # each trait in its range
    long, wide, head, thorax, wing, wing_wide, leg, feeler, hue, light, stripes, veil = share
    s = SIDE * OVERSAMPLED
    grey = int(rng.integers(205, 245))
    canvas = Image.new("RGBA", (s, s), (grey, grey, grey, 255))
    body = tuple(int(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.75, 0.25 + 0.6 * light))
    dark = tuple(c // 3 for c in body)
    half, width = s * (0.14 + 0.16 * long), s * (0.035 + 0.075 * wide)
    x, top = s / 2, s / 2 - half
    middle = top + 2 * half * (0.25 + 0.25 * thorax)
    draw = ImageDraw.Draw(canvas)
    for side in (-1, 1):
        for k in range(3):
            y, reach = top + (0.3 + 0.25 * k) * 2 * half * 0.6, s * (0.06 + 0.2 * leg)
            draw.line(
                [
                    x,
                    y,
                    x + side * (width + reach * 0.6),
                    y + (k - 1) * reach * 0.5,
                    x + side * (width + reach),
                    y + (k - 0.5) * reach,
                ],
                fill=dark,
                width=5,
            )
        draw.line(
            [x, top, x + side * s * 0.03, top - s * (0.03 + 0.15 * feeler)], fill=dark, width=4
        )
    layer = Image.new("RGBA", (s, s))
    wings = ImageDraw.Draw(layer)
    tint = tuple(int(255 * c) for c in colorsys.hsv_to_rgb((hue + 0.5 * veil) % 1, 0.35, 0.9))
    for side in (-1, 1):
        far, deep = side * s * (0.1 + 0.3 * wing), s * (0.06 + 0.22 * wing_wide)
        near_x, far_x = sorted((x, x + far))
        wings.ellipse(
            [near_x, middle - deep / 2, far_x, middle + deep],
            fill=(*tint, int(90 + 150 * veil)),
            outline=(*dark, 255),
            width=3,
        )
    canvas = Image.alpha_composite(canvas, layer)
    draw = ImageDraw.Draw(canvas)
    draw.ellipse([x - width, middle - width, x + width, s / 2 + half], fill=body)
    for k in range(int(6 * stripes)):
        y = middle + (k + 1) * (s / 2 + half - middle) / 7
        draw.line([x - 0.7 * width, y, x + 0.7 * width, y], fill=dark, width=7)
    draw.ellipse(
        [x - 0.8 * width, top + 0.3 * (middle - top), x + 0.8 * width, middle + 0.5 * width],
        fill=dark,
    )
    size = width * (0.5 + 0.6 * head)
    draw.ellipse([x - size, top - size * 0.3, x + size, top + size * 1.7], fill=body)
    turned = canvas.rotate(
        rng.uniform(-30, 30),
        Image.Resampling.BILINEAR,
        translate=tuple(rng.uniform(-0.06, 0.06, 2) * s),
        fillcolor=(grey,) * 3,
    )
    pixels = np.asarray(turned.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)).astype(
        float
    )
    noisy = np.clip(
        pixels * rng.uniform(0.85, 1.1) + rng.normal(0, 4, pixels.shape), 0, 255
    ).astype(np.uint8)
    packed = io.BytesIO()
    Image.fromarray(noisy).save(packed, "PNG")
    return packed.getvalue()


ONSETS, VOWELS = tuple("b c d f g l m n p r s t v".split()), tuple("a e i o u".split())
ENDINGS = {
    "order": ("ptera",),
    "family": ("idae",),
    "genus": ("us", "a", "ix", "on"),
    "species": ("ensis", "alis", "ata", "ina", "osa"),
}


def _named(rank: str, count: int, rng: np.random.Generator) -> list[str]:
    """Different names that sound like the rank."""
    names: dict[str, None] = {}
    while len(names) < count:
        stem = "".join(str(rng.choice(ONSETS)) + str(rng.choice(VOWELS)) for _ in range(2)) + str(
            rng.choice(ONSETS)
        )
        name = stem + str(rng.choice(ENDINGS[rank]))
        names[name if rank == "species" else name.capitalize()] = None
    return list(names)
