import pytest
import torch
import torch.nn.functional as F

from amodal.objectives.alignment_uniformity import alignment, uniformity


def test_alignment(pair, same):
    def reference(a, b, alpha):
        a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
        return sum(torch.linalg.norm(a[i] - b[i]) ** alpha for i in range(len(a))) / len(a)

    same(alignment, lambda a, b: reference(a, b, 2), pair(7, 4))
    same(lambda a, b: alignment(a, b, alpha=1.0), lambda a, b: reference(a, b, 1), pair(7, 4))
    a = pair(7, 4)[0]
    assert alignment(a, 3 * a) < 1e-20


@pytest.mark.parametrize("t", [2.0, 500.0])
@pytest.mark.parametrize("tile", [1, 3, 1024])
def test_uniformity(pair, same, t, tile):
    def reference(z):
        return torch.pdist(F.normalize(z, dim=1)).square().mul(-t).exp().mean().log()

    same(lambda z: uniformity(z, t, tile=tile), reference, pair(7, 4)[:1], rtol=1e-7)
    assert abs(uniformity(torch.ones(5, 4))) < 1e-6


def test_errors(pair):
    with pytest.raises(ValueError, match="above 0"):
        uniformity(torch.ones(5, 4), t=0)
    with pytest.raises(ValueError, match="matrix"):
        uniformity(torch.ones(5))
    with pytest.raises(ValueError, match="alignment"):
        alignment(torch.ones(5, 4), torch.ones(4, 4))
