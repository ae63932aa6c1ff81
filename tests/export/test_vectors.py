"""Vectors in Parquet, interrupted and resumed."""

import errno
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from amodal.cli import main
from amodal.core import AmodalError
from amodal.core.file_lock import locked
from amodal.export import vectors
from amodal.export.vectors import write_vectors
from amodal.train import distributed
from tests.export.models import encoder, model, records

QUIET = dict(progress=False)
ROOT = Path(__file__).parents[2]


def read(path) -> dict[tuple[str, str], np.ndarray]:
    table = pq.read_table(path).to_pydict()
    return {
        (k, s): np.array(v, dtype=np.float32)
        for k, s, v in zip(table["key"], table["source"], table["vector"])
    }


def test_every_value_has_its_vector(tmp_path):
    made = model(encoder("photo", "caption").align(16))
    data = records()
    count = write_vectors(made, data, tmp_path / "out.parquet", chunk=7, **QUIET)
    found = read(tmp_path / "out.parquet")
    wanted = made.embed(data)
    assert count == len(found) == 30 + sum(c is not None for c in data["caption"])
    for source, column in wanted.aligned.columns.items():
        for row, vector in zip(column.rows.tolist(), column.values.numpy()):
            np.testing.assert_allclose(found[wanted.keys[row], source], vector, atol=1e-5)
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert str(schema.field("vector").type) == "fixed_size_list<element: float>[16]"
    assert set(schema.metadata) >= {b"amodal.encoder", b"amodal.data", b"amodal.fields"}
    assert [p.name for p in tmp_path.iterdir()] == ["out.parquet"], "nothing is left beside it"


def test_a_joint_encoder_writes_fused_vectors_too(tmp_path):
    write_vectors(
        model(encoder("photo", "caption", trunk="joint")),
        records(9),
        tmp_path / "o.parquet",
        **QUIET,
    )
    assert {s for _, s in read(tmp_path / "o.parquet")} == {"photo", "caption", "fused"}


def failing_after(monkeypatch, chunks: int, error: BaseException):
    done, own = [], vectors._embed

    def embed(*arguments):
        if len(done) == chunks:
            raise error
        done.append(1)
        return own(*arguments)

    monkeypatch.setattr(vectors, "_embed", embed)
    return done


def test_it_goes_on_with_the_chunk_it_was_interrupted_in(tmp_path, monkeypatch):
    made, out = model(encoder("photo", "caption")), tmp_path / "out.parquet"
    with monkeypatch.context() as patched:
        failing_after(patched, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            write_vectors(made, records(), out, chunk=5, **QUIET)
    assert not out.exists()
    done = failing_after(monkeypatch, 99, KeyboardInterrupt())
    count = write_vectors(made, records(), out, chunk=5, **QUIET)
    assert len(done) == 3, "three of six chunks were there"
    monkeypatch.undo()
    assert count == write_vectors(made, records(), tmp_path / "straight.parquet", chunk=5, **QUIET)
    assert out.read_bytes() == (tmp_path / "straight.parquet").read_bytes()


def test_a_killed_process_leaves_whole_chunks(tmp_path):
    out = tmp_path / "out.parquet"
    code = f"""
import torch; torch.set_num_threads(1)
from amodal.export.vectors import write_vectors
from tests.export.models import *
write_vectors(model(encoder("photo", "caption")), records(100), {str(out)!r}, chunk=2, progress=False)"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    parts = tmp_path / ".out.parquet.parts"
    while process.poll() is None and len(list(parts.glob("0*.parquet"))) < 3:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists() and len(list(parts.glob("0*.parquet"))) >= 3
    made = model(encoder("photo", "caption"))
    write_vectors(made, records(100), out, chunk=2, **QUIET)
    assert len(read(out)) == 100 + sum(c is not None for c in records(100)["caption"])


def one_rank(
    rank: int, world: int, port: int, out: Path, log: Path, pause: float, data_seed: int = 0
):
    """A process of a torchrun: it notes each chunk that it embeds."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    embed = vectors._embed

    def noted(model, dataset, indices, *rest):
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{rank} {indices[0]}\n")
        time.sleep(pause)
        return embed(model, dataset, indices, *rest)

    vectors._embed = noted
    made = write_vectors(
        model(encoder("photo", "caption")), records(60, data_seed), out, chunk=2, **QUIET
    )
    log.with_name(f"made{rank}").write_text(str(made), encoding="utf-8")
    distributed.stop()


def launch(world: int, *arguments, seeds=None) -> list:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    ranks = [
        fork.Process(target=one_rank, args=(r, world, port, *arguments, *(seeds or {}).get(r, ())))
        for r in range(world)
    ]
    for process in ranks:
        process.start()
    return ranks


def test_killed_ranks_lose_nothing_and_restarted_ones_repeat_nothing(tmp_path):
    out, log = tmp_path / "out.parquet", tmp_path / "log"
    parts = tmp_path / ".out.parquet.parts"
    ranks = launch(3, out, log, 0.15)
    deadline = time.time() + 60
    while len(list(parts.glob("0*.parquet"))) < 6 and time.time() < deadline:
        time.sleep(0.002)
    os.kill(ranks[2].pid, signal.SIGKILL)
    time.sleep(
        0.05
    )  # the others work on until torchrun ends them, which is what the next line does
    for process in ranks:
        process.kill()
        process.join()
    assert not out.exists()
    finished = {int(p.stem) for p in parts.glob("0*.parquet")}
    first = [tuple(map(int, line.split())) for line in log.read_text(encoding="utf-8").splitlines()]
    assert 6 <= len(finished) < 30 and len({r for r, _ in first}) > 1
    assert all(start // 2 % 3 == r for r, start in first), "rank r takes chunks r, r + 3, ..."
    log.unlink()
    for process in launch(2, out, log, 0.0):  # another number of ranks goes on
        process.join(60)
        assert process.exitcode == 0
    restarted = [
        tuple(map(int, line.split())) for line in log.read_text(encoding="utf-8").splitlines()
    ]
    assert sorted(start for _, start in restarted) == sorted(set(range(0, 60, 2)) - finished), (
        "each that was missing, once"
    )
    assert all(start // 2 % 2 == r for r, start in restarted)
    count = write_vectors(
        model(encoder("photo", "caption")), records(60), tmp_path / "one.parquet", chunk=2, **QUIET
    )
    assert int((tmp_path / "made0").read_text(encoding="utf-8")) == count
    assert out.read_bytes() == (tmp_path / "one.parquet").read_bytes()
    assert not parts.exists()


def test_a_rank_with_other_data_is_refused(tmp_path):
    ranks = launch(2, tmp_path / "out.parquet", tmp_path / "log", 0.01, seeds={1: (7,)})
    ranks[1].join(60)
    assert ranks[1].exitcode == 1 and not (tmp_path / "out.parquet").exists()
    ranks[0].kill()
    ranks[0].join()
    assert all(
        line.startswith("0 ")
        for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    )


@pytest.mark.parametrize("what", ["encoder", "data"])
def test_parts_of_another_encoder_or_other_data_are_thrown_away(
    tmp_path, monkeypatch, capsys, what
):
    made, out = model(encoder("photo", "caption")), tmp_path / "out.parquet"
    with monkeypatch.context() as patched:
        failing_after(patched, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            write_vectors(made, records(), out, chunk=5, **QUIET)
    if what == "encoder":
        with torch.no_grad():
            made.encoder.field_token["photo"] += 1
    data = records(seed=1 if what == "data" else 0)
    write_vectors(made, data, out, chunk=5, **QUIET)
    assert f"another {what}" in capsys.readouterr().err
    np.testing.assert_allclose(
        read(out)["0", "photo"], made.embed(data).aligned["photo"].values[0], atol=1e-5
    )


def test_a_full_disk_keeps_what_is_done_and_says_so(tmp_path, monkeypatch):
    made, out = model(encoder("photo", "caption")), tmp_path / "out.parquet"
    with monkeypatch.context() as patched:
        failing_after(patched, 2, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(AmodalError, match="No space left.*stay in.*repeat the command"):
            write_vectors(made, records(), out, chunk=5, **QUIET)
    assert len(list((tmp_path / ".out.parquet.parts").glob("0*.parquet"))) == 2


def test_of_two_that_write_one_file_the_second_is_refused(tmp_path, monkeypatch):
    made, data, out = model(encoder("photo").align(16)), records(8), tmp_path / "v.parquet"
    embed, refused = vectors._embed, []

    def second(*args):
        for name in ("v.parquet", "other.parquet"):
            monkeypatch.setattr(vectors, "_embed", embed)
            try:
                write_vectors(made, data, tmp_path / name, **QUIET)
            except AmodalError as error:
                refused.append(str(error))
        return embed(*args)

    monkeypatch.setattr(vectors, "_embed", second)
    assert write_vectors(made, data, out, **QUIET) == 8
    assert len(read(out)) == 8
    (message,) = refused
    assert f"another process is writing {out}" in message
    assert sorted(f.name for f in tmp_path.iterdir()) == ["other.parquet", "v.parquet"]


def test_a_lock_whose_file_was_removed_meanwhile_is_not_had(tmp_path):
    file, inner = tmp_path / "lock", []
    with locked(file, wait=False, remove=True):
        with pytest.raises(BlockingIOError), locked(file, wait=False, remove=True):
            inner.append(1)
    opened = Path.open

    def removed(self, *args, **options):
        made = opened(self, *args, **options)
        self.unlink()
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", removed)
        with pytest.raises(BlockingIOError), locked(file, wait=False, remove=True):
            inner.append(2)
    assert not inner and not file.exists()


def test_a_folder_as_output_and_data_of_other_kinds_are_errors(tmp_path):
    made = model(encoder("photo"))
    with pytest.raises(AmodalError, match="is a folder"):
        write_vectors(made, records(), tmp_path, **QUIET)
    with pytest.raises(AmodalError, match="photo"):
        write_vectors(made, {"caption": records()["caption"]}, tmp_path / "o.parquet", **QUIET)


@pytest.mark.parametrize(("name", "ends"), [("q.txt", ".txt"), ("q", "no suffix")])
def test_a_file_of_another_kind_is_refused_before_anything_is_read(tmp_path, name, ends, capsys):
    out = tmp_path / name
    expected = f"as .parquet, .csv, .npy, .lance, and .*{name} ends in {ends}; call it .*q.parquet"
    with pytest.raises(AmodalError, match=expected):
        write_vectors(model(encoder("photo")), records(), out, **QUIET)
    with pytest.raises(SystemExit):  # before the run is opened, which is not even there
        main(["embed", str(tmp_path / "run"), "--data", str(tmp_path), "--out", str(out)])
    assert "as .parquet, .csv, .npy" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_values_that_cannot_be_read_are_counted_over_an_interruption(tmp_path, monkeypatch, capsys):
    made, data, out = model(encoder("photo", "caption")), records(), tmp_path / "out.parquet"
    data["photo"] = [
        b"no picture" if i in (1, 28) else photo for i, photo in enumerate(data["photo"])
    ]
    with monkeypatch.context() as patched:
        failing_after(patched, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            write_vectors(made, data, out, chunk=5, **QUIET)
    write_vectors(made, data, out, chunk=5, **QUIET)
    said = capsys.readouterr().err
    assert "2 values could not be read" in said and "1 (photo)" in said and "28 (photo)" in said


def test_another_file_is_not_overwritten_and_a_broken_plan_says_what_to_do(tmp_path):
    made, out = model(encoder("photo", "caption")), tmp_path / "out.parquet"
    pq.write_table(pa.table({"a": [1]}), out)
    with pytest.raises(AmodalError, match="holds no vectors.*another name"):
        write_vectors(made, records(), out, **QUIET)
    out.unlink()
    parts = tmp_path / ".out.parquet.parts"
    parts.mkdir()
    (parts / "plan.json").write_text("{", encoding="utf-8")
    with pytest.raises(AmodalError, match="plan.json cannot be read.*remove the folder"):
        write_vectors(made, records(), out, **QUIET)
