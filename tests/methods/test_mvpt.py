"""MVPt: segments of one moment find each other among all segments of the batch, tracks among
tracks."""

import pytest
import torch
import torch.nn.functional as F

from amodal.core import AmodalError, Tokens
from amodal.methods.embedding_retrieval.mvpt import same_moments
from amodal.nn.fusion.temporal import segments_of
from tests.methods.bench import batch, exact, method

PAIR = ("words", "signal")


def symmetric(pairs, temperature):
    """InfoNCE of (vector, vector) pairs, loops alone."""
    total = 0.0
    for own, other in ((0, 1), (1, 0)):
        for pair in pairs:
            cosines = [F.cosine_similarity(pair[own], p[other], dim=0) / temperature for p in pairs]
            total += (
                torch.stack(cosines).logsumexp(0)
                - F.cosine_similarity(pair[0], pair[1], dim=0) / temperature
            )
    return total / len(pairs) / 2


def test_both_losses_are_those_of_the_paper():
    m = exact(method("mvpt", sources=PAIR, temperature=0.2, track=0.5, segment=2.0))
    b = exact(batch(m.views, sources=PAIR))
    terms, z, context = (
        m.losses(m.features(b)),
        m.encoder(b),
        m.encoder.encode(m.encoder.tokenize(b)),
    )
    vectors = {}
    for s in PAIR:
        bag = m.encoder.pools[s].strip(context[s])
        for x, row, position in zip(bag.x, bag.row.tolist(), bag.position[:, 0].tolist()):
            vectors.setdefault((row, int(position // 2)), {}).setdefault(s, []).append(x)
    at = [
        {s: m.encoder.heads[s](torch.stack(x).mean(0)) for s, x in v.items()}
        for v in vectors.values()
        if len(v) == 2
    ]
    assert len(at) > len(z.pair(*PAIR)[0]) > 1  # several segments of a track
    want = 2 * symmetric([(v["words"], v["signal"]) for v in at], 0.2)
    torch.testing.assert_close(terms["segment/words~signal"], want, rtol=1e-5, atol=1e-6)
    want = symmetric(list(zip(*z.pair(*PAIR))), 0.2) / 2
    torch.testing.assert_close(terms["track/words~signal"], want, rtol=1e-5, atol=1e-6)


def test_segments_are_means_of_the_tokens_in_them():
    time = torch.tensor([0.0, 1.4, 1.6, 4.0, 0.2, 0.4])
    bag = Tokens.of(
        torch.arange(6.0)[:, None],
        torch.tensor([0, 2]),
        torch.tensor([4, 2]),
        F.pad(time[:, None], (0, 2)),
        "sound",
        3,
    )
    cut = segments_of(bag, 1.5)
    assert cut.x.squeeze(1).tolist() == [0.5, 2, 3, 4.5]
    assert cut.row.tolist() == [0, 0, 0, 2] and cut.position[:, 0].tolist() == [0, 1, 2, 0]


def test_a_moment_that_one_field_lacks_has_no_pair_and_others_of_a_track_are_negatives():
    m = method("mvpt")
    features = m.features(batch(m.views, patchy=False))
    a, b = same_moments(features, *PAIR)
    counts = [features.moments[s].values.lengths for s in PAIR]
    assert len(a) == len(b) == int(torch.minimum(*counts).sum()) < int(torch.maximum(*counts).sum())


def test_only_fields_in_time_have_segments_and_all_have_tracks():
    m = method("mvpt", timed="")
    terms = m.losses(m.features(batch(m.views)))
    assert (
        m.timed == ["signal"]
        and all(name.startswith("track/") for name in terms)
        and len(terms) == 6
    )
    assert {
        t.split("/")[0]
        for t in method("mvpt", track=0.0).losses(method("mvpt").features(batch(m.views)))
    } == {"segment"}


def test_a_vector_of_a_segment_depends_on_the_others_of_its_track():
    m = exact(method("mvpt", sources=PAIR))
    whole = exact(batch(m.views, sources=PAIR, patchy=False))
    values = whole.columns["signal"].values
    first = m.features(whole).segments["signal"].values.flat[0].detach()
    values.flat[values.lengths[0] - 1] += 5  # the last step of the first track
    assert (m.features(whole).segments["signal"].values.flat[0] - first).abs().max() > 1e-6


def test_wrong_options():
    with pytest.raises(AmodalError, match="Did you mean signal"):
        method("mvpt", timed="signl")
    with pytest.raises(AmodalError, match="at least 0 and not all 0"):
        method("mvpt", track=0.0, segment=0.0)
    with pytest.raises(AmodalError, match="two fields that run in time"):
        method("mvpt", timed="signal", track=0.0)
