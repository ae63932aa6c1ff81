"""The three checkpoints: data, settings, tasks, and what `--pilot` compares."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from amodal import data
from scripts.checkpoints import training_data as made
from scripts.checkpoints.measuring import Others, Task, by_frozen

SEED, PILOT_SEED = 0, 1


@dataclass(frozen=True)
class Source:
    """What a checkpoint has learnt from.

    Args:
        name: Of the set, for `amodal data`.
        what: Is taken of it.
        licence: Of that.
        by: Who made it.
    """

    name: str
    what: str
    licence: str
    by: str


@dataclass(frozen=True)
class Recipe:
    """How a checkpoint is made.

    Args:
        name: On the command line.
        title: Of the card.
        licence: Of the weights, as the Hub calls it.
        kinds: Of its fields, for the Hub.
        data: Writes the training data into a folder, and says where it is.
        sources: What it learns from.
        tasks: What it is asked at the end; the first is the primary one.
        use: Five lines of Python.
        limits: What it is for and what not, in sentences.
        method, settings: Of `amodal.pretrain`.
        chosen: How the settings were chosen, the end of a sentence.
        heads: Frozen backbones that heads are learnt for by `amodal.align`, in its place.
        others: What is measured beside it.
        chosen_by: Tasks on validation parts, by whose mean `--pilot` compares.
        candidates: Name -> (method, settings) that are compared.
    """

    name: str
    title: str
    licence: str
    kinds: tuple[str, ...]
    data: Callable[[Path], Path | str]
    sources: tuple[Source, ...]
    tasks: tuple[Task, ...]
    use: str
    limits: tuple[str, ...]
    method: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    chosen: str = ""
    heads: dict[str, str] = field(default_factory=dict)
    others: Others = field(default_factory=dict)
    chosen_by: tuple[Task, ...] = ()
    candidates: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)


@cache
def motions() -> data.Dataset:
    """BasicMotions as the checkpoint reads it: its ten samples a second become 50, its metres per
    second squared become g."""
    return made.at_50_hz(made.opened("basic_motions"), 10.0, 9.81, ("activity",))


@cache
def pick_ups() -> data.Dataset:
    """Ten people who pick up a Wii remote."""
    return made.gestures()


@cache
def people() -> data.Dataset:
    """The watch, split by person."""
    return made.opened("watch_people")


@cache
def spoken() -> data.Dataset:
    """Captions that people read aloud in six languages."""
    fields = {"speech": "audio"}
    return made.renamed(made.opened("spoken_captions"), fields, ("language", "category"))


@cache
def sounds() -> data.Dataset:
    """The set whose training part the checkpoint of sound is made from."""
    return made.opened("sounds")


@cache
def emoji() -> data.Dataset:
    """OpenMoji with its names."""
    fields = {"image": "image", "annotation": "text"}
    return made.renamed(made.opened("openmoji"), fields, ("group",))


@cache
def stamps() -> data.Dataset:
    """Tux Paint's stamps with their captions; none was trained on, so validation is for testing."""
    fields = {"image": "image", "caption": "text"}
    opened = made.renamed(made.opened("tuxpaint"), fields, ("category",))
    valid, test = (data.splits.PARTS.index(p) for p in ("valid", "test"))
    parts = opened.parts.copy()
    parts[parts == valid] = test
    return opened.with_parts(parts)


@cache
def clothes() -> data.Dataset:
    """Photographs of clothes in ten classes."""
    return made.opened("fashion_mnist")


def valid(opened: Callable[[], data.Dataset]) -> Callable[[], data.Dataset]:
    """The validation part in the place of the test part."""
    return cache(lambda: made.without_test(opened()))


def retrieval(title: str, opened: Callable[[], data.Dataset], **more: Any) -> tuple[Task, Task]:
    """Texts by pictures, and pictures by texts."""
    return (
        Task(f"text by picture ({title})", opened, "image", "retrieval", target="text", **more),
        Task(f"picture by text ({title})", opened, "text", "retrieval", target="image", **more),
    )


PICTURES_TEXT = Recipe(
    "pictures_text",
    "Pictures and English words",
    "cc-by-sa-4.0",
    ("image", "text"),
    made.pictures_text,
    (
        Source("openmoji", "pictures, names", "CC BY-SA 4.0", "the OpenMoji project"),
        Source("emoji_vendors", "Twemoji's pictures", "CC BY 4.0", "Twitter and contributors"),
        Source("openmoji", "tags (emojibase-data)", "MIT", "Miles Johnson and contributors"),
        Source(
            "sweethome3d",
            "icons of furniture, names",
            "CC BY 3.0, a part CC0",
            "eTeks, BlendSwap and other contributors to Sweet Home 3D",
        ),
        Source(
            "package:minilm", "frozen; not in the folder", "Apache-2.0", "sentence-transformers"
        ),
        Source("package:efficientnet_lite0", "frozen; not in the folder", "Apache-2.0", "Google"),
    ),
    (
        *retrieval("stamps of Tux Paint", stamps, is_transfer=True),
        Task(
            "ten garments by their names (Fashion-MNIST)",
            clothes,
            "image",
            "zero_shot",
            "class",
            records=1000,
            is_transfer=True,
            options={"templates": ("a picture of a {}",)},
        ),
        *retrieval("other emoji", emoji),
    ),
    """import amodal

model = amodal.Model.from_pretrained("FOLDER")
pictures = model.encode(["chair.png", "heart.png"], field="image")
words = model.encode(["a wooden chair", "a red heart"], field="text")
print(model.similarity(words, pictures))""",
    (
        "For searching drawings, icons and clip art by short English words, and for sorting them by "
        "names of classes.",
        "Photographs were hardly trained on. Sentences about more than one thing, other languages "
        "than English, and pictures of 32 pixels and less are not what it is for.",
        "Pictures of people are drawings by three projects; what they show and do not show of people "
        "is what the model knows.",
    ),
    heads={"image": "package:efficientnet_lite0", "text": "package:minilm"},
)

RESNET = "resnet1d:stem=2,norm=layer"
OF_SENSORS = {"size": "nano", "batch_size": 64}
EXERCISE = {"label": "exercise", "source": "fused"}
ACTIVITY = {"label": "activity", "source": "fused", "is_transfer": True}


def networks(spec: str) -> dict[str, dict[str, str]]:
    """The same network for both sensors."""
    return {"backbones": dict.fromkeys(made.SENSORS, spec)}


SENSORS = Recipe(
    "sensors",
    "Accelerometer and gyroscope of a watch",
    "bsd-3-clause",
    ("time-series",),
    made.sensors,
    (
        Source(
            "watch_people",
            "six people's shoulder exercises, windows also turned and slowed",
            "BSD-3-Clause",
            "David Burns and seglearn",
        ),
    ),
    (
        Task("activity, 1 label each (BasicMotions)", motions, few=1, **ACTIVITY),
        Task(
            "who picks up a remote (Wiimote, one axis)",
            pick_ups,
            "accelerometer",
            label="person",
            is_transfer=True,
        ),
        Task("exercise, 5 labels each (other people)", people, few=5, **EXERCISE),
    ),
    """import amodal, numpy as np

model = amodal.Model.from_pretrained("FOLDER")
window = np.random.randn(500, 3).astype("float32")  # 10 s, 50 samples a second, three axes
vector = model.encode({"accelerometer": [window], "gyroscope": [window]})  # g; radians a second
print(vector.shape)""",
    (
        "For classes of movements of a wrist or an arm with few labels, from one sensor or both.",
        "It reads 50 samples a second, in g (with gravity) and radians a second: bring other rates "
        "to that by interpolation first. Longer recordings are cut into windows of about 10 s.",
        "It has learnt from six people's shoulder exercises and nothing else: no falls, no sleep, no "
        "illness, and no medical use.",
    ),
    "simclr",
    OF_SENSORS | {"steps": 150} | networks(RESNET),
    "the network is the default of `simclr` for small data, which was chosen on validation parts",
    chosen_by=(
        Task("activity", valid(motions), few=1, **ACTIVITY),
        Task("exercise", valid(people), few=5, **EXERCISE),
    ),
    candidates={
        "simclr, resnet1d": ("simclr", OF_SENSORS | {"steps": 150} | networks(RESNET)),
        "simclr, tokens": ("simclr", OF_SENSORS | {"steps": 150} | networks("tokens")),
        "byol, resnet1d": ("byol", OF_SENSORS | {"steps": 150} | networks(RESNET)),
        "clip, resnet1d": ("clip", OF_SENSORS | {"steps": 150} | networks(RESNET)),
        "ts2vec": ("ts2vec", OF_SENSORS | {"steps": 150}),
        "mae, tokens": ("mae", OF_SENSORS | {"steps": 150} | networks("tokens")),
    },
)

OF_SOUND = {"size": "nano", "batch_size": 64}
READ_ALOUD = {"source": "audio", "is_transfer": True, "records": 300}
FAMILY = {"label": "family", "source": "audio"}
RESNET_SOUND = {"backbones": {"audio": "resnet1d:stem=4,norm=layer"}}
WHISPER = "Whisper tiny.en, frozen"

SOUND = Recipe(
    "sound",
    "Short sounds and speech",
    "cc-by-3.0",
    ("audio",),
    made.sound,
    (
        Source("sounds", "notes of FluidR3 Mono", "MIT", "Frank Wen, Michael Cowgill and others"),
        Source("sounds", "Italian telephone prompts", "CC BY 3.0", "Carlo Flora"),
        Source("sounds", "Russian telephone prompts", "CC BY 3.0", "Maxim Topal"),
    ),
    (
        Task("language, 5 labels each (captions)", spoken, few=5, label="language", **READ_ALOUD),
        Task("instruments, all labels (others)", sounds, compared=(), **FAMILY),
    ),
    """import amodal

model = amodal.Model.from_pretrained("FOLDER")
vectors = model.encode(["bell.wav", "hello.ogg"])  # any rate; the first four seconds are heard
print(model.similarity(vectors, vectors))""",
    (
        "For classes of short recordings with few labels: kinds of sounds, instruments, voices.",
        "It hears up to 4,000 Hz, as a telephone does, and four seconds. It does not know words: "
        "for what is said take Whisper.",
        "Speech of two readers was trained on. It may hear voices and microphones where you ask "
        "for something else.",
    ),
    "simclr",
    OF_SOUND | {"steps": 120},
    "settings are the defaults of `simclr`, and nothing was chosen",
    others={WHISPER: by_frozen("package:whisper_tiny_en", "audio")},
    chosen_by=(
        Task("language", valid(spoken), few=5, label="language", **READ_ALOUD),
        Task("family", valid(sounds), **FAMILY),
    ),
    candidates={
        "simclr, tokens": ("simclr", OF_SOUND | {"steps": 60}),
        "simclr, resnet1d": ("simclr", OF_SOUND | {"steps": 60} | RESNET_SOUND),
        "byol, tokens": ("byol", OF_SOUND | {"steps": 60}),
        "mae, tokens": ("mae", OF_SOUND | {"steps": 60}),
    },
)

RECIPES = {recipe.name: recipe for recipe in (PICTURES_TEXT, SENSORS, SOUND)}
