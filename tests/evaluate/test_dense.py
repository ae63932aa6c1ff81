"""The dense probe, against maps that are known."""

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from sklearn.metrics import confusion_matrix, f1_score, r2_score

import amodal
from amodal.core import AmodalError
from amodal.evaluate import dense_probe
from amodal.evaluate.dense_probe import Example, probe_amounts, probe_classes
from amodal.evaluate.labels import NotApplicable


def planted(count, seed, noise=0.0, side=8, cell=4):
    """Tokens of two numbers, of which the first says the class: 0, 3 or 7."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(count):
        level = rng.integers(0, 3, (side, side))
        grid = np.stack([level, rng.standard_normal(level.shape)], 2) + noise * rng.standard_normal(
            (side, side, 2)
        )
        truth = np.array([0, 3, 7])[level].repeat(cell, 0).repeat(cell, 1)
        out.append(Example({"tokens": grid.astype(np.float32)}, truth))
    return out


def test_numbers_are_those_of_independent_code(monkeypatch):
    """What is guessed is taken from the probe, what it is worth is computed anew."""
    guesses, real = [], dense_probe._enlarged

    def seen(grid, example):
        large = real(grid, example)
        guesses.append(large)
        return large

    monkeypatch.setattr(dense_probe, "_enlarged", seen)
    train, test = planted(12, 0, 0.4), planted(8, 1, 0.4)
    test[2].truth[:5] = 255
    rows, spec = probe_classes(train, test, draws=200, seed=0)
    assert spec["classes"] == [0, 3, 7]
    truth = np.concatenate([e.truth.ravel() for e in test])
    guess = np.array([0, 3, 7])[np.concatenate([g.argmax(0).ravel() for g in guesses])]
    table = confusion_matrix(truth[truth < 255], guess[truth < 255], labels=[0, 3, 7])
    hit = table.diagonal()
    values = {row["metric"]: row for row in rows}
    iou = values["mIoU"]
    assert iou["value"] == pytest.approx((hit / (table.sum(0) + table.sum(1) - hit)).mean())
    assert values["pixel accuracy"]["value"] == pytest.approx(hit.sum() / table.sum())
    dice = f1_score(truth[truth < 255], guess[truth < 255], average="macro")
    assert values["Dice"]["value"] == pytest.approx(dice)
    assert iou["interval"][0] < iou["value"] < iou["interval"][1] and iou["n"] == 8
    # the most frequent class everywhere: its share, a third of the classes
    counts = np.bincount(np.concatenate([e.truth.ravel() for e in train]), minlength=8)
    share = (truth == counts.argmax()).sum() / (truth < 255).sum()
    assert iou["chance"] == pytest.approx(share / 3)
    assert values["pixel accuracy"]["chance"] == pytest.approx(share)


def test_tokens_are_enlarged_between_their_centres():
    grid = torch.tensor([[0.0, 1.0]])[..., None]
    out = dense_probe._enlarged(grid, Example({}, np.zeros((1, 4))))[0, 0]
    assert out.tolist() == [0, 0.25, 0.75, 1]


def test_a_token_learns_the_class_of_most_of_its_pixels():
    truth = np.array([[1, 1, 2, -1], [1, 2, 2, -1]])
    index = dense_probe._index(Example({}, truth), (1, 2))
    assert index.tolist() == [[0, 0, 1, 1]] * 2
    assert dense_probe._token_counts(index, truth, 2, 3).tolist() == [[0, 3, 1], [0, 0, 2]]


def test_tokens_in_space_reach_over_the_border_of_a_map():
    """Five voxels of tokens of two: the third token lies half outside."""
    example = Example({}, np.zeros((5, 2, 1)), (2, 2, 1))
    index = dense_probe._index(example, (3, 1, 1))
    assert index[:, 0, 0].tolist() == [0, 0, 1, 1, 2] and index.shape == (5, 2, 1)
    grid = torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1, 1)
    out = dense_probe._enlarged(grid, example)
    assert out.shape == (1, 5, 2, 1)
    assert out[0, :, 0, 0].tolist() == [0, 0.25, 0.75, 1.25, 1.75]


def test_classes_of_pixels_do_not_depend_on_how_many_are_held(monkeypatch):
    logits = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 2, 2, 7)))
    example = Example({}, np.zeros((6, 4, 3)), (2, 2, 2))
    whole = dense_probe._likeliest(logits, example)
    assert (whole == dense_probe._enlarged(logits.float(), example).argmax(0)).all()
    monkeypatch.setattr(dense_probe, "MAX_LOGITS", 2 * 72)
    assert (dense_probe._likeliest(logits, example) == whole).all()


def test_a_clean_signal_is_read_and_amounts_too():
    train, test = planted(20, 0), planted(10, 1)
    rows, _ = probe_classes(train, test, draws=50, seed=0)
    # what is left are pixels between tokens of other classes
    assert rows[0]["metric"] == "mIoU" and 0.6 < rows[0]["value"] < 1
    smooth = []
    for part in (train, test):
        smooth.append([Example(e.grids, e.grids["tokens"][..., 0] * 2.0 + 1) for e in part])
    smooth[1][0].truth[0] = np.nan
    (r2, rmse), spec = probe_amounts(*smooth, draws=50, seed=0)
    assert spec["kind"] == "amounts" and r2["value"] > 0.99 and r2["chance"] == 0
    assert rmse["value"] < 0.1 < rmse["chance"]


def test_r2_is_that_of_scikit_learn(monkeypatch):
    guesses, real = [], dense_probe._enlarged

    def seen(grid, example):
        guesses.append(real(grid, example))
        return guesses[-1]

    monkeypatch.setattr(dense_probe, "_enlarged", seen)
    train, test = (
        [Example(e.grids, e.truth.astype(float)) for e in planted(9, s, 0.3)] for s in (0, 1)
    )
    (r2, rmse), _ = probe_amounts(train, test, draws=20, seed=0)
    truth = np.concatenate([e.truth.ravel() for e in test])
    guess = np.concatenate([g.ravel() for g in guesses])
    assert r2["value"] == pytest.approx(r2_score(truth, guess), rel=1e-5)
    assert rmse["value"] == pytest.approx(((truth - guess) ** 2).mean() ** 0.5, rel=1e-5)


def test_a_mask_of_0_and_255_has_two_classes_and_one_class_is_refused():
    train = planted(6, 0)
    masks = [Example(e.grids, np.where(e.truth == 7, 255, 0)) for e in train]
    _, spec = probe_classes(masks, masks, draws=5, seed=0)
    assert spec["classes"] == [0, 255]
    alone = [Example(e.grids, np.zeros_like(e.truth)) for e in train]
    with pytest.raises(NotApplicable, match="fewer than two classes"):
        probe_classes(alone, alone, draws=5, seed=0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Pictures of discs, whose map is not a matter of the single pixel's colour alone."""
    folder = tmp_path_factory.mktemp("discs")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    for i in range(60):
        cy, cx, r = rng.uniform(8, 24), rng.uniform(8, 24), rng.uniform(5, 9)
        disc = (y - cy) ** 2 + (x - cx) ** 2 < r**2
        picture = np.where(disc, 170, 80)[..., None] + rng.normal(0, 30, (32, 32, 3))
        Pillow.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"r{i:02}.photo.png")
        Pillow.fromarray(disc.astype(np.uint8)).save(folder / f"r{i:02}.areas.png")
    out = tmp_path_factory.mktemp("run") / "run"
    options = {"steps": 3, "batch_size": 16, "size": "nano", "progress": False}
    amodal.pretrain("simclr", data=folder, out=out, fields=["photo"], **options)
    return amodal.load(out), folder


def test_a_run_is_probed_beside_raw_values_and_an_untrained_encoder(run):
    model, folder = run
    report = model.evaluate(folder, protocols=["dense"], simple=False, truth="areas")
    trained, untrained = (
        {(r["source"], r["metric"]): r["value"] for r in results[0].rows}
        for results in (report.results, report.untrained)
    )
    assert set(trained) == {
        (source, metric)
        for source in ("photo", "raw values")
        for metric in ("mIoU", "Dice", "pixel accuracy")
    }
    assert trained["raw values", "mIoU"] == untrained["raw values", "mIoU"] > 0.6
    assert trained["photo", "mIoU"] != untrained["photo", "mIoU"]


def test_what_is_wrong_is_said(run):
    model, folder = run

    def refused(**options):
        report = model.evaluate(
            folder, protocols=["dense"], simple=False, untrained=False, **options
        )
        return str(report.skipped)

    with pytest.raises(AmodalError, match="--protocol.truth FIELD"):
        refused()
    with pytest.raises(AmodalError, match="column of 'discs.*Did you mean areas"):
        refused(truth="area")
    with pytest.raises(AmodalError, match="field with places.*Did you mean photo"):
        refused(truth="areas", places="photos")
