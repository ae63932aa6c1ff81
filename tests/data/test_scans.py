"""Scans as data: folders of slices, endings of two parts, packs, and heads cut into blocks."""

import tarfile
import warnings
from dataclasses import replace

import numpy as np
import pytest

import amodal
from amodal import data, modalities
from amodal.core import AmodalError
from amodal.data.readers import FilePattern, Folder, ending_of
from amodal.data.readers._files import propose
from amodal.data.sets import brains
from amodal.data.sets.shared.scans import Head, by_block
from amodal.inference.partial_data import read_partial
from amodal.modalities import BadValue
from amodal.modalities.shared import volume_frame as frame
from amodal.modalities.shared import volume_values as values
from tests.modalities.scans import directory, nifti, series


@pytest.fixture
def people(tmp_path):
    """Twelve people with a series each, one of them with two; and a report beside some."""
    root = tmp_path / "people"
    for i in range(12):
        for name in ("a", "b") if i == 3 else ("a",):
            folder = root / f"p{i:02}" / name
            folder.mkdir(parents=True)
            slices, _ = series(5, SeriesInstanceUID=f"1.2.{i}.{ord(name)}")
            for k, content in enumerate(slices):
                (folder / f"IM-{(3 * k) % 5}.dcm").write_bytes(content)
        if i % 2:
            (root / f"p{i:02}" / "a.txt").write_text(f"report of person {i}", encoding="utf-8")
    return root


def test_a_folder_of_slices_is_one_record(people):
    report = data.init(people)
    opened = data.open(people)
    assert len(opened) == 13 and opened.keys[:5] == ["p00/a", "p01/a", "p02/a", "p03/a", "p03/b"]
    assert set(opened.fields) == {"volume", "text"} and opened.present("text").sum() == 6
    assert opened.value(4, "volume").shape == (9, 7, 6)
    text = str(report)
    assert "8 x 6 x 5 voxels, 0.8 x 0.5 x 2 mm, axes LPS, Hounsfield" in " ".join(text.split())
    assert not opened.reader.ignored
    before = opened.fingerprint
    file = people / "p03" / "b" / "IM-4.dcm"
    file.write_bytes(file.read_bytes()[:-2] + b"\1\1")
    assert data.open(people).fingerprint != before


def test_slices_beside_the_schema_and_in_a_tar_are_one_record(tmp_path):
    slices, _ = series(4)
    for i, content in enumerate(slices):
        (tmp_path / f"{i}.dcm").write_bytes(content)
    alone = Folder(tmp_path, None, modalities.suffixes())
    assert alone.keys == ["scan"] and len(alone.get(0, "volume")) == 4
    with tarfile.open(tmp_path / "people.tar", "w") as archive:
        for person in ("x", "y"):
            for i in range(4):
                archive.add(tmp_path / f"{i}.dcm", f"{person}/{i}.dcm")
    opened = data.open(tmp_path / "people.tar")
    assert opened.keys == ["x", "y"] and opened.value(1, "volume").shape == (9, 7, 5)


@pytest.mark.parametrize("name", ["IM{:04}", "1.2.840.{}", "{:08}"])
def test_slices_without_an_ending_are_looked_into(tmp_path, name):
    slices, _ = series(4)
    for person in ("x", "y"):
        (tmp_path / person / "t1").mkdir(parents=True)
        for i, content in enumerate(slices):
            (tmp_path / person / "t1" / name.format(i)).write_bytes(content)
        (tmp_path / person / "t1" / "DICOMDIR").write_bytes(directory())
    (tmp_path / "DICOMDIR").write_bytes(slices[0])
    (tmp_path / "x" / "notes").write_text("about x", encoding="utf-8")
    data.init(tmp_path)
    opened = data.open(tmp_path)
    assert opened.keys == ["x/t1", "y/t1"] and list(opened.fields) == ["volume"]
    assert opened.value(1, "volume").shape == (9, 7, 5)
    assert values.read(tmp_path / "x" / "t1").voxels.shape == (8, 6, 4)


def test_a_pack_holds_all_slices_of_a_value(people, tmp_path):
    opened = data.open(people)
    data.pack(opened, tmp_path / "pack")
    packed = data.open(tmp_path / "pack")
    for i in (0, 4, 12):
        np.testing.assert_array_equal(packed.value(i, "volume"), opened.value(i, "volume"))
    assert packed.keys == opened.keys


def test_folders_that_a_table_names_are_packed_too(people, tmp_path):
    names = [f"people/p{i:02}/a" for i in range(12)]
    rows = "\n".join(f"r{i},{name}" for i, name in enumerate(names))
    (tmp_path / "scans.csv").write_text(f"id,scan\n{rows}\n", encoding="utf-8")
    (tmp_path / "dataset.toml").write_text(
        'records = "scans.csv"\nkey = "id"\n[fields.scan]\nmodality = "volume"\n', encoding="utf-8"
    )
    opened = data.open(tmp_path)
    data.pack(opened, tmp_path / "pack")
    packed = data.open(tmp_path / "pack")
    np.testing.assert_array_equal(packed.value(3, "scan"), opened.value(3, "scan"))


def test_folders_that_texts_name_are_scans(people, tmp_path):
    folders = [people / f"p{i:02}" / "a" for i in range(12)]
    by_text = data.open({"scan": [str(folder) for folder in folders]})
    assert by_text.fields["scan"].kind == "volume"
    by_path = data.open({"scan": folders})
    np.testing.assert_array_equal(by_text.value(3, "scan"), by_path.value(3, "scan"))
    rows = "\n".join(f"p{i:02},people/p{i:02}/a,{'fm'[i % 2]}" for i in range(12))
    (tmp_path / "scans.csv").write_text(f"id,scan,sex\n{rows}\n", encoding="utf-8")
    opened = data.open(tmp_path / "scans.csv")
    assert list(opened.fields) == ["scan"] and list(opened.labels) == ["sex"]
    assert opened.keys[3] == "p03"
    np.testing.assert_array_equal(opened.value(3, "scan"), by_path.value(3, "scan"))
    # other folders are no values, and names of folders may be ids
    (people / "dataset.csv").write_text(
        "id,text\n" + "\n".join(f"p{i:02},p{i:02}" for i in range(12)) + "\n", encoding="utf-8"
    )
    with pytest.raises(AmodalError, match="no usable field"):
        data.open(people / "dataset.csv")


def test_a_missing_slice_ends_in_quarantine(people):
    (people / "p05" / "a" / "IM-1.dcm").unlink()
    opened = data.open(people)
    loader = data.Loader(opened.select(["volume"]), range(13), batch=13, shuffle=False)
    (batch,) = list(loader)
    assert len(batch.columns["volume"].rows) == 12
    (bad,) = loader.bad
    assert bad.key == "p05/a" and "a slice is missing between IM-" in bad.reason


def test_endings_of_two_parts_are_one_ending():
    assert ending_of("a/b.nii.gz") == ending_of("B.NII.GZ") == ".nii.gz"
    assert ending_of("a.tar.gz") == ending_of("x.gz") == ".gz"
    assert ending_of("person.1.nii") == ".nii" and ending_of(".nii.gz") == ".gz"
    pattern = FilePattern((".nii", ".nii.gz"))
    assert pattern.key("a/b.nii.gz") == "a/b" and pattern.key("a/c.nii") == "a/c"
    assert FilePattern((".dcm",)).key("a/b/c.DCM") == "a/b"
    names = [f"{x}.nii.gz" for x in "abcd"] + [f"{x}.seg.nii.gz" for x in "abc"]
    proposal = propose(names, modalities.suffixes())
    assert proposal["seg"].suffixes == (".seg.nii.gz",)
    assert proposal["volume"].suffixes == (".nii.gz",)


def test_arrays_that_may_be_scans_are_read_so_by_the_lines_that_init_prints(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(4):
        np.save(tmp_path / f"a{i}.npy", rng.normal(size=(20, 24, 16)).astype(np.float32))
    said = " ".join(str(data.init(tmp_path)).split())
    lines = 'modality = "volume" and suffix = [".npy"]'
    assert "arrays of 20 x 24 x 16 are read as pictures of 16 channels" in said and lines in said
    (name,) = data.open(tmp_path).fields
    (tmp_path / "dataset.toml").write_text(
        "\n".join([f"[fields.{name}]", *lines.split(" and ")]) + "\n", encoding="utf-8"
    )
    opened = data.open(tmp_path)
    assert opened.value(0, name).shape == (21, 25, 17) and opened.fields[name].kind == "volume"
    for i in range(4):
        np.save(tmp_path / f"a{i}.npy", rng.integers(0, 255, (20, 24, 3), dtype=np.uint8))
    (tmp_path / "dataset.toml").unlink()
    assert "volume" not in str(data.init(tmp_path))


def test_a_scan_and_its_map_are_two_fields(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(8):
        scan = rng.normal(size=(9, 8, 7)).astype(np.float32)
        (tmp_path / f"p{i}.nii.gz").write_bytes(nifti(scan, packed=True))
        labels = (scan > 0).astype(np.uint8)
        (tmp_path / f"p{i}.seg.nii.gz").write_bytes(nifti(labels, packed=True))
    blobs = np.zeros((9, 8, 7), dtype=np.uint8)
    blobs[2:8, 2:7, 1:6], blobs[2:5, 2:7, 1:6] = 3, 1
    (tmp_path / "p0.seg.nii.gz").write_bytes(nifti(blobs, packed=True))
    report = data.init(tmp_path)
    summaries = {f.name: f.summary for f in report.fields}
    assert "perhaps a map of labels" in summaries["seg"]
    assert "labels" not in summaries["volume"]
    assert "--protocol.truth" in (tmp_path / "dataset.toml").read_text(encoding="utf-8")
    opened = data.open(tmp_path)
    assert len(opened) == 8 and set(opened.fields) == {"volume", "seg"}
    truth = opened.fields["volume"].truth(opened.raw(0, "seg"), amounts=False)
    assert truth.dtype == np.int64 and set(np.unique(truth)) == {0, 1, 3}
    with pytest.raises(modalities.BadValue, match="whole numbers from 0 on"):
        opened.fields["volume"].truth(opened.raw(0, "volume"), amounts=False)


def test_the_frame_of_the_data_holds_for_a_run(tmp_path):
    rng = np.random.default_rng(0)
    series_4d = rng.normal(size=(4, 9, 8, 7, 3)).astype(np.float32)
    for i, one in enumerate(series_4d):
        (tmp_path / f"p{i}.nii").write_bytes(nifti(one))
    trained = modalities.make("volume", spacing=(2, 2, 2), mean=0.1)
    with warnings.catch_warnings(action="error"):
        read = read_partial(tmp_path, {"volume": trained})
    with pytest.raises(BadValue, match="3 scans in one file.*frame = 0 … 2 in dataset.toml"):
        read.value(0, "volume")
    (tmp_path / "dataset.toml").write_text(
        '[fields.volume]\nmodality = "volume"\nframe = 1\n', encoding="utf-8"
    )
    opened = amodal.open(tmp_path).with_fields({"volume": trained})
    assert opened.fields["volume"] == replace(trained, frame=1)
    found = frame.voxels_of(opened.value(0, "volume"))
    np.testing.assert_array_equal(found, series_4d[0, ..., 1])


def test_the_probe_of_a_map_in_space_beats_chance_and_says_what_is_wrong(tmp_path):
    """Bright balls: raw voxels say nearly all."""
    rng = np.random.default_rng(0)
    columns = {"scan": [], "areas": [], "part": []}
    for i in range(24):
        at = np.indices((16, 15, 8)) - rng.uniform(5, 9, 3)[:, None, None, None]
        ball = np.linalg.norm(at, axis=0) < 5
        voxels = 5 * ball + 0.3 * rng.standard_normal(ball.shape)
        columns["scan"].append(nifti(voxels.astype(np.float32), packed=True))
        columns["areas"].append(nifti(ball.astype(np.uint8), packed=True))
        columns["part"].append("train" if i < 12 else "test")
    scan = modalities.make("volume", size=(8, 8, 8), patch=(2, 2, 2), mean=1.0, std=2.0)
    opened = amodal.open(columns, fields={"scan": scan, "areas": scan})
    options = {"steps": 2, "batch_size": 4, "size": "nano", "progress": False}
    amodal.pretrain("mae", data=opened, out=tmp_path / "run", fields=["scan"], **options)
    model = amodal.load(tmp_path / "run")
    report = model.evaluate(opened, protocols=["dense"], simple=False, truth="areas")
    rows = {(r["source"], r["metric"]): r for r in report.results[0].rows}
    raw = rows["raw values", "Dice"]
    assert raw["value"] > 0.8 > raw["chance"] and rows["scan", "mIoU"]["value"] > 0.6
    wrong = [nifti(np.zeros((4, 4, 4), dtype=np.uint8))] * 24
    other = amodal.open(columns | {"areas": wrong}, fields={"scan": scan, "areas": scan})
    with pytest.raises(AmodalError, match="the map has 4 x 4 x 4 voxels.*bring the map to"):
        model.evaluate(other, protocols=["dense"], simple=False, untrained=False, truth="areas")
    # of the same number of tokens, but not on the same voxels
    near = [nifti(np.ones((15, 15, 8), dtype=np.uint8))] * 24
    other = amodal.open(columns | {"areas": near}, fields={"scan": scan, "areas": scan})
    with pytest.raises(AmodalError, match=r"0: the map has 15 x 15 x 8 .*its scan 16 x 15 x 8"):
        model.evaluate(other, protocols=["dense"], simple=False, untrained=False, truth="areas")
    minus = [nifti(np.full((16, 15, 8), -1, dtype=np.int16))] * 24
    other = amodal.open(columns | {"areas": minus}, fields={"scan": scan, "areas": scan})
    with pytest.raises(AmodalError, match=r"^.*0 training records.*cannot be read is 0: .* has -1"):
        model.evaluate(other, protocols=["dense"], simple=False, untrained=False, truth="areas")
    left = [nifti(np.ones((16, 15, 8), dtype=np.uint8), np.diag([-1, 1, 1, 1]))] * 24
    other = amodal.open(columns | {"areas": left}, fields={"scan": scan, "areas": scan})
    with pytest.raises(AmodalError, match=r"first at \(-15, 0, 0\) mm, axes LAS"):
        model.evaluate(other, protocols=["dense"], simple=False, untrained=False, truth="areas")


def test_blocks_of_a_head_lie_where_they_lay():
    rng = np.random.default_rng(0)
    voxels = rng.integers(50, 200, (70, 66, 40)).astype(np.uint8)
    voxels[:, :, 33:] = 0
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = -35, -33, -5
    labels = (voxels > 120).astype(np.int64)
    head = Head("one", voxels, affine, {"bright": labels})
    columns = by_block([head, Head("two", voxels, affine)])
    parts = np.array(columns["part"])
    for key, part, content, truth in zip(columns["key"], parts, columns["scan"], columns["bright"]):
        scan = values.read(content)
        first = np.round(scan.affine[:3, 3] - affine[:3, 3]).astype(int)
        within = tuple(slice(s, s + n) for s, n in zip(first, scan.voxels.shape))
        bright = np.percentile(voxels[voxels > 0], 99.5)
        np.testing.assert_allclose(scan.voxels, voxels[within] / bright, atol=6e-4)
        # a block is of one hemisphere alone
        x = scan.affine[0, 3] + np.arange(scan.voxels.shape[0])
        assert (x < 0).all() if part == "train" else (x >= 0).all()
        assert (truth is None) == key.startswith("two")
        if truth is not None:
            np.testing.assert_array_equal(values.read(truth).voxels, labels[within])
    assert {"train", "valid", "test"} == set(parts) and len(set(columns["key"])) == len(parts)
    assert columns["head"].count("one") == columns["head"].count("two") > 8


def test_regions_of_both_sides_have_one_number(monkeypatch):
    numbers = np.zeros((4, 4, 4), dtype=np.int16)
    numbers[0, 0] = [1, 2, 107, 108]
    numbers[0, 1] = [109, 116, 3, 4]
    files = {"ch2.nii.gz": nifti(numbers, packed=True), "aal.nii.gz": nifti(numbers, packed=True)}
    regions = brains._colin(files).maps["regions"]
    assert regions[0, :2].tolist() == [[1, 1, 54, 54], [55, 62, 2, 2]]
    numbers[0, 0] = [5, 1005, 7, 8]
    monkeypatch.setattr(brains, "LARGEST", 2)
    numbers[1] = 1007
    files = {
        "inia19-t1-brain.nii.gz": nifti(numbers, packed=True),
        "inia19-NeuroMaps.nii.gz": nifti(numbers, packed=True),
    }
    regions = brains._macaque(files).maps["macaque_regions"]
    assert regions[0, 0].tolist() == [1, 1, 2, 255] and (regions[1] == 2).all()
