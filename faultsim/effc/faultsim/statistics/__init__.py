"""Statistics of campaigns: how many faults, which interval, when to stop."""

from __future__ import annotations

from effc.faultsim.statistics.allocation import Counts, images_per_injection, neyman, planning_deviations, variance_parts
from effc.faultsim.statistics.bounds import Floats, Moments
from effc.faultsim.statistics.estimate import Estimate
from effc.faultsim.statistics.intervals import (
    clopper_pearson,
    mean_interval,
    percentile,
    ratio_interval,
    student_interval,
    upper_bound,
    wilson,
    without_replacement,
)
from effc.faultsim.statistics.sample_size import sample_size, uniform_needed
from effc.faultsim.statistics.sequential import Decision, Plan, next_stage, run_stages, spending
from effc.faultsim.statistics.simulation import Coverage, StratumTruth, simulate_campaigns, true_share
from effc.faultsim.statistics.stratified import Stratum, stratified

__all__ = [
    "Counts",
    "Coverage",
    "Decision",
    "Estimate",
    "Floats",
    "Moments",
    "Plan",
    "Stratum",
    "StratumTruth",
    "clopper_pearson",
    "images_per_injection",
    "mean_interval",
    "next_stage",
    "neyman",
    "percentile",
    "planning_deviations",
    "ratio_interval",
    "run_stages",
    "sample_size",
    "simulate_campaigns",
    "spending",
    "stratified",
    "student_interval",
    "true_share",
    "uniform_needed",
    "upper_bound",
    "variance_parts",
    "wilson",
    "without_replacement",
]
