"""The protocol `prompts` on records whose truth is known."""

import numpy as np
import pytest
import torch
from rich.console import Console

import amodal
from amodal.core import Column, Embeddings
from amodal.evaluate import Embedded, NotApplicable, evaluate
from amodal.evaluate.protocols.prompts import prompts
from tests.evaluate.made import CLASSES, made


def words(records, seed):
    """The same records with a caption that says the class and nothing else of the picture."""
    rng = np.random.default_rng(seed)
    centres = np.stack(
        [records.aligned["image"].values[records.labels["kind"] == c].mean(0) for c in CLASSES]
    )
    own = centres[[list(CLASSES).index(v) for v in records.labels["kind"]]] + rng.normal(
        0, 1.5, (len(records), 16)
    )
    text = Column(torch.tensor(own, dtype=torch.float32), torch.arange(len(records)))
    z = Embeddings(dict(records.aligned.columns) | {"text": text}, len(records))
    return Embedded(records.keys, z, z, records.labels), torch.tensor(centres, dtype=torch.float32)


def test_captions_end_near_the_probe_and_class_names_of_another_kind_do_not():
    (train, centres), (test, _) = (words(made(200, seed=s), s) for s in (0, 1))
    g = torch.Generator().manual_seed(0)
    odd = torch.randn(3, 16, generator=g) * 0.5

    def say(sentences):  # "a bird." is what captions are like, "bird" is not
        return torch.stack(
            [
                (centres if "." in s else odd)[list(CLASSES).index(s.strip("a .") or s)]
                for s in sentences
            ]
        )

    found = prompts(train, test, label="kind", embed_text=say)
    with_captions = prompts(train, test, label="kind", embed_text=say, templates=["a {}."])
    at = {"target": "class names"}
    assert (
        with_captions.value("image", "accuracy", **at)
        > 0.8
        > 0.6
        > found.value("image", "accuracy", **at)
    )
    assert (
        abs(
            found.value("image", "accuracy", target="captions, limit")
            - found.value("image", "accuracy", target="probe")
        )
        < 0.15
    )
    assert found.value("image", "accuracy, 32 captions") >= found.value(
        "image", "accuracy, 1 captions"
    )
    assert found.value("image", "bias of class names") > with_captions.value(
        "image", "bias of class names"
    )
    assert abs(found.value("image", "bias of captions")) < 0.05
    assert (
        0.05
        < found.value("image", "dependence")
        == found.value("image", "risk, captions") - found.value("image", "risk, both")
    )
    assert {row["source"] for row in found.rows} == {"image", "sound"} and "a bird." in str(
        with_captions.spec["prompts"]
    )


def test_what_cannot_be_asked_is_refused():
    train, _ = words(made(60), 0)
    with pytest.raises(NotApplicable, match="number"):
        prompts(train, train, label="size", embed_text=lambda s: None)
    with pytest.raises(NotApplicable, match="four training records"):
        prompts(words(made(6), 0)[0], train, label="kind", embed_text=lambda s: None)


def test_it_is_measured_when_it_is_named(folder):
    records = amodal.open(folder)
    torch.manual_seed(0)
    encoder = amodal.Encoder(records.fields, size="nano").align(16)
    report = evaluate(
        encoder, records, label="folder", protocols=["prompts"], draws=3, progress=False
    )
    rows = report["prompts"].rows
    assert {"class names", "captions, limit", "probe"} <= {
        row["target"] for row in rows if "target" in row
    }
    assert all(np.isfinite(row["value"]) for row in rows)
    console = Console(width=200, record=True, file=open("/dev/null", "w", encoding="utf-8"))
    console.print(report.table())
    assert "captions, limit" in console.export_text()
