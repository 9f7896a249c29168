"""The text of the code that runs: functions, statements and loops, by file and line."""

from __future__ import annotations

import ast
import functools
import hashlib
import linecache
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from engine.records import SourcePlace

_CONTEXT = 1
_MAX_SHOWN = 24
Function = ast.FunctionDef | ast.AsyncFunctionDef
Loop = ast.For | ast.While | ast.ListComp | ast.GeneratorExp | ast.SetComp | ast.DictComp


@dataclass(frozen=True)
class FunctionText:
    """A function as it is written; `node` is None where there is no source."""

    file: str
    name: str
    first_line: int
    last_line: int
    node: Function | None = None


class Sources:
    """Reads files once; a file that cannot be read or parsed has lines without text."""

    def __init__(self) -> None:
        self.tree = functools.cache(self._tree)
        self.functions = functools.cache(self._functions)

    def lines(self, file: str) -> list[str]:
        """The lines of a file without their ends; empty where there is no source."""
        return [each.rstrip("\n") for each in linecache.getlines(file)]

    def text(self, file: str, line: int) -> str:
        """One line; empty where there is no source."""
        return linecache.getline(file, line).rstrip("\n")

    def function_at(self, file: str, line: int) -> FunctionText | None:
        """The innermost function that the line stands in."""
        found = [each for each in self.functions(file) if each.first_line <= line <= each.last_line]
        return max(found, key=lambda each: each.first_line, default=None)

    def statement(self, file: str, line: int) -> range:
        """The lines of the smallest statement around the line; of a compound one, its head."""
        best = range(line, line + 1)
        smallest = 10**9
        tree = self.tree(file)
        for node in ast.walk(tree) if tree else ():
            if not isinstance(node, ast.stmt):
                continue
            body = getattr(node, "body", None)
            last = body[0].lineno - 1 if isinstance(body, list) and body else node.end_lineno
            last = max(node.lineno, last or node.lineno)
            if node.lineno <= line <= last and last - node.lineno < smallest:
                best, smallest = range(node.lineno, last + 1), last - node.lineno
        return best

    def loops_around(self, file: str, line: int) -> list[Loop]:
        """Loops and comprehensions that the line stands in, the innermost first."""
        function = self.function_at(file, line)
        if function is None or function.node is None:
            return []
        kinds = (ast.For, ast.While, ast.ListComp, ast.GeneratorExp, ast.SetComp, ast.DictComp)
        found = [
            each
            for each in ast.walk(function.node)
            if isinstance(each, kinds) and each.lineno <= line <= (each.end_lineno or each.lineno)
        ]
        return sorted(found, key=lambda each: (each.end_lineno or 0) - each.lineno)

    def place(self, file: str, marked: Iterable[int], *, whole: bool = True) -> SourcePlace:
        """The lines with a little around them; statements are marked whole where that is asked."""
        lines = sorted(set(marked))
        if whole:
            lines = sorted({each for line in lines for each in self.statement(file, line)})
        if not lines:
            return SourcePlace(file, 1, 1)
        all_lines = self.lines(file)
        first = max(1, lines[0] - _CONTEXT)
        last = min(len(all_lines) or lines[-1], lines[-1] + _CONTEXT, first + _MAX_SHOWN)
        while first < lines[0] and not "".join(all_lines[first - 1 : first]).strip():
            first += 1
        while last > lines[-1] and not "".join(all_lines[last - 1 : last]).strip():
            last -= 1
        text = "\n".join(all_lines[first - 1 : last])
        return SourcePlace(file, first, max(first, last), text, tuple(lines))

    def hash_of(self, files: Iterable[str]) -> str:
        """A hash of the text of these files."""
        digest = hashlib.sha256()
        for each in sorted(set(files)):
            digest.update("\n".join([each, *self.lines(each)]).encode(errors="replace"))
        return digest.hexdigest()[:16]

    def _tree(self, file: str) -> ast.Module | None:
        try:
            return ast.parse("\n".join(self.lines(file)))
        except (SyntaxError, ValueError, RecursionError):
            return None

    def _functions(self, file: str) -> tuple[FunctionText, ...]:
        tree = self.tree(file)
        return tuple(_walk(file, tree, "")) if tree else ()


def _walk(file: str, node: ast.AST, prefix: str) -> Iterator[FunctionText]:
    for each in ast.iter_child_nodes(node):
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{prefix}{each.name}"
            first = min([each.lineno, *(deco.lineno for deco in each.decorator_list)])
            yield FunctionText(file, name, first, each.end_lineno or each.lineno, each)
            yield from _walk(file, each, f"{name}.")
        elif isinstance(each, ast.ClassDef):
            yield from _walk(file, each, f"{prefix}{each.name}.")
        elif isinstance(each, ast.stmt | ast.excepthandler | ast.match_case):
            yield from _walk(file, each, prefix)
