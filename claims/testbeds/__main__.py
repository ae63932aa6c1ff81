"""`python -m testbeds COMMAND [...]`; a command is a file in `testbeds/commands/`."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Sequence

from amodal.core import AmodalError, unknown
from testbeds import commands


def main(arguments: Sequence[str]) -> int:
    """Run a command. Returns the exit code; a mistake of the user is a sentence, and code 2."""
    known = sorted(module.name for module in pkgutil.iter_modules(commands.__path__))
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"python -m testbeds COMMAND [...]\ncommands: {', '.join(known)}")
        return 0 if arguments else 2
    try:
        if arguments[0] not in known:
            raise unknown("command of testbeds", arguments[0], known)
        command = importlib.import_module(f"testbeds.commands.{arguments[0]}")
        return int(command.main(arguments[1:]) or 0)
    except AmodalError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
