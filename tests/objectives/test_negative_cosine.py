"""With many rows the gradient is written out: the same as autograd's, where vectors are zero or
tiny too."""

import torch

from amodal.objectives import negative_cosine as page


def test_many_rows_are_as_few(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    p, v = (torch.randn(300, 16, generator=generator, dtype=torch.float64) for _ in range(2))
    p[3], v[4], p[5] = 0, 0, 1e-9
    p.requires_grad_()
    found = []
    for many in (page.MIN_FUSED_ROWS, 10**9):
        monkeypatch.setattr(page, "MIN_FUSED_ROWS", many)
        loss = page.negative_cosine(p, v)
        found.append([loss, torch.autograd.grad(loss, p)[0]])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-15)
