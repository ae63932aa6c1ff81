"""ONNX graphs give what the encoder gives."""

import json

import numpy as np
import onnxruntime
import pytest
import torch

from amodal import methods, modalities
from amodal.core import AmodalError, Batch, Column
from amodal.export import export, graphs
from amodal.export.dense_encoder import DenseEncoder
from amodal.modalities.shared.dense import dense
from amodal.modalities.shared.protocols import InSpace
from amodal.nn.adapters.skills import Skills
from tests.export.models import FIELDS, encoder, model

SHAPES = {
    "plain": dict(),
    "cls": dict(trunk="shared", pool="cls", positions="learned"),
    "attention": dict(trunk="joint", pool="attention", positions="rotary"),
    "alibi": dict(pool="cls", positions="alibi"),
    "none": dict(trunk="shared", positions="none"),
}


def compared(made, field: str, n: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    alone = DenseEncoder(made, field).eval()
    column = Column(
        FIELDS[field].collate(alone.field.examples(n, length, np.random.default_rng(n))),
        torch.arange(n),
    )
    with torch.no_grad():
        return alone(*dense(column.values)).numpy(), made(Batch.of(n, {field: column}))[
            field
        ].values.numpy()


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_dense_form_agrees_with_the_flat_one(field, shape):
    tables = SHAPES[shape].get("positions") == "learned"  # which fields in space do not take
    names = [n for n, m in FIELDS.items() if not (tables and isinstance(m, InSpace))]
    if field not in names:
        return
    made = encoder(*names, **SHAPES[shape]).align(24, hidden=16 if shape == "cls" else 0).eval()
    for n, length in ((1, 1), (4, 31)):
        np.testing.assert_allclose(*compared(made, field, n, length), atol=1e-5)


@pytest.mark.parametrize("mask_rule", ["full", "pure", "bottleneck"])
def test_fusion_tokens_take_part_as_the_rule_says(mask_rule):
    made = encoder("photo", "facts", "watch", trunk="joint", pool="cls").fuse(3, mask_rule).eval()
    for field in made.fields:
        np.testing.assert_allclose(*compared(made, field, 3, 11), atol=1e-5)


def test_a_bias_of_attention_is_of_places_alone():
    made = encoder("photo", "field", "watch", trunk="joint", pool="cls", positions="alibi")
    made.fuse(3, "bottleneck").eval()
    for field in made.fields:
        np.testing.assert_allclose(*compared(made, field, 3, 11), atol=1e-5)


def test_a_perceptron_of_the_mean_is_part_of_the_graph():
    made = methods.build("croma", encoder("photo", "field", positions="alibi")).encoder.eval()
    for field in made.fields:
        np.testing.assert_allclose(*compared(made, field, 3, 11), atol=1e-5)


@pytest.mark.parametrize("where", ["attention", "mlp"])
def test_each_field_takes_its_own_skills_along(where):
    made = encoder("photo", "facts", trunk="shared")
    made.set_block_hook(Skills({"photo": ("seeing", "both"), "facts": ("both",)}, where))
    with torch.no_grad():
        for p in made.trunks.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    for field in made.eval().fields:
        np.testing.assert_allclose(*compared(made, field, 3, 11), atol=1e-5)


def test_waveform_patches_agree(monkeypatch):
    monkeypatch.setitem(FIELDS, "speech", modalities.make("audio", rate=2000, features="waveform"))
    np.testing.assert_allclose(*compared(encoder("speech").eval(), "speech", 3, 9), atol=1e-5)


def test_groups_of_bands_months_and_metres_are_in_the_graph(monkeypatch, tmp_path):
    bands, groups = ("red", "nir", "swir"), {"near": ["nir", "red"]}
    raster = modalities.make(
        "raster", bands=bands, groups=groups, size=16, patch=4, resolution=30.0
    )
    monkeypatch.setitem(FIELDS, "field", raster)
    made = encoder("field", "watch", positions="ground", trunk="joint").eval()
    for field in made.fields:
        np.testing.assert_allclose(*compared(made, field, 3, 11), atol=1e-5)
    made.trunks["all"].blocks = made.trunks["all"].blocks[:1]
    export(model(made.align(24)), "onnx", tmp_path)
    about = json.loads((tmp_path / "fields.json").read_text(encoding="utf-8"))["fields"]
    assert about["field"]["largest_error"] < graphs.TOLERANCE


@pytest.mark.parametrize("fields", [("photo", "caption", "facts"), ("watch", "speech")])
def test_each_field_becomes_a_graph_that_agrees_for_any_batch_and_length(tmp_path, fields):
    made = encoder(*fields, trunk="shared").align(24)
    made.trunks["all"].blocks = made.trunks["all"].blocks[
        :1
    ]  # tracing takes longer than anything else here
    before = {k: v.clone() for k, v in made.state_dict().items()}
    written = export(model(made), "onnx", tmp_path)
    assert {p.name for p in written} == {*(f"{f}.onnx" for f in fields), "fields.json"}
    assert all(torch.equal(v, before[k]) for k, v in made.state_dict().items()), (
        "exporting changes nothing"
    )
    about = json.loads((tmp_path / "fields.json").read_text(encoding="utf-8"))["fields"]
    for field in fields:
        assert about[field]["largest_error"] < graphs.TOLERANCE
        assert b"/amodal/" not in (tmp_path / f"{field}.onnx").read_bytes(), (
            "no paths of the machine it was made on"
        )
        session = onnxruntime.InferenceSession(tmp_path / f"{field}.onnx")
        assert [i.name for i in session.get_inputs()] == list(about[field]["inputs"])
        assert all(i.shape[0] == "batch" for i in session.get_inputs())
    if "watch" in fields:
        what_is_past_the_end_does_not_matter(onnxruntime.InferenceSession(tmp_path / "watch.onnx"))


def what_is_past_the_end_does_not_matter(session):
    assert session.get_inputs()[0].shape == ["batch", "steps", 2]
    values = np.random.default_rng(0).normal(size=(2, 20, 2)).astype(np.float32)
    padded, lengths = values.copy(), np.array([20, 7])
    padded[1, 7:] = 99
    a, b = (session.run(None, {"values": v, "lengths": lengths})[0] for v in (values, padded))
    np.testing.assert_array_equal(a, b)


def test_a_graph_that_disagrees_is_not_handed_out(tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "trace", lambda alone, file, inputs: file.write_bytes(b""))
    monkeypatch.setattr(graphs, "disagreement", lambda *_: 0.2)
    with pytest.raises(AmodalError, match="differs from the encoder by 0.2"):
        export(model(encoder("facts")), "onnx", tmp_path)
    assert not list(tmp_path.glob("*.onnx"))


def test_a_pretrained_backbone_is_refused_and_what_can_be_exported_is_named(tmp_path):
    made = model(encoder("photo", "facts"))
    made.encoder.tokenizers["photo"].contextual = True
    with pytest.raises(
        AmodalError, match="'photo' cannot become an ONNX graph: .*backbone.*that can: facts"
    ):
        export(made, "onnx", tmp_path)


def test_missing_packages_are_named_with_the_command_that_gets_them(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(AmodalError, match=r"pip install 'amodal\[onnx\]'"):
        export(model(encoder("facts")), "onnx", tmp_path)


def test_every_parameter_of_a_field_is_in_its_graph():
    made = encoder("photo", trunk="separate", pool="attention").align(8)
    inside = {id(p) for p in DenseEncoder(made, "photo").parameters()}
    assert inside == {id(p) for p in made.parameters()}


@pytest.mark.parametrize(
    "field, spec, trunk",
    [
        ("photo", "convnet:width=8,stages=2", "separate"),
        ("photo", "convnet:width=8,stages=2", "joint"),
        ("facts", "mlp:width=8", "joint"),
        ("watch", "resnet1d:width=4,stem=2,kernel=3", "joint"),
        ("watch", "resnet1d:width=4,stages=2,norm=layer", "separate"),
    ],
)
def test_a_trained_network_from_scratch_is_a_graph_with_its_statistics(
    field, spec, trunk, tmp_path
):
    from amodal.nn import config
    from amodal.nn.encoder import Encoder

    fields = {field: FIELDS[field]}
    nets = config.backbones({field: spec}, fields, "nano")
    made = Encoder(fields, size="nano", trunk=trunk, backbones=nets)
    rng = np.random.default_rng(0)
    values = DenseEncoder(made, field).field.examples(6, 40, rng)
    column = Column(fields[field].collate(values), torch.arange(6))
    made.train()(Batch.of(6, {field: column}))  # statistics that are not those of the start
    made.eval()
    for n, length in ((1, 1), (4, 31)):
        np.testing.assert_allclose(*compared(made, field, n, length), atol=1e-5)
    export(model(made), "onnx", tmp_path)
    about = json.loads((tmp_path / "fields.json").read_text(encoding="utf-8"))
    assert about["fields"][field]["largest_error"] < 1e-4


def test_a_backbone_that_resizes_says_what_to_do(tmp_path):
    from amodal.nn import config
    from amodal.nn.encoder import Encoder

    fields = {"photo": FIELDS["photo"]}
    nets = config.backbones({"photo": "timm:resnet18:48@scratch"}, fields, "nano")
    with pytest.raises(AmodalError, match="resizes images from .* to 48 pixels"):
        export(model(Encoder(fields, size="nano", backbones=nets)), "onnx", tmp_path)
