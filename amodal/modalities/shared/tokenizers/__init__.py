"""The tokenizer of each modality, and its dense form for graphs of other runtimes."""
