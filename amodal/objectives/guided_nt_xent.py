"""NT-Xent that a teacher's similarities repair: a further positive, or pairs and negatives left
out.

Zhang, Wang and Wang, ICML 2023, arXiv:2306.04272 (CLIP-guided resampling of SimCLR).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from amodal.core import unknown
from amodal.objectives.common import check_pair, check_positive, connected_zero, full_precision
from amodal.objectives.info_nce import nt_xent
from amodal.objectives.tiles import by_rows

SHARES = {
    "none": 0.0,
    "new_positive": 0.0,
    "drop_false_positive": 0.1,
    "drop_false_negative": 0.05,
    "drop_easy_negative": 0.1,
}
"""The rules, and what share of positives or negatives each leaves out in the paper."""


@full_precision
def guided_nt_xent(
    a_ND: Tensor,
    b_ND: Tensor,
    taught_a_NE: Tensor,
    taught_b_NE: Tensor,
    *,
    rule: str,
    share: float | None = None,
    temperature: float | Tensor = 0.5,
    tile: int = 256,
) -> Tensor:
    """NT-Xent of two views of N rows, resampled by the cosines c of a teacher's vectors of the same
    2N values.

    rule: "none"; "new_positive": the value that c is largest with, other than oneself and one's
    other view, is a second positive, and
        the loss is the mean of both; "drop_false_positive": the share of positive pairs with the
        smallest c have no loss; "drop_false_negative", "drop_easy_negative": of the 2N - 2
        negatives of each value, the share with the largest, or smallest, c are left out of the sum
        (the authors' code takes the share of all 2N similarities of a row).
    taught_*: no gradient goes there. share: None for the paper's (`SHARES`); numbers of values are
    rounded down. tile: anchors of a block of the similarity matrices; changes memory and speed, not
    the result.

    One row or none gives a connected 0; with two rows or more something is left of every sum unless
    the share is 1. Raises ValueError for shapes that do not fit, a share outside [0, 1), and
    AmodalError for an unknown rule.
    """
    check_pair("guided_nt_xent", a_ND, b_ND)
    check_pair("guided_nt_xent (teacher)", taught_a_NE, taught_b_NE)
    check_positive("temperature", temperature)
    if rule not in SHARES:
        raise unknown("rule of resampling", rule, SHARES)
    share = SHARES[rule] if share is None else share
    if not 0 <= share < 1 or len(a_ND) != len(taught_a_NE):
        raise ValueError(
            f"guided_nt_xent needs a share from 0 to below 1 and a teacher's vector of each row, got {share}."
        )
    n = len(a_ND)
    if n < 2:
        return connected_zero(a_ND, b_ND, temperature)
    if rule == "none":
        return nt_xent(a_ND, b_ND, temperature=temperature)
    z = F.normalize(torch.cat([a_ND, b_ND]), dim=1)
    taught = F.normalize(torch.cat([taught_a_NE, taught_b_NE]).detach(), dim=1)
    number = torch.arange(2 * n, device=z.device)
    dropped = int(share * (2 * n - 2))

    def losses(z_tD: Tensor, taught_tE: Tensor, number_t: Tensor) -> Tensor:
        logits = z_tD @ z.T / temperature
        itself = number_t[:, None] == number
        own = itself | ((number_t[:, None] + n) % (2 * n) == number)
        c = taught_tE @ taught.T
        away = itself
        if dropped and rule in ("drop_false_negative", "drop_easy_negative"):
            most = rule == "drop_false_negative"
            ranked = c.masked_fill(own, -math.inf if most else math.inf)
            away = away.scatter(1, ranked.topk(dropped, dim=1, largest=most).indices, True)
        logits = logits.masked_fill(away, -math.inf)
        below = logits.logsumexp(1)
        positive = logits.gather(1, ((number_t + n) % (2 * n))[:, None]).squeeze(1)
        if rule == "new_positive":
            second = c.masked_fill(own, -math.inf).argmax(1, keepdim=True)
            positive = (positive + logits.gather(1, second).squeeze(1)) / 2
        return below - positive

    loss = by_rows(losses, z, taught, number, tile=tile)
    if rule == "drop_false_positive" and int(share * n):
        alike = (taught[:n] * taught[n:]).sum(1)
        kept = torch.ones(n, dtype=torch.bool, device=z.device)
        kept[alike.topk(int(share * n), largest=False).indices] = False
        loss = loss[kept.repeat(2)]
    return loss.mean()
