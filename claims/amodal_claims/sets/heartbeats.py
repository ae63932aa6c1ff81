"""1,600 generated electrocardiograms of six leads and five seconds, each with a report in varied
words and its true findings.

Every beat is a sum of bell curves (P, Q, R, S, ST, T) in each lead, as in McSharry et al. 2003 but
placed in time directly, so that early beats, pauses and shifts are where they are said to be.
Amplitudes, axis, noise and drift differ from record to record. A report names each finding in one
of four ways, of which the usual name is one; rates are written as numbers at times. No real person, no
real morphology beyond the textbook's: what works here need not work on real recordings. `KNOWLEDGE`
says what else a finding is called, what it does to the waves and where. `words` opens the reports
as words instead of bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from amodal.data.sets.shared.writing import describe, field, records
from amodal.modalities.text import Text

if TYPE_CHECKING:
    from amodal.data.dataset import Dataset

PACKAGES = ()
LICENCE = "CC0-1.0"
RECORDS, RATE, SECONDS = 1600, 100, 5.0
LEADS = ("I", "II", "aVF", "V1", "V3", "V6")
SHAPES = {  # where after the R peak in s, half width in s, height in mV in each lead
    "P": (-0.16, 0.022, (0.08, 0.15, 0.12, 0.05, 0.07, 0.10)),
    "Q": (-0.032, 0.010, (-0.05, -0.08, -0.08, 0.00, -0.02, -0.10)),
    "R": (0.000, 0.013, (0.60, 1.00, 0.70, 0.20, 0.80, 1.10)),
    "S": (0.030, 0.013, (-0.10, -0.15, -0.10, -0.80, -0.60, -0.10)),
    "T": (0.280, 0.050, (0.15, 0.30, 0.20, 0.05, 0.35, 0.25)),
}
FINDINGS = {  # name -> what a report may call it
    "sinus bradycardia": (
        "sinus bradycardia", "slow heart rate", "slow regular rhythm", "rate below 60",
    ),
    "sinus tachycardia": (
        "sinus tachycardia", "fast heart rate", "rapid regular rhythm",
        "rate above 100",
    ),
    "atrial fibrillation": (
        "atrial fibrillation", "irregular rhythm", "no p waves and uneven intervals",
        "fibrillatory baseline",
    ),
    "first degree block": (
        "first degree block", "prolonged pr interval", "long pr", "slow av conduction",
    ),
    "ventricular ectopy": (
        "ventricular ectopy", "ventricular premature complexes",
        "wide early beats with a pause", "pvcs",
    ),
    "atrial ectopy": (
        "atrial ectopy", "supraventricular premature complexes", "early narrow beats",
        "pacs",
    ),
    "left bundle branch block": (
        "left bundle branch block", "lbbb", "broad notched r in lateral leads",
        "wide qrs with deep s in v1",
    ),
    "right bundle branch block": (
        "right bundle branch block", "rbbb", "second r in v1",
        "wide qrs with slurred s in lateral leads",
    ),
    "inferior infarction": (
        "inferior infarction", "st elevation in ii and avf", "inferior injury current",
        "raised st in inferior leads",
    ),
    "anterior infarction": (
        "anterior infarction", "st elevation in v1 and v3", "anterior injury current",
        "raised st in anterior leads",
    ),
    "t wave inversion": (
        "t wave inversion", "negative t waves", "inverted t in lateral leads",
        "repolarisation abnormality",
    ),
    "low voltage": (
        "low voltage", "small qrs complexes", "reduced qrs amplitude",
        "low amplitude in all leads",
    ),
}  # fmt: skip
# Other names, signs and leads, as a reference work lists them. No report uses some of these words.
KNOWLEDGE: dict[str, dict[str, tuple[str, ...]]] = {
    "sinus bradycardia": {
        "names": ("slow regular rhythm", "bradycardic sinus rhythm"),
        "signs": ("rate below 60", "slow heart rate"),
    },
    "sinus tachycardia": {
        "names": ("rapid regular rhythm", "tachycardic sinus rhythm"),
        "signs": ("rate above 100", "fast heart rate"),
    },
    "atrial fibrillation": {
        "names": ("irregular rhythm",),
        "signs": ("no p waves and uneven intervals", "fibrillatory baseline"),
    },
    "first degree block": {
        "names": ("av conduction delay",),
        "signs": ("prolonged pr interval", "long pr", "slow av conduction"),
    },
    "ventricular ectopy": {
        "names": ("ventricular premature complexes", "pvcs"),
        "signs": ("wide early beats with a pause",),
    },
    "atrial ectopy": {
        "names": ("supraventricular premature complexes", "pacs"),
        "signs": ("early narrow beats",),
    },
    "left bundle branch block": {
        "names": ("lbbb",),
        "signs": ("deep s in v1", "broad notched r"),
        "leads": ("lateral leads",),
    },
    "right bundle branch block": {
        "names": ("rbbb",),
        "signs": ("second r in v1", "wide qrs with slurred s"),
        "leads": ("lateral leads",),
    },
    "inferior infarction": {
        "names": ("inferior injury current",),
        "signs": ("raised st in inferior leads",),
        "leads": ("ii", "avf"),
    },
    "anterior infarction": {
        "names": ("anterior injury current",),
        "signs": ("raised st in anterior leads",),
        "leads": ("v1", "v3"),
    },
    "t wave inversion": {
        "names": ("negative t waves", "repolarisation abnormality"),
        "signs": ("inverted t in lateral leads",),
    },
    "low voltage": {
        "names": ("small qrs complexes",),
        "signs": ("reduced qrs amplitude", "low amplitude in all leads"),
    },
}  # fmt: skip
NORMAL = ("normal tracing", "no abnormality", "normal sinus rhythm", "within normal limits")
SENTENCES = ("{}", "there is {}", "{} is seen", "findings of {}")


def write(out: Path, archives: list[Path]) -> None:
    rows = [record(i) for i in range(RECORDS)]
    signals = pa.array([r["ecg"].tolist() for r in rows], pa.list_(pa.list_(pa.float32())))
    columns = {
        "key": [r["key"] for r in rows],
        "ecg": signals,
        "report": [r["report"] for r in rows],
    }
    labels = {
        label(name): ["yes" if name in r["findings"] else "no" for r in rows] for name in FINDINGS
    }
    records(out, columns | labels)
    (out / "words.json").write_text(vocabulary())
    series = dict(
        channels=list(LEADS), rate=float(RATE), units=["mV"] * len(LEADS), patch=20, max_steps=500
    )
    fields = {"ecg": field("series", **series), "report": field("text", max_length=200, patch=4)}
    describe(
        out,
        fields,
        dict.fromkeys(labels, "category"),
        title="Generated electrocardiograms with reports",
        licence=LICENCE,
    )


def label(finding: str) -> str:
    """The label of a finding, which is "yes" or "no"."""
    return finding.replace(" ", "_")


def record(i: int) -> dict[str, Any]:
    """Record i: key, signal (steps, leads) in mV, report, and the set of its findings."""
    rng = np.random.default_rng([13, i])
    findings = drawn(rng)
    signal, rate = trace(rng, findings)
    return {
        "key": f"ecg-{i:04d}",
        "ecg": signal,
        "report": report_text(rng, findings, rate),
        "findings": findings,
    }


def drawn(rng: np.random.Generator) -> set[str]:
    """Draw findings that are possible together: at most one rhythm, one block of a bundle, one
    infarction and one kind of early beats."""
    rhythm = rng.choice(
        ["sinus bradycardia", "sinus tachycardia", "atrial fibrillation", ""],
        p=[0.14, 0.14, 0.14, 0.58],
    )
    bundle = rng.choice(
        ["left bundle branch block", "right bundle branch block", ""], p=[0.12, 0.12, 0.76]
    )
    wall = rng.choice(["inferior infarction", "anterior infarction", ""], p=[0.12, 0.12, 0.76])
    early = rng.choice(["ventricular ectopy", "atrial ectopy", ""], p=[0.13, 0.13, 0.74])
    findings = {str(f) for f in (rhythm, bundle, wall, early) if f}
    chances = {"first degree block": 0.14, "t wave inversion": 0.13, "low voltage": 0.13}
    findings |= {name for name, chance in chances.items() if rng.random() < chance}
    if "atrial fibrillation" in findings:  # no atrial wave to be early or late
        findings -= {"first degree block", "atrial ectopy"}
    return findings


def trace(rng: np.random.Generator, findings: set[str]) -> tuple[np.ndarray, float]:
    """The signal of a record.

    Args:
        rng: of the person and the noise.
        findings: of the record.

    Returns:
        (steps, leads) float32 in mV, rounded to 2 uV, and the rate in beats a minute.
    """
    low, high = (
        (40, 56)
        if "sinus bradycardia" in findings
        else (105, 145)
        if "sinus tachycardia" in findings
        else (63, 95)
    )
    rate = rng.uniform(low, high)
    usual, spread = 60 / rate, 0.22 if "atrial fibrillation" in findings else 0.02
    scale = rng.normal(1, 0.12, len(LEADS)) * rng.uniform(0.85, 1.15)
    late = rng.uniform(0.08, 0.16) if "first degree block" in findings else rng.normal(0, 0.008)
    time = np.arange(round(RATE * SECONDS)) / RATE
    signal = np.zeros((len(time), len(LEADS)))
    beats = np.array(list(_beats(rng, usual, spread, findings)))
    for peak, kind in zip(beats[:, 0].astype(float), beats[:, 1]):
        signal += _beat(time - peak, str(kind), usual, late, findings)
    if "low voltage" in findings:
        signal *= 0.4
    if "atrial fibrillation" in findings:
        for _ in range(3):
            signal += (
                0.03
                * np.sin(2 * np.pi * (rng.uniform(4.5, 7.5) * time + rng.random()))[:, None]
                * rng.uniform(0.5, 1.5, len(LEADS))
            )
    drift = (
        0.06
        * np.sin(2 * np.pi * (rng.uniform(0.1, 0.35) * time + rng.random()))[:, None]
        * rng.normal(1, 0.4, len(LEADS))
    )
    signal = signal * scale + drift + 0.025 * rng.standard_normal(signal.shape)
    return (np.round(signal * 500) / 500).astype(np.float32), rate


def _beats(
    rng: np.random.Generator, usual: float, spread: float, findings: set[str]
) -> Iterator[tuple[float, str]]:
    """(time of the R peak, kind) of each beat. If the record has early beats, each fourth beat is
    followed by one and a pause."""
    early = next((kind for kind in ("ventricular", "atrial") if f"{kind} ectopy" in findings), None)
    peak, count = -rng.uniform(0, usual), 0
    while peak < SECONDS + 1:
        yield peak, "usual"
        gap = usual * max(rng.normal(1, spread), 0.45)
        if (
            early and count % 4 == 1
        ):  # the first within three beats, so inside the recording at any rate
            yield peak + gap * (0.62 if early == "ventricular" else 0.7), early
            gap *= 2.0 if early == "ventricular" else 1.75
        peak, count = peak + gap, count + 1


def _beat(t: np.ndarray, kind: str, usual: float, late: float, findings: set[str]) -> np.ndarray:
    def bell(centre: float, width: float, heights: Sequence[float] | np.ndarray) -> np.ndarray:
        curve: np.ndarray = np.exp(-0.5 * ((t - centre) / width) ** 2)[:, None] * np.array(heights)
        return curve

    if kind == "ventricular":  # wide, with the T wave against it, and no P wave before it
        qrs = bell(0.0, 0.045, (0.9, 1.4, 1.1, -1.0, -1.2, -0.8))
        return np.asarray(qrs + bell(0.24, 0.06, (-0.3, -0.5, -0.4, 0.35, 0.45, 0.3)))
    left, right = "left bundle branch block" in findings, "right bundle branch block" in findings
    shapes = dict(SHAPES)
    if left:
        del shapes["Q"]
        shapes["R"] = (-0.005, 0.022, (0.55, 0.6, 0.4, 0.05, 0.15, 0.9))
        shapes["S"] = (0.030, 0.030, (0.0, -0.1, -0.1, -1.2, -1.1, 0.0))
    total = np.zeros((len(t), len(LEADS)))
    for wave, (centre, width, of_leads) in shapes.items():
        heights = np.array(of_leads)
        if wave == "P":
            if "atrial fibrillation" in findings:
                continue
            centre, heights = centre - late, heights * (-0.7 if kind == "atrial" else 1.0)
        if wave == "T":
            centre *= min(np.sqrt(usual / 0.8), 1.15)
            if "t wave inversion" in findings:
                heights = heights * np.array([-1, 0.3, 0.3, 1, -1, -1])
            if left:
                heights = heights * np.array([-1, 1, 1, 2, 1, -1])
        total += bell(centre, width, heights)
    if left:
        total += bell(0.055, 0.022, (0.5, 0.2, 0.1, -0.3, -0.1, 0.8))
    if right:
        total += bell(0.070, 0.020, (-0.30, -0.2, -0.1, 0.75, 0.25, -0.40))
    for wall, elevation in (
        ("inferior", (-0.1, 0.28, 0.30, 0.0, 0.0, 0.0)),
        ("anterior", (0.0, -0.06, -0.08, 0.25, 0.32, 0.05)),
    ):
        if f"{wall} infarction" in findings:
            total += bell(0.14, 0.055, elevation)
    return total


def report_text(rng: np.random.Generator, findings: set[str], rate: float) -> str:
    """The report: a sentence for each finding, in random order, with one of its four names.

    Args:
        rng: of the words.
        findings: of the record.
        rate: in beats a minute; some reports begin with it.
    """
    ways = [FINDINGS[name][rng.integers(4)] for name in sorted(findings)] or [
        NORMAL[rng.integers(4)]
    ]
    lines = [
        SENTENCES[rng.integers(len(SENTENCES))].format(ways[i]) for i in rng.permutation(len(ways))
    ]
    return " . ".join(([f"rate {round(rate / 5) * 5}"] if rng.random() < 0.3 else []) + lines)


def vocabulary() -> str:
    """A tokenizer.json whose ids are the words of reports and of KNOWLEDGE."""
    known = [p for entry in KNOWLEDGE.values() for phrases in entry.values() for p in phrases]
    phrases = [w for ways in FINDINGS.values() for w in ways] + [
        *NORMAL,
        *SENTENCES,
        *known,
        "rate . ,",
    ]
    words = dict.fromkeys(" ".join(phrases).replace("{}", "").split()) | dict.fromkeys(
        map(str, range(35, 155, 5))
    )
    numbers = {word: i for i, word in enumerate(["[UNK]", *words])}
    steps = [{"type": "Whitespace"}]
    content: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "unk_token": "[UNK]", "vocab": numbers},
    }
    return json.dumps(content, indent=1)


def words(dataset: Dataset) -> Dataset:
    """The same records with words as the tokens of reports, 48 at most."""
    report = dataset.fields["report"]
    assert isinstance(report, Text)  # as `write` has it
    text = replace(
        report,
        max_length=48,
        patch=1,
        vocabulary=str(Path(str(dataset.path)) / "words.json"),
    )
    return dataset.with_fields({"ecg": dataset.fields["ecg"], "report": text})


def truth(dataset: Dataset) -> np.ndarray:
    """(N, findings) bool, in the order of FINDINGS."""
    return np.stack([dataset.label(label(name)) == "yes" for name in FINDINGS], 1)
