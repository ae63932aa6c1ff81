"""Scans: what is read, where it lies, and what is refused."""

import gzip
import itertools
import tracemalloc

import nibabel
import numpy as np
import pytest
import torch

from amodal import modalities
from amodal.core import AmodalError
from amodal.modalities import BadValue
from amodal.modalities.shared import volume_frame as frame
from amodal.modalities.shared import volume_values as values
from amodal.modalities.shared import volume_views as views
from amodal.modalities.shared.requests import Limits, TooLarge

from .scans import nifti, series, slice_of

VOLUME = modalities.make("volume")
RNG = np.random.default_rng(0)
VOXELS = RNG.normal(size=(5, 6, 7)).astype(np.float32)


def read(raw, **options):
    return frame.voxels_of(modalities.make("volume", **options).decode(raw))


@pytest.mark.parametrize("packed", [False, True])
def test_voxels_of_nifti_are_those_of_nibabel(packed):
    found = VOLUME.decode(nifti(VOXELS, np.diag([1.0, 1.5, 2, 1]), packed))
    np.testing.assert_array_equal(frame.voxels_of(found), VOXELS)
    assert frame.spacing_of(found) == (1.0, 1.5, 2.0)
    assert frame.place_of(found) == (-2.0, -3.75, -6.0)
    assert VOLUME.describe(found) == "5 x 6 x 7 voxels of 1 x 1.5 x 2 mm"


def test_all_48_orientations_of_a_scan_are_one_value():
    """As nibabel's own closest canonical form, and voxels stay where they are in the world."""
    world = np.array([[1.0, 0, 0, 5], [0, 1.5, 0, -3], [0, 0, 2, 1], [0, 0, 0, 1]])
    count = 0
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            turn = np.array([[a, s] for a, s in zip(order, signs)])
            stored = nibabel.orientations.apply_orientation(VOXELS, turn)
            back = nibabel.orientations.inv_ornt_aff(turn, VOXELS.shape)
            affine = world @ back
            scan = values.read(nifti(stored, affine))
            np.testing.assert_array_equal(scan.voxels, VOXELS)
            np.testing.assert_allclose(scan.affine, world, atol=1e-6)
            names = "".join(nibabel.aff2axcodes(affine))
            assert scan.axes == values.axes_in(nifti(stored, affine)) == names
            count += 1
    assert count == 48


def test_an_oblique_scan_stays_oblique():
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn * 2
    scan = values.read(nifti(VOXELS, affine))
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    np.testing.assert_allclose(scan.affine, affine, atol=1e-6)
    assert np.allclose(scan.spacing, 2)


def test_stored_numbers_are_scaled_and_units_are_millimetres():
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4) * 0.001)
    image.header.set_xyzt_units("meter")
    content = bytearray(image.to_bytes())
    content[112:120] = np.array([0.5, -3], dtype="<f4").tobytes()  # scl_slope and scl_inter
    found = VOLUME.decode(bytes(content))
    np.testing.assert_allclose(frame.spacing_of(found), 1, rtol=1e-6)
    np.testing.assert_allclose(frame.spacing_of(VOLUME.decode(image)), 1, rtol=1e-6)
    other = nibabel.MGHImage(np.ones((2, 3, 4), dtype=np.float32), np.diag([2.0, 2, 2, 1]))
    assert frame.spacing_of(VOLUME.decode(other)) == (2, 2, 2)
    expected = np.arange(24).reshape(2, 3, 4) * 0.5 - 3
    np.testing.assert_array_equal(frame.voxels_of(found), expected)
    content[112:120] = np.array([0, 7], dtype="<f4").tobytes()  # 0: not scaled
    np.testing.assert_array_equal(read(bytes(content)), np.arange(24).reshape(2, 3, 4))


def test_a_file_of_more_scans_names_the_parameter():
    content = nifti(np.arange(48, dtype=np.float32).reshape(2, 3, 4, 2), packed=True)
    with pytest.raises(BadValue, match=r"2 scans in one file \(4-D\).*frame = 0 … 1 in dataset"):
        VOLUME.decode(content)
    second = np.arange(48).reshape(2, 3, 4, 2)[..., 1]
    np.testing.assert_array_equal(read(content, frame=1), second)
    with pytest.raises(BadValue, match="frame = 0"):
        read(content, frame=2)
    single = nifti(np.arange(24, dtype=np.float32).reshape(2, 3, 4, 1))
    np.testing.assert_array_equal(read(single), np.arange(24).reshape(2, 3, 4))


def test_an_affine_that_gives_voxels_no_size_is_refused():
    image = nibabel.Nifti1Image(VOXELS, np.eye(4))
    for matrix in (np.diag([1.0, 0, 1, 1]), np.array([[1.0, 1, 0, 0]] * 2 + [[0, 0, 1, 0]])):
        content = bytearray(image.to_bytes())
        content[280:328] = np.asarray(matrix, dtype="<f4")[:3].tobytes()  # srow_x, _y and _z
        with pytest.raises(BadValue, match="affine is singular.*right sform"):
            VOLUME.decode(bytes(content))
    content[280:284] = np.array([np.nan], dtype="<f4").tobytes()
    with pytest.raises(BadValue, match="no numbers"):
        VOLUME.decode(bytes(content))


def test_a_few_bytes_that_unpack_to_gigabytes_are_refused_by_the_header():
    header = bytearray(nifti(np.zeros((2, 2, 2), dtype=np.float32)))
    header[40:56] = np.array([3, 2000, 2000, 2000, 1, 1, 1, 1], dtype="<i2").tobytes()
    small = gzip.compress(bytes(header) + bytes(2**22))
    assert len(small) < 10_000
    tracemalloc.start()
    with pytest.raises(BadValue, match="2,000 x 2,000 x 2,000 voxels are 8,000,000,000, more than"):
        VOLUME.decode(small)
    assert tracemalloc.get_traced_memory()[1] < 2**21
    tracemalloc.stop()
    # within the bound by its header, and longer than that
    honest = nifti(np.zeros((2, 2, 2), dtype=np.float32)) + bytes(2**26)
    assert read(gzip.compress(honest)).shape == (2, 2, 2)
    with pytest.raises(TooLarge, match="voxels; at most 100"):
        VOLUME.bounds(nifti(VOXELS), Limits(pixels=100))


def test_files_of_more_gzip_members_are_read_whole():
    content = nifti(VOXELS)
    packed = gzip.compress(content[:500]) + gzip.compress(content[500:])
    np.testing.assert_array_equal(read(packed), VOXELS)


def test_a_gzip_file_without_its_end_is_truncated():
    content = nifti(VOXELS, packed=True)
    for missing in (1, 6, 8, 9, 200):
        with pytest.raises(BadValue, match="truncated"):
            VOLUME.decode(content[:-missing])
    # a scan of a series needs no more than what comes before its end
    series_4d = nifti(RNG.normal(size=(60, 60, 60, 3)).astype(np.float32), packed=True)
    assert read(series_4d, frame=0).shape == (60, 60, 60)
    assert VOLUME.decode(content).shape == (6, 7, 8)


def test_a_deflated_slice_is_refused_before_it_is_unpacked():
    small = slice_of(np.zeros((4, 4)))
    meta, rest = small[:400], small[400:]
    bomb = meta.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99") + rest
    assert bomb != small
    with pytest.raises(BadValue, match="slice 1 is deflated: save it uncompressed"):
        VOLUME.decode(bomb)


def test_other_files_are_refused_in_a_sentence():
    pair = nibabel.Nifti1Pair(VOXELS, np.eye(4)).header.binaryblock
    colours = np.zeros((2, 2, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    five = np.zeros((2, 2, 2, 1, 3), dtype=np.float32)
    for content, why in (
        (bytes(pair) + bytes(10), "pair of files"),
        (nifti(colours), "one real number a voxel"),
        (nifti(VOXELS.astype(np.complex64)), "one real number a voxel"),
        (nifti(five), "5 dimensions"),
        (nifti(VOXELS)[:-4], "truncated: 1,188 bytes, .* at least 1,192"),
        (nifti(VOXELS, packed=True)[:-40], "truncated|damaged gzip"),
        (nifti(np.full((2, 2, 2), np.nan, dtype=np.float32)), "every voxel is missing"),
        (b"a text of some length, and no scan" * 20, "neither a NIfTI file .* nor a DICOM slice"),
    ):
        with pytest.raises(BadValue, match=why):
            VOLUME.decode(content)


def test_a_series_is_in_order_along_its_normal_and_in_hounsfield_units(tmp_path):
    slices, pixels = series()
    for i in (3, 0, 4, 1, 2):
        (tmp_path / f"im{(7 * i) % 5}.dcm").write_bytes(slices[i])
    (tmp_path / "notes.txt").write_text("about these", encoding="utf-8")
    scan = values.read(tmp_path)
    # left to right, and back to front: DICOM counts to the left and back; the top comes last
    expected = pixels.transpose(2, 1, 0)[::-1, ::-1, ::-1] - 1024
    np.testing.assert_array_equal(scan.voxels, expected)
    assert scan.unit == "HU" and scan.axes == "LPS"
    np.testing.assert_allclose(scan.spacing, (0.8, 0.5, 2.0))
    # the first pixel of the first slice, which is now at the other end
    first = scan.affine @ [7, 5, 4, 1]
    np.testing.assert_allclose(first[:3], (-10, -20, 0))
    by_bytes = values.read(slices)
    np.testing.assert_array_equal(by_bytes.voxels, expected)


def test_what_the_scanner_filled_up_is_missing_and_slopes_are_of_each_slice():
    pixels = np.full((4, 4), 5)
    pixels[0] = -2000
    one = slice_of(pixels, (0, 0, 0), PixelPaddingValue=-2000, RescaleSlope=2, RescaleIntercept=1)
    two = slice_of(pixels, (0, 0, 3), PixelPaddingValue=-2000, RescaleSlope=3, RescaleIntercept=0)
    found = values.read([two, one]).voxels
    assert np.isnan(found[:, -1]).all()
    assert (found[:, :-1, 0] == 11).all() and (found[:, :-1, 1] == 15).all()
    # a range of padding, whichever end comes first
    pixels[0] = [-2000, -1990, -1980, -1979]
    for first, last in ((-2000, -1980), (-1980, -2000)):
        tags = {"PixelPaddingValue": first, "PixelPaddingRangeLimit": last}
        found = values.read([slice_of(pixels, **tags)]).voxels
        assert np.isnan(found[:, -1, 0]).sum() == 3 and np.isfinite(found[:, :-1]).all()


def test_doses_are_scaled_by_their_grid():
    pixels = np.arange(12).reshape(3, 4)
    tags = {"Modality": "RTDOSE", "DoseGridScaling": 0.25, "RescaleIntercept": 0}
    found = values.read([slice_of(pixels, **tags)])
    assert found.voxels.max() == 11 / 4 and not found.unit


def test_what_is_wrong_with_a_series_names_the_file_and_a_cure():
    slices, pixels = series()

    def refused(parts, why):
        with pytest.raises(BadValue, match=why):
            VOLUME.decode(parts)

    place = (10.0, 20.0, -20.0)
    refused(
        slices[:2] + slices[3:],
        "slice is missing between slice 3 and slice 2: they are 4 mm.*copy the series",
    )
    refused([*slices, slices[2]], "same place.*other series")
    refused([*slices, slice_of(pixels[0], place, SeriesInstanceUID="1.9")], "2 series.*folder of")
    refused(
        [*slices, slice_of(pixels[0], place, PixelSpacing=[1, 1])], "slice 6 has pixels of 1 mm"
    )
    refused([*slices, slice_of(pixels[0][:3], place)], "slice 6 has 3 x 8 pixels.*take")
    turned = slice_of(pixels[0], place, ImageOrientationPatient=[0, 1, 0, 0, 0, 1])
    refused([*slices, turned], "slice 6 has another orientation")
    refused([*slices, slice_of(pixels[0], (10, 20, -10.7))], "unevenly spaced")
    refused([slice_of(pixels[0], NumberOfFrames=3)], "enhanced DICOM.*dcm2niix")
    refused([slice_of(pixels[0], PixelSpacing=None)], "does not say PixelSpacing")
    refused([b"x" * 400], "slice 1 is no DICOM file")
    refused([slices[0][:300]], "slice 1")


def test_a_folder_without_slices_is_said(tmp_path):
    with pytest.raises(BadValue, match="no DICOM slice .* in the folder"):
        VOLUME.decode(tmp_path)
    slices, _ = series()
    for i, content in enumerate(slices):  # as they come from many archives
        (tmp_path / f"IM{i}").write_bytes(content)
    assert read(tmp_path).shape == (8, 6, 5)


@pytest.mark.parametrize("kind", ["nii", "nii.gz", "dcm"])
def test_damaged_files_end_as_a_sentence(kind):
    rng = np.random.default_rng(0)
    whole = {
        "nii": nifti(VOXELS, np.diag([1.0, 1.5, 2, 1])),
        "nii.gz": nifti(VOXELS, packed=True),
        "dcm": slice_of(RNG.integers(0, 99, (12, 9))),
    }[kind]
    outcomes = {True: 0, False: 0}
    tracemalloc.start()
    for i in range(300):
        damaged = bytearray(whole)
        if i % 3 == 0:
            del damaged[int(rng.integers(len(whole))) :]
        else:
            start = 0 if i % 3 == 1 else len(whole) // 8  # headers above all
            for place in rng.integers(start, min(len(whole), start + 500), 1 + i % 4):
                damaged[place % len(damaged)] ^= 1 << int(rng.integers(8))
        raw = bytes(damaged)
        try:
            found = VOLUME.decode_finite([raw] if kind == "dcm" and raw else raw)
        except BadValue as error:
            outcomes[False] += 1
            assert 0 < len(str(error)) < 400
        else:
            outcomes[True] += 1
            assert np.isfinite(frame.voxels_of(found)).any()
        try:
            VOLUME.bounds(raw, Limits())
        except BadValue as error:
            assert str(error)
    assert tracemalloc.get_traced_memory()[1] < 2**28
    tracemalloc.stop()
    assert outcomes[False] > 90


def test_positions_are_millimetres_from_the_centre_also_of_a_window():
    volume = modalities.make("volume", patch=(2, 3, 4), size=(4, 6, 8), spacing=(1.0, 1.0, 2.0))
    value = volume.decode({"values": RNG.normal(size=(4, 6, 8)), "spacing": (1, 2, 3)})
    flat = volume.collate([value]).flat
    x, y, z = (sorted(set(flat[:, axis].tolist())) for axis in range(3))
    assert (x, y, z) == ([-1, 1], [-3, 3], [-6, 6])
    np.testing.assert_allclose(flat[0, 3:6], np.log([1, 2, 1.5]), rtol=1e-6)
    window = frame.cut(value, (2, 3, 0), (2, 3, 4))
    inside = volume.collate([window]).flat
    assert inside[:, :3].tolist() == [[1, 3, -6]]
    same = flat[(flat[:, :3] == inside[0, :3]).all(1)]
    torch.testing.assert_close(same, inside)
    mirrored = volume.collate([frame.mirrored(window)]).flat
    assert mirrored[:, :3].tolist() == [[-1, 3, -6]]
    np.testing.assert_array_equal(
        frame.voxels_of(frame.mirrored(value)), frame.voxels_of(value)[::-1]
    )


def test_a_patch_without_a_voxel_is_no_token():
    voxels = RNG.normal(size=(8, 8, 8))
    voxels[:4, :4, :4] = np.nan
    volume = modalities.make("volume", patch=(4, 4, 4), size=(8, 8, 8))
    assert volume.collate([volume.decode(voxels)]).lengths.tolist() == [7]


def test_views_of_a_large_scan_are_windows():
    volume = modalities.make("volume", patch=(4, 4, 4), size=(16, 16, 16))
    value = volume.decode(RNG.normal(size=(40, 30, 12)))
    for view, least in (("weak", 0.7), ("strong", 0.5), ("local", 0.25)):
        places = set()
        for seed in range(20):
            out = volume.augment(value, view, np.random.default_rng(seed))
            shape = frame.voxels_of(out).shape
            assert all(
                n <= 16 and n >= min(round(least * 16), 12) - 1 or n >= least * 12 - 1
                for n in shape
            )
            places.add(frame.place_of(out))
        assert len(places) > 15
    assert volume.augment(value, "plain", np.random.default_rng(0)) is value


def test_left_and_right_are_exchanged_only_where_that_is_chosen():
    value = VOLUME.decode(RNG.normal(size=(64, 64, 64)))
    for flip in (False, True):
        volume = modalities.make("volume", flip=flip)
        turned = 0
        for seed in range(12):
            out = volume.augment(value, "weak", np.random.default_rng(seed))
            place, voxels = np.array(frame.place_of(out)), frame.voxels_of(out)
            first = np.round(place + 31.5).astype(int)
            part = tuple(slice(s, s + n) for s, n in zip(first, voxels.shape))
            turned += not np.array_equal(frame.voxels_of(value)[part], voxels)
        assert (turned > 0) == flip and turned < 12


def test_a_plain_view_has_a_bounded_number_of_patches(monkeypatch):
    monkeypatch.setattr(views, "MAX_TOKENS", 50)
    volume = modalities.make("volume", patch=(2, 2, 2), size=(4, 4, 4))
    value = volume.decode(RNG.normal(size=(11, 12, 13)))
    seen = volume.augment(value, "plain", np.random.default_rng(0))
    assert volume.collate([seen]).lengths.tolist() == [50]
    whole = volume.collate([value]).flat
    places = {tuple(p) for p in whole[:, :3].tolist()}
    assert {tuple(p) for p in volume.collate([seen]).flat[:, :3].tolist()} < places


def test_patches_are_about_as_long_along_each_axis():
    raws = [{"values": RNG.normal(size=(60, 60, 12)), "spacing": (1, 1, 5)} for _ in range(3)]
    volume = modalities.kind("volume").infer(raws)
    assert volume.patch == (4, 4, 1) and volume.spacing == (1.0, 1.0, 5.0)
    assert volume.size == (32, 32, 8) and "4 x 4 x 5 mm" in volume.comment(raws)
    chosen = modalities.kind("volume").infer(raws, patch=(10, 10, 2))
    assert chosen.patch == (10, 10, 2) and chosen.size == (60, 60, 12)


def test_hounsfield_units_stay_and_other_ranges_are_of_each_scan():
    air = RNG.normal(0, 30, (12, 12, 12))
    air[:6], air[11] = -1000, 900
    ct = modalities.kind("volume").infer([air, air + 5])
    assert ct.unit == "HU" and (ct.low, ct.high) == (-1024, 3071) and not ct.by_scan
    np.testing.assert_array_equal(read(air, unit="HU"), air.astype(np.float32))
    one, two = RNG.uniform(0, 100, (9, 9, 9)), RNG.uniform(0, 4000, (9, 9, 9))
    mr = modalities.kind("volume").infer([one, two])
    assert mr.by_scan and (mr.low, mr.high) == (0, 1) and "by_scan" in mr.comment([])
    first, second = (frame.voxels_of(mr.decode(raw)) for raw in (one, two))
    assert abs(np.nanmean(first) - np.nanmean(second)) < 0.05
    alike = modalities.kind("volume").infer([one, one * 1.2])
    assert not alike.by_scan and alike.high < 120
    # one bright voxel, such as a marker, moves nothing
    bright = one.copy()
    bright[0, 0, 0] = 1e6
    held = modalities.kind("volume").infer([bright, one])
    assert held.high < 110 and held.std < 40
    assert float(held.collate([held.decode(bright)]).flat[:, 6:].nan_to_num().max()) < 3


def test_a_ct_is_in_hounsfield_units_with_padding_or_one_cut_scan():
    kind = modalities.kind("volume")
    soft = RNG.normal(40, 30, (12, 12, 12)).round()
    soft[11] = 900
    ct = soft.copy()
    ct[:4] = -1000
    for padding in (-3024, -2000):
        filled = ct.copy()
        filled[:, :3] = padding
        filled[:, 3] = (padding - 1000) / 2  # as interpolation leaves them
        found = kind.infer([filled, ct])
        assert found.unit == "HU" and not found.by_scan and found.low == -1024
        assert abs(found.mean - kind.infer([ct]).mean) < 60
        assert np.isnan(frame.voxels_of(found.decode(filled))[:, :4]).all()
        assert np.isfinite(frame.voxels_of(found.decode(filled))[:, 4:]).all()
    found = kind.infer([ct, ct + 5, soft])
    assert found.unit == "HU"
    assert "Hounsfield units (2 of 3 scans" in found.summarize([ct, ct + 5, soft], [])
    assert "1 of 3 scans have not the darkest" in found.comment([ct, ct + 5, soft])
    assert "have not" not in found.comment([ct, ct])
    found = kind.infer([ct, soft, soft * 3])
    assert not found.unit and "perhaps Hounsfield units in 1 of 2" in found.summarize(
        [ct, soft], []
    )
    assert 'if they are, unit = "HU"' in found.comment([ct, soft, soft * 3])
    # phases of MR reach far below 0, in no single number
    phase = RNG.integers(-4096, 4096, (12, 12, 12)).astype(np.float32)
    assert not kind.infer([phase]).unit


def test_maps_of_labels_among_scans_are_named():
    labels = np.zeros((9, 9, 9), dtype=np.uint8)
    labels[2:7, 2:7, 2:7] = 3
    scan = RNG.normal(50, 9, (9, 9, 9)).astype(np.float32)
    found = modalities.kind("volume").infer([scan, labels])
    said = found.summarize([scan, labels, scan], [])
    assert "1 of 3 scans are perhaps maps of labels, and others not" in said
    assert "a.seg.nii.gz beside" in found.comment([scan, labels])
    assert "labels" not in found.comment([scan]) + found.summarize([scan], [])
    assert "perhaps a map of labels" in found.summarize([labels, labels], [])


def test_parameters_that_do_not_fit_are_refused():
    for options, why in (
        ({"patch": (8, 8)}, "three numbers"),
        ({"size": (60, 64, 64)}, "whole patches"),
        ({"unit": "mm"}, '"HU" or ""'),
        ({"unit": "HU", "by_scan": True}, "take the unit away"),
        ({"std": 0.0}, "above 0"),
        ({"patch": (64, 64, 64), "size": (64, 64, 64)}, "patch"),
    ):
        with pytest.raises(AmodalError, match=why):
            modalities.make("volume", **options)


def test_pictures_have_square_millimetres():
    value = VOLUME.decode({"values": RNG.normal(size=(100, 80, 20)), "spacing": (1, 1, 5)})
    shown = VOLUME.show(value)
    # from the feet 100 x 80, from the front 100 x 100, from the right 80 x 100, each with a rim
    assert shown.shape == (100, 104 + 104 + 84, 3)


def test_files_and_arrays_are_recognised(tmp_path):
    guess, slices = modalities.guess, series()[0]
    (tmp_path / "a.nii.gz").write_bytes(nifti(VOXELS, packed=True))
    (tmp_path / "b.dcm").write_bytes(slices[0])
    for value in (
        tmp_path / "a.nii.gz",
        tmp_path / "b.dcm",
        slices[0],
        nifti(VOXELS),
        nifti(VOXELS, packed=True),
        {"values": VOXELS, "affine": np.eye(4)},
        nibabel.Nifti1Image(VOXELS, np.eye(4)),
    ):
        assert guess([value]) == "volume"
    assert guess(".nii.gz") == guess(".nii") == guess(".dcm") == "volume"
    image = nibabel.Nifti1Image(VOXELS, np.diag([-1.0, 1, 1, 1]))
    np.testing.assert_array_equal(read(image), VOXELS[::-1])


def test_a_run_on_other_spacing_says_so():
    fine, coarse = (modalities.make("volume", spacing=(s,) * 3) for s in (1.0, 3.0))
    assert "trained on 1 x 1 x 1 mm" in coarse.mismatch(fine) and not fine.mismatch(fine)
    # of scans that cannot be read nothing is known
    assert not VOLUME.mismatch(coarse)


def test_a_map_on_another_grid_than_its_scan_is_named():
    affine = np.diag([2.0, 2, 3, 1])
    scan, labels = nifti(VOXELS, affine, packed=True), np.ones(VOXELS.shape, dtype=np.uint8)
    assert not VOLUME.other_grid(scan, nifti(labels, affine))
    # the same voxels, stored the other way round
    flipped = affine @ np.array([[-1, 0, 0, 4], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert not VOLUME.other_grid(scan, nifti(labels, flipped))
    assert not VOLUME.other_grid(scan, {"values": labels, "affine": affine})
    assert not VOLUME.other_grid(scan, {"values": labels})  # which nothing turned
    assert not VOLUME.other_grid(VOXELS, labels)
    assert not VOLUME.other_grid(scan, nifti(labels, affine + 1e-3))
    moved = affine.copy()
    moved[0, 3] = 40
    said = VOLUME.other_grid(scan, nifti(labels, moved))
    assert "the map has 5 x 6 x 7 voxels of 2 x 2 x 3 mm with the first at (40, 0, 0) mm" in said
    assert "its scan 5 x 6 x 7 voxels of 2 x 2 x 3 mm with the first at (0, 0, 0) mm" in said
    mirrored = np.diag([-2.0, 2, 3, 1])
    assert "axes LAS" in VOLUME.other_grid(scan, nifti(labels, mirrored))
    # the scan is turned, and nothing says how the map lies
    assert "no orientation" in VOLUME.other_grid(nifti(VOXELS, flipped), labels)
    assert "4 x 6 x 7 voxels" in VOLUME.other_grid(scan, nifti(labels[:4], affine))
    assert "4 x 6 x 7 voxels" in VOLUME.other_grid(VOXELS, labels[:4])


@pytest.mark.parametrize("wrong", [-1, 1.5, 2.0**25])
def test_a_map_with_other_than_class_numbers_names_the_number(wrong):
    labels = np.array([[[0, 1, wrong], [2, 3, np.nan]]])
    with pytest.raises(BadValue, match=f"this one has {wrong:.9g} in 1 voxels"):
        VOLUME.truth(labels, amounts=False)
    labels[labels == wrong] = 7
    assert VOLUME.truth(labels, amounts=False).ravel().tolist() == [0, 1, 7, 2, 3, 255]


def test_a_map_on_other_ground_than_its_raster_is_named():
    raster = modalities.make("raster")

    def at(x, side=10.0, shape=(8, 8), crs="EPSG:32632"):
        return {"values": np.ones(shape), "crs": crs, "transform": (side, 0, x, 0, -side, 5e6)}

    assert not raster.other_grid(at(5e5), at(5e5)) and not raster.other_grid(
        at(5e5), np.ones((8, 8))
    )
    assert not raster.other_grid(at(5e5), at(5e5, 20.0, (4, 4)))
    said = raster.other_grid(at(5e5), at(5e5 + 40))
    assert "from (500040, 5000000) in EPSG:32632" in said and "gdalwarp" in said
    assert "EPSG:32633" in raster.other_grid(at(5e5), at(5e5, crs="EPSG:32633"))
