"""2,000 handwritten digits (0 to 9), scanned from Dutch utility maps, each described by six tables.

240 averages of pixels, 76 Fourier coefficients, 216 profile correlations, 47 Zernike moments, 64
Karhunen-Loève coefficients and 6 morphological features; no picture. Bundled. The UCI set "Multiple
Features" (CC BY 4.0).

**Split.** By hash of the key, 80 / 10 / 10 %.

**Known leaks.** The source does not say who wrote a digit, so one hand may be in two parts. All six
tables are computed from one picture: retrieval between tables asks for the picture, not for its
meaning. Karhunen-Loève coefficients were fitted on all 2,000 digits by the authors of the set.
"""

from __future__ import annotations

from testbeds.peers.estimators import boosting, logistic
from testbeds.peers.matching import canonical, ridge_matching
from testbeds.testbed import Task, Testbed

CLASSES = ("digit from all tables", "digit from Fourier")
TABLES = ("pix", "fou", "fac", "zer", "kar", "mor")

TESTBED = Testbed(
    name="digits",
    title="Handwritten digits in six tables",
    data="digits",
    fields=TABLES,
    tasks=(
        Task("digit from all tables", "linear", "balanced accuracy", "digit"),
        Task("digit from Fourier", "linear", "balanced accuracy", "digit", ("fou",)),
        Task("profiles by Fourier", "retrieval", "R@10", None, ("fou", "fac")),
    ),
    steps=400,
    batch_size=128,
    size="tiny",
    card=__doc__,
    peers=(
        logistic(*CLASSES),
        boosting("digit from Fourier"),
        ridge_matching("profiles by Fourier"),
        canonical("profiles by Fourier"),
    ),
)
