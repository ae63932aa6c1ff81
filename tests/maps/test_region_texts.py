"""`amodal map --texts`: words on regions, against all assignments one by one."""

import csv
import itertools

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import amodal
from amodal.cli import main
from amodal.core import AmodalError, Batch, Column, Tokens
from amodal.core.region_text import RegionText
from amodal.maps.region_texts import best_of_each, drawing
from amodal.methods.shared.snippets import by_word
from amodal.modalities import make
from amodal.nn.patch_vectors import token_boxes
from tests.methods.bench import method

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
    from amodal.core import Ragged

    flat = torch.arange(12.0).view(6, 2)
    words, starts = by_word(Ragged(flat, torch.tensor([4, 0, 2])), torch.tensor([0, 0, 1, 2, 0, 0]))
    assert starts == [[0, 2, 3, 4], [0], [0, 2]] and words.lengths.tolist() == [3, 0, 1]
    torch.testing.assert_close(
        words.flat, torch.stack([flat[0] + flat[1], flat[2], flat[3], flat[4] + flat[5]])
    )


def test_boxes_of_a_grid():
    place = torch.cartesian_prod(torch.zeros(1), torch.arange(2.0), torch.arange(3.0))
    tokens = Tokens.of(torch.zeros(6, 4), torch.tensor([1]), torch.tensor([6]), place, "image", 2)
    boxes = token_boxes(tokens)
    assert list(boxes) == [1] and len(boxes[1]) == 6
    assert boxes[1][0] == (0, 0, pytest.approx(1 / 3), 0.5)
    assert boxes[1][5] == (pytest.approx(2 / 3), 0.5, 1, 1)


def test_a_folder_with_a_table_and_pictures(run):
    model, data, folder = run
    result = model.map(data, folder / "align", texts="align", pictures=2, progress=False)
    assert result.records == 40 and 0 <= result.own_share <= 1
    assert "chance 50%" in result.sentence and str(len(result.rows)) in result.sentence
    with (folder / "align" / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(result.rows) and set(rows[0]) == {
        *("key", "snippet", "left", "top", "right", "bottom", "score"),
    }
    of_first = " ".join(r["snippet"] for r in rows if r["key"] == data.keys[0])
    assert of_first == " ".join(str(data.raw(0, "text")).split())
    drawn = sorted((folder / "align" / "regions").iterdir())
    assert len(drawn) == 2 and Pillow.open(drawn[0]).width == 320
    written = model.map(
        {"image": scenes(3)["image"]}, folder / "write", texts="write", progress=False
    )
    assert written.own_share is None and written.records == 3 and "written" in written.sentence
    with pytest.raises(AmodalError, match="made otherwise"):
        model.map(data, folder / "align", texts="write", progress=False)


def test_the_command_and_its_mistakes(run, tmp_path, capsys):
    model, data, folder = run
    with pytest.raises(AmodalError, match="Did you mean align"):
        model.map(data, tmp_path / "a", texts="aling")
    with pytest.raises(AmodalError, match="go without queries, resolution"):
        model.map(data, tmp_path / "a", texts="align", queries="a,b", resolution=64)
    with pytest.raises(AmodalError, match="no record of .* has image and text"):
        model.map({"image": scenes(3)["image"]}, tmp_path / "a", texts="align", progress=False)
    plain = amodal.pretrain("clip", data, tmp_path / "clip", size="nano", steps=1, batch_size=8)
    with pytest.raises(AmodalError, match="places no texts on regions; deepvs does"):
        plain.map(data, tmp_path / "a", texts="align")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i, picture in enumerate(scenes(4)["image"]):
        Pillow.fromarray(picture).save(pictures / f"{i}.png")
    run_folder = str(folder / "run")
    main(
        [
            "map",
            run_folder,
            "--data",
            str(pictures),
            "--out",
            str(tmp_path / "w"),
            "--texts",
            "write",
        ]
    )
    assert "texts written on regions of image of 4 records" in " ".join(
        capsys.readouterr().out.split()
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


def test_of_each_written_text_the_likeliest_region_is_drawn():
    box = (0.0, 0.0, 0.5, 0.5)
    texts = [
        RegionText(0, "b", box, -2.0),
        RegionText(0, "a", box, -1.0),
        RegionText(0, "b", box, -0.5),
    ]
    assert [(t.text, t.score) for t in best_of_each(texts)] == [("b", -0.5), ("a", -1.0)]


def test_a_drawing_has_the_box_in_its_colour():
    data = amodal.open({"image": [np.full((20, 40, 3), 7, np.uint8)] * 4})
    field = make("image", size=16, channels=3, patch=8, fit="crop")
    page = drawing(data, "image", field, 0, [RegionText(0, "a", (0.0, 0.0, 0.5, 1.0), 1.0)])
    assert page.shape == (160 + 16 + 4, 320, 3)
    box = np.argwhere((page[:160] != 7).any(2))
    # of the middle square, 80 to 240 pixels across, the left half
    assert box.min(0).tolist() == [0, 80] and box.max(0).tolist() == [159, 159]
