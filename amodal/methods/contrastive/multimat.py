"""MultiMat: a structure and all that is known of it in one space, by any of the ways to compare
more than two fields. Moro, Loh, Dangovski et al., Newton 2025, arXiv:2312.00111. AnchoredCLIP and
AllPairsCLIP are the paper's; TensorCLIP and Barlow Twins of many ways are in its reference code.
Row 46 of the catalogue.

Rows with a subset of the fields: a pair needs the two, and a term of `ways` fields the rows that
have all of its fields; terms that a row lacks a field for are skipped, as in the paper."""

import itertools

from amodal.core import AmodalError, unknown
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.objectives.info_nce import info_nce
from amodal.objectives.tensor_clip import multi_barlow_twins, tensor_clip

LOSSES = ("anchored", "all_pairs", "tensor", "barlow")


def multimat(
    encoder: Encoder,
    *,
    loss: str = "anchored",
    anchor: str = "",
    width: int = 128,
    temperature: float = 0.2,
    ways: int = 3,
    half: bool = False,
    tuples: int = 128,
    off_diagonal: float = 5.1e-3,
) -> Towers:
    """loss: "anchored", each source with the anchor; "all_pairs"; "tensor", products of `ways`
    sources; "barlow", correlations of `ways` sources; anchor: a field, the first unless given;
    width: of the common space; temperature: fixed; ways: sources in one term, all sets of so many;
    half: (tensor of three) tuples of which two belong together are half positives; tuples: (tensor)
    how many rows compete, whose product is what it costs; off_diagonal: (barlow) weight of
    redundancy."""
    if loss not in LOSSES:
        raise unknown("multimat.loss", loss, LOSSES)
    fields = list(two_fields(encoder).fields)
    anchor = anchor or fields[0]
    if anchor not in fields:
        raise unknown("field to anchor to", anchor, fields)
    ways = min(ways, len(fields))
    if half and (loss != "tensor" or ways != 3):
        raise AmodalError(
            f'multimat.half is for products of three sources, loss="tensor" with ways=3 of three fields or more, not for {loss!r} of {ways}'
        )

    def pairs(z):
        chosen = field_pairs(z, anchor if loss == "anchored" else None)
        return {
            f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=temperature) for a, b in chosen
        }

    def sets(z):
        found = {}
        for names in itertools.combinations(z.sources, ways):
            _, sources = z.complete(names)
            if loss == "barlow":
                value = multi_barlow_twins(sources, off_diagonal=off_diagonal)
            else:
                value = tensor_clip(sources, temperature=temperature, half=half, tuples=tuples)
            found[f"{loss}/{'~'.join(names)}"] = value
        return found

    return Towers(
        encoder.align(width), lambda z: share((sets if loss in ("tensor", "barlow") else pairs)(z))
    )
