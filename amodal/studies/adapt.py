"""`amodal.adapt` without a tuning: compare what may predict the labels, and keep the best."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from amodal.core import AmodalError
from amodal.data import Dataset
from amodal.inference.heads import AnyHead, head_outputs
from amodal.inference.predict import MethodPredictor
from amodal.inference.probe_head import ProbeHead
from amodal.methods.saved import SPEC, SavedRun, encoder_spec, load_run
from amodal.nn.heads.supervised import Target, targets_of
from amodal.progress import Bar
from amodal.studies.choose_head import (
    FINE_TUNED,
    Choice,
    Score,
    check_records,
    choose,
    metric_of,
    score_of,
    sentence,
)
from amodal.studies.frozen_heads import Described, Records, described, drawn, frozen_heads
from amodal.train import distributed, run_dir
from amodal.train.cache_features import features_of_run
from amodal.train.overwriting import check_overwritten
from amodal.train.start import pick_device

FineTune = Callable[[Path, bool], object]
"""(folder, whether to resume) -> writes the run of a fine-tuned network."""


def adapt_best(
    run: str | Path,
    dataset: Dataset,
    out: str | Path,
    fine_tune: FineTune,
    *,
    label: str,
    tuning: str,
    task: str = "",
    only: Callable[[Dataset, np.ndarray], np.ndarray],
    asked: Mapping[str, Any],
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    progress: bool = True,
) -> Choice:
    """Choose what predicts labels best on the validation part, and write its run.

    Args:
        run: The folder of the run whose encoder is adapted.
        dataset: The data, opened.
        out: The run folder to write.
        fine_tune: Writes the run of a fine-tuned network.
        label: As `amodal.adapt.adapt` takes it.
        tuning: What `fine_tune` does, the name of its candidate.
        task: As `amodal.adapt.adapt` takes it.
        only: Training records -> those to learn from.
        asked: Name -> what was asked for, in JSON. A run that is resumed is of the same.
        seed: Of all that is random.
        device: Where the encoder is computed.
        resume: Go on in `out`.
        progress: Show bars.

    Raises:
        AmodalError: If `out` holds a run and is not resumed or is of something else, in more than
            one process, and where hardly a validation record has the label.
    """
    out = Path(out)
    distributed.start()
    if distributed.world() > 1:
        raise AmodalError(
            "candidates are compared in one process; choose a tuning, such as --tuning lora, to "
            "train on more"
        )
    finished = (out / "config.json").exists()
    if finished and not resume:
        raise AmodalError(
            f"{out} holds a run already; add --resume to continue it, or choose another --out"
        )
    if finished:
        if (earlier := Choice.load(out)) is None:
            raise AmodalError(
                f"the run in {out} was started with a tuning of its own; name it, as in --tuning "
                "lora, to continue it"
            )
        earlier.check(asked, out)
        return earlier
    check_overwritten(out)
    saved, where = load_run(run), pick_device(device)
    saved.module.to(where)
    fields = dataset.with_fields(saved.encoder.fields)
    data = features_of_run(fields, saved.encoder, saved.config, where)
    train = Records(data, only(dataset, dataset.split("train")))
    targets = targets_of(dataset, train.rows, label, task or "auto")
    valid = Records(data, labelled_rows(Records(data, dataset.split("valid")), targets))
    check_records(valid, targets)
    fitted = drawn(train, seed)
    seen, unseen = (described(saved.encoder, one, where, progress) for one in (fitted, valid))
    heads = frozen_heads(saved.encoder, fitted, seen, targets, seed=seed, progress=progress)
    scores = _scores(heads, valid, unseen, progress)
    folder, name = out / FINE_TUNED, f"fine-tuning ({tuning})"
    began = time.perf_counter()
    fine_tune(folder, (folder / "config.json").exists())
    scores[name] = _score_of_run(folder, dataset, valid, where, time.perf_counter() - began)
    simple = [one for one, (head, _) in heads.items() if head.features == "simple"]
    others = [one for one in heads if one not in simple]
    chosen, metric = choose(scores, (simple, others, [name])), metric_of(targets)
    summary = sentence(scores, chosen, metric, len(valid.rows))
    choice = Choice(chosen, metric, scores, len(valid.rows), summary, asked)
    choice.save(out)
    if chosen == name:
        run_dir.mark_chosen(folder)
        _moved(folder, out)
    else:
        written = _hashes(run, dataset, train.rows)
        _write(out, saved, heads[chosen][0], written, {"from": str(run), "label": label})
    return choice


def labelled_rows(part: Records, targets: Sequence[Target]) -> np.ndarray:
    """The records of a part that have any of the targets."""
    has = np.any([part.known(target) for target in targets], 0)
    rows: np.ndarray = part.rows[has]
    return rows


def _scores(
    heads: Mapping[str, tuple[ProbeHead, Callable[[], None]]],
    valid: Records,
    unseen: Described,
    progress: bool,
) -> dict[str, Score]:
    scores = {}
    with Bar("heads on frozen features", len(heads), shown=progress) as bar:
        for name, (head, fit) in heads.items():
            began = time.perf_counter()
            fit()
            seconds = time.perf_counter() - began
            outputs = head.of_values(unseen.probed, unseen.values, unseen.size)
            score = score_of(head, outputs, valid)
            scores[name] = Score(score.value, score.error, score.loss, seconds)
            bar.step("heads")
    return scores


def _score_of_run(
    folder: Path, dataset: Dataset, valid: Records, device: Any, seconds: float
) -> Score:
    tuned = load_run(folder)
    tuned.module.to(device)
    data = features_of_run(
        dataset.with_fields(tuned.encoder.fields), tuned.encoder, tuned.config, device
    )
    records = Records(data, valid.rows)
    head: AnyHead = MethodPredictor(tuned.method, tuned.targets)
    if tuned.head is not None:
        head = tuned.head.to(device)
    outputs = head_outputs(head, tuned.encoder, data, records.rows)
    score = score_of(head, outputs, records)
    return Score(score.value, score.error, score.loss, seconds)


def _hashes(run: str | Path, dataset: Dataset, rows: np.ndarray) -> Any:
    """Hashes of the keys of all records that the run and the head learnt from."""
    own = run_dir.hash_keys(dataset.keys[i] for i in rows.tolist())
    earlier = run_dir.read_trained(Path(run))
    return None if earlier is None else np.concatenate([earlier, own])


def _write(
    out: Path, saved: SavedRun, head: ProbeHead, trained: Any, adapted: dict[str, str]
) -> None:
    """The run of an encoder as it was, with a head."""
    out.mkdir(parents=True, exist_ok=True)
    run_dir.write_trained(out, trained)
    log = Path(adapted["from"]) / "metrics.jsonl"
    if log.exists():  # of the encoder, which is still the same
        shutil.copyfile(log, out / log.name)
    config = saved.config | {"head": head.save(out), "adapted": adapted | {"head": head.name}}
    config |= {run_dir.CHOSEN_ON: "valid"}
    spec = encoder_spec(saved.encoder) if saved.method is None else saved.spec
    run_dir.save_weights(out, run_dir.weights(saved.module), config, {SPEC: spec})


def _moved(folder: Path, out: Path) -> None:
    """Make a finished run that of `out`; config.json, which says that it is one, comes last."""
    for file in sorted(folder.iterdir(), key=lambda f: f.name == "config.json"):
        target = out / file.name
        if target.is_dir():
            shutil.rmtree(target)
        shutil.move(file, target)
    folder.rmdir()
