"""MMRL: what learns, its loss from the definition, and inference apart for classes learnt and
others."""

import pytest
import torch

from amodal import methods
from amodal.core import AmodalError
from amodal.nn.adapters.block_tokens import hook_disabled
from amodal.nn.heads.supervised import Target
from tests.methods.bench import batch, exact, method


def made(name="mmrl", **options):
    return method(name, **({"space": 16, "scale": 10.0} | options))


def trained(m, steps=3, rate=0.5):
    rows = batch(m.views)
    optimizer = torch.optim.SGD([p for p in m.parameters() if p.requires_grad], rate)
    before = {n: p.detach().clone() for n, p in m.named_parameters()}
    for _ in range(steps):
        optimizer.zero_grad()
        sum(m.losses(m.features(rows)).values()).backward()
        optimizer.step()
    return {n for n, p in m.named_parameters() if not torch.equal(p, before[n])}


def aligned(**options):
    """As after `amodal adapt`: the encoder has a common space already."""
    m = made(**options)
    m.encoder.heads.requires_grad_(False)
    return m


def test_tokens_and_the_copied_projections_learn_and_nothing_else():
    changed = trained(aligned())
    assert changed and all(n.startswith(("encoder.block_hook.", "heads.")) for n in changed)
    assert {n.split(".")[1] for n in changed if n.startswith("heads.")} == {
        "picture",
        "signal",
        "facts",
    }
    assert (
        any(n.startswith("encoder.block_hook.maps.words") for n in changed)
        and "encoder.block_hook.bank" in changed
    )


def test_the_loss_is_the_papers():
    m = aligned(alpha=0.3, weight=2.0).double()
    rows = exact(batch(m.views))
    trained_tokens = [p for p in m.encoder.block_hook.parameters()]
    with torch.no_grad():
        for p in trained_tokens:
            p.mul_(3)
    z = m.features(rows)
    terms = m.losses(z)
    unit = lambda x: x / x.norm()  # noqa: E731
    names = [unit(v) for v in m.class_vectors()]
    frozen = [unit(v) for v in m.class_vectors(tokens=False)]
    label = dict(zip(z.label.rows.tolist(), z.label.values.tolist()))
    fields = ("picture", "signal", "facts")
    for s in fields:
        loss = []
        for columns, share in ((z.class_features, 0.3), (z.representation, 0.7)):
            column = columns[s]
            for r, v in zip(column.rows.tolist(), column.values):
                if r in label:
                    score = torch.stack([10 * unit(v) @ n for n in names])
                    loss.append(share * (score.exp().sum().log() - score[label[r]]))
        torch.testing.assert_close(
            terms[f"supervised/{s}"], sum(loss) / (len(loss) / 2) / len(fields)
        )
        gaps = [
            1 - unit(a) @ unit(b) for a, b in zip(z.class_features[s].values, z.frozen[s].values)
        ]
        torch.testing.assert_close(terms[f"near/{s}"], 2 * sum(gaps) / len(gaps) / len(fields))
    torch.testing.assert_close(
        terms["near/names"], 2 * sum(1 - a @ b for a, b in zip(names, frozen)) / len(names)
    )
    assert terms.keys() == {
        *(f"{t}/{s}" for t in ("supervised", "near") for s in fields),
        "near/names",
    }


def test_class_features_are_the_encoders_own_and_others_read_the_tokens():
    m = aligned().eval()
    trained(m)
    rows = batch(("plain",))
    with torch.no_grad():
        seen, rep = m.encode(rows)
        whole = m.encoder(rows)
        for s in seen:
            torch.testing.assert_close(seen[s].values, whole[s].values)
            assert rep[s].values.shape == seen[s].values.shape and not torch.allclose(
                rep[s].values, seen[s].values
            )
        with hook_disabled(m.encoder):
            assert not torch.allclose(m.encoder(rows)["picture"].values, whole["picture"].values)


def test_inference_is_apart_for_classes_learnt_and_for_others():
    m = aligned(alpha=0.4).eval()
    trained(m)
    rows = batch(("plain",))
    seen, rep = m.encode(rows)
    names = m.class_vectors()
    p = [m.logits(z["picture"].values, names).softmax(1) for z in (seen, rep)]
    torch.testing.assert_close(m.probabilities(rows)["picture"].values, 0.4 * p[0] + 0.6 * p[1])
    new = m.probabilities(rows, ["red boat", "sea"])["picture"].values
    torch.testing.assert_close(
        new, m.logits(seen["picture"].values, m.class_vectors(["red boat", "sea"])).softmax(1)
    )
    assert set(m.probabilities(rows)) == {"picture", "signal", "facts"}


def test_predictions_are_the_mean_over_the_fields_of_a_row():
    m = aligned().double().eval()
    rows = exact(batch(("plain",)))
    of_row = {}
    for column in m.probabilities(rows).values():
        assert not column.values.requires_grad
        for r, p in zip(column.rows.tolist(), column.values):
            of_row.setdefault(r, []).append(p)
    found = m.predict(rows)
    assert found.rows.tolist() == sorted(of_row)
    expected = [(sum(of_row[r]) / len(of_row[r])).log() for r in sorted(of_row)]
    torch.testing.assert_close(found.values, torch.stack(expected))
    few = m.predict(exact(batch(("plain",), absent=("picture", "facts"))))
    assert few.rows.tolist() == rows["signal"].rows.tolist()
    alone = exact(batch(("plain",), size=1, absent=("picture",)))
    assert m.predict(alone).rows.tolist() == [0]


def test_probabilities_have_a_floor():
    m = aligned(scale=1e5).double().eval()
    found = m.predict(exact(batch(("plain",)))).values
    assert found.min().isclose(torch.tensor(1e-12).double().log())


def test_representation_features_read_the_mean_of_the_tokens():
    m = aligned()
    x = torch.randn(3, 5, m.encoder.width)
    head, norm = m.heads["picture"], m.encoder.trunks["picture"].norm
    torch.testing.assert_close(m.read_out("picture", x), head(norm(x).mean(1)))


def test_without_a_space_towers_are_apart():
    m = aligned(space=0)
    sum(m.losses(m.features(batch(m.views, absent=("signal",)))).values()).backward()
    deep = m.encoder.block_hook
    assert deep.bank.numel() == 0 and deep.maps["picture"].tokens.shape == (2, 5, 64)
    assert (
        deep.maps["words"].tokens.grad.abs().sum() > 0
        and not deep.maps["signal"].tokens.grad.abs().sum() > 0
    )


def test_wrong_options_are_refused():
    for targets in ((), (Target("age", "amount"),)):
        with pytest.raises(AmodalError, match="by their names"):
            made(targets=targets)
    with pytest.raises(AmodalError, match="a field of text"):
        made(words="facts")
    with pytest.raises(AmodalError, match="needs one {}"):
        made(template="a class")
    with pytest.raises(AmodalError, match="already \\(SpaceTokens\\)"):
        methods.build("mmrl", made().encoder, targets=(Target("kind", "classes", ("a", "b")),))
    with pytest.raises(AmodalError, match="Did you mean words"):
        made(words="word")
