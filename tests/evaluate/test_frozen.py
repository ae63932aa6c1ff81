"""The column of frozen backbones: their own features, before any training."""

from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

import amodal
from amodal.core.embeddings import FUSED
from amodal.data import Label
from amodal.evaluate import Report, evaluate
from amodal.evaluate.context import Run
from amodal.evaluate.frozen import pooled_features, pretrained_fields
from amodal.nn.backbones.pretrained import backbone
from amodal.nn.transformer import size_of

VIT = "test_vit"


class Turned(nn.Module):
    """A map that turns values, as another backbone would see them."""

    def __init__(self, seed):
        super().__init__()
        self.map = nn.Linear(8, 24)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.map.weight.copy_(torch.randn(24, 8, generator=generator))
            self.map.bias.zero_()

    def forward(self, x, lengths):
        return self.map(x)


def encoder_of(records, seed=0, frozen=True, **nets):
    torch.manual_seed(seed)
    made = {
        field: backbone(net, records.fields[field], size_of("nano").width, frozen=frozen)
        for field, net in nets.items()
    }
    return amodal.Encoder(records.fields, size="nano", backbones=made).align(16)


@pytest.fixture(scope="module")
def records():
    """Two views of one hidden vector, whose sign is the label."""
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(400, 8))
    other = hidden @ rng.normal(size=(8, 8)) + 0.1 * rng.normal(size=(400, 8))
    # a step of a series is the hidden vector; steps differ by noise that a mean takes away
    views = [
        [(v + rng.normal(0, 1.0, (12, 8))).astype(np.float32) for v in view]
        for view in (hidden, other)
    ]
    label = np.where(hidden[:, 0] > 0, "up", "down").tolist()
    data = amodal.open(
        {"left": views[0], "right": views[1], "sign": label},
        fields={"left": "series", "right": "series"},
    )
    data.labels.update({"sign": Label()})
    return data


def spoilt(encoder):
    """The same encoder after a training that forgot everything."""
    for tokenizer in encoder.tokenizers.values():
        nn.init.zeros_(tokenizer.project.weight)
    return encoder


def test_frozen_features_have_a_column_and_spoilt_ones_are_named(records, tmp_path):
    nets = {"left": Turned(0), "right": Turned(1)}
    encoder = spoilt(encoder_of(records, **nets))
    report = evaluate(
        encoder,
        records,
        baseline=encoder_of(records, 1, **nets),
        label="sign",
        protocols=["linear", "retrieval"],
        progress=False,
    )
    rows = {(r["source"], r.get("target"), r["metric"]): r for r in report.rows()}
    left = rows["left", None, "balanced accuracy"]
    assert left["frozen"] > 0.85 > 0.6 > left["value"] and "untrained" in left
    assert "frozen" in rows[FUSED, None, "accuracy"], "every field has a backbone"
    found = rows["left", "right", "recall@10"]
    assert found["frozen"] > 0.7 > 0.4 > found["value"], "closed-form maps of two frozen encoders"
    assert left["intervals"]["trained - frozen"][1] < 0
    sentence = report.about["summary"]
    assert "training made worse " in sentence and "its pretrained model" in sentence
    headings = [c.header for c in report.table().columns]
    assert headings[-4:] == ["joined", "simple", "frozen", "chance"], "untrained it is not"
    read = Report.load(report.save(tmp_path / "r.json", figures=False))
    assert read.rows() == report.rows() and read.frozen is not None


def test_a_field_without_a_backbone_keeps_the_untrained_column(records):
    nets = {"left": Turned(0)}
    report = evaluate(
        encoder_of(records, **nets),
        records,
        baseline=encoder_of(records, 1, **nets),
        label="sign",
        protocols=["knn", "retrieval"],
        progress=False,
    )
    having = {(r["source"], r.get("target")) for r in report.rows() if "frozen" in r}
    assert having == {("left", None)}, "no retrieval with one frozen encoder"
    headings = [c.header for c in report.table().columns]
    assert headings[-6:] == ["trained", "joined", "simple", "frozen", "untrained", "chance"]
    plain = evaluate(encoder_of(records), records, protocols=["knn"], progress=False)
    assert plain.frozen is None


def test_features_are_the_means_of_the_backbone_s_own_tokens(records):
    net = Turned(0)
    encoder = encoder_of(records, left=net)
    rows = np.array([5, 3, 9])
    pooled = pooled_features(encoder, ["left"], records, rows, batch=2)["left"]
    assert pooled.rows.tolist() == [0, 1, 2] and pooled.values.shape == (3, 24)
    for vector, row in zip(pooled.values, rows):
        value = records.fields["left"].collate([records.value(int(row), "left")])
        column = amodal.core.Column(value, torch.arange(1))
        features = encoder.tokenizers["left"].features(column)[0]
        torch.testing.assert_close(vector, features.mean(0).detach())


def test_what_was_trained_is_not_called_frozen(records, tmp_path):
    encoder = encoder_of(records, frozen=False, left=Turned(0))
    assert pretrained_fields(encoder, encoder, None)[1] == []
    assert pretrained_fields(encoder, encoder, encoder)[1] == [], "unknown before training"
    image = amodal.modalities.make("image", size=16, patch=4)
    weights = tmp_path / "vit.safetensors"
    safetensors.torch.save_file(timm.create_model(VIT, img_size=32).state_dict(), weights)
    for spec, known in ((f"timm:{VIT}:32@{weights}", True), (f"timm:{VIT}:32", False)):
        tower = backbone(spec, image, size_of("nano").width, frozen=False)
        torch.manual_seed(0)
        of = amodal.Encoder({"image": image}, size="nano", backbones={"image": tower})
        assert pretrained_fields(of, of, None)[1] == []
        assert pretrained_fields(of, of, of)[1] == (["image"] if known else [])


@pytest.mark.parametrize("spec", [f"timm:{VIT}:32@scratch", "convnet"])
def test_what_began_random_is_not_called_frozen_where_pretrained_ones_stay(spec):
    image = amodal.modalities.make("image", size=32, patch=8)
    net = backbone(spec, image, size_of("nano").width)
    encoder = amodal.Encoder({"image": image}, size="nano", backbones={"image": net})
    config = {"schedule": {"train_backbones": False}}
    model = SimpleNamespace(config=config, encoder=encoder, trained=None, head=None)
    assert isinstance(model, Run)
    assert pretrained_fields(model, encoder, None)[1] == []
    assert pretrained_fields(model, encoder, encoder)[1] == []
