"""DINOv3, beyond its golden test: the Gram teacher, sizes, gaps in the data, resumed runs."""

from pathlib import Path

import numpy as np
import pytest
import torch

from amodal import data
from amodal.core import AmodalError, Batch, Column, Recipe
from amodal.methods.contract import Clock
from amodal.methods.distillation.dinov3 import GramAnchoring, dinov3
from amodal.modalities import make
from amodal.nn.encoder import Encoder
from amodal.train.collapse_monitor import CollapseMonitor
from amodal.train.loop import train
from amodal.train.step import gradients
from tests.methods.bench import batch, exact, fields, method

SOURCES = ("picture", "words")
FROM_THE_START = {"gram_snapshot": 0.0, "gram_start": 0.0}


def page_of(**options):
    return exact(method("dinov3", sources=SOURCES, **options)).train()


def rows_of(page, size=6, seed=0):
    return exact(batch(page.views, size=size, seed=seed, sources=SOURCES))


def shaken(page, seed=0):
    """The page with a student that is far from its teachers."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in page.encoder.parameters():
            p += 0.3 * torch.randn_like(p)
    return page


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


def gram_terms(page, seed=0):
    terms = page.losses(page.features(rows_of(page, seed=seed)))
    return {name: term for name, term in terms.items() if name.startswith("gram/")}


def test_the_gram_teacher_is_the_teacher_of_one_moment():
    page = page_of(gram_snapshot=0.2, gram_start=0.4, gram_every=3, gram_updates=2)
    first, held = page.encoder.state_dict(), []
    for step in range(1, 21):
        shaken(page, step)
        began = bool(page.refining)
        page.on_step_end(Clock(step, 20))
        held.append(same(page.gram_teacher, page.teacher))
        assert bool(page.anchored) is (step >= 4)
        assert bool(page.refining) is (step >= 8) and began is (step > 8)
        assert not same(page.gram_teacher, page.encoder)
    # at a fifth, and after three and six steps of refinement
    assert [step for step, moved in enumerate(held, 1) if moved] == [4, 11, 14]
    assert first.keys() == page.gram_teacher.state_dict().keys()
    assert not any(p.requires_grad for p in page.gram_teacher.parameters())


def test_a_run_without_refreshes_stays_with_its_first_gram_teacher():
    page = page_of(gram_every=0, **FROM_THE_START)
    assert same(page.gram_teacher, page.encoder)
    before = {n: t.clone() for n, t in page.gram_teacher.state_dict().items()}
    for step in range(1, 5):
        shaken(page, step).on_step_end(Clock(step, 4))
    assert all(torch.equal(t, before[n]) for n, t in page.gram_teacher.state_dict().items())


def test_similarities_are_drawn_to_those_of_the_gram_teacher():
    """Nothing but masks and boxes is between a student and itself."""
    calm = page_of(masked=0.0, **FROM_THE_START)
    calm.encoder.positions = "axial"
    assert all(term.item() < 1e-12 for term in gram_terms(calm).values())
    moved = gram_terms(shaken(calm))
    assert moved.keys() == {"gram/picture", "gram/words"}
    assert all(term.item() > 1e-3 for term in moved.values())
    sum(moved.values()).backward()
    # of the tower and what enters it; the head is not in it
    assert calm.encoder.trunks["words"].norm.weight.grad.any()
    assert calm.heads["words"].prototypes.grad is None
    # the loss falls along its gradient
    with torch.no_grad():
        for p in calm.encoder.parameters():
            if p.grad is not None:
                p -= 0.01 * p.grad / p.grad.norm().clamp(min=1e-12)
    assert sum(gram_terms(calm).values()) < sum(moved.values())


def test_micro_batches_and_gaps_do_not_change_the_gradient_of_refinement():
    def gradient(micro):
        page = shaken(page_of(koleo_group=3, **FROM_THE_START))
        terms = gradients(page, rows_of(page, size=7), micro=micro)
        assert "gram/picture" in terms
        return {n: p.grad for n, p in page.named_parameters() if p.grad is not None}

    whole, split = gradient(None), gradient(2)
    assert whole.keys() == split.keys()
    for name, grad in whole.items():
        torch.testing.assert_close(split[name], grad, rtol=1e-7, atol=1e-10, msg=name)


def test_a_batch_without_a_value_of_a_field():
    page = page_of(**FROM_THE_START)
    rows = exact(batch(page.views, size=4, absent=("picture",), sources=SOURCES))
    terms = page.losses(page.features(rows))
    assert terms["gram/picture"] == 0 and terms["gram/words"] > 0
    sum(terms.values()).backward()
    assert all(t.isfinite() for t in terms.values())


def test_small_crops_alone_end_with_norms_of_their_own():
    page = page_of()
    rows, changed = rows_of(page), page_of()
    changed.load_state_dict(page.state_dict())
    with torch.no_grad():
        changed.local_norms["picture"].bias += 1
    one, other = page.features(rows), changed.features(rows)
    for source in rows.sources:
        moved = not torch.equal(one.student[source].flat, other.student[source].flat)
        assert moved is (source == "picture:3"), source
    # nor does it change what is embedded
    assert torch.equal(
        page.encoder(rows)["picture:3"].flat, changed.encoder(rows)["picture:3"].flat
    )
    alike = page_of(local_norm=False)
    assert not alike.local_norms and not page_of(local_views=0).local_norms
    alike.load_state_dict(
        {n: t for n, t in page.state_dict().items() if not n.startswith("local_norms.")}
    )
    # they begin as the norm of the trunk
    assert torch.allclose(alike.features(rows).student["words:3"].flat, one.student["words:3"].flat)


def test_pictures_of_any_shape_and_a_gram_teacher_of_twice_the_side():
    """Each picture has its own rows and columns of patches, on both sides."""
    image = make("image", size=32, patch=4, fit="native")
    torch.manual_seed(0)
    page = dinov3(
        Encoder({"picture": image}, size="nano", pool="cls", positions="axial:rescale=2"),
        prototypes=7,
        patch_prototypes=7,
        local_views=1,
        gram_scale=2,
        **FROM_THE_START,
    )
    rng = np.random.default_rng(0)
    values = [
        image.decode(rng.integers(0, 255, (*shape, 3), dtype=np.uint8))
        for shape in ((64, 64), (100, 50), (40, 90))
    ]
    rows, columns = torch.tensor([0, 2, 3]), {}
    for number, view in enumerate(page.views, 1):
        seen = [image.augment(v, view, np.random.default_rng(k)) for k, v in enumerate(values)]
        columns[f"picture:{number}"] = Column(image.collate(seen), rows)
    whole = Batch.of(4, columns, list("abcd"))
    features = shaken(page).features(whole)
    assert features.row_losses["picture:1"].rows.tolist() == [0, 2, 3]
    assert (features.row_losses["picture:1"].flat > 0).all()
    terms = page.losses(features)
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())


@pytest.fixture
def records():
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (16, 16, 3), dtype=np.uint8) for _ in range(24)]
    words = [" ".join(rng.choice(["red", "boat", "on", "sea"], 3)) for _ in range(24)]
    words = [w if i % 4 else None for i, w in enumerate(words)]
    known = fields(("picture", "words"))
    return data.open({"picture": pictures, "words": words}).with_fields(known)


@pytest.mark.parametrize("view, number", [("dinov3_gram", 1), ("dinov3_gram_solarized", 2)])
def test_the_loader_draws_the_gram_teachers_crop_as_the_students(records, view, number):
    """A source of any number draws as the one whose crop it shows."""

    def shown(place):
        views = tuple(view if n == place else "plain" for n in range(1, 5))
        batch = data.Loader(records, range(24), batch=8, views=views, seed=1, steps=1).load(0)[0]
        return batch[f"picture:{place}"].values

    assert torch.equal(shown(4), shown(number))
    assert not torch.equal(shown(4), records_plain(records))


def records_plain(records):
    loader = data.Loader(records, range(24), batch=8, views=("plain",), seed=1, steps=1)
    return loader.load(0)[0]["picture"].values


def run_of(folder, records, page, *, resume=False, steps=6):
    def batches(first, groups=None):
        return data.Loader(
            records, range(24), batch=8, views=page.views, seed=3, steps=steps, start_step=first
        )

    quiet = dict(monitor=CollapseMonitor([]), tensorboard=False, progress=False)
    survey = data.Loader(records, range(24), batch=16, shuffle=False)
    recipe = Recipe(steps=steps, lr=1e-2, schedule="constant")
    train(page, batches, recipe, folder, resume=resume, records=survey, save_every=4, **quiet)
    return page


@pytest.mark.parametrize("scale", [1, 2])
def test_a_resumed_run_has_its_gram_teacher(records, tmp_path, scale):
    """The checkpoint lies between the Gram teacher's first day and its replacement."""
    options = dict(
        gram_snapshot=0.3, gram_start=0.5, gram_every=2, gram_updates=1, gram_scale=scale
    )
    for folder in ("straight", "stopped"):
        (tmp_path / folder / "checkpoints").mkdir(parents=True)
    straight = run_of(tmp_path / "straight", records, method("dinov3", sources=SOURCES, **options))
    saved = Path("checkpoints", "step-00000004")
    (tmp_path / "straight" / saved).rename(tmp_path / "stopped" / saved)
    resumed = run_of(
        tmp_path / "stopped", records, method("dinov3", sources=SOURCES, **options), resume=True
    )
    for (name, a), b in zip(straight.state_dict().items(), resumed.state_dict().values()):
        assert torch.equal(a, b), name
    assert int(resumed.refined) == 3 and not same(resumed.gram_teacher, resumed.teacher)


def test_a_gram_teacher_is_replaced_a_few_times():
    numbers = dict(weight=1.0, snapshot=0.0, start=0.0, momentum=0.9, local_weight=1.0, scale=1,
                   clamp_negative=False)  # fmt: skip
    often = GramAnchoring(every=2, updates=2, **numbers)
    assert [n for n in range(9) if often.refresh_due(n)] == [2, 4]
    assert not any(GramAnchoring(every=0, updates=2, **numbers).refresh_due(n) for n in range(9))


def test_no_larger_pictures_without_pictures():
    with pytest.raises(AmodalError, match="no field of pictures among words: leave gram_scale"):
        method("dinov3", sources=("words",), gram_scale=2)


def test_trunks_without_a_last_norm():
    torch.manual_seed(0)
    encoder = Encoder(fields(("words",)), size="nano", pool="cls", mixer="gru")
    with pytest.raises(AmodalError, match="trunk of words has no norm"):
        dinov3(encoder)
