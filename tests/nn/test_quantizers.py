"""Quantizers beside vector-quantize-pytorch and beside loops."""

import pytest
import torch
from torch.nn.functional import normalize

from amodal.core import AmodalError
from amodal.nn.quantizers import (
    EPS,
    ProductQuantizer,
    ResidualQuantizer,
    VectorQuantizer,
)

peer = pytest.importorskip("vector_quantize_pytorch")


def vectors(count=200, width=6, seed=0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def twins(cosine=False):
    """A quantizer, and that of the peer with the same codebook."""
    mine = VectorQuantizer(16, 6, decay=0.8, cosine=cosine, kmeans_start=False)
    theirs = peer.VectorQuantize(
        dim=6, codebook_size=16, decay=0.8, kmeans_init=False, threshold_ema_dead_code=0,
        commitment_weight=1.0, use_cosine_sim=cosine, rotation_trick=False,
    )  # fmt: skip
    book = theirs._codebook
    book.embed.data.copy_(mine.vectors[None])
    book.embed_avg.data.copy_(mine.sums[None])
    book.cluster_size.data.copy_(mine.used[None])
    return mine, theirs, book


def test_codes_vectors_losses_and_gradients_are_the_peers():
    mine, theirs, book = twins()
    for step in range(4):
        x, y = (vectors(seed=step).requires_grad_() for _ in range(2))
        made = mine(x)
        (made.x * torch.arange(6.0)).sum().backward()
        mine.update(x)
        out, codes, loss = theirs.train()(y[None])
        (out * torch.arange(6.0)).sum().backward()
        assert torch.equal(made.codes[:, 0], codes[0])
        torch.testing.assert_close(made.x, out[0])
        torch.testing.assert_close(made.loss.mean(), loss.sum())
        torch.testing.assert_close(x.grad, y.grad)
        torch.testing.assert_close(mine.vectors, book.embed[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine.used, book.cluster_size[0], rtol=1e-5, atol=1e-6)
    assert not torch.equal(mine.vectors, VectorQuantizer(16, 6).vectors)


def test_codes_of_directions_are_the_peers():
    mine, theirs, _ = twins(cosine=True)
    x = vectors()
    made = mine(x)
    out, codes, _ = theirs.eval()(x[None])
    assert torch.equal(made.codes[:, 0], codes[0])
    torch.testing.assert_close(made.x, out[0])
    torch.testing.assert_close(mine.vectors.norm(dim=1), torch.ones(16))
    mine.update(x)
    torch.testing.assert_close(mine.vectors.norm(dim=1), torch.ones(16))
    torch.testing.assert_close(made.loss, (normalize(x, dim=1) - made.x).square().mean(1))


def test_the_loss_moves_vectors_toward_their_codes_and_codes_stay():
    book = VectorQuantizer(8, 6, kmeans_start=False)
    x = vectors(20).requires_grad_()
    made = book(x)
    made.loss.sum().backward()
    torch.testing.assert_close(x.grad, (2 * (x - book.vectors[made.codes[:, 0]]) / 6).detach())
    assert not list(book.parameters()) and not book.vectors.requires_grad


def test_a_codebook_begins_by_clusters_of_the_first_batch():
    centres = 10 * vectors(4, seed=3)
    x = (centres[:, None] + 0.1 * vectors(200).view(4, 50, 6)).flatten(0, 1)
    book = VectorQuantizer(4, 6)
    before = book.vectors.clone()
    book(x)
    assert torch.equal(book.vectors, before)
    book.update(x)
    assert int((torch.cdist(centres, book.vectors).min(1).values < 0.2).sum()) == 4
    assert book.used.tolist() == [50.0] * 4 and book(x).loss.mean() < 0.02
    torch.testing.assert_close(book.sums, book.vectors * 50)
    few = VectorQuantizer(8, 6)
    begun = few.vectors.clone()
    few.update(x[:3])
    assert (torch.cdist(x[:3], few.vectors[:3]).min(1).values < 1e-4).all()
    assert torch.equal(few.vectors[3:], begun[3:])


def test_moving_averages_by_hand():
    book = VectorQuantizer(3, 2, decay=0.5, kmeans_start=False)
    start, x = book.vectors.clone(), vectors(10, 2)
    codes = torch.cdist(x, start).argmin(1)
    book.update(x)
    for k in range(3):
        mine = x[codes == k]
        used = 0.5 * 1 + 0.5 * len(mine)
        sums = 0.5 * start[k] + 0.5 * mine.sum(0)
        total = 0.5 * 3 + 0.5 * 10
        smooth = (used + EPS) / (total + 3 * EPS) * total
        torch.testing.assert_close(book.vectors[k], sums / smooth)
        assert book.used[k] == pytest.approx(used)


def test_codes_that_nothing_uses_are_set_anew():
    book = VectorQuantizer(4, 6, decay=0.0, restart=2.0, kmeans_start=False)
    book.vectors[2:] = 1e3
    x = vectors(50)
    book.update(x)
    assert (torch.cdist(book.vectors[2:], x).min(1).values < 1e-3).all()
    assert book.used[2:].tolist() == [2.0, 2.0]
    torch.testing.assert_close(book.sums[2:], 2 * book.vectors[2:])
    twin = VectorQuantizer(4, 6, decay=0.0, restart=2.0, kmeans_start=False)
    twin.load_state_dict(book.state_dict())
    for each in (book, twin):  # the same draw after a resume, and another one in another step
        each.vectors[3] = 1e3
        each.update(x)
    assert torch.equal(book.vectors, twin.vectors)
    still = VectorQuantizer(4, 6, restart=0.0, kmeans_start=False)
    still.vectors[3] = 1e3
    still.sums[3] = 1e3
    still.update(x)
    assert still.vectors[3].norm() > 100


def test_nothing_to_learn_from_changes_nothing():
    book = VectorQuantizer(4, 6)
    before = {name: value.clone() for name, value in book.state_dict().items()}
    book.update(torch.zeros(0, 6))
    assert all(torch.equal(before[n], v) for n, v in book.state_dict().items())
    assert book(torch.zeros(0, 6)).codes.shape == (0, 1)


def test_use_of_codes():
    book = VectorQuantizer(4, 6)
    assert book.usage()["perplexity"] == pytest.approx(4) and book.usage()["share"] == 1
    book.used.copy_(torch.tensor([8.0, 8.0, 0.0, 0.0]))
    assert book.usage() == {"perplexity": pytest.approx(2), "share": 0.5}


def test_codebooks_side_by_side():
    product = ProductQuantizer(5, 6, groups=3, kmeans_start=False)
    x = vectors(30).requires_grad_()
    made = product(x)
    assert made.codes.shape == (30, 3)
    for g in range(3):
        part = product.books[g](x[:, 2 * g : 2 * g + 2])
        assert torch.equal(made.codes[:, g], part.codes[:, 0])
        torch.testing.assert_close(made.x[:, 2 * g : 2 * g + 2], part.x)
    torch.testing.assert_close(product.decode(made.codes), made.x)
    made.x.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(30, 6))
    whole = torch.stack(
        [book(x[:, 2 * g : 2 * g + 2]).loss for g, book in enumerate(product.books)]
    )
    torch.testing.assert_close(made.loss, whole.mean(0))
    product.update(x)
    assert all(int(book.steps) == 1 for book in product.books)
    assert len(product.usage()) == 3


def test_codebooks_one_after_another_are_the_peers_and_leave_less_and_less():
    theirs = peer.ResidualVQ(
        dim=6, num_quantizers=3, codebook_size=16, kmeans_init=False, threshold_ema_dead_code=0,
        decay=0.8, rotation_trick=False,
    )  # fmt: skip
    mine = ResidualQuantizer(16, 6, levels=3, decay=0.8, kmeans_start=False)
    for book, layer in zip(mine.books, theirs.layers):
        layer._codebook.embed.data.copy_(book.vectors[None])
        layer._codebook.embed_avg.data.copy_(book.sums[None])
        layer._codebook.cluster_size.data.copy_(book.used[None])
    x = vectors()
    made = mine(x)
    out, codes, _ = theirs.train()(x[None])
    assert torch.equal(made.codes, codes[0])
    torch.testing.assert_close(made.x, out[0])
    mine.update(x)
    for book, layer in zip(mine.books, theirs.layers):
        torch.testing.assert_close(book.vectors, layer._codebook.embed[0], rtol=1e-4, atol=1e-5)
    fitted = ResidualQuantizer(16, 6, levels=3)
    for _ in range(3):
        fitted.update(x)
    codes = fitted(x).codes
    left = [(x - fitted.decode(codes[:, :n])).square().mean() for n in (1, 2, 3)]
    assert left[0] > 1.3 * left[1] > 1.3**2 * left[2]


def test_a_residual_begins_by_clusters_of_what_the_levels_before_leave():
    """Beside the peer, which begins each level behind the one before it."""
    centres = 10 * vectors(8, seed=3)
    x = (centres[:, None] + vectors(400, seed=4).view(8, 50, 6)).flatten(0, 1)
    mine = ResidualQuantizer(8, 6, levels=3)
    mine.update(x)
    theirs = peer.ResidualVQ(
        dim=6, num_quantizers=3, codebook_size=8, kmeans_init=True, threshold_ema_dead_code=0,
        rotation_trick=False,
    )  # fmt: skip
    theirs.train()(x[None])
    far = [(x - out).square().sum(1).mean() for out in (mine(x).x, theirs.eval()(x[None])[0][0])]
    assert far[0] < 1.2 * far[1] < 0.2 * x.square().sum(1).mean()


def test_a_residual_sends_its_gradient_through_once():
    residual, x = ResidualQuantizer(8, 6, levels=2, kmeans_start=False), vectors(9)
    x.requires_grad_()
    made = residual(x)
    made.x.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(9, 6))
    torch.testing.assert_close(residual.decode(made.codes), made.x)
    first = residual.books[0](x)
    second = residual.books[1](x - first.x.detach())
    torch.testing.assert_close(made.loss, first.loss + second.loss)


@pytest.mark.parametrize("make, message", [
    (lambda: VectorQuantizer(1, 4), "at least 2 codes"),
    (lambda: VectorQuantizer(4, 4, decay=1.0), "decay from 0"),
    (lambda: ProductQuantizer(4, 6, groups=4), "do not divide 6"),
    (lambda: ResidualQuantizer(4, 6, levels=0), "1 level or more"),
    (lambda: ResidualQuantizer(4, 6, levels=2, cosine=True), "leave cosine out"),
])  # fmt: skip
def test_what_cannot_be(make, message):
    with pytest.raises(AmodalError, match=message):
        make()
