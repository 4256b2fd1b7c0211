"""Verdicts as JUnit XML, which CI servers read: a suite for each, with one test case for each check of the gate.

A check that failed is a `failure`; one that could not be decided is an `error`, or what `--inconclusive` says.
"""

from xml.etree import ElementTree

from niah.report.labels import printable
from niah.report.told import notes
from niah.report.verdict import Check, Verdict

SUITE = "niah compare"


def junit(*verdicts: Verdict) -> str:
    """The XML, with what people want to know behind the test cases in `system-out`."""
    root = ElementTree.Element("testsuites")
    root.extend(map(_suite, verdicts))
    ElementTree.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _suite(verdict: Verdict) -> ElementTree.Element:
    kinds = [_kind(check, verdict) for check in verdict.checks]
    suite = ElementTree.Element(
        "testsuite",
        name=SUITE,
        tests=str(len(kinds)),
        failures=str(kinds.count("failure")),
        errors=str(kinds.count("error")),
        skipped=str(kinds.count("skipped")),
        time="0",
    )
    for check, kind in zip(verdict.checks, kinds, strict=True):
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"niah.{printable(verdict.comparison.candidate.model)}", name=check.name, time="0"
        )
        if kind:
            attributes = {"message": printable(check.told), **({} if kind == "skipped" else {"type": check.state})}
            ElementTree.SubElement(case, kind, attributes)
    told = [verdict.headline, *notes(verdict.comparison)]
    ElementTree.SubElement(suite, "system-out").text = "\n".join(map(printable, told))
    return suite


def _kind(check: Check, verdict: Verdict) -> str:
    """What stands in the test case of a check; "" for nothing, a pass."""
    counted = verdict.counts_as(check)
    if counted == "pass":
        return "" if check.state == "pass" else "skipped"
    return "failure" if counted == "fail" else "error"
