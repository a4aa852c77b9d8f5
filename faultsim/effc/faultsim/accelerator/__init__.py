"""The MAC-array accelerator, bit for bit: what it computes (dense, skipping zeros, or changes alone), and what faults in its state do.

    integers = for_array(program, calibration)                       # int8 operands, int32 sums; imports of int8 models have theirs
    subject = ArraySubject(integers, "model.onnx", description)
    run_campaign(subject, data, spec_of({"where": "pe-sum", "effect": "stuck-at-1", "faults": 385}), Path("out"))

How long it takes is the business of `effc.cost.accelerator`; the description (rows, columns, dataflow, memories) is the same one.
"""

from effc.faultsim.accelerator.functional import MODES, run_on_array
from effc.faultsim.accelerator.gemms import gemms_of
from effc.faultsim.accelerator.mapping import Mapping
from effc.faultsim.accelerator.quantised import for_array, has_integer_products
from effc.faultsim.accelerator.subject import ArraySubject

__all__ = ["MODES", "ArraySubject", "Mapping", "for_array", "gemms_of", "has_integer_products", "run_on_array"]
