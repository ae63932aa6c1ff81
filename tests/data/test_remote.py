"""Data in object storage is the same data: by addresses of a store in memory, of a web server and
of an S3 server (moto, in this process), with everything that stores do to people."""

import functools
import http.server
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from amodal import data
from amodal.core import AmodalError
from amodal.data import download_cache, remote
from tests.data import builders

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("AMODAL_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr("amodal.data.store.RETRY_DELAYS", (0.01, 0.02))
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.fixture(scope="session")
def s3_server():
    server = pytest.importorskip(
        "moto.server", reason="moto is not installed: no S3 server to read from"
    )
    pytest.importorskip("s3fs")
    server = server.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = dict(os.environ)
    os.environ.update(
        keys, AWS_ENDPOINT_URL=f"http://{host}:{port}", AWS_MAX_ATTEMPTS="1", NO_PROXY="*"
    )
    yield server
    os.environ.clear()
    os.environ.update(before)
    server.stop()


@pytest.fixture
def s3(s3_server):
    import s3fs

    store = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    if store.exists("bucket"):
        store.rm("bucket", recursive=True)
    store.mkdir("bucket")
    return store


@pytest.fixture
def web(tmp_path):
    """A web server over `tmp_path`; .broken: how many of the next requests it answers with 503;
    .denied: names it answers 403."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def send_head(self):
            if self.server.broken > 0:
                self.server.broken -= 1
                return self.send_error(503)
            if any(name in self.path for name in self.server.denied):
                return self.send_error(403)
            self.server.sent += [self.path] * (self.command == "GET")
            return super().send_head()

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path)
    )
    server.broken, server.denied, server.sent = 0, [], []
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def build(what: str, root: Path) -> Path:
    root.mkdir(parents=True)
    if what == "pack":
        return data.pack(data.open(builders.folder(root.parent / "plain")), root)
    if what in ("csv", "jsonl", "parquet"):
        return builders.table(root, what)
    return getattr(builders, what)(root)


def values(dataset, field):
    outcome = []
    for i in range(len(dataset)):
        try:
            outcome.append(dataset.value(i, field))
        except AmodalError:
            outcome.append("bad")
    return outcome


def assert_same(one, two, workers=0):
    assert one.keys == two.keys and one.fields == two.fields and one.labels == two.labels
    for field in one.fields:
        assert np.array_equal(one.present(field), two.present(field))
        for a, b in zip(values(one, field), values(two, field)):
            np.testing.assert_array_equal(a, b)
    for label in one.labels:
        assert list(map(str, one.label(label))) == list(map(str, two.label(label)))
    far = data.Loader(
        two, range(len(two)), batch=4, views=("weak", "weak"), steps=4, workers=workers
    )
    for here, remote_data in zip(
        data.Loader(one, range(len(one)), batch=4, views=("weak", "weak"), steps=4), far
    ):
        assert here.keys == remote_data.keys
        for source, column in here.columns.items():
            assert np.array_equal(column.rows, remote_data.columns[source].rows)
            np.testing.assert_array_equal(column.flat, remote_data.columns[source].flat)


SORTS = ["folder", "messy", "csv", "jsonl", "parquet", "tars", "huggingface", "pack"]


@pytest.mark.parametrize("what", SORTS)
def test_an_address_is_the_folder(what, tmp_path):
    path = build(what, tmp_path / what)
    fsspec.filesystem("memory").put(str(tmp_path / what), f"/bucket/{what}", recursive=True)
    address = f"memory://bucket/{path.relative_to(tmp_path)}"
    here, remote_data = data.open(path), data.open(address)
    assert_same(here, remote_data)
    assert_same(here, pickle.loads(pickle.dumps(remote_data)))
    assert str(remote_data.path) == address
    if what != "pack":  # which has its own
        assert str(data.init(address).path) == f"memory://bucket/{what}/dataset.toml"
        assert_same(here, data.open(address))


@pytest.mark.parametrize("what", ["folder", "parquet", "tars", "pack"])
def test_a_bucket_of_s3_is_the_folder(what, tmp_path, s3):
    path = build(what, tmp_path / what)
    s3.put(str(tmp_path / what), f"bucket/{what}", recursive=True)
    assert_same(data.open(path), data.open(f"s3://bucket/{path.relative_to(tmp_path)}"), workers=2)


@pytest.mark.parametrize("what", ["folder", "csv", "parquet", "tars"])
def test_a_web_server_is_the_folder(what, tmp_path, web):
    path = build(what, tmp_path / what)
    if what == "folder":
        (path / "dog" / "r00.png").rename(path / "dog" / "100 % #1.png")
    web.broken = 1
    assert_same(data.open(path), data.open(f"{web.address}/{path.relative_to(tmp_path)}"))
    assert max(map(web.sent.count, web.sent)) <= 3, (
        "a server that knows no ranges is not asked for a file again and again"
    )


def pictures(store, n: int = 6, start: str = "/bucket/photos") -> str:
    for i in range(n):
        store.pipe_file(f"{start}/{i}.png", builders.png(i if i % 5 != 4 else 0))
    return f"{store.protocol if isinstance(store.protocol, str) else store.protocol[0]}://{start.lstrip('/')}"


def reasons(dataset, field="image") -> dict[str, str]:
    loader = data.Loader(dataset, range(len(dataset)), batch=len(dataset), shuffle=False)
    assert len(list(loader)) == 1
    return {bad.key: bad.reason for bad in loader.bad if bad.field == field}


def test_a_vanished_and_a_changed_object_cost_one_value_each():
    store = fsspec.filesystem("memory")
    dataset = data.open(pictures(store, 300)).select(
        ["image"]
    )  # more than are looked at to measure
    fresh = [
        i
        for i in range(300)
        if download_cache.get((dataset.path / f"{dataset.keys[i]}.png")._key("")) is None
    ]
    gone, changed = (dataset.keys[i] for i in fresh[:2])
    store.rm(f"/bucket/photos/{gone}.png")
    store.pipe_file(f"/bucket/photos/{changed}.png", b"longer than before" * 100)
    outcome = reasons(dataset)
    assert sorted(outcome) == sorted([gone, changed])
    assert (
        f"photos/{gone}.png is not there" in outcome[gone]
        and "has changed since" in outcome[changed]
    )


def test_a_changed_object_is_noticed_by_its_etag(s3):
    address = pictures(s3, start="bucket/photos")
    before = data.open(address)
    first = before.value(0, "image")
    s3.pipe_file("bucket/photos/0.png", builders.png(1))
    after = data.open(address)
    assert (
        not np.array_equal(first, after.value(0, "image"))
        and before.fingerprint != after.fingerprint
    )
    assert after.fingerprint == data.open(address).fingerprint


def test_a_transient_failure_is_retried(tmp_path, web):
    builders.folder(tmp_path / "photos")
    dataset = data.open(f"{web.address}/photos")
    web.broken = 2
    assert isinstance(dataset.value(0, "image"), np.ndarray)
    os.environ["AMODAL_CACHE"] += "-empty"
    web.broken = 10**6
    with pytest.raises(remote.Unreachable, match="photos does not answer to 3 requests: 503"):
        list(data.Loader(dataset, range(10), batch=2, workers=1))
    web.broken = 0
    assert len(list(data.Loader(dataset, range(10), batch=2, workers=1))) == 5


def test_one_object_that_is_denied_costs_a_value_and_all_of_them_the_run(tmp_path, web):
    builders.folder(tmp_path / "photos")
    web.denied = ["r01.png"]
    dataset = data.open(f"{web.address}/photos")
    assert reasons(dataset) == {"cat/r01": f"access to {web.address}/photos/cat/r01.png is denied"}
    web.denied = [""]
    os.environ["AMODAL_CACHE"] += "-empty"
    with pytest.raises(remote.Unreachable, match="access to .*photos is denied"):
        dataset.value(0, "image")
    with pytest.raises(AmodalError, match="access to .*photos is denied"):
        data.open(f"{web.address}/photos")


def test_s3_says_what_is_wrong(s3, monkeypatch):
    with pytest.raises(
        AmodalError, match="nothing at s3://no-such-bucket/x. Is the name of the bucket right"
    ):
        data.open("s3://no-such-bucket/x")
    monkeypatch.setattr(type(s3), "_call_s3", denies)
    with pytest.raises(
        AmodalError, match="access to s3://bucket/photos is denied: Access Denied. The key is taken"
    ):
        data.open("s3://bucket/photos")


async def denies(*args, **kwargs):
    raise PermissionError("Access Denied")


def test_addresses_that_are_refused(monkeypatch):
    for address in (
        "https://me:secret@example.org/data",
        "https://example.org/a.csv?X-Amz-Signature=secret",
    ):
        with pytest.raises(AmodalError, match="example.org has a password or a signature") as error:
            data.open(address)
        assert "secret" not in str(error.value)
    with pytest.raises(AmodalError, match="nosuch://x is no address that can be read"):
        data.open("nosuch://x")
    with pytest.raises(AmodalError, match="chain"):
        data.open("simplecache::s3://x")
    monkeypatch.setattr(
        "fsspec.core.url_to_fs", lambda *_, **__: (_ for _ in ()).throw(ImportError("Install s3fs"))
    )
    with pytest.raises(
        AmodalError, match=r"s3:// addresses need .* pip install 'amodal\[remote\]'"
    ):
        data.open("s3://other-bucket/x", name="x")


def test_no_file_of_a_dataset_leads_to_an_address_or_out_of_one(tmp_path):
    store = fsspec.filesystem("memory")
    address = pictures(store)
    (tmp_path / "dataset.toml").write_text(
        f'records = "{address}"\n[fields.image]\nmodality = "image"\n', encoding="utf-8"
    )
    with pytest.raises(AmodalError, match="no file or folder"):
        data.open(tmp_path)
    store.pipe_file(
        "/bucket/t/t.csv",
        f"photo,n\n../photos/0.png,1\n{address}/1.png,2\n../photos/2.png,3\n".encode(),
    )
    toml = b'records = "t.csv"\n[fields.photo]\nmodality = "image"\n'
    store.pipe_file("/bucket/t/dataset.toml", toml)
    outcome = list(reasons(data.open("memory://bucket/t"), "photo").values())
    assert (
        len(outcome) == 3
        and sum("is not there" in r for r in outcome) == 2
        and sum("a web address" in r for r in outcome) == 1
    )
    store.pipe_file("/bucket/t/dataset.toml", toml.replace(b"t.csv", b"../photos"))
    with pytest.raises(AmodalError, match="leads out of"):
        data.open("memory://bucket/t")
    run = {"data": {"path": "s3://elsewhere/photos", "name": "photos"}}
    with pytest.raises(AmodalError, match="say so: --data s3://elsewhere/photos"):
        remote.training_data_of(run)


def test_a_schema_on_this_machine_describes_a_store_that_cannot_be_written_to(
    tmp_path, web, monkeypatch
):
    builders.folder(tmp_path / "photos")
    address = f"{web.address}/photos"
    with pytest.raises(
        AmodalError, match="dataset.toml cannot be written .*#photos.toml' as the address"
    ):
        data.init(address)
    monkeypatch.chdir(tmp_path)
    described = data.init(f"{address}#mine.toml").path
    described.write_text(
        described.read_text(encoding="utf-8").replace("[fields.text]", "[fields.words]"),
        encoding="utf-8",
    )
    dataset = data.open(f"{address}#mine.toml")
    assert list(dataset.fields) == ["image", "words", "audio"] and len(dataset) == 10
    assert (
        str(dataset.path) == f"{address}#{tmp_path / 'mine.toml'}"
        and list(data.open(address).fields)[1] == "text"
    )
    assert data.open(str(dataset.path)).fingerprint == dataset.fingerprint


def test_the_cache_keeps_to_its_limit_and_drops_what_was_not_used(monkeypatch):
    monkeypatch.setenv("AMODAL_CACHE_GIB", str(10_000 / 2**30))
    for i in range(30):
        download_cache.put(str(i), bytes(1000))
        download_cache.get("0")
        time.sleep(0.001)
    folder = download_cache.path_of("0").parent.parent
    assert 5_000 < sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) <= 10_000
    assert download_cache.get("0") and download_cache.get("29") and download_cache.get("5") is None
    monkeypatch.setenv("AMODAL_CACHE_GIB", "0")
    dataset = data.open(pictures(fsspec.filesystem("memory")))
    assert reasons(dataset) == {} and not list(folder.rglob("*.part"))
    monkeypatch.setenv("AMODAL_CACHE_GIB", "lots")
    with pytest.raises(AmodalError, match="AMODAL_CACHE_GIB is 'lots'"):
        data.open(pictures(fsspec.filesystem("memory"), 7)).value(6, "image")


def test_a_pack_is_read_by_ranges(tmp_path, monkeypatch):
    """A value costs its own bytes; an index is read once, and then comes from disk. It can be
    packed again from there."""
    root = tmp_path / "photos"
    root.mkdir()
    for i in range(50):
        (root / f"{i}.npy").write_bytes(b"")
        np.save(root / f"{i}.npy", np.full((4000, 1), i, np.float32))
    data.pack(data.open(root), tmp_path / "pack")
    store = fsspec.filesystem("memory")
    store.put(str(tmp_path / "pack"), "/bucket/pack", recursive=True)
    asked = []
    whole = store.cat_file
    monkeypatch.setattr(
        type(store),
        "cat_file",
        lambda self, path, **k: asked.append(len(c := whole(path, **k))) or c,
    )
    dataset = data.open("memory://bucket/pack")
    opened = sum(asked)
    size = sum(s["bytes"] for s in dataset.reader.shards)
    assert opened < size / 10
    field = next(iter(dataset.fields))
    assert np.array_equal(dataset.value(7, field), data.open(tmp_path / "pack").value(7, field))
    assert 16_000 <= sum(asked) - opened < 17_000
    asked.clear()
    data.open("memory://bucket/pack").value(7, field)
    assert not asked
    second_pack = data.pack(dataset, tmp_path / "again")
    assert sorted(f.name for f in second_pack.glob("shard*")) == sorted(
        f.name for f in (tmp_path / "pack").glob("shard*")
    )


def test_damaged_shards_are_errors_for_a_person(tmp_path):
    folder = data.pack(data.open(builders.folder(tmp_path / "plain")), tmp_path / "pack")
    shard = next(folder.glob("shard*"))
    store, whole, draw = fsspec.filesystem("memory"), shard.read_bytes(), np.random.default_rng(0)
    store.put(str(folder), "/bucket/pack", recursive=True)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[draw.choice([draw.integers(1500), len(whole) - 1 - draw.integers(1000)])] = (
            draw.integers(256)
        )
        store.pipe_file(f"/bucket/pack/{shard.name}", bytes(damaged))
        try:
            dataset = data.open("memory://bucket/pack")
            [values(dataset, field) for field in dataset.fields]
        except AmodalError as error:
            refused += 1
            assert "memory://bucket/pack" in str(error)
    assert 5 < refused < 60


@pytest.mark.slow
def test_s3_that_fails_half_of_its_requests_and_denies_one_object(
    tmp_path, s3, s3_server, monkeypatch
):
    here = data.open(builders.folder(tmp_path / "photos"))
    s3.put(str(tmp_path / "photos"), "bucket/photos", recursive=True)
    inner, draw = s3_server._server.app, np.random.default_rng(0)

    def flaky(environment, start):
        broken = draw.random() < 0.5
        if not broken and not environment["PATH_INFO"].endswith("r01.png"):
            return inner(environment, start)
        start(
            "500 Internal Server Error" if broken else "403 Forbidden",
            [("Content-Type", "application/xml")],
        )
        body = f"<Error><Code>{'InternalError' if broken else 'AccessDenied'}</Code></Error>"
        return [] if environment["REQUEST_METHOD"] == "HEAD" else [body.encode()]

    monkeypatch.setattr("amodal.data.store.RETRY_DELAYS", (0.01,) * 20)
    s3_server._server.app = flaky
    try:
        remote_data = data.open("s3://bucket/photos")
        assert reasons(remote_data) == {
            "cat/r01": "access to s3://bucket/photos/cat/r01.png is denied"
        }
        for one, two in zip(values(here, "text"), values(remote_data, "text")):
            np.testing.assert_array_equal(one, two)
    finally:
        s3_server._server.app = inner


RUN = """
import sys
from amodal.train.pretrain import pretrain
if __name__ == "__main__":
    pretrain("clip", sys.argv[1], sys.argv[2], size="nano", steps=6, batch=4, sources=["image", "text"], checkpoint_every=2, workers=1,
             resume=sys.argv[3] == "resume", device="cpu")
"""


@pytest.mark.slow
def test_a_run_that_reads_from_s3_and_is_killed_ends_with_the_weights_of_a_local_one(tmp_path, s3):
    builders.folder(tmp_path / "photos")
    data.init(tmp_path / "photos")
    s3.put(str(tmp_path / "photos"), "bucket/photos", recursive=True)
    (tmp_path / "run.py").write_text(RUN, encoding="utf-8")

    def start(where, out, mode):
        return subprocess.Popen(
            [sys.executable, tmp_path / "run.py", str(where), str(tmp_path / out), mode],
            cwd=os.getcwd(),
        )

    assert start(tmp_path / "photos", "local", "new").wait() == 0
    far = start("s3://bucket/photos", "far", "new")
    while far.poll() is None and not list((tmp_path / "far").glob("**/*.safetensors")):
        time.sleep(0.02)
    far.kill()
    far.wait()
    assert not (tmp_path / "far" / "model.safetensors").exists(), (
        "it was killed too late to test anything"
    )
    assert start("s3://bucket/photos", "far", "resume").wait() == 0
    one, two = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("local", "far"))
    assert one == two
    assert "secret" not in json.dumps(
        json.loads((tmp_path / "far" / "config.json").read_text(encoding="utf-8"))
    )


def test_a_server_that_is_not_there_is_said():
    with pytest.raises(AmodalError, match="ftp://localhost:1/photos cannot be opened"):
        data.open("ftp://localhost:1/photos")
