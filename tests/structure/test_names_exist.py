"""What docstrings and messages name in backticks exists."""

import ast
import re
from collections.abc import Iterator

from tests.structure.tree import files

ELSEWHERE = frozenset(
    "pathlib scipy spearmanr rapidfuzz huggingface_hub ModelHubMixin rankdata roc_auc_score KernelRidge "
    "LatentDirichletAllocation LogisticRegressionCV concordance_index_censored clip_grad_norm_ "
    "save_to_disk to_parquet flatten_indices sampling_rate efficientnet_lite0 track_running_stats "
    "convnext_atto resnet50_gn "
    "AMODAL_CACHE AMODAL_CACHE_GIB QDRANT_API_KEY CHRF SimilarityTransform".split()
)
"""Names of other packages and of the environment."""
EXAMPLES = frozenset(
    "decur_plus speciesName subject_id group_id blood_group acc_y hair_long start_lat start_long "
    "caption_es name_de STEM ATTRIBUTE".split()
)
"""Placeholders, and columns and files that a user may have."""
NAME = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?:\(.*\))?")
SNAKE = re.compile(r"\b[A-Za-z]\w*_\w*\w\b")
CHECKS = ("Error", "Refused", "BadValue", "check_pair", "check_positive", "check_tokens", "unknown")


def strings(node: ast.AST) -> Iterator[ast.Constant]:
    return (n for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str))


def names_of(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
            yield name
        case ast.keyword(arg=str(name)):
            yield name
        case ast.alias(name=name, asname=asname):
            yield from (*name.split("."), asname or "")
        case ast.ImportFrom(module=str(name)):
            yield from name.split(".")
        case ast.Constant(value=str(text)) if "`" not in text and " " not in text.strip():
            yield from re.findall(r"\w+", text)  # a key, an option, the name of a file


def existing() -> set[str]:
    """Every name of the package, and every string of one word, such as a key."""
    found = set(ELSEWHERE | EXAMPLES)
    for file, tree in files().items():
        found |= set(file.with_suffix("").parts)
        for node in ast.walk(tree):
            found |= set(names_of(node))
    return found


def test_what_stands_in_backticks_exists():
    known = existing()
    unknown = [
        f"{file}:{text.lineno}: {quoted}"
        for file, tree in files().items()
        for text in strings(tree)
        for quoted in re.findall(r"`([^`\n]+)`", text.value)
        if (name := NAME.fullmatch(quoted)) and not known.issuperset(name[1].split("."))
    ]
    assert not unknown, "\n".join(unknown)


def test_names_in_messages_exist():
    """Words with an underscore, and the objective that `check_pair` gets, which names it."""
    known = existing()
    functions = {
        node.name
        for tree in files().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    unknown = []
    for file, tree in files().items():
        for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
            called = ast.unparse(call.func).rpartition(".")[2]
            if not called.endswith(CHECKS):
                continue
            for text in strings(call):
                words = SNAKE.findall(text.value)
                unknown += [f"{file}:{text.lineno}: {w}" for w in words if w not in known]
            first = call.args[0] if call.args else None
            if called == "check_pair" and isinstance(first, ast.Constant):
                name = str(first.value).partition(" ")[0]
                unknown += [f"{file}:{first.lineno}: {name}"] if name not in functions else []
    assert not unknown, "\n".join(unknown)
