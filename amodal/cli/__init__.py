"""The command line of amodal.

Here are the verbs and their options only. Options of a method (`--method.NAME VALUE`) are those of
its function, those of an evaluation (`--protocol.NAME VALUE`) those of its protocols.
"""

from __future__ import annotations

import os
import select
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import tyro
from tyro.conf import DisallowNone

from amodal import __version__
from amodal.cli.cluster import cluster
from amodal.cli.compare import compare
from amodal.cli.curate import curate
from amodal.cli.data import data
from amodal.cli.diagnose import diagnose
from amodal.cli.estimate import estimate
from amodal.cli.find import index, search, serve
from amodal.cli.link import link
from amodal.cli.map import map
from amodal.cli.montage import montage
from amodal.cli.near_names import check_options, check_query
from amodal.cli.options import current_names as current_names
from amodal.cli.options import joined, list_options, take_method_options
from amodal.cli.papers import papers
from amodal.cli.shared import CURATE_OPTIONS, METHOD_OPTIONS, PROTOCOL_OPTIONS
from amodal.cli.start import claim, demo, doctor, init, methods
from amodal.cli.train import adapt, align, plan, pretrain
from amodal.cli.use import embed, evaluate, export, predict, view
from amodal.errors import AmodalError, AmodalWarning, UserCodeError, unknown

VERBS = {
    f.__name__: f
    for f in (
        *(demo, init, data, curate, montage, compare, pretrain, plan, align, adapt, predict),
        evaluate,
        *(embed, cluster, link, map, diagnose, estimate, papers, index, search, serve, view),
        *(export, methods, claim, doctor),
    )
}
CONTINUED = {
    "pretrain": "; add --resume to continue",
    "curate": "; repeat the command to continue",
}
"""What is said of a verb that was interrupted."""
LEFT_AT_ONCE = ("view",)
"""Verbs whose threads are not waited for when they are interrupted: a map by UMAP cannot be stopped
and takes minutes. Nothing is lost: files get their names when they are whole."""
FILES = ("--data", "--out", "--index", "--to", "--init-from", "--config")
"""Options with the name of a file or folder, for which nothing is no name."""
TRAINING = ("pretrain", "align", "adapt", "plan")


def main(argv: list[str] | None = None) -> None:
    """Run a command line. A mistake of the user ends it with a message and exit code 2."""
    rest, options = take_method_options(sys.argv[1:] if argv is None else argv)
    rest, curate_options = take_method_options(rest, "--curate.")
    rest, protocol_options = take_method_options(rest, "--protocol.")
    for shared, parsed in ((METHOD_OPTIONS, options), (CURATE_OPTIONS, curate_options)):
        shared.clear()
        shared.update(parsed)
    PROTOCOL_OPTIONS.clear()
    PROTOCOL_OPTIONS.update(protocol_options)
    try:
        with short_warnings():
            run(rest)
    except KeyboardInterrupt as e:
        verb = next(iter(rest), "")
        print(f"\n{str(e) or 'interrupted'}{CONTINUED.get(verb, '')}", file=sys.stderr, flush=True)
        if verb in LEFT_AT_ONCE:
            sys.stdout.flush()
            os._exit(130)
        raise SystemExit(130) from None
    except (AmodalError, OSError) as e:  # OSError: a missing or protected file, or a full disk
        if isinstance(e, BrokenPipeError) and _reader_is_gone():
            # `amodal methods | head`: who reads has enough; Python flushes once more when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(141) from None
        if isinstance(e, UserCodeError) and e.code_traceback:
            print(e.code_traceback, file=sys.stderr)
        print(f"error: {e}", file=sys.stderr)
        raise SystemExit(2) from None


def _reader_is_gone() -> bool:
    """Whether nobody reads the standard output any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


@contextmanager
def short_warnings() -> Iterator[None]:
    """Print warnings for users without the line of code that they come from."""
    usual = warnings.formatwarning

    def formatted(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if issubclass(category, AmodalWarning):
            return f"warning: {message}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = usual


def check_empty(words: list[str]) -> None:
    """Raise AmodalError where a name of data or of a run is empty: that would be this folder."""
    for i, word in enumerate(words):
        option, _, value = word.partition("=")
        behind = words[i - 1] if i else "amodal"
        if word == "" and (behind in FILES or not behind.startswith("-")):
            where = f"behind {behind}"
        elif option in FILES and "=" in word and not value:
            where = f"behind {option}="
        else:
            continue
        raise AmodalError(
            f"there is an empty name {where}; is a variable of the shell not set? This folder is ."
        )


def run(words: list[str]) -> None:
    """Run a command line without options of methods."""
    check_empty(words)
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
            f"--curate.{next(iter(CURATE_OPTIONS))} is an option of "
            "`amodal pretrain … --curate NAME`"
        )
    if PROTOCOL_OPTIONS and words[:1] != ["evaluate"]:
        raise AmodalError(
            f"--protocol.{next(iter(PROTOCOL_OPTIONS))} is an option of `amodal evaluate RUN`"
        )
    if words[:1] == ["pretrain"] and any(w.split("=")[0] == "--method" for w in words):
        raise AmodalError(
            "the method stands without an option: `amodal pretrain METHOD …`; that of the run of "
            "--init-from is --init-method"
        )
    if words == ["--version"]:
        print(f"amodal {__version__}")
        return
    if words[:1] and words[0] in TRAINING:
        words = current_names(words)
    check_options(words, VERBS, TRAINING)
    check_query(words)
    words = joined(words, list_options(VERBS[words[0]]) if words[:1] and words[0] in VERBS else ())
    description = (__doc__ or "").split(".")[0] + "."
    tyro.extras.subcommand_cli_from_dict(
        VERBS, args=words, prog="amodal", description=description, config=(DisallowNone,)
    )
