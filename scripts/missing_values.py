"""Draw accuracy against the share of values that are missing, beside filling with zeros.

    python scripts/missing_values.py [folder for the runs]

`clip` on the bundled digits (six fields, nothing missing), then the protocol
`missing_modality_robustness`, which hides fields of the test records at random. Compared are, with
the same linear probe on the same records and the same hidden values:

fused       The vector that the encoder makes of the fields that are there: part `random`.
vectors     The encoder's vectors of all fields side by side, zeros for a field that is hidden.
columns     No encoder: the standardised columns of all fields side by side, zeros for what is
            hidden, so the mean of the training records.

Probes are fitted on whole records, and on records that miss as much as those of the test. Fixed
before the first run: data, method, size, seeds, shares, and that all three are shown.
It writes docs/missing-values.png and prints the table below it.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import torch

import amodal
from amodal.evaluate.drawing import COLOURS, drawing
from amodal.evaluate.missing_modalities import FieldVectors, ProbeEvaluator, concatenate_fields
from amodal.evaluate.protocols.linear import fit
from amodal.evaluate.protocols.missing_modality_robustness import (
    hidden,
    missing_modality_robustness,
)

PICTURE = Path(__file__).parent.parent / "docs" / "missing-values.png"
RATES = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
SEEDS = (0, 1, 2)
ARMS = {
    "fused": "amodal: the fields that are there",
    "vectors": "its vectors, zeros for the rest",
    "columns": "plain columns, zeros for the rest",
}
FITTED = ("whole records", "records that miss as much")


def columns(data: amodal.Dataset, keys: list[str]) -> np.ndarray:
    """(N, F) columns of all fields of the records, as they are."""
    table = parquet.read_table(Path(amodal.__file__).parent / "data/bundled/digits/records.parquet")
    frame = table.to_pandas().set_index("key").loc[keys]
    return np.concatenate([np.stack(frame[field]) for field in data.fields], 1).astype(float)


def measured(seed: int, folder: Path) -> dict[tuple[str, str], list[float]]:
    """(arm, what the probe was fitted on) -> accuracy at 0 and at each of `RATES`."""
    run = folder / f"seed{seed}"
    model = amodal.load(run) if (run / "model.safetensors").exists() else None
    model = model or amodal.pretrain("clip", "digits", run, size="nano", seed=seed, logger=[])
    data = amodal.open("digits")
    parts = [model.embed(data, part=part) for part in ("train", "test")]
    options = {"label": "digit", "rates": RATES, "severities": (), "seed": seed}
    rows = missing_modality_robustness(*parts, **options).rows
    train, test = (FieldVectors.of(part, None, seed) for part in parts)
    # the draws of the protocol: it hides the same values from the same records
    shown = {
        rate: [p.present & (p.uniform(s) >= rate) for p, s in ((train, seed), (test, seed + 1))]
        for rate in (0.0, *RATES)
    }
    raw = [columns(data, [p.embedded.keys[i] for i in p.rows.tolist()]) for p in (train, test)]
    mean, deviation = raw[0].mean(0), raw[0].std(0)
    scaled = [torch.from_numpy((x - mean) / np.maximum(deviation, 1e-12)).float() for x in raw]
    widths = torch.tensor([len(f.columns) for f in data.fields.values()])
    inputs = {
        "vectors": [lambda m, p=p: concatenate_fields(p.x, m) for p in (train, test)],
        "columns": [lambda m, x=x: x * m.repeat_interleave(widths, 1) for x in scaled],
    }
    evaluator = ProbeEvaluator(fit, train.label("digit"), test.label("digit"), None, 1, seed)
    found: dict[tuple[str, str], list[float]] = {}
    for rate, (in_training, in_test) in shown.items():
        for fitted, mask in zip(FITTED, (train.present, in_training)):
            source = f"trained with {hidden(0.0 if fitted == FITTED[0] else rate)}"
            found.setdefault(("fused", fitted), []).append(
                next(
                    r["value"]
                    for r in rows
                    if r["part"] == "random"
                    and (r["source"], r["target"]) == (source, hidden(rate))
                )
            )
            for arm, (of_train, of_test) in inputs.items():
                scores = evaluator(of_train(mask), {"test": of_test(in_test)})["test"]
                found.setdefault((arm, fitted), []).append(scores[0]["value"])
    return found


def draw(by_seed: list[dict[tuple[str, str], list[float]]]) -> None:
    """The two panels: mean over seeds, and their range as a band."""
    shares = [100 * rate for rate in (0.0, *RATES)]
    with drawing(PICTURE, 8.4, 3.3) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for axes, fitted in zip(panels, FITTED):
            for (arm, name), colour in zip(ARMS.items(), COLOURS):
                values = np.array([of_seed[arm, fitted] for of_seed in by_seed])
                axes.plot(shares, values.mean(0), "o-", color=colour, label=name, markersize=4)
                axes.fill_between(shares, values.min(0), values.max(0), color=colour, alpha=0.2)
            axes.axhline(0.1, color="#888888", linestyle=":", linewidth=1)
            axes.set(title=f"probe fitted on {fitted}", xlabel="% of test values missing")
            axes.set_ylim(0, 1)
        panels[0].set_ylabel("accuracy, ten digits")
        panels[0].legend(loc="lower left")
        panels[1].text(0, 0.12, "chance", color="#888888")


def main(folder: str = "") -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        by_seed = [measured(seed, Path(folder or temporary)) for seed in SEEDS]
    draw(by_seed)
    print(f"accuracy on digits, mean of seeds {SEEDS}; values missing of the test records")
    print(" " * 62 + "".join(f"{f'{rate:.0%}':>7}" for rate in (0.0, *RATES)))
    for arm, fitted in by_seed[0]:
        mean = np.mean([of_seed[arm, fitted] for of_seed in by_seed], 0)
        cells = "".join(f"{value:7.3f}" for value in mean)
        print(f"{ARMS[arm]:<35}{fitted:<27}{cells}")


if __name__ == "__main__":
    main(*sys.argv[1:])
