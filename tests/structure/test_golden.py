"""Every page has a golden test, but for a list of those without one, which only gets shorter."""

import ast

from amodal import methods
from tests.structure.tree import ROOT

GOLDEN = ROOT / "tests" / "golden"
WITHOUT: frozenset[str] = frozenset()
"""Pages without a golden test. A new page brings one; take a name out when it has one."""
WRITTEN_OUT = (
    "amodal.objectives",
    "amodal.methods.shared",
    "amodal.nn.heads",
    "amodal.nn.generation",
)
"""What a golden test may not import: it writes losses, heads and decoders out. It may build the page
and its encoder, and draw masks."""

ALSO_OF_PARTS = {
    "test_barlow_twins.py": {"amodal.objectives.barlow", "amodal.nn.heads.projectors"},
    "test_clip.py": {
        "amodal.methods.shared.shapes",
        "amodal.nn.scale",
        "amodal.objectives.info_nce",
    },
    "test_gram.py": {"amodal.objectives.gram_volume"},
    "test_mae.py": {"amodal.methods.shared.shapes"},
    # the description of a label, by which the page is built
    "test_finetune.py": {"amodal.nn.heads.supervised"},
    "test_mm_guidance.py": {"amodal.nn.heads.supervised"},
    "test_mm_robustness.py": {"amodal.nn.heads.supervised"},
    "test_multimodn.py": {"amodal.nn.heads.supervised"},
    "test_biofusionnet.py": {"amodal.nn.heads.supervised"},
    # only what it draws
    "test_flava.py": {"amodal.objectives.matching"},
    "test_less_bimodal.py": {"amodal.objectives.matching"},
    "test_softmask_vl.py": {"amodal.objectives.matching"},
    "test_simsiam.py": {"amodal.objectives.negative_cosine"},
}
"""Files that test an objective too, beside the page and apart from its reference."""


def test_pages_have_golden_tests():
    written = {file.stem.removeprefix("test_") for file in GOLDEN.glob("test_*.py")}
    missing = set(methods.names()) - written
    assert missing <= WITHOUT, f"no golden test: {sorted(missing - WITHOUT)}"
    assert missing >= WITHOUT, f"take out of WITHOUT: {sorted(WITHOUT - missing)}"


def test_references_are_independent_of_the_package():
    for file in sorted(GOLDEN.glob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            named = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            allowed = ALSO_OF_PARTS.get(file.name, ())
            wrong = [n for n in named if n.startswith(WRITTEN_OUT) and n not in allowed]
            assert not wrong, f"{file.name} imports {wrong}; write it out (tests/golden/harness.py)"
