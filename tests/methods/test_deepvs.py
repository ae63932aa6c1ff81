"""The score, the loss and the assignment against loops over the published formulas."""

import itertools

import numpy as np
import pytest
import torch
from amodal_claims._arms import Budget, fit

import amodal
from amodal import data, methods, modalities
from amodal.core import AmodalError, Batch, Column, Ragged
from amodal.core.column import shared_rows
from amodal.core.region_text import RegionText
from amodal.methods.shared.snippets import assign, by_word, scores
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


COLOURS = {"red": 0, "green": 1, "blue": 2}
TEXTS = ("a red box", "one green box and blue", "blue", "red and green box")


def scenes(count=40):
    rng = np.random.default_rng(0)
    pictures, texts = [], []
    for i in range(count):
        picture = rng.integers(0, 40, (16, 24, 3), dtype=np.uint8)
        name = list(COLOURS)[i % 3]
        picture[:8, :8, COLOURS[name]] = 220
        pictures.append(picture)
        texts.append(f"{rng.choice(['a', 'one'])} {name} box {i}")
    return {"image": pictures, "text": texts}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deepvs")
    data = amodal.open(scenes(), fields={"text": "text"})
    options = {"captions": 0.5, "width": 16, "hidden": 16, "beta": 0.3}
    model = amodal.pretrain(
        "deepvs", data, folder / "run", size="nano", steps=6, batch_size=16, options=options
    )
    return model, data, folder


def parts_of(m, batch):
    """Row -> its regions and tokens in the common space, from the encoder's own pieces."""
    encoder, out = m.encoder, {}
    for field in batch.sources:
        tokens = encoder.encode(encoder.tokenize(batch.only(field)))[field]
        z = encoder.heads[field](tokens.x)
        for row in batch[field].rows.tolist():
            own = z[tokens.row == row]
            if field == "image":
                whole = encoder.heads[field](tokens.x[tokens.row == row].mean(0))
                own = torch.cat([whole[None], own])
            out[row, field] = own
    return out


def pair_batch(m, texts, missing=()):
    fields, rng = m.encoder.fields, np.random.default_rng(1)
    pictures = [rng.integers(0, 255, (16, 16, 3), dtype=np.uint8) for _ in texts]
    columns = {}
    for name, raws in (("image", pictures), ("text", texts)):
        rows = [i for i in range(len(texts)) if (name, i) not in missing]
        values = [fields[name].decode(raws[i]) for i in rows]
        columns[name] = Column(fields[name].collate(values), torch.tensor(rows))
    return Batch.of(len(texts), columns)


@pytest.mark.parametrize("beta", [0.0, 0.3, 5.0])
def test_words_are_placed_by_the_best_of_all_assignments(run, beta):
    m = run[0].method.eval()
    m.beta = beta
    batch = pair_batch(m, TEXTS, missing={("image", 2)})
    with torch.no_grad():
        parts = parts_of(m, batch)
    modality = m.encoder.fields["text"]
    placed = m.place_texts(batch, "image")
    assert {p.row for p in placed} == {0, 1, 3}
    for row in (0, 1, 3):
        value = modality.decode(TEXTS[row])
        numbers = modality.words(modality.collate([value])).tolist()
        words = [
            sum(v for v, k in zip(parts[row, "text"], numbers) if k == n)
            for n in range(max(numbers) + 1)
        ]
        fits = torch.stack([w @ parts[row, "image"].T for w in words])
        regions = range(fits.shape[1])
        if len(regions) ** len(words) > 30000:
            regions = fits.topk(3, 1).indices.unique().tolist()[:8]

        def total(path, fits=fits):
            return sum(fits[j, r] for j, r in enumerate(path)) + beta * sum(
                a == b for a, b in itertools.pairwise(path)
            )

        best = max(itertools.product(regions, repeat=len(words)), key=total)
        own = [p for p in placed if p.row == row]
        runs = [(r, list(g)) for r, g in itertools.groupby(range(len(best)), key=lambda j: best[j])]
        got = sum(len(p.text.split()) for p in own)
        assert got == len(TEXTS[row].split()) and " ".join(p.text for p in own) == TEXTS[row]
        paths = [p.box for p in own]
        boxes = [(0.0, 0.0, 1.0, 1.0), *token_boxes_of(m, batch, row)]
        assert paths == [boxes[r] for r, _ in runs]
        for p, (r, js) in zip(own, runs):
            assert p.score == pytest.approx(float(fits[js, r].mean()), rel=1e-4, abs=1e-5)


def token_boxes_of(m, batch, row):
    tokens = m.encoder.tokenize(batch.only("image"))["image"]
    side = round((tokens.row == row).sum().item() ** 0.5)
    return [
        (x / side, y / side, (x + 1) / side, (y + 1) / side)
        for y in range(side)
        for x in range(side)
    ]


def test_own_texts_are_compared_with_those_of_others(run):
    m = run[0].method.eval()
    batch = pair_batch(m, TEXTS)
    with torch.no_grad():
        parts = parts_of(m, batch)
        table = m.pair_scores(batch, "image")
    for k in range(4):
        for n in range(4):
            best = (parts[n, "text"] @ parts[k, "image"].T).max(1).values.sum()
            torch.testing.assert_close(table[k, n], best, rtol=1e-4, atol=1e-5)


def test_regions_are_written_the_likeliest_first(run):
    m = run[0].method.eval()
    batch = pair_batch(m, TEXTS[:2])
    written = m.write_texts(batch, "image", beams=2, longest=5)
    tokens = m.encoder.encode(m.encoder.tokenize(batch.only("image")))["image"]
    for row in (0, 1):
        own = [p for p in written if p.row == row]
        vectors = tokens.x[tokens.row == row]
        vectors = torch.cat([vectors.mean(0)[None], vectors])
        boxes = [(0.0, 0.0, 1.0, 1.0), *token_boxes_of(m, batch, row)]
        expected = []
        for vector, box in zip(vectors, boxes):
            ids, total = m.writer.write(vector, beams=2, longest=5)
            text = m.encoder.fields["text"].text(np.array(ids, dtype=np.int64))
            expected.append(RegionText(row, text, box, total / (len(ids) + 1)))
        assert len(own) == len(boxes) and [p.score for p in own] == sorted(
            (p.score for p in own), reverse=True
        )
        by_box = {p.box: p for p in own}
        for want in expected:
            assert by_box[want.box].text == want.text
            assert by_box[want.box].score == pytest.approx(want.score, rel=1e-4)


def test_by_word_sums_the_tokens_of_a_word():
    flat = torch.arange(12.0).view(6, 2)
    words, starts = by_word(Ragged(flat, torch.tensor([4, 0, 2])), torch.tensor([0, 0, 1, 2, 0, 0]))
    assert starts == [[0, 2, 3, 4], [0], [0, 2]] and words.lengths.tolist() == [3, 0, 1]
    torch.testing.assert_close(
        words.flat, torch.stack([flat[0] + flat[1], flat[2], flat[3], flat[4] + flat[5]])
    )


def test_words_need_tokens_and_pictures_a_grid():
    m = method("deepvs", sources=("picture", "words"))
    with pytest.raises(AmodalError, match="has no captioner"):
        m.write_texts(Batch.of(0, {}), "picture")
    flat = method(
        "deepvs", sources=("picture", "words"), backbones={"picture": "convnet"}, regions=False
    )
    assert flat.boxes_of(
        Batch.of(2, {"picture": Column(torch.zeros(2, 3, 16, 16), torch.arange(2))}), "picture"
    ) == {
        0: [(0.0, 0.0, 1.0, 1.0)],
        1: [(0.0, 0.0, 1.0, 1.0)],
    }
