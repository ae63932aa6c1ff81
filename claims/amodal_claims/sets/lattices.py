"""2,000 generated binary lattices: structure, density of states, charge density and description,
all exact.

Source: computed here, the same in every process. Licence: CC0-1.0. Each record is an 8 x 8 periodic
square lattice of two of eight made-up elements, an element being an on-site energy and an orbital
radius, in one of four orders with some sites swapped. Its one-orbital tight-binding Hamiltonian
(hopping -sqrt(r_i r_j) between neighbours, in units of t) is diagonalised at the two inequivalent
points of a 2 x 2 mesh, at half filling. `structure`: 8 x 8 picture of on-site energy (red) and
radius (green); `dos`: states a site and unit of energy at 64 energies from -7 to 7, broadened by
0.15; `charge`: electrons a site (0 black, 2 white), missing for a quarter of the records; `text`:
elements, share, order and disorder in words. Labels are the truth: band `gap` (0 for metals) and
`energy` a site in t, the elements, the share of the second, the order. Left out: spin, interaction,
relaxation.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from amodal.data.schema import Label
from amodal.data.sets.shared.writing import describe, field, records

PACKAGES = ()
LICENCE = "CC0-1.0"
RECORDS, SIDE = 2000, 8
ELEMENTS = {  # on-site energy in t, orbital radius
    "Ara": (-2.4, 0.7), "Bel": (-1.7, 1.1), "Cor": (-1.0, 0.8), "Dun": (-0.3, 1.2),
    "Eos": (0.4, 0.6), "Fir": (1.1, 1.0), "Gal": (1.8, 0.75), "Hes": (2.5, 1.15),
}  # fmt: skip
ORDERS = ("checkerboard", "stripes", "clusters", "random")
ENERGIES = np.linspace(-7, 7, 64)
BROADENING = 0.15
POINTS = ((0.25, 0.25), (0.25, -0.25))  # in turns; the other two of the mesh have the same energies


def write(out: Path, archives: list[Path]) -> None:
    rows = [record(i) for i in range(RECORDS)]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    columns["dos"] = pa.array(
        [d.astype(np.float32) for d in columns["dos"]], pa.list_(pa.float32())
    )
    records(out, columns)
    small = {"size": SIDE, "patch": 2}
    describe(
        out,
        {
            "structure": field("image", channels=3, **small),
            "dos": field("series", channels=["density"], patch=4),
            "charge": field("image", channels=1, **small),
            "text": field("text", patch=4),
        },
        {
            "gap": Label("number", unit="t"),
            "energy": Label("number", unit="t"),
            "first": "category",
            "second": "category",
            "share": Label("number"),
            "order": "category",
        },
        title="Generated binary lattices with exact electronic structure",
        licence=LICENCE,
    )


def record(i: int) -> dict[str, Any]:
    """Record i: its key, fields and labels."""
    rng = np.random.default_rng([46, i])
    names = [str(n) for n in rng.choice(list(ELEMENTS), 2, replace=False)]
    order = ORDERS[rng.integers(len(ORDERS))]
    species, swapped = arrange(order, rng)
    onsite, radius = (np.array([ELEMENTS[n][k] for n in names])[species] for k in (0, 1))
    energies, density = solve(onsite, radius)
    occupied = SIDE * SIDE // 2
    levels = energies.ravel()
    dos = np.exp(-0.5 * ((ENERGIES[:, None] - levels) / BROADENING) ** 2).sum(1)
    dos /= BROADENING * np.sqrt(2 * np.pi) * levels.size
    share = float(species.mean())
    disorder = (
        ""
        if order == "random"
        else f", {swapped:.0%} of its sites swapped"
        if swapped
        else ", perfect"
    )
    return {
        "key": f"lattice-{i:04d}",
        "structure": _png(
            np.stack([(onsite + 3) / 6, radius / 1.5, np.full_like(onsite, 0.5)], -1)
        ),
        "dos": dos,
        "charge": _png(density / 2) if rng.random() > 0.25 else None,
        "text": f"A lattice of {names[0]} and {names[1]}, {share:.0%} {names[1]}. "
        f"Order: {order}{disorder}.",
        "gap": max(float(energies[:, occupied].min() - energies[:, occupied - 1].max()), 0.0),
        "energy": float(2 * energies[:, :occupied].mean(0).sum() / SIDE**2),
        "first": names[0],
        "second": names[1],
        "share": share,
        "order": order,
    }


def arrange(order: str, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Arrange two elements in an order.

    Args:
        order: one of ORDERS.
        rng: of the arrangement.

    Returns:
        (SIDE, SIDE) 0 or 1, and the share of sites that were swapped with another.
    """
    x, y = np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij")
    if order == "random":
        count = int(rng.choice((16, 24, 32, 40, 48)))
        return rng.permutation(np.arange(SIDE * SIDE) < count).astype(int).reshape(SIDE, SIDE), 0.0
    species = {
        "checkerboard": (x + y) % 2,
        "stripes": (x if rng.random() < 0.5 else y) % 2,
        "clusters": x // 4 ^ y // 4,
    }
    flat = species[order].astype(int).ravel()
    swaps = int(rng.choice((0, 0, 1, 2, 4, 8)))
    where = np.concatenate([rng.permutation(np.flatnonzero(flat == s))[:swaps] for s in (0, 1)])
    flat[where] = 1 - flat[where]
    return flat.reshape(SIDE, SIDE), 2 * swaps / SIDE**2


def solve(onsite: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Diagonalise the tight-binding Hamiltonian at half filling.

    Args:
        onsite: (SIDE, SIDE) energies in t.
        radius: (SIDE, SIDE) of the orbitals.

    Returns:
        (points, sites) energies in ascending order, and (SIDE, SIDE) electrons a site.
    """
    number = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    energies, density = [], np.zeros(SIDE * SIDE)
    for point in POINTS:
        matrix = np.diag(onsite.ravel()).astype(complex)
        for axis, k in enumerate(point):
            other = np.roll(number, -1, axis)
            phase = np.ones((SIDE, SIDE), complex)
            phase[(slice(None),) * axis + (-1,)] = np.exp(
                2j * np.pi * k
            )  # the bond that leaves the cell
            hop = -np.sqrt(radius * np.roll(radius, -1, axis)) * phase
            matrix[number.ravel(), other.ravel()] += hop.ravel()
            matrix[other.ravel(), number.ravel()] += hop.conj().ravel()
        values, states = np.linalg.eigh(matrix)
        energies.append(values)
        density += 2 * np.abs(states) ** 2 @ filling(values) / len(POINTS)
    return np.stack(energies), density.reshape(SIDE, SIDE)


def filling(values: np.ndarray) -> np.ndarray:
    """(levels,) how full each level is, half of them in all.

    Levels at the highest occupied energy share its electrons. Else the density would depend on
    which of them the solver lists first.
    """
    half, highest = len(values) // 2, values[len(values) // 2 - 1]
    below, level = values < highest - 1e-9, np.abs(values - highest) <= 1e-9
    return np.asarray(below + level * (half - below.sum()) / level.sum())


def _png(shares: np.ndarray) -> bytes:
    from PIL import Image

    packed = io.BytesIO()
    Image.fromarray(np.clip(np.rint(shares * 255), 0, 255).astype(np.uint8)).save(packed, "PNG")
    return packed.getvalue()
