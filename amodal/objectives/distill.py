"""Knowledge distillation: a student's logits follow a teacher's softened ones.

Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2.
"""

from torch import Tensor
from torch.nn.functional import kl_div

from amodal.objectives.common import check_pair, check_positive, connected_zero, full_precision


@full_precision
def distill(student_NK: Tensor, teacher_NK: Tensor, *, temperature: float = 4.0) -> Tensor:
    """Divergence of softened predictions.

        L = t^2 mean_i KL(softmax(teacher_i / t) || softmax(student_i / t)),  t the temperature

    The square keeps the size of the gradient at any temperature. With a one-hot teacher this is
    cross-entropy.

    Args:
        student_NK: logits.
        teacher_NK: logits, without gradient.
        temperature: of both.

    Returns:
        A scalar. Without rows: 0, connected to the student.

    Raises:
        ValueError: the shapes differ, or `temperature` is not above 0.
    """
    check_pair("distill", student_NK, teacher_NK)
    check_positive("temperature", temperature)
    if not len(student_NK):
        return connected_zero(student_NK)
    log_q, log_p = ((x / temperature).log_softmax(1) for x in (student_NK, teacher_NK.detach()))
    return temperature**2 * kl_div(log_q, log_p, reduction="batchmean", log_target=True)
