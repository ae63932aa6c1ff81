"""I-JEPA: from a context block of a value, predict what a momentum encoder makes of other blocks.

Assran et al., CVPR 2023, arXiv:2301.08243, section 3. No augmentation is needed beyond a crop, and
what is predicted are states, not pixels. With more than one field, each is predicted from itself,
and the loss is the mean over fields.

Differs: from the authors' program and their configuration of ViT-H/14 on ImageNet
(in1k_vith14_ep300):

- encoder: `--size`, and patches as dataset.toml says; ViT-H/14 is `--size huge --resolution 224`
  with `patch = 14` there. Positions are sines of three coordinates, theirs of two. Linear layers
  begin by Xavier's rule, theirs with a deviation of .02 and output layers divided by the root of
  twice their number.
- blocks: each target has a size of its own, drawn from the row's seed, as the paper has it; the
  program draws one size for a batch, and cuts all masks to the shortest. Blocks may touch the last
  row and column, see `amodal.masking.multiblock`. Fields without a grid have stretches.
- predictor: half as wide as the encoder with heads of 32, and 2 blocks deep (384 wide with 16 heads
  and 12 deep for ViT-H; 6 deep for ViT-B): `predictor_width`, `predictor_depth`. Each field has
  its own.
- loss: smooth L1 over states with a layer norm, as in the program; the paper's text has the squared
  distance. It is the mean over tokens of all blocks of the batch.
- momentum: that of step k of K is taken at k, counted from 1; the program counts from 0.
- optimizer: the warm-up begins at a fifth of the rate there and at 0 here; their cosine ends at
  1e-6, ours at a hundredth of the rate.
- views: a crop of 30-100 %, as theirs, for pictures; `weak` for other fields.
- product: the momentum encoder there, the context encoder here; a run with an average of the
  weights (`--ema`) comes close to it. No class token in either, unless `--pool cls` puts one in.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from amodal.core import Batch, Column, Embeddings, Recipe, Tokens, field_of, name_code
from amodal.core.host import host_copy
from amodal.masking.hashing import hash_bits
from amodal.masking.multiblock import Multiblock
from amodal.methods.shared.shapes import (
    LinearStudentTeacher,
    refuse_backbones,
    refuse_pool,
    row_losses,
    share,
    token_mean,
)
from amodal.methods.shared.typed_parts import field_pool
from amodal.nn.encoder import Encoder
from amodal.nn.generation.block_predictor import BlockPredictor
from amodal.objectives.smooth_l1 import smooth_l1

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=1e-3,
    weight_decay=0.04,
    weight_decay_end=0.4,
    betas=(0.9, 0.999),
    schedule="cosine",
    warmup_epochs=40.0,
    clip=0.0,
    batch_size=2048,
    epochs=300.0,
)
"""Of ViT-H/14 on ImageNet, appendix A.1 and the authors' configuration."""


def i_jepa(
    encoder: Encoder,
    *,
    blocks: int = 4,
    scale_low: float = 0.15,
    scale_high: float = 0.2,
    context_low: float = 0.85,
    least: int = 10,
    predictor_width: int = 0,
    predictor_depth: int = 2,
    beta: float = 1.0,
    momentum: float = 0.996,
    final_momentum: float = 1.0,
) -> IJepa:
    """Build I-JEPA.

    Args:
        encoder: The context encoder.
        blocks: Target blocks of a value.
        scale_low: Smallest share of the tokens that a target block covers.
        scale_high: Largest share.
        context_low: Smallest share of the tokens that the context block covers, before the targets
            are taken out of it; the largest is all.
        least: Tokens that the context has at least; a quarter of the value where that is less.
        predictor_width: Of the predictor; 0 for half of the encoder's (384 in the paper).
        predictor_depth: Blocks of the predictor (6 to 12 in the paper).
        beta: Where smooth L1 turns linear.
        momentum: Of the momentum encoder at the start.
        final_momentum: Of the momentum encoder at the end.
    """
    refuse_backbones(encoder, "i_jepa")
    masks = Multiblock(
        blocks=blocks, scale=(scale_low, scale_high), context=(context_low, 1.0), least=least
    )
    predictors = {
        f: BlockPredictor(f, encoder.width, hidden=predictor_width, depth=predictor_depth)
        for f in encoder.fields
    }
    return IJepa(
        encoder, predictors, masks, beta=beta, momentum=momentum, final_momentum=final_momentum
    )


class IJepa(LinearStudentTeacher):
    """A context encoder and predictors of the momentum encoder's states.

    Args:
        encoder: The context encoder.
        predictors: Field -> its predictor.
        masks: How blocks are drawn.
        beta: Where smooth L1 turns linear.
        momentum: Of the momentum encoder at the start.
        final_momentum: Of the momentum encoder at the end.

    Raises:
        AmodalError: For a pooling with parameters.
    """

    def __init__(
        self,
        encoder: Encoder,
        predictors: dict[str, BlockPredictor],
        masks: Multiblock,
        *,
        beta: float,
        momentum: float,
        final_momentum: float,
    ):
        refuse_pool(encoder)
        super().__init__(
            encoder, momentum=momentum, final_momentum=final_momentum, views=("i_jepa",)
        )
        self.predictors, self.masks, self.beta = nn.ModuleDict(predictors), masks, beta

    def features(self, batch: Batch) -> Embeddings:
        """source -> (N, 2), the sum of losses of target tokens and their number."""
        tokens = self.encoder.tokenize(batch)
        with torch.no_grad():
            whole = self.teacher.encode(self.teacher.tokenize(batch))
        drawn = {s: self.draw(t, batch.seeds) for s, t in tokens.items()}
        context = self.encoder.encode({s: t.keep(drawn[s][0]) for s, t in tokens.items()})
        columns = {s: self.predict(context[s], whole[s], t, drawn[s][1]) for s, t in tokens.items()}
        return Embeddings(columns, batch.size)

    def losses(self, features: Embeddings) -> dict[str, Tensor]:
        return share({f"predict/{s}": token_mean(features[s]) for s in features})

    def draw(self, tokens: Tokens, seeds_B: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The context and the target blocks of one source, on the CPU, see `Multiblock.draw`."""
        skeleton, code = tokens.skeleton(), name_code(tokens.names[0])
        return self.masks.draw(
            skeleton.row,
            hash_bits(host_copy(seeds_B), code)[skeleton.row],
            skeleton.within(),
            host_copy(tokens.position),
        )

    def predict(
        self, context: Tokens, whole: Tokens, tokens: Tokens, targets: list[Tensor]
    ) -> Column:
        """The losses (N, 2) of the tokens of all target blocks of one source.

        Args:
            context: What the context encoder makes of the context.
            whole: What the momentum encoder makes of all tokens.
            tokens: All tokens, before any encoder.
            targets: M times (T,) bool, see `Multiblock.draw`.
        """
        source = tokens.names[0]
        strip = field_pool(self.encoder, source).strip
        context, whole = strip(context), strip(whole)
        blocks = [tokens.keep(target) for target in targets]
        predicted = Tokens.join(self.predictors[field_of(source)](context, blocks))
        wanted = Tokens.join([whole.keep(target) for target in targets])
        states_TD = layer_norm(wanted.x, wanted.x.shape[1:])
        return row_losses(smooth_l1(predicted.x, states_TD, beta=self.beta), predicted)
