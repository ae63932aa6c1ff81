"""951 pictures of Tux Paint's stamps, half of them cut-out photographs, with captions in languages.

A caption is one sentence, in English and in translations by people: French, German, Spanish,
Russian and Japanese are read here (of 11 in the set). GPL-2; fetched from a Debian package when it
is needed, never stored in this repository.

**Split.** By hash of the key, 80 / 10 / 10 %.

**Known leaks.** Three of ten captions to validate on are word for word those of records to learn
from, with another picture: the letters of an alphabet, filled and outlined. Pictures of one kind
(`kind`, 119 of them) are in all parts. Equal captions count as equally right.
"""

from __future__ import annotations

from testbeds.peers.estimators import hog_svm, logistic
from testbeds.peers.matching import canonical, ridge_matching
from testbeds.testbed import Task, Testbed

RETRIEVALS = ("caption by picture", "picture by caption", "German by Japanese")

TESTBED = Testbed(
    name="tuxpaint",
    title="Stamps and their captions in six languages",
    data="tuxpaint",
    fields=(
        "image",
        "caption",
        "caption_fr",
        "caption_de",
        "caption_es",
        "caption_ru",
        "caption_ja",
    ),
    tasks=(
        Task("caption by picture", "retrieval", "R@10", None, ("image", "caption")),
        Task("picture by caption", "retrieval", "R@10", None, ("caption", "image")),
        Task("German by Japanese", "retrieval", "R@10", None, ("caption_ja", "caption_de")),
        Task("category from the picture", "linear", "balanced accuracy", "category", ("image",)),
    ),
    steps=400,
    batch_size=64,
    size="tiny",
    card=__doc__,
    peers=(
        ridge_matching(*RETRIEVALS),
        canonical(*RETRIEVALS),
        logistic("category from the picture"),
        hog_svm("category from the picture"),
    ),
)
