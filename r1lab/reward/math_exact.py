"""Exact equality of what math-verify reads: numbers, formulas, sets, intervals, relations and matrices of SymPy.

There is no tolerance. Two numbers are equal where they are the same rational number, or agree in more digits than
different ones of their size can; two formulas where their difference simplifies to 0. What is too large to be worked
out equals only what is written the same way.
"""

from collections.abc import Sequence
from math import log2
from typing import Any

import sympy
from sympy import Basic, Eq, FiniteSet, Interval, MatrixBase, Rational, Set, Symbol, Tuple, Union
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational
from sympy.logic.boolalg import And

# Bits of the largest number that is worked out, and decimal digits that are compared beyond its own.
_MAX_BITS = 20_000
_DIGITS = 60
_POINTS = (Rational(37, 23), Rational(-29, 31), Rational(113, 17))


def equal(right: Any, given: Any) -> bool:
    """Whether two objects that were read are the same mathematics."""
    right, given = _as_matrix(right), _as_matrix(given)
    if isinstance(right, MatrixBase) or isinstance(given, MatrixBase):
        if not (isinstance(right, MatrixBase) and isinstance(given, MatrixBase)) or right.shape != given.shape:
            return False
        return all(equal(a, b) for a, b in zip(right.flat(), given.flat(), strict=True))
    if right == given:
        return not right.has(sympy.nan, sympy.zoo)
    if _bits(right) > _MAX_BITS or _bits(given) > _MAX_BITS:
        return False
    if _is_assignment(right) and not _is_relation(given):
        return equal(right.rhs, given)
    if _is_assignment(given) and not _is_relation(right):
        return equal(right, given.rhs)
    if _is_relation(right) and _is_relation(given):
        return _equal_relations(right, given)
    if isinstance(right, (Set, Tuple)) or isinstance(given, (Set, Tuple)):
        return _equal_sets(_as_set(right), _as_set(given))
    if _is_relation(right) or _is_relation(given):
        return False
    return _equal_scalars(right, given)


def _as_matrix(value: Any) -> Any:
    return value.doit() if isinstance(value, sympy.MatrixExpr) else value


def _is_relation(value: Any) -> bool:
    return isinstance(value, Relational) or (isinstance(value, And) and all(map(_is_relation, value.args)))


def _is_assignment(value: Any) -> bool:
    return isinstance(value, Eq) and isinstance(value.lhs, (Symbol, AppliedUndef))


def _equal_relations(right: Basic, given: Basic) -> bool:
    if isinstance(right, And) or isinstance(given, And):
        parts, others = (list(x.args) if isinstance(x, And) else [x] for x in (right, given))
        return _matched(parts, others)
    for a, b in ((right, given), (right, given.reversed)):
        if a.rel_op != b.rel_op:
            continue
        if equal(a.lhs, b.lhs) and equal(a.rhs, b.rhs):
            return True
        left, other = a.lhs - a.rhs, b.lhs - b.rhs
        if isinstance(left, Set) or isinstance(other, Set) or left.free_symbols != other.free_symbols:
            continue
        # Each a multiple of the other; of inequalities the factor has to be positive.
        factor = sympy.simplify(left / other)
        if factor.is_number and factor.is_nonzero and (a.rel_op in ("==", "!=") or factor.is_positive):
            return True
    return False


def _equal_sets(right: Basic, given: Basic) -> bool:
    if isinstance(right, Interval) and isinstance(given, Interval):
        same = right.left_open == given.left_open and right.right_open == given.right_open
        return same and equal(right.start, given.start) and equal(right.end, given.end)
    # (1,2) is read as an interval, which 1, 2 may stand for as a pair.
    right, given = _as_pair(right, given), _as_pair(given, right)
    if isinstance(right, Tuple) or isinstance(given, Tuple):
        parts = [_in_order(x) for x in (right, given)]
        if None in parts or len(parts[0]) != len(parts[1]):
            return False
        return all(equal(a, b) for a, b in zip(*parts, strict=True))
    if isinstance(right, FiniteSet) and isinstance(given, FiniteSet):
        return _matched(right.args, given.args)
    if isinstance(right, Union) and isinstance(given, Union):
        return _matched(right.args, given.args)
    try:
        return bool(right.symmetric_difference(given).is_empty)
    except (AttributeError, TypeError, NotImplementedError):
        return False


def _as_set(value: Any) -> Basic:
    """A set or tuple as it is, a relation of one unknown by its solutions, anything else as a set of itself."""
    if isinstance(value, FiniteSet) and value.args and all(_is_inequality(part) for part in value.args):
        return Union(*map(_as_set, value.args))
    if isinstance(value, (Set, Tuple)):
        return value
    if _is_inequality(value) and len(value.free_symbols) == 1:
        return value.as_set()
    return FiniteSet(value, evaluate=False)


def _is_inequality(value: Any) -> bool:
    return _is_relation(value) and not isinstance(value, Eq)


def _as_pair(value: Basic, other: Basic) -> Basic:
    pair = (
        isinstance(value, Interval) and value.left_open and value.right_open and isinstance(other, (FiniteSet, Tuple))
    )
    return Tuple(value.start, value.end) if pair else value


def _in_order(value: Basic) -> Sequence[Basic] | None:
    if isinstance(value, Tuple):
        return value.args
    return getattr(value, "_unsorted_args", value.args) if isinstance(value, FiniteSet) else None


def _matched(parts: Sequence[Basic], others: Sequence[Basic]) -> bool:
    """Whether two collections hold the same, in any order."""
    left = list(others)
    for part in parts:
        found = next((other for other in left if equal(part, other)), None)
        if found is None:
            return False
        left.remove(found)
    return not left


def _equal_scalars(right: Basic, given: Basic) -> bool:
    # Of two lists both are sets; here one number has to be one number.
    digits = _DIGITS + int((_bits(right) + _bits(given)) * 0.31)
    right, given = right.doit(), given.doit()
    if right.is_Rational and given.is_Rational:
        return right == given
    if right.free_symbols != given.free_symbols and not (right.free_symbols and given.free_symbols):
        return bool(sympy.simplify(right - given) == 0)
    if not right.free_symbols:
        verdict = _equal_numbers(right, given, digits)
        return verdict if verdict is not None else bool(sympy.simplify(right - given) == 0)
    symbols = sorted(right.free_symbols | given.free_symbols, key=str)
    for shift in range(len(_POINTS)):
        at = {symbol: _POINTS[(place + shift) % len(_POINTS)] + place for place, symbol in enumerate(symbols)}
        if _equal_numbers(right.subs(at), given.subs(at), digits) is False:
            return False
    return sympy.expand(right - given) == 0 or bool(sympy.simplify(right - given) == 0)


def _equal_numbers(right: Basic, given: Basic, digits: int) -> bool | None:
    """None where both are too close to 0 to tell, or cannot be worked out."""
    a, b = (sympy.N(x, digits) for x in (right, given))
    if not (a.is_number and b.is_number) or any(x.has(sympy.nan, sympy.zoo, sympy.oo) for x in (a, b)):
        return None
    size = max(abs(a), abs(b))
    if not size or size < sympy.Float(10) ** -digits:
        return None
    return bool(abs(a - b) < size * sympy.Float(10) ** (10 - digits))


def _bits(value: Any) -> float:
    """An upper bound of the bits in a number once it is worked out; of a formula as if its unknowns were 2."""
    if not isinstance(value, Basic):
        return 0
    if value.is_Rational:
        return abs(value.p).bit_length() + value.q.bit_length() if value.is_finite else 1
    if not value.args:
        return 2
    parts = [_bits(part) for part in value.args]
    if isinstance(value, (sympy.Pow, sympy.exp)):
        base, exponent = (2.0, parts[0]) if isinstance(value, sympy.exp) else parts
        return base * 2.0 ** min(exponent, 1000) if value.args[-1].is_number else base + exponent
    if isinstance(value, (sympy.factorial, sympy.binomial, sympy.gamma)):
        return parts[0] * 2.0 ** min(parts[0], 1000) if value.args[0].is_number else sum(parts)
    return sum(parts) + log2(1 + len(parts))
