"""Vector quantizers: vectors as the numbers of codes, and back.

A code is the nearest of K vectors (van den Oord, Vinyals and Kavukcuoglu 2017, arXiv:1711.00937).
The vectors follow the mean of what they stand for (Razavi et al. 2019, arXiv:1906.00446, appendix
A.1), begin by k-means, and those that nothing uses are set anew (Zeghidour et al. 2021,
arXiv:2107.03312, section III-C). Several of them make up one vector side by side (product, Jégou et
al. 2011) or one after another, each of what the others leave (residual, SoundStream).

`forward` changes nothing, so a batch may be quantized piece by piece; `update` is for the whole
batch, once a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from amodal.core import AmodalError
from amodal.masking.hashing import hash_bits
from amodal.objectives.common import full_precision
from amodal.stats.kmeans import assign, kmeans

SAMPLE = 16_384
"""Vectors from which k-means starts, at most."""
EPS = 1e-5
"""Added to how often a code is used, so that none is divided by zero."""


@dataclass(frozen=True)
class Quantized:
    """Vectors and their codes.

    Attributes:
        x: (T, D) the vectors of the codes, whose gradient goes to what was quantized (straight
            through).
        codes: (T, G) int64, of each of G codebooks.
        loss: (T,) how far the vectors are from those of their codes, which do not learn by it: the
            mean square over D, summed over codebooks one after another, averaged over those side by
            side. Times a weight it is the commitment loss.
    """

    x: Tensor
    codes: Tensor
    loss: Tensor


class VectorQuantizer(nn.Module):
    """A codebook of K vectors.

    Args:
        codes: K.
        width: D.
        decay: Of the moving averages of how often codes are used, and of what for.
        restart: A code that is used less often, in vectors of a batch, becomes a vector of the
            batch; 0 for never.
        cosine: Vectors have length 1, before and after (Yu et al. 2022, arXiv:2110.04627).
        kmeans_start: Begin by k-means of the first batch, else at random.

    Raises:
        AmodalError: For numbers that cannot be.
    """

    vectors: Tensor
    used: Tensor
    sums: Tensor
    steps: Tensor

    def __init__(
        self,
        codes: int,
        width: int,
        *,
        decay: float = 0.99,
        restart: float = 0.0,
        cosine: bool = False,
        kmeans_start: bool = True,
    ):
        super().__init__()
        if codes < 2 or width < 1 or not 0 <= decay < 1 or restart < 0:
            raise AmodalError(
                "a quantizer has at least 2 codes, 1 dimension, a decay from 0 to below 1 and a "
                f"restart of at least 0, not {codes}, {width}, {decay} and {restart}"
            )
        self.codes, self.decay, self.restart = codes, decay, restart
        self.cosine, self.kmeans_start = cosine, kmeans_start
        vectors = torch.randn(codes, width) / width**0.5
        self.register_buffer("vectors", normalize(vectors, dim=1) if cosine else vectors)
        self.register_buffer("used", torch.ones(codes))
        self.register_buffer("sums", self.vectors.clone())
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @full_precision
    def forward(self, x_TD: Tensor) -> Quantized:
        """Quantize vectors (T, D); changes nothing."""
        if self.cosine:
            x_TD = normalize(x_TD, dim=1)
        code_T = self.encode(x_TD)
        near_TD = self.vectors[code_T].to(x_TD.dtype)
        loss_T = (x_TD - near_TD).square().mean(1)
        return Quantized(x_TD + (near_TD - x_TD).detach(), code_T[:, None], loss_T)

    @torch.no_grad()
    def encode(self, x_TD: Tensor) -> Tensor:
        """(T,) int64, the code of each vector."""
        if self.cosine:
            x_TD = normalize(x_TD, dim=1)
        return assign(x_TD.to(self.vectors.dtype), self.vectors)[0]

    def decode(self, codes_TG: Tensor) -> Tensor:
        """(T, D) the vectors of codes (T, 1)."""
        return self.vectors[codes_TG[:, 0]]

    @torch.no_grad()
    def update(self, x_TD: Tensor) -> None:
        """Let the codebook follow the vectors of a step.

        Args:
            x_TD: All of them, of all processes; without any nothing changes.
        """
        if not len(x_TD):
            return
        x_TD = x_TD.detach().to(self.vectors.dtype)
        x_TD = normalize(x_TD, dim=1) if self.cosine else x_TD
        if self.kmeans_start and not self.steps:
            self._start(x_TD)
        else:
            self._follow(x_TD)
        self._revive(x_TD)
        self.steps += 1

    def _start(self, x_TD: Tensor) -> None:
        chosen_TD = _shuffled(x_TD, 0)[:SAMPLE]
        count = min(self.codes, len(chosen_TD))
        _, centres = kmeans(chosen_TD, count, steps=10, tries=1)
        # of fewer vectors than codes the rest stay at random: copies would be as near as each other
        self.vectors[:count] = centres.to(x_TD.dtype)
        self._normalise()
        self.used.copy_(self._counts(x_TD).clamp(min=EPS))
        self.sums.copy_(self.vectors * self.used[:, None])

    def _follow(self, x_TD: Tensor) -> None:
        code_T = assign(x_TD, self.vectors)[0]
        sums = torch.zeros_like(self.sums).index_add_(0, code_T, x_TD)
        counts = torch.bincount(code_T, minlength=self.codes).to(self.used.dtype)
        self.used.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        total = self.used.sum()
        smooth_K = (self.used + EPS) / (total + self.codes * EPS) * total
        self.vectors.copy_(self.sums / smooth_K[:, None])
        self._normalise()

    def _revive(self, x_TD: Tensor) -> None:
        """Codes that nothing uses become vectors of this step."""
        unused_K = self.used < self.restart
        if not unused_K.any():
            return
        drawn_TD = _shuffled(x_TD, int(self.steps) + 1)
        count = int(unused_K.sum())
        rows = torch.arange(count, device=x_TD.device) % len(drawn_TD)
        self.vectors[unused_K] = drawn_TD[rows]
        self.used[unused_K] = self.restart
        self.sums[unused_K] = drawn_TD[rows] * self.restart

    def _counts(self, x_TD: Tensor) -> Tensor:
        code_T = assign(x_TD, self.vectors)[0]
        return torch.bincount(code_T, minlength=self.codes).to(self.used.dtype)

    def _normalise(self) -> None:
        if self.cosine:
            self.vectors.copy_(normalize(self.vectors, dim=1))

    def usage(self) -> dict[str, float]:
        """perplexity: as many equally used codes would be as surprising. share: of codes that are
        used by a hundredth of an equal share or more."""
        return _usage(self.used)


class ProductQuantizer(nn.Module):
    """Codebooks side by side: each has a part of the dimensions.

    Args:
        codes: K of each.
        width: D, which the groups divide.
        groups: G.
        options: Of each `VectorQuantizer`.

    Raises:
        AmodalError: For groups that do not divide the width.
    """

    def __init__(self, codes: int, width: int, *, groups: int, **options: float | bool):
        super().__init__()
        if groups < 1 or width % groups:
            raise AmodalError(f"{groups} codebooks side by side do not divide {width} dimensions")
        self._books = nn.ModuleList(_book(codes, width // groups, options) for _ in range(groups))

    def forward(self, x_TD: Tensor) -> Quantized:
        """See `VectorQuantizer.forward`."""
        made = [book(part) for book, part in zip(self.books, self._parts(x_TD))]
        loss = torch.stack([m.loss for m in made]).mean(0)
        return Quantized(torch.cat([m.x for m in made], 1), _side_by_side(made), loss)

    def decode(self, codes_TG: Tensor) -> Tensor:
        """(T, D) the vectors of codes (T, G)."""
        parts = codes_TG.split(1, 1)
        return torch.cat([book.decode(part) for book, part in zip(self.books, parts)], 1)

    def update(self, x_TD: Tensor) -> None:
        """See `VectorQuantizer.update`."""
        for book, part in zip(self.books, self._parts(x_TD)):
            book.update(part)

    def usage(self) -> list[dict[str, float]]:
        """Of each codebook, see `VectorQuantizer.usage`."""
        return [book.usage() for book in self.books]

    @property
    def books(self) -> list[VectorQuantizer]:
        """The codebooks."""
        return cast("list[VectorQuantizer]", list(self._books))

    def _parts(self, x_TD: Tensor) -> Sequence[Tensor]:
        return x_TD.chunk(len(self.books), 1)


class ResidualQuantizer(nn.Module):
    """Codebooks one after another: each is of what those before it leave.

    Args:
        codes: K of each.
        width: D.
        levels: G.
        options: Of each `VectorQuantizer`; cosine does not fit.

    Raises:
        AmodalError: Without a level, and for cosine.
    """

    def __init__(self, codes: int, width: int, *, levels: int, **options: float | bool):
        super().__init__()
        if levels < 1 or options.get("cosine"):
            raise AmodalError(
                "a residual quantizer has 1 level or more, and vectors of any length: leave cosine "
                "out"
            )
        self._books = nn.ModuleList(_book(codes, width, options) for _ in range(levels))

    def forward(self, x_TD: Tensor) -> Quantized:
        """See `VectorQuantizer.forward`."""
        left, whole, made = x_TD, torch.zeros_like(x_TD), []
        for book in self.books:
            made.append(book(left))
            near = made[-1].x.detach()
            left, whole = left - near, whole + near
        x = x_TD + (whole - x_TD).detach()
        return Quantized(x, _side_by_side(made), torch.stack([m.loss for m in made]).sum(0))

    def decode(self, codes_TG: Tensor) -> Tensor:
        """(T, D) the sum of the vectors of codes (T, G), of the first G levels."""
        parts = codes_TG.split(1, 1)
        return torch.stack([b.decode(part) for b, part in zip(self.books, parts)]).sum(0)

    @torch.no_grad()
    def update(self, x_TD: Tensor) -> None:
        """See `VectorQuantizer.update`."""
        for book in self.books:
            starts = book.kmeans_start and not book.steps
            # what is left by the codes of the forward pass, before this step moves them; of a book
            # that only begins, by those that it begins with
            near = book.decode(book.encode(x_TD)[:, None])
            book.update(x_TD)
            if starts:
                near = book.decode(book.encode(x_TD)[:, None])
            x_TD = x_TD - near

    def usage(self) -> list[dict[str, float]]:
        """Of each codebook, see `VectorQuantizer.usage`."""
        return [book.usage() for book in self.books]

    @property
    def books(self) -> list[VectorQuantizer]:
        """The codebooks, first to last."""
        return cast("list[VectorQuantizer]", list(self._books))


def _book(codes: int, width: int, options: dict[str, float | bool]) -> VectorQuantizer:
    return VectorQuantizer(codes, width, **options)  # type: ignore[arg-type]  # as it was called


def _side_by_side(made: Sequence[Quantized]) -> Tensor:
    return torch.cat([m.codes for m in made], 1)


def _shuffled(x_TD: Tensor, step: int) -> Tensor:
    """The vectors in an order that follows from a number."""
    number = torch.arange(len(x_TD))
    order = hash_bits(torch.full_like(number, step), number).argsort()
    return x_TD[order.to(x_TD.device)]


def _usage(used_K: Tensor) -> dict[str, float]:
    share_K = used_K / used_K.sum()
    entropy = -torch.special.xlogy(share_K, share_K).sum()
    often = share_K >= 0.01 / len(share_K)
    return {"perplexity": float(entropy.exp()), "share": float(often.float().mean())}
