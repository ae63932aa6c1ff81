"""Concordance against pairs, Cox regression against its definition and where the truth is known,
scores against scikit-survival, and the protocol."""

import numpy as np
import pytest
import torch
from PIL import Image

import amodal
from amodal.core import AmodalError, Column, Embeddings
from amodal.data.schema import Label
from amodal.data.sets.shared.writing import describe, field, records
from amodal.evaluate import Embedded, NotApplicable, Report, evaluate, survival_label, usual_label
from amodal.evaluate.protocols.survival import survival as protocol
from amodal.evaluate.report_table import in_short
from amodal.stats.survival import (
    concordance,
    cox,
    fit_cox,
    kaplan_meier,
    log_rank,
    partial_likelihood,
    survival,
)
from amodal.stats.survival_scores import METRICS, Predictions, evaluation_times, scores


def made(n, seed, weights):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(weights)))
    time, censored = rng.exponential(np.exp(-x @ weights)), rng.exponential(2.0, n)
    return torch.from_numpy(x), np.minimum(time, censored), time <= censored


def test_concordance_is_counted_over_pairs_whose_order_is_known():
    rng = np.random.default_rng(0)
    risk, time, event = rng.integers(0, 4, 30), rng.integers(0, 9, 30), rng.random(30) < 0.6
    right = pairs = 0
    for i in range(30):
        for j in range(30):
            # scikit-survival: "if one had the event and the other was censored at the same time,
            # they can be compared"
            if event[i] and (time[i] < time[j] or (time[i] == time[j] and not event[j])):
                pairs += 1
                right += 1 if risk[i] > risk[j] else 0.5 if risk[i] == risk[j] else 0
    assert concordance(risk, time, event) == pytest.approx(right / pairs)
    assert (
        concordance(0.5 * event - time, time, event) == 1
        and concordance(np.zeros(30), time, event) == 0.5
    )
    assert np.isnan(concordance(risk, time, np.zeros(30, bool)))


def test_who_was_last_seen_well_when_another_had_the_event_outlived_it():
    time, event = np.array([5.0, 5.0, 5.0]), np.array([True, False, True])
    assert (
        concordance(np.array([2.0, 1.0, 0.0]), time, event) == 0.5
    )  # two pairs; the two events are none
    assert concordance(np.array([2.0, 1.0, 3.0]), time, event) == 1


def test_partial_likelihood_is_its_definition_with_ties():
    torch.manual_seed(0)
    risk, time, event = (
        torch.randn(9).double(),
        torch.tensor([3.0, 1, 1, 4, 2, 2, 5, 3, 1]),
        torch.tensor([1, 0, 1, 1, 0, 1, 0, 1, 1]),
    )
    total = 0.0
    for i in range(9):
        if event[i]:
            total += risk[i] - torch.log(sum(risk[j].exp() for j in range(9) if time[j] >= time[i]))
    torch.testing.assert_close(partial_likelihood(risk, time, event), total)


@pytest.mark.parametrize("penalty", [0.1, 10.0])
def test_the_weights_are_where_the_gradient_vanishes(penalty):
    x, time, event = made(60, 1, np.array([1.0, -0.5, 0.0]))
    time, event = torch.from_numpy(time).round(decimals=1), torch.from_numpy(event)
    w = cox(x, time, event, penalty).requires_grad_()
    (partial_likelihood(x @ w, time, event) - penalty / 2 * w.square().sum()).backward()
    assert w.grad.abs().max() < 1e-4 and w.abs().max() > 0.1


@pytest.mark.parametrize("width", [30, 200])
def test_more_columns_than_people_give_the_weights_of_all_columns(width):
    train = made(60, 1, np.array([1.0, -0.5] + [0.0] * (width - 2)))
    model = fit_cox(train, penalties=(3.0,))
    x = (train[0].double() - model.mean) / model.spread
    whole = cox(x, *(torch.from_numpy(y).double() for y in train[1:]), 3.0)
    torch.testing.assert_close(model.w, whole, rtol=0, atol=1e-6)
    assert whole.abs().max() > 0.05


def test_what_decides_is_found_and_noise_is_shrunk():
    truth = np.array([1.5, -1.0] + [0.0] * 30)
    train, test = made(200, 2, truth), made(400, 3, truth)
    best = concordance(test[0].numpy() @ truth, test[1], test[2])
    assert best - 0.05 < survival(train, test) <= best + 0.02
    noise = (torch.randn(200, 32, generator=torch.Generator().manual_seed(0)), *train[1:])
    assert abs(survival(noise, test) - 0.5) < 0.1


def outcomes(n, seed):
    x, time, event = made(n, seed, np.array([1.0, -0.7, 0.0]))
    return x, np.ceil(time * 10), event  # with ties


def test_scores_are_those_of_scikit_survival():
    metrics = pytest.importorskip("sksurv.metrics")
    linear_model, util = (
        pytest.importorskip("sksurv.linear_model"),
        pytest.importorskip("sksurv.util"),
    )
    train, test = outcomes(120, 4), outcomes(60, 5)
    model = fit_cox(train, penalties=(1.0,))
    scaled = [
        ((x - train[0].mean(0)) / train[0].std(0, correction=0)).numpy()
        for x in (train[0], test[0])
    ]
    known, asked = (util.Surv.from_arrays(event, time) for _, time, event in (train, test))
    peer = linear_model.CoxPHSurvivalAnalysis(alpha=1.0, ties="breslow", tol=1e-12).fit(
        scaled[0], known
    )
    np.testing.assert_allclose(model.w.numpy(), peer.coef_, atol=1e-6)
    times = evaluation_times(*train[1:], [train[1:]])
    times = times[(times >= test[1].min()) & (times < test[1].max())]
    risk = model.risk(test[0])
    curves = model.curves(risk, times)
    expected = np.array([curve(times) for curve in peer.predict_survival_function(scaled[1])])
    np.testing.assert_allclose(curves, expected, atol=1e-6)
    found = scores(
        [Predictions(np.arange(60), *test[1:], risk, curves, train[1:])], times, draws=20
    )
    auc = metrics.cumulative_dynamic_auc(known, asked, risk, times)[1]
    assert found["concordance"][0] == pytest.approx(
        metrics.concordance_index_censored(test[2], test[1], risk)[0]
    )
    assert found["AUC over time"][0] == pytest.approx(auc)
    assert found["integrated Brier"][0] == pytest.approx(
        metrics.integrated_brier_score(known, asked, curves, times)
    )


def test_a_draw_of_people_is_a_set_in_which_some_are_twice():
    train, test = outcomes(80, 6), outcomes(40, 7)
    model = fit_cox(train, penalties=(1.0,))
    times = evaluation_times(*train[1:], [train[1:]])
    risk = model.risk(test[0])
    found = scores(
        [Predictions(np.arange(40), *test[1:], risk, model.curves(risk, times), train[1:])],
        times,
        draws=3,
        seed=1,
    )
    drawn = np.random.default_rng([1, 40]).multinomial(40, np.full(40, 1 / 40), size=3)
    for number, counts in enumerate(drawn, 1):
        at = np.repeat(np.arange(40), counts)
        resampled = Predictions(
            np.arange(40),
            test[1][at],
            test[2][at],
            risk[at],
            model.curves(risk[at], times),
            train[1:],
        )
        same = scores([resampled], times, draws=0)
        for metric in ("concordance", "AUC over time", "integrated Brier"):
            assert found[metric][number] == pytest.approx(same[metric][0]), metric


def test_kaplan_meiers_curve_is_its_product():
    rng = np.random.default_rng(0)
    time, event, at = (
        rng.integers(1, 9, 40).astype(float),
        rng.random(40) < 0.5,
        np.arange(0.0, 10.5, 0.5),
    )
    for lost in (False, True):
        left = kaplan_meier(time, event, at, censoring=lost)
        for t, value in zip(at, left):
            expected = 1.0
            for u in sorted(set(time[time <= t])):
                there = sum((time > u) | (time == u) & ~(lost & event))
                came = sum((time == u) & (event != lost))
                expected *= 1 - came / there if there else 1.0
            assert value == pytest.approx(expected)


def test_calibration_is_the_gap_between_what_is_foretold_and_what_comes():
    time, event = np.arange(1.0, 101.0), np.ones(100, bool)
    middle = np.array([50.0])
    right = np.where(time <= 50, 0.0, 1.0)[:, None]

    def error(curves):
        part = Predictions(np.arange(100), time, event, -curves[:, 0], curves, (time, event))
        return scores([part], middle, draws=0)["calibration error"][0]

    assert error(right) == pytest.approx(0)
    assert error(np.full((100, 1), 0.2)) == pytest.approx(0.3)  # 50 % come, and 80 % were foretold


def embedded(n, seed, kind="1", other="0"):
    x, time, event = made(n, seed, np.array([1.5, -1.0] + [0.0] * 6))
    noise = torch.randn(n // 2, 8, generator=torch.Generator().manual_seed(seed))
    columns = {
        "a": Column(x.float(), torch.arange(n)),
        "b": Column(noise, torch.arange(0, 2 * (n // 2), 2)),
    }
    z = Embeddings(columns, n)
    labels = {"days": time, "dead": np.where(event, kind, other).astype(object)}
    return Embedded([f"{seed}-{i}" for i in range(n)], z, z, labels)


def test_the_protocol_judges_on_the_test_part_if_it_says_enough():
    found = protocol(embedded(300, 0), embedded(150, 1), label="days,dead")
    assert found.spec["judged"] == "test part" and found.spec["label"] == "days,dead"
    rows = {r["source"]: r for r in found.rows if r["metric"] == "concordance"}
    assert (
        rows["a"]["value"] > 0.75 and rows["a"]["n"] == 150 and abs(rows["b"]["value"] - 0.5) < 0.12
    )
    low, high = rows["a"]["interval"]
    assert low < rows["a"]["value"] < high and high - low < 0.15 and rows["a"]["chance"] == 0.5
    brier = {r["source"]: r for r in found.rows if r["metric"] == "integrated Brier"}
    assert brier["a"]["value"] < brier["a"]["chance"] * 0.9 and 0.1 < brier["a"]["chance"] < 0.25
    assert {r["metric"] for r in found.rows} == set(METRICS) and rows["a"]["events"] > 50


def test_the_log_rank_test_is_scikit_survivals():
    compare, util = pytest.importorskip("sksurv.compare"), pytest.importorskip("sksurv.util")
    _, time, event = outcomes(80, 8)
    second = np.random.default_rng(0).random(80) < 0.4
    chi, p = log_rank(time, event, second)
    expected = compare.compare_survival(util.Surv.from_arrays(event, time), second)
    assert (chi, p) == pytest.approx(expected)


def test_risk_groups_separate_where_risk_is_predicted_and_are_drawn(tmp_path):
    found = protocol(embedded(300, 0), embedded(150, 1), label="days,dead")
    informative, noise = (found.spec["groups"][s] for s in "ab")
    assert informative["p"] < 1e-6 < noise["p"] and informative["n"] == {"low": 75, "high": 75}
    assert (
        informative["low"][0] == informative["high"][0] == 1
        and max(np.subtract(informative["low"], informative["high"])) > 0.3
    )
    file = Report([found]).save(tmp_path / "r.json")
    assert (
        Image.open(tmp_path / "r.survival.png").size[0] > 500
        and Report.load(file)["survival"].spec["groups"]
    )


def test_the_table_keeps_intervals_however_many_sources_there_are():
    rows = [
        {"protocol": "survival", **r}
        for r in protocol(embedded(80, 2), embedded(60, 3), label="days,dead").rows
    ]
    assert in_short(rows * 5) == rows * 5 and all("interval" in r for r in rows)


def test_few_events_are_judged_in_folds_of_both_parts_and_noise_stays_noise():
    found = protocol(embedded(80, 2), embedded(20, 3), label="days,dead", repeats=1)
    assert found.spec["judged"] == "5 folds of both parts, 1 times"
    value = {r["source"]: r["value"] for r in found.rows if r["metric"] == "concordance"}
    assert value["a"] > 0.7 and abs(value["b"] - 0.5) < 0.2
    assert (
        protocol(embedded(80, 2), embedded(20, 3), label="days,dead", least=0).spec["judged"]
        == "test part"
    )


def test_words_for_the_event_are_understood_and_others_refused():
    plain = protocol(embedded(80, 2), embedded(60, 3), label="days,dead")
    words = protocol(
        embedded(80, 2, "deceased", "living"),
        embedded(60, 3, "deceased", "living"),
        label="days,dead",
    )
    assert [r["value"] for r in plain.rows] == [r["value"] for r in words.rows]
    with pytest.raises(AmodalError, match="in two words"):
        protocol(embedded(80, 2, "red", "blue"), embedded(60, 3, "red", "blue"), label="days,dead")
    with pytest.raises(NotApplicable, match="TIME,EVENT"):
        protocol(embedded(80, 2), embedded(60, 3), label="days")
    with pytest.raises(NotApplicable, match="no number"):
        protocol(embedded(80, 2), embedded(60, 3), label="dead,dead")


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    x, time, event = made(240, 0, np.array([1.5, -1.0, 0.0]))
    columns = {"key": [f"k{i}" for i in range(240)], "x": x.tolist(), "months": time.tolist()}
    columns["kind"] = ["u" if v > 0 else "v" for v in x[:, 0]]
    records(folder, columns | {"status": np.where(event, "dead", "alive").tolist()})
    labels = {"kind": "category", "months": Label("number", event="status"), "status": "category"}
    describe(folder, {"x": field("table", columns=["a", "b", "c"])}, labels)
    return amodal.open(folder)


def test_a_time_is_declared_or_named(people):
    torch.manual_seed(0)
    encoder = amodal.Encoder(people.fields, size="nano")
    assert survival_label(people) == "months,status" and usual_label(people) == ["kind"]
    report = evaluate(encoder, people, progress=False)
    assert (
        report["survival"].value("x", "concordance") > 0.6
        and report["linear"].spec["label"] == "kind"
    )
    named = evaluate(encoder, people, label="months,status", progress=False)
    assert [r.protocol for r in named.results] == ["survival"] and "time until" not in str(
        named.skipped
    )
    with pytest.raises(AmodalError, match="'months,status' is a time until an event"):
        evaluate(encoder, people, label="months,status", protocols=["knn"], progress=False)
    with pytest.raises(AmodalError, match="Did you mean months"):
        evaluate(encoder, people, label="month,status", progress=False)
    assert "survival" not in [
        r.protocol for r in evaluate(encoder, people, label="kind", progress=False).results
    ]


def test_an_encoder_that_has_seen_labels_is_judged_on_others_only(people):
    torch.manual_seed(0)
    encoder = amodal.Encoder(people.fields, size="nano")
    for config, judged in (
        ({}, "5 folds"),
        ({"options": {"label": "months,status"}}, "test part"),
        ({"answers": {"targets": []}}, "test part"),
    ):
        model = amodal.Model(encoder, config)
        report = evaluate(
            model, people, label="months,status", progress=False, repeats=1, least=1000
        )
        assert report["survival"].spec["judged"].startswith(judged)


def test_the_log_rank_test_of_nothing_to_compare_says_nothing():
    times, both = np.array([1.0, 2.0, 3.0]), np.array([True, False, True])
    assert log_rank(times, np.zeros(3, dtype=bool), both) == (0.0, 1.0), "no events"
    assert log_rank(times, np.ones(3, dtype=bool), np.zeros(3, dtype=bool)) == (0.0, 1.0), (
        "one group"
    )
    assert log_rank(np.ones(3), np.ones(3, dtype=bool), both) == (0.0, 1.0), "all at one time"
