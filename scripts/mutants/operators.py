"""The mistakes. This list was fixed before the first page was measured; it is the same for all
pages, and an operator is never taken out because a page survives it.

Left alone are docstrings, annotations, messages, `assert`, `raise`, what only guards a `raise` (page
tests hold those), RECIPE, which is no part of the algorithm, defaults that no call leaves to be
read, and arguments that say how much is computed at a time (`SPEED`), which change no result.
"""

from __future__ import annotations

import ast
import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Change = tuple[ast.AST, ast.AST]
"""A node of the tree, and what stands in its place."""


@dataclass(frozen=True)
class Place:
    """A node, and what is known of where it stands.

    Args:
        node: May be replaced.
        parents: From the module down to the node's parent.
        names: What the module's global names stand for; may be empty.
    """

    node: ast.AST
    parents: tuple[ast.AST, ...]
    names: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parent(self) -> ast.AST:
        return self.parents[-1]

    @property
    def functions(self) -> list[ast.FunctionDef]:
        """The functions around it, the inner one last."""
        return [p for p in self.parents if isinstance(p, ast.FunctionDef)]

    def value_of(self, expression: ast.expr) -> Any:
        """What a name or a chain of attributes stands for, None if that is not known."""
        if isinstance(expression, ast.Name):
            return self.names.get(expression.id)
        if isinstance(expression, ast.Attribute):
            return getattr(self.value_of(expression.value), expression.attr, None)
        return None

    def signature(self, call: ast.Call) -> dict[str, inspect.Parameter]:
        """The parameters of what is called, without `self`; empty if they are not known."""
        target = self.value_of(call.func)
        try:
            return dict(inspect.signature(target).parameters) if callable(target) else {}
        except (TypeError, ValueError):
            return {}


Operator = Callable[[Place], Iterator[ast.AST]]
GRADIENT_OFF = {"no_grad", "inference_mode"}
STATE_FUNCTIONS = {"on_step_end", "on_stage_start", "refresh", "update", "push", "step"}
OPPOSITE = {
    "argmax": "argmin", "max": "min", "amax": "amin", "maximum": "minimum", "sum": "mean",
    "nansum": "nanmean", "any": "all", "softmax": "softmin", "logsumexp": "amax",
}  # fmt: skip
OPPOSITE |= {v: k for k, v in OPPOSITE.items()}
ALONG_AXIS = {
    "softmax", "log_softmax", "sum", "mean", "normalize", "logsumexp", "amax", "amin", "argmax",
    "argmin", "std", "var", "norm", "cumsum", "topk", "chunk", "unbind",
}  # fmt: skip
UNARY = {
    "normalize", "abs", "exp", "log", "sqrt", "square", "relu", "sigmoid", "tanh", "softplus",
    "logsigmoid", "layer_norm", "clamp", "clamp_min", "clamp_max", "log1p", "expm1", "rsqrt",
}  # fmt: skip
SPEED = {"tile"}
VIEWS = {"strong": "weak", "weak": "strong", "plain": "strong", "local": "strong"}
INVERSE: dict[type, type] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE,
    ast.LtE: ast.Gt, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
ARITHMETIC: dict[type, type] = {
    ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Add: ast.Sub, ast.Sub: ast.Add,
}  # fmt: skip


def called(node: ast.AST) -> str:
    """The last name of what is called, "" for what is no call."""
    func = getattr(node, "func", None) if isinstance(node, ast.Call) else node
    return getattr(func, "attr", getattr(func, "id", "")) if func is not None else ""


def with_field(node: ast.AST, **fields: Any) -> Any:
    """A copy of a node with other fields."""
    twin = copy.copy(node)
    for name, value in fields.items():
        setattr(twin, name, value)
    return twin


def without(items: list[Any], i: int) -> list[Any]:
    return items[:i] + items[i + 1 :]


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def turns_gradient_off(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and called(node) in GRADIENT_OFF


def drop_detach(place: Place) -> Iterator[ast.AST]:
    """Gradients flow where they were stopped."""
    node = place.node
    if isinstance(node, ast.Call) and called(node) == "detach" and not node.args:
        yield node.func.value  # type: ignore[attr-defined]
    elif isinstance(node, ast.Call) and called(node) == "stop_gradient" and node.args:
        yield node.args[0]
    elif isinstance(node, ast.With) and any(turns_gradient_off(i.context_expr) for i in node.items):
        yield ast.If(test=ast.Constant(True), body=node.body, orelse=[])
    elif isinstance(node, ast.FunctionDef):
        for i, decorator in enumerate(node.decorator_list):
            if turns_gradient_off(decorator):
                yield with_field(node, decorator_list=without(node.decorator_list, i))


def swap_arguments(place: Place) -> Iterator[ast.AST]:
    """Two keyword arguments of one type change places, two temperatures first of all."""
    node = place.node
    if not isinstance(node, ast.Call):
        return
    parameters, known = place.signature(node), node.keywords
    for i, one in enumerate(known):
        for j in range(i + 1, len(known)):
            other = known[j]
            if not one.arg or not other.arg or ast.dump(one.value) == ast.dump(other.value):
                continue
            types = [getattr(parameters.get(k.arg or ""), "annotation", None) for k in (one, other)]
            same_type = types[0] is not None and types[0] == types[1] != inspect.Parameter.empty
            same_word = one.arg.rpartition("_")[2] == other.arg.rpartition("_")[2]
            if same_type or same_word:
                swapped = list(known)
                swapped[i] = with_field(one, value=other.value)
                swapped[j] = with_field(other, value=one.value)
                yield with_field(node, keywords=swapped)


def drop_term(place: Place) -> Iterator[ast.AST]:
    """A term of a sum, an entry of a dictionary or of a list is left out."""
    node = place.node
    if isinstance(node, ast.BinOp) and not is_text(node.left) and not is_text(node.right):
        if isinstance(node.op, (ast.Add, ast.BitOr, ast.BitAnd)):
            yield node.left
            yield node.right
        elif isinstance(node.op, ast.Sub):
            yield node.left
            yield ast.UnaryOp(ast.USub(), node.right)
    elif isinstance(node, ast.Dict):
        for i in range(len(node.keys)):
            yield with_field(node, keys=without(node.keys, i), values=without(node.values, i))
    elif isinstance(node, ast.List) and isinstance(node.ctx, ast.Load) and len(node.elts) > 1:
        for i in range(len(node.elts)):
            yield with_field(node, elts=without(node.elts, i))


def change_constant(place: Place) -> Iterator[ast.AST]:
    """A number is ten times as large, 0, or of the other sign; a switch is turned over."""
    node = place.node
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and number(node) and not is_axis(place):
        values = (10 * node.value, 0 * node.value, -node.value) if node.value else (1,)
        yield from (ast.Constant(value) for value in values)


def axis(call: ast.Call) -> ast.expr | None:
    """The argument that says along which axis, if the call has one."""
    if called(call) not in ALONG_AXIS:
        return None
    found = next((k.value for k in call.keywords if k.arg == "dim"), None)
    if found is None and call.args and (number(call.args[-1]) or negative(call.args[-1])):
        found = call.args[-1]
    return found


def negative(node: ast.AST) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and number(node.operand)


def is_axis(place: Place) -> bool:
    """Whether a number is an axis, which `change_reduction` changes, or the place in a
    subscript."""
    node: ast.AST = place.node
    for parent in reversed(place.parents):
        if isinstance(parent, ast.keyword) and parent.arg == "dim":
            return True
        if isinstance(parent, ast.Call):
            return axis(parent) is node
        if isinstance(parent, ast.Subscript) and parent.slice is node:
            return True
        if not negative(parent):
            return False
        node = parent
    return False


def exchange_views(place: Place) -> Iterator[ast.AST]:
    """Another view of a value: the first for the second, a strong for a weak one, a pair turned
    round."""
    node = place.node
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        if node.value in VIEWS:
            yield ast.Constant(VIEWS[node.value])
        for one, other in ((":1", ":2"), (":2", ":1")):
            if node.value.endswith(one):
                yield ast.Constant(node.value[: -len(one)] + other)
    loops = isinstance(place.parent, (ast.For, ast.comprehension))
    if isinstance(node, ast.Tuple) and loops and node is place.parent.target:  # type: ignore[attr-defined]
        if len(node.elts) == 2 and all(isinstance(e, ast.Name) for e in node.elts):
            yield with_field(node, elts=node.elts[::-1])


def freeze_schedule(place: Place) -> Iterator[ast.AST]:
    """What changes with training stays as it was at its first step."""
    node = place.node
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        if node.value.id == "clock" and node.attr in ("progress", "step"):
            yield ast.Constant(0.0 if node.attr == "progress" else 0)
    elif isinstance(node, ast.Name) and node.id == "clock" and isinstance(place.parent, ast.Call):
        yield ast.parse("type(clock)(0, clock.steps)", mode="eval").body


def skip_state(place: Place) -> Iterator[ast.AST]:
    """A state is not updated: the momentum of an average is 1, or a statement is left out."""
    node = place.node
    if isinstance(node, ast.Call) and called(node) == "ema_update" and len(node.args) > 2:
        yield with_field(node, args=[*node.args[:2], ast.Constant(1.0), *node.args[3:]])
    elif isinstance(node, ast.Call) and called(node) in ("lerp_", "lerp") and len(node.args) > 1:
        yield with_field(node, args=[node.args[0], ast.Constant(0.0)])
    elif isinstance(node, ast.stmt) and in_state_function(place) and may_be_dropped(place):
        yield ast.Pass()


def in_state_function(place: Place) -> bool:
    inner = place.functions[-1:]
    return any(f.name in STATE_FUNCTIONS or f.name.startswith("update_") for f in inner)


def ignore_argument(place: Place) -> Iterator[ast.AST]:
    """An argument is not passed on, or not used, and its default stands in its place."""
    node = place.node
    if isinstance(node, ast.Call):
        parameters = place.signature(node)
        for i, k in enumerate(node.keywords):
            parameter = parameters.get(k.arg or "")
            if (
                k.arg not in SPEED
                and parameter
                and parameter.default is not inspect.Parameter.empty
            ):
                if not same_literal(k.value, parameter.default):
                    yield with_field(node, keywords=without(node.keywords, i))
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and place.functions:
        default = default_of(place.functions[-1], node.id)
        if default is not None and not isinstance(place.parent, ast.arguments):
            yield default


def same_literal(node: ast.expr, value: object) -> bool:
    try:
        return bool(ast.literal_eval(node) == value)
    except ValueError:
        return False


def default_of(function: ast.FunctionDef, name: str) -> ast.expr | None:
    """The default of a parameter, if it is a constant."""
    arguments = function.args
    for parameter, default in zip(arguments.kwonlyargs, arguments.kw_defaults):
        if parameter.arg == name not in SPEED and isinstance(default, (ast.Constant, ast.UnaryOp)):
            return default
    return None


def negate(place: Place) -> Iterator[ast.AST]:
    """A condition or a mask means its opposite; `and` is `or`."""
    node, parent = place.node, place.parent
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.Invert)):
        yield node.operand
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        yield with_field(node, ops=[INVERSE[type(node.ops[0])]()])
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield with_field(node, op=other)
    elif isinstance(node, ast.expr):
        tested = isinstance(parent, (ast.If, ast.IfExp)) and parent.test is node
        filtered = isinstance(parent, ast.comprehension) and node in parent.ifs
        if (tested or filtered) and not isinstance(node, ast.Constant):
            yield ast.UnaryOp(ast.Not(), node)


def change_reduction(place: Place) -> Iterator[ast.AST]:
    """The smallest for the largest, the mean for the sum, another axis."""
    node = place.node
    if not isinstance(node, ast.Call):
        return
    other = OPPOSITE.get(called(node))
    if other and isinstance(node.func, ast.Attribute):
        yield with_field(node, func=with_field(node.func, attr=other))
    elif other in ("max", "min", "any", "all") and isinstance(node.func, ast.Name):
        yield with_field(node, func=with_field(node.func, id=other))
    along = axis(node)
    if along is not None and (number(along) or negative(along)):
        moved = ast.Constant(0 if ast.literal_eval(along) else 1)
        args = [moved if a is along else a for a in node.args]
        keywords = [with_field(k, value=moved) if k.value is along else k for k in node.keywords]
        yield with_field(node, args=args, keywords=keywords)


def drop_function(place: Place) -> Iterator[ast.AST]:
    """The argument of normalize, exp, log, clamp, … in place of its value."""
    node = place.node
    if isinstance(node, ast.Call) and called(node) in UNARY:
        if isinstance(node.func, ast.Name) and node.args:
            yield node.args[0]
        elif isinstance(node.func, ast.Attribute):
            library = isinstance(node.func.value, ast.Name) and node.func.value.id in ("torch", "F")
            if not library:
                yield node.func.value
            elif node.args:
                yield node.args[0]


def one_direction(place: Place) -> Iterator[ast.AST]:
    """One half of a symmetric loss, at full weight."""
    node = place.node
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Div, ast.Mult)):
        for total in (node.left, node.right):
            if isinstance(total, ast.BinOp) and isinstance(total.op, ast.Add):
                yield total.left
                yield total.right


def change_arithmetic(place: Place) -> Iterator[ast.AST]:
    """Divided for multiplied, subtracted for added, a sign left out."""
    node = place.node
    if isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in ARITHMETIC:
        sides = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.value,)
        if not any(is_text(side) for side in sides):
            yield with_field(node, op=ARITHMETIC[type(node.op)]())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not negative(node):
        yield node.operand


def drop_statement(place: Place) -> Iterator[ast.AST]:
    """A statement is left out."""
    if isinstance(place.node, ast.stmt) and not in_state_function(place) and may_be_dropped(place):
        yield ast.Pass()


def may_be_dropped(place: Place) -> bool:
    """Whether the function still makes sense without a statement, so that its test has to see."""
    node = place.node
    if not place.functions:
        return False
    if isinstance(node, (ast.AugAssign, ast.For, ast.Continue, ast.Break)):
        return True
    if isinstance(node, ast.Expr):
        constructs = isinstance(node.value, ast.Call) and called(node.value) == "__init__"
        return not constructs and not isinstance(node.value, (ast.Constant, ast.Yield))
    if isinstance(node, ast.Assign):
        return all(
            isinstance(t, (ast.Attribute, ast.Subscript)) or set_before(place, t)
            for t in node.targets
        )
    return False


def set_before(place: Place, target: ast.expr) -> bool:
    """Whether a name has a value already where it is set."""
    function, line = place.functions[-1], target.lineno
    arguments = function.args
    parameters = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    earlier = {
        n.id
        for n in ast.walk(function)
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store) and n.lineno < line
    } | {a.arg for a in parameters}
    wanted = [n.id for n in ast.walk(target) if isinstance(n, ast.Name)]
    return all(name in earlier for name in wanted)


OPERATORS: tuple[Operator, ...] = (
    drop_detach,
    swap_arguments,
    drop_term,
    change_constant,
    exchange_views,
    freeze_schedule,
    skip_state,
    ignore_argument,
    negate,
    change_reduction,
    drop_function,
    one_direction,
    change_arithmetic,
    drop_statement,
)
