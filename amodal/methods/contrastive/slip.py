"""SLIP: language supervision and self-supervision train one encoder together.

Mu, Kirillov, Wagner and Xie, ECCV 2022, arXiv:2112.12750. Loss: their algorithm 1, CLIP on a weak
view of each value plus SimCLR on two strong views of everything that is not text. Row 103 of the
catalogue.

Differs:

- encoder: both towers are transformers over tokens with the mean of tokens (`pool="cls"` for the
  paper's class token). Theirs are a ViT at 224 pixels and a causal text transformer of 12 layers,
  512 wide, over 77 subwords, read at the end of the text. The networks can be had as backbones,
  `--backbone image=timm:vit_base_patch16_224@scratch caption=transformers:DIR@scratch` with the
  architecture and the tokenizer of a CLIP in DIR, but the vector is the mean of what they give.
- views: `weak` is a crop of 60-100 %, `strong` begins at 20 % of the area, and a text's weak view
  is a slice of it. `--views image=half,simclr,simclr caption=local` has the paper's 50-100 %, its
  8-100 % and, of texts with a caption a line, one of several. All pictures may be flipped, theirs
  for language are not.
- projector: its first two layers have no bias, which BatchNorm would subtract again.
- scale: bounded in value, with its gradient let through; theirs is clipped after a step, also at
  1.
- self-supervision: SimCLR's alone; the paper also tries MoCo v3, BYOL and BEiT.
- negatives: of all rows of the batch in both losses, as in the authors' code.
- optimizer: the cosine ends at 1 % of the rate, theirs at 1e-5.
- product: zero-shot classes by their names alone, probes and retrieval by `amodal evaluate`;
  fine-tuning by `amodal adapt --tuning full`, without a recipe of the paper's.
"""

from torch import Tensor, nn

from amodal.core import Batch, Embeddings, Recipe, view_of
from amodal.methods.shared.shapes import Towers, field_pairs, share, two_fields
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projectors import Projector
from amodal.nn.scale import Scale
from amodal.objectives.info_nce import info_nce, nt_xent

PAPER_RECIPE = Recipe(
    optimizer="adamw",
    lr=3e-3,
    weight_decay=0.1,
    betas=(0.9, 0.98),
    schedule="cosine",
    warmup_epochs=1.0,
    clip=0.0,
    batch_size=4096,
    epochs=25.0,
)


def slip(
    encoder: Encoder,
    *,
    weight: float = 1.0,
    width: int = 512,
    temperature: float = 0.07,
    max_scale: float = 100.0,
    view_temperature: float = 0.1,
    hidden: int = 4096,
    projection: int = 256,
) -> Towers:
    """InfoNCE between every two fields, and NT-Xent between two views of each.

    Args:
        encoder: Gets heads into a common space; needs two fields.
        weight: Weight of the views' loss (0 is CLIP at the same cost).
        width: Width of the common space.
        temperature: Initial value of the learned softmax temperature between fields.
        max_scale: Upper bound of its inverse.
        view_temperature: Temperature between views.
        hidden: Hidden width of the views' projector of three layers, which training alone uses.
        projection: Output width of that projector.
    """
    viewed = [f for f, m in encoder.fields.items() if not m.takes_prompts] or list(encoder.fields)
    scale = Scale(1 / temperature, most=max_scale)
    heads = nn.ModuleDict(
        {f: Projector(encoder.width, projection, hidden=hidden, layers=3) for f in viewed}
    )

    def objective(z: Embeddings) -> dict[str, Tensor]:
        across = {
            f"info_nce/{a}~{b}": info_nce(*z.pair(a, b), temperature=1 / scale())
            for a, b in field_pairs(z)
        }
        within = {}
        for f in viewed:
            a, b = z.pair(f"{f}:2", f"{f}:3")
            within[f"nt_xent/{f}"] = weight * nt_xent(
                heads[f](a), heads[f](b), temperature=view_temperature
            )
        return share(across) | share(within)

    views = {f: ("weak", "strong", "strong") if f in viewed else ("weak",) for f in encoder.fields}
    learned = nn.ModuleDict({"scale": scale, "heads": heads})
    return Slip(two_fields(encoder).align(width), objective, views=views, learned=learned)


class Slip(Towers):
    """Towers whose first views are in the common space.

    The other views have the trunk's features, for the views' projector.
    """

    def features(self, batch: Batch) -> Embeddings:
        pooled = self.encoder.features(batch)
        aligned = self.encoder.project(pooled)
        return Embeddings(
            {s: (pooled if view_of(s) > 1 else aligned)[s] for s in aligned.sources}, batch.size
        )
