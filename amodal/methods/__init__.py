"""The papers, one page each: `amodal/methods/<family>/<name>.py` holds one function of the file's
name.

methods.build("decur", encoder, common=0.5)

Wherever a method is asked for, a name will do, or a function of one's own (`encoder, *, options ->
Method`), or where one is: `package.module:function`, `file.py:function`, or the name of a plug-in.
"""

from __future__ import annotations

import inspect
import json
import sys
import typing
import warnings
from collections.abc import Callable, Mapping
from types import ModuleType, SimpleNamespace

from amodal.core.recipe import Recipe
from amodal.core.references import is_reference, load_reference, underlying
from amodal.core.registry import Plugin, find_plugin, load, pages
from amodal.core.user_code import async_mistake, definition_place, user_code
from amodal.errors import AmodalError, described, unknown
from amodal.methods.recipes import PAPER_RECORDS, small_recipe

if typing.TYPE_CHECKING:
    from amodal.methods.contract import Method
    from amodal.nn.encoder import Encoder

    MethodLike = str | Callable[..., Method]


def names() -> list[str]:
    """The names of the methods of the package, sorted."""
    return sorted(pages("methods"))


def family(name: str) -> str:
    """The folder of a method, such as "contrastive"."""
    return page(name).__name__.split(".")[-2]


def page(name: str) -> ModuleType:
    """The module of a method of the package or of a plug-in."""
    if _plugin(name) is not None:
        return sys.modules[underlying(function(name)).__module__]
    return load("methods", name, "method")


def distribution(method: MethodLike) -> str:
    """Name and version of the plug-in that a method comes from, "" for any other."""
    plugin = None if is_user_code(method) else _plugin(str(method))
    return plugin.distribution if plugin else ""


def _plugin(name: str) -> Plugin | None:
    """The plug-in that brings a method. The package's own names come first."""
    return find_plugin("methods", name)


def title(method: MethodLike) -> str:
    """What a method is called in messages and run folders."""
    if isinstance(method, str):
        return method.rpartition(":")[2]
    method = underlying(method)
    return getattr(method, "__name__", type(method).__name__)


def function(method: MethodLike) -> Callable[..., Method]:
    """The function that builds a method.

    Args:
        method: A name, a function, or `package.module:function` or `file.py:function`.

    Raises:
        AmodalError: If there is no such method, or if it cannot be called as methods are.
    """
    if not isinstance(method, str):
        return checked(method)
    if is_reference(method):
        return checked(load_reference(method))
    if (plugin := _plugin(method)) is not None:
        plugged: Callable[..., Method] = plugin.load(check_plugin)
        return plugged
    module = page(method)
    builder: Callable[..., Method] = getattr(module, module.__name__.rpartition(".")[2])
    return builder


def check_plugin(plugin: Plugin, method: object) -> None:
    """`checked` as `Plugin.load` calls it."""
    checked(method)


def is_user_code(method: MethodLike) -> bool:
    """Whether a method is code of the user's, which no run folder can bring along."""
    return not isinstance(method, str) or is_reference(method)


def checked(method: typing.Any) -> Callable[..., Method]:
    """The same function, if it can be called as `method(encoder, **options)`.

    Args:
        method: A function of the user's.

    Raises:
        AmodalError: If it cannot; the message names the argument.
    """
    if not callable(method):
        raise AmodalError(
            f"a method is a name or a function (encoder, *, options) -> Method, not of type "
            f"{type(method).__name__}"  # the type alone: the value may hold secrets
        )
    try:
        parameters = list(inspect.signature(method).parameters.values())
    except (TypeError, ValueError):  # as of most classes that are built in
        raise AmodalError(
            f"{title(method)} does not say which arguments it takes; a method is a name or a "
            "function (encoder, *, options) -> Method"
        ) from None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not parameters or parameters[0].kind not in positional:
        raise AmodalError(
            f"{title(method)}() takes no encoder: its first argument must be the encoder that it "
            "trains"
        )
    for p in parameters[1:]:
        if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD):
            raise AmodalError(
                f"{title(method)}() takes {p.name!r} by position; options of a method stand behind "
                f"a *: def {title(method)}(encoder, *, {p.name}=…)"
            )
    if mistake := async_mistake(method):
        raise AmodalError(
            f"{title(method)}() {mistake}; a method is a function (encoder, *, options) -> Method"
        )
    build_it: Callable[..., Method] = method
    return build_it


def options(method: MethodLike) -> dict[str, inspect.Parameter]:
    """The options of a method: the keyword arguments of its function."""
    return {
        n: p
        for n, p in inspect.signature(function(method)).parameters.items()
        if p.kind is p.KEYWORD_ONLY
    }


def option_types(method: MethodLike) -> dict[str, typing.Any]:
    """The types of a method's arguments, as far as its annotations can be evaluated.

    Names that are imported for type checkers alone do not exist here; their arguments are left out.
    """
    code: typing.Any = underlying(function(method))
    if isinstance(code, type):
        code = code.__init__  # type: ignore[misc]  # of a class, not an instance
    elif not inspect.isroutine(code):
        code = type(code).__call__
    names_of_code = getattr(inspect.unwrap(code), "__globals__", {})
    types: dict[str, typing.Any] = {}
    for argument, annotation in getattr(code, "__annotations__", {}).items():
        one = SimpleNamespace(__annotations__={argument: annotation})
        try:
            types |= typing.get_type_hints(one, names_of_code)
        except (NameError, AttributeError, TypeError, SyntaxError):
            continue
    return types


def check_writable(method: MethodLike, chosen: Mapping[str, object]) -> None:
    """Check that a run can store the options of a method, before it is trained.

    Args:
        method: A name or a function.
        chosen: Name -> value; the others have their defaults.

    Raises:
        AmodalError: For a value that JSON cannot hold; the message names the option.
    """
    defaults = {n: p.default for n, p in options(method).items() if p.default is not p.empty}
    for name, value in (defaults | dict(chosen)).items():
        try:
            json.dumps(value)
        except (TypeError, ValueError):
            raise AmodalError(
                f"{title(method)}.{name} is of type {type(value).__name__}, which a run cannot "
                "store; options are numbers, texts, true or false, None, and lists or dicts of them"
            ) from None


def _beside(method: MethodLike) -> ModuleType | None:
    """The module that a method's function stands in."""
    return sys.modules.get(underlying(function(method)).__module__)


def encoder_options(method: MethodLike) -> dict[str, str]:
    """Arguments of the paper's encoder that are not the default ones (`trunk`, `pool`, …).

    Read from `ENCODER` beside the function.
    """
    return dict(getattr(_beside(method), "ENCODER", {}))


def page_recipe(method: MethodLike) -> Recipe | None:
    """`RECIPE` beside a method's function, which is for any data; None if there is none."""
    found: Recipe | None = getattr(_beside(method), "RECIPE", None)
    return found


def paper_recipe(method: MethodLike) -> Recipe | None:
    """`PAPER_RECIPE` beside a method's function, for as much data as in the paper; else None."""
    found: Recipe | None = getattr(_beside(method), "PAPER_RECIPE", None)
    return found


def paper_records(method: MethodLike) -> int:
    """Records from which `PAPER_RECIPE` is the usual one: `PAPER_RECORDS` beside the function."""
    return int(getattr(_beside(method), "PAPER_RECORDS", PAPER_RECORDS))


def tokens(method: MethodLike) -> str:
    """The kind of tokens that a method needs of text, `TOKENS` beside its function; "" for any."""
    return str(getattr(_beside(method), "TOKENS", ""))


def bands(method: MethodLike) -> str:
    """How a method reads bands, `BANDS` beside its function: "wavelength" for one by one, known by
    their wavelengths; "" for as the data says."""
    return str(getattr(_beside(method), "BANDS", ""))


def shares_tokens(method: MethodLike) -> bool:
    """Whether texts of a run learn one vocabulary: `SHARED_TOKENS` beside the function."""
    return bool(getattr(_beside(method), "SHARED_TOKENS", False))


def recipe(method: MethodLike) -> Recipe:
    """The recipe of a method on data of unknown size: that of its page, or the plain one."""
    return page_recipe(method) or Recipe()


OLD_OPTIONS: dict[str, dict[str, str]] = {
    "align": {"least": "min_temperature"},
    "char_vgs": {"over": "reduction"},
    "clamr": {"senses": "fields", "words": "text_field"},
    "clippings": {"words": "text_field"},
    "cma_harmonize": {"sift": "curriculum"},
    "deepvs": {"words": "text_field", "over": "reduction"},
    "dinotxt": {"reads": "pooling"},
    "duet": {"chance": "prompt_probability", "miss": "blank_probability"},
    "finetune": {"how": "tuning"},
    "grace": {"words": "text_field", "most": "capacity"},
    "less_bimodal": {"words": "text_field"},
    "limoe": {"words": "text_field", "words_share": "text_share"},
    "m3col": {"chance": "mix_probability", "first": "m3co_share"},
    "mcl_multistage": {"by": "cluster_field"},
    "mhsa_dms": {"tell": "classifier_share"},
    "missing_aware_prompts": {"aware": "missing_aware", "at": "prompt_type", "grow": "accumulate"},
    "mlem": {"learns": "objective", "first": "contrastive_share"},
    "mmrl": {"words": "text_field"},
    "mmrl_pp": {"words": "text_field"},
    "scot": {"words": "text_field"},
    "softmask_vl": {"words": "text_field"},
    "sorce": {"words": "text_field"},
    "texttopicnet": {"least": "min_df", "most": "max_df"},
    "timix": {"words": "text_field"},
    "uda_cope": {"near": "inlier_distance", "far": "filter_distance", "tries": "iterations"},
    "zorro": {"reads": "mask_rule"},
}
"""Method -> old name of an option -> today's. Old names are read for one more release."""


def current_options(method: MethodLike, chosen: Mapping[str, object]) -> dict[str, object]:
    """Options under the names that they have today.

    Args:
        method: A name or a function; methods from outside the package have no old names.
        chosen: Name, old or of today -> value.

    Raises:
        AmodalError: If an option is set by both of its names.
    """
    renamed = OLD_OPTIONS.get(title(method), {}) if not is_user_code(method) else {}
    current: dict[str, object] = {}
    for name, value in chosen.items():
        today = renamed.get(name, name)
        if today in current:
            raise AmodalError(
                f"{title(method)}.{today} is set twice, also by its old name; leave one out"
            )
        current[today] = value
    return current


def parse(method: MethodLike, chosen: Mapping[str, object]) -> dict[str, object]:
    """Check options, and convert texts to the types of the function's signature.

    Args:
        method: A name or a function.
        chosen: Name -> value, or the text of a command line. Old names (`OLD_OPTIONS`) are read
            with a DeprecationWarning.

    Returns:
        Today's name -> typed value.

    Raises:
        AmodalError: For an unknown option, one that is set twice, or a value of the wrong type.
    """
    known = options(method)
    current = current_options(method, chosen)
    for option in current:
        if option not in known:
            raise unknown(
                f"option of {title(method)}",
                option,
                known,
                f"See `amodal methods {title(method)}`.",
            )
    for old in chosen:
        if old not in current:
            today = OLD_OPTIONS[title(method)][old]
            warnings.warn(
                f"{title(method)}.{old} is called {today} now", DeprecationWarning, stacklevel=2
            )
    hints = option_types(method)
    return {
        option: read_option(f"{title(method)}.{option}", value, hints[option])
        if option in hints
        else value
        for option, value in current.items()
    }


def read_option(what: str, value: object, kind: type) -> object:
    """Convert the value of an option.

    Args:
        what: Its name, for the error.
        value: A typed value, or the text of a command line.
        kind: The type in the function's signature.

    Raises:
        AmodalError: For a value of another type.
    """
    if not isinstance(kind, type):  # a union, say: whoever wrote it checks it
        return value
    if not isinstance(value, str) or kind is str:
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, kind):
            raise AmodalError(f"{what} must be a {kind.__name__}, not {described(value)}")
        return value
    try:
        return {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
    except (KeyError, ValueError):
        raise AmodalError(f"{what} must be a {kind.__name__}, not {described(value)}") from None


def check_required(method: MethodLike, chosen: Mapping[str, object]) -> None:
    """Check that every option without a default is chosen.

    Raises:
        AmodalError: If one is not; the message says where the function is, and how to give it.
    """
    missing = [n for n, p in options(method).items() if p.default is p.empty and n not in chosen]
    if missing:
        place = definition_place(function(method))
        raise AmodalError(
            f"{title(method)}(){f' in {place[0]}, line {place[1]},' if place else ''} has no "
            f"default for {', '.join(missing)}, and no value follows: "
            f"--method.{missing[0].replace('_', '-')} VALUE, or in Python "
            f"options={{{missing[0]!r}: VALUE}}"
        )


def build(method: MethodLike, encoder: Encoder, **options: object) -> Method:
    """Build a method.

    Args:
        method: A name or a function.
        encoder: What it trains.
        **options: Of the method's function.

    Raises:
        AmodalError: For unknown options, wrong types and options that lack, for a function of the
            user's that raises, and for one that returns no Method.
    """
    from amodal.methods.contract import Method
    from amodal.nn.encoder import Encoder

    if not isinstance(encoder, Encoder):
        raise AmodalError(
            "a method is built around an encoder, as in methods.build('clip', "
            f"amodal.Encoder(dataset.fields)), not around an object of type "
            f"{type(encoder).__name__}"
        )
    parsed = parse(method, options)
    check_required(method, parsed)
    builder = function(method)
    if is_user_code(method) or distribution(method):
        with user_code(f"{title(method)}()", builder):
            made = builder(encoder, **parsed)
    else:
        try:
            made = builder(encoder, **parsed)
        except ArithmeticError as error:
            raise _impossible(method, options, error) from error
        except ValueError as error:
            if isinstance(error, AmodalError) or not options:
                raise
            raise _impossible(method, options, error) from error
    if not isinstance(made, Method):
        raise AmodalError(
            f"{title(method)}() returned {type(made).__name__}; a method's function returns an "
            "amodal.Method, with features and losses"
        )
    return made


def _impossible(method: MethodLike, options: Mapping[str, object], error: Exception) -> AmodalError:
    """The error for options with which arithmetic fails, such as a temperature of 0."""
    listed = ", ".join(f"{name} = {value!r}" for name, value in options.items())
    return AmodalError(
        f"{title(method)} cannot be made with {listed} ({error}); "
        f"`amodal methods {title(method)}` shows what its options mean"
    )


__all__ = [
    "OLD_OPTIONS",
    "build",
    "check_required",
    "check_writable",
    "checked",
    "distribution",
    "current_options",
    "encoder_options",
    "family",
    "function",
    "is_user_code",
    "names",
    "option_types",
    "options",
    "page",
    "page_recipe",
    "paper_recipe",
    "parse",
    "read_option",
    "recipe",
    "small_recipe",
    "title",
    "tokens",
]
