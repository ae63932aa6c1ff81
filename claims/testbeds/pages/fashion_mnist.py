"""70,000 photographs of clothes, 28 x 28 grey pixels, ten classes of equal size.

Fashion-MNIST (MIT), fetched from a Debian package.

**Split.** The source's 10,000 to test; a tenth of its 60,000 others, by hash, to validate.

**Known leaks.** No picture is in two parts bit for bit; near copies were not looked for.
"""

from __future__ import annotations

from testbeds.peers.estimators import hog_svm, logistic
from testbeds.testbed import Task, Testbed

TESTBED = Testbed(
    name="fashion_mnist",
    title="Photographs of clothes",
    data="fashion_mnist",
    fields=("image",),
    tasks=(
        Task("class from the picture", "linear", "balanced accuracy", "class"),
        Task("class by neighbours", "knn", "balanced accuracy", "class"),
    ),
    steps=400,
    batch_size=256,
    size="tiny",
    card=__doc__,
    peers=(
        logistic("class from the picture", grid=({"C": 0.01},)),
        hog_svm("class from the picture"),
    ),
)
