"""Checks of callbacks and loggers before a run begins, and calls of them while it lasts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from numbers import Real
from typing import Any

from amodal.core import AmodalError
from amodal.core.references import dotted_name
from amodal.core.user_code import call_mistake, user_code
from amodal.errors import nearest

HOOKS = {
    "on_step": ("progress", "terms"),
    "on_log": ("progress", "values"),
    "on_checkpoint": ("progress", "path"),
}
"""Hook of a callback -> its arguments."""
RESUME = "Mend it, and continue with --resume (in Python: resume=True) from the last checkpoint"
PACKAGE = "amodal."


def check_callbacks(callbacks: Any) -> None:
    """Check that these are callbacks, before anything is trained.

    Raises:
        AmodalError: If they are not a list of objects with hooks that can be called.
    """
    if isinstance(callbacks, str | bytes) or not isinstance(callbacks, Sequence):
        has_hook = any(hasattr(callbacks, hook) for hook in HOOKS)
        example = f"{_name(callbacks)}(…)" if has_hook else "OnlineProbe(data, label)"
        raise AmodalError(
            f"callbacks is a list of objects, such as callbacks=[{example}], "
            f"not {_of_type(callbacks)}"
        )
    for callback in callbacks:
        _check_callback(callback)


def _check_callback(callback: object) -> None:
    name = _name(callback)
    if isinstance(callback, type):
        raise AmodalError(
            f"a callback is an object, and {name} is a class: make one of it, callbacks=[{name}()]"
        )
    with user_code(f"the callback {name}, asked for its hooks,"):
        hooks = {hook: getattr(callback, hook, None) for hook in HOOKS}
        others = [n for n in dir(callback) if n.startswith("on") and not n.startswith("__")]
    present = {hook: value for hook, value in hooks.items() if value is not None}
    if not present:
        close = [f"{n} (did you mean {nearest(n, HOOKS)[0]}?)" for n in others if nearest(n, HOOKS)]
        raise AmodalError(
            f"a callback has one of {', '.join(HOOKS)}; {name} has none of them"
            + (f", but {', '.join(close)}" if close else "")
            + f". A hook is a method such as {_definition('on_log')}"
            + ("; a function (step, values) is a logger: logger=…" if callable(callback) else "")
        )
    for hook, value in present.items():
        if not callable(value):
            raise AmodalError(
                f"{name}.{hook} is {_of_type(value)}, and a hook is a method: {_definition(hook)}"
            )
        if mistake := call_mistake(value, *HOOKS[hook]):
            raise AmodalError(f"{name}.{hook} {mistake}; a hook is {_definition(hook)}")


def _definition(hook: str) -> str:
    return f"def {hook}(self, {', '.join(HOOKS[hook])})"


def check_logger(logger: object) -> None:
    """Check that a logger can be called as loggers are.

    Raises:
        AmodalError: If it cannot; the message says how it must be written.
    """
    expected = "a logger is a name or a callable (step, values) -> None"
    if isinstance(logger, type):
        raise AmodalError(
            f"{expected}, and {_name(logger)} is a class: make one of it, "
            f"logger={_name(logger)}(…), or name one of amodal's own"
        )
    if not callable(logger):
        raise AmodalError(f"{expected}, not {type(logger).__name__}")
    if mistake := call_mistake(logger, "step", "values"):
        raise AmodalError(f"{expected}; {_name(logger)} {mistake}")


def calls_hook(callback: object, hook: str, step: int) -> AbstractContextManager[None]:
    """Within it a hook is called. What code of the user's raises names callback, hook and step."""
    if type(callback).__module__.startswith(PACKAGE):
        return nullcontext()
    what = f"the callback {_place(callback)}, called with {hook} at step {step},"
    return user_code(what, getattr(callback, hook), RESUME)


def calls_logger(logger: object, doing: str) -> AbstractContextManager[None]:
    """Within it a logger is called. What it raises names it.

    Args:
        logger: A name or a callable.
        doing: What it does, such as "at step 3".
    """
    name = logger if isinstance(logger, str) else _place(logger)
    return user_code(f"the logger {name}, called {doing},", logger, RESUME)


def logged_values(callback: object, returned: object, step: int) -> dict[str, float]:
    """What `on_log` of a callback returned, to be added to an entry of the log.

    Raises:
        AmodalError: If it is neither None nor a mapping of names to numbers.
    """
    if returned is None:
        return {}
    wrong = ""
    if not isinstance(returned, Mapping):
        wrong = f"returned {type(returned).__name__}"
    else:
        for name, value in returned.items():
            if not isinstance(name, str):
                wrong = f"returned {name!r} as a name"
            elif name == "step":
                wrong = "returned 'step', which is the name of the step itself"
            elif not _is_number(value):
                wrong = f"returned {type(value).__name__} for {name!r}"
    if wrong or not isinstance(returned, Mapping):
        raise AmodalError(
            f"the callback {_place(callback)}, called with on_log at step {step}, {wrong}; it "
            f"returns name -> number, to be logged too, or None. {RESUME}."
        )
    return {name: float(value) for name, value in returned.items()}


def _is_number(value: Any) -> bool:
    """Whether it is a number, or an array or tensor of one."""
    if isinstance(value, Real):
        return True
    is_array = hasattr(value, "dtype") and hasattr(value, "shape")
    return is_array and value.shape == () and not str(value.dtype).startswith(("complex", "<U"))


def _name(thing: object) -> str:
    """What a function, class or object is called in a message."""
    named = thing if isinstance(thing, type) or hasattr(thing, "__qualname__") else type(thing)
    return str(getattr(named, "__qualname__", type(thing).__qualname__)).rpartition("<locals>.")[2]


def _place(thing: object) -> str:
    code: type | Callable[..., object] = thing if hasattr(thing, "__qualname__") else type(thing)  # type: ignore[assignment]  # a function
    module = dotted_name(code).partition(":")[0]
    return f"{_name(thing)} of {module}"


def _of_type(value: object) -> str:
    return f"of type {type(value).__name__}" if value is not None else "None"
