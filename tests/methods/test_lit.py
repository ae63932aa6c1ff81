"""LiT: what is locked stays as it was, and the rest learns."""

import pytest
import torch

from amodal.core import AmodalError
from tests.methods.bench import batch, method


def stepped(m):
    optimizer = torch.optim.SGD([p for p in m.parameters() if p.requires_grad], 0.1)
    sum(m.losses(m.features(batch(m.views))).values()).backward()
    before = {n: p.detach().clone() for n, p in m.encoder.named_parameters()}
    optimizer.step()
    return {n for n, p in m.encoder.named_parameters() if not torch.equal(p, before[n])}


@pytest.mark.parametrize("lock", ["", "words, facts"])
def test_a_locked_tower_stays_and_its_map_into_the_common_space_learns(lock):
    changed = stepped(method("lit", lock=lock))
    locked = [f.strip() for f in (lock or "picture").split(",")]
    towers = ("tokenizers", "trunks", "pools", "field_token")
    assert not any(n.startswith(tuple(f"{t}.{f}" for t in towers for f in locked)) for n in changed)
    assert all(f"heads.{f}.weight" in changed for f in ("picture", "words", "signal", "facts"))
    assert any(n.startswith("trunks.signal") for n in changed)


def test_what_cannot_be_locked_is_refused():
    with pytest.raises(AmodalError, match="picture"):
        method("lit", lock="pictur")
    with pytest.raises(AmodalError, match="leave one out"):
        method("lit", lock="picture,words,signal,facts")
