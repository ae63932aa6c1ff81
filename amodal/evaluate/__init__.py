"""How good is it? Protocols, one a file: `amodal/evaluate/protocols/knn.py` holds the protocol
`knn`.

report = evaluate(model, "photos/", label="species")
report.table(), report.save("report.json")
knn.knn(train, test, label="species")          # one protocol, on records that `embed_records` made
"""

from __future__ import annotations

from amodal.evaluate import figures
from amodal.evaluate.context import Context
from amodal.evaluate.diagnosis import Diagnosis
from amodal.evaluate.label_choice import survival_label, usual_label
from amodal.evaluate.labels import NotApplicable
from amodal.evaluate.needs import (
    CHANGED_RECORDS,
    CLASS_NAMES,
    HEAD,
    LABEL,
    OPTIONAL_LABEL,
    SURVIVAL_LABEL,
    TEXT_PROMPTS,
    TWO_FIELDS,
    Need,
)
from amodal.evaluate.over_runs import over_runs
from amodal.evaluate.papers import Papers, papers
from amodal.evaluate.protocol import Protocol
from amodal.evaluate.protocol_registry import changes_records, protocol, protocol_names
from amodal.evaluate.result import Report, Result
from amodal.evaluate.runner import evaluate, evaluate_many
from amodal.inference.embed import Embedded, embed_records, embed_values

__all__ = [
    "CHANGED_RECORDS",
    "HEAD",
    "LABEL",
    "OPTIONAL_LABEL",
    "SURVIVAL_LABEL",
    "CLASS_NAMES",
    "TEXT_PROMPTS",
    "TWO_FIELDS",
    "Context",
    "Diagnosis",
    "Embedded",
    "Need",
    "NotApplicable",
    "Papers",
    "Protocol",
    "Report",
    "Result",
    "changes_records",
    "embed_records",
    "embed_values",
    "evaluate",
    "evaluate_many",
    "figures",
    "over_runs",
    "papers",
    "protocol",
    "protocol_names",
    "survival_label",
    "usual_label",
]
