"""MaxSim: each vector of a query finds the best among the vectors of a record, and the query's
score is the sum of what they find.

Khattab and Zaharia, SIGIR 2020, arXiv:2004.12832 (ColBERT), eq. 3. With one vector a query it is
the largest of several cosines.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import Ragged
from amodal.objectives.bags import padded
from amodal.objectives.common import full_precision
from amodal.objectives.tiles import by_rows


def max_sim(
    query_NLD: Tensor, asked_NL: Tensor, parts_MKD: Tensor, there_MK: Tensor, *, tile: int = 64
) -> Tensor:
    """(N, M): sum over the vectors l of query n of max_k <query_nl, parts_mk>.

    query_NLD, parts_MKD: vectors, of unit length for cosines. asked_NL, there_MK: bool, which of
    them there are; a query without any scores 0, a record without any -inf. tile: queries at once;
    changes memory and speed, not the result.

    The gradient reaches the parts that are found, and no other. Raises ValueError for shapes that
    do not fit.
    """
    shapes = [tuple(t.shape) for t in (query_NLD, asked_NL, parts_MKD, there_MK)]
    if shapes[0][:2] != shapes[1] or shapes[2][:2] != shapes[3] or shapes[0][2:] != shapes[2][2:]:
        raise ValueError(
            f"max_sim needs (N, L, D), (N, L), (M, K, D) and (M, K), got {', '.join(map(str, shapes))}"
        )

    def piece(query_tLD: Tensor, asked_tL: Tensor) -> Tensor:
        each = (
            torch.einsum("tld,mkd->tlmk", query_tLD, parts_MKD)
            .masked_fill(~there_MK, -torch.inf)
            .amax(3)
        )
        return each.masked_fill(~asked_tL[:, :, None], 0.0).sum(1)

    return by_rows(piece, query_NLD, asked_NL, tile=tile)


@full_precision
def late_interaction(query: Ragged, parts: Ragged, *, tile: int = 64) -> Tensor:
    """(N, M): `max_sim` of cosines between N queries and M records, given as lists of vectors."""
    (q, asked), (p, there) = padded(query), padded(parts)
    return max_sim(normalize(q, dim=2), asked, normalize(p, dim=2), there, tile=tile)


@full_precision
def field_interaction(
    query: Ragged, fields: Sequence[Ragged], *, tile: int = 64
) -> tuple[Tensor, Tensor]:
    """(N, M) and (N, M, F): `late_interaction` of N queries with M records of all their fields
    together, and with each field alone.

    fields: of each of F fields M lists of vectors; an empty list where a record lacks the field,
    whose score is then -inf. Wan et al. 2025, arXiv:2506.06144 (CLaMR).
    """
    (q, asked), blocks = padded(query), [padded(f) for f in fields]
    q, parts = normalize(q, dim=2), [normalize(p, dim=2) for p, _ in blocks]

    def piece(query_tLD: Tensor, asked_tL: Tensor) -> Tensor:
        each = torch.stack(
            [
                torch.einsum("tld,mkd->tlmk", query_tLD, p).masked_fill(~there, -torch.inf).amax(3)
                for p, (_, there) in zip(parts, blocks)
            ],
            dim=3,
        )
        both = torch.cat([each.amax(3, keepdim=True), each], 3)
        return both.masked_fill(~asked_tL[:, :, None, None], 0.0).sum(1)

    scores = by_rows(piece, q, asked, tile=tile)
    return scores[..., 0], scores[..., 1:]
