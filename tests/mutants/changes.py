"""Mutants of a source file: small changes that a test ought to notice, each a replacement of one piece of text."""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARISONS = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt,), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt,), ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
_OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
#: operators of which one side alone is a mutant too: a dropped term or factor
_DROPPABLE = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.BitAnd, ast.BitOr)
_PAIRS = [
    ("min", "max"), ("minimum", "maximum"), ("argmin", "argmax"), ("any", "all"), ("sum", "mean"), ("zeros", "ones"),
    ("zeros_like", "ones_like"), ("new_zeros", "new_ones"), ("floor", "ceil"), ("logical_and", "logical_or"),
    ("append", "clear"), ("union", "intersection"), ("startswith", "endswith"), ("lstrip", "rstrip"),
    ("cumsum", "cumprod"), ("head", "tail"), ("lower", "upper"),
]  # fmt: skip
_NAMES = dict(_PAIRS) | {b: a for a, b in _PAIRS}
#: numbers above are limits and sizes of blocks, where one more or less is the same to everybody
_LARGEST = 100
#: calls that hand back what they are called on, changed: x.method(...) -> x
_LEFT_OUT = {
    "detach", "clamp", "masked_fill", "abs", "exp", "log", "sqrt", "square", "nan_to_num", "strip", "lower", "casefold",
    "copy", "sort", "unique", "float", "flatten", "contiguous", "astype", "round", "clip", "rstrip", "lstrip",
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """``path`` within the repository, ``line`` it begins in, ``place`` the qualified name of the function around it.

    ``changed``: the line it makes. ``at_import``: it runs when its file is imported, not when a function is called.
    """

    path: str
    line: int
    place: str
    start: int
    end: int
    before: str
    after: str
    changed: str
    at_import: bool = False

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.before} -> {self.after}"

    @property
    def key(self) -> str:
        """What names it in the list of equivalent ones: survives lines and folders that move."""
        return f"{self.path.rsplit('/', 1)[-1]} {self.place}: {self.changed}"

    def applied(self, source: bytes) -> bytes:
        """The source with the change; ``start`` and ``end`` count bytes."""
        return source[: self.start] + self.after.encode() + source[self.end :]


def mutants_of(path: str, source: bytes) -> list[Mutant]:
    """All mutants of a file, in its order; none of docstrings, messages, annotations and what is logged.

    >>> for mutant in mutants_of("a.py", b"def f(a):\\n    return -a if a < b else a\\n"):
    ...     print(mutant)
    a.py:2: -a if a < b else a -> (a if a < b else -a)
    a.py:2: a < b -> (a <= b)
    a.py:2: a < b -> (a > b)
    a.py:2: -a -> (a)
    """
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found: dict[tuple[int, int, str], Mutant] = {}
    for node, place, at_import, after in _walk(ast.parse(source), (), True):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset
        before = " ".join(source[start:end].decode().split())
        rest = source[end : starts[node.end_lineno]]
        changed = " ".join((source[starts[node.lineno - 1] : start] + after.encode() + rest).decode().split())
        where = ".".join(place) or "module"
        mutant = Mutant(path, node.lineno, where, start, end, before, after, changed, at_import)
        found.setdefault((start, end, after), mutant)
    return list(found.values())


def _walk(
    node: ast.AST, place: tuple[str, ...], at_import: bool
) -> Iterator[tuple[ast.AST, tuple[str, ...], bool, str]]:
    if isinstance(node, (ast.JoinedStr, ast.Raise, ast.Assert, ast.Import, ast.ImportFrom)) or _is_log(node):
        if isinstance(node, ast.Raise) and node.exc is not None:
            yield node, place, at_import, "pass"
        return
    if isinstance(node, (ast.If, ast.While)) and not isinstance(node.test, (ast.Compare, ast.UnaryOp)):
        yield node.test, place, at_import, f"(not ({ast.unparse(node.test)}))"
    for after in _changes(node):
        shown = ast.unparse(ast.fix_missing_locations(after))
        yield node, place, at_import, shown if isinstance(after, ast.stmt) else f"({shown})"
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        place = (*place, node.name)
        for default in [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]:
            yield from _walk(default, place, at_import)
        children, at_import = node.body, False
    elif isinstance(node, ast.ClassDef):
        children, place = node.body, (*place, node.name)
    elif isinstance(node, ast.AnnAssign):
        children = [node.value] if node.value is not None else []
    else:
        children = list(ast.iter_child_nodes(node))
    for child in children:
        yield from _walk(child, place, at_import)


def _is_log(node: ast.AST) -> bool:
    call = node.value if isinstance(node, ast.Expr) else node
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in (
        "info", "warning", "debug", "note"
    )  # fmt: skip


def _reads(value: ast.AST, name: str) -> bool:
    return any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(value))


def _with(node: ast.AST, **fields) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """The mutated forms of one node."""
    match node:
        case ast.Compare(ops=[operator]):
            yield from (_with(node, ops=[other()]) for other in _COMPARISONS[type(operator)])
        case ast.BinOp(left=left, op=operator, right=right):
            if type(operator) in _OPERATORS and not isinstance(left, ast.JoinedStr):
                yield _with(node, op=_OPERATORS[type(operator)]())
                if isinstance(operator, _DROPPABLE):
                    yield from (left, right)
        case ast.UnaryOp(operand=operand) if not isinstance(operand, ast.Constant):
            yield operand
        case ast.BoolOp(op=operator, values=values):
            yield _with(node, op=ast.Or() if isinstance(operator, ast.And) else ast.And())
            for place in range(len(values)):
                rest = values[:place] + values[place + 1 :]
                yield rest[0] if len(rest) == 1 else _with(node, values=rest)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value)) if value <= _LARGEST:
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Constant(value=float(value)):
            yield from (ast.Constant(value * 2 + 1), ast.Constant(value / 2 - 1e-3))
        case ast.IfExp(body=body, orelse=orelse):
            yield _with(node, body=orelse, orelse=body)
        case ast.Call(func=ast.Name(id=name)) if name in _NAMES:
            yield _with(node, func=ast.Name(_NAMES[name], ast.Load()))
        case ast.Call(func=ast.Attribute(value=value, attr=name)):
            if name in _NAMES:
                yield _with(node, func=_with(node.func, attr=_NAMES[name]))
            if name in _LEFT_OUT and not (isinstance(value, ast.Name) and value.id in ("np", "math", "torch", "F")):
                yield value
        case ast.Expr(value=ast.Constant()):
            pass
        case ast.Expr() | ast.AugAssign():
            yield ast.Pass()
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if _reads(value, name):
            yield ast.Pass()
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Pass()
