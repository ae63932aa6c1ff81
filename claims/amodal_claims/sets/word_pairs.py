"""Pairs of English words with how similar (SimLex-999) or related (WordSim-353) people find them,
from 0 to 10.

Hill, Reichart and Korhonen 2015; Finkelstein et al. 2002; as they lie among gensim's test data.
Label `similarity` is the mean of the people asked, `list` says which list. For measuring text
encoders; nothing to train on.
"""

from pathlib import Path

from amodal.data.fetch import Pypi
from amodal.data.sets.shared.archives import wheel
from amodal.data.sets.shared.writing import describe, field, records

PACKAGES = (
    Pypi(
        "gensim", "4.4.0", "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8", 27.8,
        platform="manylinux_2_28_x86_64", python="311",
    ),
)  # fmt: skip
LICENCE = "SimLex-999: free for research; WordSim-353: CC BY 4.0"
RECORDS = 1352
LISTS = {"simlex": "simlex999.txt", "wordsim": "wordsim353.tsv"}


def write(out: Path, archives: list[Path]) -> None:
    rows = []
    for name, file in LISTS.items():
        text = wheel(archives[0]).read(f"gensim/test/test_data/{file}").decode()
        lines = [
            line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")
        ]
        rows += [
            (f"{name}-{i:03d}", a, b, name, float(score)) for i, (a, b, score) in enumerate(lines)
        ]
    columns = dict(zip(("key", "first", "second", "list", "similarity"), map(list, zip(*rows))))
    records(out, columns)
    texts = {name: field("text", patch=1, max_length=24) for name in ("first", "second")}
    describe(
        out,
        texts,
        {"list": "category", "similarity": "number"},
        title="Word pairs",
        licence=LICENCE,
    )
