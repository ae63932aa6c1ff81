"""A tiny RoBERTa with random weights, as transformers saves one."""

from __future__ import annotations

from pathlib import Path

import torch

START, PAD, END, UNKNOWN, MASK = 0, 1, 2, 3, 4
WORDS = ("a", "green", "red", "pear", "apple", "and", "boat", "on", "the", "sea")
VOCABULARY = {"<s>": START, "<pad>": PAD, "</s>": END, "<unk>": UNKNOWN, "<mask>": MASK}
VOCABULARY |= {word: 5 + i for i, word in enumerate(WORDS)}


def roberta_folder(path: Path, *, mask: bool = True):
    """Write one into a folder.

    Args:
        path: The folder.
        mask: Whether its tokenizer has a mask.

    Returns:
        The folder and the model.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import RobertaConfig, RobertaModel

    words = {k: v for k, v in VOCABULARY.items() if mask or k != "<mask>"}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", START), ("</s>", END)]
    )
    tokenizer.save(str(path / "tokenizer.json"))
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=20,
        pad_token_id=PAD,
        bos_token_id=START,
        eos_token_id=END,
        type_vocab_size=1,
        initializer_range=0.3,
    )
    model = RobertaModel(config).eval()
    model.save_pretrained(path)
    return path, model
