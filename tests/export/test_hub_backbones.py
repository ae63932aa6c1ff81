"""Backbones by their names on the Hub: what is fetched, what comes from the cache, what is said."""

import pytest
import torch

import amodal
from amodal import data
from amodal.core import AmodalError
from amodal.core.hub_client import check_weights
from amodal.modalities import make
from amodal.nn.backbones.pretrained import backbone
from amodal.train import packaged
from tests.tiny_clip import clip_folder

pytest.importorskip("huggingface_hub")
pytest.importorskip("transformers")
REPO = "someone/tiny-clip"


@pytest.fixture
def pushed(hub, tmp_path):
    """A model of transformers on the Hub, among files that nobody should fetch; and its folder."""
    (tmp_path / "clip").mkdir()
    folder, _ = clip_folder(tmp_path / "clip", 16)
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    for name in ("modeling_x.py", "pytorch_model.bin", "onnx/model.safetensors", "flax.msgpack"):
        files[name] = b"raise SystemExit"
    hub.commit(REPO, files)
    return folder


def test_only_data_is_fetched_and_once(hub, pushed):
    field = make("image", size=32, patch=8)
    made = backbone(f"transformers:{REPO}@projected", field, 16)
    same = backbone(f"transformers:{pushed}@projected", field, 16)
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(made.body(x)[0], same.body(x)[0])
    fetched = {r.rpartition("/")[2] for r in hub.requests if r.startswith("GET") and "resolve" in r}
    wanted = {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"}
    assert fetched == wanted
    hub.requests.clear()
    backbone(f"transformers:{REPO}@projected", field, 16)
    assert not any(r.startswith("GET") and "safetensors" in r for r in hub.requests)


def test_without_the_hub_the_cache_serves_and_a_saved_spec_needs_neither(
    hub, pushed, monkeypatch, tmp_path
):
    from huggingface_hub import constants

    field = make("image", size=32, patch=8)
    made = backbone(f"transformers:{REPO}", field, 16)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    files = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    assert backbone(f"transformers:{REPO}", field, 16).report.share == 1
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    rebuilt = type(made).from_args(**made._args)
    rebuilt.load_state_dict(made.state_dict())
    with pytest.raises(AmodalError, match="no directory .*is not in the cache, and http"):
        backbone(f"transformers:{REPO}", field, 16)


def test_texts_are_read_by_the_tokenizer_of_the_repository(hub, pushed):
    dataset = data.open({"t": ["a red pear", "a green apple"] * 4}, fields={"t": make("text")})
    read = packaged.match_inputs(dataset, {"t": f"transformers:{REPO}"})
    assert read.fields["t"].max_length == 12 and len(read.value(0, "t")) == 3


def test_names_that_are_none_say_what_is_expected(hub, pushed):
    field = make("image", size=32, patch=8)
    with pytest.raises(AmodalError, match="there is no model someone/else on"):
        backbone("transformers:someone/else", field, 16)
    hub.commit("someone/notes", {"README.md": b"notes"})
    with pytest.raises(AmodalError, match="not a model of transformers: it has no config.json"):
        backbone("transformers:someone/notes", field, 16)
    for name in ("no-folder", "/no/folder", "./a/b", "a/b/c"):
        with pytest.raises(AmodalError, match="no directory .*or OWNER/NAME of the Hugging Face"):
            backbone(f"transformers:{name}", field, 16)


def test_a_run_begins_from_a_name(hub, pushed, tmp_path):
    photos = torch.randint(0, 255, (8, 32, 32, 3), dtype=torch.uint8).numpy()
    words = ("red", "green", "red and green", "green and red")
    texts = [f"a {colour} {fruit}" for fruit in ("pear", "apple") for colour in words]
    columns = {"image": list(photos), "text": texts}
    spec = f"transformers:{REPO}@projected"
    model = amodal.pretrain(
        "clip",
        columns,
        tmp_path / "run",
        size="nano",
        steps=2,
        batch_size=4,
        backbones={"image": spec, "text": spec},
    )
    assert amodal.load(tmp_path / "run").encode(["a pear"], field="text").shape == (
        1,
        model.encode(["a pear"], field="text").shape[1],
    )


@pytest.mark.parametrize(
    ("package", "spec"),
    [("timm", "timm:test_vit@pretrained"), ("open_clip", "open_clip:ViT-B-32@openai")],
)
def test_weights_that_other_libraries_fetch_are_missed_at_once(
    monkeypatch, tmp_path, package, spec
):
    from huggingface_hub import constants

    pytest.importorskip(package)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    files = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    expected = "the weights of .* are not in the cache, and http.* or give their file: "
    with pytest.raises(AmodalError, match=f"{expected}{package}:.*@/path"):
        backbone(spec, make("image", size=32, patch=8), 16)


def test_weights_in_the_cache_need_no_hub(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--someone--tower" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"")
    check_weights("someone/tower", "timm:tower", "give a file")
