"""How a comparison begins: candidates, yardsticks, what the budget pays for; kept in its folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from amodal import data as records
from amodal import methods
from amodal.core import AmodalError, unknown
from amodal.core.embeddings import FUSED
from amodal.core.regular_file import regular
from amodal.data import Dataset
from amodal.evaluate.context import Pair
from amodal.evaluate.joined import side_by_side
from amodal.evaluate.row import Row
from amodal.nn.encoder import Encoder
from amodal.nn.transformer import size_of
from amodal.progress import Bar
from amodal.studies.candidate import Candidate
from amodal.studies.comparison import QUANTILE, RESULT, Comparison, Entry
from amodal.studies.fitting import Chosen, TooShort, chosen, every_method, fits_of
from amodal.studies.frozen_encoders import AUTO, FROZEN, FrozenEncoders, encoders_of, maps_of
from amodal.studies.questions import embedded, error_of, row_of
from amodal.studies.study import Study
from amodal.studies.task import Task
from amodal.studies.trainer import Setup

PLAN = "study.json"
PLANNED = ("study", "yardsticks", "left_out", "about")
TRIED = 0.25
"""Share of the budget for finding out which methods fit."""
LAST = 0.15
"""Share of the budget that is kept for training and testing the winner."""
MORE_STEPS = 0.3
"""Share beyond that one for training it longer, where no number of steps is asked for."""
FEATURES = 0.25
"""Share of the budget that features of frozen encoders may take, where nobody asked for them."""
UNTRAINED, SIMPLE = "untrained encoder", "simple features"
BOOSTED = f"boosted trees on {SIMPLE}"
TRAINING = "training"
"""Name of what is left out where the budget pays for none."""
Measures = Sequence[Row]
"""One for each question."""


@dataclass(frozen=True)
class Options:
    """Of a comparison, see `compare`."""

    label: str | None
    task: str
    methods: tuple[str, ...]
    encoders: tuple[str, ...]
    fields: tuple[str, ...]
    backbones: Mapping[str, str]
    size: str
    seeds: int
    steps: int | None
    label_free: bool
    frozen: str | Mapping[str, str] = AUTO
    metric: str = "auto"


def share_of_winner(steps: int | None) -> float:
    """The share of the budget that is kept for the winner.

    Args:
        steps: Of the last rung, where they are asked for.
    """
    return LAST if steps is not None else LAST + MORE_STEPS


def candidates_of(asked: Options, dataset: Dataset) -> list[Candidate]:
    """All candidates that may fit, the most important first.

    Raises:
        AmodalError: For an unknown method, or an encoder of a field that is not there.
    """
    names = asked.methods or tuple(every_method())
    for name in names:
        methods.function(name)  # raises for one that is none
    result = [Candidate(name) for name in names]
    for spec in asked.encoders:
        field, _, backbone = spec.partition("=")
        if field not in dataset.fields or not backbone:
            raise unknown(
                "field", field, dataset.fields, "An encoder is FIELD=SPEC, such as image=convnet."
            )
        result += [
            Candidate(
                name, backbones={**asked.backbones, field: backbone}, name=f"{name} {backbone}"
            )
            for name in names
        ]
    if asked.encoders and not asked.methods:  # the general ones with each encoder come first
        order = {c.name: place for place, c in enumerate(result)}
        result.sort(key=lambda c: (names.index(c.method), order[c.name]))
    return result


def planned(
    folder: Path,
    dataset: Dataset,
    about: Task,
    asked: Options,
    setup: Setup,
    seconds: float,
    progress: bool,
) -> Comparison:
    """The comparison in the folder, begun if there is none. The first process to have one wins.

    Raises:
        AmodalError: If that in the folder is of other data or options, or nothing fits.
    """
    path = folder / PLAN
    written = {
        "fingerprint": dataset.fingerprint,
        "options": json.loads(json.dumps(vars(asked), default=dict)),
    }
    if path.exists() and _read_plan(path)["study"] is None:
        path.unlink()  # its budget paid for no training; this one may
        (folder / RESULT).unlink(missing_ok=True)
    if not path.exists():
        plan = written | _begin(dataset, about, asked, setup, seconds, progress)
        _write_first(path, plan)
    before = _read_plan(path)
    # in older versions classes did not
    weighs = "metric" not in before["options"] and any(one.options for one in about.questions)
    # a comparison that was begun before an option was there goes on without it
    before["options"].setdefault("metric", "auto")
    differ = [n for n, value in before["options"].items() if written["options"].get(n) != value]
    if before["fingerprint"] != dataset.fingerprint:
        differ.insert(0, "data")
    if differ:
        raise AmodalError(
            f"{folder} has a comparison with another {', '.join(differ)}. Give the same to go on, "
            "or another --out to begin a new one"
        )
    stored = Comparison.load(folder) if (folder / RESULT).exists() else None
    if weighs and (stored is None or "test" not in stored.about):
        raise AmodalError(
            f"{folder} has a comparison that an older version began, whose probes did not weigh "
            "classes the same: give another --out, to begin a new one"
        )
    if stored is not None:
        return stored
    return Comparison(
        about.title,
        [Entry(**one) for one in before["yardsticks"]],
        before["left_out"],
        before["about"],
        folder,
    )


def _begin(
    dataset: Dataset, about: Task, asked: Options, setup: Setup, seconds: float, progress: bool
) -> dict[str, Any]:
    """Measure yardsticks, try all candidates, and choose the study."""
    start = time.monotonic()

    def check() -> None:
        pass

    specs, without = dict[str, str](), dict[str, str]()
    frozen = None
    if about.questions:
        specs, without = encoders_of(dataset, asked.frozen)
        frozen = _frozen(dataset, specs, asked, seconds * FEATURES, progress, without)
    specs = {} if frozen is None else specs
    maps = maps_of(specs, dataset) if about.kind == "retrieval" else []
    everything = [*maps, *candidates_of(asked, dataset)]
    values, measuring = yardsticks_of(setup, about, "valid", check, frozen)
    with Bar("which methods fit", len(everything), shown=progress) as bar:
        fits, reasons = fits_of(
            everything, setup, check, seconds * TRIED, lambda name: bar.step(name)
        )
    if not fits:
        first = next(iter(reasons.items()), ("", "there is none"))
        raise AmodalError(f"no method fits {dataset.name}; {first[0]}: {first[1]}")
    rows, count = size_of(asked.size).batch, len(dataset.split("train"))
    left = seconds * (1 - share_of_winner(asked.steps)) - (time.monotonic() - start)
    options: dict[str, Any] = {"seeds": asked.seeds, "measuring": measuring, "steps": asked.steps}
    choice: Chosen | None = None
    try:
        choice = chosen(fits, count, min(rows, count), left, **options)
    except TooShort as error:
        if not values:
            raise
        without[TRAINING] = str(error)
    parts = {part: len(dataset.split(part)) for part in ("train", "valid", "test")}
    return {
        "study": None if choice is None else choice.study.written(),
        "yardsticks": [vars(entry) for entry in entries_of_yardsticks(values)],
        "left_out": without | reasons | ({} if choice is None else dict(choice.left_out)),
        "about": {
            "data": dataset.name,
            "task": about.kind,
            "label": about.label,
            "label_free": about.kind == "label-free",
            "parts": parts,
            "seeds": 0 if choice is None else len(choice.study.seeds),
            "expected_seconds": 0.0 if choice is None else round(choice.seconds, 1),
            "frozen": specs,
        },
    }


def _frozen(
    dataset: Dataset,
    specs: Mapping[str, str],
    asked: Options,
    seconds: float,
    progress: bool,
    left_out: dict[str, str],
) -> FrozenEncoders | None:
    """The frozen encoders, their features computed; None where there is none.

    Where nobody asked for them, it may also be said in `left_out` why there is none.

    Raises:
        AmodalError: If one that was asked for cannot be loaded.
    """
    if not specs:
        return None
    named = not isinstance(asked.frozen, str)
    try:
        frozen = FrozenEncoders.of(dataset, specs)
        expected = 0.0 if named else frozen.seconds()
    except AmodalError as error:
        if named:
            raise
        left_out[FROZEN] = str(error)
        return None
    if expected > seconds:
        named_as = ",".join(f"{field}={spec}" for field, spec in specs.items())
        left_out[FROZEN] = (
            f"their features would take {expected / 60:.1f} minutes, too much of the budget; "
            f"a larger --budget, or --frozen {named_as}, has them computed"
        )
        return None
    frozen.compute(progress)
    return frozen


def _write_first(path: Path, plan: Mapping[str, Any]) -> None:
    """Write a plan, unless another process has written one by now."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_text(json.dumps(plan, indent=1, default=dict) + "\n", encoding="utf-8")
        try:
            os.link(draft, path)  # unlike a rename it does not replace what is there
        except FileExistsError:
            pass
        draft.unlink()
    except OSError as error:
        raise AmodalError(f"could not write {path}: {error}") from error


def _read_plan(path: Path) -> dict[str, Any]:
    try:
        plan: dict[str, Any] = json.loads(regular(path).read_text(encoding="utf-8"))
        return {name: plan[name] for name in (*PLANNED, "fingerprint", "options")}
    except (OSError, ValueError, KeyError) as error:
        raise AmodalError(
            f"{path} is no plan of a comparison, or is damaged: {error}; take another --out"
        ) from error


def study_of(folder: Path) -> Study | None:
    """The study of a comparison, None where the budget pays for no training."""
    written = _read_plan(folder / PLAN)["study"]
    if written is None:
        return None
    return Study(
        tuple(Candidate(**one) for one in written["candidates"]),
        tuple(written["seeds"]),
        written["steps"],
        written["rungs"],
        written["eta"],
    )


def yardsticks_of(
    setup: Setup,
    about: Task,
    part: str,
    check: Callable[[], None],
    frozen: FrozenEncoders | None = None,
    names: Collection[str] = (),
) -> tuple[dict[str, Measures], float]:
    """Simple features, frozen encoders and an untrained one, on a part.

    Args:
        setup: The data.
        about: What is asked.
        part: Of the split.
        check: Called between measurements.
        frozen: Pretrained encoders, None without any.
        names: Of those that are measured; all unless set.

    Returns:
        Name -> a row for each question, and the seconds that measuring one encoder takes.
    """
    torch.manual_seed(0)
    dataset = records.learn_tokens(setup.dataset, setup.dataset.split("train"))
    encoder = Encoder(dataset.fields, size=setup.size)
    if about.kind == "retrieval":
        encoder = encoder.align(encoder.width)
    encoder = encoder.eval()
    start = time.monotonic()
    data, pair = embedded(encoder, dataset, part, check)

    measured: dict[str, Measures] = {}

    def measure(name: str, pair: Pair, protocol: str = "") -> None:
        if names and name not in names:
            return
        check()
        asked = [one.with_protocol(protocol or one.protocol) for one in about.questions]
        measured[name] = [row_of(one, encoder, data, pair, 0) for one in asked]

    measure(UNTRAINED, pair)
    seconds = time.monotonic() - start
    simple = None
    if setup.simple is not None:
        simple = setup.simple.beside(encoder.fields, data, part, pair)
    trees = "boosting" if about.kind == "label" else ""
    if simple is not None:
        start = time.monotonic()
        measure(SIMPLE, simple)
        if not names:  # for the time: trials are measured with simple features beside them too
            joined = side_by_side(pair, simple)
            for one in about.questions:
                check()
                row_of(one, encoder, data, joined, 0)
        seconds += time.monotonic() - start
        if trees:
            measure(BOOSTED, simple, trees)
    wanted = not names or any(FROZEN in name for name in names)
    if frozen is not None and about.kind != "retrieval" and wanted:
        alone, beside = frozen.beside(part, pair, simple, check)
        if FUSED in alone[1].probed() or len(dataset.fields) == 1:
            measure(FROZEN, alone)
        if beside is not None:
            measure(f"{FROZEN} with {SIMPLE}", beside)
            if trees:
                measure(f"boosted trees on {FROZEN} and {SIMPLE}", beside, trees)
    return measured, seconds


def entries_of_yardsticks(measured: Mapping[str, Measures]) -> list[Entry]:
    """The lines of yardsticks, and of chance, the best first.

    Args:
        measured: Name -> its answers; none where nothing is asked.
    """
    if not all(measured.values()):
        return []
    chance = mean(one["chance"] for one in measured[UNTRAINED])
    entries = [
        Entry(
            name,
            "untrained" if name == UNTRAINED else "frozen" if FROZEN in name else "simple",
            mean(one["value"] for one in values),
            QUANTILE * mean(error_of(one) for one in values),
            protocol="boosting" if name.startswith("boosted") else "",
        )
        for name, values in measured.items()
    ]
    entries.append(Entry("chance", "chance", chance, 0.0))
    return sorted(entries, key=lambda e: -(e.value or 0.0))
