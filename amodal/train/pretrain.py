"""`pretrain`: from records to a run folder with a trained method, in five steps.

RUN/config.json        the configuration of the run
RUN/spec.json          how the method is built
RUN/model.safetensors  all tensors of the method
RUN/README.md          the run card
RUN/tokenizer-*.json   the tokens of each field that were learnt, for other libraries
RUN/metrics.jsonl, tensorboard/, checkpoints/, quarantine.jsonl
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from amodal import curate as curation
from amodal import data as records
from amodal import methods
from amodal.core import AmodalError, Recipe
from amodal.core.argument_types import check_type, is_path
from amodal.core.matmul import fast_products
from amodal.core.part import Spec
from amodal.core.protocols import FitsStatistics, Refreshes, Retrieves
from amodal.data.loader import Views
from amodal.methods.saved import SPEC, check_plugins, code_hash, code_of_source, saved, spec_of
from amodal.nn.adapters.lora import merged
from amodal.nn.backbones.single_stream import is_model
from amodal.nn.backbones.vit_weights import vit_weights
from amodal.nn.encoder import Encoder
from amodal.nn.transformer import size_of
from amodal.train import distributed, packaged, run_config, run_dir, start
from amodal.train.batches import Batches
from amodal.train.cache_features import with_cached_features
from amodal.train.changed_code import earlier_code
from amodal.train.collapse_monitor import CollapseMonitor
from amodal.train.extend import Extension, extension
from amodal.train.fresh_encoder import fresh_encoder
from amodal.train.log import seconds_of
from amodal.train.log_start import log_start
from amodal.train.loop import train
from amodal.train.overwriting import check_beside_data
from amodal.train.precision import context
from amodal.train.repeatable import repeatable
from amodal.train.run_dir import Config
from amodal.train.run_inputs import Built, Inputs, Prepared
from amodal.train.run_setup import (
    classes_option,
    held_out_batches,
    matmul_library,
    predicted_targets,
    resolve_batch_size,
    resolve_recipe,
    single_view,
    targets_option,
    truncated_shares,
    views_of_recipe,
    with_resolution,
)
from amodal.train.run_tokens import with_bands, with_tokens, with_tokens_of, write_tokenizers
from amodal.train.schedule import stages_of
from amodal.train.settings import SIZE, Settings, for_data, read_settings
from amodal.train.small_networks import notes_of_added, with_small_networks, without_tokens
from amodal.train.start import pick_device as pick_device

EXACT = ("micro_batch_size", "gradient_checkpointing", "fsdp")
"""Fields of a recipe that change no result, so a resumed run may change them."""


def pretrain(method: methods.MethodLike, data: Any, out: str | Path, **settings: Any) -> Path:
    """Pretrain an encoder without labels.

    Args:
        method: The name of a page of `amodal.methods`, a function, or a reference to one.
        data: A folder, file, bundled name, dict of arrays, or Dataset.
        out: The run folder to write.
        settings: `recipe`, any field of a `Recipe`, and the fields of
            `amodal.train.settings.Settings`.

    Returns:
        The run folder.

    Raises:
        AmodalError: For a mistake in the arguments or the data.
        TrainingStopped: If the loss is not finite, or the features have collapsed.
    """
    check_type("out", out, is_path, "the run folder to write")
    for run in (settings.get("resume") and out, settings.get("init_from")):
        if run and is_path(run):  # first: the method and the fields of the data may be of plug-ins
            check_plugins(run)
    read = read_settings(method, settings)
    with code_of_source(read.init_from, read.init_method, read.init_backbones):
        inputs = open_inputs(method, data, read, Path(out))
        built = build(inputs)
    prepared = prepare(inputs, built, Path(out))
    alone = run_dir.alone(prepared.out, distributed.rank())
    resume, deterministic = read.resume, read.deterministic
    with alone, repeatable(prepared.out, deterministic=deterministic, resume=resume):
        encoder = fit(inputs, built, prepared)
        save(inputs, built, prepared, encoder)
    return prepared.out


def open_inputs(method: methods.MethodLike, data: Any, settings: Settings, out: Path) -> Inputs:
    """Open the data, and the run to start from, and learn the tokens of text.

    Args:
        out: The run folder, whose tokens a resumed run keeps.

    Raises:
        AmodalError: If there are no training records.
    """
    distributed.start()
    dataset = records.open(data)
    check_beside_data(out, dataset)
    dataset = dataset.select(list(settings.fields)) if settings.fields else dataset
    backbones = packaged.resolve_specs(without_tokens(settings.backbones or {}))
    declared, dataset = dataset, packaged.match_inputs(dataset, backbones)
    if is_model(settings.trunk):
        dataset = packaged.match_trunk(dataset, str(settings.trunk))
    dataset = with_bands(dataset, methods.bands(method))
    dataset = with_tokens(dataset, methods.tokens(method))
    vit, inherited = vit_weights(settings.init_from), dict[str, Any]()
    if vit is not None:
        dataset, inherited = start.start_from_vit(vit, dataset, settings)
    from_run = bool(settings.init_from) and vit is None
    source: Encoder | None = saved(settings.init_from)[0] if from_run else None
    if source is not None:
        # the weights are valid only for values that are decoded as they were then
        shared = {f: source.fields.get(f, m) for f, m in dataset.fields.items()}
        dataset = dataset.with_fields(shared if settings.adapt is None else source.fields)
    part = dataset.split("train")
    part = part if settings.only is None else settings.only(dataset, part)
    if not len(part):
        raise AmodalError(
            f"{dataset.name} has {len(dataset)} records and none falls in the training part; "
            "more records are needed"
        )
    settings = for_data(method, settings, dataset, len(part))
    added: dict[str, str] = {}
    dataset = with_resolution(dataset, settings.recipe.resolution, backbones)
    if vit is not None:
        source = start.encoder_of_vit(vit, method, dataset, settings, inherited)
    elif source is not None:
        inherited = start.inherited_from_run(source, dataset, settings)
    if "size" not in inherited:
        settings = replace(settings, size=settings.size or SIZE)  # written, as it may change
    if not is_model(settings.trunk):
        settings, added = with_small_networks(method, settings, dataset, len(part), source, out)
    backbones = {**backbones, **added}
    if settings.resume:
        dataset = with_tokens_of(out, dataset)
    dataset = records.learn_tokens(
        dataset,
        part,
        known=source.fields if source else (),
        agree=distributed.from_first,
        shared=methods.shares_tokens(method),
    )
    notes = tuple(packaged.notes_of(declared, dataset, backbones))
    notes += tuple(notes_of_added(added, settings, source))
    choose = None
    if settings.curate:
        choose = curation.batch_selector(settings.curate, settings.curate_options)
    return Inputs(
        method,
        settings,
        dataset,
        part,
        backbones,
        source,
        inherited,
        choose,
        notes,
        code_hash(method),
    )


def build(inputs: Inputs) -> Built:
    """Build the encoder and the method around it, the same from the same seed."""
    name, settings, dataset = inputs.method, inputs.settings, inputs.dataset
    torch.manual_seed(settings.seed)
    encoder = saved(settings.init_from)[0].train() if inputs.adapts else fresh_encoder(inputs)
    options = methods.parse(name, settings.options)
    options |= classes_option(name, options, dataset)
    options |= targets_option(name, options, dataset, inputs.part)
    methods.check_writable(name, options)
    source = None if inputs.adapts else inputs.source
    if source is not None:  # before the method, which may copy the encoder as a teacher
        start.load_matching_weights(encoder, source, str(settings.init_from))
    encoder_spec = encoder.spec
    method = methods.build(name, encoder, **options)
    pool = (inputs.inherited | settings.encoder).get("pool")
    if pool == "cls":  # a page that asks for it knows what it reads
        encoder.check_pools()
    notes = []
    if source is not None:  # and after it, for the heads that it adds
        notes = [start.load_matching_weights(method.encoder, source, str(settings.init_from))]
    predicts = predicted_targets(method, options, dataset)
    built = Built(encoder, method, options, encoder_spec, predicts, notes)
    if inputs.adapts and not built.predicts and built.head is None:
        raise AmodalError(
            f"{methods.title(name)} learns with a label but predicts none; "
            f"`amodal pretrain {methods.title(name)} --init-from RUN` continues a run"
        )
    return built


def prepare(inputs: Inputs, built: Built, out: Path) -> Prepared:
    """Resolve the recipe, create the run folder, and print how the run starts."""
    settings, method, part = inputs.settings, built.method, inputs.part
    if settings.recipe.ema and (built.predicts or built.head is not None):
        raise AmodalError(
            "ema averages the encoder alone, and the head that predicts labels is trained on the "
            "latest weights; leave ema out"
        )
    device = pick_device(settings.device)
    dataset, views = training_data(inputs, built, device)
    held_out = [batch.to(device) for batch in held_out_batches(dataset, part)]
    share = inputs.choose.keep if inputs.choose else 1.0
    world = distributed.world()
    rows = resolve_batch_size(
        settings.recipe.batch_size,
        size_of(built.encoder.size).batch,
        int(len(part) * share),
        world,
        method.min_batch_size,
    )
    # ranks share a super-batch equally, as they do a batch
    pool = round(rows / share) // world * world
    notes = [*inputs.notes, *built.notes]
    if inputs.choose:
        notes.append(f"{settings.curate} selects {share:.0%} of every {pool} records")
    recipe = resolve_recipe(settings.recipe, len(part), rows, pool, built.encoder.size)
    staged = len(stages_of(method, recipe)) > 1
    longer = extension(out, recipe, settings.resume, staged)
    recipe = recipe if longer is None else longer.recipe
    config = config_of(inputs, built, recipe)
    config["matmul"] = matmul_library(out, settings.matmul, settings.resume)
    make_folder(out, config, inputs, built, recipe, longer)
    if settings.progress and distributed.rank() == 0:
        log_start(config, method, inputs.dataset, notes)
    if inputs.choose:
        inputs.choose.prepare(
            method.to(device),
            micro_batch_size=recipe.micro_batch_size,
            gather=cast(Any, distributed.gather),
            rank=distributed.rank(),
            precision=context(recipe.precision, device, built.encoder.width),
        )
    return Prepared(out, device, dataset, views, rows, pool, recipe, held_out, config)


def training_data(
    inputs: Inputs, built: Built, device: torch.device
) -> tuple[records.Dataset, Views]:
    """The training data, with cached features if requested, and its views."""
    settings, dataset = inputs.settings, inputs.dataset
    views = views_of_recipe(settings.recipe, built.method.views, dataset)
    if not settings.cache_features:
        return dataset, views
    cached = with_cached_features(
        dataset,
        built.encoder,
        device,
        pooled=settings.cache_features == "mean",
        progress=settings.progress,
    )
    return cached, single_view(views, cached)


def config_of(inputs: Inputs, built: Built, recipe: Recipe) -> Config:
    """RUN/config.json, with which a resumed run must agree."""
    settings, dataset, part, encoder = inputs.settings, inputs.dataset, inputs.part, built.encoder
    defaults = {n: p.default for n, p in methods.options(inputs.method).items()}
    backbones = [encoder.tokenizers[f] for f in encoder.tokenizers if encoder.contextual(f)]
    curated = {"curate": {"name": settings.curate, **settings.curate_options}}
    return {
        "method": methods.title(inputs.method),
        "options": defaults | built.options,
        "encoder": built.method.encoder.spec,
        "data": {
            "name": dataset.name,
            "path": run_dir.path_of(dataset),
            "fingerprint": dataset.fingerprint,
            "records": len(dataset),
            "train": len(part),
            "truncated": truncated_shares(dataset, part),
        },
        "recipe": {n: v for n, v in recipe.written().items() if n not in EXACT},
        **({"recipe_from": settings.recipe_from} if settings.recipe_from else {}),
        "batch": recipe.batch_size,
        "seed": settings.seed,
        "schedule": {
            "steps": recipe.steps,
            "lr": recipe.lr,
            "train_backbones": any(not backbone.frozen for backbone in backbones),
            **({"adapt": settings.adapt} if settings.adapt else {}),
            **({"cache_features": settings.cache_features} if settings.cache_features else {}),
            **(curated if settings.curate else {}),
            **({"init_from": str(settings.init_from)} if settings.init_from else {}),
        },
    }


def make_folder(
    out: Path,
    config: Config,
    inputs: Inputs,
    built: Built,
    recipe: Recipe,
    longer: Extension | None,
) -> None:
    """Create the run folder on the first process; the others wait for it."""
    if distributed.rank() == 0:
        source, dataset = inputs.settings.init_from, inputs.dataset
        run_dir.prepare(out, longer.compared(config) if longer else config, inputs.settings.resume)
        if longer:
            longer.apply(config)
        spec = spec_of_run(inputs, built, out)
        run_config.write(out, inputs.method, dataset, inputs.settings, recipe, spec["plugins"])
        run_dir.write_json(out / SPEC, spec)
        write_tokenizers(out, dataset.fields)
        trained = run_dir.hash_keys(dataset.keys[i] for i in inputs.part)
        earlier = run_dir.read_trained(Path(source)) if source else None
        if earlier is not None:
            trained = np.concatenate([earlier, trained])
        run_dir.write_trained(out, trained)
    distributed.barrier()


def fit(inputs: Inputs, built: Built, prepared: Prepared) -> nn.Module:
    """Train. Returns the encoder to save: the last one, or the average."""
    settings, method = inputs.settings, built.method
    batches = Batches(inputs, built, prepared)
    all_records = records.Loader(
        prepared.dataset, inputs.part, batch=256, shuffle=False, labels=method.labels
    )
    with fast_products(prepared.config["matmul"]):
        return train(
            method,
            batches,
            prepared.recipe,
            prepared.out,
            monitor=CollapseMonitor(prepared.held_out),
            resume=settings.resume,
            records=all_records if isinstance(method, Refreshes | FitsStatistics) else None,
            choose=inputs.choose,
            device=prepared.device,
            quarantined=batches.quarantined,
            tensorboard=False,  # it is among the loggers
            loggers=settings.loggers,
            callbacks=settings.callbacks,
            save_every=settings.save_every,
            conflict=settings.conflict,
            config=prepared.config,
            progress=settings.progress,
        )


def save(inputs: Inputs, built: Built, prepared: Prepared, encoder: nn.Module) -> None:
    """Write the whole method into the run folder.

    Args:
        encoder: What `fit` returned, which may be an average of the weights.
    """
    out, method = prepared.out, built.method
    tensors = run_dir.weights(merged(method))
    if encoder is not method.encoder:
        tensors |= {f"encoder.{n}": v for n, v in run_dir.weights(encoder).items()}
    if distributed.rank() == 0:
        spec = spec_of_run(inputs, built, out)
        beside: dict[str, Any] = {SPEC: spec}
        if spec["retrieves"]:
            beside["keys.json"] = [inputs.dataset.keys[i] for i in inputs.part]
        result: Config = {
            "status": "done",
            "versions": run_dir.versions(),
            "seconds": seconds_of(out),
            **({"curation": inputs.choose.cost()} if inputs.choose else {}),
            "processes": distributed.world(),
            "device": prepared.device.type,
        }
        run_dir.save_weights(out, tensors, prepared.config | result, beside)
    distributed.barrier()


def spec_of_run(inputs: Inputs, built: Built, out: Path) -> Spec:
    """The content of RUN/spec.json. out: the run folder, in which a resumed run has one."""
    targets = built.predicts or (built.head.written()["targets"] if built.head is not None else [])
    # the records are named by the decoder, which the average of an encoder's weights does not fit
    retrieves = isinstance(built.method, Retrieves) and not inputs.settings.recipe.ema
    options = built.options | dict(built.method.spec_options)
    spec = spec_of(inputs.method, options, built.encoder_spec, targets, retrieves, inputs.code)
    earlier = earlier_code(out, inputs, built)
    return spec | ({"earlier_code": earlier} if earlier else {})
