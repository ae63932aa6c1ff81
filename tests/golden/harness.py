"""Golden tests: two steps of a page against its paper, written out a second time.

A reference is written from the paper's equations, with loops where they are clearer. It imports
nothing of the package but the types of batches; it calls the encoder's forward (`encoder(batch)`,
or `tokenize` and `encode`), and everything else, projectors and decoders, views, losses, averages
of weights and centres, is written out. Weights come from the page by their names in its
`state_dict`. No expected number comes from running the page.

Randomness. What a page draws (masks, orders, noise) it draws from the seeds of the rows. A
reference may call the same function for a draw if that function is public and documented
(`amodal.masking`), with the numbers of the paper as its arguments; tests of that function hold what
it draws. Whatever is drawn otherwise is drawn by the reference itself, from a `torch.Generator` of
the same seed and in the same order. A reference never asks the page what it has drawn.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from amodal import methods
from amodal.core import Batch, field_of
from amodal.methods.contract import Clock
from tests.methods.bench import batch, exact, method

ROWS = 6
RATE = 0.05
STEPS = 4
"""Of the whole run; two of them are taken, so that schedules move."""


class Reference:
    """An algorithm, written from its paper.

    Args:
        page: Gives its weights, and the encoder whose forward may be called.

    Attributes:
        encoder: A copy, which is trained.
        min_batch_size: What the page says.
        networks: Name in the page's `state_dict` -> encoder; a teacher is added here.
        w: Name -> every other parameter and buffer of the page.
    """

    def __init__(self, page: nn.Module):
        self.encoder, self.min_batch_size = copy.deepcopy(page.encoder), page.min_batch_size
        self.networks: dict[str, nn.Module] = {"encoder": self.encoder}
        trained = {n for n, p in page.named_parameters() if p.requires_grad}
        self.w = {
            name: value.detach().clone().requires_grad_(name in trained)
            for name, value in page.state_dict().items()
            if not name.startswith("encoder.")
        }

    def add_network(self, name: str) -> nn.Module:
        """An encoder without gradients that has the page's weights of that name."""
        network = copy.deepcopy(self.encoder).requires_grad_(False)
        network.load_state_dict({k: self.w.pop(f"{name}.{k}") for k in network.state_dict()})
        self.networks[name] = network
        return network

    def check_start(self) -> None:
        """Assert what holds before the first step, such as that the teacher is the student."""

    def assert_shapes(self, **shapes: tuple[int, ...]) -> None:
        """Assert the shapes of weights; `__` stands for the dot in a name."""
        for name, shape in shapes.items():
            assert tuple(self.w[name.replace("__", ".")].shape) == shape, name

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The paper's loss, term by term."""
        raise NotImplementedError

    def after_step(self, step: int, steps: int) -> None:
        """What happens after each step of the optimizer, counted from 1."""

    def parameters(self) -> dict[str, Tensor]:
        """Name -> what is trained."""
        nets = {
            f"{name}.{key}": p
            for name, network in self.networks.items()
            for key, p in network.named_parameters()
        }
        return {n: p for n, p in (nets | self.w).items() if p.requires_grad}

    def state(self) -> dict[str, Tensor]:
        """Everything that the page's `state_dict` has."""
        nets = {
            f"{name}.{key}": value
            for name, network in self.networks.items()
            for key, value in network.state_dict().items()
        }
        return nets | {n: v.detach() for n, v in self.w.items()}


def assert_same(
    one: dict[str, Tensor], other: dict[str, Tensor], what: str, tolerance: float = 1e-9
) -> None:
    """Equal names, and values equal up to a share of the largest of each tensor."""
    assert one.keys() == other.keys(), (what, sorted(one.keys() ^ other.keys()))
    for name in one:
        a, b = one[name].detach(), other[name].detach()
        assert a.shape == b.shape and a.dtype == b.dtype, (what, name, a.shape, b.shape, a.dtype)
        if a.dtype == torch.bool:
            assert torch.equal(a, b), (what, name)
        elif a.numel():
            gap, largest = (a - b).abs().max(), b.abs().max()
            # below 1e-11 both are zero up to rounding, such as the gradient of a key's bias
            assert gap <= tolerance * largest + 1e-11, (what, name, float(gap), float(largest))


def gradients(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name -> gradient, zeros where there is none."""
    return {
        n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in parameters.items()
    }


def descend(parameters: dict[str, Tensor]) -> None:
    """A step of SGD."""
    with torch.no_grad():
        for p in parameters.values():
            if p.grad is not None:
                p -= RATE * p.grad
                p.grad = None


def golden(
    name: str,
    reference: type[Reference],
    *,
    views: Sequence[str] | Mapping[str, Sequence[str]],
    fields: Sequence[str] = ("picture", "words"),
    rows: int = ROWS,
    size: str = "nano",
    tolerance: float = 1e-9,
    also: Mapping[str, object] = {},
    **options: object,
) -> None:
    """Hold a page against a reference for two steps, in double precision.

    Compared are every term of the loss, the gradient of every parameter, and after each step every
    parameter and buffer.

    Args:
        name: Of the page.
        reference: From the paper. Options are set as its attributes beforehand, by a subclass.
        views: The augmentations of the paper, or field -> its own.
        fields: That records have; each is missing from one row in four.
        rows: Of a batch.
        size: Of the encoder.
        tolerance: A share of the largest value; larger where something is in single precision.
        also: Options of the page whose names are those of arguments here.
        **options: Of the page.
    """
    page = exact(method(name, sources=tuple(fields), size=size, **options, **also)).train()
    reference(page).check_start()
    # no gradient may be zero because a scale or a bias still is what it began as
    torch.manual_seed(1)
    with torch.no_grad():
        for p in page.parameters():
            if p.requires_grad and p.numel() > 1:
                p += 0.02 * torch.randn_like(p)
    expected = reference(page)
    assert plain_views(page.views) == plain_views(views)
    for step in (1, 2):
        rows_of_step = exact(batch(views, size=rows, seed=step, sources=tuple(fields)))
        terms = page.losses(page.features(rows_of_step))
        wanted = expected.losses(rows_of_step)
        assert_same(terms, wanted, f"step {step}: loss", tolerance)
        torch.stack(list(terms.values())).sum().backward()
        torch.stack(list(wanted.values())).sum().backward()
        trained = {n: p for n, p in page.named_parameters() if p.requires_grad}
        wanted = gradients(expected.parameters())
        assert_same(gradients(trained), wanted, f"step {step}: gradient", tolerance)
        descend(trained)
        descend(expected.parameters())
        page.on_step_end(Clock(step, STEPS))
        expected.after_step(step, STEPS)
        assert_same(dict(page.state_dict()), expected.state(), f"after step {step}:", tolerance)


def plain_views(
    views: Sequence[str] | Mapping[str, Sequence[str]],
) -> tuple[str, ...] | dict[str, tuple[str, ...]]:
    """Views to be compared, of all fields or field by field."""
    if isinstance(views, Mapping):
        return {field: tuple(own) for field, own in views.items()}
    return tuple(views)


def defaults(name: str) -> dict[str, object]:
    """The options of a page as they are without a word, to be held against the paper's."""
    return {option: p.default for option, p in methods.options(name).items()}


def unit(x: Tensor) -> Tensor:
    """Rows divided by their Euclidean length."""
    return x / (x * x).sum(-1, keepdim=True).sqrt()


def common(columns: dict[str, object], a: str, b: str) -> tuple[Tensor, Tensor]:
    """The vectors of the rows that have both of two sources."""
    one, other = columns[a], columns[b]
    rows = [r for r in one.rows.tolist() if r in other.rows.tolist()]
    return tuple(c.values[[c.rows.tolist().index(r) for r in rows]] for c in (one, other))


def pairs_of_views(sources: Sequence[str]) -> list[tuple[str, str]]:
    """Every two views of one field, in the order of sources."""
    return [
        (a, b)
        for i, a in enumerate(sources)
        for b in sources[i + 1 :]
        if field_of(a) == field_of(b)
    ]


def batch_norm(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """BatchNorm (Ioffe and Szegedy) over a batch; it moves the running statistics. One row has no
    variance, and is normalised by them."""
    n = len(x)
    if n < 2:
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return (x - mean) / (var + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]
    mean, var = x.mean(0), x.var(0, unbiased=False)
    with torch.no_grad():
        w[f"{name}.running_mean"] = 0.9 * w[f"{name}.running_mean"] + 0.1 * mean
        w[f"{name}.running_var"] = 0.9 * w[f"{name}.running_var"] + 0.1 * var * n / (n - 1)
        w[f"{name}.num_batches_tracked"] = w[f"{name}.num_batches_tracked"] + 1
    return (x - mean) / (var + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def projector(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Linear layers without a bias, BatchNorm and ReLU, and a last linear one with a bias."""
    layers = sorted(
        {int(re.findall(rf"^{name}\.(\d+)", n)[0]) for n in w if n.startswith(f"{name}.")}
    )
    for i in layers[:-1]:
        if f"{name}.{i}.running_mean" in w:
            x = batch_norm(w, f"{name}.{i}", x).relu()
        else:
            x = x @ w[f"{name}.{i}.weight"].T
    return x @ w[f"{name}.{layers[-1]}.weight"].T + w[f"{name}.{layers[-1]}.bias"]
