"""MaxSim (late interaction): each vector of a query is matched with its nearest of a document.

Khattab and Zaharia, SIGIR 2020, arXiv:2004.12832 (ColBERT), eq. 3. With one vector a query it is
the largest of several cosines.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from amodal.core import Ragged
from amodal.objectives.common import full_precision
from amodal.objectives.packed import pad_packed
from amodal.objectives.tiles import by_rows


def max_sim(
    query_NLD: Tensor,
    query_mask_NL: Tensor,
    document_MKD: Tensor,
    document_mask_MK: Tensor,
    *,
    tile: int = 64,
) -> Tensor:
    """Scores between N queries and M documents, each a set of vectors.

        S_nm = sum_l max_k <query_nl, document_mk>

    The gradient reaches only the document vectors that attain the maximum.

    Args:
        query_NLD: query vectors, of unit length for cosines.
        query_mask_NL: bool, which of them exist; a query without any scores 0.
        document_MKD: document vectors.
        document_mask_MK: bool, which of them exist; a document without any scores -inf.
        tile: queries at a time; changes memory and speed, not the result.

    Returns:
        (N, M)

    Raises:
        ValueError: the shapes do not fit.
    """
    shapes = [tuple(t.shape) for t in (query_NLD, query_mask_NL, document_MKD, document_mask_MK)]
    if shapes[0][:2] != shapes[1] or shapes[2][:2] != shapes[3] or shapes[0][2:] != shapes[2][2:]:
        raise ValueError(
            "max_sim needs (N, L, D), (N, L), (M, K, D) and (M, K), got "
            f"{', '.join(map(str, shapes))}"
        )

    def score_tile(query_tLD: Tensor, query_mask_tL: Tensor) -> Tensor:
        per_field = (
            torch.einsum("tld,mkd->tlmk", query_tLD, document_MKD)
            .masked_fill(~document_mask_MK, -torch.inf)
            .amax(3)
        )
        return per_field.masked_fill(~query_mask_tL[:, :, None], 0.0).sum(1)

    return by_rows(score_tile, query_NLD, query_mask_NL, tile=tile)


@full_precision
def late_interaction(query: Ragged, documents: Ragged, *, tile: int = 64) -> Tensor:
    """(N, M) `max_sim` of cosines between N queries and M documents, given as packed vectors.

    Args:
        query: vectors of N queries.
        documents: vectors of M documents.
        tile: as in `max_sim`.
    """
    (q, query_mask), (p, mask) = pad_packed(query), pad_packed(documents)
    return max_sim(normalize(q, dim=2), query_mask, normalize(p, dim=2), mask, tile=tile)


@full_precision
def field_interaction(
    query: Ragged, fields: Sequence[Ragged], *, tile: int = 64
) -> tuple[Tensor, Tensor]:
    """`late_interaction` of queries with documents of F fields.

    Wan et al. 2025, arXiv:2506.06144 (CLaMR).

    Args:
        query: vectors of N queries.
        fields: vectors of M documents, for each of F fields; none where a document lacks it.
        tile: as in `max_sim`.

    Returns:
        Scores of the documents with all fields pooled (N, M), and of each field alone (N, M, F),
        -inf where a document lacks it.
    """
    (q, query_mask), packed = pad_packed(query), [pad_packed(f) for f in fields]
    q, documents = normalize(q, dim=2), [normalize(p, dim=2) for p, _ in packed]

    def score_tile(query_tLD: Tensor, query_mask_tL: Tensor) -> Tensor:
        per_field = torch.stack(
            [
                torch.einsum("tld,mkd->tlmk", query_tLD, p).masked_fill(~mask, -torch.inf).amax(3)
                for p, (_, mask) in zip(documents, packed)
            ],
            dim=3,
        )
        scores_tMF = torch.cat([per_field.amax(3, keepdim=True), per_field], 3)
        return scores_tMF.masked_fill(~query_mask_tL[:, :, None, None], 0.0).sum(1)

    scores = by_rows(score_tile, q, query_mask, tile=tile)
    return scores[..., 0], scores[..., 1:]
