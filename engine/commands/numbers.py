"""Numbers as they are typed on the command line, read strictly: for argparse's `type`."""

from __future__ import annotations

import argparse
import re


def count(text: str) -> int:
    """A whole number from 1 on."""
    return whole(text, 1)


def rounds(text: str) -> int:
    """A whole number from 8 on: fewer rounds have no interval."""
    return whole(text, 8)


def whole(text: str, low: int) -> int:
    """A whole number from `low` on."""
    if not re.fullmatch(r"[0-9]{1,12}", text) or int(text) < low:
        raise argparse.ArgumentTypeError(f"must be a whole number from {low} on, got {text!r}")
    return int(text)


def share(text: str) -> float:
    """A number above 0 and below 1."""
    found = _number(text)
    if not 0 < found < 1:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and below 1, got {text!r}")
    return found


def seconds(text: str) -> float:
    """A number of seconds above 0."""
    found = _number(text)
    if not 0 < found < 1e9:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, got {text!r}")
    return found


def amount(text: str) -> float:
    """A number from 0 on."""
    found = _number(text)
    if not 0 <= found < 1e12:
        raise argparse.ArgumentTypeError(f"must be a number from 0 on, got {text!r}")
    return found


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0
