"""What belongs to a page: its module, and the definitions of other modules that it alone uses."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MUTABLE = ("amodal.methods.shared", "amodal.objectives", "amodal.nn")
"""Where the parts of pages are. Not the masks: golden tests draw them by the same public functions,
with the paper's numbers, and tests/masking holds those functions."""
SAVED = ("amodal.nn.saved", "amodal.methods.saved")
"""Opens runs, which is a matter of commands and has tests of its own; no page answers for it."""
OPENED = tuple(f"amodal.nn.backbones.{name}" for name in ("pretrained", "plugin", "body"))
"""Opens backbones, for all pages alike; tests/nn holds it."""
Definition = tuple[str, str]
"""A module, and a name that it defines."""

SHARED: dict[str, tuple[str, ...]] = {
    "clip": (
        "amodal.methods.shared.shapes:Towers",
        "amodal.methods.shared.shapes:field_pairs",
        "amodal.methods.shared.shapes:share",
        "amodal.objectives.info_nce:info_nce",
        "amodal.nn.scale:Scale",
    ),
    "simclr": ("amodal.methods.shared.shapes:view_pairs", "amodal.objectives.info_nce:nt_xent"),
    "dino": (
        "amodal.methods.shared.shapes:StudentTeacher",
        "amodal.methods.shared.shapes:ema_update",
        "amodal.methods.shared.prototypes:zero_centers",
        "amodal.methods.shared.prototypes:rising_temperature",
        "amodal.objectives.dino:dino_loss",
        "amodal.objectives.dino:update_center",
        "amodal.nn.heads.projectors:PrototypeHead",
    ),
    "ibot": (
        "amodal.methods.shared.masked_distillation:Distillation",
        "amodal.methods.shared.masked_distillation:prototype_heads",
        "amodal.objectives.masked_distillation:masked_distillation",
        "amodal.nn.masked_tokens:masked_tokens",
    ),
    "dinov2": (
        "amodal.methods.shared.masked_distillation:MaskedDistillation",
        "amodal.methods.shared.masked_distillation:balanced_targets",
    ),
    "dinov3": (
        "amodal.nn.axial:BoxAugmentation",
        "amodal.nn.axial:axial_rotary",
        "amodal.nn.axial:crop_coordinates",
        "amodal.nn.axial:places",
        "amodal.nn.axial:with_crop_coordinates",
    ),
    "mae": (
        "amodal.methods.shared.shapes:MaskedAutoencoder",
        "amodal.methods.shared.shapes:row_losses",
        "amodal.methods.shared.shapes:token_mean",
    ),
    "galileo": ("amodal.nn.positions:Ground",),
    "less_vit": (
        "amodal.nn.attention.kronecker:AxisAttention",
        "amodal.nn.attention.kronecker:AxisPool",
        "amodal.nn.attention.kronecker:KroneckerAttention",
        "amodal.nn.attention.kronecker:line_softmax",
        "amodal.nn.channel_grid:Axis",
        "amodal.nn.channel_grid:ChannelGrid",
        "amodal.nn.channel_grid:codes_of",
        "amodal.nn.channel_grid:grid_of",
        "amodal.nn.channel_grid:sines",
        "amodal.nn.fusion.less_trunk:LessBlock",
        "amodal.nn.fusion.less_trunk:LessBlocks",
        "amodal.nn.fusion.less_trunk:LessTrunk",
        "amodal.nn.fusion.less_trunk:class_tokens",
        "amodal.nn.generation.less_decoder:LessDecoder",
        "amodal.masking.grid:grid_keep",
    ),
    "data2vec": ("amodal.methods.shared.shapes:LinearStudentTeacher",),
    "simcse": (
        "amodal.nn.hidden_dropout:dropout_of",
        "amodal.nn.hidden_dropout:then",
        "amodal.nn.dropout:seeded_dropout",
    ),
    "siglip": ("amodal.objectives.sigmoid:sigmoid_loss",),
    "croma": (
        "amodal.nn.attention.bias:Alibi2d",
        "amodal.nn.attention.bias:CrossBias",
        "amodal.nn.attention.bias:between_places",
        "amodal.nn.attention.bias:ground_steps",
        "amodal.nn.attention.bias:plane_of",
        "amodal.nn.attention.bias:simple_ratio",
        "amodal.nn.common_dates:at_dates_of",
        "amodal.nn.common_dates:with_common_dates",
    ),
    "missing_aware_prompts": (
        "amodal.nn.adapters.deep_prompts:PatternPrompts",
        "amodal.nn.adapters.deep_prompts:pattern_prompts",
    ),
    "mmrl": (
        "amodal.methods.shared.shared_space:one_category",
        "amodal.methods.shared.shared_space:NamedClassFeatures",
        "amodal.methods.shared.shared_space:NamedClasses",
        "amodal.nn.adapters.shared_space_tokens:IndependentTokens",
        "amodal.nn.adapters.shared_space_tokens:space_tokens",
    ),
    "mmrl_pp": (
        "amodal.nn.adapters.shared_space_tokens:SpaceMaps",
        "amodal.nn.adapters.shared_space_tokens:SpaceTokens",
    ),
    "barlow_twins": (
        "amodal.objectives.barlow:barlow_twins",
        "amodal.nn.heads.projectors:Projector",
    ),
}
"""Parts that several pages use, with the page whose golden test answers for them."""


@cache
def module_files() -> dict[str, Path]:
    """Dotted name -> file, of every module of the package."""
    files = sorted((ROOT / "amodal").rglob("*.py"))
    return {dotted(file): file for file in files}


def dotted(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def pages() -> dict[str, str]:
    """Name of a method -> its module."""
    from amodal.core import registry

    return {name: dotted(file) for name, file in registry.pages("methods").items()}


@cache
def definitions(module: str) -> dict[str, ast.stmt]:
    """The names that a module defines, and the statements that do."""
    found: dict[str, ast.stmt] = {}
    for statement in ast.parse(module_files()[module].read_text(encoding="utf-8")).body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            found[statement.name] = statement
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            found |= {t.id: statement for t in targets if isinstance(t, ast.Name)}
    return found


@cache
def imported(module: str) -> dict[str, Definition]:
    """Local name -> where it comes from; the second part is "" for a module."""
    known = module_files()
    found: dict[str, Definition] = {}
    for node in ast.walk(ast.parse(known[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("amodal"):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                place = (inner, "") if inner in known else (node.module or "", alias.name)
                found[alias.asname or alias.name] = place
    return found


@cache
def uses(definition: Definition) -> frozenset[Definition]:
    """The definitions of the package that one refers to by name."""
    module, name = definition
    statement = definitions(module).get(name)
    if statement is None:
        return frozenset()
    beside, outside = definitions(module), imported(module)
    found: set[Definition] = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            if node.id in beside and node.id != name:
                found.add((module, node.id))
            elif outside.get(node.id, ("", ""))[1]:
                found.add(outside[node.id])
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            place, inner = outside.get(node.value.id, ("", "any"))
            if place and not inner:
                found.add((place, node.attr))
    return frozenset(d for d in found if d[0] in module_files())


@cache
def reached(page: str) -> frozenset[Definition]:
    """Everything that a page is made of, near or far."""
    module = pages()[page]
    found = {(module, name) for name in definitions(module)}
    front = list(found)
    while front:
        for definition in uses(front.pop()) - found:
            if definition[0] not in (*SAVED, *OPENED):
                found.add(definition)
                front.append(definition)
    return frozenset(found)


def is_mutable(definition: Definition) -> bool:
    return definition[0].startswith(MUTABLE)


def scope(page: str) -> dict[str, set[str]]:
    """Module -> definitions, of what is mutated with a page."""
    others = set().union(*(reached(other) for other in pages() if other != page))
    wanted: dict[str, set[str]] = {pages()[page]: set(definitions(pages()[page]))}
    for module, name in reached(page) - others:
        if is_mutable((module, name)):
            wanted.setdefault(module, set()).add(name)
    for entry in SHARED.get(page, ()):
        module, name = entry.split(":")
        wanted.setdefault(module, set()).add(name)
    return wanted


def calls(page: str) -> list[ast.Call]:
    """All calls in what is mutated with a page."""
    trees = [definitions(m)[n] for m, names in scope(page).items() for n in names]
    return [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]


def files_of(page: str) -> set[str]:
    """The files of what is mutated with a page, and of its tests, relative to the repository."""
    files = {module_files()[module].relative_to(ROOT).as_posix() for module in scope(page)}
    return files | set(tests_of(page))


def tests_of(page: str) -> list[str]:
    """The tests that have to notice, the golden one first."""
    folders = ("golden", "methods", "pretrained")
    tests = [f"tests/{folder}/test_{page}.py" for folder in folders]
    return [test for test in tests if (ROOT / test).exists()]


def importers(module: str, loaded: dict[str, str]) -> Iterator[str]:
    """The module itself and all loaded modules that import from it, near or far.

    Args:
        loaded: Dotted name -> source of the modules that may.
    """
    direct = {name: set(import_sources(source)) for name, source in loaded.items()}
    stale, front = {module}, [module]
    while front:
        current = front.pop()
        yield current
        for name in [n for n, sources in direct.items() if current in sources and n not in stale]:
            stale.add(name)
            front.append(name)


@cache
def import_sources(source: str) -> frozenset[str]:
    """Dotted names that the text of a module imports, of modules and of what is in them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return frozenset(found)
