"""APE: nothing but heads learns, and they are built again with the encoder."""

import pytest
import torch

from amodal.core import AmodalError
from amodal.nn import config
from tests.methods.bench import batch, method
from tests.methods.test_lit import stepped


def test_only_heads_learn_and_the_anchor_has_a_linear_one():
    m = method("ape", anchor="words", blocks=2)
    changed = stepped(m)
    assert changed and all(n.startswith(("extra_blocks.", "heads.")) for n in changed)
    assert (
        set(m.encoder.extra_blocks) == {"picture", "signal", "facts"}
        and len(m.encoder.extra_blocks["signal"].blocks) == 2
    )


def test_without_blocks_maps_are_linear():
    assert stepped(method("ape", blocks=0)) == {
        f"heads.{f}.weight" for f in ("picture", "words", "signal", "facts")
    }


def test_an_extended_tower_is_rebuilt():
    encoder = method("ape").encoder.eval()
    rebuilt = config.build(encoder.spec).eval()
    rebuilt.load_state_dict(encoder.state_dict())
    seen = batch(("plain",))
    for source, column in encoder(seen).columns.items():
        assert torch.equal(column.values, rebuilt(seen)[source].values)


def test_mistakes_are_reported():
    with pytest.raises(AmodalError, match="picture"):
        method("ape", anchor="pictur")
    with pytest.raises(AmodalError, match="0 blocks or more"):
        method("ape", blocks=-1)
