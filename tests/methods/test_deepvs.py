"""The score, the loss and the assignment against loops over the published formulas."""

import numpy as np
import pytest
import torch
from amodal_claims._arms import Budget, fit

from amodal import data, methods, modalities
from amodal.core import AmodalError, Ragged
from amodal.core.column import shared_rows
from amodal.methods.shared.snippets import assign, scores
from amodal.nn.encoder import Encoder
from tests.methods.bench import batch, exact, fields, method, raw

FIELDS = ("picture", "words")


def lists(*lengths, seed=0, width=4):
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randn(
        sum(lengths), width, dtype=torch.float64, generator=generator
    ).requires_grad_()
    return Ragged(flat, torch.tensor(lengths))


def slow_scores(seen, words):
    table = [
        [sum(max(v @ s for v in picture) for s in line) for line in words.split()]
        for picture in seen.split()
    ]
    return torch.stack([torch.stack(row) for row in table])


def test_a_score_is_the_sum_over_words_of_the_best_region():
    seen, words = lists(3, 5, 1), lists(2, 4, 1, 3, seed=1)
    ours, theirs = scores(seen, words), slow_scores(seen, words)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    for a, b in zip(
        *(torch.autograd.grad((t * weight).sum(), [seen.flat, words.flat]) for t in (ours, theirs))
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("regions", [True, False])
def test_the_loss_is_the_published_sum_over_the_pairs(regions):
    m = exact(method("deepvs", sources=FIELDS, regions=regions))
    z = m.features(exact(batch(m.views, sources=FIELDS)))
    a, b = shared_rows(z.parts["picture"], z.parts["words"])
    seen, words = z.parts["picture"].values[a], z.parts["words"].values[b]
    assert set(seen.lengths.tolist()) == {5 if regions else 1}  # four patches and the whole
    table, total = slow_scores(seen, words), 0.0
    for k in range(len(table)):
        for other in range(len(table)):
            if other != k:
                total = (
                    total
                    + torch.relu(table[k, other] - table[k, k] + 1)
                    + torch.relu(table[other, k] - table[k, k] + 1)
                )
    torch.testing.assert_close(m.losses(z)["hinge/picture~words"], total / len(table))


def test_the_whole_comes_first_and_is_what_is_embedded():
    m = method("deepvs", sources=FIELDS)
    b = batch(m.views, sources=FIELDS)
    z, embedded = m.features(b), m.encoder(b)
    first = torch.stack([p[0] for p in z.parts["picture"].values.split()])
    torch.testing.assert_close(first, embedded["picture"].values)
    mean = torch.stack([p.mean(0) for p in z.parts["words"].values.split()])
    torch.testing.assert_close(mean, embedded["words"].values, rtol=1e-4, atol=1e-5)


def test_words_go_to_their_best_region_and_with_beta_to_their_neighbours():
    seen, words = lists(3, 5), lists(4, 2, seed=1)
    alone = assign(seen, words, 0.0)
    for regions, line, chosen in zip(seen.split(), words.split(), alone.split()):
        assert chosen.tolist() == (line @ regions.T).argmax(1).tolist()
    for line in assign(seen, words, 100.0).split():
        assert len(set(line.tolist())) == 1


def test_any_field_may_be_the_words():
    m = method("deepvs", text_field="facts")
    assert set(m.losses(m.features(batch(m.views)))) == {
        f"hinge/{s}~facts" for s in ("picture", "words", "signal")
    }
    with pytest.raises(ValueError, match="Did you mean facts"):
        method("deepvs", text_field="fact")
    with pytest.raises(ValueError, match="Did you mean hardest"):
        m = method("deepvs", reduction="hardst")
        m.losses(m.features(batch(m.views)))


def captioning(**options):
    torch.manual_seed(0)
    words = modalities.make("text", max_length=24, patch=1)
    encoder = Encoder({"picture": fields()["picture"], "words": words}, size="nano", mixer="brnn")
    return methods.build("deepvs", encoder, width=16, hidden=12, captions=0.5, **options)


def test_the_writer_learns_from_whole_texts_and_from_snippets_with_the_encoder_frozen():
    m = captioning(beta=2.0)
    b = batch(m.views, sources=FIELDS)
    assert m.stages == (0.5, 1.0) and set(m.losses(m.features(b))) == {"hinge/picture~words"}
    assert not any(p.requires_grad for p in m.writer.parameters())
    m.on_stage_start(1)
    z = m.features(b)
    common, seen = m.encode_parts(b)
    a, c = shared_rows(seen["picture"], b["words"])
    parts, lines = seen["picture"].values[a].split(), b["words"].values[c].split()
    paths = assign(common["picture"].values[a], common["words"].values[c], 2.0).split()
    for row, (part, line, path) in enumerate(zip(parts, lines, paths)):
        pieces, start = [(part[0], line)], 0
        for end in range(1, len(line) + 1):
            if end == len(line) or path[end] != path[start]:
                pieces.append((part[path[start]], line[start:end]))
                start = end
        each = torch.cat([m.writer(v[None], Ragged.of([text])) for v, text in pieces])
        torch.testing.assert_close(z.captions["picture"].values[row], each.sum(0))
    loss = m.losses(z)["caption/picture"]
    loss.backward()
    assert all(p.grad is None for p in m.encoder.parameters())
    assert all(p.grad.abs().sum() > 0 for p in m.writer.parameters())
    text, score = m.writer.write(parts[0][0], beams=2, longest=5)
    assert len(text) <= 5 and score < 0


@pytest.mark.parametrize("captions", [0.0, 0.5])
def test_what_was_frozen_stays_so_in_every_stage(captions):
    words = modalities.make("text", max_length=24, patch=1)
    encoder = Encoder({"picture": fields()["picture"], "words": words}, size="nano", mixer="brnn")
    frozen = encoder.tokenizers["picture"].requires_grad_(False)  # as a pretrained backbone is
    m = methods.build("deepvs", encoder, width=16, hidden=12, captions=captions)

    def learning():
        return {name for name, p in m.encoder.named_parameters() if p.requires_grad}

    first = learning()
    assert first and not any(p.requires_grad for p in frozen.parameters())
    if captions:
        m.on_stage_start(1)
        assert not learning()
        m.on_stage_start(0)
        assert learning() == first


def test_captions_need_words_id_by_id():
    with pytest.raises(AmodalError, match="patch = 1"):
        method("deepvs", captions=0.5)


def test_a_run_trains_both_stages(tmp_path):
    rng = np.random.default_rng(0)
    rows = {
        "picture": [raw("picture", rng) for _ in range(16)],
        "words": [raw("words", rng) for _ in range(16)],
    }
    m = captioning()
    records = data.open(rows).with_fields(m.encoder.fields)
    before = [p.clone() for p in (*m.encoder.parameters(), *m.writer.parameters())]
    fit(m, records, range(16), Budget(4, 8), 0, 1e-2)
    assert m.stage == 1
    assert any(not torch.equal(a, b) for a, b in zip(before, m.encoder.parameters()))
    assert any(
        not torch.equal(a, b)
        for a, b in zip(before[-len(list(m.writer.parameters())) :], m.writer.parameters())
    )
