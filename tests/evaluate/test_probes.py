"""knn and linear against scikit-learn and against naive loops."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from amodal.core import AmodalError
from amodal.evaluate import labels as _labels
from amodal.evaluate.protocols import boosting
from amodal.evaluate.protocols.knn import knn, neighbours
from amodal.evaluate.protocols.linear import fit, linear, ridge
from amodal.stats.logistic import Scaled, balanced_weights, logistic, solve
from tests.evaluate.made import made


def digits(seed=0):
    x, y = load_digits(return_X_y=True)
    a, b, ya, yb = train_test_split(
        x.astype(np.float32), y, test_size=500, random_state=seed, stratify=y
    )
    return torch.from_numpy(a), torch.from_numpy(ya), torch.from_numpy(b), torch.from_numpy(yb)


def test_knn_votes_as_a_loop_does():
    x, y, q, _ = digits()
    predict = neighbours(x, y, 10, k=7, temperature=0.1)
    unit = x / x.norm(dim=1, keepdim=True)
    expected = []
    for v in q:
        similarity = unit @ (v / v.norm())
        near = similarity.argsort(descending=True)[:7]
        votes = torch.zeros(10)
        for i in near.tolist():
            votes[y[i]] += float(torch.exp(similarity[i] / 0.1))
        expected.append(int(votes.argmax()))
    assert predict(q).tolist() == expected
    rough = neighbours(x, y, 10, k=7, temperature=0.1, prefilter=True)(q)
    assert (rough == predict(q)).float().mean() > 0.99


def test_knn_of_a_number_is_a_weighted_mean():
    x = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
    predict = neighbours(x, torch.tensor([1.0, 3.0, 100.0]), 0, k=2, temperature=0.07)
    assert predict(torch.tensor([[1.0, 1.0]])).item() == pytest.approx(2.0)


def test_logistic_solver_finds_what_scikit_learn_finds():
    x, y, _, _ = digits()
    scaled = Scaled.of(x[:400])
    w, b = solve(scaled, y[:400], 10, torch.tensor([10.0, 1.0]))
    for number, c in enumerate((0.1, 1.0)):
        peer = LogisticRegression(C=c, max_iter=5000, tol=1e-7).fit(
            scaled.z.double().numpy(), y[:400].numpy()
        )
        ours = (scaled.z @ w[:, number] + b[number]).softmax(1)
        theirs = torch.from_numpy(peer.predict_proba(scaled.z.double().numpy())).float()
        assert (ours - theirs).abs().mean() < 3e-3


def uneven(seed=0):
    """Digits of which the first class has 150 records, and others 10."""
    x, y, q, truth = digits(seed)
    chosen = torch.cat([torch.where(y == c)[0][: 150 if c == 0 else 10] for c in range(10)])
    return x[chosen], y[chosen], q, truth


@pytest.mark.parametrize("dims", [64, 300])
def test_balanced_classes_weigh_as_in_scikit_learn(dims):
    x, y, _, _ = uneven()
    more = torch.randn(len(x), dims - 64, generator=torch.Generator().manual_seed(0))
    weights = balanced_weights(y, 10)
    scaled = Scaled.of(torch.cat([x, more], 1), weights)
    penalty = torch.tensor([3.0])
    w, b = solve(scaled, y, 10, penalty, weights[:, None].float(), tolerance=1e-5)
    peer = LogisticRegression(C=1 / 3, max_iter=5000, tol=1e-8, class_weight="balanced")
    theirs = peer.fit(scaled.z.double().numpy(), y.numpy()).predict_proba(scaled.z.double().numpy())
    ours = (scaled.z @ w[:, 0] + b[0]).softmax(1)
    assert (ours - torch.from_numpy(theirs)).abs().max() < 2e-3


def test_classes_of_one_record_do_not_choose_the_penalty():
    x, y, q, truth = digits()
    rng = np.random.default_rng(0)
    single = torch.from_numpy(rng.normal(size=(10, 64)) * 8 + 8).float()
    x, y = x[:900], y[:900]
    more = torch.cat([x, single]), torch.cat([y, torch.arange(10, 20)])
    plain, weighted = (logistic(*more, 20, balanced=b) for b in (False, True))
    assert weighted[2] == plain[2]
    right = [
        float(((q @ w + b).argmax(1) == truth).float().mean()) for w, b, _ in (plain, weighted)
    ]
    assert right[1] > right[0] - 0.02


@pytest.mark.parametrize("fitted", [fit, boosting.fit])
def test_balanced_probes_find_more_of_a_rare_class(fitted):
    rng = np.random.default_rng(0)
    y = (np.arange(1000) % 10 == 0).astype(np.int64)
    x, q = (torch.from_numpy(rng.normal(size=(1000, 5)) + y[:, None]).float() for _ in range(2))

    def recall(balanced):
        guess = fitted(x, torch.from_numpy(y), 2, balanced=balanced)(q).numpy()
        return float((guess[y == 1] == 1).mean())

    assert recall(True) > recall(False) + 0.05


def test_balanced_weights_do_not_move_what_is_balanced():
    x, y, _, _ = digits()
    chosen = torch.cat([torch.where(y == c)[0][:30] for c in range(10)])
    plain, weighted = (logistic(x[chosen], y[chosen], 10, balanced=b) for b in (False, True))
    assert plain[2] == weighted[2]
    assert torch.allclose(x @ plain[0] + plain[1], x @ weighted[0] + weighted[1], atol=2e-2)


@pytest.mark.parametrize("records", [40, 400, 1200])
def test_linear_is_as_accurate_as_a_tuned_logistic_regression(records):
    ours, theirs = [], []
    for seed in range(3):
        x, y, q, truth = digits(seed)
        x, y = x[:records], y[:records]
        ours.append(float((fit(x, y, 10)(q) == truth).float().mean()))
        scale = StandardScaler().fit(x)
        tried = [
            LogisticRegression(C=c, max_iter=3000)
            .fit(scale.transform(x), y)
            .score(scale.transform(q), truth)
            for c in (0.01, 0.1, 1)
        ]
        theirs.append(max(tried))  # the best of them on the test records themselves
    assert np.mean(ours) > np.mean(theirs) - 0.012


def test_more_dimensions_than_records_and_dead_dimensions():
    x, y, q, truth = digits()
    wide = torch.cat([x, torch.zeros(len(x), 40)], 1)
    assert (
        fit(wide[:60], y[:60], 10)(torch.cat([q, torch.ones(len(q), 40)], 1)) == truth
    ).float().mean() > 0.7
    assert fit(torch.ones(20, 5), torch.arange(20) % 2, 2)(torch.ones(3, 5)).shape == (3,), (
        "a collapsed encoder still gets a number"
    )


def test_ridge_picks_the_penalty_with_the_least_leave_one_out_error():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 30)).astype(np.float32)
    y = (x[:, 0] * 2 + rng.normal(size=60) * 2 + 5).astype(np.float32)
    w, b = ridge(torch.from_numpy(x), torch.from_numpy(y))
    z = StandardScaler().fit_transform(x)

    def left_out(alpha):
        errors = []
        for i in range(60):
            rest = np.arange(60) != i
            errors.append(Ridge(alpha=alpha).fit(z[rest], y[rest]).predict(z[i : i + 1])[0] - y[i])
        return np.mean(np.square(errors))

    best = min(np.logspace(-3, 6, 28), key=left_out)
    peer = Ridge(alpha=best).fit(z, y).predict(z)
    assert np.abs(x @ w.numpy() + b.numpy() - peer).max() < 0.15


def test_spearman_and_r2():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, 50).astype(float), rng.normal(size=50)
    assert _labels.spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    train, test = made(seed=1), made(seed=2)
    result = linear(train, test, label="size")
    assert result.value("image", "R2") > 0.6 and result.value("image", "Spearman") > 0.8
    assert 0 < knn(train, test, label="size").value("image", "R2") < result.value("image", "R2")


def test_few_labels_are_drawn_per_class_and_give_an_interval():
    train, test = made(seed=1), made(seed=2)
    few, many = (
        linear(train, test, label="kind", few=2, draws=4),
        linear(train, test, label="kind", few=40, draws=4),
    )
    row = few.rows[0]
    assert row["interval"][0] < row["value"] < row["interval"][1] and row["n"] == 300
    assert few.value("image", "accuracy") < many.value("image", "accuracy")
    assert few.rows == linear(train, test, label="kind", few=2, draws=4).rows, "draws are seeded"
    assert few.spec["few"] == 2 and few.spec["draws"] == 4
    y = np.repeat([0, 1, 2], [50, 3, 47])
    for picked in _labels.draws_of(np.array(["a", "b", "c"])[y], np.arange(100), 5, 3, 0):
        assert np.bincount(y[picked]).tolist() == [5, 3, 5]
    with pytest.raises(AmodalError, match="few = 0"):
        linear(train, test, label="kind", few=0)


def test_chance_is_the_commonest_class_and_unseen_classes_are_wrong():
    train, test = made(seed=1), made(seed=2)
    seen = {k: v.copy() for k, v in train.labels.items()}
    seen["kind"][seen["kind"] == "dog"] = None
    train.labels.update(seen)
    result = knn(train, test, label="kind")
    row = next(r for r in result.rows if r["source"] == "image" and r["metric"] == "accuracy")
    shares = {c: np.mean(test.labels["kind"] == c) for c in ("bird", "cat", "dog")}
    assert row["value"] <= 1 - shares["dog"]
    assert row["chance"] == pytest.approx(
        shares[max(("bird", "cat"), key=lambda c: (seen["kind"] == c).sum())]
    )


def test_a_label_that_nobody_has_names_those_that_exist():
    train, test = made(seed=1), made(seed=2)
    with pytest.raises(
        AmodalError,
        match="none of these 300 records has the label 'none'; labels that some have: kind, size",
    ):
        knn(train, test, label="none")
    with pytest.raises(AmodalError, match="Did you mean kind"):
        linear(train, test, label="kinds")


def test_layers_of_a_backbone_are_probed_one_by_one():
    """A label that is the brightness of a picture: the probe of a layer is that of its states."""
    from amodal import data
    from amodal.evaluate import evaluate
    from amodal.modalities import make
    from amodal.nn import config as encoder_config
    from amodal.nn.encoder import Encoder

    rng = np.random.default_rng(0)
    bright = np.arange(160) % 2
    pictures = [
        rng.integers(0, 120, (67, 67, 1), dtype=np.uint8) + np.uint8(60) * np.uint8(b)
        for b in bright
    ]
    fields = {"image": make("image", size=67, channels=1, mean=(0.3,), std=(0.2,))}
    nets = encoder_config.backbones({"image": "caffenet:width=16,channels=16"}, fields, "nano")
    torch.manual_seed(0)
    encoder = Encoder(fields, size="nano", backbones=nets)
    kinds = [("dark", "bright")[b] for b in bright]
    records = data.open({"image": pictures, "kind": kinds}).with_fields(fields)
    report = evaluate(encoder, records, label="kind", protocols=["layer_probe"], progress=False)
    rows = {r["source"]: r for r in report["layer_probe"].rows if r["metric"] == "accuracy"}
    assert list(rows) == [f"image/layer{i}" for i in range(1, 8)]
    # by hand: the third layer, of the same records
    train = np.asarray(records.split("train"))  # nothing was trained, so all others are tested on
    test = np.setdiff1d(np.arange(160), train)
    decoded = torch.stack([torch.tensor(p).permute(2, 0, 1) / 255 for p in pictures])
    with torch.no_grad():
        states = nets["image"].body.hidden_states(decoded)[2]
    classes = torch.tensor([sorted(set(kinds)).index(k) for k in kinds])
    predict = fit(states[train], classes[train], 2)
    accuracy = (predict(states[test]) == classes[test]).float().mean()
    assert rows["image/layer3"]["value"] == pytest.approx(float(accuracy), abs=1e-6)
    assert rows["image/layer3"]["n"] == len(test) and accuracy > 0.9
    own = Encoder(fields, size="nano")
    with pytest.raises(AmodalError, match="no field has a backbone whose layers"):
        evaluate(own, records, label="kind", protocols=["layer_probe"], progress=False)
