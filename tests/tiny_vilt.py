"""A tiny ViLT with random weights, as transformers saves one."""

from __future__ import annotations

import json
from pathlib import Path

import torch

WORDS = ("a", "green", "red", "pear", "apple", "and")
CLS, SEP = 2, 3
VOCABULARY = {"[PAD]": 0, "[UNK]": 1, "[CLS]": CLS, "[SEP]": SEP}
VOCABULARY |= {word: 4 + i for i, word in enumerate(WORDS)}


def vilt_folder(path: Path, *, width: int = 64, positions: int = 16):
    """Write one into a folder.

    Args:
        path: The folder.
        width: Of its layers.
        positions: Of its texts.

    Returns:
        The folder and the model.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import ViltConfig, ViltModel

    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    tokenizer.save(str(path / "tokenizer.json"))
    torch.manual_seed(0)
    config = ViltConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=width,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=96,
        max_position_embeddings=positions,
        image_size=32,
        patch_size=16,
        pad_token_id=0,
        hidden_dropout_prob=0.1,
        initializer_range=0.2,
    )
    model = ViltModel(config).eval()
    with torch.no_grad():  # what transformers begins with zeros
        for p in model.parameters():
            if not p.any():
                p.normal_(std=0.2)
    model.save_pretrained(path)
    moments = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (path / "preprocessor_config.json").write_text(json.dumps(moments), encoding="utf-8")
    return path, model
