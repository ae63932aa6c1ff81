"""From a folder of records to a run folder that holds a trained encoder, in five steps.

RUN/config.json        all that is needed to build the encoder again, and how it came about
RUN/model.safetensors  the encoder
RUN/README.md          the run card, for people
RUN/metrics.jsonl, tensorboard/, checkpoints/, quarantine.jsonl
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from amodal import curate as curation
from amodal import data as records
from amodal import methods
from amodal.core import AmodalError, Batch, Recipe
from amodal.core.matmul import fast_products, for_run
from amodal.core.part import Spec
from amodal.core.protocols import FitsStatistics, PredictsFromFeatures, Refreshes, Retrieves
from amodal.curate import Choose
from amodal.methods.contract import Method
from amodal.methods.saved import SPEC, saved, spec_of
from amodal.nn import config as encoder_config
from amodal.nn.adapters.lora import merged
from amodal.nn.encoder import Encoder
from amodal.nn.transformer import size_of
from amodal.train import distributed, packaged, run_config, run_dir
from amodal.train.cache_features import remembered
from amodal.train.collapse_monitor import Watch
from amodal.train.log import seconds_of
from amodal.train.log_start import announce
from amodal.train.loop import train
from amodal.train.precision import context
from amodal.train.run_setup import (
    classes_of,
    held_out,
    once,
    resized,
    resolved,
    rows_of_a_batch,
    targets_read,
    tells,
    truncated,
    views_of_recipe,
)
from amodal.train.settings import Settings, read_settings
from amodal.train.start import begin_with
from amodal.train.start import pick_device as pick_device

EXACT = ("micro_batch_size", "gradient_checkpointing", "fsdp")
"""Fields of a recipe that change no number, so that a run may go on with others."""


def pretrain(method: methods.MethodLike, data, out: str | Path, **settings) -> Path:
    """Pretrain an encoder without labels.

    Args:
        method: a page of `amodal.methods`, a function of one's own, or where one is.
        data: a folder, file, bundled name, dict of arrays, or Dataset.
        out: the run folder to write.
        settings: `recipe`, any field of a Recipe, and those of `amodal.train.settings.Settings`.

    Returns:
        The run folder.
    """
    opened = open_run(method, data, read_settings(method, settings))
    built = build(opened)
    prepared = prepare(opened, built, Path(out))
    encoder = fit(opened, built, prepared)
    save(opened, built, prepared, encoder)
    return prepared.out


@dataclass(frozen=True)
class Opened:
    """What a run begins with.

    method: the name of a page. dataset: of the fields to use. part: (n,) the records to train on.
    backbones: field -> spec. start: the encoder of `init_from`, if a run begins with one.
    choose: what chooses from super-batches.
    """

    method: methods.MethodLike
    settings: Settings
    dataset: records.Dataset
    part: np.ndarray
    backbones: dict[str, str]
    start: Encoder | None = None
    choose: Choose | None = None

    @property
    def adapts(self) -> bool:
        """Whether the encoder of `init_from` itself goes on; else a fresh one takes its weights."""
        return self.settings.adapt is not None


@dataclass(frozen=True)
class Built:
    """What is trained.

    before: describes the encoder as it was before the method added to it. options: of the method,
    as parsed. predicts: the labels that the whole method predicts, none for a head on features.
    notes: what to say when the run starts.
    """

    encoder: Encoder
    trainee: Method
    options: dict[str, object]
    before: dict
    predicts: list[dict]
    notes: list[str] = field(default_factory=list)

    @property
    def head(self) -> nn.Module | None:
        """What predicts labels from the encoder's features, if the method has one."""
        return self.trainee.label_head if isinstance(self.trainee, PredictsFromFeatures) else None


@dataclass(frozen=True)
class Prepared:
    """How it is trained.

    seen: the data as it is trained on, whose features may be cached. rows: of a batch, over all
    processes. pool: rows that these are chosen from. watched: held-out records. config: of the run.
    """

    out: Path
    device: torch.device
    seen: records.Dataset
    views: object
    rows: int
    pool: int
    recipe: Recipe
    watched: list[Batch]
    config: dict


def open_run(method: methods.MethodLike, data, settings: Settings) -> Opened:
    """Open the data and what the run begins with. Raises AmodalError without training records."""
    distributed.start()
    dataset = records.open(data)
    dataset = dataset.select(list(settings.fields)) if settings.fields else dataset
    backbones = packaged.specs(settings.backbones or {})
    dataset = packaged.in_their_words(dataset, backbones)
    start = saved(settings.init_from)[0] if settings.init_from else None
    if start is not None and settings.adapt is not None:
        dataset = dataset.with_fields(start.fields)
    elif (
        start is not None
    ):  # its weights mean what they meant only for values that are read as they were
        dataset = dataset.with_fields(
            {f: start.fields.get(f, m) for f, m in dataset.fields.items()}
        )
    dataset = resized(dataset, settings.recipe.resolution)
    part = dataset.split("train")
    part = part if settings.only is None else settings.only(dataset, part)
    if not len(part):
        raise AmodalError(
            f"{dataset.name} has {len(dataset)} records and none falls in the training part; more records are needed"
        )
    choose = curation.chooser(settings.curate, settings.curate_options) if settings.curate else None
    return Opened(method, settings, dataset, part, backbones, start, choose)


def build(opened: Opened) -> Built:
    """Build the encoder and the method around it, the same from the same seed."""
    method, settings, dataset, start = opened.method, opened.settings, opened.dataset, opened.start
    torch.manual_seed(settings.seed)
    encoder = adapted(settings) if opened.adapts else fresh_encoder(opened)
    options = methods.parse(method, settings.options)
    options |= classes_of(method, options, dataset) | targets_read(
        method, options, dataset, opened.part
    )
    fresh = start is not None and not opened.adapts
    if (
        fresh
    ):  # before the method may copy the encoder as a teacher, and after, for the heads that it adds
        begin_with(encoder, start, str(settings.init_from))
    before = encoder.spec
    trainee = methods.build(method, encoder, **options)
    notes = [begin_with(trainee.encoder, start, str(settings.init_from))] if fresh else []
    built = Built(encoder, trainee, options, before, tells(trainee, options, dataset), notes)
    if opened.adapts and not built.predicts and built.head is None:
        raise AmodalError(
            f"{methods.title(method)} learns with a label but predicts none; "
            f"`amodal pretrain {methods.title(method)} --init-from RUN` goes on with a run"
        )
    return built


def adapted(settings: Settings) -> Encoder:
    """The encoder of `init_from`, to be trained on."""
    return saved(settings.init_from)[0].train()


def fresh_encoder(opened: Opened) -> Encoder:
    """An encoder of the fields of the data, as the method's page has it by default."""
    settings, fields = opened.settings, opened.dataset.fields
    backbones = encoder_config.backbones(
        opened.backbones, fields, settings.size, frozen=not settings.train_backbones
    )
    asked = methods.encoder_options(opened.method) | settings.encoder
    return Encoder(fields, size=settings.size, backbones=backbones, **asked)


def prepare(opened: Opened, built: Built, out: Path) -> Prepared:
    """Decide how long, how fast and on what batches, make the run folder, and say so."""
    settings, trainee, part = opened.settings, built.trainee, opened.part
    if settings.recipe.ema and (built.predicts or built.head is not None):
        raise AmodalError(
            "an average is of the encoder alone, and what predicts labels learns with its last weights; leave ema out"
        )
    device = pick_device(settings.device)
    seen, views = seen_data(opened, built, device)
    watched = [batch.to(device) for batch in held_out(seen, part)]
    share = opened.choose.keep if opened.choose else 1.0
    world, usual = distributed.world(), size_of(built.encoder.size)
    rows = rows_of_a_batch(
        settings.recipe.batch_size,
        usual.batch,
        int(len(part) * share),
        world,
        trainee.min_batch_size,
    )
    pool = round(rows / share) // world * world
    notes = built.notes + (
        [f"{settings.curate} chooses {share:.0%} of every {pool} records"] if opened.choose else []
    )
    recipe = resolved(settings.recipe, len(part), rows, pool, built.encoder.size)
    config = described(opened, built, recipe)
    config["matmul"] = chosen_matmul(out, settings)
    make_folder(out, config, opened, built, recipe)
    if settings.progress and distributed.rank() == 0:
        announce(config, trainee, opened.dataset, notes)
    if opened.choose:
        precision = context(recipe.precision, device, built.encoder.width)
        opened.choose.prepare(
            trainee.to(device),
            micro=recipe.micro_batch_size,
            gather=distributed.gather,
            process=distributed.rank(),
            precision=precision,
        )
    return Prepared(out, device, seen, views, rows, pool, recipe, watched, config)


def chosen_matmul(out: Path, settings: Settings) -> str:
    """The library of float32 products on a CPU; a resumed run goes on with the one it began with."""
    file = out / "config.json"
    begun = run_dir.read_config(file) if settings.resume and file.exists() else {}
    return for_run(settings.matmul, begun.get("matmul"), distributed.from_first)


def seen_data(opened: Opened, built: Built, device: torch.device) -> tuple[records.Dataset, object]:
    """The data as it is trained on, with cached features if asked for, and the views of it."""
    settings, dataset = opened.settings, opened.dataset
    views = views_of_recipe(settings.recipe, built.trainee.views, dataset)
    if not settings.cache_features:
        return dataset, views
    pooled = settings.cache_features == "mean"
    seen = remembered(dataset, built.encoder, device, pooled=pooled, progress=settings.progress)
    return seen, once(views, seen)


def described(opened: Opened, built: Built, recipe: Recipe) -> dict:
    """RUN/config.json: what a resumed run must agree with."""
    settings, dataset, part, encoder = opened.settings, opened.dataset, opened.part, built.encoder
    defaults = {n: p.default for n, p in methods.options(opened.method).items()}
    learning = any(not t.frozen for f, t in encoder.tokenizers.items() if encoder.contextual(f))
    curated = {"curate": {"name": settings.curate, **settings.curate_options}}
    return {
        "method": methods.title(opened.method),
        "options": defaults | built.options,
        "encoder": built.trainee.encoder.spec,
        "data": {
            "name": dataset.name,
            "path": str(dataset.path or ""),
            "fingerprint": dataset.fingerprint,
            "records": len(dataset),
            "train": len(part),
            "truncated": truncated(dataset, part),
        },
        "recipe": {n: v for n, v in recipe.written().items() if n not in EXACT},
        "batch": recipe.batch_size,
        "seed": settings.seed,
        "schedule": {
            "steps": recipe.steps,
            "lr": recipe.lr,
            "train_backbones": learning,
            **({"adapt": settings.adapt} if settings.adapt else {}),
            **({"remember": settings.cache_features} if settings.cache_features else {}),
            **(curated if settings.curate else {}),
            **({"init_from": str(settings.init_from)} if settings.init_from else {}),
        },
    }


def make_folder(out: Path, config: dict, opened: Opened, built: Built, recipe: Recipe) -> None:
    """The run folder, made by the first process, for which the others wait."""
    if distributed.rank() == 0:
        start, dataset = opened.settings.init_from, opened.dataset
        run_dir.prepare(out, config, opened.settings.resume)
        run_config.write(out, opened.method, dataset, opened.settings, recipe)
        run_dir.write_json(out / SPEC, spec_of_run(opened, built))
        before_it = run_dir.read_trained(Path(start)) if start else None
        seen_keys = run_dir.hashes(dataset.keys[i] for i in opened.part)
        run_dir.write_trained(
            out, seen_keys if before_it is None else np.concatenate([before_it, seen_keys])
        )
    distributed.barrier()


def fit(opened: Opened, built: Built, prepared: Prepared) -> nn.Module:
    """Train. Returns the encoder to save: the last one, or the average."""
    settings, trainee = opened.settings, built.trainee
    drawn = Batches(opened, built, prepared)
    looks_at_all = isinstance(trainee, (Refreshes, FitsStatistics))
    every = records.Loader(
        prepared.seen, opened.part, batch=256, shuffle=False, labels=trainee.labels
    )
    with fast_products(prepared.config["matmul"]):
        return train(
            trainee,
            drawn,
            prepared.recipe,
            prepared.out,
            watch=Watch(prepared.watched),
            resume=settings.resume,
            records=every if looks_at_all else None,
            choose=opened.choose,
            device=prepared.device,
            bad=drawn.bad,
            tensorboard=False,  # a logger as others
            loggers=settings.logger,
            callbacks=settings.callbacks,
            save_every=settings.save_every,
            conflict=settings.conflict,
            config=prepared.config,
            progress=settings.progress,
        )


class Batches:
    """This process's share of the batches from any step on, and the unreadable values in them."""

    def __init__(self, opened: Opened, built: Built, prepared: Prepared):
        self.opened, self.built, self.prepared = opened, built, prepared
        self.running: list[records.Loader] = []

    def __call__(self, first: int, groups: np.ndarray | None = None) -> records.Loader:
        settings, prepared = self.opened.settings, self.prepared
        loader = records.Loader(
            prepared.seen,
            self.opened.part,
            batch=prepared.pool,
            views=prepared.views,
            seed=settings.seed,
            steps=prepared.recipe.steps,
            start_step=first,
            workers=settings.workers,
            rank=distributed.rank(),
            world=distributed.world(),
            labels=self.built.trainee.labels,
            groups=groups,
        )
        self.running.append(loader)
        return loader

    def bad(self) -> int:
        """How many values are in quarantine, which is written."""
        rank, loader = distributed.rank(), self.running[-1]
        loader.quarantine(
            self.prepared.out / ("quarantine.jsonl" if rank == 0 else f"quarantine-{rank}.jsonl")
        )
        return len(loader.bad)


def save(opened: Opened, built: Built, prepared: Prepared, encoder: nn.Module) -> None:
    """Write the whole method into the run folder. encoder: what `fit` returned, which may be an
    average."""
    out, trainee = prepared.out, built.trainee
    averaged = encoder is not trainee.encoder
    tensors = run_dir.weights(merged(trainee))
    if averaged:
        tensors |= {f"encoder.{n}": v for n, v in run_dir.weights(encoder).items()}
    if distributed.rank() == 0:
        done = {"status": "done", "versions": run_dir.versions(), "seconds": seconds_of(out)}
        done |= {"curation": opened.choose.cost()} if opened.choose else {}
        spec = spec_of_run(opened, built)
        if spec["retrieves"]:
            run_dir.write_json(out / "keys.json", [opened.dataset.keys[i] for i in opened.part])
        run_dir.write_json(out / SPEC, spec)
        where = {"processes": distributed.world(), "device": prepared.device.type}
        run_dir.save_weights(out, tensors, prepared.config | done | where)
    distributed.barrier()


def spec_of_run(opened: Opened, built: Built) -> Spec:
    """What spec.json says."""
    targets = built.predicts or (built.head.written()["targets"] if built.head is not None else [])
    options = built.options | dict(built.trainee.spec_options)
    retrieves = isinstance(built.trainee, Retrieves) and not opened.settings.recipe.ema
    return spec_of(opened.method, options, built.before, targets, retrieves)
