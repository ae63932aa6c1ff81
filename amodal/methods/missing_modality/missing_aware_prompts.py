"""Missing-aware prompts: a frozen transformer gets other learned tokens for each set of fields that
a row may have.

Lee, Tsai, Chiu and Lee, CVPR 2023, arXiv:2303.03369, sections 3.2 and 3.3: one set of prompts for
each of the 2^M - 1 ways in which M fields can be present, before the tokens of the first six blocks
("input", which is usually stronger) or as keys and values in them ("attention"). The encoder must
be trained beforehand, with a joint trunk; `amodal adapt` goes on with such a run. Any number of
fields and any kind of label.

Differs:

- encoder: a joint trunk trained here, such as by `mae`. The paper has ViLT, a ViT-B of 12 blocks on
  pictures of 384 pixels, with a dropout of .1 that stays on.
- a field that is missing is no token at all; the paper's backbone is shown an empty text or a white
  picture.
- prompts begin random and small; the authors set one token of each to ones and the others to zeros.
- pooling: the mean of the tokens. The authors train a linear map and a tanh of the class token; an
  attention pooling (`pool="attention"` of the encoder) learns along.
- head: a perceptron with one hidden layer of twice the width; theirs has a LayerNorm in it.
- views: `weak`; the authors resize pictures by their shorter side. For texts of 128 to 1,024 words
  they stretch the learned positions of ViLT; here positions are sines.
- what is missing in training is what the data lacks (70 % of the records in the paper, which takes
  it away at random); at test `amodal evaluate --protocols missing_modality_robustness` takes it
  away.
"""

from amodal.core import Recipe
from amodal.core.embeddings import FUSED
from amodal.methods.adaptation.finetune import Finetune
from amodal.nn.adapters.block_tokens import require_no_hook
from amodal.nn.adapters.deep_prompts import pattern_prompts
from amodal.nn.adapters.tuning import train_projections
from amodal.nn.encoder import Encoder
from amodal.nn.heads.supervised import Target, supervised_head

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
    view: str = "weak",
) -> Finetune:
    """Build missing-aware prompts.

    Args:
        encoder: Pretrained, with a joint trunk.
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
    return Finetune(
        encoder, supervised_head(encoder, targets, round(hidden * encoder.width)), 0.0, view
    )
