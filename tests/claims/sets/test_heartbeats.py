"""The generated electrocardiograms show what they are said to show, and reports say it."""

import json

import numpy as np
import pytest
from amodal_claims.sets import heartbeats
from amodal_claims.sets.heartbeats import FINDINGS, KNOWLEDGE, LEADS, RATE


def of(*findings, seed=0):
    return heartbeats.trace(np.random.default_rng(seed), set(findings))


def peaks(signal, lead="II", least=0.5):
    """Steps of R peaks: the highest points above `least` of the largest, a quarter of a second
    apart."""
    wave = signal[:, LEADS.index(lead)]
    findings = []
    for step in np.argsort(-wave):
        if wave[step] > least * wave.max() and all(abs(step - f) > RATE / 4 for f in findings):
            findings.append(step)
    return np.sort(findings)


def test_records_are_the_same_each_time_and_different_from_each_other():
    one, same, other = (heartbeats.record(i) for i in (5, 5, 6))
    assert one["report"] == same["report"] and np.array_equal(one["ecg"], same["ecg"])
    assert one["ecg"].shape == (500, 6) and not np.array_equal(one["ecg"], other["ecg"])


@pytest.mark.parametrize(
    "finding, low, high",
    [("sinus bradycardia", 40, 56), ("sinus tachycardia", 105, 145), (None, 63, 95)],
)
def test_the_rate_is_that_of_the_peaks(finding, low, high):
    for seed in range(5):
        signal, rate = of(*([finding] if finding else []), seed=seed)
        gaps = np.diff(peaks(signal)) / RATE
        assert low <= rate <= high and 60 / gaps.mean() == pytest.approx(rate, rel=0.06)


def test_rhythms():
    for seed in range(5):
        plain, uneven = (
            np.diff(peaks(of(*f, seed=seed)[0])) for f in ((), ("atrial fibrillation",))
        )
        assert uneven.std() / uneven.mean() > 2 * plain.std() / plain.mean()


@pytest.mark.parametrize(
    "kind, rate",
    [
        ("ventricular", "sinus bradycardia"),
        ("ventricular", "sinus tachycardia"),
        ("atrial", "sinus bradycardia"),
    ],
)
def test_early_beats_are_inside_the_recording(kind, rate):
    for seed in range(20):
        rng = np.random.default_rng(seed)
        usual = 60 / (40 if "brady" in rate else 145)
        early = [t for t, k in heartbeats._beats(rng, usual, 0.02, {f"{kind} ectopy"}) if k == kind]
        assert early and 0 < early[0] < heartbeats.SECONDS - 0.3


def around(signal, lead, seconds):
    """The mean value so long after each R peak."""
    return np.mean(
        [
            signal[p + round(seconds * RATE), LEADS.index(lead)]
            for p in peaks(signal)
            if 30 < p < 450
        ]
    )


@pytest.mark.parametrize(
    "finding, lead, seconds, sign",
    [
        ("inferior infarction", "aVF", 0.14, 1),
        ("anterior infarction", "V3", 0.14, 1),
        ("right bundle branch block", "V1", 0.07, 1),
        ("right bundle branch block", "V6", 0.07, -1),
        ("t wave inversion", "V6", 0.27, -1),
        ("left bundle branch block", "V1", 0.04, -1),
    ],
)
def test_waves_are_where_the_truth_has_them(finding, lead, seconds, sign):
    moved = [
        around(of(finding, seed=s)[0], lead, seconds) - around(of(seed=s)[0], lead, seconds)
        for s in range(5)
    ]
    assert sign * np.mean(moved) > 0.15


def test_low_voltage_and_late_atrial_waves():
    assert np.ptp(of("low voltage")[0]) < 0.6 * np.ptp(of()[0])
    late, usual = (
        np.mean([around(of(*f, seed=s)[0], "II", -0.16) for s in range(8)])
        for f in (("first degree block",), ())
    )
    assert usual > late + 0.05


def test_reports_name_each_finding_in_one_of_its_ways_and_nothing_else():
    for i in range(60):
        made = heartbeats.record(i)
        for name, ways in FINDINGS.items():
            reported = any(f" {w} " in f" {made['report']} " for w in ways)
            assert reported == (name in made["findings"]), (made["report"], name)


def test_findings_are_common_enough_and_go_together():
    every = [heartbeats.drawn(np.random.default_rng([13, i])) for i in range(800)]
    for name in FINDINGS:
        assert 0.07 < np.mean([name in findings for findings in every]) < 0.2
    assert not any({"first degree block", "atrial fibrillation"} <= findings for findings in every)


def test_every_word_is_known_and_knowledge_is_of_findings():
    vocabulary = json.loads(heartbeats.vocabulary())["model"]["vocab"]
    reports = " ".join(heartbeats.record(i)["report"] for i in range(100))
    phrases = " ".join(p for entry in KNOWLEDGE.values() for some in entry.values() for p in some)
    assert set(f"{reports} {phrases} {' '.join(FINDINGS)}".split()) <= vocabulary.keys()
    assert KNOWLEDGE.keys() == FINDINGS.keys()
