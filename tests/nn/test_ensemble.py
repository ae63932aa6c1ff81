"""Encoders side by side: vectors end to end, and cosines that are means."""

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize

from amodal.core import AmodalError
from amodal.nn import config
from amodal.nn.encoder import Encoder
from amodal.nn.ensemble import Ensemble
from tests.methods.bench import batch, fields


def stacked(aligned=8, **kind):
    torch.manual_seed(0)
    encoder = Encoder(fields(), size="nano", **kind)
    encoder = Ensemble.of(encoder.align(aligned) if aligned else encoder, 3)
    with torch.no_grad():
        for p in encoder.members[1:].parameters():
            p.add_(0.1 * torch.randn_like(p))
    return encoder.eval()


@pytest.mark.parametrize("kind", [{}, {"trunk": "joint"}, {"trunk": "shared"}], ids=str)
@torch.no_grad()
def test_vectors_are_those_of_all_parts_end_to_end(kind):
    encoder, b = stacked(**kind), batch(("plain",))
    features, vectors = encoder.features(b), encoder(b)
    assert encoder.space_width == 24
    for s in vectors:
        each = [part.features(b)[s] for part in encoder.members]
        torch.testing.assert_close(
            features[s].values, torch.cat([normalize(c.values, dim=1) for c in each], 1)
        )
        own = [part(b)[s].values for part in encoder.members]
        torch.testing.assert_close(
            vectors[s].values, torch.cat([normalize(v, dim=1) for v in own], 1)
        )
    a, c = vectors.pair("words", "facts")
    parts = [part(b).pair("words", "facts") for part in encoder.members]
    torch.testing.assert_close(
        cosine_similarity(a, c), sum(cosine_similarity(*p) for p in parts) / 3
    )


@torch.no_grad()
def test_it_can_be_saved_and_rebuilt():
    for aligned in (0, 8):
        encoder, b = stacked(aligned), batch(("plain",))
        rebuilt = config.build(encoder.spec)
        rebuilt.load_state_dict(encoder.state_dict())
        for s, column in encoder(b).columns.items():
            assert (
                torch.equal(column.values, rebuilt.eval()(b)[s].values)
                and column.values.shape[1] == encoder.space_width
            )


def test_none_beside_it_changes_nothing_and_hidden_layers_are_refused():
    torch.manual_seed(0)
    encoder, b = Encoder(fields(), size="nano").align(8), batch(("plain",))
    before = encoder(b)
    after = Ensemble.of(encoder, 1)(b)
    assert (
        all(torch.equal(before[s].values, after[s].values) for s in before)
        and encoder.space_width == 8
    )
    with pytest.raises(AmodalError, match="linear heads only"):
        Ensemble.of(Encoder(fields(), size="nano").align(8, hidden=16), 2)
