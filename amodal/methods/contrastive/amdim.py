"""AMDIM: the whole of one view, and pieces of it, predict the local features of another view, at
several scales. Bachman, Hjelm and Buchwalter, NeurIPS 2019, arXiv:1906.00910. Losses: their NCE of
multiset targets for 1 -> 5, 1 -> 7 and 5 -> 5 in both directions, soft clip of scores, penalty on
raw scores; mixtures of global features as an option. Row 95 of the catalogue.

Their scales are maps of a convolutional network whose receptive fields are kept apart. Tokens of a
transformer have all seen each other, so here a scale is what the same encoder makes of less:
`whole` of all tokens (their f1), `regions` of neighbourhoods of tokens each seen alone (f5),
`patches` the tokens before the trunk (f7). Of one field two augmented views predict each other,
which do not share the flip as theirs do; of several, the fields do. The penalty's weight is the
paper's, 4e-2; the authors' code has 5e-2."""

import torch
from torch import Tensor, nn

from amodal.core import Batch, Column, Embeddings, Ragged, field_of, name_code
from amodal.core.column import shared_rows
from amodal.masking.hashing import hash_bits
from amodal.methods.contract import Features
from amodal.methods.shared.matching import SEED, seed_column
from amodal.methods.shared.regions import alone
from amodal.methods.shared.shapes import Towers, field_pairs, token_column, view_pairs
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import BypassHead
from amodal.nn.local_windows import local_windows
from amodal.objectives.local_nce import local_nce


def amdim(
    encoder: Encoder,
    *,
    width: int = 128,
    bound: float = 20.0,
    penalty: float = 4e-2,
    parts: int = 2,
    middle: bool = True,
    same_view: bool = False,
    mixtures: int = 1,
    sharpness: float = 1.0,
) -> Towers:
    """width: of the space of scores (1024 and more in the paper); bound: of the soft clip of
    scores, 0 for none; penalty: weight of the mean squared score; parts: into how many pieces each
    axis of a value is cut for regions; middle: also predict regions from one region drawn at random
    (5 -> 5); same_view: predict a view's parts from itself, without middle (local DIM, the
    baseline); mixtures: global vectors of each value, of which every part is predicted by a
    mixture; sharpness: of the mixture's weights."""
    pairs_of = view_pairs if len(encoder.fields) == 1 else field_pairs
    heads = nn.ModuleDict(
        {
            f: nn.ModuleDict(
                {k: BypassHead(encoder.width, width) for k in ("whole", "regions", "patches")}
            )
            for f in encoder.fields
        }
    )
    several = nn.ModuleDict(
        {f: nn.Linear(width, mixtures * width) for f in encoder.fields if mixtures > 1}
    )
    learned = nn.ModuleDict({"heads": heads, "several": several})

    def objective(z):
        seeds = z[SEED].values
        levels = {s: levels_of(z, s) for s in z if "/" not in s and s != SEED}
        pairs = pairs_of(Embeddings({s: z[s] for s in levels}, z.size))
        found = {}
        for a, b in pairs:
            ways = [(a, a), (b, b)] if same_view else [(a, b), (b, a)]
            for source, target in ways:
                whole, regions, patches = levels[source]
                tasks = {
                    "whole>regions": (whole, levels[target][1]),
                    "whole>patches": (whole, levels[target][2]),
                }
                if middle and not same_view:
                    tasks["regions>regions"] = (one_of(regions, seeds, source), levels[target][1])
                for task, (one, many) in tasks.items():
                    i, j = shared_rows(one, many)
                    to = many.values[j]
                    loss, squares = local_nce(
                        one.values[i], to.flat, to.lengths, bound=bound, sharpness=sharpness
                    )
                    for name, term in (
                        (f"{task}/{a}~{b}", loss),
                        (f"penalty/{a}~{b}", penalty * squares),
                    ):
                        found[name] = found.get(name, 0.0) + term / len(ways)
        return {
            name: term / max(len(pairs), 1)
            for name, term in found.items()
            if penalty or "penalty" not in name
        }

    def levels_of(z, s):
        f = field_of(s)
        whole = Column(heads[f]["whole"](z[s].values), z[s].rows)
        if mixtures > 1:
            whole = Column(several[f](whole.values).unflatten(1, (mixtures, width)), whole.rows)
        return whole, *(through(heads[f][k], z[f"{s}/{k}"]) for k in ("regions", "patches"))

    views = ("strong", "strong") if len(encoder.fields) == 1 else ("weak",)
    return Local(encoder, objective, views=views, learned=learned, parts=parts)


class Local(Towers):
    """Features are the vectors of all sources, of their neighbourhoods and of their tokens before
    the trunk, and the rows' seeds."""

    def __init__(self, *args, parts, **kwargs):
        super().__init__(*args, **kwargs)
        self.parts = parts

    def features(self, batch: Batch) -> Features:
        encoder, columns = self.encoder, {SEED: seed_column(batch)}
        bags = encoder.tokenize(batch)
        for s, seen in alone(encoder, batch, bags).items():
            if (pool := field_of(s)) not in encoder.fields:
                continue
            pieces, owner = local_windows(bags[s], self.parts)
            regions = encoder.pools[pool](encoder.encode({s: pieces})[s]).values
            lengths = torch.bincount(owner, minlength=batch.size)
            rows = lengths.nonzero().squeeze(1)
            columns |= {s: encoder.pools[pool](seen), f"{s}/patches": token_column(bags[s])}
            columns[f"{s}/regions"] = Column(Ragged(regions, lengths[rows]), rows)
        return Features(columns, batch.size)


def through(head: nn.Module, column: Column) -> Column:
    """The same lists, each entry through the head."""
    return column.with_flat(head(column.flat))


def one_of(column: Column, seeds: Tensor, source: str) -> Column:
    """One entry of each row's list, drawn by the row's seed."""
    lists = column.values
    draw = hash_bits(seeds[column.rows], name_code(f"amdim {source}")).remainder(lists.lengths)
    return Column(lists.flat[lists.starts() + draw], column.rows)
