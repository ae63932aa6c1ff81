"""M3CoL: its total written out, when the contrast changes, what mixed inputs do to labels, and rows
that lack a field."""

import pytest
import torch
import torch.nn.functional as F

from amodal import methods
from amodal.core import AmodalError, Embeddings, name_code
from amodal.masking.hashing import hash_bits, uniform
from amodal.masking.mixing import batch_seed, beta, partners
from amodal.methods.contract import Clock
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.late_fusion import LateFusion, shares
from amodal.objectives.mixup_nce import mixup_nce, soft_clip
from amodal.objectives.soft_info_nce import SimilarityTargets, soft_info_nce
from tests.methods.bench import batch, exact, fields, method

TWO = ("picture", "words")


def made(**options):
    torch.manual_seed(0)
    encoder = Encoder(fields(TWO), size="nano")
    return exact(
        methods.build("m3col", encoder, **({"label": "kind", "classes": 3, "hidden": 8} | options))
    )


def rows(size=7, **more):
    return exact(batch(("weak",), size, patchy=False, sources=TWO, **more))


def test_the_total_is_the_published_one():
    m, one = made(), rows()
    z = m.encoder.features(one)
    a, b = (z[s].values for s in TWO)
    known, y = one.labels["kind"].rows, one.labels["kind"].values
    terms = m.losses(m.features(one))
    heads = {
        "fused": (m.heads.fused, torch.cat([a, b], 1)),
        "picture": (m.heads.alone["picture"], a),
        "words": (m.heads.alone["words"], b),
    }
    for name, (head, x) in heads.items():
        torch.testing.assert_close(terms[f"supervised/{name}"], F.cross_entropy(head(x[known]), y))
    for mixed, fixed, name in ((a, b, "picture>words"), (b, a, "words>picture")):
        seeds = hash_bits(one.seeds, name_code(name))
        chosen = uniform(hash_bits(seeds, name_code("mixed"))) < 0.5
        shares = torch.where(chosen, beta(seeds, 0.15), torch.ones(7))
        assert 0 < chosen.sum() < 7
        torch.testing.assert_close(
            terms[f"contrast/{name}"], 0.1 * mixup_nce(mixed, fixed, partners(seeds), shares)
        )
    assert len(terms) == 5


def test_after_the_first_third_targets_are_what_is_alike():
    m, one = made(), rows()
    a, b = (m.encoder.features(one)[s].values for s in TWO)
    m.on_step_end(Clock(33, 100))
    terms = m.losses(m.features(one))
    torch.testing.assert_close(terms["contrast/picture>words"], 0.1 * soft_clip(a, b))
    torch.testing.assert_close(terms["contrast/words>picture"], 0.1 * soft_clip(b, a))
    m.on_step_end(Clock(32, 100))
    assert m.losses(m.features(one))["contrast/picture>words"] != terms["contrast/picture>words"]
    assert set(made(weight=0.0).losses(m.features(one))) == {
        "supervised/fused",
        "supervised/picture",
        "supervised/words",
    }


def test_the_contrast_weighs_as_much_as_one_term_a_field():
    every = exact(batch(("weak",), 7, patchy=False))
    m = exact(method("m3col"))
    terms = m.losses(m.features(every))
    plain = exact(method("m3col", weight=3.0)).losses(m.features(every))
    names = [n for n in terms if n.startswith("contrast")]
    assert len(names) == 12
    seeds, z = hash_bits(every.seeds, name_code("facts>words")), m.encoder.features(every)
    shares = torch.where(
        uniform(hash_bits(seeds, name_code("mixed"))) < 0.5, beta(seeds, 0.15), torch.ones(7)
    )
    loss = mixup_nce(z["facts"].values, z["words"].values, partners(seeds), shares)
    torch.testing.assert_close(terms["contrast/facts>words"], 0.1 * 4 / 12 * loss)
    torch.testing.assert_close(plain["contrast/facts>words"], 3 * 4 / 12 * loss)


def test_mixed_inputs_share_their_labels():
    m, one = made(mixup="picture"), rows()
    known, y = one.labels["kind"].rows, one.labels["kind"].values
    seeds = hash_bits(one.seeds[known], name_code("picture"))
    partner, mix_share = partners(seeds), float(beta(batch_seed(seeds), 0.2))
    assert 1e-6 < mix_share < 1 - 1e-6
    terms = m.losses(m.features(one))
    bag = m.encoder.patchify(one)["picture"]
    x = bag.x.view(7, -1, m.encoder.width)
    x = x.index_copy(0, known, mix_share * x[known] + (1 - mix_share) * x[known][partner])
    mixed = (
        m.encoder.encode({"picture": m.encoder.add_positions(bag.with_x(x.flatten(0, 1)))})[
            "picture"
        ]
        .pool()
        .values
    )
    words = m.encoder.features(one)["words"].values

    def loss(head, vectors, share):
        logits = head(vectors[known])
        return share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(
            logits, y[partner]
        )

    torch.testing.assert_close(
        terms["supervised/picture"], loss(m.heads.alone["picture"], mixed, mix_share)
    )
    torch.testing.assert_close(terms["supervised/words"], loss(m.heads.alone["words"], words, 1.0))
    both = torch.cat([mixed, words], 1)
    torch.testing.assert_close(
        terms["supervised/fused"], loss(m.heads.fused, both, (1 + mix_share) / 2)
    )


def test_shares_of_more_fields():
    own = torch.tensor([0.4, 1.0])
    found = shares(own, "b", ["a", "b", "c"])
    torch.testing.assert_close(found["fused"], torch.tensor([(2 + 0.4) / 3, 1.0]))
    assert found["a"].tolist() == [1, 1] and torch.equal(found["b"], own)
    assert shares(own, "", ["a"])["a"].tolist() == [1, 1]


def test_a_row_that_lacks_a_field_has_a_learned_vector_in_its_place():
    m, whole = made(), exact(batch(("plain",), 7, sources=TWO))
    assert len(whole["picture"]) < 7
    found = m.predict(whole)
    assert not found.values.requires_grad
    z = Embeddings({s: m.encoder.features(whole)[s] for s in TWO}, 7)
    for row, logits in zip(found.rows.tolist(), found.values):
        parts = []
        for s in TWO:
            at = (z[s].rows == row).nonzero()
            parts.append(z[s].values[at[0, 0]] if len(at) else m.heads.absent[s])
        torch.testing.assert_close(logits, m.heads.fused(torch.cat(parts)))
    nobody = LateFusion(["a", "b"], 4, 8, 3)
    none = Embeddings(
        {s: type(found)(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)) for s in "ab"}, 5
    )
    assert nobody(none).values.shape == (0, 3)


def test_mixed_inputs_keep_the_contract():
    from amodal.train.step import gradients

    one = exact(batch(("weak",), 9))
    whole, pieces = (exact(method("m3col", mixup="signal")) for _ in range(2))
    values, accumulated = gradients(whole, one), gradients(pieces, one, micro=2)
    for name in values:
        torch.testing.assert_close(values[name], accumulated[name], rtol=1e-9, atol=1e-9)
    for (name, p), q in zip(whole.named_parameters(), pieces.parameters()):
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("tile", [2, 256])
def test_targets_of_similarities_are_a_matrix_made_in_tiles(tile):
    """Of two other sets, so that the matrix is not symmetric, and transposed for the way back."""
    g = torch.Generator().manual_seed(0)
    a, b, u, v = (torch.randn(n, 4, generator=g, dtype=torch.float64) for n in (5, 7, 5, 7))
    matrix = (F.normalize(u, dim=1) @ F.normalize(v, dim=1).T / 0.3).softmax(1)
    made = SimilarityTargets(u, v, 0.3)
    torch.testing.assert_close(made.row_sums(a), matrix.sum(1))
    for symmetric in (False, True):
        options = {"temperature": 0.2, "symmetric": symmetric}
        found = soft_info_nce(a, b, made, tile=tile, **options)
        torch.testing.assert_close(found, soft_info_nce(a, b, matrix, **options))
        logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.2
        there, back = ((matrix * logits.log_softmax(d)).sum() / n for d, n in ((1, 5), (0, 7)))
        torch.testing.assert_close(found, -(there + back) / 2 if symmetric else -there)


def test_errors_say_what_to_do():
    with pytest.raises(AmodalError, match="set label"):
        made(label="")
    with pytest.raises(AmodalError, match="Did you mean picture"):
        made(mixup="picturr")
    encoder = Encoder(fields(TWO), size="nano")
    encoder.tokenizers["picture"].contextual = True
    with pytest.raises(AmodalError, match="cannot be mixed"):
        methods.build("m3col", encoder, label="kind", classes=3, mixup="picture")
    methods.build("m3col", encoder, label="kind", classes=3, mixup="words")
    m = made(label="kinds")
    with pytest.raises(AmodalError, match="Did you mean kind"):
        m.features(rows())
