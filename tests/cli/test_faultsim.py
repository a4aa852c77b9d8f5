"""`effc faultsim` on the bundled digits network: verdicts as exit codes, the same bytes after any death, clear refusals."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import DIGITS, TEST, Effc

EFFC = Path(sys.executable).with_name("effc")
QUICK = ("--no-check-import", "--eval", TEST)
STEM = ("--where", "weight", "--layers", "stem", "--bits", "23-31", "--exhaustive", "--images", "64")  # 1,296 faults in 21 chunks
TIMES = "measurements.json"


def files(folder: Path) -> dict[str, bytes]:
    """Everything but how long it took."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    found.pop(TIMES, None)
    return found


@pytest.fixture(scope="module")
def whole(effc: Effc, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stem's campaign, uninterrupted."""
    out = tmp_path_factory.mktemp("whole") / "out"
    result = effc("faultsim", DIGITS, *QUICK, *STEM, "-o", out)
    assert result.exit_code == 0, result.output
    assert "1,296 bits in 1 sites" in result.stdout
    assert "most critical bits" in result.stdout
    return out


# ---- what it leaves ------------------------------------------------------------------------------------------------------------


def test_a_campaign_leaves_its_reports(whole: Path) -> None:
    names = {"report.json", "report.html", "summary.md", "junit.xml", "report.sarif", "faults.csv"}
    chunks = {f"results/stage-00/chunk-{number:05d}.csv" for number in range(21)}
    assert set(files(whole)) == names | chunks | {"campaign.json"}
    assert json.loads((whole / TIMES).read_bytes())["injections"] == 1296
    rows = list(csv.DictReader((whole / "faults.csv").open()))
    assert len(rows) == 1296
    assert all(int(row["masked"]) + int(row["non_critical"]) + int(row["critical"]) == 64 == int(row["n_injections"]) for row in rows)
    assert {row["Layer"] for row in rows} == {"stem"}
    report = json.loads((whole / "report.json").read_bytes())
    share = sum(int(row["critical"]) for row in rows) / (64 * 1296)
    assert report["overall"]["critical"]["value"] == pytest.approx(share)


def test_its_list_replays(effc: Effc, whole: Path, tmp_path: Path) -> None:
    rows = list(csv.DictReader((whole / "faults.csv").open()))
    worst = sorted(rows, key=lambda row: -int(row["critical"]))[:20]
    with (tmp_path / "worst.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["Injection", "Layer", "TensorIndex", "Bit"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(worst)
    out = tmp_path / "out"
    result = effc("faultsim", DIGITS, *QUICK, "--faults-csv", tmp_path / "worst.csv", "--images", "64", "-o", out)
    assert result.exit_code == 0, result.output
    assert list(csv.DictReader((out / "faults.csv").open())) == worst


def test_a_config_file_and_flags_that_beat_it(effc: Effc, tmp_path: Path) -> None:
    (tmp_path / "test.npz").write_bytes(TEST.read_bytes())
    (tmp_path / "campaign.toml").write_text('eval = "test.npz"\nrates = [1e-5, 1e-4]\ndraws = 50\nimages = 16\n')
    result = effc(
        "faultsim", DIGITS, "--no-check-import", "--config", tmp_path / "campaign.toml", "--draws", "3", "-o", tmp_path / "out", "--json"
    )
    assert result.exit_code == 0, result.output
    assert [group["injections"] for group in json.loads(result.stdout)["groups"]] == [3, 3]


def test_a_tolerance_instead_of_classes(effc: Effc, tmp_path: Path) -> None:
    """Labels are there and do not matter; faults of the top exponent bit are off by more than a tenth, those of the lowest bit are not."""
    critical = {}
    for bit in ("0", "30"):
        flags = ("--where", "weight", "--bits", bit, "--faults", "40", "--images", "8", "--tolerance", "0.1")
        result = effc("faultsim", DIGITS, *QUICK, *flags, "-o", tmp_path / bit, "--json")
        assert result.exit_code == 0, result.output
        document = json.loads(result.stdout)
        critical[bit] = document["overall"]["critical"]["value"]
        assert "accuracy" not in document["overall"]
    assert critical["0"] == 0
    assert critical["30"] > 0.2


def test_an_artifact_runs_as_its_program(effc: Effc, artifact: Path, tmp_path: Path) -> None:
    """What its protection added is among the places."""
    result = effc(
        "faultsim", artifact, "--eval", TEST, "--images", "8", "--where", "bound", "--exhaustive", "-o", tmp_path / "out", "--json"
    )
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["population"] % 64 == 0  # a lower and an upper bound of 32 bits each


# ---- verdicts ------------------------------------------------------------------------------------------------------------------


def test_verdicts_are_exit_codes(effc: Effc, tmp_path: Path) -> None:
    """By the interval: bounds below it, above it, and in it. The campaign itself runs once."""
    campaign = ("faultsim", DIGITS, *QUICK, "--rate", "3e-5", "--draws", "40", "--images", "32", "-o", tmp_path / "out")
    result = effc(*campaign, "--json")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    accuracy = json.loads(result.stdout)["groups"][0]["accuracy"]
    low, value, high = accuracy["low"], accuracy["value"], accuracy["high"]
    assert low < value < high < 1
    begun = (tmp_path / "out" / "results" / "stage-00" / "chunk-00000.csv").stat().st_mtime_ns
    bound = "accuracy@3e-5 >= {:.6f}".format
    for requirements, code, outcomes in (
        ([bound(low - 1e-5)], 0, ["PASS"]),
        ([bound(high + 1e-5)], 1, ["FAIL"]),
        ([bound(value)], 7, ["INCONCLUSIVE"]),
        ([bound(low - 1e-5), bound(value), bound(high + 1e-5)], 1, ["PASS", "INCONCLUSIVE", "FAIL"]),
    ):
        flags = [part for one in requirements for part in ("--require", one)]
        result = effc(*campaign, *flags)
        assert result.exit_code == code, result.output
        assert [line.split(":")[0] for line in result.stdout.splitlines() if "accuracy@3e-5 >=" in line] == outcomes
        report = json.loads((tmp_path / "out" / "report.json").read_bytes())
        assert [verdict["outcome"] for verdict in report["verdicts"]] == outcomes
        assert (tmp_path / "out" / "junit.xml").read_text().count("<failure") == outcomes.count("FAIL")
    assert (tmp_path / "out" / "results" / "stage-00" / "chunk-00000.csv").stat().st_mtime_ns == begun


# ---- the same bytes ------------------------------------------------------------------------------------------------------------


def killed(out: Path, chunks: int, *flags: object) -> int:
    """Start a campaign, kill it and its workers with -9 once so many chunks are there, and say how many there were."""
    process = subprocess.Popen(
        [str(part) for part in (EFFC, "faultsim", DIGITS, *QUICK, *STEM, *flags, "-o", out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 120
        while time.monotonic() < end and process.poll() is None:
            if len(list(out.glob("results/stage-00/chunk-*.csv"))) >= chunks:
                break
            time.sleep(0.002)
    finally:
        with suppress(ProcessLookupError):  # it may have ended by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return len(list(out.glob("results/stage-00/chunk-*.csv")))


def test_killed_and_gone_on_with(effc: Effc, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert 1 <= killed(out, 1) < 21
    assert not (out / "report.json").exists()
    partly = effc("faultsim", "merge", out, "-o", tmp_path / "partly", "--require", "sdc1 <= 0.9")
    assert partly.exit_code == 7, partly.output  # what is missing may be what hurts
    assert "not complete" in partly.stdout
    result = effc("faultsim", DIGITS, *QUICK, *STEM, "-o", out)
    assert result.exit_code == 0, result.output
    assert files(out) == files(whole)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_killed_several_times(effc: Effc, whole: Path, tmp_path: Path, jobs: int) -> None:
    out = tmp_path / "out"
    for chunks in (1, 3, 9, 14):
        assert killed(out, chunks, "--jobs", jobs) >= chunks
    result = effc("faultsim", DIGITS, *QUICK, *STEM, "--jobs", jobs, "-o", out)
    assert result.exit_code == 0, result.output
    assert files(out) == files(whole)


@pytest.mark.slow
def test_sixteen_shards_merged(effc: Effc, whole: Path, tmp_path: Path) -> None:
    from effc.faultsim.campaign import Shard, run_campaign
    from effc.faultsim.spec import spec_of
    from tests.unit.faultsim.networks import digits, digits_data

    shards = [tmp_path / f"shard{number}" for number in range(1, 17)]
    first = effc("faultsim", DIGITS, *QUICK, *STEM, "--shard", "1/16", "-o", shards[0])
    assert first.exit_code == 0, first.output
    assert "128 of 1,296 injections" in first.stdout
    assert not (shards[0] / "report.json").exists()
    spec = spec_of({"eval": TEST, "where": ["weight"], "layers": ["stem"], "bits": "23-31", "exhaustive": True, "images": 64})
    for number, folder in enumerate(shards[1:], 2):  # the others without loading the model fifteen times
        run_campaign(digits(), digits_data(450), spec, folder, shard=Shard(number, 16))
    result = effc("faultsim", "merge", *shards[::-1], "-o", tmp_path / "merged")
    assert result.exit_code == 0, result.output
    assert files(tmp_path / "merged") == files(whole)
    again = effc("faultsim", "merge", tmp_path / "merged", "-o", tmp_path / "merged", "--json")
    assert json.loads(again.stdout) == json.loads((whole / "report.json").read_bytes())
    missing = effc("faultsim", "merge", *shards[1:], "-o", tmp_path / "most", "--json")
    assert json.loads(missing.stdout)["complete"] is False


def test_a_shard_without_a_chunk(effc: Effc, tmp_path: Path) -> None:
    result = effc("faultsim", DIGITS, *QUICK, "--faults", "3", "--images", "8", "--shard", "2/2", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["done"] == 0


# ---- refusals ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), ["--eval"]),
        (("--eval", "nowhere.npz", "--faults", "3"), ["nowhere.npz"]),
        (("--eval", TEST, "--layers", "layer9.*"), ["layer9.*", "stem", "fits no layer"]),
        (("--eval", TEST, "--where", "weights", "--where", "bias", "--ops", "gemm"), ["weights", "gemm", "conv2d"]),
        (("--eval", TEST, "--rate", "1e-6", "--faults", "5", "--exhaustive"), ["rates and faults and exhaustive"]),
        (("--eval", TEST, "--bits", "30-"), ["30-", "23-30"]),
        (("--eval", TEST, "--bits", "33"), ["33", "bits 0 to 31"]),
        (("--eval", TEST, "--view", "int99"), ["int99"]),
        (("--eval", TEST, "--executor", "artifact"), ["is no artifact"]),
        (("--eval", TEST, "--shard", "5/4"), ["5/4"]),
        (("--eval", TEST, "--shard", "1/2", "--stratify", "bit"), ["cannot be cut into shards"]),
        (("--eval", TEST, "--exhaustive", "--most-faults", "100"), ["most-faults (100)"]),
        (("--eval", TEST, "--images", "451"), ["451 images", "450 samples"]),
        (("--eval", TEST, "--require", "accuracy@1e-6 >= 2", "--require", "speed <= 1"), ["accuracy@1e-6 >= 2", "speed"]),
        (("--eval", TEST, "--rate", "1e-6", "--require", "accuracy >= 0.5"), ["accuracy@RATE"]),
        (("--eval", TEST, "--faults-csv", "nowhere.csv"), ["nowhere.csv"]),
        (("--config", "nowhere.toml"), ["nowhere.toml"]),
        (("--eval", TEST, "--batch", "0", "--draws", "0"), ["batch", "draws"]),
    ],
)
def test_wrong_use_is_one_clear_message(effc: Effc, tmp_path: Path, flags: tuple[Any, ...], words: list[str]) -> None:
    result = effc("faultsim", DIGITS, "--no-check-import", *flags, "-o", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("error: ") == 1
    assert all(word in result.stderr for word in words), result.stderr
    assert not (tmp_path / "out").exists()


def test_a_campaign_of_something_else_is_refused_with_what_differs(effc: Effc, whole: Path) -> None:
    before = files(whole)
    result = effc("faultsim", DIGITS, *QUICK, *STEM, "--seed", "1", "-o", whole)
    assert result.exit_code == 2
    assert "another campaign" in result.stderr
    assert "spec.seed: it has 0: now 1" in result.stderr
    as_json = effc("faultsim", DIGITS, *QUICK, *STEM, "--seed", "1", "-o", whole, "--json")
    assert json.loads(as_json.stdout)["error"]["exit_code"] == 2
    assert as_json.stderr == ""
    assert files(whole) == before


def test_a_damaged_chunk_is_named(effc: Effc, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert effc("faultsim", "merge", whole, "-o", out).exit_code == 0
    chunk = out / "results" / "stage-00" / "chunk-00004.csv"
    chunk.write_bytes(chunk.read_bytes()[:-20])
    for command in (("faultsim", DIGITS, *QUICK, *STEM, "-o", out), ("faultsim", "merge", out, "-o", out)):
        result = effc(*command)
        assert result.exit_code == 4
        assert "chunk-00004.csv is damaged" in result.stderr


def test_labels_that_do_not_fit(effc: Effc, tmp_path: Path) -> None:
    stored = np.load(TEST)
    np.savez(tmp_path / "test.npz", x=stored["x"][:8], y=stored["y"][:8] + 9)
    result = effc("faultsim", DIGITS, "--no-check-import", "--eval", tmp_path / "test.npz", "--faults", "2", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "classes 0 to 9" in result.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("merge", "--help"), ("worst", "--help"), ()])
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    script = (
        "import sys\nfrom effc.cli.main import cli\n"
        f"try:\n    cli.main(['faultsim', *{list(arguments)}], prog_name='effc')\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'tvm', 'numpy', 'scipy', 'pydantic', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage: effc faultsim" in done.stdout
