"""A budget check as JUnit XML, which every CI shows; no torch."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from engine.records import BudgetCheck

# What XML 1.0 has no way to write.
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(check: BudgetCheck, *, strict: bool = False) -> str:
    """One test case for each budget: a failure where it is broken, skipped where it is unsure."""
    failed = [each for each in check.outcomes if _fails(each.word, strict=strict)]
    unsure = [each for each in check.outcomes if each.word == "UNSURE" and each not in failed]
    suite = ElementTree.Element(
        "testsuite", name=_plain(f"workbench check {check.model}"), tests=str(len(check.outcomes)),
        failures=str(len(failed)), errors="0", skipped=str(len(unsure)),
        time=f"{check.seconds:.3f}",
    )  # fmt: skip
    for each in check.outcomes:
        case = ElementTree.SubElement(
            suite, "testcase", classname=_plain(f"{check.model}.{check.recipe}"),
            name=_plain(each.budget.name),
        )  # fmt: skip
        if each in failed:
            ElementTree.SubElement(case, "failure", message=_plain(each.words), type=each.word)
        elif each in unsure:
            ElementTree.SubElement(case, "skipped", message=_plain(each.words))
        else:
            ElementTree.SubElement(case, "system-out").text = _plain(each.words)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _fails(word: str, *, strict: bool) -> bool:
    return word in ("BROKEN", "NOT MEASURED") or (strict and word == "UNSURE")


def _plain(text: str) -> str:
    return _FORBIDDEN.sub("?", text)
