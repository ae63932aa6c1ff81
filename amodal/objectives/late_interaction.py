"""MaxSim: each vector of a query finds the best among the vectors of a record, and the query's score is the sum of what they find.

Khattab and Zaharia, SIGIR 2020, arXiv:2004.12832 (ColBERT), eq. 3. With one vector a query it is the largest of several cosines.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import Ragged
from amodal.objectives.bags import padded
from amodal.objectives.common import full_precision
from amodal.objectives.tiles import by_rows


def max_sim(query_NLD: Tensor, asked_NL: Tensor, parts_MKD: Tensor, there_MK: Tensor, *, tile: int = 64) -> Tensor:
    """(N, M): sum over the vectors l of query n of max_k <query_nl, parts_mk>.

    query_NLD, parts_MKD: vectors, of unit length for cosines. asked_NL, there_MK: bool, which of them there are; a query without any
    scores 0, a record without any -inf.
    tile: queries at once; changes memory and speed, not the result.

    The gradient reaches the parts that are found, and no other. Raises ValueError for shapes that do not fit.
    """
    shapes = [tuple(t.shape) for t in (query_NLD, asked_NL, parts_MKD, there_MK)]
    if shapes[0][:2] != shapes[1] or shapes[2][:2] != shapes[3] or shapes[0][2:] != shapes[2][2:]:
        raise ValueError(f"max_sim needs (N, L, D), (N, L), (M, K, D) and (M, K), got {', '.join(map(str, shapes))}")

    def piece(query_tLD: Tensor, asked_tL: Tensor) -> Tensor:
        each = torch.einsum("tld,mkd->tlmk", query_tLD, parts_MKD).masked_fill(~there_MK, -torch.inf).amax(3)
        return each.masked_fill(~asked_tL[:, :, None], 0.0).sum(1)

    return by_rows(piece, query_NLD, asked_NL, tile=tile)


@full_precision
def late_interaction(query: Ragged, parts: Ragged, *, tile: int = 64) -> Tensor:
    """(N, M): `max_sim` of cosines between N queries and M records, given as lists of vectors."""
    (q, asked), (p, there) = padded(query), padded(parts)
    return max_sim(normalize(q, dim=2), asked, normalize(p, dim=2), there, tile=tile)
