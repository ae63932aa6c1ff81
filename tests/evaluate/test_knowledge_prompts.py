"""Prompts from a base of knowledge: what goes in, what stays out, and that zero_shot uses them."""

import numpy as np
import pytest
import torch

from amodal.core import AmodalError, Column, Embeddings
from amodal.evaluate.protocols.zero_shot import zero_shot
from amodal.inference.embed import Embedded
from amodal.inference.knowledge_prompts import knowledge_prompts, verified

BASE = {
    "Low voltage": {"names": ("small QRS",), "signs": ("reduced amplitude", "small QRS")},
    "PACS": ["early beats"],
}


def test_a_prompt_is_the_name_and_each_phrase_once():
    prompts = knowledge_prompts(["low_voltage", "pacs", "sinus rhythm"], BASE)
    assert prompts == {
        "low_voltage": "low voltage, small QRS, reduced amplitude",
        "pacs": "pacs, early beats",
        "sinus rhythm": "sinus rhythm",  # of which nothing is known
    }


def test_kinds_of_phrases_and_prompts_without_the_name():
    assert (
        knowledge_prompts(["low voltage"], BASE, kinds=("signs",))["low voltage"]
        == "low voltage, reduced amplitude, small QRS"
    )
    bare = knowledge_prompts(["low voltage", "unknown"], BASE, name=False)
    assert bare == {"low voltage": "small QRS, reduced amplitude", "unknown": "unknown"}
    with pytest.raises(AmodalError, match="Did you mean signs"):
        knowledge_prompts(["pacs"], BASE, kinds=("sign",))


def test_what_a_model_proposes_is_accepted_only_if_it_is_known():
    proposed = {
        "low_voltage": ["Small qrs", "tall waves"],
        "pacs": ["reduced amplitude"],
        "other": ["early beats"],
    }
    assert verified(proposed, BASE) == {"low_voltage": ["Small qrs"], "pacs": [], "other": []}


def test_zero_shot_asks_with_what_is_known():
    """Vectors of sentences are what their words say; the names alone say nothing."""
    signs = {"round": 0, "edged": 1}

    def embed_text(sentences):
        return torch.stack(
            [
                sum(
                    (torch.eye(3)[i] for w, i in signs.items() if w in s),
                    torch.tensor([0.0, 0.0, 0.1]),
                )
                for s in sentences
            ]
        )

    z = Embeddings({"image": Column(torch.eye(3)[[0, 1, 0, 1]], torch.arange(4))}, 4)
    test = Embedded(
        list("abcd"), z, z, {"kind": np.array(["ball", "box", "ball", "box"], dtype=object)}
    )
    knowledge = {"ball": ["round"], "box": ["edged"]}
    found = zero_shot(None, test, label="kind", embed_text=embed_text, knowledge=knowledge)
    assert found.rows[0]["value"] == 1 and found.spec["prompts"]["box"] == ["box, edged"]
    named = zero_shot(
        None, test, label="kind", embed_text=embed_text, knowledge=knowledge, names={"box": "thing"}
    )
    assert named.spec["prompts"] == {"ball": ["ball, round"], "box": ["thing"]}
