"""The intermediate representation: programs, their facts, edits, verification, text and storage."""

from effc.ir.edit import Edit, keyword_arguments
from effc.ir.facts import Facts, Histogram, ValueFacts
from effc.ir.interface import BATCH, Batch, Interface, State, Value
from effc.ir.ops import OPS, Cost, OpDef
from effc.ir.program import Program, Provenance, set_source, source_of
from effc.ir.streaming import Clip, run_clip
from effc.ir.verify import check, is_known, verify

__all__ = [
    "BATCH",
    "OPS",
    "Batch",
    "Clip",
    "Cost",
    "Edit",
    "Facts",
    "Histogram",
    "Interface",
    "OpDef",
    "Program",
    "Provenance",
    "State",
    "Value",
    "ValueFacts",
    "check",
    "is_known",
    "keyword_arguments",
    "run_clip",
    "set_source",
    "source_of",
    "verify",
]
