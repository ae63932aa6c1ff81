"""The three checkpoints: data, settings, tasks, and what `--pilot` compares."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from amodal import data
from scripts.checkpoints import training_data as made
from scripts.checkpoints.measuring import Task

SEED, PILOT_SEED = 0, 1


@dataclass(frozen=True)
class Source:
    """A set that a checkpoint has learnt from.

    Args:
        name: Of `amodal data`.
        what: Is taken of it.
        licence: Of it.
    """

    name: str
    what: str
    licence: str


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint is made.

    Args:
        name: On the command line.
        title: Of the card.
        licence: Of the weights.
        method, settings: Of `amodal.pretrain`; method "" for `amodal.align`.
        data: Writes the training data into a folder, and says where it is.
        sources: What it learns from.
        tasks: What it is asked at the end; the first is the primary one.
        chosen_by: Tasks on validation parts, by whose mean `--pilot` compares.
        candidates: Name -> (method, settings) that were compared.
    """

    name: str
    title: str
    licence: str
    method: str
    settings: dict[str, Any]
    data: Callable[[Path], Path | str]
    sources: tuple[Source, ...]
    tasks: tuple[Task, ...]
    chosen_by: tuple[Task, ...] = ()
    candidates: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)


@cache
def motions() -> data.Dataset:
    """BasicMotions as the checkpoint reads it: its ten samples a second are made 50, metres per
    second squared are made g."""
    return made.at_50_hz(made.opened("basic_motions"), 10.0, 9.81, ("activity",))


@cache
def people() -> data.Dataset:
    return made.opened("watch_people")


@cache
def spoken() -> data.Dataset:
    return made.renamed(
        made.opened("spoken_captions"), {"speech": "audio"}, ("language", "category")
    )


@cache
def sounds() -> data.Dataset:
    return made.opened("sounds")


def valid(opened: Callable[[], data.Dataset]) -> Callable[[], data.Dataset]:
    return cache(lambda: made.without_test(opened()))


RESNET = {"accelerometer": "resnet1d:stem=2,norm=layer", "gyroscope": "resnet1d:stem=2,norm=layer"}
TOKENS = {"accelerometer": "tokens", "gyroscope": "tokens"}
OF_SERIES = {"size": "nano", "batch_size": 64, "steps": 150}
EXERCISE = {"label": "exercise", "source": "fused"}
ACTIVITY = {"label": "activity", "source": "fused", "is_transfer": True}

SENSORS = Recipe(
    "sensors",
    "Accelerometer and gyroscope of a watch",
    "BSD-3-Clause",
    "simclr",
    OF_SERIES | {"backbones": RESNET},
    made.sensors,
    (Source("watch", "six people, windows also turned and slowed", "BSD-3-Clause"),),
    (
        Task("activity, 1 label each (BasicMotions)", motions, few=1, **ACTIVITY),
        Task("activity, 5 labels each (BasicMotions)", motions, few=5, **ACTIVITY),
        Task("exercise, 5 labels each (two more people)", people, few=5, **EXERCISE),
        Task("exercise, all labels (two more people)", people, **EXERCISE),
        Task(
            "gyroscope by accelerometer (two more people)",
            people,
            "accelerometer",
            "retrieval",
            target="gyroscope",
        ),
    ),
    (
        Task("activity", valid(motions), few=1, **ACTIVITY),
        Task("exercise", valid(people), few=5, **EXERCISE),
    ),
    {
        "simclr, resnet1d": ("simclr", OF_SERIES | {"backbones": RESNET}),
        "simclr, tokens": ("simclr", OF_SERIES | {"backbones": TOKENS}),
        "byol, resnet1d": ("byol", OF_SERIES | {"backbones": RESNET}),
        "clip, resnet1d": ("clip", OF_SERIES | {"backbones": RESNET}),
        "ts2vec": ("ts2vec", OF_SERIES),
        "mae, tokens": ("mae", OF_SERIES | {"backbones": TOKENS}),
    },
)

OF_SOUND = {"size": "nano", "batch_size": 64, "steps": 100}
LANGUAGE = {"label": "language", "source": "audio", "is_transfer": True, "records": 500}
FAMILY = {"label": "family", "source": "audio"}

SOUND = Recipe(
    "sound",
    "Short sounds and speech",
    "CC BY 3.0",
    "simclr",
    OF_SOUND,
    made.sound,
    (
        Source("sounds", "notes of FluidR3 Mono", "MIT"),
        Source("sounds", "Asterisk's Italian and Russian prompts", "CC BY 3.0"),
    ),
    (
        Task("language, 5 labels each (captions read aloud)", spoken, few=5, **LANGUAGE),
        Task(
            "category, all of 500 labels (captions read aloud)",
            spoken,
            **(LANGUAGE | {"label": "category"}),
        ),
        Task("family of instruments, 5 labels each (other instruments)", sounds, few=5, **FAMILY),
        Task("family of instruments, all labels (other instruments)", sounds, **FAMILY),
    ),
    (
        Task("language", valid(spoken), few=5, **LANGUAGE),
        Task("family", valid(sounds), **FAMILY),
    ),
    {
        "simclr, tokens": ("simclr", OF_SOUND),
        "simclr, resnet1d": (
            "simclr",
            OF_SOUND | {"backbones": {"audio": "resnet1d:stem=4,norm=layer"}},
        ),
        "byol, tokens": ("byol", OF_SOUND),
        "mae, tokens": ("mae", OF_SOUND),
        "data2vec, tokens": ("data2vec", OF_SOUND),
    },
)

RECIPES = {recipe.name: recipe for recipe in (SENSORS, SOUND)}
