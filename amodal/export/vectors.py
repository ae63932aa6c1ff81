"""`amodal embed`: the vectors of every record in one file, made in chunks that survive an
interruption.

    FILE.parquet         key (string), source (string), vector (D float32); metadata: which encoder,
                         which data
    FILE.csv             key, source, v0, v1, …
    FILE.npy             (n, D) float32; FILE.rows.csv beside it: key and source of each row
    FOLDER.lance/        a table of Lance: key, source, vector; another run of it is a new version
    .FILE.parquet.parts/ while it is made: plan.json and a Parquet file for each chunk that is done

A row for each field that a record has, in the space where fields are compared, and one called
`fused` where the network makes a vector of all fields together. Records without any readable value
have no row.
"""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from amodal import modalities
from amodal.console import stderr
from amodal.core import AmodalError
from amodal.core.file_lock import locked
from amodal.data import Bad, Dataset, Openable
from amodal.data.readers import is_lance
from amodal.evaluate import Embedded, embed_records
from amodal.export.vector_files import (
    SHARED,
    check_suffix,
    holds_vectors,
    replace_file,
    write_vectors_of,
)
from amodal.inference.embed import unreadable
from amodal.nn.saved import read_json, weights_digest
from amodal.progress import Bar
from amodal.train import distributed

if TYPE_CHECKING:
    from amodal.model import Model

CHUNK = 2048  # records: what an interruption costs


def write_vectors(
    model: Model, data: Openable, out: str | Path, *, chunk: int = CHUNK, progress: bool = True
) -> int:
    """Embed every record of a dataset into a file.

    Under torchrun, rank r of W makes chunks r, r + W, …, on as many machines as share the folder of
    `out`; rank 0 waits for all and merges them.

    After an interruption the same call goes on with the chunks that are not done, by any number of
    ranks. Chunks of another encoder or other data are removed, with a note, and so is a file that
    this function wrote before; any other file is not overwritten. Values that cannot be read are
    counted on stderr.

    Args:
        model: The model.
        data: Whatever `amodal.open` takes.
        out: The file; its ending is .parquet, .csv, .npy or .lance.
        chunk: Records in a chunk.
        progress: Show a bar.

    Returns:
        The number of vectors; on ranks other than 0, of those that the rank made.

    Raises:
        AmodalError: If the file cannot be written, or another process writes it. The chunks that
            are done stay on disk.
    """
    out = Path(out)
    if out.is_dir() and not is_lance(out):
        raise AmodalError(
            f"{out} is a folder; give the name of the file to write, such as "
            f"{out / 'vectors.parquet'}"
        )
    check_suffix(out)
    if out.exists() and not holds_vectors(out):
        raise AmodalError(
            f"{out} is there already and holds no vectors of amodal; choose another name, or "
            "remove it first"
        )
    dataset = model.with_features(model.read(data))
    if not len(dataset):
        raise AmodalError(f"{dataset.name!r} has no records to embed")
    rank, _ = distributed.start()
    with _alone(out, rank):
        return _write_in_chunks(model, dataset, out, chunk, rank, progress)


@contextmanager
def _alone(out: Path, rank: int) -> Iterator[None]:
    """Have a file to oneself while it is written; the first rank has it for all.

    Raises AmodalError if another process writes it."""
    if rank > 0:
        yield
        return
    with ExitStack() as stack:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            lock = out.with_name(f".{out.name}.lock")
            stack.enter_context(locked(lock, wait=False, remove=True))
        except BlockingIOError:
            raise AmodalError(
                f"another process is writing {out}: wait for it to end, or choose another name"
            ) from None
        except OSError as e:
            raise AmodalError(
                f"could not write {out}: {e.strerror or e}; choose a folder that can be written to"
            ) from e
        yield


def _write_in_chunks(
    model: Model, dataset: Dataset, out: Path, chunk: int, rank: int, progress: bool
) -> int:
    """See `write_vectors`."""
    plan = {
        "encoder": model.fingerprint or weights_digest(model.encoder),
        "fields": {name: modalities.config(m) for name, m in model.encoder.fields.items()},
        "data": dataset.fingerprint,
        "records": len(dataset),
        "chunk": chunk,
    }
    parts = out.with_name(f".{out.name}.parts")
    starts = range(0, len(dataset), chunk)
    try:
        if rank == 0:
            _prepare(parts, plan)
        distributed.barrier()
        if rank > 0:
            _join(parts, plan)
        sizes = {start: min(chunk, len(dataset) - start) for start in starts}
        todo = [s for s in starts if not _part(parts, s).exists()]
        rank_share = sorted({*distributed.rank_share(starts)} & {*todo})
        bad = made = 0
        begun = len(dataset) - sum(sizes[s] for s in todo)
        with Bar("embed", len(dataset), start=begun, shown=progress and rank == 0) as bar:
            for start in rank_share:
                embedded = _embed(model, dataset, range(start, start + sizes[start]), bar, bad)
                bad += len(embedded.bad)
                table = _table(embedded)
                made += len(table)
                _commit(_part(parts, start), table)
            if rank > 0:
                return made
            for start in _arriving(parts, set(todo) - set(rank_share)):
                bar.step("records, of other ranks", by=sizes[start])
        met = _bad([_part(parts, s) for s in starts])
        total = write_vectors_of([_part(parts, s) for s in starts], out, plan)
    except OSError as e:
        raise AmodalError(
            f"could not write {out}: {e.strerror or e}. The chunks that are done stay in "
            f"{parts}; make room (or choose a folder that can be written to) and repeat the "
            "command."
        ) from e
    except (pa.ArrowException, ValueError, TypeError) as e:
        if isinstance(e, AmodalError):
            raise
        raise AmodalError(
            f"a chunk in {parts} is damaged ({e}); remove that folder and repeat the command"
        ) from e
    shutil.rmtree(parts)
    if met:
        stderr().print(unreadable(met), highlight=False, markup=False, soft_wrap=True)
    return total


def _prepare(parts: Path, plan: dict[str, Any]) -> None:
    """Make the folder of parts, or check that its parts are of this encoder and this data."""
    file = parts / "plan.json"
    if file.exists():
        found = read_json(
            file,
            f"remove the folder {parts}, which is only an interrupted start, and repeat the "
            "command",
        )
        if found == plan:
            return
        differ = [name for name in plan if found.get(name) != plan[name]]
        stderr().print(
            f"embed: starting anew, {parts.name} was made with another {', '.join(differ)}",
            highlight=False,
        )
    if parts.exists():
        shutil.rmtree(parts)
    parts.mkdir(parents=True)
    replace_file(file, lambda draft: draft.write_text(json.dumps(plan), encoding="utf-8"))


def _join(parts: Path, plan: dict[str, Any]) -> None:
    """Check that this rank has the encoder and the data of rank 0."""
    file = parts / "plan.json"
    if not file.exists():
        raise AmodalError(
            f"this rank does not see {parts}, which rank 0 made; all machines must share the "
            "folder of the file that is written"
        )
    found = read_json(file, "repeat the command")
    if differ := [name for name in plan if found.get(name) != plan[name]]:
        raise AmodalError(
            f"this rank has another {', '.join(differ)} than rank 0; all must have the same"
        )


def _arriving(parts: Path, starts: set[int]) -> Iterator[int]:
    """The chunks of other ranks, each when it is done. If one fails, torchrun ends all of them."""
    while starts:
        done = {start for start in starts if _part(parts, start).exists()}
        yield from sorted(done)
        starts = starts - done
        if not done:
            time.sleep(0.1)


def _embed(model: Model, dataset: Dataset, indices: Sequence[int], bar: Bar, bad: int) -> Embedded:
    note = f"records, {bad} unreadable values" if bad else "records"
    with warnings.catch_warnings():
        # that one chunk happens to lack a field is nothing to warn of
        warnings.filterwarnings("ignore", message="none of the")
        return embed_records(
            model.encoder,
            dataset,
            indices,
            device=model.device,
            progress=lambda n: bar.step(note, by=n),
            labels=False,
        )


def _table(embedded: Embedded) -> pa.Table:
    """Rows ordered by record and, within it, by field."""
    vectors = embedded.aligned.to_numpy()
    names = list(vectors)
    rows = np.concatenate([vectors[n][0] for n in names])
    source = np.repeat(np.arange(len(names)), [len(vectors[n][0]) for n in names])
    order = np.lexsort((source, rows))
    matrix = np.concatenate([vectors[n][1] for n in names])[order].astype(np.float32, copy=False)
    keys = pa.array([embedded.keys[i] for i in rows[order].tolist()], pa.string())
    sources = pa.array([names[i] for i in source[order].tolist()], pa.string())
    flat = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
    table = pa.table({"key": keys, "source": sources, "vector": flat})
    return table.replace_schema_metadata(
        {"bad": json.dumps([[b.key, b.field, b.reason] for b in embedded.bad])}
    )


def _bad(parts: Sequence[Path]) -> list[Bad]:
    """Values that could not be read, in all parts, also those made before an interruption."""
    return [
        Bad(*b)
        for part in parts
        for b in json.loads((pq.read_schema(part).metadata or {}).get(b"bad", b"[]"))
    ]


def _part(parts: Path, start: int) -> Path:
    return parts / f"{start:012d}.parquet"


def _commit(file: Path, table: pa.Table) -> None:
    replace_file(file, lambda draft: pq.write_table(table, draft, use_dictionary=SHARED))
