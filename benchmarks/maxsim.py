"""Late interaction over an index that lies on disk (float16 lists of vectors, mapped) against a
plain einsum over one padded float32 block, both asked for the ten best records by a query of 16
vectors; the peer's block is in memory and padded beforehand. Lists are as long as captions and
pictures are: 8 to 120 vectors of 128 dimensions."""

import tempfile
from pathlib import Path

import torch
from torch.nn.functional import normalize

from amodal.core import Column, Embeddings, Ragged
from amodal.objectives.packed import pad_packed
from amodal.search import Index
from benchmarks._timing import Row, compare

WIDTH, ASKED, K = 128, 16, 10


def _records(count: int, longest: int) -> Ragged:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(8, longest + 1, (count,), generator=generator)
    return Ragged(
        normalize(torch.randn(int(lengths.sum()), WIDTH, generator=generator), dim=1), lengths
    )


def run() -> list[Row]:
    rows = []
    for count, longest in ((500, 120), (2000, 120), (4000, 24)):
        lists = _records(count, longest)
        query = normalize(
            torch.randn(ASKED, WIDTH, generator=torch.Generator().manual_seed(1)), dim=1
        )
        with tempfile.TemporaryDirectory() as folder:
            e = Embeddings({"image": Column(lists, torch.arange(count))}, count)
            index = Index.open(Path(folder) / "index").add([str(i) for i in range(count)], e)
            block, mask = pad_packed(lists)

            def ours(index=index, query=query) -> list:
                return index.nearest(query, k=K)

            def peer(block=block, mask=mask, query=query) -> list[int]:
                products = torch.einsum("ld,mkd->lmk", query, block).masked_fill(~mask, -torch.inf)
                return products.amax(2).mean(0).topk(K).indices.tolist()

            mine, theirs = [int(found[0]) for found in ours()], peer()
            assert len(set(mine) & set(theirs)) >= K - 1, (
                mine,
                theirs,
            )  # half precision may turn two near the end
            rows.append(
                compare(
                    f"MaxSim, {count:,} records of 8-{longest}, query {ASKED}",
                    ours,
                    "einsum, padded",
                    peer,
                )
            )
    return rows
