"""UDA-COPE: what teaches which rows, and poses of what was told."""

from dataclasses import replace

import pytest
import torch

from amodal import methods, modalities
from amodal.core import AmodalError, Batch, Column
from amodal.methods.contract import Clock
from amodal.nn.encoder import Encoder
from amodal.stats.pose_error import turn_between
from tests.methods.bench import fields
from tests.nn.test_similarity import poses

torch.set_num_threads(1)
FIELDS = ("points", "picture", "signal")


def made(**options):
    torch.manual_seed(0)
    xyz = dict.fromkeys(
        ("points", "coordinates"), modalities.make("image", size=16, channels=3, patch=8)
    )
    encoder = Encoder(fields(("picture", "signal")) | xyz, size="nano")
    return methods.build(
        "uda_cope",
        encoder,
        **(
            {
                "bins": 8,
                "hidden": 32,
                "iterations": 20,
                "inlier_distance": 0.2,
                "filter_distance": 0.2,
            }
            | options
        ),
    )


def objects(size=6, known=3) -> tuple[Batch, torch.Tensor]:
    """Random points of objects in random poses; the first `known` have coordinates. The lower half
    of each picture is empty."""
    x = torch.rand(size, 256, 3)
    seen = poses(size)(x.double()).float()
    x[:, 128:], seen[:, 128:] = 0, 0
    maps = [v.mT.reshape(size, 3, 16, 16) for v in (x, seen)]
    rows, none = torch.arange(size), torch.zeros(0, dtype=torch.int64)
    columns = {
        "points": Column(maps[1], rows),
        "coordinates": Column(maps[0][:known], rows[:known]),
        "picture": Column(torch.rand(size - 1, 3, 16, 16), rows[1:]),
        "signal": Column(fields()["signal"].collate([]), none),
    }
    return Batch.of(size, columns), maps[0]


def test_rows_with_coordinates_are_supervised_and_others_get_pseudo_labels():
    m, (b, _) = made(source=0.5), objects()
    assert list(m.encoder.fields) == ["picture", "signal", "points"] and m.stages == (0.5, 1.0)
    m.on_stage_start(0)
    z = m.features(b)
    assert list(z) == ["coordinates"] and z.coordinates.rows.tolist() == [0, 1, 2]
    assert z.coordinates.values[:, 1].tolist() == [128.0] * 3  # points that are there
    m.on_stage_start(1)
    m.inlier_distance = m.filter_distance = 9.0
    z = m.features(b)
    assert z.pseudo.rows.tolist() == z.geometry.rows.tolist() == [3, 4, 5]
    assert z.pseudo.values[:, 1].tolist() == [128.0] * 3
    m.inlier_distance = m.filter_distance = 1e-6
    assert (
        m.features(b).pseudo.values[:, 1].tolist() == [0.0] * 3
        and m.losses(m.features(b))["pseudo"] == 0
    )
    m.filtered = False
    assert m.features(b).pseudo.values[:, 1].tolist() == [128.0] * 3


def test_a_label_says_whose_coordinates_may_be_learnt():
    m, (b, _) = made(labelled="rendered", source=0.0), objects(known=6)
    m.inlier_distance = m.filter_distance = 9.0
    assert m.labels == ("rendered",)
    z = m.features(
        replace(b, labels={"rendered": Column(torch.zeros(2).long(), torch.tensor([1, 4]))})
    )
    assert z.coordinates.rows.tolist() == [1, 4] and z.pseudo.rows.tolist() == [0, 2, 3, 5]


def test_pseudo_labels_are_where_the_teachers_pose_puts_the_points(monkeypatch):
    """A teacher that is right about most points: what the student is to say is right for all."""
    m, (b, truth) = made(source=0.0), objects()
    at = torch.tensor([3, 4, 5])
    guess = truth[at].flatten(2).mT.clone()
    guess[:, :40] = torch.rand(3, 40, 3)
    seen = b["points"].values[at].flatten(2).mT
    monkeypatch.setattr(
        type(m.coordinate_head), "correspondences", lambda *_: (guess, seen, (seen != 0).any(2))
    )
    targets = {}
    monkeypatch.setattr(
        "amodal.methods.adaptation.uda_cope.bin_cross_entropy",
        lambda logits, x: targets.setdefault(len(targets), x) is None or logits.sum((1, 2)),
    )
    m.features(b)
    assert (targets[1][:, :128] - truth[at].flatten(2).mT[:, :128]).abs().max() < 0.05
    m.filtered = False
    m.features(b)
    assert torch.equal(targets[3], guess)


def test_the_teacher_is_the_student_until_it_teaches_and_slow_from_then_on():
    m = made(source=0.5, momentum=0.9)
    weight, slow = m.coordinate_head.head.net[1].weight, m.teacher[1].head.net[1].weight
    with torch.no_grad():
        weight.add_(1)
    m.on_stage_start(0)
    m.on_step_end(Clock(1, 10))
    assert torch.equal(weight, slow)
    with torch.no_grad():
        weight.add_(1)
    m.on_stage_start(1)
    m.on_step_end(Clock(6, 10))
    torch.testing.assert_close(slow, weight - 0.9)
    assert not any(p.requires_grad for p in m.teacher.parameters())


def test_poses_of_coordinates_that_are_right(monkeypatch):
    m, (b, truth) = made(), objects()
    seen = b["points"].values.flatten(2).mT
    monkeypatch.setattr(
        type(m.coordinate_head),
        "correspondences",
        lambda *_: (truth.flatten(2).mT, seen, (seen != 0).any(2)),
    )
    assert turn_between(m.poses(b).rotation, poses(6).rotation).max() < 0.1


def test_bad_options_say_what_to_do():
    for options, words in (
        ({"points": "pionts"}, "Did you mean points"),
        ({"points": "signal"}, "three channels"),
        ({"source": 1.5}, "is a share"),
    ):
        with pytest.raises(AmodalError, match=words):
            made(**options)
