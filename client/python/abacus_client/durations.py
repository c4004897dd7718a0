"""Durations: a number with its unit, such as "50ms" or "2.5s", as everywhere in Abacus (base/duration.h)."""

from __future__ import annotations

import math
import numbers
import re
from datetime import timedelta
from fractions import Fraction

from .errors import AbacusError

UNITS_NS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9}
LONGEST_QOS_US = 3600 * 10**6  # an hour, as in the configuration

_TEXT = re.compile(r"([0-9]+(?:\.[0-9]+)?) *(ns|us|ms|s|min|h)")

Duration = float | str | timedelta


def parse_duration(text: str) -> int:
    """Nanoseconds, rounded. Raises ValueError."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no duration; write a number and one of {', '.join(UNITS_NS)}, such as '50ms'")
    if len(text) > 40 or (nanoseconds := int(Fraction(match[1]) * UNITS_NS[match[2]] + Fraction(1, 2))) >= 2**63:
        raise ValueError(f"{text[:40]!r} is longer than 292 years")
    return nanoseconds


def timeout_seconds(value: Duration, field: str) -> float:
    """A time limit: seconds, a text with a unit or a timedelta. Infinity is no limit."""
    seconds = _in_unit(value, 10**9, field, "seconds")
    if not seconds > 0:
        raise AbacusError("INVALID_ARGUMENT", f"{field}: a time limit is longer than 0s, not {seconds:g}s", field)
    return seconds


def qos_microseconds(qos: str | timedelta | None, qos_us: Duration) -> int:
    """A latency target; 0 stands for the service's own, which only a bare 0 asks for."""
    if qos is None:
        field, value = "qos_us", qos_us
    elif _is_zero(qos_us):
        field, value = "qos", qos
        if not isinstance(qos, (str, timedelta)):
            raise AbacusError("INVALID_ARGUMENT", f"qos {qos!r} has no unit; write a text such as '50ms'", field)
    else:
        raise AbacusError("INVALID_ARGUMENT", "qos and qos_us are both given; give one", "qos_us")
    if _is_zero(value):
        return 0
    microseconds = _in_unit(value, 10**3, field, "microseconds")
    if not 1 <= microseconds <= LONGEST_QOS_US:
        raise AbacusError(
            "INVALID_ARGUMENT",
            f"{field}: a latency target is from 1us to 1h ({LONGEST_QOS_US}us), not {microseconds:g}us",
            field,
        )
    return round(microseconds)


def _is_zero(value: object) -> bool:
    value = _scalar(value)
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and value == 0


def _scalar(value: object) -> object:
    """Numbers of numpy and torch, arrays without a dimension among them, as Python's."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def _in_unit(value: object, unit_ns: int, field: str, unit: str) -> float:
    value = _scalar(value)
    if isinstance(value, str):
        try:
            nanoseconds = parse_duration(value)
        except ValueError as error:
            raise AbacusError("INVALID_ARGUMENT", f"{field}: {error}", field) from None
        return nanoseconds / unit_ns
    if isinstance(value, timedelta):
        return value / timedelta(microseconds=1) * 1000 / unit_ns
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or value != value:
        raise AbacusError(
            "INVALID_ARGUMENT", f"{field} {value!r} is neither a number of {unit} nor a text such as '50ms'", field
        )
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf
