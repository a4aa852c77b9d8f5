"""`effc faultsim merge`."""

from __future__ import annotations

from pathlib import Path

import click

from effc.cli.console import common_options

__all__ = ["command"]

_INCONCLUSIVE = 7


@click.command("merge")
@click.argument("shards", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The merged campaign's folder.")
@click.option("--require", multiple=True, metavar="BUDGET", help="'accuracy@1e-6 >= 0.85', 'sdc1 <= 0.02'; judged by the interval.")
@common_options
def command(shards: tuple[Path, ...], output: Path, require: tuple[str, ...], as_json: bool) -> int:
    """Put the SHARDS of a campaign (folders of `effc faultsim --shard I/N`) together, judge it, and write its reports.

    One folder alone is a campaign, too: its reports are written again. Requirements are judged here, not in the shards; exit code 7 where a
    shard is missing.
    """
    from effc.cli.faultsim_results import show
    from effc.faultsim.campaign import read_campaign
    from effc.faultsim.gates import check_requirements, parse_requirements
    from effc.faultsim.merging import merge

    requirements = parse_requirements(require)
    merge(shards, output)
    campaign = read_campaign(output)
    spec = campaign.design.spec
    has_classes = spec.tolerance is None
    check_requirements(requirements, spec.rates, bool(campaign.identity["data"]["labels"]) and has_classes, has_classes)
    code = show(campaign, requirements, output, seconds=None, as_json=as_json)
    return code or (0 if campaign.complete else _INCONCLUSIVE)  # a missing shard must not look like a finished campaign
