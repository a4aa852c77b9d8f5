"""Reports: plain data in, one self-contained HTML page out; no script, no network, light and dark."""

from effc.report.graphs import graphs_of
from effc.report.model import Block, Graph, Layer, Memory, Node, PassReport, Quality, Range, Report
from effc.report.page import render

__all__ = [
    "Block",
    "Graph",
    "Layer",
    "Memory",
    "Node",
    "PassReport",
    "Quality",
    "Range",
    "Report",
    "graphs_of",
    "render",
]
