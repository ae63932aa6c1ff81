"""3,021 entries of the Free On-line Dictionary of Computing: a term, a text, a category, a year.

GFDL; fetched from a Debian package, never stored in this repository.

**Split.** By hash of the key, 80 / 10 / 10 %.

**Known leaks.** A text nearly always contains its term, so a match of letters finds it. Entries
refer to each other. A category that few entries have may be missing from a part; 97 categories are
too many for a balanced accuracy, so accuracy is measured.
"""

from __future__ import annotations

from testbeds.peers.estimators import ridge, svm
from testbeds.peers.matching import canonical, ridge_matching
from testbeds.testbed import Task, Testbed

TESTBED = Testbed(
    name="foldoc",
    title="Terms and texts of a dictionary of computing",
    data="foldoc",
    fields=("term", "text"),
    tasks=(
        Task("category from the text", "linear", "accuracy", "category", ("text",)),
        Task("term by text", "retrieval", "R@10", None, ("text", "term")),
        Task("year from the text", "linear", "Spearman", "year", ("text",)),
    ),
    steps=400,
    batch_size=64,
    size="tiny",
    card=__doc__,
    peers=(
        svm("category from the text"),
        ridge("year from the text"),
        ridge_matching("term by text"),
        canonical("term by text"),
    ),
)
