"""References to user code.

A reference is `package.module:name` or `file.py:name`.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from amodal.errors import AmodalError, UserCodeError, unknown

FILE_PREFIX = "_amodal_user_"
"""How the modules of users' files are called, so that they shadow no installed one."""


def underlying(code: Any) -> Any:
    """The function or object that a `functools.partial` calls; anything else itself."""
    while isinstance(code, functools.partial):
        code = code.func
    return code


def definition_of(code: Any) -> Any:
    """What has a name and a source: of a partial its function, of a callable object its class."""
    code = underlying(code)
    return code if hasattr(code, "__qualname__") else type(code)


def dotted_name(code: type | Callable[..., object]) -> str:
    """The reference `package.module:Name`, or `file.py:Name`, of a function or class, or
    of the class of an object."""
    code = definition_of(code)
    module = code.__module__
    if module.startswith(FILE_PREFIX):
        module = Path(str(sys.modules[module].__file__)).name
    return f"{module}:{code.__qualname__}"


def reference_to(code: object) -> str:
    """The reference by which `load_reference` finds a function, class or object.

    Returns:
        FILE.py:NAME for code in a module of no package, PACKAGE.MODULE:NAME for others; "" where no
        name of a module leads to this very object, and for code of the program that runs, which
        would run once more.
    """
    module = sys.modules.get(getattr(definition_of(code), "__module__", "") or "")
    if module is None or module.__name__ == "__main__":
        return ""
    names = [name for name, value in vars(module).items() if value is code]
    if not names:
        return ""
    file = getattr(module, "__file__", None) or ""
    is_alone = "." not in module.__name__ and not hasattr(module, "__path__")
    location = str(Path(file).resolve()) if is_alone and file.endswith(".py") else module.__name__
    return f"{location}:{names[0]}"


def is_reference(text: str) -> bool:
    """Whether a text is a reference to code, not the name of a page."""
    return ":" in text


def load_reference(text: str) -> Any:
    """Import the object of a reference. Its module is executed, so it must be trusted.

    Raises:
        AmodalError: If there is no such file, module or name, or if the code raises.
    """
    location, _, name = text.rpartition(":")
    if not location or not name:
        raise AmodalError(
            f"{text!r} is no reference to code: it is PACKAGE.MODULE:NAME or FILE.py:NAME"
        )
    module = _from_file(Path(location)) if location.endswith(".py") else _from_package(location)
    if not hasattr(module, name):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise unknown(f"name in {location}", name, public)
    return getattr(module, name)


def _from_file(file: Path) -> ModuleType:
    if not file.exists():
        raise AmodalError(f"there is no file {file}; refer to your own code as FILE.py:NAME")
    # a name of its own, so that no installed module is shadowed
    name = f"{FILE_PREFIX}{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None, "the name ends in .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look up their module
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        del sys.modules[name]
        raise
    except BaseException as e:  # also what sys.exit raises
        sys.modules.pop(name, None)
        raise _not_run(str(file), "cannot be run", e) from e
    return module


def _from_package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        raise AmodalError(
            f"the module {name!r} cannot be imported ({type(e).__name__}: {e}); "
            "refer to your own code as PACKAGE.MODULE:NAME or FILE.py:NAME"
        ) from e
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # also what sys.exit raises
        raise _not_run(f"the module {name!r}", "cannot be imported", e) from e


def _not_run(code: str, what: str, error: BaseException) -> AmodalError:
    """The error for code of the user's that raises when it is imported."""
    from amodal.core.user_code import code_traceback, described  # it imports this module

    advice = ""
    if isinstance(error, SystemExit):
        advice = "; what runs as a program alone belongs below if __name__ == '__main__'"
    return UserCodeError(f"{code} {what}: {described(error)}{advice}", code_traceback(error))
