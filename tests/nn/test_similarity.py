"""Poses from pairs of points: against Horn's quaternions, with wrong pairs among them, and filtered
both ways."""

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from amodal.stats.pose_error import pose_accuracy, rotation_angle
from amodal.stats.similarity_transform import Similarity, bidirectional_filter, ransac, umeyama

torch.set_num_threads(1)


def poses(n, seed=0):
    rng = np.random.default_rng(seed)
    rotation = torch.from_numpy(Rotation.random(n, random_state=seed).as_matrix())
    return Similarity(
        torch.from_numpy(rng.uniform(0.2, 3, n)),
        rotation,
        torch.from_numpy(rng.normal(size=(n, 3))),
    )


def horn(x, y, w):
    """Scale of least squared error in y, and rotation as the best unit quaternion (Horn 1987, JOSA
    A 4(4))."""
    w = w / w.sum()
    mean_x, mean_y = w @ x, w @ y
    a, b = x - mean_x, y - mean_y
    s = sum(wi * np.outer(ai, bi) for wi, ai, bi in zip(w, a, b))
    d = s - s.T
    top = np.array([[np.trace(s), d[1, 2], d[2, 0], d[0, 1]]])
    low = np.hstack([top[:, 1:].T, s + s.T - np.trace(s) * np.eye(3)])
    q = np.linalg.eigh(np.vstack([top, low]))[1][:, -1]
    turn = Rotation.from_quat(q[[1, 2, 3, 0]]).as_matrix()
    scale = sum(wi * bi @ turn @ ai for wi, ai, bi in zip(w, a, b)) / sum(
        wi * ai @ ai for wi, ai in zip(w, a)
    )
    return scale, turn, mean_y - scale * turn @ mean_x


def test_the_closed_form_is_horns():
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(5, 12, 3)), rng.uniform(0, 1, (5, 12))
    w[:, :3] = 0
    y = poses(5)(torch.from_numpy(x)).numpy() + rng.normal(0, 0.5, x.shape)
    x[4, :, 2], y[4] = 0, y[4] * [1, 1, -1]  # a flat object seen in a mirror is seen from behind
    fit = umeyama(*map(torch.from_numpy, (x, y, w)))
    for i in range(5):
        scale, turn, shift = horn(x[i], y[i], w[i])
        np.testing.assert_allclose(fit.scale[i], scale, rtol=1e-9)
        np.testing.assert_allclose(fit.rotation[i], turn, atol=1e-8)
        np.testing.assert_allclose(fit.shift[i], shift, atol=1e-8)
    assert torch.allclose(torch.linalg.det(fit.rotation), torch.ones(5, dtype=torch.float64))


def test_there_and_back():
    pose, x = poses(3), torch.randn(3, 7, 3, dtype=torch.float64)
    torch.testing.assert_close(pose.inverse(pose(x)), x)
    by_hand = pose.scale[1] * pose.rotation[1] @ x[1, 4] + pose.shift[1]
    torch.testing.assert_close(pose(x)[1, 4], by_hand)
    assert torch.equal(
        pose.where(torch.tensor([True, False, True]), poses(3, 5)).scale[1], poses(3, 5).scale[1]
    )


def test_wrong_pairs_do_not_turn_the_pose():
    torch.manual_seed(0)
    pose, x = poses(4), torch.rand(4, 40, 3, dtype=torch.float64)
    y, there = pose(x), torch.ones(4, 40, dtype=torch.bool)
    there[2, 30:], there[3] = False, False
    wrong = x.clone()
    wrong[:, ::3] = torch.rand(4, 14, 3, dtype=torch.float64)
    wrong[2, 30:] = torch.nan  # what is not there is not looked at
    wrong = torch.where(there[..., None], wrong, 0.0)
    fit, inside = ransac(wrong, y, there, torch.arange(4), near=0.02, tries=60)
    assert rotation_angle(fit.rotation, pose.rotation)[:3].max() < 1e-4
    torch.testing.assert_close(fit.scale[:3], pose.scale[:3], rtol=1e-6, atol=1e-6)
    right = (wrong - x).norm(dim=2) < 0.02
    assert torch.equal(inside, right & there) and not inside[3].any()
    assert rotation_angle(umeyama(wrong, y, there).rotation, pose.rotation)[:3].max() > 1
    rebuilt, _ = ransac(wrong[1:2], y[1:2], there[1:2], torch.tensor([1]), near=0.02, tries=60)
    assert torch.equal(rebuilt.rotation[0], fit.rotation[1])  # whatever else is in the batch


def test_both_sides_lose_what_is_far_from_all_of_the_other():
    torch.manual_seed(1)
    pose, x = poses(1), torch.rand(1, 50, 3, dtype=torch.float64)
    y, there = pose(x), torch.ones(1, 50, dtype=torch.bool)
    there[0, 45:] = False
    seen, predicted = y.clone(), x.clone()
    seen[0, :4] += 3 * pose.scale[0]  # outliers of the sensor
    predicted[0, 4:8] += 2.0  # wrong predictions
    predicted[0, 8:12] = x[0, 20:24]  # wrong too, but on the object: both checks let them pass
    fit, inliers = bidirectional_filter(
        predicted, seen, there, torch.zeros(1).long(), near=0.1, far=0.1
    )
    assert rotation_angle(fit.rotation, pose.rotation) < 1
    first, _ = ransac(predicted, seen, there, torch.zeros(1).long(), near=0.1)
    back, expected = first.inverse(seen)[0], []
    for i in range(50):
        points = min((back[i] - predicted[0, j]).norm() for j in range(50) if there[0, j])
        coordinates = min((back[j] - predicted[0, i]).norm() for j in range(50) if there[0, j])
        expected.append(bool(there[0, i]) and points <= 0.1 and coordinates <= 0.1)
    assert inliers[0].tolist() == expected and not inliers[0, :8].any() and inliers[0].sum() > 20
    none, inliers = bidirectional_filter(
        predicted, seen, there & False, torch.zeros(1).long(), near=0.1, far=0.1
    )
    assert not inliers.any() and none.scale.isfinite().all()


def test_turns_are_scipys():
    a, b = Rotation.random(6, random_state=2), Rotation.random(6, random_state=3)
    found = rotation_angle(torch.from_numpy(a.as_matrix()), torch.from_numpy(b.as_matrix()))
    np.testing.assert_allclose(found, np.rad2deg((a.inv() * b).magnitude()), atol=1e-9)
    assert (
        pose_accuracy(torch.tensor([4.0, 4.0, 9.0, 9.0]), torch.tensor([1.0, 6.0, 1.0, 6.0]), 5, 5)
        == 0.25
    )
