"""What `effc verify` found out about an artifact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from effc.compiler.c_self_tests import SelfTest
from effc.errors import EffcError
from effc.passes import parse_passes
from effc.runtime import Verification

__all__ = ["Finding", "Verdict", "is_exact"]


@dataclass(frozen=True)
class Finding:
    """One comparison.

    Attributes:
        what: the two sides, the inputs, and the unit where it is not the output's largest magnitude, in words.
        verification: the differences.
        samples: how many were compared.
        top1: share of samples whose largest output is at the same place; None where there is no such output.
        must_hold: a difference here is a bug, not the wish of a lossy pass.
    """

    what: str
    verification: Verification
    samples: int
    top1: float | None
    must_hold: bool

    @property
    def passed(self) -> bool:
        return self.verification.passed or not self.must_hold

    def as_json(self) -> dict[str, Any]:
        fields = {"what": self.what, "samples": self.samples, "top1_agreement": self.top1, "must_hold": self.must_hold}
        return {**fields, **self.verification.as_json()}


@dataclass(frozen=True)
class Verdict:
    """All comparisons.

    Attributes:
        findings: one for every pair of sides and kind of inputs.
        diverging: the first pass after which golden outputs left the source's; empty where they did not.
        lossy: specs of the passes that may change outputs.
        notes: what could not be compared, and why.
        own_source: whether the source that was given is the file that was compiled; True without one.
        self_tests: of C sources, those that did not run among them; of code for another processor.
    """

    findings: tuple[Finding, ...]
    diverging: str
    lossy: tuple[str, ...]
    notes: tuple[str, ...] = ()
    own_source: bool = True
    self_tests: tuple[SelfTest, ...] = ()

    @property
    def passed(self) -> bool:
        return all(finding.passed for finding in self.findings)

    @property
    def extent(self) -> str:
        """Where a self-test ran, of C sources or of code for another processor, and where it did not; empty where the code was called."""
        ran = [f"on {one.where} ({one.said})" for one in self.self_tests if one.passed]
        missed = [f"on {one.where}" for one in self.self_tests if one.passed is None]
        parts = [f"the self-test passed {' and '.join(ran)}" if ran else "", f"it did NOT RUN {' and '.join(missed)}" if missed else ""]
        return ", ".join(part for part in parts if part)

    def as_json(self) -> dict[str, Any]:
        return {
            "passed": self.passed,
            "first_diverging_pass": self.diverging or None,
            "lossy_passes": list(self.lossy),
            "findings": [finding.as_json() for finding in self.findings],
            "notes": list(self.notes),
            "own_source": self.own_source,
            "self_tests": [one.as_json() for one in self.self_tests],
        }


def is_exact(spec: str) -> bool:
    """Unknown passes (of a plug-in that is not installed here) count as lossy: nothing is known about them."""
    try:
        return all(one.exact for one in parse_passes(spec))
    except EffcError:
        return False
