"""Self-distillation over fields: what each pass reads, the loss against its definition, and the
draw of subsets."""

import math

import pytest
import torch

from amodal import methods
from amodal.core import AmodalError
from amodal.masking.modality_dropout import random_subsets
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.modality_subsets import subset_features
from tests.methods.bench import FIELDS, batch, fields, method


def test_every_subset_of_what_a_row_has_is_as_likely():
    n = 7000
    present = {s: torch.arange(n) % 7 < k for s, k in zip("abc", (6, 4, 2))}
    subset = torch.stack(list(random_subsets(present, torch.arange(n) * 31).values()), 1)
    there = torch.stack(list(present.values()), 1)
    assert not (subset & ~there).any() and torch.equal(subset.any(1), there.any(1))
    for pattern in there.unique(dim=0):
        own = subset[(there == pattern).all(1)]
        size = int(pattern.sum())
        found, count = own.unique(dim=0, return_counts=True)
        assert len(found) == max(2**size - 1, 1)
        assert (count.double() / len(own) - 1 / len(found)).abs().max() < 0.03


@pytest.mark.parametrize("trunk", ["joint", "separate"])
def test_a_pass_reads_what_a_row_keeps_and_nothing_else(trunk):
    torch.manual_seed(0)
    encoder = Encoder(fields(), size="nano", trunk=trunk).eval()
    m = methods.build(
        "mm_robustness",
        encoder,
        targets=({"name": "kind", "kind": "classes", "classes": ["a", "b", "c"]},),
    )
    whole = batch(m.views)
    present = {s: c.present(8) for s, c in whole.columns.items()}
    visible = {s: p & (torch.arange(8) % 2 == k % 2) for k, (s, p) in enumerate(present.items())}
    with torch.no_grad():
        found = m.head(subset_features(encoder, whole)({s: visible[s] for s in FIELDS}))
        for row in found.rows.tolist():
            some = whole.at(torch.tensor([row])).only(*(s for s in FIELDS if visible[s][row]))
            torch.testing.assert_close(
                found.values[found.rows == row], m.head(alone(m, some)).values, rtol=1e-4, atol=1e-5
            )
        assert set(found.rows.tolist()) == {
            i for i in range(8) if any(k[i] for k in visible.values())
        }
        some = whole.only("words", "facts")
        named = m.head(subset_features(encoder, whole)({s: present[s] for s in ("words", "facts")}))
        torch.testing.assert_close(
            named.values, m.head(m.head_inputs(whole_of(some, whole))).values, rtol=1e-4, atol=1e-5
        )


def whole_of(some, whole):
    """The fields that are left, the others without a row."""
    empty = {s: c.at(c.rows < 0) for s, c in whole.columns.items() if s not in some.columns}
    return type(some)(
        some.size,
        {s: some.columns.get(s, empty.get(s)) for s in whole.columns},
        some.keys,
        some.seeds,
    )


def alone(m, some):
    columns = {s: some.columns.get(s) for s in FIELDS}
    lacking = {s: batch(m.views)[s] for s in FIELDS if columns[s] is None}
    full = {
        s: c if c is not None else lacking[s].at(lacking[s].rows < 0) for s, c in columns.items()
    }
    return m.head_inputs(type(some)(some.size, full, some.keys, some.seeds))


def test_the_loss_is_labels_and_the_divergence_from_the_teacher():
    m = method("mm_robustness", learn="words", teacher="picture, facts", weight=0.5)
    whole = batch(m.views)
    found = m.features(whole)
    present = {s: c.present(8) for s, c in whole.columns.items()}
    assert set(found.outputs.rows.tolist()) == set(whole["words"].rows.tolist())
    assert set(found.teacher.rows.tolist()) == set(
        (present["picture"] | present["facts"]).nonzero()[:, 0].tolist()
    )
    assert not found.teacher.values.requires_grad and found.student.values.requires_grad
    total, count = 0.0, 0
    for i, row in enumerate(found.student.rows.tolist()):
        at = (found.teacher.rows == row).nonzero()
        if len(at):
            p, q = (
                x.detach().softmax(0).tolist()
                for x in (found.teacher.values[at[0, 0]], found.student.values[i])
            )
            total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q))
            count += 1
    assert m.losses(found)["distill"].item() == pytest.approx(0.5 * total / count, rel=1e-4)


def test_without_distillation_it_is_fine_tuning():
    plain, other = (
        method(name, **options)
        for name, options in (("mm_robustness", {"weight": 0.0}), ("finetune", {}))
    )
    encoder = plain.encoder
    other = methods.build("finetune", encoder, targets=plain.head.targets)
    other.head.load_state_dict(plain.head.state_dict())
    whole = batch(plain.views)
    a, b = (m.losses(m.features(whole)) for m in (plain, other))
    assert a.keys() == b.keys() == {"predict/kind"}
    torch.testing.assert_close(a["predict/kind"], b["predict/kind"])


def test_fields_that_there_are_not():
    for option in ("learn", "teacher"):
        with pytest.raises(AmodalError, match="Did you mean words"):
            method("mm_robustness", **{option: "picture,word"})
