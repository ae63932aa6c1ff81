"""From a folder of records to a run folder that holds a trained encoder.

RUN/config.json        all that is needed to build the encoder again, and how it came about
RUN/model.safetensors  the encoder
RUN/README.md          the run card, for people
RUN/metrics.jsonl, tensorboard/, checkpoints/, quarantine.jsonl
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from amodal import curate as curation
from amodal import data as records
from amodal import methods
from amodal.core import AmodalError, Batch, unknown
from amodal.data.loader import Views
from amodal.methods._contract import Method
from amodal.modalities import BadValue, name_of
from amodal.nn import config as encoder_config
from amodal.nn.answers import Target, targets_of
from amodal.nn.encoder import Encoder
from amodal.nn.lora import merged
from amodal.nn.saved import saved
from amodal.nn.transformer import size_of
from amodal.train import distributed, packaged
from amodal.train.folder import (
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
from amodal.train.log import read
from amodal.train.loop import Schedule, train
from amodal.train.precision import context
from amodal.train.remember import Remembered, remembered
from amodal.train.watch import ENOUGH, Watch

HELD_OUT = 512  # records that `watch` looks at
SAMPLE = 500  # values whose length is looked at
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
    as it is unless train_backbones.
    average: momentum of a moving average of the weights to keep instead of the last ones. resume: go on with the run in `out`.
    curate: a page of `amodal.curate` that chooses, of super-batches 1 / keep as large, what is trained on; curate_options: its options.
    init_from: the folder of a run whose encoder's weights to begin with, as far as names and shapes agree. adapt: go on with that encoder
    itself, as it was built, to tell labels; what is given is what a resumed run must agree with. only: (dataset, training records) ->
    those of them to learn from. remember: "mean" or "tokens" of what frozen backbones make of each value are computed once and kept in a
    cache, of values as they are and not augmented (see `amodal.train.remember`); "" runs the backbones at every step.
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
    told, head = tells(trainee, chosen, dataset), trainee.answers()
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
    rows = rows_of_a_batch(batch, size_of(size).batch, int(len(part) * keep), world, trainee.least_rows)
    pool = round(rows / keep) // world * world
    notes += [f"{curate} chooses {keep:.0%} of every {pool} records"] if choose else []
    steps = steps or (epochs or DEFAULT_EPOCHS) * max(len(part) // pool, 1)
    rate = lr if lr is not None else size_of(size).lr * min(1.0, (rows / size_of(size).batch) ** 0.5)
    pace = {"micro": micro, "checkpoint_every": checkpoint_every, "conflict": conflict}
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
    surveyed = len(trainee.stages) > 1 or trainee.survey_first or type(trainee).study is not Method.study
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

    kept = train(
        trainee,
        batches,
        schedule,
        out,
        watch=Watch(slices),
        resume=resume,
        survey=records.Loader(seen, part, batch=256, shuffle=False, labels=trainee.labels) if surveyed else None,
        choose=choose,
        device=where,
        bad=bad,
        progress=progress,
    )
    tensors = weights(merged(kept))
    names = type(trainee).generate is not Method.generate and not average  # which would be of the encoder alone
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


def classes_of(method: str, chosen: dict[str, object], dataset: records.Dataset) -> dict[str, int]:
    """The option `classes` of a method that learns from the label it was given, counted in the data."""
    if not {"label", "classes"} <= methods.options(method).keys() or chosen.get("classes"):
        return {}
    label = str(chosen.get("label", ""))
    if not label:  # the page says whether it can do without
        return {}
    if label not in dataset.labels:
        raise unknown("label of this dataset", label, dataset.labels, f"{method} learns from one: --method.label NAME.")
    names = records.class_numbers(dataset.label(label, required=True))[1]
    if not names:
        raise AmodalError(f"{method} learns to tell classes, but the label {label!r} is a number")
    return {"classes": len(names)}


def once(views: Views, seen: Remembered) -> Views:
    """The views of a method, where values that backbones have looked at have one. Raises AmodalError if it compares several of them."""
    each = {f: tuple(views.get(f, ("plain",)) if isinstance(views, Mapping) else views) for f in seen.fields}
    several = [f for f in seen.stores if len(each[f]) > 1]
    if several:
        raise AmodalError(
            f"this method compares several views of {', '.join(several)}, and features that are kept have one; leave remember out"
        )
    return each | {f: ("plain",) for f in seen.stores}


def targets_read(
    method: str, chosen: dict[str, object], dataset: records.Dataset, part: np.ndarray
) -> dict[str, tuple]:
    """The option `targets` of a method that tells any kinds of labels, read from the data."""
    accepted = methods.options(method)
    if "targets" not in accepted or chosen.get("targets"):
        return {}
    given = {name: chosen.get(name, accepted[name].default) for name in ("label", "task") if name in accepted}
    if not given["label"]:
        return {}
    found = targets_of(dataset, part, **{name: str(value) for name, value in given.items()})
    return {"targets": tuple(target.written() for target in found)}


def tells(trainee: Method, chosen: dict[str, object], dataset: records.Dataset) -> list[dict]:
    """What the outputs of a method mean, in JSON; nothing for one that tells no labels, or by a head on its encoder's features alone."""
    if trainee.answers() is not None or type(trainee).outputs is Method.outputs or not trainee.labels:
        return []
    if "targets" in chosen:
        return list(chosen["targets"])
    names = records.class_numbers(dataset.label(trainee.labels[0]))[1]
    return [Target(trainee.labels[0], "classes", tuple(names)).written()]


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


def rows_of_a_batch(wanted: int | None, usual: int, records: int, world: int, least: int) -> int:
    """The batch asked for, or the usual one of this size of encoder, if there are so many records; shared equally by `world`
    processes. Raises AmodalError if that cannot be."""
    if wanted is not None and wanted % world:
        raise AmodalError(
            f"a batch of {wanted} rows cannot be shared equally by {world} processes; take a multiple of {world}"
        )
    rows = min(wanted or usual, records) // world * world
    if not rows:
        raise AmodalError(f"{records} records to train on are fewer than the {world} processes; start fewer")
    if rows < least:
        raise AmodalError(f"this method compares records and needs batches of at least {least}; here {rows} can be had")
    return rows


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


def announce(config: dict, method: Method, dataset, notes: Sequence[str] = ()) -> None:
    encoder: Encoder = method.encoder
    shape = size_of(encoder.size)
    count = sum(p.numel() for p in encoder.parameters())
    senses = ", ".join(f"{name} ({type(m).__name__.lower()})" for name, m in dataset.fields.items())
    say = Console(stderr=True)
    say.print(
        f"[bold]{config['method']}[/] on {dataset.name}: {config['data']['train']} of {len(dataset)} records to train on; {senses}\n"
        f"encoder {encoder.size}: {encoder.trunk} trunk, width {shape.width}, depth {shape.depth}, {count / 1e6:.2f} M parameters; "
        f"batch {config['batch']}, learning rate {config['schedule']['lr']:.3g}, {config['schedule']['steps']} steps",
        highlight=False,
    )
    for note in notes:
        say.print(note, highlight=False)
    for field, share in config["data"]["truncated"].items():
        if share:
            say.print(f"{field}: {share:.0%} of the values are longer than max_length and are cut off", highlight=False)
    for field in filter(encoder.contextual, encoder.fields):
        say.print(
            f"{field}: {encoder.tokenizers[field].spec.partition('#{')[0]}: {encoder.tokenizers[field].report or 'no weights loaded'}",
            highlight=False,
        )


def truncated(dataset: records.Dataset, part: np.ndarray) -> dict[str, float]:
    """field -> the share of its values that lose their end, for kinds of data that are cut to a length; of a sample."""
    shares = {}
    for field, modality in dataset.fields.items():
        if not hasattr(modality, "truncated"):
            continue
        rows = part[dataset.present(field)[part]].tolist()
        cut = [
            bool(lost)
            for lost in (_lost(dataset, i, field) for i in rows[:: max(len(rows) // SAMPLE, 1)])
            if lost is not None
        ]
        shares[field] = round(sum(cut) / max(len(cut), 1), 4)
    return shares


def _lost(dataset: records.Dataset, i: int, field: str) -> int | None:
    try:
        return dataset.fields[field].truncated(dataset.raw(i, field))
    except BadValue:
        return None  # it will be put in quarantine when it is read


def held_out(dataset: records.Dataset, part: Sequence[int]) -> list[Batch]:
    """Records for `watch`, of the validation part if that has enough. Raises AmodalError if nothing in them can be read, and
    warns of a field of which nothing can."""
    held = dataset.split("valid")[:HELD_OUT]
    if len(held) < ENOUGH:
        held = part[:HELD_OUT]  # collapse shows there too
    loader = records.Loader(dataset, held, batch=256, shuffle=False)
    batches = list(loader)
    dead = [f for f in dataset.fields if dataset.present(f)[held].any() and not any(len(b[f]) for b in batches)]
    reasons = {bad.field: f"{bad.key}: {bad.reason}" for bad in reversed(loader.bad)}
    for field in dead:
        words = f"none of the values of {field!r} that were looked at can be read as {name_of(dataset.fields[field])} ({reasons[field]})"
        if len(dead) == len(dataset.fields):
            raise AmodalError(f"{words}; look at dataset.toml")
        warnings.warn(words, stacklevel=2)
    return batches
