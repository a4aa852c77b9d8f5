"""Fault simulation: bit flips in a network's numbers, and what they do to its predictions.

from effc.data import load_dataset
from effc.faultsim import CampaignSpec, ProgramSubject, run_campaign, summarise
from effc.frontends import load_program

program = load_program("model.onnx")
data = load_dataset("test.npz", program.interface.inputs)
campaign = run_campaign(ProgramSubject(program, "model.onnx"), data, CampaignSpec(rates=(1e-6,), draws=200), Path("out"))
print(summarise(campaign).groups[0].accuracy)
"""

from effc.faultsim.campaign import Campaign, Shard, read_campaign, run_campaign
from effc.faultsim.comparing import Comparison, PairedDifference, compare, paired
from effc.faultsim.gates import Requirement, Verdict, judge, parse_requirements, raise_for
from effc.faultsim.rate_accuracy import rate_accuracy
from effc.faultsim.replay import Replay
from effc.faultsim.spec import CampaignSpec, load_spec, spec_of
from effc.faultsim.subject import ProgramSubject
from effc.faultsim.summarise import fault_rows, summarise
from effc.faultsim.summary import Summary

__all__ = [
    "Campaign",
    "CampaignSpec",
    "Comparison",
    "PairedDifference",
    "ProgramSubject",
    "Replay",
    "Requirement",
    "Shard",
    "Summary",
    "Verdict",
    "compare",
    "fault_rows",
    "judge",
    "load_spec",
    "paired",
    "parse_requirements",
    "raise_for",
    "rate_accuracy",
    "read_campaign",
    "run_campaign",
    "spec_of",
    "summarise",
]
