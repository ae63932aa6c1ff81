"""Volumes in all their forms become montages, and reports the sentences about a topic."""

import csv
import io

import numpy as np
import pytest
import torch
from PIL import Image

from amodal import data
from amodal.cli import main
from amodal.core import AmodalError, Column, Embeddings
from amodal.curate.montage import PatchSelector
from amodal.modalities import make
from amodal.nn.encoder import Encoder
from amodal.selection.montages import Report, Scan, read_volume, write_montages

REPORT = "History: cough.\nLungs: Ground-glass opacity is seen. No effusion.\nHeart: Normal."


@pytest.fixture
def selector():
    """Patches are taken by how bright they are."""
    torch.manual_seed(0)
    fields = {
        "scan": make("image", size=8, channels=1, patch=4),
        "words": make("text", max_length=16, patch=4),
    }

    class Toy(Encoder):
        def forward(self, batch):
            bright = {
                "scan": lambda v: v.mean((1, 2, 3)) - 0.5,
                "words": lambda v: 1.0 + 0 * v.lengths,
            }
            columns = {
                s: Column(torch.stack([bright[s](c.values), torch.full((len(c),), 0.1)], 1), c.rows)
                for s, c in batch.columns.items()
            }
            return Embeddings(columns, batch.size)

    encoder = Encoder(fields, size="nano").align(8)
    encoder.__class__ = Toy
    findings = {"bright": ["light"]}
    return PatchSelector(encoder, findings, image="scan", text="words", patch=4, keep=1)


def volume(seed=0):
    x = np.full((3, 8, 8), -1000.0, dtype=np.float32)
    x[1, 4:, :4] = 100.0 + seed  # one patch of one slice is bright
    return x


def folder_of_records(path):
    for i in range(3):
        np.save(path / f"scan{i}.npy", volume(i))
    with (path / "records.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "scan", "report", "disease"])
        writer.writerows(
            [f"p{i}", f"scan{i}.npy", REPORT, "ild" if i else "none"] for i in range(3)
        )
    return path


def test_a_volume_is_read_in_all_its_forms(tmp_path):
    whole = volume() + 2000.0
    np.save(tmp_path / "a.npy", whole)
    np.savez(tmp_path / "b.npz", scan=whole)
    pages = [Image.fromarray(s, mode="F") for s in whole]
    pages[0].save(tmp_path / "c.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "d").mkdir()
    for i, page in enumerate(pages):
        page.save(tmp_path / "d" / f"{i}.tif")
    for name in ("a.npy", "b.npz", "c.tif", "d"):
        np.testing.assert_array_equal(read_volume(tmp_path / name), whole)
    np.save(tmp_path / "one.npy", whole[0])
    assert read_volume(tmp_path / "one.npy").shape == (1, 8, 8)
    np.save(tmp_path / "odd.npy", np.zeros((2, 3, 4, 5)))
    with pytest.raises(AmodalError, match="one height and width"):
        read_volume(tmp_path / "odd.npy")
    with pytest.raises(AmodalError, match="no volume"):
        read_volume(tmp_path / "gone.nii")


def test_intensities_are_those_of_a_window(tmp_path):
    np.save(tmp_path / "a.npy", volume())
    x = Scan(column="scan", level=-600.0, width=1500.0).slices(tmp_path / "a.npy")
    assert x.shape == (3, 1, 8, 8)
    assert float(x.min()) == pytest.approx((-1000 + 1350) / 1500)
    assert float(x.max()) == pytest.approx((100 + 1350) / 1500)
    own = Scan(column="scan").slices(tmp_path / "a.npy")
    assert (float(own.min()), float(own.max())) == (0.0, 1.0)


def test_montages_and_sentences_are_records(tmp_path, selector):
    (tmp_path / "in").mkdir()
    source = data.open(folder_of_records(tmp_path / "in"))
    report = Report(column="report", sections=("Lungs",), about=("opacity",))
    table = write_montages(
        source, selector, tmp_path / "out", scan=Scan(column="scan"), report=report, progress=False
    )
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["disease"] for r in rows] == ["none", "ild", "ild"]
    assert {r["words"] for r in rows} == {"Ground-glass opacity is seen."}
    for row in rows:
        pixels = np.asarray(Image.open(io.BytesIO((table.parent / row["scan"]).read_bytes())))
        assert pixels.shape == (8, 8) and (pixels == 255).all()  # the bright patch, enlarged
    assert list(rows[0]) == ["key", "scan", "words", "id", "disease"]
    assert "scan" in data.open(tmp_path / "out").fields
    with pytest.raises(AmodalError, match="choose another folder"):
        write_montages(source, selector, tmp_path / "out", scan=Scan(column="scan"), report=report)
    with pytest.raises(AmodalError, match="Did you mean scan"):
        write_montages(source, selector, tmp_path / "x", scan=Scan(column="scann"), report=Report())


def test_the_verb(tmp_path, folder, capsys):
    """On a run of pictures and texts."""
    run, source = tmp_path / "run", tmp_path / "in"
    main(["pretrain", "clip", "--data", str(folder), "--size", "nano", "--steps", "1",
          "--batch-size", "4", "--out", str(run)])  # fmt: skip
    source.mkdir()
    folder_of_records(source)
    main(["montage", str(run), "--data", str(source), "--scans", "scan", "--findings", "red,blue",
          "--patch", "4", "--keep", "4", "--level", "-600", "--width", "1500",
          "--out", str(tmp_path / "out")])  # fmt: skip
    assert "pretrain clip_ild --init-from" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "montages").glob("*.png"))) == 3
