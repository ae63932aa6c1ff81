"""gram_volume and gram_info_nce against batched determinants."""

import pytest
import torch
import torch.nn.functional as F

from amodal.objectives.gram_volume import gram_info_nce, gram_volume, volumes
from tests.objectives.test_contrastive import LargestTensor


def sources(count, rows=7, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(rows, width, dtype=torch.float64, generator=generator).requires_grad_()
        for _ in range(count)
    ]


def determinant(anchors, others):
    """(M, N): the k x k Gram matrix of each pair of rows, and its determinant."""
    unit = [F.normalize(v, dim=1) for v in others]
    table = []
    for a in F.normalize(anchors, dim=1):
        row = []
        for j in range(len(unit[0])):
            vectors = torch.stack([a, *(u[j] for u in unit)])
            row.append(torch.det(vectors @ vectors.T).abs().sqrt())
        table.append(torch.stack(row))
    return torch.stack(table)


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_volume_is_the_root_of_the_determinant(count, same):
    same(
        lambda *v: gram_volume(v).sum(),
        lambda *v: determinant(v[0], v[1:]).diagonal().sum(),
        sources(count),
    )
    weight = torch.randn(7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    same(
        lambda a, *o: (volumes(a, o) * weight).sum(),
        lambda a, *o: (determinant(a, o) * weight).sum(),
        sources(count),
    )


def test_of_two_it_is_the_sine_and_orthogonal_is_one():
    a, b = (x.detach() for x in sources(2))
    cosine = F.cosine_similarity(a, b)
    torch.testing.assert_close(gram_volume([a, b]), (1 - cosine**2).sqrt())
    torch.testing.assert_close(gram_volume([a, -b]), gram_volume([a, b]))
    eye = torch.eye(4)
    assert gram_volume([eye, eye.roll(1, 0), eye.roll(2, 0)]).tolist() == [1.0] * 4


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("tile", [1, 3, 256])
@pytest.mark.parametrize("more", [0, 3])
def test_the_loss_is_smoothed_cross_entropy_both_ways(count, smoothing, tile, more, same):
    *vectors, extra = sources(count + 1)
    extra = extra[:more].detach().requires_grad_()
    temperature = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)

    def reference(anchor, extra, t, *others):
        to_data = -determinant(anchor, others) / t
        to_anchor = -determinant(torch.cat([anchor, extra]), others).T / t
        target = torch.arange(len(anchor))
        return (
            sum(F.cross_entropy(x, target, label_smoothing=smoothing) for x in (to_data, to_anchor))
            / 2
        )

    def ours(anchor, extra, t, *others):
        return gram_info_nce(
            anchor, others, temperature=t, smoothing=smoothing, extra_anchor_MD=extra, tile=tile
        )

    same(ours, reference, [vectors[0], extra, temperature, *vectors[1:]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_collinear_vectors_have_finite_gradients(dtype):
    a = torch.randn(5, 4, dtype=dtype, generator=torch.Generator().manual_seed(0))
    for others in ([a, a], [a + 1e-6, a.flip(0)], [a.roll(1, 0), a.roll(1, 0) * 2]):
        leaves = [v.clone().requires_grad_() for v in (a, *others)]
        loss = gram_info_nce(leaves[0], leaves[1:], temperature=0.07)
        loss.backward()
        assert loss.isfinite() and all(v.grad.isfinite().all() for v in leaves)
        assert max(v.grad.abs().max() for v in leaves) < 1e5


def test_float32_is_close_to_float64_near_alignment():
    base, *noise = (v.detach() for v in sources(4, rows=32, width=16))
    near = [base + 0.02 * n for n in noise]
    exact, rough = (
        gram_info_nce(near[0].to(d), [n.to(d) for n in near[1:]], temperature=0.07)
        for d in (torch.float64, torch.float32)
    )
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough.double(), exact, rtol=1e-4, atol=1e-4)


def test_nothing_to_compare_is_a_connected_zero():
    for rows in (0, 1):
        vectors = [v[:rows].detach().requires_grad_() for v in sources(3)]
        loss = gram_info_nce(vectors[0], vectors[1:], temperature=0.07)
        loss.backward()
        assert loss == 0 and all(v.grad is not None for v in vectors)


def test_no_square_matrix():
    vectors = [torch.randn(2048, 8, requires_grad=True) for _ in range(3)]
    with LargestTensor() as largest:
        gram_info_nce(vectors[0], vectors[1:], temperature=0.07, tile=64).backward()
    assert all(v.grad.abs().sum() > 0 for v in vectors)
    assert largest.elements <= 64 * 2048


def test_errors_say_what_was_passed():
    a, b = sources(2)
    with pytest.raises(ValueError, match="got none"):
        gram_info_nce(a, [], temperature=1.0)
    with pytest.raises(ValueError, match=r"\(7, 6\) and \(3, 6\)"):
        gram_info_nce(a, [b[:3]], temperature=1.0)
    with pytest.raises(ValueError, match="smoothing"):
        gram_info_nce(a, [b], temperature=1.0, smoothing=1.0)
