"""Runs of format 1: specs of their encoders, and the names of their tensors now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from amodal.core.embeddings import FUSED
from amodal.core.part import Spec
from amodal.nn.encoder import Encoder
from amodal.nn.ensemble import Ensemble
from amodal.nn.queue import Queues
from amodal.nn.transformer import size_of

HEADS = {
    "capsules": "nn.heads.capsules:CapsuleHead",
    "branches": "nn.heads.projectors:BranchHead",
    "concepts": "nn.heads.boxes:ConceptHead",
}
HOOKS = {
    "pattern": "nn.adapters.deep_prompts:PatternPrompts",
    "skills": "nn.adapters.skills:Skills",
    "space": "nn.adapters.shared_space_tokens:SpaceTokens",
    "lockstep": "nn.adapters.parallel_adapters:ParallelAdapters",
}


HOOK_OPTIONS = {"at": "level", "grow": "accumulate", "aware": "missing_aware"}
"""What options of block hooks are called in format 1 -> now."""


def part(name: str, **args: Any) -> Spec:
    """The spec of a part."""
    return {"part": name, "args": args}


def _renamed(options: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in options.items()}


def encoder_spec(config: dict[str, Any]) -> Spec:
    """The spec of the encoder that a config.json of format 1 describes.

    Raises:
        KeyError: Where an entry is missing.
    """
    shape, fields = size_of(config["size"]), config["fields"]
    width, depth = shape.width, shape.depth
    args: dict[str, Any] = {n: config[n] for n in ("fields", "size", "trunk", "positions", "pool")}
    args |= {"experts": config.get("experts", 0), "mixer": config.get("mixer", "attention")}
    args["backbones"] = {
        f: part("nn.backbones.pretrained:Backbone", spec=spec, modality=fields[f], width=width)
        for f, spec in config["backbones"].items()
    }
    if config["fusion"]:
        args |= {"fusion_tokens": config["fusion"], "mask_rule": config["reads"]}
    if towers := config.get("tails"):
        args["pools"] = {
            f: part(
                "nn.heads.projection_tower:ProjectionTower",
                width=width,
                heads=shape.heads,
                **_renamed(options, {"reads": "output"}),
            )
            for f, options in towers.items()
        }
        (space,) = {width * (2 if options["reads"] == "both" else 1) for options in towers.values()}
        linear = part("nn.heads.linear:LinearHead", width_in=width, width=space)
        args["heads"] = {
            f: part("nn.heads.linear:IdentityHead") if f in towers else linear for f in fields
        }
        args["heads_width"] = space
    elif config["aligned_width"]:
        joint = [FUSED] if config["trunk"] == "joint" and config["aligned_fused"] else []
        args["heads"] = {name: head(config, width) for name in [*fields, *joint]}
        args["heads_width"] = config["aligned_width"]
    if grown := config.get("grown"):
        rotary = config["positions"] == "rotary"
        args["extra_blocks"] = {
            f: part(
                "nn.transformer:ExtraBlocks", width=width, depth=n, heads=shape.heads, rotary=rotary
            )
            for f, n in grown.items()
        }
    if config.get("unsigned"):
        args["similarity"] = "abs_cosine"
    if hook := dict(config.get("deep") or {}):
        kind = hook.pop("kind")
        if kind != "skills":
            those = hook.pop("senses", list(fields))
            hook = {"fields": those, "width": width, "depth": depth} | _renamed(hook, HOOK_OPTIONS)
        args["block_hook"] = part(HOOKS[kind], **hook)
    if composing := config.get("composing"):
        args["combiner"] = part(
            "nn.fusion.combiner:Combiner", width=config["aligned_width"], **composing
        )
    if lists := config.get("several"):
        options = _renamed(lists, {"asks": "query_field"})
        kind = {"places": "regions"}.get(options["kind"], options["kind"])
        args["multi_vector"] = part("nn.multi_vector:MultiVector", **options | {"kind": kind})
    spec = part("nn.encoder:Encoder", **args)
    others = config.get("others", 0)
    return part("nn.ensemble:Ensemble", members=[spec] * (others + 1)) if others else spec


def head(config: dict[str, Any], width: int) -> Spec:
    """The spec of each head of the encoder, all of which are alike."""
    args = {"width_in": width, "width": config["aligned_width"]}
    if kind := dict(config.get("aligned_head") or {}):
        return part(HEADS[kind.pop("kind")], **args, **kind)
    bias = config.get("aligned_bias", False)
    if config["aligned_hidden"]:
        return part("nn.heads.linear:MlpHead", **args, hidden=config["aligned_hidden"], bias=bias)
    return part("nn.heads.linear:LinearHead", **args, bias=bias)


RENAMED = {
    "Amdim": {"heads": "learned"},
    "AmdimHeads": {"by_scale": "heads", "mixtures": "several"},
    "DreamLip": {"scales": "learned"},
    "Duet": {"prompt_cross": "read", "field_cross": "look"},
    "Limoe": {"scale": "learned"},
    "Merl": {"latent_maps": "views_of"},
    "MilVL": {"scales": "learned"},
    "Mlem": {"decoder": "tell", "frozen_encoder": "other"},
    "Multistage": {"stage_heads": "each"},
    "Rocket": {"ema_added": "slow.1", "ema_encoder": "slow.0", "predictors": "predict"},
    "SoftMasks": {"masked_words": "masked", "momentum_encoder": "slow"},
    "TiMix": {"scale": "learned"},
    "Encoder": {"block_hook": "deep", "extra_blocks": "above"},
    "CrossTask": {"view_heads": "alone", "student_heads": "own", "frozen_heads": "other"},
    "Data2vec": {"predictors": "predict"},
    "FusedContrast": {"key_branch": "slow"},
    "Guidance": {"guided_head": "both"},
    "UdaCope": {"coordinate_head": "told"},
    "Autoencoder": {"in_proj": "enter", "out_proj": "leave", "latent_proj": "back"},
    "Brnn": {
        "in_proj": "enter",
        "out_proj": "leave",
        "forward_step": "forth",
        "backward_step": "back",
    },
    "Captioner": {
        "vector_proj": "see",
        "embedding": "word",
        "recurrence": "step",
        "classifier": "out",
    },
    "CausalDecoder": {"in_proj": "enter", "context": "told"},
    "CrossBlock": {"self_attention": "own", "cross_attention": "other"},
    "Experts": {"threshold": "least"},
    "GaussianBottleneck": {"in_proj": "enter", "out_proj": "leave"},
    "MaskDecoder": {"in_proj": "enter"},
    "MultiSourceBlock": {
        "self_attention": "own",
        "source_attention": "others",
        "choice_attention": "choose",
    },
    "MultiSourceDecoder": {"in_proj": "enter", "source_projections": "given"},
    "Queues": {"queue_all": "kept_kept"},
    "SeFusion": {"gate": "weigh"},
    "SpaceMaps": {"linears": "own"},
    "Up": {"skip_gate": "weigh"},
}
"""Class -> part of it, or tensor -> what runs of format 1 call it."""


def old_name(module: nn.Module, name: str) -> str:
    """What runs of format 1 call a tensor.

    Args:
        module: Holds it.
        name: Its name in the module's `state_dict`.
    """
    first, _, rest = name.partition(".")
    if isinstance(module, Encoder) and name == "routing.fusion_tokens":
        return "fusion_tokens"
    if isinstance(module, Ensemble) and first == "members":
        number, _, inner = rest.partition(".")
        member = old_name(module.members[int(number)], inner)
        return f"others.{int(number) - 1}.{member}" if int(number) else member
    before = RENAMED.get(type(module).__name__, {}).get(first, first)
    if isinstance(module, Queues) and before.startswith("queue_"):  # one buffer for each name
        before = "kept_" + before.removeprefix("queue_")
    child = getattr(module, first, None)
    if not rest or not isinstance(child, nn.Module):
        return ".".join([before, rest]) if rest else before
    return f"{before}.{old_name(child, rest)}"


def new_names(module: nn.Module, tensors: dict[str, Any]) -> dict[str, Any]:
    """Tensors of a run of format 1, under the names that they have in a module now."""
    names = {old_name(module, name): name for name in module.state_dict()}
    return {names.get(name, name): value for name, value in tensors.items()}
