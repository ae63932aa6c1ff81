"""12,000 compounds: a SMILES string, a systematic name, boiling and melting points.

From the package chemicals (MIT; structures and names PubChem, public domain), fetched from PyPI.
The formula and synonyms are not read: the formula gives the weight away.

**Split.** By hash of the key (the CAS number), 80 / 10 / 10 %.

**Known leaks.** Not by scaffold: salts, isomers and neighbours in a homologous series of one
compound are in different parts, so the scores are of interpolation. One name in 70 to validate on
is also that of a compound to learn from.
"""

from __future__ import annotations

from testbeds.peers.estimators import boosting_numbers, ridge
from testbeds.peers.matching import canonical, ridge_matching
from testbeds.testbed import Task, Testbed

NUMBERS = ("boiling point from SMILES", "melting point from SMILES", "melting point from all")

TESTBED = Testbed(
    name="chemicals",
    title="Compounds by SMILES and name",
    data="chemicals",
    fields=("smiles", "name"),
    tasks=(
        Task("boiling point from SMILES", "linear", "Spearman", "boiling", ("smiles",)),
        Task("melting point from SMILES", "linear", "Spearman", "melting", ("smiles",)),
        Task("melting point from all", "linear", "Spearman", "melting"),
        Task("name by SMILES", "retrieval", "R@10", None, ("smiles", "name")),
    ),
    steps=400,
    batch_size=128,
    size="tiny",
    card=__doc__,
    peers=(
        ridge(*NUMBERS),
        boosting_numbers("boiling point from SMILES", "melting point from SMILES"),
        ridge_matching("name by SMILES"),
        canonical("name by SMILES"),
    ),
)
