"""A tiny CLIP with random weights, as transformers saves one."""

from __future__ import annotations

import json
from pathlib import Path

import torch

WORDS = ("a", "green", "red", "pear", "apple", "and")
START, END = 5, 12
VOCABULARY = {"[PAD]": 0, "[UNK]": 1, "[1]": 2, "[2]": 3, "[3]": 4, "<s>": START}
VOCABULARY |= {word: 6 + i for i, word in enumerate(WORDS)} | {"</s>": END}


def clip_folder(path: Path, width: int, *, side: int = 32, layers: int = 2):
    """Write one into a folder.

    Args:
        path: The folder.
        width: Of the space that both halves share.
        side: Of its pictures, in pixels.
        layers: Of each half.

    Returns:
        The folder and the model.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel

    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", START), ("</s>", END)]
    )
    tokenizer.save(str(path / "tokenizer.json"))
    shape = {"num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 32}
    special = {"pad_token_id": 0, "bos_token_id": START, "eos_token_id": END}
    torch.manual_seed(0)
    config = CLIPConfig(
        projection_dim=width,
        text_config={
            "vocab_size": len(VOCABULARY),
            "max_position_embeddings": 14,
            "hidden_size": 16,
            **shape,
            **special,
        },
        vision_config={"image_size": side, "patch_size": side // 4, "hidden_size": 20, **shape},
    )
    model = CLIPModel(config).eval()
    model.save_pretrained(path)
    moments = {"image_mean": [0.4] * 3, "image_std": [0.25] * 3}
    (path / "preprocessor_config.json").write_text(json.dumps(moments), encoding="utf-8")
    return path, model
