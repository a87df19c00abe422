"""How a hidden test and the program exchange values. `guest_tester` and `guest_program` run with this in front.

The two run in different processes, so that a program cannot reach the interpreter that judges it. One side asks the
other to call, read or change an object; the side that waits for a reply answers requests meanwhile. Values cross so:

copies      numbers, text, bytes, None, tuples, lists, dicts, sets; of the standard library those of `STANDARD`
            (Counter, deque, Fraction, Decimal, datetime, ...); builtin types. The receiver makes them from plain data.
namedtuple  a named tuple of the same fields, made by the receiver; its further methods are calls of the original.
exception   an exception of a class with the same name and bases, made by the receiver.
reference   everything else (functions, classes, instances, iterators): a `Remote`, whose operations are requests.

A list, dict, set, deque or bytearray that a request passes is changed in place as its copy was changed. A program that
ends raises `Gone`. The tester makes objects from no other classes than these, and answers only the requests that
`guest_tester.Tester.check` permits: a program can send whatever it likes.
"""

import builtins
import collections
import copyreg
import importlib
import io
import math
import operator
import pickle

PLAIN = {type(None), bool, int, float, str, bytes, list, tuple, dict, set, frozenset}
# Arguments of the constructor, where `__reduce__` gives others.
ARGUMENTS = {
    "array.array": lambda value: (value.typecode, value.tolist()), "pathlib.PosixPath": lambda value: (str(value),),
    "pathlib.PurePosixPath": lambda value: (str(value),), "uuid.UUID": lambda value: (value.hex,),
}  # fmt: skip
STANDARD = {
    "builtins.bytearray", "builtins.complex", "builtins.range", "builtins.slice", "collections.Counter",
    "collections.OrderedDict", "collections.defaultdict", "collections.deque", "datetime.date", "datetime.datetime",
    "datetime.time", "datetime.timedelta", "datetime.timezone", "decimal.Decimal", "fractions.Fraction", *ARGUMENTS,
}  # fmt: skip
DICTS = {dict, collections.Counter, collections.OrderedDict, collections.defaultdict}
MUTABLE = DICTS | {list, set, bytearray, collections.deque}
VIEWS = {type({}.keys()), type({}.items())}
BINARY = ["add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift"]
ORDER = ["lt", "le", "gt", "ge"]
UNARY = {"neg": operator.neg, "pos": operator.pos, "invert": operator.invert, "abs": abs, "len": len, "str": str,
         "repr": repr, "int": int, "float": float, "iter": iter, "next": next, "bool": bool, "index": operator.index,
         "round": round, "reversed": reversed, "format": format, "trunc": math.trunc, "floor": math.floor,
         "ceil": math.ceil}  # fmt: skip
OPERATIONS = {
    "call": lambda target, /, *args, **kwargs: target(*args, **kwargs),
    "get": getattr,
    "set": setattr,
    "isinstance": lambda kind, value: isinstance(value, kind),
    "data": lambda value: data(value),
    "true": lambda value: not any({"__bool__", "__len__"} & vars(kind).keys() for kind in type(value).__mro__),
    **UNARY,
    **{name: getattr(operator, f"__{name}__") for name in [*BINARY, *ORDER, "getitem", "setitem", "delitem"]},
}


class Gone(BaseException):
    """The other side ended."""


class Remote:
    """An object of the other side."""

    __slots__ = ("_remote_peer", "_remote_number")

    def __init__(self, peer, number):
        object.__setattr__(self, "_remote_peer", peer)
        object.__setattr__(self, "_remote_number", number)

    def __call__(self, /, *args, **kwargs):
        return self._remote_peer.ask("call", self, *args, **kwargs)

    def __getattr__(self, name):
        return self._remote_peer.ask("get", self, name)

    def __setattr__(self, name, value):
        self._remote_peer.ask("set", self, name, value)

    def __enter__(self):
        return self._remote_peer.ask("get", self, "__enter__")()

    def __reduce_ex__(self, protocol):
        raise TypeError("an object of the other side cannot be copied")

    def __exit__(self, kind, error, trace):
        return self._remote_peer.ask("get", self, "__exit__")(kind, error, None)


def _define(name, operation, reflected=False):
    def method(self, *args):
        return self._remote_peer.ask(operation, *((*args, self) if reflected else (self, *args)))

    setattr(Remote, f"__{name}__", method)


for _name in [*UNARY, *BINARY, *ORDER, "getitem", "setitem", "delitem"]:
    _define(_name, _name)
for _name in BINARY:
    _define(f"r{_name}", _name, reflected=True)


class Peer:
    """One side of the channel."""

    def __init__(self, channel, remote, objects=()):
        self.channel, self.remote = channel, remote
        self.objects, self.numbers, self.received, self.gone = [], {}, {}, False
        for value in objects:
            self.number(value)

    def ask(self, operation, /, *args, **kwargs):
        """The result of an operation on objects of the other side. Raises what it raises there."""
        passed = mutables(args, kwargs)
        self.send(("ask", operation, args, kwargs))
        while (message := self.receive(passed))[0] == "ask":
            self.respond(*message[1:])
        kind, value, changes = message
        for container, content in zip(passed, changes, strict=True):
            if content is not None:
                restore(container, content)
        if kind == "raised":
            if isinstance(value, StopIteration) and operation != "next":
                # It would end a loop of the caller's in silence.
                value = RuntimeError("a call raised StopIteration")
            raise value
        return value

    def respond(self, operation, args, kwargs):
        passed = mutables(args, kwargs)
        before = [contents(container) for container in passed]
        try:
            self.check(operation, args)
            kind, value = "value", OPERATIONS[operation](*args, **kwargs)
        except Gone:
            raise
        except BaseException as error:
            kind, value = "raised", error
        after = [contents(container) for container in passed]
        changes = [None if identical(*pair) else pair[1] for pair in zip(before, after, strict=True)]
        try:
            self.send((kind, value, changes), passed)
        except Exception as error:
            self.send(("raised", TypeError(f"a value that cannot be passed on: {error}"), [None] * len(passed)))

    def check(self, operation, args):
        """Raises TypeError where the other side may not ask for that."""

    def send(self, message, passed=()):
        peer, places = self, {id(container): place for place, container in enumerate(passed)}

        class Sender(pickle.Pickler):
            def persistent_id(self, value):
                if id(value) in places:
                    return ("passed", places[id(value)])
                return None if type(value) in PLAIN else peer.encode(value)

        buffer = io.BytesIO()
        Sender(buffer, protocol=4).dump(message)
        content = buffer.getvalue()
        try:
            self.channel.write(len(content).to_bytes(8, "big") + content)
            self.channel.flush()
        except (OSError, ValueError) as error:
            self.gone = True
            raise Gone from error

    def receive(self, passed=()):
        peer = self

        class Receiver(pickle.Unpickler):
            def find_class(self, module, name):
                return peer.find_class(super(), module, name)

            def persistent_load(self, value):
                kind, *rest = value
                return passed[rest[0]] if kind == "passed" else getattr(peer, "decode_" + kind)(*rest)

        try:
            size = int.from_bytes(self.channel.read(8), "big")
            content = self.channel.read(size)
        except (OSError, ValueError):
            size, content = 0, b""
        if not size or len(content) < size:
            self.gone = True
            raise Gone
        self.inspect(content)
        return Receiver(io.BytesIO(content)).load()

    def find_class(self, receiver, module, name):
        raise pickle.UnpicklingError("only plain data is taken")

    def inspect(self, content):
        """Raises UnpicklingError where a message would do more than make plain data."""

    def number(self, value):
        """The number of an object of this side, which lives from then on."""
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)
        return self.numbers[id(value)]

    def encode(self, value):
        """What stands for a value that is not plain: the name of a `decode_` method, and plain data for it."""
        kind = type(value)
        if isinstance(value, Remote):
            return ("yours", value._remote_number)
        if _name_of(kind) in ARGUMENTS:
            return ("standard", _name_of(kind), ARGUMENTS[_name_of(kind)](value), [], [])
        if _name_of(kind) in STANDARD:
            reduce = copyreg.dispatch_table.get(kind) or kind.__reduce__
            _, args, _, items, pairs = (*reduce(value), None, None, None)[:5]
            return ("standard", _name_of(kind), args, list(items or ()), list(pairs or ()))
        if kind in VIEWS:
            return ("view", kind is type({}.keys()), list(value))
        if isinstance(value, type):
            if "_remote_number" in vars(value):
                return ("yours", value._remote_number)
            if getattr(builtins, value.__name__, None) is value or _name_of(value) in STANDARD:
                return ("class", _name_of(value))
            if issubclass(value, BaseException):
                return ("exception_class", self.number(value), value.__name__, list(value.__bases__))
        elif isinstance(value, BaseException):
            return ("exception", kind, value.args, dict(vars(value)), str(value))
        elif "_remote_number" in vars(kind):
            return ("yours", kind._remote_number)
        elif isinstance(value, tuple) and hasattr(kind, "_fields"):
            return ("namedtuple", self.number(value), kind.__name__, kind._fields, tuple(tuple.__iter__(value)))
        return ("mine", self.number(value))

    def decode_yours(self, number):
        return self.objects[number]

    def decode_mine(self, number):
        return self._once(("mine", number), lambda: self.remote(self, number))

    def decode_standard(self, name, args, items, pairs):
        if name not in STANDARD:  # type() would make classes with methods of the other side's
            raise pickle.UnpicklingError("only standard values are made")
        value = self.decode_class(name)(*args)
        if items or pairs:
            restore(value, items or [part for pair in pairs for part in pair])
        return value

    def decode_class(self, name):
        module, _, kind = name.partition(".")
        value = getattr(importlib.import_module(module), kind) if name in STANDARD or module == "builtins" else None
        if not isinstance(value, type):
            raise pickle.UnpicklingError("only standard types are taken")
        return value

    def decode_view(self, keys, values):
        return dict.fromkeys(values).keys() if keys else dict(values).items()

    def decode_exception_class(self, number, name, bases):
        def text(error):
            return error.__dict__.get("_remote_text") or Exception.__str__(error)

        def make():
            if not all(map(is_exception, bases)):
                raise pickle.UnpicklingError("an exception with bases that are none")
            return type(name, tuple(bases), {"__str__": text, "_remote_number": number})

        return self._once(("exception", number), make)

    def decode_exception(self, kind, args, attributes, text):
        if not is_exception(kind):
            raise pickle.UnpicklingError("an exception of a class that is none")
        try:
            error = kind(*args)
        except TypeError:
            error = kind.__new__(kind)
        error.__dict__.update(attributes, _remote_text=text)
        return error

    def decode_namedtuple(self, number, name, fields, values):
        def make():
            content = {"_remote_number": number, "__slots__": (), "__getattr__": attribute}
            return type(name, (collections.namedtuple(name, fields),), content)

        def attribute(value, name):
            return getattr(self.decode_mine(number), name)

        return self._once(("namedtuple", number), make)(*values)

    def _once(self, key, make):
        if key not in self.received:
            self.received[key] = make()
        return self.received[key]


def _name_of(kind):
    return f"{kind.__module__}.{kind.__qualname__}"


def is_exception(kind):
    return isinstance(kind, type) and issubclass(kind, BaseException)


def mutables(args, kwargs):
    """The containers in arguments that a call may change, in an order that is the same for a copy."""
    found, seen, todo = [], set(), [*args, *kwargs.values()]
    while todo:
        value = todo.pop()
        kind = type(value)
        if id(value) in seen or not (kind is tuple or kind in MUTABLE):
            continue
        seen.add(id(value))
        if kind is not tuple:
            found.append(value)
        if kind is not set and kind is not bytearray:
            todo += value.values() if kind in DICTS else value
    return found


def contents(container):
    """The items of a container, of a dict its keys and values in turn."""
    return [x for pair in container.items() for x in pair] if type(container) in DICTS else list(container)


def restore(container, content):
    """Give a container other contents, in place."""
    container.clear()
    if type(container) in DICTS:
        for key, value in zip(content[::2], content[1::2], strict=True):
            container[key] = value
    elif type(container) is set:
        container.update(content)
    else:
        container.extend(content)


def identical(a, b):
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


# The plain value of an instance of a subclass, whatever methods the subclass replaces (an Enum of text its str).
PLAIN_VALUES = {
    int: int.__int__, float: float.__float__, complex: complex.__complex__, str: str.__str__, bytes: bytes.__bytes__,
    tuple: lambda x: tuple(tuple.__iter__(x)), list: lambda x: list(list.__iter__(x)),
    dict: lambda x: dict(dict.items(x)), set: lambda x: set(set.__iter__(x)),
    frozenset: lambda x: frozenset(frozenset.__iter__(x)),
}  # fmt: skip


def data(value):
    """Whether an object is of a subclass of a plain type, and its plain value; else its class and attributes."""
    for kind, plain in PLAIN_VALUES.items():
        if isinstance(value, kind):
            return True, plain(value)
    slots = [name for kind in type(value).__mro__ for name in _slots(kind) if hasattr(value, name)]
    return False, (type(value), {**{name: getattr(value, name) for name in slots}, **getattr(value, "__dict__", {})})


def _slots(kind):
    slots = kind.__dict__.get("__slots__", ())
    return [name for name in ((slots,) if isinstance(slots, str) else slots) if not name.startswith("__")]
