"""NT-Xent resampled by a teacher's similarities: new positives, or pairs and negatives left out.

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
"""Rule -> share of positives or negatives that it drops in the paper."""


@full_precision
def guided_nt_xent(
    a_ND: Tensor,
    b_ND: Tensor,
    teacher_a_NE: Tensor,
    teacher_b_NE: Tensor,
    *,
    rule: str,
    share: float | None = None,
    temperature: float | Tensor = 0.5,
    tile: int = 256,
) -> Tensor:
    """NT-Xent of two views of N rows, resampled by the cosines c of a teacher.

    Rules:
        "none": plain NT-Xent.
        "new_positive": the value with the largest c, itself and its other view excluded, is a
            second positive. The loss is the mean of both.
        "drop_false_positive": the share of positive pairs with the smallest c have no loss.
        "drop_false_negative", "drop_easy_negative": of the 2N - 2 negatives of a value, the share
            with the largest, or smallest, c leave the sum. (The authors' code takes the share of
            all 2N similarities of a row.)

    Args:
        a_ND, b_ND: embeddings of two views; normalised here.
        teacher_a_NE, teacher_b_NE: the teacher's embeddings of the same values, without gradient.
        rule: see above.
        share: of pairs or negatives, in [0, 1), rounded down; None for the paper's (`SHARES`).
        temperature: a number, or a scalar tensor that gets a gradient.
        tile: anchors of a block of the similarity matrix; changes memory and speed, not the
            result.

    Returns:
        A scalar. Fewer than two rows: 0, connected to the inputs.

    Raises:
        ValueError: the shapes do not fit, or `share` is outside [0, 1).
        AmodalError: an unknown rule.
    """
    check_pair("guided_nt_xent", a_ND, b_ND)
    check_pair("guided_nt_xent (teacher)", teacher_a_NE, teacher_b_NE)
    check_positive("temperature", temperature)
    if rule not in SHARES:
        raise unknown("rule of resampling", rule, SHARES)
    share = SHARES[rule] if share is None else share
    if not 0 <= share < 1 or len(a_ND) != len(teacher_a_NE):
        raise ValueError(
            "guided_nt_xent needs a share from 0 to below 1 and a teacher's vector of each row, "
            f"got {share}."
        )
    n = len(a_ND)
    if n < 2:
        return connected_zero(a_ND, b_ND, temperature)
    if rule == "none":
        return nt_xent(a_ND, b_ND, temperature=temperature)
    z = F.normalize(torch.cat([a_ND, b_ND]), dim=1)
    teacher = F.normalize(torch.cat([teacher_a_NE, teacher_b_NE]).detach(), dim=1)
    index = torch.arange(2 * n, device=z.device)
    dropped = int(share * (2 * n - 2))

    def losses(z_tD: Tensor, teacher_tE: Tensor, index_t: Tensor) -> Tensor:
        logits = z_tD @ z.T / temperature
        self_mask = index_t[:, None] == index
        positive_mask = self_mask | ((index_t[:, None] + n) % (2 * n) == index)
        teacher_similarity = teacher_tE @ teacher.T
        masked = self_mask
        if dropped and rule in ("drop_false_negative", "drop_easy_negative"):
            most = rule == "drop_false_negative"
            ranked = teacher_similarity.masked_fill(positive_mask, -math.inf if most else math.inf)
            masked = masked.scatter(1, ranked.topk(dropped, dim=1, largest=most).indices, True)
        logits = logits.masked_fill(masked, -math.inf)
        log_sum = logits.logsumexp(1)
        positive = logits.gather(1, ((index_t + n) % (2 * n))[:, None]).squeeze(1)
        if rule == "new_positive":
            second = teacher_similarity.masked_fill(positive_mask, -math.inf).argmax(
                1, keepdim=True
            )
            positive = (positive + logits.gather(1, second).squeeze(1)) / 2
        return log_sum - positive

    loss = by_rows(losses, z, teacher, index, tile=tile)
    if rule == "drop_false_positive" and int(share * n):
        teacher_cosine = (teacher[:n] * teacher[n:]).sum(1)
        keep = torch.ones(n, dtype=torch.bool, device=z.device)
        keep[teacher_cosine.topk(int(share * n), largest=False).indices] = False
        loss = loss[keep.repeat(2)]
    return loss.mean()
