"""Checkpoints of our own: small encoders on data that may be passed on, measured and described.

    python -m scripts.checkpoints sensors --out DIR            # fetch, train, measure, write the card
    python -m scripts.checkpoints sensors --out DIR --steps 5  # the same path, quickly
    python -m scripts.checkpoints sensors --pilot              # how the settings were chosen
    python -m scripts.checkpoints --page                       # the figures, into docs/checkpoints.md

DIR is what `amodal.load`, `amodal.Model.from_pretrained` and every verb take, and what
`hf upload OWNER/NAME DIR` publishes. Weights are not in the repository.

Fixed before the runs: data, tasks, metrics, how many labels a probe has, seeds, and that the simple
thing is said first where it wins. `--pilot` compares settings on validation parts with a seed of
its own; what is tested on is read once, by the run that is described.
"""
