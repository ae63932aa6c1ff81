"""missing_modality_robustness where the answer is known, and its parts against slow references."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

import amodal
from amodal import modalities
from amodal.core import AmodalError, Column, Embeddings
from amodal.core.embeddings import FUSED
from amodal.evaluate import (
    Embedded,
    NotApplicable,
    Report,
    corruption,
    embed_records,
    evaluate,
    figures,
    protocol_names,
)
from amodal.evaluate.imputation import imputed, ridge
from amodal.evaluate.missing_modalities import (
    FieldVectors,
    concatenate_fields,
    label_dependent_mask,
    label_groups,
)
from amodal.evaluate.protocols.missing_modality_robustness import missing_modality_robustness
from amodal.stats.shapley import powerset, shapley
from tests.evaluate.made import made

THREE = ("image", "sound", "text")


@pytest.fixture(scope="module")
def result():
    pair = (
        made(400, seed=s, sources=THREE, noise=2.0, share=0.9, unaligned=("sound",)) for s in (1, 2)
    )
    return missing_modality_robustness(*pair, label="kind")


def rows(result, part, **wanted):
    return [
        r
        for r in result.rows
        if r["part"] == part
        and r["metric"] in ("accuracy", "R2", "worth")
        and wanted.items() <= r.items()
    ]


def value(result, part, source, target=None):
    (row,) = rows(result, part, source=source, **({} if target is None else {"target": target}))
    return row["value"]


# Worth


def test_worth_agrees_with_every_order_of_adding_sources():
    sources, rng = "abcd", np.random.default_rng(0)
    score = {subset: float(rng.random()) for subset in powerset(sources)}
    slow = dict.fromkeys(sources, 0.0)
    for order in itertools.permutations(sources):
        for i, source in enumerate(order):
            slow[source] += (score[frozenset(order[: i + 1])] - score[frozenset(order[:i])]) / 24
    assert shapley(score, sources) == pytest.approx(slow)


def test_worths_sum_to_the_whole(result):
    whole = value(result, "subset", "+".join(THREE)) - value(result, "subset", "none")
    assert sum(r["value"] for r in rows(result, "worth")) == pytest.approx(whole)
    assert whole > 0.3 and len(rows(result, "subset")) == 8
    assert value(result, "subset", "+".join(THREE)) == value(
        result, "random", "trained with 0% hidden", "0% hidden"
    )


def test_a_source_without_information_is_worth_nothing():
    def deafened(e):
        noise = torch.randn(
            len(e), 16, generator=torch.Generator().manual_seed(len(e.keys[0]) + int(e.keys[0][1]))
        )
        columns = {
            **e.aligned.columns,
            "sound": Column(noise[e.aligned["sound"].rows], e.aligned["sound"].rows),
        }
        return Embedded(e.keys, Embeddings(columns, len(e)), e.features, e.labels)

    found = missing_modality_robustness(
        deafened(made(seed=1)), deafened(made(seed=2)), label="kind"
    )
    assert value(found, "worth", "image") > 0.25 > 0.15 > value(found, "worth", "sound")


# Patterns


def test_what_is_hidden_follows_from_the_record_and_grows_with_the_rate():
    seen = FieldVectors.of(made(500, sources=THREE))
    chance = seen.uniform(3)
    assert torch.equal(
        chance, FieldVectors.of(made(500, sources=THREE)).uniform(3)
    ) and not torch.equal(chance, seen.uniform(4))
    for rate in (0.3, 0.6, 0.9):
        assert (chance < rate).float().mean(0).sub(rate).abs().max() < 0.07
    few = FieldVectors.of(made(500, sources=THREE), most=50)
    assert len(few) == 50 and torch.equal(few.uniform(3), chance[few.rows])


def test_fused_is_what_the_embeddings_fuse():
    test = made(60, share=0.7, sources=THREE)
    seen = FieldVectors.of(test)
    whole = test.fused()
    assert torch.equal(seen.rows, whole.rows) and torch.allclose(
        seen.fused(seen.present), whole.values, atol=1e-6
    )
    alone = seen.present & torch.tensor([True, False, True])
    some = test.fused(("image", "text"))
    there = alone.any(1)
    assert torch.equal(seen.rows[there], some.rows) and torch.allclose(
        seen.fused(alone)[there], some.values, atol=1e-6
    )
    assert seen.fused(alone)[~there].isnan().all()


def test_a_joint_network_fuses_what_is_left_itself():
    test, asked = made(30, share=0.8), []

    def re_fuse(names):
        asked.append(tuple(names))
        fused = test.aligned.fused(names)
        return Column(fused.values * 10 * len(names), fused.rows)

    joint = Embedded(
        test.keys,
        Embeddings({**test.aligned.columns, FUSED: test.fused()}, 30),
        test.features,
        {},
        re_fuse,
    )
    seen = FieldVectors.of(joint)
    found = seen.fused(seen.present & torch.tensor([False, True]))
    assert set(asked) == {("sound",)} and seen.names == ("image", "sound")
    sound = test.aligned["sound"]
    there = torch.isin(seen.rows, sound.rows)
    assert (
        torch.allclose(found[there], 10 * normalize(sound.values, dim=1), atol=1e-5)
        and found[~there].isnan().all()
    )


def test_dependence_on_the_label_and_its_reverse():
    y = np.array(["a", "b", "c", None] * 500, dtype=object)
    groups, same_groups = label_groups(y, y)
    assert torch.equal(groups, same_groups) and groups[:4].tolist() == [0, 1, 0, -1]
    luck = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0))
    for turned in (False, True):
        hidden = label_dependent_mask(luck, groups, reverse=turned)
        for group, source in itertools.product((0, 1), range(3)):
            rate = 0.8 if (group + source + turned) % 2 == 0 else 0.2
            assert abs(float(hidden[groups == group, source].float().mean()) - rate) < 0.06
        assert abs(float(hidden[groups == -1].float().mean()) - 0.5) < 0.05
    assert label_groups(np.array([1.0, 2.0, 9.0]), np.array([0.0, 5.0, np.nan]))[1].tolist() == [
        0,
        1,
        -1,
    ]


# What the protocol says


def test_missing_at_random_costs_more_the_more_is_hidden(result):
    curve = [
        value(result, "random", "trained with 0% hidden", f"{r}% hidden") for r in (0, 30, 60, 90)
    ]
    assert curve == sorted(curve, reverse=True) and curve[0] > curve[3] + 0.2
    assert len(rows(result, "random")) == 16 and len({r["n"] for r in result.rows}) == 1
    for r in rows(result, "random", source="trained with 0% hidden", target="90% hidden"):
        assert 0.6 < r["empty"] < 0.85  # .9 ** 3 and what was not there at first


def test_a_probe_that_reads_presence_is_exposed(result):
    """Three classes in two groups: presence alone tells the group, which helps as in training and
    misleads the other way round."""
    for source in ("fused", "side by side", "presence"):
        same, even, turned = (
            value(result, "label", source, t)
            for t in ("as in training", "at random", "turned round")
        )
        assert same > even > turned and same > turned + 0.1, source
    fair = [
        value(result, "label", "fused, trained at random", t)
        for t in ("as in training", "turned round")
    ]
    for source in ("fused", "side by side"):
        same, turned = (
            value(result, "label", source, t) for t in ("as in training", "turned round")
        )
        (row,) = rows(result, "label", source=source, target="turned round")
        assert (
            row["leaked"] == pytest.approx((same - turned) - (fair[0] - fair[1]))
            and row["leaked"] > 0.15
        )


def test_what_is_hidden_at_random_in_training_leaks_nothing(monkeypatch):
    def blindly(uniform_NS, group_N, *, reverse=False):
        return uniform_NS < 0.5

    monkeypatch.setattr(
        "amodal.evaluate.protocols.missing_modality_robustness.label_dependent_mask", blindly
    )
    found = missing_modality_robustness(made(seed=1), made(seed=2), label="kind", rates=(0.5,))
    (row,) = rows(found, "label", source="fused", target="turned round")
    assert row["leaked"] == 0


def test_presence_that_leaks_the_label_in_the_data_itself_is_found():
    def leaking(e):
        is_dog = torch.from_numpy(e.labels["kind"] == "dog")
        sound = e.aligned["sound"]
        columns = {**e.aligned.columns, "sound": sound.at(~is_dog[sound.rows])}
        return Embedded(e.keys, Embeddings(columns, len(e)), e.features, e.labels)

    train, test = made(seed=1), made(seed=2)
    found = missing_modality_robustness(leaking(train), leaking(test), label="kind", rates=(0.5,))
    (row,) = rows(found, "leak")
    assert row["value"] > row["chance"] + 0.2
    assert not rows(missing_modality_robustness(train, test, label="kind", rates=(0.5,)), "leak"), (
        "where nothing is missing, nothing leaks"
    )


def test_numbers_few_labels_and_the_other_probe():
    train, test = made(seed=1, share=0.9), made(seed=2, share=0.9)
    found = missing_modality_robustness(train, test, label="size", rates=(0.5,))
    assert value(found, "ways", "drop", "0% hidden") > 0.5 and {
        r["of_metric"] for r in rows(found, "worth")
    } == {"R2"}
    few = missing_modality_robustness(
        train, test, label="kind", few=5, draws=2, probe="knn", rates=(0.5,)
    )
    assert all("interval" in r for r in few.rows if r["part"] != "worth")


# Stand-ins


def known_sources(n, seed):
    """Source b is a turn of a, and c says nothing of either."""
    g = torch.Generator().manual_seed(seed)
    a = normalize(torch.randn(n, 6, generator=g), dim=1)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(9)))[0]
    x = {"a": a, "b": a @ turn, "c": normalize(torch.randn(n, 6, generator=g), dim=1)}
    columns = {s: Column(v, torch.arange(n)) for s, v in x.items()}
    both = Embeddings(columns, n)
    return FieldVectors.of(Embedded([f"{seed}-{i}" for i in range(n)], both, both)), x


def test_stand_ins_where_the_answer_is_known():
    learn, x = known_sources(200, 0)
    seen, truth = known_sources(20, 1)
    left = torch.tensor([[True, False, True]]).expand(20, 3)
    predicted = imputed("predict", learn, seen.x, left)
    assert torch.allclose(predicted[:, 1], truth["b"], atol=0.02) and torch.allclose(
        predicted[:, 0], truth["a"]
    )
    assert torch.allclose(
        imputed("mean", learn, seen.x, left)[:, 1], x["b"].mean(0).expand(20, 6), atol=1e-5
    )
    nearest = [
        max(range(200), key=lambda j: float(x["a"][j] @ truth["a"][i] + x["c"][j] @ truth["c"][i]))
        for i in range(20)
    ]
    assert torch.allclose(imputed("retrieve", learn, seen.x, left)[:, 1], x["b"][nearest])
    nothing = imputed("predict", learn, seen.x, torch.zeros(20, 3, dtype=torch.bool))
    assert torch.allclose(
        nothing, torch.stack([x[s].mean(0) for s in "abc"]).expand(20, 3, 6), atol=1e-5
    )


def test_donors_are_records_that_have_both():
    learn, x = known_sources(100, 0)
    there = learn.present.clone()
    there[:50, 1] = False
    some = FieldVectors(learn.embedded, learn.rows, learn.x * there[:, :, None], there)
    left = torch.tensor([[True, False, False]])
    found = imputed("retrieve", some, learn.x[:1], left)
    assert torch.allclose(found[0, 1], x["b"][50 + int((x["a"][50:] @ x["a"][0]).argmax())])


def test_ridge_agrees_with_leaving_each_record_out():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(25, 4, generator=g), torch.randn(25, 2, generator=g)
    y = y + x[:, :2]
    scaled = (x - x.mean(0)) / x.std(0, correction=0)
    errors = {}
    for penalty in torch.logspace(-2, 4, 7).tolist():
        total = 0.0
        for i in range(25):
            others = [j for j in range(25) if j != i]
            z = torch.cat([scaled, torch.ones(25, 1)], 1)
            lift = torch.diag(torch.tensor([penalty] * 4 + [0.0]))
            w = torch.linalg.solve(z[others].T @ z[others] + lift, z[others].T @ y[others])
            total += float((z[i] @ w - y[i]).square().sum())
        errors[penalty] = total
    best = min(errors, key=errors.get)
    w = torch.linalg.solve(scaled.T @ scaled + best * torch.eye(4), scaled.T @ (y - y.mean(0)))
    assert torch.allclose(ridge(x[:5], x, y), scaled[:5] @ w + y.mean(0), atol=1e-4)


def test_prediction_is_chosen_where_it_is_best_and_test_labels_have_no_say():
    """Each source has a half of what tells the class, in directions that cancel when they are
    averaged alone."""
    train, test = (made(500, seed=s, noise=0.1, unaligned=("sound",)) for s in (1, 2))
    found = missing_modality_robustness(train, test, label="kind")
    chosen = {r["source"] for r in rows(found, "ways") if r["chosen"]}
    best = max(
        {r["source"]: r["valid"] for r in rows(found, "ways")}.items(), key=lambda item: item[1]
    )[0]
    assert chosen == {best} and best in ("predict", "retrieve")
    order = np.random.default_rng(0).permutation(len(test))
    mixed = Embedded(test.keys, test.aligned, test.features, {"kind": test.labels["kind"][order]})
    assert {
        r["source"]
        for r in rows(missing_modality_robustness(train, mixed, label="kind"), "ways")
        if r["chosen"]
    } == chosen


def test_side_by_side_says_what_is_hidden():
    x = torch.arange(12.0).view(2, 2, 3) + 1
    ends = concatenate_fields(x, torch.tensor([[True, False], [True, True]]))
    assert ends.tolist() == [[1, 2, 3, 0, 0, 0], [7, 8, 9, 10, 11, 12]]


# Damage

RNG = np.random.default_rng(0)
KINDS = {
    "image": (
        modalities.make("image", size=16, channels=3, patch=4),
        RNG.integers(0, 256, (2, 3, 16, 16), dtype=np.uint8),
    ),
    "series": (
        modalities.make("series", channels=("a", "b"), std=(1.0, 5.0)),
        RNG.normal(size=(2, 80, 2)).astype(np.float32),
    ),
    "table": (
        modalities.make("table", columns=tuple("abcdefgh"), categories={"h": ("u", "v")}),
        np.arange(16, dtype=np.float32).reshape(2, 8),
    ),
    "text": (modalities.make("text"), np.arange(128, dtype=np.int32).reshape(2, 64)),
    "audio": (modalities.make("audio", rate=8000), RNG.normal(size=(2, 16000)).astype(np.float32)),
    "events": (
        modalities.make("events", columns=("x", "c"), categories={"c": ("u", "v")}),
        np.stack(
            [
                np.stack([np.arange(40), np.arange(40) + 0.5, np.arange(40) % 2], 1) + k
                for k in (0, 2)
            ]
        ).astype(np.float32),
    ),
    "sequence": (
        modalities.make("sequence"),
        np.stack([np.arange(120) % 4, (np.arange(120) + 1) % 4]).astype(np.int32),
    ),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", corruption.CORRUPTIONS)
def test_damage_is_a_function_of_the_record_and_grows(name, kind):
    modality, (value, other) = KINDS[name]
    assert corruption.applies(kind, modality) == (
        kind != "noise" or name not in ("text", "sequence")
    )
    before, changed = value.copy(), []
    for severity in (0.0, 0.25, 0.75):
        made_, repeated = (
            corruption.corruption(kind, severity)(modality, value, other, np.random.default_rng(1))
            for _ in (0, 1)
        )
        np.testing.assert_array_equal(made_, repeated)
        assert made_.dtype == value.dtype and made_.ndim == value.ndim
        modality.collate([made_])
        same = made_.shape == value.shape
        changed.append(np.mean(made_ != value) if same else 1 - len(made_) / len(value))
    np.testing.assert_array_equal(value, before)
    if not corruption.applies(kind, modality):
        assert changed == [0, 0, 0]
    elif kind == "noise":
        assert changed[0] == 0 < changed[1]
    else:
        assert changed[0] == 0 < changed[1] < changed[2]
    if name == "events":
        assert made_[0, 0] == (0 if kind == "drop" else value[0, 0])
    if name in ("table", "events") and kind == "noise":
        assert (made_[..., -1] == value[..., -1]).all(), "a category takes no noise"


def test_something_is_always_left():
    for modality, (value, other) in KINDS.values():
        left = corruption.corruption("drop", 1.0)(modality, value, other, np.random.default_rng(0))
        assert len(left) and np.isfinite(left).any()


@pytest.mark.parametrize("trunk", ["separate", "joint"])
def test_damage_changes_its_own_source_alone(folder, trunk):
    records = amodal.open(folder)
    torch.manual_seed(0)
    encoder = amodal.Encoder(records.fields, size="nano", trunk=trunk).align(
        16, fused=trunk == "joint"
    )
    test = embed_records(encoder, records, range(0, 60))
    text, image = (
        next(f for f, m in records.fields.items() if type(m).__name__ == k)
        for k in ("Text", "Image")
    )
    rows_ = list(range(3, 40, 2))
    none = test.perturbed_forward(image, corruption.corruption("drop", 0.0), rows_)
    at = torch.isin(test.aligned[image].rows, torch.tensor(rows_))
    assert torch.allclose(none[image].values, test.aligned[image].values[at], atol=1e-5)
    much = test.perturbed_forward(image, corruption.corruption("drop", 0.75), rows_)
    assert not torch.allclose(much[image].values, none[image].values, atol=1e-3)
    assert torch.equal(
        much[image].values,
        test.perturbed_forward(image, corruption.corruption("drop", 0.75), rows_)[image].values,
    )
    if trunk == "joint":
        assert torch.allclose(much[text].values, none[text].values, atol=1e-5)
        assert not torch.allclose(much[FUSED].values, none[FUSED].values, atol=1e-4)
    else:
        assert set(much) == {image}


# Reports


def test_it_is_measured_when_asked_for_and_reported(folder, tmp_path):
    records = amodal.open(folder)
    encoder = amodal.Encoder(records.fields, size="nano").align(16)
    report = evaluate(
        encoder,
        records,
        protocols=["missing_modality_robustness"],
        probe="knn",
        rates=(0.5,),
        severities=(0.5,),
        progress=False,
    )
    assert "missing_modality_robustness" in protocol_names() and len(report.table().rows) > 8
    file = report.save(tmp_path / "report.json")
    assert Image.open(tmp_path / "report.missing_modality_robustness.png").size[0] > 1000
    loaded = Report.load(file)
    assert len(loaded["missing_modality_robustness"].rows) == len(
        report["missing_modality_robustness"].rows
    )
    figures.missing_modality_robustness(
        [
            r
            for r in loaded["missing_modality_robustness"].rows
            if r["part"] not in corruption.CORRUPTIONS
        ],
        tmp_path / "short.png",
    )
    usual = evaluate(encoder, records, protocols=None, few=2, draws=1, progress=False)
    assert (
        "missing_modality_robustness" not in {r.protocol for r in usual.results}
        and "missing_modality_robustness" not in usual.skipped
    )


def test_what_cannot_be_asked():
    train, test = made(60, seed=1), made(60, seed=2)
    with pytest.raises(AmodalError, match="no probe is called 'liner'. Did you mean linear"):
        missing_modality_robustness(train, test, label="kind", probe="liner")
    with pytest.raises(AmodalError, match="shares above 0 and at most 1"):
        missing_modality_robustness(train, test, label="kind", rates=(30, 60))
    with pytest.raises(NotApplicable, match="there is only image"):
        missing_modality_robustness(
            made(60, sources=("image",)), made(60, sources=("image",)), label="kind"
        )
