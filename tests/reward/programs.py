"""Programs and tests of the code reward: every kind of value that crosses, and forged messages."""

CROSSING_PROGRAM = """
import array, collections, dataclasses, datetime, decimal, enum, fractions, functools, itertools, math, pathlib, re
import typing, uuid

Point = collections.namedtuple("Point", "x y")

class Pair(typing.NamedTuple):
    a: int
    b: list
    def total(self):
        return self.a + sum(self.b)

@dataclasses.dataclass(order=True)
class Card:
    rank: int
    suit: str = "clubs"

class Colour(enum.Enum):
    RED, BLUE = 1, 2

class Level(enum.IntEnum):
    LOW, HIGH = 1, 2

class Bag(list):
    def largest(self):
        return max(self)

class Empty(LookupError):
    pass

class VeryEmpty(Empty):
    def __str__(self):
        return "nothing in here"

class Suit(str, enum.Enum):
    CLUBS = "clubs"

class Meters(int):
    pass

class Angle:
    def __init__(self, degrees):
        self.degrees = degrees
    def __round__(self, digits=0):
        return round(self.degrees, digits)
    def __index__(self):
        return int(self.degrees)
    def __format__(self, spec):
        return format(self.degrees, spec or ".1f")
    def __reversed__(self):
        return reversed([1, 2])

class Vector:
    __slots__ = ("x", "y")
    def __init__(self, x, y):
        self.x, self.y = x, y
    def __add__(self, other):
        return Vector(self.x + other.x, self.y + other.y)
    def __mul__(self, by):
        return Vector(self.x * by, self.y * by)
    __rmul__ = __mul__
    def __neg__(self):
        return Vector(-self.x, -self.y)
    def __abs__(self):
        return (self.x ** 2 + self.y ** 2) ** 0.5
    def __eq__(self, other):
        return (self.x, self.y) == (other.x, other.y)
    def __lt__(self, other):
        return abs(self) < abs(other)
    def __str__(self):
        return f"<{self.x}, {self.y}>"
    def __getitem__(self, place):
        return (self.x, self.y)[place]
    def __setitem__(self, place, value):
        setattr(self, "xy"[place], value)

class Log:
    def __init__(self):
        self.lines = []
    def __enter__(self):
        self.lines.append("in")
        return self
    def __exit__(self, *error):
        self.lines.append("out")

class Node:
    def __init__(self, value, next=None):
        self.value, self.next = value, next

def same(x): return x
def number(text): return re.match("[0-9]+", text)
def place(text): return pathlib.PurePosixPath(text) / "x"
def tag(): return uuid.UUID(int=5), array.array("i", [1, 2])
def make(kind, *args): return eval(kind)(*args)
def counts(text): return collections.Counter(text)
def grouped(words):
    groups = collections.defaultdict(list)
    for word in words: groups[len(word)].append(word)
    return groups
def ordered(pairs): return collections.OrderedDict(pairs)
def queue(items): return collections.deque(items, maxlen=3)
def half(): return fractions.Fraction(1, 2)
def price(text): return decimal.Decimal(text)
def root(z): return z ** 0.5
def day(): return datetime.date(2024, 2, 29)
def later(t, **by): return t + datetime.timedelta(**by)
def points(): return {"a": Point(1, 2), "b": [Point(3, 4)]}
def pair(): return Pair(1, [2, 3])
def unique(items): return set(items)
def data(text): return bytearray(text, "utf8"), text.encode()
def evens():
    yield from itertools.count(0, 2)
def keys(d): return d.keys()
def nothing(): pass
def sort(a): a.sort()
def clear(d):
    d.pop("a"); d["b"] = [1]; d["new"] = d["b"]
def fill(grid):
    for row in grid: row[0] = 7
    grid.append(grid[0])
def push(a, x):
    a.append(x)
    return a
def shrink(s, q, c, b):
    s.discard(1); q.popleft(); c["a"] += 1; b.reverse()
def swap(pair): pair[0][0], pair[1][0] = pair[1][0], pair[0][0]
def apply(f, *args, **kwargs): return f(*args, **kwargs)
def adder(n): return lambda x: x + n
def compose(*fs): return functools.reduce(lambda f, g: lambda x: f(g(x)), fs)
def best(items, key): return max(items, key=key)
def counted(f):
    @functools.wraps(f)
    def inner(*args):
        inner.calls += 1
        return f(*args)
    inner.calls = 0
    return inner
def total(items): return sum(items)
def lengths(node): return 0 if node is None else 1 + lengths(node.next)
def reverse(node):
    last = None
    while node: node.next, last, node = last, node, node.next
    return last
def built(kind): return kind(3)
def attempt(f):
    try: return f()
    except ValueError as error: return str(error)
def fail(kind):
    if kind == "mine": raise VeryEmpty("x", 3)
    if kind == "exit": raise SystemExit(2)
    if kind == "key": return {}["k"]
    raise ValueError("bad", 7)
def named(self, operation, target=0): return self, operation, target
def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
def later_on():
    return sum(range(10))

import sys
print("loaded")
sys.exit()
"""

# Each paragraph is a test that the program above passes.
CROSSING_TESTS = """
assert counts("aab") == {"a": 2, "b": 1} and counts("aab").most_common(1) == [("a", 2)] and counts("a")["z"] == 0

from collections import Counter; assert counts("ab") + Counter("b") == Counter("abb")

assert grouped(["a", "b", "cc"]) == {1: ["a", "b"], 2: ["cc"]} and grouped([])[5] == []

assert list(ordered([("b", 1), ("a", 2)])) == ["b", "a"]

from collections import deque; assert queue([1, 2, 3, 4]) == deque([2, 3, 4]) and queue([1]).maxlen == 3

from fractions import Fraction; assert half() == Fraction(1, 2) == 0.5 and isinstance(half(), Fraction)

from decimal import Decimal; assert price("1.10") + Decimal("0.05") == Decimal("1.15")

assert root(-4 + 0j).imag == 2.0 and same(1 + 2j) == 1 + 2j

from datetime import date; assert day() == date(2024, 2, 29)

import datetime; t = datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc); assert later(t, hours=1).hour == 1

assert points() == {"a": (1, 2), "b": [(3, 4)]} and points()["a"].x == 1

assert Point(1, 2) == (1, 2) and Point(1, 2)._replace(x=5) == (5, 2) and isinstance(Point(1, 2), Point)

assert pair() == (1, [2, 3]) and pair().total() == 6 and pair().b[-1] == 3

assert Card(3) == Card(3, "clubs") and Card(3) != Card(4) and Card(2) < Card(3) and Card(2).rank == 2

assert Colour.RED == Colour.RED and Colour.RED is Colour.RED and Colour(2).name == "BLUE" and Colour.RED != Colour.BLUE

assert Level.HIGH == 2 and Level.HIGH > 1 and Level.LOW < Level.HIGH

b = Bag([1, 3]); b.append(2)
assert b == [1, 3, 2] and b.largest() == 3 and len(b) == 3 and 3 in b and sorted(b) == [1, 2, 3]

assert unique([1, 1, 2]) == {1, 2} and {x for x in unique("ab")} == {"a", "b"}

assert data("ab") == (bytearray(b"ab"), b"ab")

from itertools import islice; assert list(islice(evens(), 3)) == [0, 2, 4]

g = evens(); assert next(g) == 0 and next(g) == 2

assert keys({"a": 1}) == {"a"} or list(keys({"a": 1})) == ["a"]

assert nothing() is None and same(2.0) == 2 and same(True) is True and same(10 ** 40) == 10 ** 40

assert same(range(3)) == range(3) and same(int) is int

assert same(float("inf")) == float("inf") and same(float("nan")) != same(float("nan"))

a = [3, 1]; assert sort(a) is None and a == [1, 3]

d = {"a": 1}; clear(d); assert d == {"b": [1], "new": [1]} and d["b"] is d["new"]

grid = [[0, 1], [0, 2]]; row = grid[0]; fill(grid)
assert row == [7, 1] and grid == [[7, 1], [7, 2], [7, 1]] and grid[2] is row

a = [1]; assert push(a, 2) is a and a == [1, 2] and push(a, a)[2] is a

from collections import *
s, q, c, b = {1, 2}, deque([1, 2]), Counter("a"), bytearray(b"ab"); shrink(s, q, c, b)
assert (s, list(q), c["a"], b) == ({2}, [2], 2, b"ba")

p = ([1], [2]); swap(p); assert p == ([2], [1])

assert apply(lambda x, y=1: x + y, 3) == 4 and apply(lambda x, y=1: x + y, 3, y=2) == 5

seen = []; apply(seen.append, 3); assert seen == [3]

assert apply(max, [1, 5]) == 5 and apply(str.upper, "a") == "A" and apply(int, "7") == 7

import operator, math; assert apply(operator.add, 1, 2) == 3 and apply(math.sqrt, 4) == 2

from functools import partial; assert apply(partial(lambda x, y: x - y, 5), 2) == 3

assert adder(3)(4) == 7 and compose(lambda x: x + 1, adder(2), abs)(-3) == 6

assert best(["a", "ccc", "bb"], key=len) == "ccc" and best([1, -5], key=lambda x: x * x) == -5

f = counted(lambda x: x * 2); assert [f(1), f(2)] == [2, 4] and f.calls == 2

assert total(x for x in range(4)) == 6 and total(iter([1, 2])) == 3 and total(map(lambda x: -x, [1, 2])) == -3

def check(candidate):
    assert candidate(2)(3) == 5
check(adder)

class Mine:
    def __init__(self, value, next=None):
        self.value, self.next = value, next
assert lengths(Mine(1, Mine(2))) == 2

class Mine:
    def __init__(self, value, next=None):
        self.value, self.next = value, next
a = Mine(1, Mine(2)); b = a.next; assert reverse(a) is b and b.next is a and a.next is None

class Mine:
    def __init__(self, n):
        self.n = n
assert built(Mine).n == 3

a = Node(1, Node(2)); b = a.next; assert reverse(a) is b and b.next.value == 1 and b.next.next is None

n = Node(1); n.value = 5; n.next = Node(6); assert n.next.value == 6 and n.value == 5 and lengths(n) == 2

def bad():
    raise ValueError("told")
assert attempt(bad) == "told"

class Odd(ValueError):
    pass
def bad():
    raise Odd("odd")
assert attempt(bad) == "odd"

class Odd(Exception):
    pass
def bad():
    raise Odd("odd")
try:
    attempt(bad)
except Odd as error:
    assert str(error) == "odd"
else:
    assert False

try:
    fail("mine")
except Empty as error:
    assert str(error) == "nothing in here" and error.args == ("x", 3)
else:
    assert False

try:
    fail("mine")
except LookupError:
    pass
else:
    assert False

try:
    fail("exit")
except SystemExit as error:
    assert error.code == 2
else:
    assert False

try:
    fail("key")
except KeyError as error:
    assert error.args == ("k",)
else:
    assert False

try:
    fail("")
except Exception as error:
    assert type(error) is ValueError and error.args == ("bad", 7)
else:
    assert False

assert Vector(1, 2) + Vector(3, 4) == Vector(4, 6) and Vector(1, 2) != Vector(1, 3) and -Vector(1, 2) == Vector(-1, -2)

assert 2 * Vector(1, 2) == Vector(1, 2) * 2 and abs(Vector(3, 4)) == 5

assert str(Vector(1, 2)) == "<1, 2>" == f"{Vector(1, 2)}"

v = Vector(1, 2); v[0] = 5; v.y += 1
assert v[0] == 5 and v.y == 3 and Vector(1, 1) < Vector(2, 2) and max(Vector(1, 0), Vector(2, 0)).x == 2

assert sum([Vector(1, 2), Vector(3, 4)][1:], Vector(1, 2)) == Vector(4, 6) and (Vector(1, 2) * 3).y == 6

assert Suit.CLUBS == "clubs" and Meters(3) + 4 == 7 and 10 - Meters(3) == 7 and Meters(3) / 2 == 1.5 and Meters(3)

assert not Meters(0) and abs(Meters(-3) + 1) == 2 and Meters(7) % 4 == 3 and sum([Meters(1), Meters(2)]) == 3

assert number("12a") and not number("a") and round(Angle(1.26), 1) == 1.3 and [1, 2, 3][Angle(2)] == 3

assert f"{Angle(3.14159):.2f}" == "3.14" and f"{Angle(2)}" == "2.0" and list(reversed(Angle(1))) == [2, 1]

import array, pathlib, uuid
assert place("a") == pathlib.PurePosixPath("a/x") and tag() == (uuid.UUID(int=5), array.array("i", [1, 2]))

assert isinstance(Vector(1, 2), Vector) and not isinstance(Card(1), Vector) and not isinstance(3, Vector)

log = Log()
with log as inner:
    inner.lines
assert log.lines == ["in", "out"]

assert depth(900) == 900

assert named(self=1, operation=2, target=3) == (1, 2, 3) and apply(lambda **kwargs: kwargs, target=1) == {"target": 1}

assert vars(Card(1)) == {"rank": 1, "suit": "clubs"} and adder.__name__ == "adder"

assert math.isclose(root(2), 1.41421356, rel_tol=1e-6)

assert hasattr(Card(1), "suit") and not hasattr(Card(1), "colour") and getattr(Card(1), "colour", 5) == 5

assert make("lambda *a: [*a]", 1, 2) == [1, 2] and make("set", "ab") == {"a", "b"}

assert [later_on() for _ in range(3)] == [45] * 3
""".strip().split("\n\n")

# Writes to the tester what `guest_program` would not; its functions are called by tests that must fail.
FORGING_PROGRAM = """
import io, pickle, sys

def forged(content):
    peer = sys.modules["__main__"].program
    peer.channel.write(len(content).to_bytes(8, "big") + content)
    return 0

def step(*steps):
    return forged(b"\\x80\\x04" + b"".join(steps) + b".")

def text(value):
    return b"\\x8c" + bytes([len(value)]) + value.encode()

def liar():
    number = sys.modules["__main__"].program.number(lambda *_: True)
    return text("mine") + b"K" + bytes([number]) + b"\\x86Q"

def kind(name):
    return text("class") + text(name) + b"\\x86Q"

def counts(s):  # Counter.__eq__ = Yes, then a Counter
    state = b"N}" + text("__eq__") + liar() + b"s\\x86b"
    return step(text("value"), kind("collections.Counter"), state, b")R]\\x87") or True

def number(x):  # type("X", (int,), {"__eq__": Yes})(8)
    made = kind("builtins.type") + text("X") + kind("builtins.int") + b"\\x85}" + text("__eq__") + liar() + b"s\\x87R"
    return step(text("value"), made, b"K\\x08\\x85R]\\x87") or True

class Named(tuple):  # what a message names
    pass

class Sender(pickle.Pickler):
    def persistent_id(self, value):
        return tuple(value) if type(value) is Named else None

def error(x):  # an instance of type("E", (Exception,), {"__eq__": Yes})
    yes = Named(("mine", sys.modules["__main__"].program.number(lambda *_: True)))
    base = Named(("class", "builtins.Exception"))
    made = Named(("standard", "builtins.type", ("E", (base,), {"__eq__": yes}), [], []))
    content = io.BytesIO()
    Sender(content, 4).dump(("value", Named(("exception", made, (), {}, "")), []))
    return forged(content.getvalue()) or True

def shell(x):
    return forged(b"cos\\nsystem\\n(S'true'\\ntR.")

def judged(g, x):
    for name in ("__globals__", "__code__", "__closure__", "__init__", "__class__", "gi_frame", "func_globals"):
        try:
            getattr(g, name)["program"].gone = False
        except Exception:
            pass
    return x

def hidden(thing):
    return thing._answer

def looked(thing):
    return sys.modules["__main__"].program.ask("data", thing)[1][1]["_answer"]

def evaluated(g, x):
    peer = sys.modules["__main__"].program
    return peer.ask("call", eval, "1 + x", {"x": x})

def flood(x):
    return forged((10 ** 12).to_bytes(8, "big"))
"""
