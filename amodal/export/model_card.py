"""The model card of the Hugging Face Hub: README.md with the Hub's metadata, made from the run."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from amodal import catalog
from amodal.data.packaged_models import LIBRARY
from amodal.modalities import Modality, name_of
from amodal.modalities.image import Image
from amodal.train.run_dir import card as run_card

LIMITS = """## Limits

It knows what its training data shows and no more; how good it is on other data is to be measured \
there, by `amodal evaluate`. The licence of the weights is for whoever trained them to say."""


class Described(Protocol):
    """What a card is made from; `amodal.Model` is one."""

    config: dict[str, Any]
    path: Path | None

    @property
    def fields(self) -> dict[str, Modality]: ...


def model_card(
    model: Described,
    digest: str,
    *,
    name: str = "FOLDER",
    towers: Collection[str] = (),
    reasons: Mapping[str, str] | None = None,
    written: Mapping[str, Any] | None = None,
) -> str:
    """Write the card of a model.

    Args:
        model: The model.
        digest: The sha256 of its weights.
        name: Where people will find it: a folder, or `OWNER/NAME`.
        towers: Fields whose tower transformers loads from `name`.
        reasons: field -> why transformers cannot.
        written: The config.json in the folder, where it says more than the model's.

    Returns:
        Markdown behind YAML metadata.
    """
    config, fields = model.config, model.fields
    method, row = config["method"], catalog.find(config["method"])
    kinds = sorted({name_of(m) for m in fields.values()})
    tags = ["amodal", "self-supervised-learning", method, *kinds]
    front = ["---", "library_name: amodal", "pipeline_tag: feature-extraction", "tags:"]
    front += [*(f"- {json.dumps(tag)}" for tag in tags), "---"]
    listed = ", ".join(f"`{f}` ({name_of(m)})" for f, m in fields.items())
    trained_by = method
    if row is not None:
        link = f" ([arXiv:{row.paper}](https://arxiv.org/abs/{row.paper}))" if row.paper else ""
        trained_by = f"the method of *{row.title}*{link}"
    sections = [
        "\n".join(front),
        run_card(config, digest).split("`amodal.load` takes")[0].strip(),
        f"An encoder of {listed}, trained by {trained_by}. Each source becomes a vector; vectors "
        "of different sources are compared by cosine. Any source of a record may be missing.",
        _use(name),
        _left_out(written or config),
        *(_tower_use(f, fields[f], name) for f in towers),
        *(f"`{field}` is loaded by amodal only: {why}." for field, why in (reasons or {}).items()),
        _last_metrics(model.path),
        LIMITS,
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _use(name: str) -> str:
    return f"""## Use

```python
import amodal

model = amodal.Model.from_pretrained("{name}")
vectors = model.embed("DATA").aligned
```

A local folder is taken as it is; from the Hub, JSON and safetensors are fetched. Nothing of them \
is run."""


def _left_out(config: Mapping[str, Any]) -> str:
    """What is fetched when the model is opened; "" where nothing is left out."""
    names = dict.fromkeys(str(e["name"]) for e in config.get("packaged", {}).values())
    listed = " and ".join(f"`{LIBRARY}:{name}`" for name in names)
    return listed and (
        f"The weights of {listed}, frozen, are not here: each comes once from its package "
        "when the model is opened, and is checked by its sha256."
    )


def _tower_use(field: str, image: Modality, name: str) -> str:
    where = f'"{name}/{field}"'
    return f"""`{field}` alone, without amodal:

```python
from transformers import AutoImageProcessor, AutoModel

tower = AutoModel.from_pretrained({where})
pixels = AutoImageProcessor.from_pretrained({where})(pictures, return_tensors="pt")
features = tower(**pixels).last_hidden_state.mean(1)
```

{_preprocessing(image)}
`{field}/projection.safetensors`, where there is one, is the linear map from there to the space of \
all fields."""


def _preprocessing(modality: Modality) -> str:
    image = cast(Image, modality)  # only pictures have towers
    fit = {"stretch": "stretched to a square", "crop": "cut to their middle square"}[image.fit]
    bands = {1: "grey", 3: "colour"}.get(image.channels, f"{image.channels}-channel")
    return (
        f"It takes {bands} pictures of 8 bits; those that are not square are {fit}, then resized "
        f"to {image.size} x {image.size} pixels."
    )


def _last_metrics(run_dir: Path | None) -> str:
    """The last line of the run's log, where the run still has it."""
    log = run_dir / "metrics.jsonl" if run_dir is not None else None
    if (
        log is None
        or not log.exists()
        or not (lines := log.read_text(encoding="utf-8").splitlines())
    ):
        return ""
    groups = ("loss", "rank", "uniformity", "alignment")
    rows = "\n".join(
        f"| {name} | {value:.4g} |"
        for name, value in json.loads(lines[-1]).items()
        if name.split("/")[0] in groups and isinstance(value, int | float)
    )
    return (
        "## At the end of training\n\nOn records held out: effective rank, uniformity, alignment."
        f"\n\n| | |\n|---|---|\n{rows}"
    )
