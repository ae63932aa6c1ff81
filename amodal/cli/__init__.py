"""The command line: verbs only. What a verb does lives elsewhere.

Options of a method come from its page (`--method.NAME VALUE`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import tyro

from amodal.cli.find import index, search, serve
from amodal.cli.options import take_method_options, take_own_method
from amodal.cli.options import today as today
from amodal.cli.shared import CURATE_OPTIONS, METHOD_OPTIONS
from amodal.cli.start import claim, data, demo, doctor, init, methods
from amodal.cli.train import adapt, align, plan, pretrain
from amodal.cli.use import embed, evaluate, export, predict, view
from amodal.errors import AmodalError, unknown

VERBS = {
    f.__name__: f
    for f in (
        *(demo, init, data, pretrain, plan, align, adapt, predict, evaluate),
        *(embed, index, search, serve, view, export, methods, claim, doctor),
    )
}
TRAINING = ("pretrain", "align", "adapt", "plan")


def main(argv: list[str] | None = None) -> None:
    """Run a command line; errors of a user end with a sentence and exit code 2."""
    rest, options = take_method_options(sys.argv[1:] if argv is None else argv)
    rest, chosen = take_method_options(rest, "--curate.")
    for known, now in ((METHOD_OPTIONS, options), (CURATE_OPTIONS, chosen)):
        known.clear()
        known.update(now)
    rest, mine = take_own_method(rest)
    try:
        with own_method(mine):
            run(rest)
    except KeyboardInterrupt as e:
        resumes = rest[:1] == ["pretrain"]
        print(
            f"\n{str(e) or 'interrupted'}{'; add --resume to go on' if resumes else ''}",
            file=sys.stderr,
        )
        raise SystemExit(130) from None
    except (
        AmodalError,
        OSError,
    ) as e:  # or a file or folder that is not there, not ours, or on a full disk
        print(f"error: {e}", file=sys.stderr)
        raise SystemExit(2) from None


@contextmanager
def own_method(reference: str) -> Iterator[None]:
    """Within it, runs that were trained with a method of the user's own are opened with this one."""
    if not reference:
        yield
        return
    from amodal import methods as pages
    from amodal.core.part import supplied

    with supplied({"method": pages.function(reference)}):
        yield


def run(words: list[str]) -> None:
    """The verb of a command line without the options of pages."""
    if words and not words[0].startswith("-") and words[0] not in VERBS:
        raise unknown("verb of amodal", words[0], VERBS)
    if METHOD_OPTIONS and words[:1] not in ([verb] for verb in TRAINING):
        raise AmodalError(
            f"--method.{next(iter(METHOD_OPTIONS))} is an option of `amodal pretrain METHOD`"
        )
    if CURATE_OPTIONS and not any(
        w in ("--curate", "--config") or w.startswith("--curate=") for w in words
    ):
        raise AmodalError(
            f"--curate.{next(iter(CURATE_OPTIONS))} is an option of `amodal pretrain … --curate NAME`"
        )
    if words[:1] and words[0] in TRAINING:
        words = today(words)
    description = (__doc__ or "").split(".")[0] + "."
    tyro.extras.subcommand_cli_from_dict(VERBS, args=words, prog="amodal", description=description)
