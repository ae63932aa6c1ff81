"""A student's logits follow a teacher's, softened. Hinton, Vinyals & Dean 2015, arXiv:1503.02531,
section 2."""

from torch import Tensor
from torch.nn.functional import kl_div

from amodal.objectives.common import check_pair, check_positive, connected_zero, full_precision


@full_precision
def distill(student_NK: Tensor, teacher_NK: Tensor, *, temperature: float = 4.0) -> Tensor:
    """temperature^2 times the mean over rows of KL(softmax(teacher / temperature) ||
    softmax(student / temperature)).

    The square keeps the gradient's size whatever the temperature. The teacher gets no gradient.
    With a one-hot teacher it is cross-entropy. No rows give a connected 0. Raises ValueError for
    unequal shapes and a temperature that is not above 0.
    """
    check_pair("distill", student_NK, teacher_NK)
    check_positive("temperature", temperature)
    if not len(student_NK):
        return connected_zero(student_NK)
    log_q, log_p = ((x / temperature).log_softmax(1) for x in (student_NK, teacher_NK.detach()))
    return temperature**2 * kl_div(log_q, log_p, reduction="batchmean", log_target=True)
