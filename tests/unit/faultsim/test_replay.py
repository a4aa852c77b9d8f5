"""Replayed lists: what their rows mean, which are refused, and that they give what the campaign gave that wrote them."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from effc.errors import ConfigError, InputRejectedError
from effc.faultsim.campaign import Campaign, read_campaign, run_campaign
from effc.faultsim.replay import Replay
from effc.faultsim.reports.csv_report import ListedFault, csv_chunks
from effc.faultsim.sites import find_sites
from effc.faultsim.spec import spec_of
from effc.faultsim.store import LIST
from effc.faultsim.subject import ProgramSubject
from effc.faultsim.summarise import fault_rows
from tests.unit.faultsim.networks import flat, program, run, samples


def test_a_slice_of_an_exhaustive_campaign_replayed(tmp_path: Path, exhaustive: tuple[Path, Campaign]) -> None:
    """The list that the campaign itself wrote: the same outcomes, under the same numbers."""
    rows = [row for row in fault_rows(exhaustive[1]) if row.injection % 7 == 3]
    (tmp_path / "list.csv").write_bytes(b"".join(csv_chunks(rows)))
    again = run(tmp_path / "again", {"where": ["weight"]}, replay=tmp_path / "list.csv")
    whole = flat(exhaustive[1])
    assert again.numbers == tuple(range(3, 1296, 7))
    assert [record[2:] for record in flat(again)] == [whole[number][2:] for number in again.numbers]
    assert list(fault_rows(again)) == rows
    assert list(fault_rows(read_campaign(tmp_path / "again"))) == rows


def replayed(tmp_path: Path, text: str, where: tuple[str, ...] = ("parameters",), **values: Any) -> list[list[tuple[str, int, int]]]:
    """The places of each injection of a list on the small residual network."""
    path = tmp_path / "list.csv"
    path.write_text("Injection,Layer,TensorIndex,Bit\n" + text)
    sites = find_sites(program("residual"), where=where, **values)
    return [
        [(sites[site].name, element, bit) for site, element, bit in zip(*(column.tolist() for column in one), strict=True)]
        for one in Replay.read(path).places(sites)
    ]


def test_a_list_names_modules_and_tensors(tmp_path: Path) -> None:
    found = replayed(
        tmp_path,
        '7,stem,"(3, 1, 2, 0)",30\n'
        "2,norm.running_var,[1],23\n"
        '7,head,"(4, 15)",31\n'
        "5,stem.weight,71,0\n"
        '7,twice.bias,"(2,)",31\n'
        '7,twice:conv2d_2,"(0, 3, 3)",29\n',
        where=("parameters", "activation"),
    )
    assert found == [
        [("stem.weight", 69, 30), ("twice.bias", 2, 31), ("head.weight", 79, 31), ("twice:conv2d_2", 15, 29)],
        [("norm.running_var", 1, 23)],
        [("stem.weight", 71, 0)],
    ]


def test_a_list_of_weights_and_values_means_what_was_tried(tmp_path: Path) -> None:
    """Layer `twice` has a weight and makes two values, `head` a weight and one: each row must come back as what it was."""
    subject = ProgramSubject(program("residual"), "residual.pt2")
    values = {"where": ["weight", "activation"], "layers": ["twice", "head"], "bits": "30", "faults": 150}
    first = run_campaign(subject, samples(), spec_of(values), tmp_path / "first")
    assert {row.tensor for row in fault_rows(first)} == {"twice.weight", "head.weight", "twice:conv2d_1", "twice:conv2d_2", "head:linear"}
    path = tmp_path / "list.csv"
    path.write_bytes(b"".join(csv_chunks(fault_rows(first))))
    spec = spec_of({"where": ["parameters", "activation"], "faults_csv": path})
    again = run_campaign(subject, samples(), spec, tmp_path / "again", replay=Replay.read(path))
    assert [record[2:] for record in flat(again)] == [record[2:] for record in flat(first)]


def test_all_rows_that_mean_nothing_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        replayed(
            tmp_path,
            '0,layer9,"(0, 0)",3\n1,stem,"(9, 0, 0, 0)",3\n2,stem,"(0, 0)",3\n3,stem,5,32\n'
            "4,stem,5,31\n5,stem,72,3\n6,stem,5,0\n6,stem.weight,5,0\n",
        )
    assert [(problem.where, problem.why.split(";")[0]) for problem in refused.value.problems] == [
        ("line 2", "no tensor and no layer with a weight has this name"),
        ("line 3", "stem.weight has shape [4, 2, 3, 3]"),
        ("line 4", "stem.weight has shape [4, 2, 3, 3]"),
        ("line 5", "stem.weight has bits 0 to 31"),
        ("line 7", "stem.weight has 72 elements"),
        ("line 9", "is twice in one injection"),
    ]
    many = "".join(f"{number},layer9,0,3\n" for number in range(25))
    with pytest.raises(ConfigError, match="5 more") as refused:
        replayed(tmp_path, many)
    assert len(refused.value.problems) == 20


def test_a_list_is_kept_and_must_stay_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("Injection,Layer,TensorIndex,Bit\n0,stem,5,30\n1,stem,6,30\n")
    out = tmp_path / "out"
    run(out, {}, replay=path)
    assert (out / LIST).read_bytes() == path.read_bytes()
    path.write_text("Injection,Layer,TensorIndex,Bit\n0,stem,5,30\n1,stem,7,30\n")
    with pytest.raises(ConfigError, match="another campaign") as refused:
        run(out, {}, replay=path)
    assert [problem.where for problem in refused.value.problems] == ["list_sha256"]
    (out / LIST).write_bytes(path.read_bytes())
    with pytest.raises(InputRejectedError, match="was changed"):
        read_campaign(out)


def test_bursts_of_a_list_stay_in_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("Injection,Layer,TensorIndex,Bit\n0,stem,5,29\n1,stem,5,30\n")
    with pytest.raises(ConfigError, match="burst from bit 30 to 32"):
        run(tmp_path / "out", {"effect": "burst", "burst": 3}, replay=path)
    path.write_text("Injection,Layer,TensorIndex,Bit\n0,stem,5,29\n")
    campaign = run(tmp_path / "out", {"effect": "burst", "burst": 3}, replay=path)
    assert campaign.design.draw(0, 0).bits.tolist() == [29, 30, 31]
    assert flat(campaign)[0].flips == 3


def test_a_list_comes_through_a_pipe(tmp_path: Path) -> None:
    """`--faults-csv <(...)` can be read once."""
    pipe, content = tmp_path / "pipe", b"Injection,Layer,TensorIndex,Bit\n" + b"".join(b"%d,stem,5,30\n" % one for one in range(20_000))
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(content,), daemon=True)
    writer.start()
    replay = Replay.read(pipe)
    writer.join()
    assert replay.content == content
    assert len(replay.faults) == 20_000


def test_many_faults_of_one_injection_take_no_quadratic_time() -> None:
    faults = tuple(ListedFault(0, "stem", (one // 32,), one % 32) for one in range(72 * 32))
    sites = find_sites(program("residual"), where=("weight",))
    begun = time.perf_counter()
    once = Replay(faults, b"").places(sites)
    single = time.perf_counter() - begun
    assert [len(column) for column in once[0]] == [72 * 32] * 3
    with pytest.raises(ConfigError, match="twice in one injection"):
        Replay(faults + faults[:1], b"").places(sites)
    wide = [replace(sites[0], shape=(sites[0].elements * 1000,)), *sites[1:]]
    many = tuple(ListedFault(0, sites[0].name, (one,), 3) for one in range(20 * 72 * 32))
    begun = time.perf_counter()
    Replay(many, b"").places(wide)
    assert time.perf_counter() - begun < 200 * max(single, 0.005)  # quadratic: 400 times
