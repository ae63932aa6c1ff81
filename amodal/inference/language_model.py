"""Answers of a causal language model that runs on this machine.

ask = LanguageModel("package:smollm2")
ask("What is the capital of France?")
"""

from __future__ import annotations

from typing import Any

import torch

from amodal.core import AmodalError
from amodal.core.hub_client import model_folder
from amodal.data.packaged_models import LIBRARY, resolve
from amodal.nn.backbones.transformers import library, without_bars

LIBRARIES = (LIBRARY, "transformers")
"""First words of a spec."""
CAUSAL = ("ForCausalLM", "LMHeadModel")
"""How classes of causal language models end."""


def is_language_model(spec: str) -> bool:
    """Whether a text is a spec of `LanguageModel`, by its first word."""
    return spec.partition(":")[0] in LIBRARIES


class LanguageModel:
    """prompt -> answer, of a causal language model of transformers. It always takes the likeliest
    token, so that a prompt has one answer.

    Args:
        spec: `package:smollm2`, or `transformers:DIR` or `transformers:OWNER/NAME` of another one.
        max_tokens: Of an answer, which ends there at the latest.

    Attributes:
        about: The spec.

    Raises:
        AmodalError: For another spec, a folder without a causal language model, one whose weights
            are incomplete, and if the download fails.
    """

    def __init__(self, spec: str = f"{LIBRARY}:smollm2", *, max_tokens: int = 512):
        if max_tokens < 1:
            raise AmodalError(f"an answer has at least one token, max_tokens is {max_tokens}")
        kind, _, rest = resolve(spec).partition(":")
        if kind != "transformers" or not rest:
            raise AmodalError(
                f"{spec} is no language model: expected {LIBRARY}:smollm2, or transformers:DIR of "
                "a causal language model"
            )
        self.about, self.max_tokens = spec, max_tokens
        self._tokenizer, self._model = _loaded(spec, rest)

    def __call__(self, prompt: str) -> str:
        """The answer to a prompt, as the other side of a chat if the model has a template for one.

        Raises:
            AmodalError: If prompt and answer are longer than what the model reads.
        """
        inputs = self._inputs(prompt)
        length = int(inputs["input_ids"].shape[1])
        longest = getattr(self._model.config, "max_position_embeddings", 0)
        if longest and length + self.max_tokens > longest:
            raise AmodalError(
                f"the prompt has {length} tokens and the answer may have {self.max_tokens}; "
                f"{self.about} reads {longest}: shorten the text"
            )
        with torch.no_grad():
            whole = self._model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=self.max_tokens,
                pad_token_id=self._tokenizer.pad_token_id or 0,
            )
        answer: str = self._tokenizer.decode(whole[0, length:], skip_special_tokens=True)
        return answer.strip()

    def _inputs(self, prompt: str) -> dict[str, Any]:
        """Ids and mask of one prompt."""
        if not self._tokenizer.chat_template:
            return {**self._tokenizer(prompt, return_tensors="pt")}
        return {
            **self._tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                add_generation_prompt=True,
                return_dict=True,
                return_tensors="pt",
            )
        }


def _loaded(spec: str, directory: str) -> tuple[Any, Any]:
    """The tokenizer and the model of a folder."""
    transformers, folder = library(), model_folder(directory)
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = transformers.AutoConfig.from_pretrained(folder, **local)
        names = config.architectures or []
        if not any(name.endswith(CAUSAL) for name in names):
            raise AmodalError(
                f"{spec} holds {' and '.join(names) or 'no model'}, not a causal language model, "
                f"whose class ends in {' or '.join(CAUSAL)}"
            )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
        with without_bars():
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, **local
            )
    except AmodalError:
        raise
    except Exception as error:  # files that are missing or damaged
        raise AmodalError(f"cannot read the language model in {folder}: {error}") from error
    if missing := sorted(report["missing_keys"]):
        raise AmodalError(f"{folder} lacks weights: {', '.join(missing[:3])}")
    return tokenizer, model.float().eval()
