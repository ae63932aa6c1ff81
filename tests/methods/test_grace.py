"""What GRACE alone does: identifiers from a survey, two tasks that write them, and a search that
answers by them."""

import numpy as np
import pytest
import torch

from amodal import data, methods, modalities
from amodal.claims._arms import Budget, fit
from amodal.core import AmodalError, row_seeds
from amodal.data import Loader
from amodal.nn.encoder import Encoder
from amodal.train.step import gradients
from tests.methods.bench import batch, exact, method

NAMES = [
    f"{a} {b}"
    for a in ("red", "blue", "green", "grey")
    for b in ("boat", "sea", "hat", "tree", "cat", "key")
]


def records(blank=()):
    """Every record has a picture; those in `blank` have no name."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (8, 8), dtype=np.uint8) for _ in NAMES]
    fields = {
        "image": modalities.make("image", size=8, channels=1, patch=4),
        "name": modalities.make("text", max_length=12),
    }
    names = [None if i in blank else name for i, name in enumerate(NAMES)]
    return data.open({"image": pictures, "name": names}).with_fields(fields)


def learnt(kind, steps=100, dataset=None, **options):
    dataset = dataset or records()
    torch.manual_seed(0)
    m = methods.build(
        "grace",
        Encoder(dataset.fields, size="nano"),
        kind=kind,
        branch=4,
        leaf=4,
        depth=1,
        capacity=32,
        width=16,
        **options,
    )
    return fit(m, dataset, range(len(NAMES)), Budget(steps, 24), 0, 6e-3), dataset


@pytest.mark.parametrize("kind", ["structured", "string"])
def test_queries_write_the_identifier_of_their_record(kind):
    m, dataset = learnt(kind)
    assert (
        len({tuple(c) for c in m.register.codes[:24].tolist()}) == 24
        and (m.register.codes[24:] == -1).all()
    )
    b = next(iter(Loader(dataset, range(24), batch=24, shuffle=False)))
    found = m.find(b, beams=3)
    assert (found.values[:, 0] == found.rows).float().mean() > 0.8
    everything = m.find(b, beams=24).values
    assert (
        everything.sort(1).values.eq(torch.arange(24)).all()
    )  # as many beams as records: each of them, once


@pytest.mark.parametrize("kind", ["atomic", "numeric"])
def test_other_kinds_of_identifiers(kind):
    m, _ = learnt(kind, 2)
    assert m.register.codes[:24].max() == (23 if kind == "atomic" else 3)


def test_a_record_without_a_query_is_memorised_and_can_be_found():
    dataset = records(blank=(3, 4))
    m, _ = learnt("structured", 10, dataset)
    assert (m.register.codes[3:5, 0] >= 0).all()
    b = next(iter(Loader(dataset, range(24), batch=24, shuffle=False)))
    z = m.features(b)
    assert z.written["image"].rows.tolist() == list(range(24)) and 3 not in z.written["name"].rows
    assert set(m.losses(z)) == {"info_nce/image~name", "memorise/image", "retrieve/name"}
    m.memorise = False
    assert set(m.losses(m.features(b))) == {"info_nce/image~name", "retrieve/name"}


def writing(**options):
    """Of the bench, in its last stage, with identifiers by the number of the record; record 2 is
    not known."""
    m = method("grace", **options)
    keys = batch(m.views).keys
    m.register.known[:8] = row_seeds(keys)
    m.register.known[2] = 0
    m.register.codes[:8, 0] = torch.arange(8)
    m.on_stage_start(1)
    return m


def test_the_loss_of_a_task_is_minus_log_p_of_identifiers_over_their_tokens():
    m = writing()
    b = batch(m.views)
    z = m.features(b)
    rows = z.written["words"].rows.tolist()
    assert 2 not in rows and rows == [r for r in b["words"].rows.tolist() if r != 2]
    total = 0.0
    context = m.encoder.encode(m.encoder.tokenize(b.only("words")))
    read = m.read(context, "words")
    for r in rows:
        one = read.values[torch.tensor([read.rows.tolist().index(r)])]
        total -= m.writer.out(
            m.writer.decoder(
                [one], type(one)(torch.zeros(0, m.encoder.width), torch.tensor([0]))
            ).flat[0]
        ).log_softmax(0)[r]
    torch.testing.assert_close(m.losses(z)["retrieve/words"], total / len(rows))


def test_micro_batches_in_the_last_stage():
    whole, pieces = exact(writing()), exact(writing())
    a, b = (
        gradients(whole, exact(batch(whole.views))),
        gradients(pieces, exact(batch(pieces.views)), micro=3),
    )
    for term in a:
        torch.testing.assert_close(a[term], b[term], rtol=1e-9, atol=1e-9)
    for p, q in zip(whole.parameters(), pieces.parameters()):
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-7, atol=1e-9)
    for absent in (("words",), ("picture", "signal", "facts")):
        assert all(
            v.isfinite()
            for v in gradients(exact(writing()), exact(batch(whole.views, absent=absent))).values()
        )


def test_what_is_wrong_is_said():
    with pytest.raises(AmodalError, match="Did you mean atomic"):
        method("grace", kind="atomi")
    with pytest.raises(AmodalError, match="warmup"):
        method("grace", warmup=1.0)
    m = method("grace", capacity=4)
    with pytest.raises(AmodalError, match="larger `most`"):
        m.fit_statistics([batch(m.views)])
