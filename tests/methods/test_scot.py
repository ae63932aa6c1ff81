"""What SCOT alone does: edits, towers that read two fields, a frozen encoder, and queries that are
composed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from amodal_claims._arms import Budget, fit
from torch.nn.functional import normalize

from amodal import data, methods, modalities, pretrain
from amodal.core import AmodalError
from amodal.curate.edits import edits, exchangeable
from amodal.data import Loader
from amodal.nn import config
from amodal.nn.encoder import Encoder
from amodal.nn.fusion.combiner import Combiner
from amodal.search import Index, search
from amodal.train.collapse_monitor import CollapseMonitor
from amodal.train.step import gradients
from tests.methods.bench import batch, exact, method
from tests.tiny_clip import clip_folder

COLOURS, THINGS = ("red", "green", "blue"), ("boat", "sea", "hat", "tree")
CAPTIONS = [f"a {c} {t}" for c in COLOURS for t in THINGS]


def test_words_that_stand_for_each_other_are_found_and_exchanged():
    groups = exchangeable([*CAPTIONS, "quite another sentence", "a red"])
    assert [sorted(g) for g in groups] == [sorted(COLOURS), sorted(THINGS)]
    changes, changed = edits(
        [*CAPTIONS, None, "nothing here"], groups, seed=3, templates=("{old} to {new}",)
    )
    assert changes[-2:] == changed[-2:] == [None, None]
    for caption, said, after in zip(CAPTIONS, changes, changed):
        old, new = said.split(" to ")
        assert caption.replace(old, new) == after and after != caption and after in CAPTIONS
    assert (
        edits(CAPTIONS, groups, seed=3)
        == edits(CAPTIONS, groups, seed=3)
        != edits(CAPTIONS, groups, seed=4)
    )


def test_the_combiner_is_its_formula():
    torch.manual_seed(0)
    one = Combiner(4, 6, 5).double()
    v, m = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    found = one(v, m)
    for i in range(3):
        a, b = v[i] / v[i].norm(), m[i] / m[i].norm()
        both = torch.cat([one.reference(a[None])[0], one.change(b[None])[0]])
        g = 1 / (1 + (-one.gate(both)).exp())
        c = g * a + (1 - g) * b + one.mix(both)
        torch.testing.assert_close(found[i], c / c.norm())


def records():
    rng = np.random.default_rng(0)
    changes, changed = edits(CAPTIONS * 2, exchangeable(CAPTIONS))
    fields = {"image": modalities.make("image", size=8, channels=3, patch=4)}
    fields |= dict.fromkeys(
        ("caption", "change", "changed"), modalities.make("text", max_length=24, patch=2)
    )
    pictures = [rng.integers(0, 255, (8, 8, 3), dtype=np.uint8) for _ in range(24)]
    columns = {"image": pictures, "caption": CAPTIONS * 2, "change": changes, "changed": changed}
    return data.open(columns).with_fields(fields)


def test_the_encoder_is_frozen_when_the_combiner_learns_and_queries_use_it(tmp_path):
    dataset = records()
    torch.manual_seed(0)
    m = methods.build("scot", Encoder(dataset.fields, size="nano"), width=16)
    assert list(m.encoder.fields) == ["image", "caption"] and m.towers == {
        "change": "caption",
        "changed": "caption",
    }
    snapshots = []

    def look(method, batch, step):
        if method.composes:
            snapshots.append({n: p.clone() for n, p in method.encoder.state_dict().items()})
        return batch

    fit(m, dataset, range(24), Budget(8, 12), 0, 4e-3, choose=look)
    for name, value in m.encoder.state_dict().items():
        assert torch.equal(snapshots[0][name], value) is ("combiner" not in name), name
    rebuilt = config.build(m.encoder.spec)
    rebuilt.load_state_dict(m.encoder.state_dict())
    plain = dataset.select(["image", "caption"])
    index = Index.open(tmp_path, encoder=rebuilt.eval(), fingerprint="f").update(plain)
    v, t = (normalize(torch.randn(16), dim=0) for _ in range(2))
    composed = m.encoder.combiner(v[None], t[None])[0].detach()
    for query, same, weights in (
        ({"image": v, "caption": t}, composed, None),
        ({"image": v, "text": t}, composed, None),
        ({"image": v, "caption": t}, v + t, {"image": 1.0}),
        ({"image": v, "other": t}, v + t, None),
    ):
        found = search(index, rebuilt, query, k=24, weights=weights)
        expected = search(index, rebuilt, {"vector": same}, k=24)
        assert [h.key for h in found] == [h.key for h in expected]
        torch.testing.assert_close(found[0].score, expected[0].score, rtol=1e-3, atol=1e-3)


def test_what_is_read_by_another_tower_does_not_disturb_the_watch():
    dataset = records()
    encoder = methods.build("scot", Encoder(dataset.fields, size="nano"), width=16).encoder
    found = CollapseMonitor(
        [next(iter(Loader(dataset, list(range(24)) * 2, batch=48, shuffle=False)))]
    ).measure(encoder)
    assert {
        "rank/image",
        "rank/caption",
        "alignment/image~caption",
    } <= found.keys() and "rank/change" not in found


def composing(**options):
    m = method("scot", **options)
    m.on_stage_start(1)
    return m


def test_terms_of_the_last_stage():
    m = exact(composing())
    b = exact(batch(m.views, patchy=False))
    b = exact(
        replace(b, columns=b.columns | {"words": b["words"].at(torch.tensor([0, 1, 2, 5, 6]))})
    )
    z = m.features(b)
    assert m.caption == "words" and m.references == ["picture"]
    losses = m.losses(z)
    assert set(losses) == {"compose/picture"}
    rows, (v, change, u) = m.encoder(b).complete(["picture", "facts", "signal"])
    c = m.encoder.combiner(v, change)
    logits = torch.nn.functional.cosine_similarity(c[:, None], u[None], dim=2) * m.scale()
    before, total = m.encoder(b)["words"], 0.0
    for i, row in enumerate(rows.tolist()):
        others = logits[i]
        if row in before.rows.tolist():
            t = before.values[before.rows.tolist().index(row)]
            others = torch.cat([others, torch.cosine_similarity(c[i], t, dim=0)[None] * m.scale()])
        total = total + others.logsumexp(0) - logits[i, i]
    torch.testing.assert_close(losses["compose/picture"], total / len(rows))
    without = exact(composing(original=False))
    assert without.losses(without.features(b))["compose/picture"] < losses["compose/picture"] - 0.01


def test_micro_batches_and_absence_in_the_last_stage():
    whole, pieces = exact(composing()), exact(composing())
    a, b = (
        gradients(whole, exact(batch(whole.views))),
        gradients(pieces, exact(batch(pieces.views)), micro=3),
    )
    torch.testing.assert_close(a["compose/picture"], b["compose/picture"])
    for p, q in zip(whole.encoder.combiner.parameters(), pieces.encoder.combiner.parameters()):
        torch.testing.assert_close(p.grad, q.grad)
    for absent in (
        ("words",),
        ("facts",),
        ("picture",),
        ("signal",),
        ("picture", "words", "facts", "signal"),
    ):
        assert all(
            v.isfinite()
            for v in gradients(
                exact(composing()), exact(batch(whole.views, absent=absent))
            ).values()
        )


def test_what_is_wrong_is_said():
    with pytest.raises(AmodalError, match="amodal.curate.edits"):
        method("scot", change="fact", changed="signal")
    with pytest.raises(AmodalError, match="warmup"):
        method("scot", warmup=-1.0)


def test_dropout_is_of_training_alone_and_follows_the_seeds():
    m = exact(composing(dropout=0.5))
    b = exact(batch(m.views, patchy=False))
    one, same = (m.train().features(b).composed["picture"].values for _ in range(2))
    plain = m.eval().features(b).composed["picture"].values
    assert torch.equal(one, same) and not torch.allclose(one, plain)
    other = replace(b, seeds=b.seeds + 1)
    assert not torch.allclose(m.train().features(other).composed["picture"].values, one)
    v, change = m.encoder(b)["picture"].values, m.encoder(b)["facts"].values
    torch.testing.assert_close(m.encoder.combiner(v, change), plain)


def test_texts_of_edits_that_are_read_otherwise_are_refused():
    fields = records().fields
    other = modalities.make("text", max_length=24, patch=4)
    encoder = Encoder(fields | {"change": other}, size="nano")
    with pytest.raises(AmodalError, match="'change' has another backbone than 'caption', or other"):
        methods.build("scot", encoder)


def test_a_run_from_a_table_shares_its_subwords(tmp_path):
    """Also after a resume, when the vocabulary is that of the run."""
    dataset = records()
    text = modalities.make("text", max_length=24)
    dataset = dataset.with_fields(
        dataset.fields | dict.fromkeys(("caption", "change", "changed"), text)
    )
    for resume in (False, True):
        model = pretrain(
            "scot", dataset, tmp_path / "run", size="nano", steps=2, batch_size=8, resume=resume
        )
    assert list(model.encoder.fields) == ["image", "caption"]
    assert model.encoder.fields["caption"].merges
    assert model.method.towers == {"change": "caption", "changed": "caption"}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return clip_folder(tmp_path_factory.mktemp("clip"), 24)[0]


def test_a_pretrained_pair_is_frozen_and_only_the_combiner_learns(clip, tmp_path):
    columns = {
        "image": [np.full((32, 32, 3), 9 * i, dtype=np.uint8) for i in range(24)],
        "caption": ["a red pear", "a green apple"] * 12,
        "change": ["a green", "red and"] * 12,
        "changed": ["a green pear", "a red apple"] * 12,
    }
    texts = dict.fromkeys(("caption", "change", "changed"), modalities.make("text"))
    fields = {"image": modalities.make("image", size=32, channels=3, patch=16)} | texts
    dataset = data.open(columns, fields=fields)
    pair = dict.fromkeys(fields, f"transformers:{clip}@projected")
    options = {"warmup": 0.0, "width": 24, "temperature": 0.01, "dropout": 0.5}
    model = pretrain(
        "scot",
        dataset,
        tmp_path / "run",
        size="nano",
        backbones=pair,
        options=options,
        recipe_from="paper",
        batch_size=8,
        epochs=None,
        steps=2,
    )
    m = model.method
    assert m.towers == {"change": "caption", "changed": "caption"}
    learns = {n for n, p in m.named_parameters() if p.requires_grad}
    assert learns and all(n.startswith("encoder.combiner.") for n in learns)
    assert torch.equal(model.encoder.heads["caption"].weight[:, :24], torch.eye(24))
    missing = {f: s for f, s in pair.items() if f != "change"}
    with pytest.raises(AmodalError, match="'change' has another backbone than 'caption'"):
        pretrain("scot", dataset, tmp_path / "other", backbones=missing, options=options)
