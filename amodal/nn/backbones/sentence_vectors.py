"""Sentence encoders in the format of sentence-transformers: a text model of transformers, a pooling
of its states, linear maps, unit length.

The folder is read here, so the package sentence-transformers is not needed. What the modules do is
compared with the package's own results in the tests.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Ragged, unknown
from amodal.core.hub_client import model_folder
from amodal.core.regular_file import regular
from amodal.nn.backbones.body import LoadReport, ones_like_rows
from amodal.nn.backbones.hf_text import HfText, Known, TextField, longest_text, token_ids
from amodal.nn.backbones.model_sources import SCRATCH
from amodal.nn.backbones.transformers import (
    architecture,
    check_inputs,
    empty_model,
    library,
    load_model,
)

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
OLD_POOLINGS = {
    f"pooling_mode_{old}": new
    for old, new in (
        ("cls_token", "cls"),
        ("max_tokens", "max"),
        ("mean_tokens", "mean"),
        ("mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
        ("weightedmean_tokens", "weightedmean"),
        ("lasttoken", "lasttoken"),
    )
}
"""How configs of before say it: one true or false for each."""
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")
READ = ("Transformer", "Pooling", "Dense", "Normalize")
"""Kinds of modules."""


def build(rest: str, modality: Any, load: bool) -> tuple[SentenceText, str, LoadReport | None]:
    """A sentence encoder.

    Args:
        rest: DIR or OWNER/NAME of the Hub, with @scratch behind it for random weights, or with
            #{…} for what a saved run says of it.
        modality: Of the field, text.
        load: Load the weights.

    Returns:
        The body, its name in specs, and the report of the weights, if any were loaded.

    Raises:
        AmodalError: For a folder without such a model, and for kinds of modules that are not read.
    """
    library()  # says how to install what is missing, before anything else is looked for
    named, _, saved = rest.partition("#{")
    is_scratch, name = named.endswith(SCRATCH), named.removesuffix(SCRATCH)
    folder = name if saved else str(model_folder(name))
    known = json.loads("{" + saved) if saved else _known(Path(folder), modality)
    report = None
    if load and not is_scratch:
        model, report = load_model(str(Path(folder) / known["transformer"]))
    else:
        model = empty_model(known)
    check_inputs(model, modality, folder)
    body = SentenceText(model, known, modality, folder, is_scratch=is_scratch)
    if report is not None:
        body.load_dense(Path(folder), known["dense_files"])
    return body, f"sentence-transformers:{named}#{json.dumps(known)}", report


def text_input(rest: str, cache: Path) -> tuple[str, int]:
    """See `libraries.text_input`. The tokenizer is the folder's own."""
    folder = model_folder(rest.partition("#{")[0].removesuffix(SCRATCH))
    inner = folder / _modules(folder)[0][1]
    room, prompt = longest_text(str(inner)), _prompt_ids(folder, inner)
    declared = (
        _read(inner / "sentence_bert_config.json").get("max_seq_length"),
        _read(inner / "tokenizer_config.json").get("model_max_length"),
    )
    # a model without a limit has 1e30 there
    known = [int(n) for n in declared if isinstance(n, (int, float)) and 0 < n < 10**6]
    lengths = [n - _around(inner) for n in known] + ([room] if room else [])
    return str(inner), max(1, min(lengths) - len(prompt)) if lengths else 0


class SentenceText(HfText):
    """Texts -> one vector each, as sentence-transformers makes it.

    Args:
        model: Of transformers.
        known: Beside what `HfText` reads: `pooling`, names of `POOLINGS`; `dense`, for each linear
            map [in, out, bias, activation]; `unit`, whether vectors have unit length; `hidden`,
            how many ids in front are read and not pooled.
        modality, directory, is_scratch: See `HfText`.
    """

    is_one_vector = is_space = True

    def __init__(
        self, model: Any, known: Known, modality: TextField, directory: str, *, is_scratch: bool
    ):
        super().__init__(model.eval(), known, modality, directory, is_scratch=is_scratch)
        self.pooling, self.unit = tuple(known["pooling"]), bool(known["unit"])
        self.hidden = int(known["hidden"])
        layers: list[nn.Module] = []
        for inputs, outputs, bias, activation in known["dense"]:
            layers += [nn.Linear(inputs, outputs, bias=bias), getattr(nn, activation)()]
        self.dense = nn.Sequential(*layers)
        outputs = known["dense"][-1][1] if known["dense"] else 0
        self.width = outputs or model.config.hidden_size * len(self.pooling)

    def load_dense(self, folder: Path, files: Sequence[str]) -> None:
        """Load the linear maps from safetensors in a folder."""
        from safetensors.torch import load_file

        linears = [layer for layer in self.dense if isinstance(layer, nn.Linear)]
        for layer, file in zip(linears, files):
            try:
                state = load_file(regular(folder / file))
                layer.load_state_dict({n.removeprefix("linear."): t for n, t in state.items()})
            except Exception as error:  # no file, a damaged one, other shapes
                raise AmodalError(f"cannot read the weights {folder / file}: {error}") from error

    def forward(self, texts: Ragged) -> tuple[Tensor, Tensor, Tensor]:
        """N lists of ids -> (N, width), lengths (N,), all 1, positions (N, 3), all 0."""
        inputs, _, _ = self.padded(texts)
        states = self.model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].clone()
        mask[:, : self.hidden] = 0
        x_ND: Tensor = self.dense(pooled(states, mask, self.pooling))
        x_ND = nn.functional.normalize(x_ND, dim=1) if self.unit else x_ND
        return x_ND, ones_like_rows(x_ND), x_ND.new_zeros(len(x_ND), 3)


def pooled(states_NLD: Tensor, mask_NL: Tensor, modes: Sequence[str]) -> Tensor:
    """The states of each text as one vector for each mode, side by side.

    Args:
        states_NLD: Of a model.
        mask_NL: 1 for states that count; at least one of each text.
        modes: Of `POOLINGS`.

    Returns:
        (N, D modes).
    """
    mask = mask_NL[..., None].to(states_NLD.dtype)
    row = torch.arange(len(mask_NL), device=mask_NL.device)
    place = torch.arange(1, mask_NL.shape[1] + 1, device=mask_NL.device)
    parts = []
    for mode in modes:
        if mode == "cls":
            parts.append(states_NLD[row, mask_NL.argmax(1)])
        elif mode == "lasttoken":
            parts.append(states_NLD[row, (mask_NL * place).argmax(1)])
        elif mode == "max":
            parts.append(states_NLD.masked_fill(mask == 0, -torch.inf).amax(1))
        elif mode == "weightedmean":
            weight = mask * place[None, :, None].to(states_NLD.dtype)
            parts.append((states_NLD * weight).sum(1) / weight.sum(1))
        else:
            count = mask.sum(1).clamp(min=1)
            root = mode == "mean_sqrt_len_tokens"
            parts.append((states_NLD * mask).sum(1) / (count.sqrt() if root else count))
    return torch.cat(parts, 1)


def _known(folder: Path, modality: Any) -> Known:
    modules = _modules(folder)
    inner = folder / modules[0][1]
    known = architecture(str(inner), modality)
    prompt, is_pooled = _prompt_ids(folder, inner), True
    pooling, dense, files, unit = ["mean"], [], [], False
    for kind, path in modules[1:]:
        config = _read(folder / path / "config.json")
        if kind == "Pooling":
            pooling = _poolings(config)
            is_pooled = is_pooled and config.get("include_prompt", True)
        elif kind == "Dense":
            dense.append(_dense(config))
            files.append(f"{path}/model.safetensors")
        elif kind == "Normalize":
            unit = True
    return known | {
        "transformer": modules[0][1],
        "before": [*known["before"], *prompt],
        "hidden": 0 if is_pooled else len(known["before"]) + len(prompt),
        "pooling": pooling,
        "dense": dense,
        "dense_files": files,
        "unit": unit,
    }


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Kind and folder of each module; of a plain model of transformers, its mean, as the package
    has it."""
    listed = _read(folder / "modules.json", [])
    if not listed:
        return [("Transformer", ""), ("Pooling", "none")]
    modules = [(str(m["type"]).rpartition(".")[2], str(m["path"])) for m in listed]
    kinds = [kind for kind, _ in modules]
    if any(kind not in READ for kind in kinds) or kinds[0] != "Transformer":
        raise AmodalError(
            f"{folder} is made of {', '.join(kinds)}; read are models of {', '.join(READ)}, the "
            "first of which is a Transformer. Wrap it as a module of your own: FILE.py:NAME"
        )
    return modules


def _poolings(config: dict[str, Any]) -> list[str]:
    named = config.get("pooling_mode")
    if named is None:
        named = [new for old, new in OLD_POOLINGS.items() if config.get(old)] or "mean"
    modes = [named] if isinstance(named, str) else list(named)
    for mode in modes:
        if mode not in POOLINGS:
            raise unknown("pooling of sentence-transformers", mode, POOLINGS)
    return modes


def _dense(config: dict[str, Any]) -> list[Any]:
    activation = str(config.get("activation_function", "torch.nn.Tanh")).rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise unknown("activation of a Dense module", activation, ACTIVATIONS)
    inputs, outputs = config["in_features"], config["out_features"]
    return [inputs, outputs, bool(config.get("bias", True)), activation]


def _prompt_ids(folder: Path, inner: Path) -> list[int]:
    """The ids of what the model puts before every text by default."""
    config = _read(folder / "config_sentence_transformers.json")
    prompt = (config.get("prompts") or {}).get(config.get("default_prompt_name") or "", "")
    # the space behind it begins the first word of the text
    return token_ids(inner, prompt.rstrip()) if prompt.strip() else []


def _around(inner: Path) -> int:
    """How many special tokens stand around a text."""
    return len(token_ids(inner, "a", special=True)) - len(token_ids(inner, "a"))


def _read(file: Path, default: Any = None) -> Any:
    if not file.is_file():
        return {} if default is None else default
    return json.loads(file.read_text(encoding="utf-8"))
