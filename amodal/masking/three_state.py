"""Masks of three states: a token is seen, predicted, or left out.

As in Galileo (Tseng et al. 2025, arXiv:2502.09356). Departures from the authors' program, whose
records all have the same groups, dates and places, and which draws once for a batch: each row draws
for itself; at most half of its groups are seen; of a row of one group that group is seen and
predicted; what would leave a row nothing to see or to predict is drawn at random.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from amodal.core import AmodalError
from amodal.masking.hashing import hash_bits, uniform
from amodal.masking.packed import check_tokens, number_segments, rank_in_segment

ENCODE, IGNORE, DECODE = 0, 1, 2
"""What becomes of a token: the encoder sees it; nothing does; it is predicted."""
FEWEST, MOST = 2, 6
"""Groups that are seen, in a row that has twice as many or more."""
_RANDOM, _KIND, _COUNT, _GROUP, _COIN, _UNIT, _INSTEAD = range(7)
# one stream of random numbers for each decision


@dataclass(frozen=True)
class ThreeState:
    """How states are drawn.

    Attributes:
        encode: Share that is seen: of tokens, or of dates or places.
        decode: Share that is predicted.

    Raises:
        AmodalError: For shares that are no such.
    """

    encode: float = 0.1
    decode: float = 0.5

    def __post_init__(self) -> None:
        if not (self.encode > 0 and self.decode > 0 and self.encode + self.decode <= 1):
            raise AmodalError(
                "encode and decode are shares above 0 that are 1 together at most, not "
                f"{self.encode} and {self.decode}"
            )

    def random(self, row_T: Tensor, seed_T: Tensor, order_T: Tensor) -> Tensor:
        """Tokens at random. Of a row of two or more, one at least is seen and one predicted.

        Args:
            row_T, seed_T, order_T: As in `random_keep`.

        Returns:
            (T,) int64, `ENCODE`, `IGNORE` or `DECODE`.

        Raises:
            ValueError: For unequal lengths.
        """
        check_tokens(row_T=row_T, seed_T=seed_T, order_T=order_T)
        return self._random(row_T, seed_T, order_T, _RANDOM)

    def structured(
        self,
        row_T: Tensor,
        seed_T: Tensor,
        order_T: Tensor,
        *,
        field_T: Tensor,
        group_T: Tensor,
        position_TP: Tensor,
    ) -> Tensor:
        """Whole dates or whole places, of some groups, from which other groups are predicted.

        Each row draws whether dates or places are hidden, where it has more than one of both; which
        groups are seen, and which of the others are predicted; and which dates, or places, of each
        field. Equal dates, or places, of two fields with as many have one state. A group with one
        date, or in one place, is seen or predicted whole.

        Args:
            row_T, seed_T, order_T: As in `random_keep`.
            field_T: (T,) int64, whose dates and places are counted together.
            group_T: (T,) int64, such as a hash of the names of field and bands; the same numbers in
                every batch.
            position_TP: (T, 3), date, y and x.

        Returns:
            (T,) int64, as of `random`.

        Raises:
            ValueError: For unequal lengths.
        """
        check_tokens(
            row_T=row_T, seed_T=seed_T, order_T=order_T, field_T=field_T, group_T=group_T,
            position_TP=position_TP,
        )  # fmt: skip
        if not len(row_T):
            return torch.zeros_like(row_T)
        segment_T, size_R = number_segments(row_T)
        seed_R = torch.zeros_like(size_R).scatter_(0, segment_T, seed_T)
        pairs = _Pairs.of(segment_T, group_T)
        seen_P, predicted_P = _chosen_groups(pairs, seed_R)
        position_TP = position_TP.float() + 0.0  # one zero, not two: the bits are hashed below
        dated_P = pairs.varies(position_TP[:, 0])
        placed_P = pairs.varies(position_TP[:, 1]) | pairs.varies(position_TP[:, 2])
        by_date_R = pairs.any(dated_P, len(size_R)) & (
            ~pairs.any(placed_P, len(size_R)) | (uniform(seed_R, _KIND) < 0.5)
        )
        by_date_T = by_date_R[segment_T]
        parted_T = torch.where(by_date_T, dated_P[pairs.pair_T], placed_P[pairs.pair_T])
        unit_TP = torch.where(by_date_T[:, None], position_TP * position_TP.new_tensor([1.0, 0, 0]),
                              position_TP * position_TP.new_tensor([0, 1.0, 1.0]))  # fmt: skip
        state_T = self._units(segment_T, field_T, seed_T, unit_TP, parted_T)
        seen_T = seen_P[pairs.pair_T] & (~parted_T | (state_T == ENCODE))
        predicted_T = predicted_P[pairs.pair_T] & (~parted_T | (state_T == DECODE)) & ~seen_T
        state_T = torch.full_like(row_T, IGNORE).masked_fill(seen_T, ENCODE)
        state_T = state_T.masked_fill(predicted_T, DECODE)
        fits_R = _any(segment_T, seen_T, len(size_R)) & _any(segment_T, predicted_T, len(size_R))
        instead_T = self._random(row_T, seed_T, order_T, _INSTEAD)
        return torch.where(fits_R[segment_T], state_T, instead_T)

    def _random(self, row_T: Tensor, seed_T: Tensor, order_T: Tensor, stream: int) -> Tensor:
        segment_T, size_R = number_segments(row_T)
        rank_T = rank_in_segment(segment_T, size_R, hash_bits(seed_T, stream, order_T))
        return self._by_rank(rank_T, size_R[segment_T])

    def _by_rank(self, rank_T: Tensor, size_T: Tensor) -> Tensor:
        """The state of what comes at a place in a random order of so many."""
        # nudged before rounding down, so that 10 * 0.1 does not depend on the last bit of 0.1
        encode_T = (size_T.double() * self.encode + 1e-9).floor().clamp(min=1)
        decode_T = (size_T.double() * self.decode + 1e-9).floor().clamp(min=1)
        state_T = torch.full_like(rank_T, IGNORE)
        state_T = state_T.masked_fill(rank_T < encode_T + decode_T, DECODE)
        return state_T.masked_fill(rank_T < encode_T, ENCODE)

    def _units(
        self,
        segment_T: Tensor,
        field_T: Tensor,
        seed_T: Tensor,
        unit_TP: Tensor,
        parted_T: Tensor,
    ) -> Tensor:
        """(T,) the state of the date or place of each token, among those of its row and field;
        `IGNORE` for groups that have one alone."""
        state_T = torch.full_like(segment_T, IGNORE)
        chosen_T = parted_T.nonzero().squeeze(1)
        bits = unit_TP[chosen_T].contiguous().view(torch.int32).unbind(1)
        fields = _Pairs.of(segment_T[chosen_T], field_T[chosen_T])
        units = _Pairs.of(fields.pair_T, hash_bits(seed_T[chosen_T], _UNIT, *bits))
        size_F = torch.bincount(units.segment_P, minlength=len(fields.code_P))
        rank_U = rank_in_segment(units.segment_P, size_F, units.code_P)
        drawn_U = self._by_rank(rank_U, size_F[units.segment_P])
        state_T[chosen_T] = drawn_U[units.pair_T]
        return state_T


@dataclass(frozen=True)
class _Pairs:
    """The different pairs of a segment and a code that tokens have.

    Attributes:
        pair_T: (T,) int64, the pair of each token.
        segment_P, code_P: (P,) int64, in the order of segments.
    """

    pair_T: Tensor
    segment_P: Tensor
    code_P: Tensor

    @staticmethod
    def of(segment_T: Tensor, code_T: Tensor) -> _Pairs:
        """Pairs of segments, from 0, and codes, which may be any numbers."""
        codes, number_T = torch.unique(code_T, return_inverse=True)
        pairs, pair_T = torch.unique(segment_T * len(codes) + number_T, return_inverse=True)
        count = max(len(codes), 1)
        return _Pairs(pair_T, pairs // count, codes[pairs % count])

    def varies(self, value_T: Tensor) -> Tensor:
        """(P,) bool, whether tokens of a pair differ in a value."""
        ends = [
            value_T.new_zeros(len(self.code_P)).scatter_reduce_(
                0, self.pair_T, value_T, reduce, include_self=False
            )
            for reduce in ("amin", "amax")
        ]
        return ends[0] < ends[1]

    def any(self, mask_P: Tensor, segments: int) -> Tensor:
        """(segments,) bool, where a pair of a segment is among the chosen."""
        return _any(self.segment_P, mask_P, segments)


def _chosen_groups(pairs: _Pairs, seed_R: Tensor) -> tuple[Tensor, Tensor]:
    """(P,) bool twice: the groups that are seen, and those that are predicted."""
    rows = len(seed_R)
    size_R = torch.bincount(pairs.segment_P, minlength=rows)
    seed_P = seed_R[pairs.segment_P]
    rank_P = rank_in_segment(pairs.segment_P, size_R, hash_bits(seed_P, _GROUP, pairs.code_P))
    wanted_R = FEWEST + (uniform(seed_R, _COUNT) * (MOST - FEWEST + 1)).long()
    wanted_R = wanted_R.minimum(size_R // 2).clamp(min=1)
    seen_P = rank_P < wanted_R[pairs.segment_P]
    alone_P = size_R[pairs.segment_P] == 1
    coin_P = uniform(seed_P, _COIN, pairs.code_P) < 0.5
    predicted_P = ~seen_P & coin_P
    last_P = rank_P == size_R[pairs.segment_P] - 1
    none_P = ~pairs.any(predicted_P, rows)[pairs.segment_P]
    return seen_P, predicted_P | (none_P & last_P) | alone_P


def _any(segment_T: Tensor, mask_T: Tensor, segments: int) -> Tensor:
    """(segments,) bool, where a mask is true for any token of a segment."""
    count = torch.zeros(segments, dtype=torch.int64, device=segment_T.device)
    return count.index_add_(0, segment_T, mask_T.long()) > 0
