import pytest
import torch

from amodal.core import AmodalError, Column, Ragged
from amodal.methods.embedding_retrieval.sorce import region_loss, region_vectors
from amodal.methods.shared.regions import alone
from tests.methods.bench import batch, method


def test_a_text_is_distinguished_by_the_region_that_fits_best():
    torch.manual_seed(0)
    rows = torch.tensor([0, 2, 3])
    asks = Column(torch.randn(4, 6, dtype=torch.float64), torch.tensor([0, 1, 2, 3]))
    parts = Column(Ragged(torch.randn(7, 6, dtype=torch.float64), torch.tensor([2, 4, 1])), rows)
    cosine = torch.nn.functional.cosine_similarity
    score = torch.stack([
        torch.stack([cosine(asks.values[i][None], p).max() for p in parts.values.split()]) for i in rows.tolist()
    ])  # fmt: skip
    own = (score / 0.1).diagonal()
    expected = ((score / 0.1).logsumexp(1) - own).mean() / 2 + (
        (score / 0.1).logsumexp(0) - own
    ).mean() / 2
    torch.testing.assert_close(region_loss(asks, parts, 0.1), expected)


def test_the_first_vector_is_that_of_the_whole_and_a_grid_of_one_has_no_other():
    sorce = method("sorce").eval()
    whole = batch(("plain",))
    context, vectors = alone(sorce.encoder, whole), sorce.encoder(whole)
    for grid, most in ((1, 1), (2, 5)):
        regions = region_vectors(sorce.encoder, context, "picture", grid)
        assert regions.rows.equal(vectors["picture"].rows) and regions.values.lengths.max() == most
        first = regions.values.flat[regions.values.starts()]
        torch.testing.assert_close(first, vectors["picture"].values)


def test_any_field_may_ask_and_the_others_have_regions():
    sorce = method("sorce", text_field="signal")
    features = sorce.features(batch(sorce.views))
    assert set(features.regions) == {"picture", "words", "facts"}
    assert {n for n in sorce.losses(features) if "region" in n} == {
        "region/picture",
        "region/words",
        "region/facts",
    }


def test_without_weight_nothing_but_whole_values_are_compared():
    sorce = method("sorce", weight=0.0)
    assert not any("region" in name for name in sorce.losses(sorce.features(batch(sorce.views))))


def test_an_unknown_field_is_refused():
    with pytest.raises(AmodalError, match="words"):
        method("sorce", text_field="wrods")
    with pytest.raises(AmodalError, match="at least one cell"):
        method("sorce", grid=0)
