"""A pretrained single-stream transformer as the joint trunk: ViLT, which reads a text and a picture
as one list of tokens.

`--trunk transformers:DIR`, of a directory with a ViLT (Kim, Son and Kim, ICML 2021,
arXiv:2102.03334). Its embeddings become the tokenizers of the two fields, its layers the trunk,
around which block hooks are called as around our own blocks, and its pooler the pool of fused
vectors. A record without a text has the special tokens of an empty one, since the first of them is
what the pooler reads. One without a picture may be shown a white one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Tokens, field_of
from amodal.core.embeddings import FUSED
from amodal.core.host import to_device
from amodal.core.part import Part
from amodal.modalities import Modality
from amodal.nn.backbones.body import LoadReport
from amodal.nn.backbones.layer_hooks import hook_layers
from amodal.nn.backbones.transformers import architecture, load_model
from amodal.nn.backbones.vilt_parts import ViltPool, ViltTokenizer, model_config, modeling
from amodal.nn.transformer import BlockHook, Collector, size_of
from amodal.nn.trunks import RouterLogitsOf, SourceTokens, TrunkRouting

KIND = "vilt"
BLANK, PADDING = ".blank", ".padding"
"""Sources of the tokens of what a record lacks, and of no token."""


def single_stream(
    spec: str, fields: Mapping[str, Modality], size: str
) -> tuple[dict[str, Part], dict[str, Any]]:
    """What an encoder needs whose joint trunk is a ViLT.

    Args:
        spec: transformers:DIR.
        fields: Name -> modality, of a text and of pictures.
        size: Of the encoder, whose width must be the model's.

    Returns:
        Field -> its tokenizer, and other arguments of the encoder.

    Raises:
        AmodalError: For another model, other fields, and another width.
    """
    library, _, directory = spec.partition(":")
    texts = [f for f, m in fields.items() if m.takes_prompts]
    pictures = [f for f, m in fields.items() if library in m.backbones and not m.takes_prompts]
    if library != "transformers" or not directory:
        raise AmodalError(
            f"a pretrained trunk is transformers:DIR, of a directory with a ViLT, not {spec!r}"
        )
    if len(texts) != 1 or len(pictures) != 1 or len(fields) != 2:
        raise AmodalError(
            f"the trunk of {spec} reads one field of text and one of pictures, and the fields "
            f"are {', '.join(f'{f} ({m.kind})' for f, m in fields.items())}; choose two: "
            "--fields A,B"
        )
    known = {f: architecture(directory, fields[f]) for f in (*texts, *pictures)}
    config = known[texts[0]]["config"]
    if config["model_type"] != KIND:
        raise AmodalError(
            f"a pretrained trunk reads texts and pictures together, such as ViLT, and {directory} "
            f"holds {config['model_type']}; give it as a backbone of its field: "
            f"--backbone FIELD={spec}"
        )
    if (width := size_of(size).width) != (wanted := model_config(config).hidden_size):
        raise AmodalError(
            f"{spec} is {wanted} wide, and an encoder of size {size} {width}: take the --size "
            "that is as wide (nano 64, tiny 128, small 384, base 768, large 1,024)"
        )
    model, report = load_model(directory)
    tokenizers = {f: ViltTokenizer(known[f], fields[f]) for f in known}
    for tokenizer in tokenizers.values():
        tokenizer.load(model)
    lengths = {f: len(tokenizer.blank_tokens()) for f, tokenizer in tokenizers.items()}
    trunk = SingleStreamTrunk(config, texts[0], pictures[0], lengths)
    trunk.load(model, tokenizers, report)
    pool = ViltPool(config)
    pool.load_state_dict(cast(Any, model).pooler.state_dict())
    return dict(tokenizers), {"trunk": trunk, "pools": {FUSED: pool}}


def is_model(trunk: str | None) -> bool:
    """Whether a setting `trunk` names a pretrained model."""
    return trunk is not None and ":" in trunk


class SingleStreamTrunk(Part):
    """The layers of a ViLT. It is in evaluation mode, so its dropout is off.

    Args:
        config: Of the model.
        text_field: The field whose tokens come first in a record.
        picture_field: The other one.
        lengths: Field -> how many tokens it has where a record lacks it.
        blank: A record without a picture is shown a white one, as the authors of missing-aware
            prompts do, in place of nothing. Texts are always shown, as empty ones.
    """

    report: LoadReport | None = None

    def __init__(
        self,
        config: dict[str, Any],
        text_field: str,
        picture_field: str,
        lengths: dict[str, int],
        *,
        blank: bool = True,
    ):
        super().__init__()
        made = model_config(config)
        self.encoder = modeling().ViltEncoder(made)
        self.norm = nn.LayerNorm(made.hidden_size, eps=made.layer_norm_eps)
        self.fields, self.blank = (text_field, picture_field), blank
        for number, field in enumerate(self.fields):
            shape = lengths[field], made.hidden_size
            self.register_buffer(f"blank_{number}", torch.zeros(shape))
        self.eval()

    def load(self, model: Any, tokenizers: Mapping[str, ViltTokenizer], report: LoadReport) -> None:
        """Take the weights of the model."""
        self.encoder.load_state_dict(model.encoder.state_dict())
        self.norm.load_state_dict(model.layernorm.state_dict())
        for number, field in enumerate(self.fields):
            self.get_buffer(f"blank_{number}").copy_(tokenizers[field].blank_tokens())
        self.report = report

    def set_blank(self, blank: bool) -> None:
        """Show a white picture to records without one, or nothing."""
        self.blank = blank
        self.describe_as(blank=blank)

    @property
    def blocks(self) -> list[nn.Module]:
        """Its layers."""
        return list(self.encoder.layer)

    def routing(self, width: int) -> SingleStreamRouting:
        """What sends the tokens of all sources through it."""
        return SingleStreamRouting("joint", width)

    def train(self, mode: bool = True) -> SingleStreamTrunk:
        """Evaluation mode, always: dropout of the model does not draw from the seeds of rows."""
        return super().train(False)

    def forward(
        self, parts: Sequence[Tokens], block_hook: BlockHook | None = None
    ) -> tuple[list[Tensor], Tokens]:
        """Read the tokens of a text and a picture together.

        Args:
            parts: Tokens of a source each, x (T, D).
            block_hook: Is called around each layer, with rows that are numbered anew.

        Returns:
            What becomes of each part, (T, D); and the class token of each row that has any token.
        """
        size, width = parts[0].size, parts[0].x.shape[1]
        whole, number = self.sequence(parts)
        rows = to_device(whole.rows(), whole.row.device)
        if not len(rows):
            whole_TD = self.norm(whole.x)
            return [whole_TD for _ in parts], whole.with_x(whole_TD).renamed(FUSED)
        row = torch.searchsorted(rows, whole.row)
        longest, within = int(whole.lengths().max()), whole.within()
        x_NLD = whole.x.new_zeros(len(rows), longest, width)
        x_NLD = x_NLD.index_put((row, within), whole.x)
        source_NL = torch.full(x_NLD.shape[:2], len(whole.names), device=row.device)
        source_NL[row, within] = whole.source
        hooked = (
            nullcontext()
            if block_hook is None
            else hook_layers(self.blocks, block_hook, (*whole.names, PADDING), source_NL)
        )
        with hooked:
            states = self.encoder(x_NLD, mask_of(source_NL < len(whole.names), x_NLD.dtype))
        out_NLD = self.norm(states.last_hidden_state)
        out_TD = out_NLD[row, within]
        back = torch.argsort(number, stable=True)[int((number < 0).sum()) :]
        ones, position = torch.ones_like(rows), out_NLD.new_zeros(len(rows), 3)
        classes = Tokens.of(out_NLD[:, 0], rows, ones, position, FUSED, size)
        return list(torch.split(out_TD[back], [len(p) for p in parts])), classes

    def sequence(self, parts: Sequence[Tokens]) -> tuple[Tokens, Tensor]:
        """The tokens of all rows, of each the text first, and blanks for what it lacks.

        Returns:
            The tokens, and of each its number among those of all parts end to end, -1 for blanks.
        """
        starts = [0]
        for part in parts:
            starts.append(starts[-1] + len(part))
        every = torch.cat([p.row for p in parts]).unique()
        ordered: list[Tokens] = []
        numbers: list[Tensor] = []
        for i, field in enumerate(self.fields):
            of_field = [j for j, part in enumerate(parts) if field_of(part.names[0]) == field]
            for j in of_field:
                ordered.append(parts[j])
                numbers.append(torch.arange(starts[j], starts[j + 1], device=every.device))
            if i and not self.blank:
                continue
            has = torch.cat([every[:0], *(parts[j].row for j in of_field)])
            lacks = every[~torch.isin(every, has)]
            x_LD = self.get_buffer(f"blank_{i}").to(parts[0].x.dtype)
            blank_TD = x_LD.repeat(len(lacks), 1)
            lengths = torch.full_like(lacks, len(x_LD))
            position = parts[0].position.new_zeros(len(blank_TD), parts[0].position.shape[1])
            ordered.append(Tokens.of(blank_TD, lacks, lengths, position, BLANK, parts[0].size))
            numbers.append(torch.full((len(blank_TD),), -1, device=every.device))
        labelled = [p.with_x(n[:, None]) for p, n in zip(ordered, numbers)]
        return Tokens.join(ordered), Tokens.join(labelled).x.squeeze(1)


def mask_of(is_token_NL: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, 1, 1, L), what is added to scores: nothing for tokens, the least number for padding."""
    hidden = torch.finfo(dtype).min
    return (~is_token_NL)[:, None, None].to(dtype) * hidden


class SingleStreamRouting(TrunkRouting):
    """Sends the tokens of all sources of a view through a `SingleStreamTrunk`."""

    def forward(
        self,
        trunks: nn.ModuleDict,
        tokens: SourceTokens,
        collect: Collector | None = None,
        router_logits: RouterLogitsOf | None = None,
        block_hook: BlockHook | None = None,
        norms: Mapping[str, nn.Module] | None = None,
    ) -> SourceTokens:
        """See `TrunkRouting.forward`; also `fused` -> the class tokens, of the first view."""
        if any(other is not None for other in (collect, router_logits, norms)):
            raise AmodalError(
                "a pretrained trunk gives its last states alone; take a trunk of this library "
                "(--trunk joint)"
            )
        (trunk,) = trunks.values()
        result: SourceTokens = {}
        for names in next(iter(self._sequences(trunks, tokens).values())):
            outputs, classes = trunk([tokens[s] for s in names], block_hook)
            result |= {s: tokens[s].with_x(x) for s, x in zip(names, outputs)}
            result.setdefault(FUSED, classes)
        return {s: result[s] for s in (*tokens, FUSED)}
