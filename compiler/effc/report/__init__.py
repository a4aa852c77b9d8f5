"""Reports: plain data in, one self-contained HTML page out; no script, no network, light and dark."""

from effc.report.estimate import EstimateLayer, EstimateReport, span_text
from effc.report.estimate_page import render_estimate
from effc.report.graphs import graphs_of
from effc.report.model import Block, Graph, Layer, Memory, Node, PassReport, Quality, Range, Report
from effc.report.page import render
from effc.report.sparsity import Magnitudes, Prediction, QualityCurve, QualityPoint, Spread
from effc.report.stream import StreamLayer, StreamReport
from effc.report.stream_page import render_stream

__all__ = [
    "Block",
    "EstimateLayer",
    "EstimateReport",
    "Graph",
    "Layer",
    "Magnitudes",
    "Memory",
    "Node",
    "PassReport",
    "Prediction",
    "Quality",
    "QualityCurve",
    "QualityPoint",
    "Range",
    "Report",
    "Spread",
    "StreamLayer",
    "StreamReport",
    "graphs_of",
    "render",
    "render_estimate",
    "render_stream",
    "span_text",
]
