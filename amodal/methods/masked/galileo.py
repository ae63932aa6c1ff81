"""Galileo: from a tenth of a record's tokens, predict deep features of tokens far away, and shallow
features of tokens scattered in between.

Tseng et al., ICML 2025, arXiv:2502.09356. A token is a patch of a group of bands at a date, or any
token of another field. Global task: the encoder sees some groups at a few dates or places; other
groups at other dates or places are predicted, as a momentum encoder that sees everything describes
them, after all of its blocks, half of them, or none. Local task: tokens at random, whose targets
are no more than their linear map. Both compare a prediction with the targets of its own record.

Differs: from the authors' program and their configuration of ViT-B (nasaharvest/galileo,
base.json):

- groups: those that dataset.toml declares for a raster; any other field (a table, a series, a text,
  a picture) is one group. Theirs are 17 of Sentinel-1 and -2, elevation, weather and land cover.
- patches: of one side, or with `patches` in dataset.toml of one that each step draws, by weights of
  the largest that are resized as theirs are; crops then have as many patches. With more than one
  field on a grid each has one side, and `patches` is refused.
- projection: one linear map for the pixels of all groups of a field, so one bias; it also sees
  which pixels exist. Theirs has one for each group, and no missing pixels.
- positions: `ground`. A quarter of the width each is for time, month, height and width, with
  wavelengths up to 20,000 pi; theirs are the number of the date, the month, and height and width in
  a quarter together, up to 20 pi. Groups have the whole width, a quarter there.
- tasks: each record has both in a step; theirs has four passes of each record a step, hidden by
  date, by place, and twice at random, each with a crop of its own. Here a record draws whether
  dates or places are hidden, and its groups for itself, theirs once for a batch.
- masks: at most half of a record's groups are seen (2 to 6 of 17 there); see
  `amodal.masking.three_state`. Places and dates are drawn by their number in each field: fields
  with as many have the same. Of fields with other grids or dates some predicted tokens are of
  ground that another field shows (12 % between grids of 10 and 20 m); theirs have one grid.
- exits: `half` and `linear`; all others are full. States of half the depth have the last norm, as
  there.
- predictor: 4 blocks for ViT-B there. Its keys are normed after their positions are added, theirs
  before.
- loss: the mean over records that have something to predict; theirs counts the others as 0.
- momentum: that of step k of K is taken at k, counted from 1; the program counts from 0.
- optimizer: biases, norms and tokens do not decay here; the norm of a gradient is clipped for all
  parameters together, there for the encoder and the first predictor apart.
- views: `weak`, so a raster is cropped, turned and mirrored, and fewer dates drawn, as there. Where
  more than one field lies on a grid they are turned and mirrored alike, and not cropped; beside a
  picture, which cannot be turned, not even that.
- scale: bands are standardised by one deviation, theirs by two.
- time: months since 2000, in which the year shows, and with fractions of a day; theirs are the
  number of the date, and whole months of the year.
- drop path rises over the blocks to .1, theirs is .1 in each; the rate ends at a hundredth, theirs
  at 1e-6.

Learns: no. Colour, relief and climate of `globe`, 300 steps of 128 records at 2e-3, `--size nano`,
two seeds, linear probes of colour: climate zones of tiles .704 and .692, untrained .698 and .645;
land in patches .917 and .917, untrained .923 and .922; the mean of both .811 and .805, untrained
.811 and .783, simple features .792. On `sentinel2` (250 steps of 256 records, one seed) R2 of
vegetation from all bands is 1.000, .999 untrained and 1.000 from simple features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from amodal.core import AmodalError, Batch, Column, Recipe, Tokens, field_of, name_code, unknown
from amodal.core.host import constant, host_copy
from amodal.core.tokens import GROUP
from amodal.masking.hashing import hash_bits
from amodal.masking.three_state import DECODE, ENCODE, ThreeState
from amodal.methods.contract import Columns, FeatureRecord
from amodal.methods.shared.grids import group_codes, views_together
from amodal.methods.shared.shapes import (
    LinearStudentTeacher,
    refuse_backbones,
    refuse_pool,
    row_losses,
    share,
)
from amodal.methods.shared.typed_parts import field_pool
from amodal.modalities.shared.protocols import ResizesPatches
from amodal.nn.encoder import Encoder
from amodal.nn.generation.cross_predictor import CrossPredictor
from amodal.nn.transformer import Transformer
from amodal.nn.trunks import ALL, SourceTokens
from amodal.objectives.patch_disc import patch_disc

ENCODER = {"trunk": "joint", "positions": "ground"}
PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=1e-4,
    weight_decay=0.03,
    betas=(0.9, 0.999),
    schedule="cosine",
    warmup_epochs=30.0,
    clip=1.0,
    drop_path=0.1,
    batch_size=128,
    epochs=500.0,
)
"""Of ViT-B, in the authors' configuration base.json."""
TASKS = GLOBAL, LOCAL = "global", "local"
BOTH = "both"


def galileo(
    encoder: Encoder,
    *,
    encode: float = 0.1,
    decode: float = 0.5,
    tasks: str = "both",
    half: str = "",
    linear: str = "",
    predictor_width: int = 0,
    predictor_depth: int = 2,
    temperature: float = 0.1,
    momentum: float = 0.996,
    final_momentum: float = 1.0,
) -> Galileo:
    """Build Galileo.

    Args:
        encoder: With a joint trunk.
        encode: Share of the tokens, dates or places that the encoder sees.
        decode: Share that is predicted.
        tasks: "both", "global" or "local".
        half: Fields, and groups as FIELD.GROUP, whose targets of the global task have gone through
            half of the blocks, such as elevation and weather ("dem, weather, s2.ndvi").
        linear: Those whose targets are the linear map alone, such as maps of land cover.
        predictor_width: Of the two predictors; 0 for the encoder's.
        predictor_depth: Blocks of a predictor (4 in their configuration of ViT-B).
        temperature: Of PatchDisc.
        momentum: Of the momentum encoder at the start.
        final_momentum: Of the momentum encoder at the end.
    """
    refuse_backbones(encoder, "galileo")
    refuse_patches_beside(encoder)
    if temperature <= 0 or not 0 <= momentum <= 1 or not 0 <= final_momentum <= 1:
        raise AmodalError(
            "galileo.temperature is above 0, momentum and final_momentum are shares, not "
            f"{temperature}, {momentum} and {final_momentum}"
        )
    if tasks not in (BOTH, *TASKS):
        raise unknown("choice of tasks", tasks, (BOTH, *TASKS))
    groups = {f: max(len(m.token_groups), 1) for f, m in encoder.fields.items()}
    predictors = {
        task: CrossPredictor(
            groups,
            encoder.width,
            hidden=predictor_width,
            depth=predictor_depth,
            heads=encoder.num_heads,
        )
        for task in (TASKS if tasks == BOTH else (tasks,))
    }
    return Galileo(
        encoder,
        predictors,
        ThreeState(encode=encode, decode=decode),
        exits=exit_depths(encoder, half=half, linear=linear),
        temperature=temperature,
        momentum=momentum,
        final_momentum=final_momentum,
    )


def exit_depths(encoder: Encoder, *, half: str, linear: str) -> dict[str, list[int]]:
    """After how many blocks the targets of each group leave the momentum encoder.

    Args:
        encoder: Of the fields.
        half, linear: See `galileo`. What is named for a group goes before what is for its field.

    Returns:
        Field -> a number for each of its groups.

    Raises:
        AmodalError: For an unknown name, one in both lists, and trunks that are no transformers of
            this library.
    """
    (depth,) = {len(transformer(trunk).blocks) for trunk in encoder.trunks.values()}
    named: dict[str, int] = {}
    for text, number in ((half, depth // 2), (linear, 0)):
        for name in filter(None, map(str.strip, text.split(","))):
            if name in named:
                raise AmodalError(
                    f"{name!r} is both in half and in linear; leave it in one of them"
                )
            named[name] = number
    exits, known = {}, []
    for field, modality in encoder.fields.items():
        of_groups = [f"{field}.{group}" for group in modality.token_groups]
        known += [field, *of_groups]
        whole = named.get(field, depth)
        exits[field] = [named.get(name, whole) for name in of_groups] or [whole]
    for name in named:
        if name not in known:
            raise unknown("field, or FIELD.GROUP,", name, known)
    return exits


def transformer(trunk: nn.Module) -> Transformer:
    """A trunk whose states can be read between its blocks. Raises AmodalError for others."""
    if not isinstance(trunk, Transformer):
        raise AmodalError(
            "galileo reads states between the blocks of this library's own transformers: leave "
            "--trunk transformers:DIR and --mixer out"
        )
    return trunk


def refuse_patches_beside(encoder: Encoder) -> None:
    """Refuse fields whose patches vary by step beside others on a grid: these are turned together,
    and what is turned together has patches of one side.

    Raises:
        AmodalError: For such a field, with its name.
    """
    grids = [f for f, m in encoder.fields.items() if m.layout == "grid"]
    vary = [f for f in grids if isinstance(m := encoder.fields[f], ResizesPatches) and m.patches]
    others = [f for f in grids if vary and f != vary[0]]
    if others:
        raise AmodalError(
            f"the patches of {vary[0]!r} cannot vary beside another field on a grid "
            f"({', '.join(others)}): leave `patches` out of dataset.toml, or take one of them by "
            "--fields"
        )


@dataclass(frozen=True, kw_only=True)
class GalileoFeatures(FeatureRecord):
    """What both tasks lose."""

    tasks: Columns  # global and local -> (N,), of each record the mean over predicted tokens


class Galileo(LinearStudentTeacher):
    """An encoder, and two predictors of what its momentum encoder makes of hidden tokens.

    Args:
        encoder: Sees a few tokens.
        predictors: global, local, or both -> a predictor.
        masks: How tokens are drawn.
        exits: Of `exit_depths`.
        temperature: Of PatchDisc.
        momentum: Of the momentum encoder at the start.
        final_momentum: Of the momentum encoder at the end.

    Raises:
        AmodalError: For a pooling with parameters.
    """

    def __init__(
        self,
        encoder: Encoder,
        predictors: Mapping[str, CrossPredictor],
        masks: ThreeState,
        *,
        exits: Mapping[str, list[int]],
        temperature: float,
        momentum: float,
        final_momentum: float,
    ):
        refuse_pool(encoder)
        super().__init__(encoder, momentum=momentum, final_momentum=final_momentum, views=("weak",))
        self.views = views_together(encoder)
        self.predictors, self.masks = nn.ModuleDict(predictors), masks
        self.exits, self.temperature = dict(exits), temperature
        self.depths = {depth for exits in self.exits.values() for depth in exits}

    def features(self, batch: Batch) -> GalileoFeatures:
        tokens = self.encoder.tokenize(batch)
        states, targets = self.draw(tokens, batch.seeds), self.targets(batch)
        tasks = {t: self.predict(t, tokens, states[t], targets[t]) for t in self.predictors}
        return GalileoFeatures(size=batch.size, tasks=tasks)

    def losses(self, features: GalileoFeatures) -> dict[str, Tensor]:
        lost = {task: column.flat for task, column in features.tasks.items()}
        return share({task: loss_N.sum() / max(len(loss_N), 1) for task, loss_N in lost.items()})

    @torch.no_grad()
    def targets(self, batch: Batch) -> dict[str, SourceTokens]:
        """What the momentum encoder, which sees everything, makes of all tokens.

        Returns:
            Of each task source -> tokens: states at the exits of their groups, and linear maps.
            Both are normed as the trunk's output is.
        """
        content = self.teacher.patchify(batch)
        tokens = {s: self.teacher.add_positions(t) for s, t in content.items()}
        states = {0: {s: t.x for s, t in content.items()}}

        def after(number: int, tokens: Tokens, block: Callable[..., Tokens]) -> Tokens:
            out = block(tokens)
            if number + 1 in self.depths:
                for s in (name for name in out.names if name in content):
                    part = self.strip(out.only(s).renamed(s))
                    states.setdefault(number + 1, {})[s] = part.x
            return out

        self.teacher.encode(tokens, block_hook=after)
        return {
            GLOBAL: {
                s: t.with_x(self.normed(s, self.leave(s, t, states))) for s, t in content.items()
            },
            LOCAL: {s: t.with_x(self.normed(s, t.x)) for s, t in content.items()},
        }

    def leave(
        self, source: str, tokens: Tokens, states: Mapping[int, Mapping[str, Tensor]]
    ) -> Tensor:
        """(T, D) the state of each token of a source at the exit of its group.

        Args:
            source: Whose tokens they are.
            tokens: Of the source.
            states: Number of blocks -> source -> (T, D).
        """
        exits = self.exits[field_of(source)]
        x_TD = states[exits[0]][source]
        if len(set(exits)) == 1:
            return x_TD
        for depth in set(exits):
            here = constant([exit == depth for exit in exits], x_TD, torch.bool)
            here_T1 = here[tokens.attributes[GROUP]][:, None]
            x_TD = torch.where(here_T1, states[depth][source], x_TD)
        return x_TD

    def normed(self, source: str, x_TD: Tensor) -> Tensor:
        """The norm at the end of the momentum encoder's trunk."""
        trunks = self.teacher.trunks
        out: Tensor = transformer(trunks[ALL if ALL in trunks else field_of(source)]).norm(x_TD)
        return out

    def strip(self, tokens: Tokens) -> Tokens:
        """Tokens of one source without what its pooling added."""
        return field_pool(self.encoder, tokens.names[0]).strip(tokens)

    def draw(self, tokens: SourceTokens, seeds_B: Tensor) -> dict[str, dict[str, Tensor]]:
        """The states of all tokens, on the CPU.

        Args:
            tokens: Of all sources of a batch.
            seeds_B: Of its rows.

        Returns:
            Of each task source -> (T,), see `ThreeState`.
        """
        bags, seeds_B = [t.skeleton() for t in tokens.values()], host_copy(seeds_B)
        row_T = torch.cat([b.row for b in bags])
        # numbered through all fields, so that one draw serves them all
        before = torch.stack([b.lengths() for b in bags]).cumsum(0)
        order_T = torch.cat(
            [b.within() + (before[i] - b.lengths())[b.row] for i, b in enumerate(bags)]
        )
        fields = [torch.full_like(b.row, name_code(field_of(b.names[0]))) for b in bags]
        structured_T = self.masks.structured(
            row_T,
            hash_bits(seeds_B, name_code(GLOBAL))[row_T],
            order_T,
            field_T=torch.cat(fields),
            group_T=torch.cat([group_codes(self.encoder, b) for b in bags]),
            position_TP=torch.cat([self.places(b) for b in bags]),
        )
        random_T = self.masks.random(row_T, hash_bits(seeds_B, name_code(LOCAL))[row_T], order_T)
        sizes = [len(b) for b in bags]
        return {
            task: dict(zip(tokens, state_T.split(sizes)))
            for task, state_T in ((GLOBAL, structured_T), (LOCAL, random_T))
        }

    def places(self, tokens: Tokens) -> Tensor:
        """(T, 3) on the CPU, date, y and x of the tokens of a source, as far as they have them:
        columns of a table and tokens of a text are no dates."""
        modality = self.encoder.fields[field_of(tokens.names[0])]
        placed = modality.layout == "grid"
        dated = placed or modality.has_time
        position_TP = host_copy(tokens.position)
        return position_TP * position_TP.new_tensor([dated, placed, placed])

    def predict(
        self, task: str, tokens: SourceTokens, states: Mapping[str, Tensor], targets: SourceTokens
    ) -> Column:
        """The losses (N,) of the records that have something to predict.

        Args:
            task: Whose predictor it is.
            tokens: All tokens, before any encoder.
            states: Source -> (T,), see `draw`.
            targets: Source -> what is to be predicted of each token.
        """
        context = self.encoder.encode({s: t.keep(states[s] == ENCODE) for s, t in tokens.items()})
        seen = Tokens.join([self.strip(context[s]) for s in tokens])
        hidden = {s: state_T == DECODE for s, state_T in states.items()}
        wanted = Tokens.join([t.keep(hidden[s]) for s, t in tokens.items()])
        truth = Tokens.join([targets[s].keep(hidden[s]) for s in tokens])
        predicted = self.predictors[task](seen, wanted)
        loss_T = patch_disc(predicted.x, truth.x, wanted.lengths(), temperature=self.temperature)
        lost = row_losses(loss_T, wanted)
        total_N, count_N = lost.flat.unbind(1)
        return Column(total_N / count_N, lost.rows)
