"""from_pretrained, save_pretrained and push_to_hub, against a stand-in of the Hub on this machine."""

import json
import socket
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from amodal import Model
from amodal.core import AmodalError, hub_client
from tests.export.models import encoder, model, records
from tests.export.test_weights import CARD

huggingface_hub = pytest.importorskip("huggingface_hub")
REPO = "someone/toys"
FRESH = """
import sys
import time
from safetensors.torch import save_file
from amodal import Model
from tests.export.models import records

loaded = Model.from_pretrained(sys.argv[1], device="cpu")
vectors = loaded.embed(records()).aligned
save_file({s: vectors[s].values.contiguous() for s in vectors}, sys.argv[2])
"""


def trained(seed: int = 0) -> Model:
    made = model(encoder("photo", "caption").align(16))
    made.config |= CARD
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in made.encoder.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.02)
    return made


def vectors(made: Model) -> dict[str, torch.Tensor]:
    aligned = made.embed(records()).aligned
    return {source: aligned[source].values for source in aligned}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_what_is_pushed_gives_equal_vectors_in_a_fresh_process(hub, tmp_path, monkeypatch):
    pushed = trained()
    assert hub.address in pushed.push_to_hub(REPO, private=True)
    assert hub.private[REPO]
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    out = tmp_path / "vectors.safetensors"
    subprocess.run([sys.executable, "-c", FRESH, REPO, str(out)], check=True)
    assert equal(load_file(out), vectors(pushed))


def test_only_the_model_and_its_card_are_pushed_and_only_data_is_fetched(hub):
    made = trained()
    made.trained = torch.arange(3).numpy().astype("uint64")
    made.push_to_hub(REPO)
    files = hub.files(REPO)
    wanted = {"spec.json", "config.json", "model.safetensors"}
    assert files.keys() - {".gitattributes"} == wanted | {"README.md"}
    card = huggingface_hub.ModelCard(files["README.md"].decode())
    assert card.data.library_name == "amodal"
    assert f'Model.from_pretrained("{REPO}")' in card.text
    hub.commit(REPO, {"modeling.py": b"raise SystemExit", "weights.bin": b"\x80", "a.json": b"1"})
    hub.requests.clear()
    loaded = Model.from_pretrained(REPO, device="cpu")
    fetched = {r.rpartition("/")[2] for r in hub.requests if r.startswith("GET") and "resolve" in r}
    assert fetched == wanted and equal(vectors(loaded), vectors(made))
    assert {f.name for f in loaded.path.iterdir()} == wanted


def test_a_commit_is_loaded_as_it_was(hub):
    first, second = trained(1), trained(2)
    address = first.push_to_hub(REPO)
    second.push_to_hub(REPO)
    old = Model.from_pretrained(REPO, revision=address.rpartition("/")[2], device="cpu")
    assert equal(vectors(old), vectors(first))
    assert equal(vectors(Model.from_pretrained(REPO, device="cpu")), vectors(second))


def test_a_folder_never_touches_the_network(tmp_path, monkeypatch):
    monkeypatch.setattr(hub_client, "_api", lambda token: pytest.fail("the Hub was asked"))
    made = trained()
    folder = made.save_pretrained(tmp_path / "someone" / "toys")
    assert "library_name: amodal" in (folder / "README.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name in (folder, str(folder), REPO):  # the last is a folder here, and not a repository
        assert equal(vectors(Model.from_pretrained(name, device="cpu")), vectors(made))
    with pytest.raises(AmodalError, match="is a folder, and revision"):
        Model.from_pretrained(folder, revision="main")
    for name in ("./missing", "/no/such/folder", "a/b/c", tmp_path / "missing"):
        with pytest.raises(AmodalError, match="there is no folder"):
            Model.from_pretrained(name)


def test_a_missing_repository_and_a_wrong_revision_are_clear_errors(hub, monkeypatch):
    with pytest.raises(AmodalError, match="there is no model someone/toys .*or it is private"):
        Model.from_pretrained(REPO)
    trained().push_to_hub(REPO, private=True)
    with pytest.raises(AmodalError, match="someone/toys has no revision 'v9'"):
        Model.from_pretrained(REPO, revision="v9")
    with pytest.raises(AmodalError, match="or it is private"):
        Model.from_pretrained(REPO, token=False)
    with pytest.raises(AmodalError, match="does not allow this.*right to write"):
        trained().push_to_hub("someone/else", token=False)


def test_offline_takes_the_cache_or_says_what_to_do(hub, monkeypatch):
    made = trained()
    made.push_to_hub(REPO)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(AmodalError, match="is not in the cache, and .* cannot be reached"):
        Model.from_pretrained(REPO)
    with pytest.raises(AmodalError, match="could not serve the request.*offline"):
        made.push_to_hub(REPO)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(AmodalError, match="is not in the cache"):
        Model.from_pretrained(REPO, local_files_only=True)
    Model.from_pretrained(REPO)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    hub.requests.clear()
    for settings in ({}, {"local_files_only": True}):
        loaded = Model.from_pretrained(REPO, device="cpu", **settings)
        assert equal(vectors(loaded), vectors(made))
    assert not hub.requests


def test_an_address_without_a_server_is_refused_quickly(hub, monkeypatch, caplog):
    """Not after the client's five retries, which take half a minute; the cache is taken if it has
    the model."""
    made = trained()
    made.push_to_hub(REPO)
    Model.from_pretrained(REPO)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{s.getsockname()[1]}"
    files = nobody + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nobody)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", files)
    began = time.monotonic()
    with pytest.raises(AmodalError, match=f"not in the cache, and {nobody} cannot be reached: "):
        Model.from_pretrained("someone/unknown")
    assert equal(vectors(Model.from_pretrained(REPO, device="cpu")), vectors(made))
    assert time.monotonic() - began < 8 and "Retry" not in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "evil.py:method"}, "names its method"),
        ({"encoder": {"part": "os.path:Thing", "args": {}}}, "part|plug-in"),
        ({"encoder": None}, "describes no model"),
        ({"format": 99}, "has format 99"),
    ],
)
def test_a_tampered_spec_is_refused(hub, change, message):
    trained().push_to_hub(REPO)
    spec = json.loads(hub.files(REPO)["spec.json"])
    hub.commit(REPO, {"spec.json": json.dumps(spec | change).encode()})
    with pytest.raises(AmodalError, match=message):
        Model.from_pretrained(REPO)


def test_other_weights_than_the_config_says_are_refused(hub):
    trained(1).push_to_hub(REPO)
    other = hub.files(REPO)["config.json"]
    trained(2).push_to_hub(REPO)
    hub.commit(REPO, {"config.json": other})
    with pytest.raises(AmodalError, match="sha256 is not the one"):
        Model.from_pretrained(REPO)


def test_a_repository_of_something_else_is_refused_before_its_weights_come(hub):
    hub.private[REPO] = False
    hub.commit(REPO, {"config.json": b"{}", "model.safetensors": b"x" * 1000})
    with pytest.raises(AmodalError, match="is not a model of amodal"):
        Model.from_pretrained(REPO)
    assert not any("safetensors" in request for request in hub.requests)
    hub.commit(REPO, {"spec.json": b"{}"})
    del hub.files(REPO)["model.safetensors"]
    with pytest.raises(AmodalError, match="model.safetensors of someone/toys is neither"):
        Model.from_pretrained(REPO)


def test_nothing_is_written_into_the_cache(hub):
    trained().push_to_hub(REPO)
    loaded = Model.from_pretrained(REPO, device="cpu")
    with pytest.raises(AmodalError, match="where no index belongs"):
        loaded.index(records())


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(AmodalError, match=r"pip install 'amodal\[hub\]'"):
        Model.from_pretrained(REPO)
    with pytest.raises(AmodalError, match=r"pip install 'amodal\[hub\]'"):
        trained().push_to_hub(REPO)
