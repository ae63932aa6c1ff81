"""From a folder of records to a run folder that holds a trained encoder.

RUN/config.json        all that is needed to build the encoder again, and how it came about
RUN/model.safetensors  the encoder
RUN/README.md          the run card, for people
RUN/metrics.jsonl, tensorboard/, checkpoints/, quarantine.jsonl
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from amodal import curate as curation
from amodal import data as records
from amodal import methods
from amodal.core import AmodalError, unknown
from amodal.core.matmul import fast_products, for_run
from amodal.core.protocols import FitsStatistics, PredictsFromFeatures, Refreshes, Retrieves
from amodal.nn import config as encoder_config
from amodal.nn.adapters.lora import merged
from amodal.nn.encoder import Encoder
from amodal.nn.saved import read_config, saved
from amodal.nn.transformer import size_of
from amodal.train import distributed, packaged
from amodal.train.cache_features import remembered
from amodal.train.collapse_monitor import Watch
from amodal.train.log import read
from amodal.train.log_start import announce
from amodal.train.loop import Schedule, train
from amodal.train.precision import context
from amodal.train.run_dir import (
    hashes,
    prepare,
    read_trained,
    save_encoder,
    save_part,
    versions,
    weights,
    write_json,
    write_trained,
)
from amodal.train.run_setup import classes_of, held_out, once, rows_of_a_batch, targets_read, tells, truncated

DEFAULT_EPOCHS = 50


def pretrain(
    method: str,
    data,
    out: str | Path,
    *,
    size: str = "tiny",
    epochs: int | None = None,
    steps: int | None = None,
    sources: Sequence[str] | None = None,
    seed: int = 0,
    resume: bool = False,
    batch: int | None = None,
    micro: int | None = None,
    lr: float | None = None,
    trunk: str | None = None,
    positions: str | None = None,
    pool: str | None = None,
    backbones: dict[str, str] | None = None,
    train_backbones: bool = False,
    precision: str = "auto",
    matmul: str = "auto",
    average: float = 0.0,
    shard: bool = False,
    recompute: bool = False,
    workers: int = 0,
    device: str = "auto",
    checkpoint_every: int = 0,
    options: dict[str, object] | None = None,
    curate: str = "",
    curate_options: dict[str, object] | None = None,
    init_from: str | Path = "",
    adapt: dict[str, object] | None = None,
    only: Callable[[records.Dataset, np.ndarray], np.ndarray] | None = None,
    remember: str = "",
    conflict: bool = False,
    progress: bool = True,
) -> Path:
    """Pretrain an encoder without labels. Returns the run folder.

    method: a page of `amodal.methods`; options: its options. data: a folder, file, bundled name, dict of arrays, or Dataset.
    epochs or steps: how long (50 epochs unless given). sources: the fields to use, all unless given. batch, lr follow from `size`
    unless given; micro: rows computed at once, which saves memory and changes nothing else. recompute: activation checkpointing, which
    does so too: of a block only its input is kept, and the rest is computed again for its gradient. trunk, positions, pool: the encoder's
    (see `amodal.nn.encoder.Encoder`), by default what the method's paper uses. backbones: field -> pretrained backbone, which stays
    as it is unless train_backbones. matmul: the library of float32 products on a CPU, "auto", "torch" or "onednn" (see
    `amodal.core.matmul`); a resumed run goes on with the one it began with.
    average: momentum of a moving average of the weights to keep instead of the last ones. resume: go on with the run in `out`.
    curate: a page of `amodal.curate` that chooses, of super-batches 1 / keep as large, what is trained on; curate_options: its options.
    init_from: the folder of a run whose encoder's weights to begin with, as far as names and shapes agree. adapt: go on with that encoder
    itself, as it was built, to tell labels; what is given is what a resumed run must agree with. only: (dataset, training records) ->
    those of them to learn from. remember: "mean" or "tokens" of what frozen backbones make of each value are computed once and kept in a
    cache, of values as they are and not augmented (see `amodal.train.cache_features`); "" runs the backbones at every step.
    conflict: log whether the terms of the loss pull the same way, at each measurement; costs a few steps and changes nothing.
    """
    for name, number in (("epochs", epochs), ("steps", steps), ("batch", batch), ("micro", micro), ("lr", lr)):
        if number is not None and number <= 0:
            raise AmodalError(f"{name} must be more than 0, not {number}")
    if remember not in ("", "mean", "tokens"):
        raise unknown("part of features to remember", remember, ("mean", "tokens"))
    if steps is not None and epochs is not None:
        raise AmodalError("give epochs or steps, not both")
    rank, world = distributed.start()
    out, where = Path(out), pick_device(device)
    dataset = records.open(data)
    dataset = dataset.select(list(sources)) if sources else dataset
    backbones = packaged.specs(backbones or {})
    dataset = packaged.in_their_words(dataset, backbones)
    given = saved(init_from)[0] if init_from else None
    whole = adapt is not None
    if whole:
        dataset = dataset.with_fields(given.fields)
    elif given is not None:  # its weights mean what they meant only for values that are read as they were
        dataset = dataset.with_fields({f: given.fields.get(f, m) for f, m in dataset.fields.items()})
    choose = curation.chooser(curate, curate_options or {}) if curate else None
    torch.manual_seed(seed)
    wanted = {k: v for k, v in (("trunk", trunk), ("positions", positions), ("pool", pool)) if v is not None}
    if whole:
        encoder = saved(init_from)[0].train()
        size = encoder.size
    else:
        encoder = Encoder(
            dataset.fields,
            size=size,
            backbones=encoder_config.backbones(backbones, dataset.fields, size, frozen=not train_backbones),
            **(methods.encoder_options(method) | wanted),
        )
    chosen = methods.parse(method, options or {})
    part = dataset.split("train")
    part = part if only is None else only(dataset, part)
    if not len(part):
        raise AmodalError(
            f"{dataset.name} has {len(dataset)} records and none falls in the training part; more records are needed"
        )
    chosen |= classes_of(method, chosen, dataset) | targets_read(method, chosen, dataset, part)
    fresh = given is not None and not whole
    if fresh:  # before the method may copy the encoder as a teacher, and again for the heads that it adds
        begin_with(encoder, given, str(init_from))
    before = encoder_config.describe(encoder)
    trainee = methods.build(method, encoder, **chosen)
    notes = [begin_with(trainee.encoder, given, str(init_from))] if fresh else []
    told = tells(trainee, chosen, dataset)
    head = trainee.label_head if isinstance(trainee, PredictsFromFeatures) else None
    if whole and not told and head is None:
        raise AmodalError(
            f"{method} learns with a label but tells none; `amodal pretrain {method} --init-from RUN` goes on with a run"
        )
    if average and (told or head is not None):
        raise AmodalError(
            "an average is of the encoder alone, and what tells labels learns with its last weights; leave average out"
        )
    seen, views = dataset, trainee.views
    if remember:
        seen = remembered(dataset, encoder, where, pooled=remember == "mean", progress=progress)
        views = once(trainee.views, seen)
    slices = [b.to(where) for b in held_out(seen, part)]
    keep = choose.keep if choose else 1.0
    rows = rows_of_a_batch(batch, size_of(size).batch, int(len(part) * keep), world, trainee.min_batch_size)
    pool = round(rows / keep) // world * world
    notes += [f"{curate} chooses {keep:.0%} of every {pool} records"] if choose else []
    steps = steps or (epochs or DEFAULT_EPOCHS) * max(len(part) // pool, 1)
    rate = lr if lr is not None else size_of(size).lr * min(1.0, (rows / size_of(size).batch) ** 0.5)
    pace = {"micro": micro, "checkpoint_every": checkpoint_every, "conflict": conflict}
    begun = read_config(out / "config.json") if resume and (out / "config.json").exists() else {}
    library = for_run(matmul, begun.get("matmul"), distributed.from_first)
    schedule = Schedule(steps, rate, precision=precision, average=average, shard=shard, recompute=recompute, **pace)
    config = {
        "method": method,
        "options": {n: p.default for n, p in methods.options(method).items()} | chosen,
        "encoder": encoder_config.describe(encoder),
        "data": {
            "name": dataset.name,
            "path": str(dataset.path or ""),
            "fingerprint": dataset.fingerprint,
            "records": len(dataset),
            "train": len(part),
            "truncated": truncated(dataset, part),
        },
        "batch": rows,
        "seed": seed,
        "matmul": library,
        "schedule": {
            "steps": steps,
            "lr": rate,
            "precision": precision,
            "average": average,
            "train_backbones": any(not t.frozen for f, t in encoder.tokenizers.items() if encoder.contextual(f)),
            **({"adapt": adapt} if adapt else {}),
            **({"remember": remember} if remember else {}),
            **({"curate": {"name": curate, **(curate_options or {})}} if curate else {}),
            **({"init_from": str(init_from)} if init_from else {}),
        },
    }
    if rank == 0:
        prepare(out, config, resume)
        before_it = read_trained(Path(init_from)) if init_from else None
        seen_keys = hashes(dataset.keys[i] for i in part)
        write_trained(out, seen_keys if before_it is None else np.concatenate([before_it, seen_keys]))
    distributed.barrier()
    if progress and rank == 0:
        announce(config, trainee, dataset, notes)
    if choose:
        computing = context(precision, where, encoder.width)
        choose.prepare(trainee.to(where), micro=micro, gather=distributed.gather, process=rank, precision=computing)
    surveyed = isinstance(trainee, (Refreshes, FitsStatistics))
    running: list = []

    def batches(first: int, groups=None):
        loader = records.Loader(
            seen,
            part,
            batch=pool,
            views=views,
            seed=seed,
            steps=steps,
            start_step=first,
            workers=workers,
            rank=rank,
            world=world,
            labels=trainee.labels,
            groups=groups,
        )
        running.append(loader)
        return loader

    def bad() -> int:
        running[-1].quarantine(out / ("quarantine.jsonl" if rank == 0 else f"quarantine-{rank}.jsonl"))
        return len(running[-1].bad)

    with fast_products(library):
        kept = train(
            trainee,
            batches,
            schedule,
            out,
            watch=Watch(slices),
            resume=resume,
            records=records.Loader(seen, part, batch=256, shuffle=False, labels=trainee.labels) if surveyed else None,
            choose=choose,
            device=where,
            bad=bad,
            progress=progress,
        )
    tensors = weights(merged(kept))
    names = isinstance(trainee, Retrieves) and not average  # which would be of the encoder alone
    kept_whole = {n: v for n, v in weights(trainee).items() if not n.startswith("encoder.")} if told or names else {}
    kept_head = weights(head) if head is not None else {}
    if rank == 0:
        done = {"status": "done", "versions": versions(), "seconds": seconds_of(out)}
        done |= {"curation": choose.cost()} if choose else {}
        if told:
            done |= {"tells": told, "before": before}
            save_part(out, "method.safetensors", kept_whole)
        elif names:
            done |= {"finds": True, "before": before}
            save_part(out, "method.safetensors", kept_whole)
            write_json(out / "keys.json", [dataset.keys[i] for i in part])
        elif head is not None:
            done |= {"answers": head.written()}
            save_part(out, "head.safetensors", kept_head)
        save_encoder(out, tensors, config | done | {"processes": world, "device": where.type})
    distributed.barrier()
    return out


def seconds_of(run: Path) -> float:
    """How long the run trained, by the last entry of its log; 0 if somebody removed that."""
    return next((e["seconds"] for e in reversed(read(run / "metrics.jsonl")) if "seconds" in e), 0.0)


@torch.no_grad()
def begin_with(encoder: Encoder, given: Encoder, folder: str) -> str:
    """Copy the weights that both have under one name and in one shape; says how many. Raises AmodalError for none."""
    own, its = encoder.state_dict(), given.state_dict()
    both = [name for name in own if name in its and own[name].shape == its[name].shape]
    described = ", ".join(
        f"--{k} {v}" for k, v in encoder_config.describe(given).items() if k in ("size", "trunk", "pool")
    )
    words = f"{len(both)} of {len(own)} weights taken from {folder} ({described})"
    if not both:
        raise AmodalError(f"{words}: nothing in it fits this encoder. Give it the same size, trunk and fields")
    for name in both:
        own[name].copy_(its[name])
    return words


def pick_device(name: str) -> torch.device:
    """auto, cpu, cuda, cuda:1, …"""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{int(os.environ.get('LOCAL_RANK', 0))}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown("device", name, ["auto", "cpu", "cuda"]) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise AmodalError("no CUDA device can be used here; take --device cpu")
    return device
