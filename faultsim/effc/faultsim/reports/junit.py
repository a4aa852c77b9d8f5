"""`junit.xml`: verdicts as test cases, for CI systems that show JUnit reports (the xunit2 form that Jenkins, GitLab and others read).

The suite `requirements` has a test case for each requirement, and one that says whether the campaign is complete:
- FAIL is a `failure`: the budget is missed.
- INCONCLUSIVE is an `error`, as is an incomplete campaign: the test could not be decided. Not `skipped`, because systems show a skipped
  test green or grey and let the job pass, while the command itself ends with 7; an undecided budget must not look like one that was kept.

The suite `measurements` has a test case for each group with its numbers. They state no claim: they pass because they were measured, and
those without an injection are `skipped`. There are no times: a report's bytes depend on its results alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from effc.errors import counted
from effc.faultsim.gates import Verdict
from effc.faultsim.reports.definitions import LABELS
from effc.faultsim.reports.texts import bare, visible, with_interval
from effc.faultsim.summary import GroupSummary, Summary

__all__ = ["junit_report"]

_CLASS = "effc.faultsim"


def junit_report(summary: Summary, verdicts: Sequence[Verdict]) -> bytes:
    """The document in UTF-8."""
    requirements = [_complete(summary), *(_requirement(verdict) for verdict in verdicts)]
    measurements = [_group(group) for group in summary.groups]
    root = ET.Element("testsuites", name=visible(f"effc faultsim {summary.model}"))
    suites = [_suite("requirements", requirements, summary), _suite("measurements", measurements, None)]
    for key in ("tests", "failures", "errors"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in suites)))
    root.extend(suites)
    ET.indent(root)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode").encode() + b"\n"


def _suite(name: str, cases: Sequence[ET.Element], summary: Summary | None) -> ET.Element:
    def count(kind: str) -> str:
        return str(sum(case.find(kind) is not None for case in cases))

    suite = ET.Element(
        "testsuite", name=name, tests=str(len(cases)), failures=count("failure"), errors=count("error"), skipped=count("skipped")
    )
    if summary is not None:
        properties = ET.SubElement(suite, "properties")
        for key in ("model", "view", "effect", "duration", "population", "samples"):
            ET.SubElement(properties, "property", name=key, value=visible(str(getattr(summary, key))))
    suite.extend(cases)
    return suite


def _case(suite: str, name: str, text: str = "") -> ET.Element:
    case = ET.Element("testcase", classname=f"{_CLASS}.{suite}", name=visible(name))
    if text:
        ET.SubElement(case, "system-out").text = text
    return case


def _requirement(verdict: Verdict) -> ET.Element:
    case = _case(
        "requirements", str(verdict.requirement), f"{verdict.requirement.subject}: {bare(verdict.estimate)}; {visible(verdict.why)}"
    )
    if verdict.outcome != "PASS":
        kind = "failure" if verdict.outcome == "FAIL" else "error"
        ET.SubElement(case, kind, type=verdict.outcome, message=visible(verdict.why)).text = visible(verdict.why)
    return case


def _complete(summary: Summary) -> ET.Element:
    made = f"{summary.done:,} of {counted(summary.planned, 'planned injection')} made"
    case = _case("requirements", "the campaign is complete", made)
    if not summary.complete:
        ET.SubElement(case, "error", type="INCOMPLETE", message=made).text = made
    return case


def _group(group: GroupSummary) -> ET.Element:
    lines = [f"{counted(group.injections, 'injection')}, {group.empty:,} of them without a fault; {counted(group.inferences, 'inference')}"]
    if group.accuracy is not None:
        lines.append(f"accuracy: {with_interval(group.accuracy)}")
    lines += [f"{LABELS.get(name, visible(name))}: {with_interval(estimate)}" for name, estimate in group.shares.items()]
    case = _case("measurements", group.name, "\n".join(lines))
    if not group.injections:
        ET.SubElement(case, "skipped", message="no injection was made")
    return case
