"""MedFLIP beyond the contract: what the encoder sees, soft targets, and how its terms go together."""

import math

import pytest
import torch
import torch.nn.functional as F

from amodal.core import AmodalError, Embeddings
from tests.methods.bench import batch, exact, method

PLAIN = {"semantics": "", "reconstruct": 0.0, "tuning": 0.0}


def seen_by(m, b):
    """field -> how many tokens of each row go through its trunk."""
    counts = {}
    for field, trunk in m.encoder.trunks.items():
        trunk.register_forward_pre_hook(
            lambda _, inputs, field=field: counts.update({field: inputs[0].lengths()})
        )
    m.features(b)
    return counts


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.75])
def test_only_visible_tokens_enter_the_encoder_and_words_stay_whole(ratio):
    m = method("medflip", **PLAIN, ratio=ratio)
    b = batch(m.views)
    every = {s: bag.lengths() for s, bag in m.encoder.tokenize(b).items()}
    for field, lengths in seen_by(m, b).items():
        share = 1.0 if field == "words" else 1 - ratio
        expected = [max(1, math.floor(n * share + 0.5)) if n else 0 for n in every[field].tolist()]
        assert lengths.tolist() == expected, field


def test_the_last_steps_see_everything():
    m = method("medflip", semantics="", reconstruct=0.0, tuning=0.25, ratio=0.5)
    assert m.stages == (0.75, 1.0)
    b = batch(m.views)
    m.on_stage_start(1)
    whole = m.features(b)
    for s, column in m.encoder(b).columns.items():
        torch.testing.assert_close(whole.aligned[s].values, column.values)
    m.on_stage_start(0)
    assert not torch.allclose(
        m.features(b).aligned["picture"].values, whole.aligned["picture"].values
    )


def test_what_is_seen_hangs_on_the_seed_alone():
    m = method("medflip", **PLAIN)
    b, other = batch(m.views), batch(m.views, seed=1)
    swapped = type(b)(b.size, b.columns, b.keys, other.seeds, b.labels)
    one, repeated, drawn = (m.features(x).aligned for x in (b, b, swapped))
    assert torch.equal(one["picture"].values, repeated["picture"].values)
    assert not torch.allclose(one["picture"].values, drawn["picture"].values)
    assert torch.equal(one["words"].values, drawn["words"].values)


def slow_match(a, b, y, tau):
    """y[i][j]: how much row i, of either field, belongs to row j of the other."""
    s = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / tau
    total = 0.0
    for i in range(len(s)):
        for j in range(len(s)):
            there, back = torch.log_softmax(s[i], 0)[j], torch.log_softmax(s[:, i], 0)[j]
            total -= y[i][j] * float(there + back)
    return total / (2 * len(s))


@pytest.mark.parametrize("semantics", ["", "kind"])
def test_matching_is_the_double_sum_with_soft_targets(semantics):
    m = exact(
        method(
            "medflip",
            semantics=semantics,
            reconstruct=0.0,
            tuning=0.0,
            sources=("picture", "words"),
        )
    )
    b = exact(batch(m.views, sources=("picture", "words")))
    features = m.features(b)
    z = Embeddings(dict(features.aligned), features.size)
    rows, (a, z) = z.complete(("picture", "words"))
    kinds = (
        dict(zip(b.labels["kind"].rows.tolist(), b.labels["kind"].values.tolist()))
        if semantics
        else {}
    )
    y = []
    for i in rows.tolist():
        if i not in kinds:
            y.append([float(i == j) for j in rows.tolist()])
            continue
        e = [math.exp(float(kinds[i] == kinds.get(j))) for j in rows.tolist()]
        y.append([x / sum(e) for x in e])
    if not semantics:
        m.targets = None  # no table of targets where every row belongs to itself alone
    with torch.no_grad():
        found = m.losses(features)["match/picture~words"]
        assert float(found) == pytest.approx(slow_match(a, z, y, 0.07), rel=1e-5)


def test_the_spectral_term_turns_around_with_its_weight():
    terms = {}
    for weight in (2.0, -2.0, 0.0):
        m = method("medflip", **PLAIN, spectral=weight, sources=("picture", "words"))
        found = m.losses(m.features(batch(m.views, sources=("picture", "words"))))
        terms[weight] = [float(v.detach()) for n, v in found.items() if n.startswith("spectrum")]
    assert terms[0.0] == [] and terms[2.0][0] == -terms[-2.0][0] > 0


def test_what_was_dropped_is_predicted_and_nothing_else():
    m = method("medflip", **(PLAIN | {"reconstruct": 1.0}), ratio=0.5)
    b = batch(m.views)
    features = m.features(b)
    counts = {s: int(c.values[:, 1].sum()) for s, c in features.reconstruction.items()}
    every = {s: bag.lengths() for s, bag in m.encoder.tokenize(b).items() if s != "words"}
    visible = seen_by(m, b)
    assert counts == {s: int((every[s] - visible[s]).sum()) for s in every}


def test_options_that_make_no_field():
    with pytest.raises(AmodalError, match="below 1"):
        method("medflip", ratio=1.0)
    m = method("medflip", **(PLAIN | {"semantics": "kinds"}))
    with pytest.raises(AmodalError, match="Did you mean kind"):
        m.features(batch(m.views))
