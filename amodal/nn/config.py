"""An encoder as data: what a saved model must say to be built again."""

from __future__ import annotations

from amodal import modalities
from amodal.nn.adapters.block_hooks import deep_of
from amodal.nn.encoder import Encoder
from amodal.nn.heads.projection_tower import enter, tails, with_tail
from amodal.nn.multi_vector import Several

SEVERAL = {"asks": "query_field"}
"""What older runs call its parts."""


def describe(encoder: Encoder) -> dict:
    """JSON-able; `build(describe(encoder))` has the same parameters."""
    several = {} if encoder.several is None else {"several": encoder.several.written()}
    return several | {
        "fields": {name: modalities.config(m) for name, m in encoder.fields.items()},
        "size": encoder.size,
        "trunk": encoder.trunk,
        "positions": encoder.positions,
        "pool": encoder.pool_name,
        "experts": encoder.experts,
        "mixer": encoder.mixer,
        "fusion": encoder.fusion,
        "reads": encoder.reads,
        "aligned_width": encoder.aligned_width,
        "aligned_hidden": encoder.aligned_hidden,
        "aligned_fused": encoder.aligned_fused,
        "aligned_bias": encoder.aligned_bias,
        "aligned_head": encoder.aligned_head,
        "composing": dict(encoder.composing),
        "others": len(encoder.others),
        "unsigned": encoder.unsigned,
        "grown": dict(encoder.grown),
        "tails": {f: tail.written() for f, tail in tails(encoder).items()},
        "deep": None if encoder.deep is None else encoder.deep.written(),
        "backbones": {f: t.spec for f, t in encoder.tokenizers.items() if getattr(t, "contextual", False)},
    }


def build(config: dict) -> Encoder:
    """The encoder that `config` describes, with fresh weights; pretrained backbones are built, not downloaded."""
    fields = {}
    for name, parameters in config["fields"].items():
        parameters = dict(parameters)
        fields[name] = modalities.make(parameters.pop("modality"), **parameters)
    encoder = Encoder(
        fields,
        size=config["size"],
        trunk=config["trunk"],
        positions=config["positions"],
        pool=config["pool"],
        experts=config.get("experts", 0),
        mixer=config.get("mixer", "attention"),
        backbones=backbones(config["backbones"], fields, config["size"], load=False),
    )
    if config["fusion"]:
        encoder.fuse(config["fusion"], config["reads"])
    for field, options in config.get("tails", {}).items():
        with_tail(encoder, field, **options)
    if config.get("tails"):
        enter(encoder)
    elif config["aligned_width"]:
        shape = {name: config[f"aligned_{name}"] for name in ("hidden", "fused")}
        shape |= {"bias": config.get("aligned_bias", False), "head": config.get("aligned_head")}
        encoder.align(config["aligned_width"], **shape)
    for field, depth in config.get("grown", {}).items():
        encoder.grow(field, depth)
    encoder.unsigned = config.get("unsigned", False)
    if config.get("deep"):
        encoder.deep = deep_of(encoder, config["deep"])
    if config.get("composing"):
        encoder.compose(**config["composing"])
    if config.get("several"):
        encoder.several = Several(**{SEVERAL.get(k, k): v for k, v in config["several"].items()})
    if config.get("others", 0):
        encoder.stack(config["others"])
    return encoder


def backbones(specs: dict[str, str], fields: dict, size: str, *, load: bool = True, frozen: bool = True) -> dict:
    """field -> backbone for field -> spec ("timm:vit_small_patch16_224", …; see `amodal.nn.backbones.pretrained`)."""
    if not specs:
        return {}
    from amodal.core import unknown
    from amodal.nn.backbones.pretrained import backbone
    from amodal.nn.transformer import size_of

    for field in specs:
        if field not in fields:
            raise unknown("field", field, fields, "A backbone was given for it.")
    return {f: backbone(spec, fields[f], size_of(size).width, frozen=frozen, load=load) for f, spec in specs.items()}
