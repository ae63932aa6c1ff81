"""dataset.toml, checkpoints, indexes and manifests as somebody else may have written them: an error
for a person or a result, never another traceback, never a file outside the folder, never memory
without end."""

import copy
import hashlib
import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import tomlkit
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import amodal
from amodal import data
from amodal.core import AmodalError
from amodal.nn.bounded import Bounded
from amodal.search import Index
from amodal.train import checkpoint
from amodal.train.run_dir import prepare, read_trained
from benchmarks.faults import containers
from benchmarks.faults.media import _forget_peak, _peak
from benchmarks.faults.runs import small_run
from tests.data import builders

HOSTILE = [
    None, True, -1, 0, 1, 3.5, 10**6, 10**9, 2**31, 2**63, 10**30, -(2**63), 1e308, "", "x", "nano", "../../../etc/passwd",
    "/etc/passwd", "a/b", "a\0b", ":", "é" * 50, [], {}, [[]], [None], [1, "a"], {"a": None}, {"modality": "image"},
    ["x"] * 1000, "9" * 5000,
]  # fmt: skip
MEMORY = 2**30
# AMODAL_EXAMPLES=2000 looks longer.
FEW = settings(
    max_examples=int(os.environ.get("AMODAL_EXAMPLES", "40")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def places(tree, path=()):
    """Every place in a tree of dicts and lists."""
    yield path
    items = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    for key, value in items:
        yield from places(value, (*path, key))


@st.composite
def mutated(draw, tree):
    """A tree with one to three places changed, removed or renamed."""
    changed = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(places(changed))[1:] or [()]))
        if not path:
            return draw(st.sampled_from(HOSTILE))
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        how = draw(st.sampled_from(["change", "change", "change", "remove", "rename"]))
        if how == "change" or isinstance(inner, list):
            inner[path[-1]] = copy.deepcopy(draw(st.sampled_from(HOSTILE)))
        elif how == "remove":
            del inner[path[-1]]
        else:
            inner[draw(st.sampled_from(["x", "", "a/b", "modality", "size", "é", "a.b", "to"]))] = (
                inner.pop(path[-1])
            )
    return changed


def survives(work) -> None:
    """`work` gives a result or an AmodalError, and takes no more memory than there is reason for."""
    _forget_peak()
    before = _peak()
    try:
        work()
    except AmodalError as error:
        assert str(error)
    assert _peak() - before < MEMORY


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return small_run(tmp_path_factory.mktemp("untrusted"), steps=4, checkpoint_every=2)


@FEW
@given(data=st.data())
def test_config_of_a_run(run, data):
    whole = (run / "config.json").read_text(encoding="utf-8")
    try:
        (run / "config.json").write_text(
            json.dumps(data.draw(mutated(json.loads(whole)))), encoding="utf-8"
        )
        survives(lambda: amodal.load(run, device="cpu"))
    finally:
        (run / "config.json").write_text(whole, encoding="utf-8")


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A run that tells labels by a head, and one that is kept whole for it."""
    root, rng = tmp_path_factory.mktemp("told"), np.random.default_rng(0)
    columns = {
        "text": [f"{i % 2} and {i}" for i in range(80)],
        "signal": [rng.normal(size=(9, 2)) for _ in range(80)],
    }
    columns |= {"kind": [f"kind {i % 2}" for i in range(80)]}
    dataset = amodal.open(columns, fields={"text": "text", "signal": "series"})
    amodal.pretrain("clip", dataset, root / "run", size="nano", steps=2, progress=False)
    for how in ("head", "lora"):
        amodal.load(root / "run", device="cpu").adapt(
            dataset, root / how, label="kind", tuning=how, steps=2
        )
    return [root / "head", root / "lora"]


@FEW
@given(data=st.data())
def test_config_of_an_adapted_run(adapted, data):
    run = data.draw(st.sampled_from(adapted))
    whole = (run / "spec.json").read_text(encoding="utf-8")
    config = json.loads(whole)
    name = data.draw(st.sampled_from(["targets", "options", "method", "code", "encoder"]))
    try:
        (run / "spec.json").write_text(
            json.dumps(
                config
                | (
                    changed
                    if isinstance(changed := data.draw(mutated({name: config[name]})), dict)
                    else {name: changed}
                )
            ),
            encoding="utf-8",
        )
        survives(lambda: amodal.load(run, device="cpu"))
    finally:
        (run / "spec.json").write_text(whole, encoding="utf-8")


@FEW
@given(data=st.data())
def test_what_a_run_was_trained_on(run, data, tmp_path_factory):
    copied = tmp_path_factory.mktemp("trained")
    content = bytearray((run / "trained.npy").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, min(140, len(content) - 1)))] = data.draw(
            st.integers(0, 255)
        )
    (copied / "trained.npy").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    survives(lambda: read_trained(copied))


@FEW
@given(data=st.data())
def test_config_of_a_run_that_goes_on(run, data):
    whole = (run / "config.json").read_text(encoding="utf-8")
    before = json.loads(whole)
    try:
        (run / "config.json").write_text(json.dumps(data.draw(mutated(before))), encoding="utf-8")
        survives(lambda: prepare(run, before, True))
    finally:
        (run / "config.json").write_text(whole, encoding="utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" * 100_000,
        "nonsense",
        '{"a": ' + "9" * 5000 + "}",
        "null",
        '{"encoder": {}}',
        "\xff\xfe",
        "{}",
    ],
)
def test_config_that_is_none(run, text):
    whole = (run / "config.json").read_text(encoding="utf-8")
    try:
        (run / "config.json").write_text(text, encoding="utf-8")
        with pytest.raises(AmodalError):
            amodal.load(run, device="cpu")
    finally:
        (run / "config.json").write_text(whole, encoding="utf-8")


@pytest.mark.parametrize("name", ["aligned_width", "aligned_hidden", "others"])
def test_a_small_old_file_that_describes_a_huge_model_asks_for_no_memory(name, tmp_path):
    shutil.copytree(Path(__file__).parent / "old_runs" / "encoder", tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(
        json.dumps(config | {"encoder": config["encoder"] | {name: 10**9}}), encoding="utf-8"
    )
    is_too_large(tmp_path / "run")


@pytest.mark.parametrize(
    "path", ["options/width", "encoder/args/experts", "encoder/args/fields/text/max_length"]
)
def test_a_small_file_that_describes_a_huge_model_asks_for_no_memory(run, path, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "spec.json"
    spec = json.loads(file.read_text(encoding="utf-8"))
    *way, last = path.split("/")
    inner = spec
    for key in way:
        inner = inner[key]
    inner[last] = 10**9
    file.write_text(json.dumps(spec), encoding="utf-8")
    if last == "max_length":  # of the text that is read, not of the model
        survives(lambda: amodal.load(tmp_path / "run", device="cpu"))
    else:
        is_too_large(tmp_path / "run")


def is_too_large(run) -> None:
    survives(lambda: amodal.load(run, device="cpu"))
    with pytest.raises(AmodalError, match="larger model|side by side"):
        amodal.load(run, device="cpu")


def test_the_bound_counts_what_is_asked_for():
    for ask in (
        lambda: torch.empty(2**40),
        lambda: torch.empty((2**20, 2**20)),
        lambda: torch.zeros(size=(2**40,)),
        lambda: torch.full((2**20, 2**20), 1.0),
        lambda: torch.arange(2**40),
        lambda: torch.linspace(0, 1, 2**40),
        lambda: torch.eye(2**20),
        lambda: torch.nn.Linear(2**20, 2**20),
        lambda: [torch.nn.Linear(1, 1) for _ in range(10_000)],
    ):
        with pytest.raises(AmodalError, match="far larger model"), Bounded(10, 1000, "it"):
            ask()
    with Bounded(10, 1000, "it"):
        assert torch.nn.Linear(100, 100).weight.shape == (100, 100)


@FEW
@given(data=st.data())
def test_state_of_a_checkpoint(run, data):
    folder = checkpoint.latest(run / "checkpoints")
    whole = (folder / "state.json").read_text(encoding="utf-8")
    changed = data.draw(mutated(json.loads(whole)))
    if changed == json.loads(whole):
        return
    (folder / "state.json").write_text(json.dumps(changed), encoding="utf-8")
    try:
        survives(
            lambda: checkpoint.check_state(folder, checkpoint.read_json(folder / "state.json", ""))
        )
    finally:
        (folder / "state.json").write_text(whole, encoding="utf-8")


def test_a_damaged_checkpoint_names_itself_and_the_one_before(run, tmp_path):
    for name, damage in {
        "state.json": lambda b: b[: len(b) // 2],
        "model.safetensors": lambda b: b[: len(b) // 2],
        "optimizer.safetensors": lambda b: b"\xff" * 8 + b[8:],
    }.items():
        copied = tmp_path / name
        shutil.copytree(run, copied)
        shutil.rmtree(copied / "checkpoints" / "step-00000004")
        shutil.copytree(
            run / "checkpoints" / "step-00000002", copied / "checkpoints" / "step-00000001"
        )
        last = copied / "checkpoints" / "step-00000002"
        (last / name).write_bytes(damage((last / name).read_bytes()))
        with pytest.raises(
            AmodalError, match=f"(?s){last.name}.*remove the folder .*step-00000002.*step-00000001"
        ):
            small_run(tmp_path, name, steps=4, checkpoint_every=2, resume=True)


def tensors_with(file: Path, change) -> None:
    """The same file with another header."""
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = change(json.loads(content[8 : 8 + length]))
    spelled = json.dumps(header).encode() if not isinstance(header, bytes) else header
    file.write_bytes(struct.pack("<Q", len(spelled)) + spelled + content[8 + length :])


@FEW
@given(data=st.data())
def test_headers_of_safetensors(run, data, tmp_path_factory):
    """The sha256 is made to agree, as one would who means harm."""
    copied = tmp_path_factory.mktemp("header") / "run"
    copied.mkdir()
    for name in ("config.json", "spec.json", "model.safetensors"):
        shutil.copy(run / name, copied / name)
    tensors_with(copied / "model.safetensors", lambda header: data.draw(mutated(header)))
    if data.draw(st.booleans()):
        content = bytearray((copied / "model.safetensors").read_bytes())
        content[data.draw(st.integers(0, 200))] ^= 1 << data.draw(st.integers(0, 7))
        (copied / "model.safetensors").write_bytes(content)
    config = json.loads((copied / "config.json").read_text(encoding="utf-8"))
    config["weights_sha256"] = hashlib.sha256(
        (copied / "model.safetensors").read_bytes()
    ).hexdigest()
    (copied / "config.json").write_text(json.dumps(config), encoding="utf-8")
    survives(lambda: amodal.load(copied, device="cpu"))


def test_moments_of_another_shape_or_too_few_are_refused(run, tmp_path):
    for what in ("shape", "few", "foreign"):
        copied = tmp_path / what
        shutil.copytree(run, copied)
        shutil.rmtree(copied / "checkpoints" / "step-00000004")
        file = copied / "checkpoints" / "step-00000002" / "optimizer.safetensors"
        moments = load_file(file)
        name = next(n for n in moments if n.endswith("/exp_avg"))
        moments |= (
            {name: torch.zeros(3, 3, 3)} if what == "shape" else {"other/exp_avg": torch.zeros(2)}
        )
        if what == "few":
            moments = {n: v for n, v in moments.items() if n != name and n != "other/exp_avg"}
        save_file(moments, file)
        with pytest.raises(AmodalError, match="optimizer.safetensors"):
            small_run(tmp_path, what, steps=4, checkpoint_every=2, resume=True)


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    root = tmp_path_factory.mktemp("described")
    containers.parquet(root, np.random.default_rng(0), False)
    return root


def as_toml(tree) -> str:
    """Whatever of a tree TOML can say."""
    try:
        return tomlkit.dumps(tree)
    except Exception:  # None, or names and numbers that TOML has not
        return json.dumps(tree)


@FEW
@given(data=st.data())
def test_dataset_toml(described, data):
    whole = (described / "dataset.toml").read_text(encoding="utf-8")
    (described / "dataset.toml").write_text(
        as_toml(data.draw(mutated(tomlkit.parse(whole).unwrap()))),
        errors="replace",
        encoding="utf-8",
    )

    def work() -> None:
        opened = amodal.open(described)
        assert opened.fingerprint and len(opened.parts) == len(opened)
        for field in opened.fields:
            opened.present(field)
        next(iter(amodal.data.Loader(opened, range(4), batch=4, shuffle=False)))

    try:
        survives(work)
    finally:
        (described / "dataset.toml").write_text(whole, encoding="utf-8")


@FEW
@given(text=st.text(max_size=200))
def test_text_that_is_no_dataset_toml(text):
    survives(lambda: data.schema.loads(text))


@pytest.mark.parametrize(
    "records", ["/etc", "../secret", "a/../../secret", "/etc/*", "**/../..", "x\0y", "[", "**a"]
)
def test_records_do_not_lead_out_of_the_folder(tmp_path, records):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a.txt").write_text("secret words", encoding="utf-8")
    (tmp_path / "data").mkdir()
    lines = [f"records = {json.dumps(records)}", '[fields.text]\nmodality = "text"']
    (tmp_path / "data" / "dataset.toml").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(AmodalError):
        amodal.open(tmp_path / "data")


@pytest.mark.parametrize(
    ("modality", "settings"),
    [
        ("image", "size = 1000000000"),
        ("image", "channels = 1000000"),
        ("image", "size = 64\nmean = [inf, 0.0, 0.0]"),
        ("text", "patch = 1000000000"),
        ("audio", "mels = 100000000"),
        ("audio", "hop_ms = nan"),
        ("series", "patch = 1000000000"),
        ("series", 'mean = ["a"]'),
        ("table", "frequencies = 1000000000"),
        ("sequence", "k = 1000000000"),
        ("events", "step = inf"),
    ],
)
def test_a_line_of_dataset_toml_asks_for_no_memory(modality, settings):
    _forget_peak()
    before = _peak()
    with pytest.raises(AmodalError, match=f"{modality}"):
        data.schema.loads(f'[fields.x]\nmodality = "{modality}"\n{settings}')
    assert _peak() - before < 2**27


@FEW
@given(data=st.data())
def test_manifests_of_packs_and_of_saved_datasets(data, tmp_path_factory):
    root = tmp_path_factory.mktemp("manifest")
    if data.draw(st.booleans()):
        containers.packed(
            root / "pack" if (root / "pack").mkdir() is None else root, np.random.default_rng(0)
        )
        file = next((root / "pack").glob("manifest-*.json"))
    else:
        builders.huggingface(root / "saved", splits=True)
        file = (
            root
            / "saved"
            / data.draw(
                st.sampled_from(
                    ["dataset_dict.json", "train/state.json", "train/dataset_info.json"]
                )
            )
        )
    file.write_text(
        json.dumps(data.draw(mutated(json.loads(file.read_text(encoding="utf-8"))))),
        encoding="utf-8",
    )
    where = root / ("pack" if (root / "pack").exists() else "saved")
    survives(lambda: list(amodal.data.Loader(amodal.open(where), [0], batch=1, shuffle=False)))


def test_a_manifest_does_not_lead_out_of_its_folder(tmp_path):
    builders.huggingface(tmp_path / "saved")
    shutil.copytree(tmp_path / "saved", tmp_path / "other")
    state = json.loads((tmp_path / "other" / "state.json").read_text(encoding="utf-8"))
    state["_data_files"] = [{"filename": f"../saved/{f['filename']}"} for f in state["_data_files"]]
    (tmp_path / "other" / "state.json").write_text(json.dumps(state), encoding="utf-8")
    with pytest.raises(AmodalError, match="leads out of"):
        amodal.open(tmp_path / "other")


def test_an_index_cannot_ask_for_queries_of_a_billion_numbers(tmp_path):
    counts = {"records": 0, "record_bytes": 0, "dead": 0, "generation": 0, "vectors": {}}
    about = {"format": 1, "fingerprint": "a", "width": 10**9} | counts
    (tmp_path / "manifest.json").write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(AmodalError, match="width"):
        Index.open(tmp_path)


@FEW
@given(data=st.data())
def test_manifest_of_an_index(run, data, tmp_path_factory):
    root = tmp_path_factory.mktemp("index")
    model = amodal.load(run, device="cpu")
    columns = {
        "text": ["one", "two"],
        "signal": [np.ones((9, 2), np.float32)] * 2,
        "cells": [{"age": 1, "kind": "a"}] * 2,
    }
    model.index(
        amodal.open(columns, fields={"text": "text", "signal": "series", "cells": "table"}),
        root / "index",
    )
    file = root / "index" / "manifest.json"
    file.write_text(
        json.dumps(data.draw(mutated(json.loads(file.read_text(encoding="utf-8"))))),
        encoding="utf-8",
    )

    def work() -> None:
        index = Index.open(root / "index")
        if len(index):
            index.nearest(torch.ones(index.width), k=1)

    survives(work)
