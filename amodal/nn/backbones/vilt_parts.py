"""What stands before and behind the layers of a ViLT: its embeddings as tokenizers, and its pooler.

Kim, Son and Kim, ICML 2021, arXiv:2102.03334.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from amodal.core import Column, Ragged, Tokens
from amodal.core.part import Part
from amodal.modalities import Modality
from amodal.nn.backbones.body import Body, ImageBody, ImageField
from amodal.nn.backbones.hf_text import HfText, Known, TextField
from amodal.nn.batch_norm import no_rows
from amodal.nn.pooling import Pool


def model_config(config: Mapping[str, Any]) -> Any:
    """The configuration of a model of transformers, from its JSON form."""
    from transformers import AutoConfig

    return AutoConfig.for_model(**config)


def modeling() -> Any:
    """The networks that a ViLT of transformers is made of."""
    return importlib.import_module("transformers.models.vilt.modeling_vilt")


class ViltWords(HfText):
    """Texts -> the embeddings of their ids, special tokens among them.

    Args:
        known, modality: See `HfText`. Of texts longer than the model's the positions are
            stretched, as missing-aware prompts (arXiv:2303.03369) do.
    """

    def __init__(self, known: Known, modality: TextField):
        config = model_config(known["config"])
        around = len(known["before"]) + len(known["after"])
        longest = modality.max_length * modality.patch + around
        if longest > config.max_position_embeddings:
            config = model_config({**known["config"], "max_position_embeddings": longest})
        model = SimpleNamespace(config=config)
        super().__init__(model, known, modality, modality.vocabulary)
        self.model = modeling().TextEmbeddings(config)
        self.offset = nn.Parameter(torch.zeros(config.hidden_size))

    def forward(self, texts: Ragged) -> tuple[Tensor, Tensor, Tensor]:
        """N lists of ids -> features (T, width), lengths (N,), positions (T, 3)."""
        inputs, _, _ = self.padded(texts)
        is_token = inputs["attention_mask"].bool()
        x_TD = (self.model(input_ids=inputs["input_ids"]) + self.offset)[is_token]
        lengths = texts.lengths + len(self.before) + len(self.after)
        within = is_token.nonzero()[:, 1]
        return x_TD, lengths, torch.stack([within, within * 0, within * 0], 1).to(x_TD.dtype)

    def blank(self) -> Tensor:
        """The tokens of an empty text (L, width)."""
        none = Ragged(torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
        return self.forward(none)[0]

    @torch.no_grad()
    def load(self, embeddings: Any) -> None:
        """Take the weights of the model's embeddings; its positions are stretched if too few."""
        state = embeddings.text_embeddings.state_dict()
        name = "position_embeddings.weight"
        if len(state[name]) != len(positions := self.model.position_embeddings.weight):
            long = interpolate(state[name].T[None], len(positions), mode="linear")
            state = state | {name: long[0].T}
        self.model.load_state_dict(state)
        self.offset.copy_(embeddings.token_type_embeddings.weight[0])


class ViltPatches(ImageBody):
    """Pictures -> a class token and the embeddings of their patches.

    Args:
        known: Its `config` is the model's, its `mean` and `std` those of pictures.
        modality: Of the field.
    """

    prefix_tokens = 1

    def __init__(self, known: Known, modality: ImageField):
        config = model_config(known["config"])
        width, side = config.hidden_size, config.image_size
        super().__init__(modality, width=width, side=side, mean=known["mean"], std=known["std"])
        self.patches = modeling().ViltPatchEmbeddings(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, self.patches.num_patches + 1, width))
        self.offset = nn.Parameter(torch.zeros(width))

    def forward(self, images_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `ImageBody.forward`; the class token is the first of each picture."""
        return self.embed(self.scaled(images_NCHW))

    def embed(self, x_NCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `forward`, of scaled pictures."""
        patches_NLD = self.patches(x_NCHW).flatten(2).transpose(1, 2)
        cls = self.cls_token.expand(len(x_NCHW), -1, -1)
        x_NLD = torch.cat([cls, patches_NLD], 1) + self.positions + self.offset
        lengths = torch.full((len(x_NLD),), x_NLD.shape[1], device=x_NLD.device)
        number = torch.arange(x_NLD.shape[1], device=x_NLD.device).repeat(len(x_NLD))
        position = torch.stack([number, number * 0, number * 0], 1).to(x_NLD.dtype)
        return x_NLD.flatten(0, 1), lengths, position

    def blank(self) -> Tensor:
        """The tokens of a white picture (L, width): as the authors', ones once it is scaled."""
        return self.embed(torch.ones(1, 3, self.side, self.side))[0]

    @torch.no_grad()
    def load(self, embeddings: Any) -> None:
        """Take the weights of the model's embeddings."""
        self.patches.load_state_dict(embeddings.patch_embeddings.state_dict())
        self.cls_token.copy_(embeddings.cls_token)
        self.positions.copy_(embeddings.position_embeddings)
        self.offset.copy_(embeddings.token_type_embeddings.weight[1])


class ViltTokenizer(Part):
    """The tokenizer of a field in front of a `SingleStreamTrunk`.

    Args:
        known: Of the model: config, special tokens or scale of pictures.
        modality: Of the field.
    """

    positioned = True
    """Its tokens have their positions, and what says the field, already."""
    body: Body

    def __init__(self, known: Known, modality: Modality):
        super().__init__()
        made: Any = ViltWords if modality.takes_prompts else ViltPatches
        self.body = made(known, modality)
        self.eval()

    def train(self, mode: bool = True) -> ViltTokenizer:
        """Evaluation mode, always: dropout of the model does not draw from the seeds of rows."""
        return super().train(False)

    def forward(self, column: Column, name: str, size: int) -> Tokens:
        """Values of N rows -> tokens, x (T, width). name: of the source; size: B."""
        if len(column):
            x_TD, lengths, position = self.body(column.values)
        else:  # no row: every parameter still becomes part of the graph
            with no_rows():
                example = self.body.example().to(column.rows.device)
                x_TD, lengths, position = (t[:0] for t in self.body(example))
        return Tokens.of(x_TD, column.rows, lengths, position, name, size)

    def load(self, model: Any) -> None:
        """Take the weights of the model."""
        cast(Any, self.body).load(model.embeddings)

    @torch.no_grad()
    def blank_tokens(self) -> Tensor:
        """(L, width), the tokens of an empty text or a white picture."""
        out: Tensor = cast(Any, self.body).blank()
        return out


class ViltPool(Part, Pool):
    """A linear map of the class token, and a tanh.

    Args:
        config: Of the model.
    """

    def __init__(self, config: dict[str, Any]):
        super().__init__(model_config(config).hidden_size)
        self.dense = nn.Linear(self.out_width, self.out_width)

    def forward(self, tokens: Tokens) -> Column:
        """See `Pool.forward`."""
        first = tokens.first()
        return Column(self.dense(first.flat).tanh(), first.rows)
