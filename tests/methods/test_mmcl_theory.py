"""mmcl_theory: first a teacher of two fields, then a learner of each that its judgement guides."""

import shutil

import numpy as np
import pytest
import torch

import amodal
from amodal import data, methods
from amodal.core import AmodalError
from amodal.methods.saved import load_run
from amodal.methods.theory.mmcl_theory import Guided, GuidedFeatures
from amodal.nn.encoder import Encoder
from amodal.objectives.guided_nt_xent import SHARES
from amodal.train.step import gradients
from tests.methods.bench import batch, exact, fields, method, raw

FIELDS = ("picture", "words")


def learner(rule="new_positive", **options):
    """The method as it is in its second stage."""
    m = exact(method("mmcl_theory", sources=FIELDS, rule=rule, width=8, **options))
    if len(m.stages) > 1:
        m.refresh(1, None)
        m.on_stage_start(1)
    return m


def test_what_was_learnt_first_is_the_teacher_and_the_encoder_restarts():
    m = exact(method("mmcl_theory", sources=FIELDS, width=8))
    assert m.stages == (0.5, 1.0)
    start = {n: p.clone() for n, p in m.encoder.state_dict().items()}
    terms = gradients(m, exact(batch(m.views, sources=FIELDS)))
    assert list(terms) == ["teacher/picture:1~words:1"]
    with torch.no_grad():
        for p in m.encoder.parameters():
            p.add_(1)
    learnt = {n: p.clone() for n, p in m.encoder.state_dict().items()}
    m.refresh(1, None)
    m.on_stage_start(1)
    assert all(torch.equal(start[n], p) for n, p in m.encoder.state_dict().items())
    assert all(torch.equal(learnt[n], p) for n, p in m.teacher.state_dict().items())
    assert not any(
        p.requires_grad for part in (m.teacher, m.towers, m.scale) for p in part.parameters()
    )


def test_while_the_teacher_learns_the_second_view_is_not_encoded():
    m = exact(method("mmcl_theory", sources=FIELDS, width=8))
    b = exact(batch(m.views, sources=FIELDS))
    assert set(m.features(b).student) == {"picture:1", "words:1"}
    both = m.encoder.features(b).columns
    expected = m.losses(GuidedFeatures(size=b.size, student=both, teacher={}))
    found = m.losses(m.features(b))
    assert list(found) == list(expected)
    torch.testing.assert_close(
        found["teacher/picture:1~words:1"], expected["teacher/picture:1~words:1"]
    )


@pytest.mark.parametrize("rule", SHARES)
@pytest.mark.parametrize("micro", [None, 2])
def test_every_rule_learns_from_two_views_of_each_field(rule, micro):
    m = learner(rule)
    b = exact(batch(m.views, size=12, sources=FIELDS))
    terms = gradients(m, b, micro=micro)
    assert set(terms) == {"guided/picture:1~picture:2", "guided/words:1~words:2"}
    assert all(t.isfinite() for t in terms.values())
    assert all(p.grad is None for p in m.teacher.parameters()) if m.teacher else rule == "none"
    assert sum(float(p.grad.abs().sum()) for p in m.encoder.parameters() if p.grad is not None) > 0
    m.zero_grad()
    assert sum(gradients(m, exact(batch(m.views, sources=FIELDS, absent=FIELDS))).values()) == 0


def test_the_teacher_decides():
    m = learner()
    b = exact(batch(m.views, size=12, patchy=False, sources=FIELDS))
    before = sum(m.losses(m.features(b)).values())
    with torch.no_grad():
        for p in m.teacher.parameters():
            p.copy_(torch.randn_like(p))
    assert sum(m.losses(m.features(b)).values()) != before


def test_an_encoder_from_elsewhere_judges_in_its_aligned_space():
    torch.manual_seed(0)
    judge = Encoder(fields(FIELDS), size="nano").align(12).eval().requires_grad_(False)
    learner = Encoder(fields(("picture",)), size="nano")
    m = exact(Guided(learner, judge, rule="new_positive", temperature=0.5, width=8))
    b = exact(batch(m.views, sources=("picture",)))
    assert m.features(b).teacher["picture:2"].values.shape[1] == 12
    assert list(gradients(m, b)) == ["guided/picture:1~picture:2"]
    assert all(p.grad is None for p in judge.parameters())


def test_a_run_opens_when_the_folder_of_its_teacher_is_gone(tmp_path):
    rng = np.random.default_rng(0)
    columns = {s: [raw(s, rng) for _ in range(16)] for s in FIELDS}
    records = data.open(columns).with_fields(fields(FIELDS))
    settings = dict(size="nano", steps=2, batch_size=8, progress=False)
    amodal.pretrain("clip", records, tmp_path / "teacher", **settings)
    options = {"teacher": str(tmp_path / "teacher"), "width": 8}
    amodal.pretrain("mmcl_theory", records, tmp_path / "run", options=options, **settings)
    teacher = load_run(tmp_path / "teacher").encoder.state_dict()
    shutil.rmtree(tmp_path / "teacher")
    method = load_run(tmp_path / "run").method
    assert method.teacher.heads_width and len(teacher) == len(method.teacher.state_dict())
    for name, value in method.teacher.state_dict().items():
        assert torch.equal(value, teacher[name]), name
    assert not any(p.requires_grad for p in method.teacher.parameters())


def test_one_field_needs_a_teacher_from_elsewhere():
    with pytest.raises(AmodalError, match="--method.teacher"):
        method("mmcl_theory", sources=("picture",))
    assert method("mmcl_theory", sources=("picture",), rule="none").teacher is None
    with pytest.raises(AmodalError, match="Did you mean drop_easy_negative"):
        method("mmcl_theory", rule="drop_easy_negatives")


def test_a_teacher_that_does_not_know_a_field_is_refused():
    teacher = Encoder(fields(("picture", "words")), size="nano").align(8)
    with pytest.raises(AmodalError, match="field of the teacher is called 'facts'"):
        methods.build(
            "mmcl_theory",
            Encoder(fields(("picture", "facts")), size="nano"),
            rule="new_positive",
            teacher=teacher,
        )


def test_the_temperature_of_the_teacher_is_clips():
    m = method("mmcl_theory", sources=("picture", "words"))
    with torch.no_grad():
        assert m.scale().item() == pytest.approx(1 / 0.07)
        m.scale.log.fill_(9.0)
        assert m.scale().item() == pytest.approx(100.0)
