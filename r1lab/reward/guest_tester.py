"""Runs in a sandbox of its own: the hidden tests, which call the program in the other one. Imports nothing of r1lab.

    TESTS VERDICTS SOCKET    the pickled list of tests, where to write 1 or 0 for each, and the way to the program

A test is Python source that raises where it fails (`assert add(1, 2) == 3`). Names that it neither binds nor finds
among Python's own are the program's. Python's own name is the program's where the tests have no other: then the one
that all of them have, and a test passes only where the program defines it. So a program cannot replace what a test
compares with (`assert add(1, 2) == sum([1, 2])`).

Data of the program's is made again here and compared here (`guest_channel`, which comes before this source). An object
that stays there is compared by what it holds, never by its own `__eq__`: with plain data if its class is a subclass of
a plain type, and with an object of the same class by attributes. Otherwise it is neither true nor false, and no key
of a dict. Its arithmetic with plain data has to make an object again, so that it cannot learn what a test subtracts.
So a program cannot reach the interpreter that judges it: what it patches, overwrites, prints or exits from is its own.
A test in which the program ends fails, whatever the test expects. The program's standard input is empty and its output
is dropped: a test of those is `{stdin, stdout}`.
"""

import ast
import builtins
import contextlib
import importlib
import os
import pickle
import pickletools
import socket
import sys
import types

MODULE = "__test__"
# Functions that a test judges with, rather than tests.
JUDGES = {"isinstance", "issubclass", "len", "abs", "all", "any", "callable", "hasattr", "getattr", "repr", "round"}


# The steps of a pickle that make plain data, and no calls and no changes of what is there.
STEPS = {
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET",
    "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "SHORT_BINUNICODE",
    "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "TUPLE", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_SET", "ADDITEMS",
    "FROZENSET", "BINPERSID",
}  # fmt: skip


def _is_difference(value):
    return isinstance(value, Foreign) and value._remote_number in value._remote_peer.differences


def _plain(value):
    """The plain data that an object is; its class is a subclass of a plain type."""
    if not _is_difference(value):
        plain, content = value._remote_peer.ask("data", value)
        if plain is True:
            return value._remote_peer.unchanged(value._remote_number, content)
    raise TypeError("an object that is no plain data cannot be compared with plain data, or be true or false")


class Foreign(Remote):  # noqa: F821
    """An object of the program's."""

    __slots__ = ()

    def __eq__(self, other):
        if self is other:
            return True
        if not isinstance(other, Foreign):
            return _plain(self) == other
        peer = self._remote_peer
        plain, value = peer.ask("data", self)
        other_plain, other_value = peer.ask("data", other)
        if plain is True and other_plain is True:
            return peer.unchanged(self._remote_number, value) == peer.unchanged(other._remote_number, other_value)
        (kind, attributes), (other_kind, other_attributes) = value, other_value
        if kind is not other_kind or not attributes or not other_attributes:
            raise TypeError("only objects of one class, with attributes, can be compared")
        return attributes == other_attributes

    def __ne__(self, other):
        return not self == other

    def __hash__(self):
        raise TypeError("only plain data can be a key")

    def __bool__(self):
        if not _is_difference(self) and self._remote_peer.ask("true", self) is True:
            return True
        return bool(_plain(self))

    def __instancecheck__(self, value):
        passed = isinstance(value, Foreign) or "_remote_number" in vars(type(value))
        return passed and self._remote_peer.ask("isinstance", self, value) is True


def _ordered(name):
    def method(self, other):
        if isinstance(other, Foreign):
            result = self._remote_peer.ask(name, self, other)
        else:
            result = OPERATIONS[name](_plain(self), other)  # noqa: F821
        if type(result) is not bool:
            raise TypeError("only plain data, and objects of the program's, can be ordered")
        return result

    return method


def _arithmetic(name, reflected):
    """An operator between an object and anything. A difference from plain data is no number that a program chooses."""

    def method(self, other):
        peer, foreign = self._remote_peer, isinstance(other, Foreign)
        difference = _is_difference(self) or _is_difference(other)
        if not foreign and not difference:
            plain, value = peer.ask("data", self)
            if plain is True:
                value = peer.unchanged(self._remote_number, value)
                return OPERATIONS[name](*((other, value) if reflected else (value, other)))  # noqa: F821
            # The sum of a list starts with 0.
            difference = name in DIFFERENCES and not (name == "add" and other == 0)
        result = peer.ask(name, *((other, self) if reflected else (self, other)))
        if difference:
            if not isinstance(result, Foreign):
                raise TypeError("plain data and an object can make only an object")
            peer.differences.add(result._remote_number)
        return result

    return method


def _of_one(name):
    def method(self, *args):
        if _is_difference(self):
            raise TypeError("a difference from plain data can only be compared with an object")
        return self._remote_peer.ask(name, self, *args)

    return method


# Arithmetic that a test may compare with: `abs(f() - 3) < 1e-6`, `f() % 3 == 0`.
DIFFERENCES = {"add", "sub", "truediv", "floordiv", "mod", "and", "or", "xor"}
for _name in ORDER:  # noqa: F821
    setattr(Foreign, f"__{_name}__", _ordered(_name))
for _name in BINARY:  # noqa: F821
    setattr(Foreign, f"__{_name}__", _arithmetic(_name, False))
    setattr(Foreign, f"__r{_name}__", _arithmetic(_name, True))
for _name in UNARY.keys() - {"bool"}:  # noqa: F821
    setattr(Foreign, f"__{_name}__", _of_one(_name))
Foreign.__getattr__ = _of_one("get")


class Tester(Peer):  # noqa: F821
    """Takes plain data from the program, and lets it do little to what the tests pass.

    differences: numbers of the program's objects that arithmetic with plain data made.
    values: of the program's objects, by number, where Python cannot change them.
    """

    def __init__(self, *args):
        super().__init__(*args)
        self.differences = set()
        self.values = {}

    def unchanged(self, number, content):
        """The plain data of an object. Raises TypeError where data that Python cannot change is not what it was."""
        if type(content) in (int, float, complex, str, bytes):
            known = self.values.setdefault(number, content)
            if type(known) is not type(content) or repr(known) != repr(content):
                raise TypeError("the value of an object that cannot change has changed")
        return content

    def encode(self, value):
        """Whatever Python can copy crosses so; a test's own functions, classes and instances are called from there."""
        bound = isinstance(value, types.BuiltinMethodType) and not isinstance(value.__self__, types.ModuleType)
        if not bound and not isinstance(value, Foreign):
            try:
                pickle.dumps(value)
                return None
            except Exception:
                pass
        return super().encode(value)

    def inspect(self, content):
        if not {step.name for step, _, _ in pickletools.genops(content)} <= STEPS:
            raise pickle.UnpicklingError("only plain data is taken")

    def check(self, operation, args):
        """Functions can be called, iterators read, and instances of the test's own classes used by public names."""
        if operation == "data":
            raise TypeError("only the tests may look into what they pass")
        mine = [value for value in args[:2] if id(value) in self.numbers]
        if mine and (operation == "bool" or (mine[0] is args[0] and operation in ("call", "iter", "next"))):
            return
        if not any(MODULE in (type(value).__module__, getattr(value, "__module__", None)) for value in mine):
            raise TypeError(f"{operation} is not possible with what a test passes")
        if operation in ("get", "set") and (type(args[1]) is not str or args[1].startswith("_")):
            raise AttributeError("only public attributes of what a test passes can be used")


def names_of(tree: ast.AST) -> dict[str, list[ast.Name]]:
    """The names that a test uses and does not bind, in order, and where."""
    used, bound = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            if isinstance(node.ctx, ast.Load):
                used.setdefault(node.id, []).append(node)
            else:
                bound.add(node.id)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            with contextlib.suppress(ImportError):
                bound.update(dir(importlib.import_module(node.module or "")))
        elif isinstance(node, ast.alias):
            bound.add((node.asname or node.name).split(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            bound.add(node.name)
    names = sorted(used.keys() - bound, key=lambda name: min((x.lineno, x.col_offset) for x in used[name]))
    return {name: used[name] for name in names}


def modules_of(tree: ast.AST, names: dict[str, list[ast.Name]]) -> set[str]:
    """Modules of the standard library that a test uses without importing them, as `math.isclose`."""
    roots = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return {n for n in sys.stdlib_module_names & names.keys() if all(id(node) in roots for node in names[n])}


def tested_builtin(names: list[list[str]]) -> list[str]:
    """The one name of Python's own that tests without another name are about, given the names of each; or none."""
    common = [name for name in names[0] if all(name in others for others in names)] if names else []
    usual = [[], [], []]
    for name in common:
        usual[2 if isinstance(getattr(builtins, name), type) else name in JUDGES].append(name)
    return sum(usual, [])[:1]


def plan(tests: list[str]) -> list[tuple[ast.AST, list[str], set[str]]]:
    """Of each test its tree, the names it takes from the program, and the modules that it takes from here."""
    trees = [ast.parse(test) for test in tests]
    names = [names_of(tree) for tree in trees]
    modules = [modules_of(tree, used) for tree, used in zip(trees, names, strict=True)]
    foreign = [
        [name for name in used if not hasattr(builtins, name) and name not in taken]
        for used, taken in zip(names, modules, strict=True)
    ]
    own = [[n for n in used if hasattr(builtins, n)] for used, others in zip(names, foreign, strict=True) if not others]
    tested = tested_builtin(own)
    return list(zip(trees, [others or tested for others in foreign], modules, strict=True))


def passes(tree: ast.AST, names: list[str], modules: set[str], program: Tester) -> bool:
    if not names:
        return False
    try:
        space = {name: importlib.import_module(name) for name in modules}
        space |= {name: program.ask("get", program.decode_mine(0), name) for name in names}
        exec(compile(tree, "test.py", "exec"), {"__name__": MODULE, **space})
    except BaseException:
        return False
    return not program.gone


if __name__ == "__main__":
    tests_fd, verdicts_fd, socket_fd = map(int, sys.argv[1:])
    with os.fdopen(tests_fd, "rb") as file:
        tests = pickle.load(file)
    with socket.socket(fileno=socket_fd) as connection:
        program = Tester(connection.makefile("rwb"), Foreign)
        for tree, names, modules in plan(tests):
            os.write(verdicts_fd, b"1" if passes(tree, names, modules, program) else b"0")
