"""5,437 recordings of people reading captions of Tux Paint's stamps in six languages.

French, Romanian, Russian, Bulgarian, Catalan, Spanish; each with the text that is read. GPL-2;
fetched from a Debian package when it is needed, never stored in this repository.

**Split.** By stamp, 80 / 10 / 10 %: a caption and its translations are never divided.

**Known leaks.** Three of ten captions to validate on are word for word those of other stamps to
learn from, with a recording of their own. The source does not say who reads; a language may have
one reader, and then the voice gives the language away, after which chance is 10 of about 90.
"""

from __future__ import annotations

from testbeds.peers.estimators import logistic
from testbeds.peers.matching import canonical, ridge_matching
from testbeds.testbed import Task, Testbed

RETRIEVALS = ("caption by speech", "speech by caption")

TESTBED = Testbed(
    name="speech",
    title="Captions read aloud in six languages",
    data="spoken_captions",
    fields=("speech", "caption"),
    tasks=(
        Task("caption by speech", "retrieval", "R@10", None, ("speech", "caption")),
        Task("speech by caption", "retrieval", "R@10", None, ("caption", "speech")),
        Task("language from speech", "linear", "balanced accuracy", "language", ("speech",)),
        Task("category from speech", "linear", "balanced accuracy", "category", ("speech",)),
    ),
    steps=400,
    batch_size=64,
    size="tiny",
    card=__doc__,
    peers=(
        ridge_matching(*RETRIEVALS),
        canonical(*RETRIEVALS),
        logistic("language from speech", "category from speech"),
    ),
)
