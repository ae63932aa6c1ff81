"""Missing-aware prompts: a frozen transformer gets other learned tokens for each set of fields that
a row may have.

Lee, Tsai, Chiu and Lee, CVPR 2023, arXiv:2303.03369, sections 3.2 and 3.3: one set of prompts for
each of the 2^M - 1 ways in which M fields can be present, before the tokens of the first six blocks
("input", which is usually stronger) or as keys and values in them ("attention").

The transformer is frozen. The paper's is ViLT, `--trunk transformers:DIR --size base`; its pooler
learns along. `amodal adapt` takes a run with a joint trunk instead, of any number of fields. Any
kind of label. `missing=0.7` takes a field away from that share of the training records, as the
paper's protocol does, and `amodal evaluate --protocols missing_modality_robustness` at test.

Differs:

- pictures are squares of 384 pixels. The authors keep the aspect, with a shorter side of 384.
- the dropout of ViLT is off. The authors' is .1 in training.
- prompts begin random and small; the authors set one token of each to ones and the others to zeros.
- head: a perceptron with one hidden layer of twice the width. The authors' has a LayerNorm in it
  (`head_norm=True`).
- views: `weak`; the authors train on whole pictures and texts (`view="plain"`).
- with a trunk of this library: a field that is missing is no token at all, and the mean of the
  tokens is read (an attention pooling of the encoder learns along). With ViLT a missing text is an
  empty one, and a missing picture white, as in the paper.
"""

from __future__ import annotations

from amodal.core import AmodalError, Batch, Recipe, unknown
from amodal.core.embeddings import FUSED
from amodal.masking.lost_fields import lose_fields
from amodal.methods.adaptation.finetune import Finetune
from amodal.methods.shared.supervised import HeadFeatures
from amodal.nn.adapters.block_tokens import require_no_hook
from amodal.nn.adapters.deep_prompts import pattern_prompts
from amodal.nn.adapters.tuning import train_projections
from amodal.nn.backbones.single_stream import SingleStreamTrunk
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import SupervisedHead, Target, supervised_head

ENCODER = {"trunk": "joint"}
PAPER_RECIPE = Recipe(
    lr=1e-2,
    weight_decay=2e-2,
    betas=(0.9, 0.98),
    schedule="linear",
    warmup=0.1,
    clip=0.0,
    batch_size=256,
    epochs=20.0,
    resolution=384,
)


def missing_aware_prompts(
    encoder: Encoder,
    *,
    label: str = "",
    targets: tuple[Target, ...] = (),
    task: str = "auto",
    prompt_type: str = "input",
    length: int = 16,
    layers: int = 6,
    accumulate: bool = True,
    missing_aware: bool = True,
    hidden: float = 2.0,
    head_norm: bool = False,
    blank: bool = True,
    missing: float = 0.0,
    missing_fields: str = "",
    view: str = "weak",
) -> MissingAware:
    """Build missing-aware prompts.

    Args:
        encoder: Pretrained, with a joint trunk, of a run or of transformers.
        label: What to predict: a label of the data, or more of them with commas between.
        targets: What the labels hold (by default read from the data).
        task: "auto", by the kind of each label, or "survival", label being TIME,EVENT.
        prompt_type: Where prompts enter: "input" or "attention".
        length: Tokens of each prompt; for "attention" half are keys and half values.
        layers: How many blocks have prompts, the first ones.
        accumulate: ("input") prompts of earlier blocks stay beside those of later ones, or are
            replaced by them.
        missing_aware: False gives all rows the same prompts, the paper's own comparison.
        hidden: Width of the head's hidden layer, in widths of the encoder (0: a linear head).
        head_norm: A LayerNorm before the head's GELU, as in the authors' code.
        blank: (a trunk of transformers) A missing picture is shown as a white one, or not at all.
        missing: Share of the complete training records that lose a field, the same ones in every
            epoch (.7 in the paper).
        missing_fields: What they lose, with commas between (by default any field, all as often).
        view: How values are augmented, such as "plain" or "weak".
    """
    prompts = pattern_prompts(
        require_no_hook(encoder),
        length=length,
        layers=layers,
        level=prompt_type,
        accumulate=accumulate,
        missing_aware=missing_aware,
    )
    train_projections(encoder.requires_grad_(False)).set_block_hook(prompts)
    encoder.pools[FUSED].requires_grad_(True)
    for trunk in encoder.trunks.values():
        if isinstance(trunk, SingleStreamTrunk):
            trunk.set_blank(blank)
    head = supervised_head(encoder, targets, round(hidden * encoder.width), norm=head_norm)
    return MissingAware(encoder, head, view, missing=missing, missing_fields=missing_fields)


class MissingAware(Finetune):
    """A head on a frozen encoder with prompts, some of whose training records lose a field.

    Args:
        encoder: With prompts.
        head: Of the labels.
        view: How values are augmented.
        missing: Share of the complete records that lose a field.
        missing_fields: Names with commas between, "" for all.

    Raises:
        AmodalError: For a share out of range, and for unknown fields.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: SupervisedHead,
        view: str,
        *,
        missing: float,
        missing_fields: str,
    ):
        super().__init__(encoder, head, 0.0, view)
        if not 0 <= missing <= 1:
            raise AmodalError(f"missing is a share of the records, from 0 to 1, not {missing}")
        names = [name.strip() for name in missing_fields.split(",") if name.strip()]
        for name in names:
            if name not in encoder.fields:
                raise unknown("field", name, encoder.fields, "It is in missing_fields.")
        self.missing, self.missing_fields = missing, names

    def features(self, batch: Batch) -> HeadFeatures:
        return super().features(lose_fields(batch, self.missing, self.missing_fields))
