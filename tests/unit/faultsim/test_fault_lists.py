"""Lists of faults: written as the published ones are, read with limits, and all that is wrong in them said at once."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effc.errors import DataError, LimitError
from effc.faultsim.reports import ListedFault, csv_chunks, read_faults
from effc.faultsim.reports.csv_report import parse_faults
from effc.faultsim.summary import FaultRow

PUBLISHED = """Injection,Layer,TensorIndex,Bit,n_injections,masked,non_critical,critical
0,conv1,"(3, 0, 2, 1)",15,10000,14,9985,1
1,conv1,"(7, 0, 2, 0)",5,10000,26,9973,1
"""


def listed(folder: Path, text: str | bytes) -> list[ListedFault]:
    path = folder / "faults.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_faults(path)


def row(injection: int, layer: str, tensor: str, index: tuple[int, ...], bit: int) -> FaultRow:
    return FaultRow(injection, layer, tensor, index, bit, 10000, 14, 9985, 1, 0.5, 1.7e38)


class TestWrite:
    def test_the_published_form(self) -> None:
        rows = [row(0, "conv1", "conv1.weight", (3, 0, 2, 1), 15)]
        assert b"".join(csv_chunks(rows)).decode() == "".join(PUBLISHED.splitlines(keepends=True)[:2])

    def test_what_is_no_weight_is_named_in_full(self, tmp_path: Path) -> None:
        rows = [row(0, "linear", "linear.bias", (9,), 30), row(1, "linear", "linear.weight", (9, 3), 30), row(2, "bound", "bound", (), 1)]
        assert listed(tmp_path, b"".join(csv_chunks(rows))) == [
            ListedFault(0, "linear.bias", (9,), 30),
            ListedFault(1, "linear", (9, 3), 30),
            ListedFault(2, "bound", (), 1),
        ]

    def test_many_rows_come_in_pieces(self) -> None:
        rows = (row(number, "conv1", "conv1.weight", (0,), 0) for number in range(25_000))
        pieces = list(csv_chunks(rows))
        assert len(pieces) == 3
        assert b"".join(pieces).count(b"\n") == 25_001

    @given(
        st.lists(
            st.tuples(
                st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(lambda name: name == name.strip()),
                st.lists(st.integers(0, 10**6), max_size=4),
                st.integers(0, 63),
            ),
            min_size=1,
            max_size=5,
        )
    )
    def test_read_back_as_it_was(self, tmp_path_factory: pytest.TempPathFactory, faults: list[tuple[str, list[int], int]]) -> None:
        rows = [row(number, layer, layer, tuple(index), bit) for number, (layer, index, bit) in enumerate(faults)]
        again = listed(tmp_path_factory.mktemp("list"), b"".join(csv_chunks(rows)))
        assert [(one.layer, list(one.index), one.bit) for one in again] == faults


class TestRead:
    def test_published_lists_with_and_without_outcomes(self, tmp_path: Path) -> None:
        expected = [ListedFault(0, "conv1", (3, 0, 2, 1), 15), ListedFault(1, "conv1", (7, 0, 2, 0), 5)]
        assert listed(tmp_path, PUBLISHED) == expected
        short = '\ufeffBit,TensorIndex,Layer,Injection\r\n15,"[3,0,2,1]",conv1,0\r\n\r\n5,"( 7 ,0, 2,0 )",conv1,1\r\n'
        again = listed(tmp_path, short)
        assert again == expected
        assert [one.line for one in again] == [2, 4]

    @pytest.mark.parametrize(("text", "index"), [("3", (3,)), ('"(3,)"', (3,)), ("()", ()), ("[]", ()), ('"[0, 12]"', (0, 12))])
    def test_forms_of_a_position(self, tmp_path: Path, text: str, index: tuple[int, ...]) -> None:
        assert listed(tmp_path, f"Injection,Layer,TensorIndex,Bit\n0,conv1,{text},0\n")[0].index == index

    def test_several_faults_of_one_injection(self, tmp_path: Path) -> None:
        faults = listed(tmp_path, "Injection,Layer,TensorIndex,Bit\n5,a,1,0\n6,a,1,0\n5,a,1,1\n")
        assert [fault.injection for fault in faults] == [5, 6, 5]

    def test_every_bad_row_is_said_with_its_line(self, tmp_path: Path) -> None:
        rows = [
            "x,a,0,0",
            "0,,0,0",
            "0,a,\"__import__('os')\",0",
            "0,a,-1,0",
            '0,a,"(1, 2]",0',
            '0,a,"(1,,2)",0',
            "0,a,0,64",
            "0,a,0,",
            "0,a,٣,0",
            "0,a,0,0",
            "0,a",
        ]
        with pytest.raises(DataError, match="10 rows") as caught:
            listed(tmp_path, "Injection,Layer,TensorIndex,Bit\n" + "\n".join(rows))
        assert [problem.where for problem in caught.value.problems] == [f"line {line}" for line in (*range(2, 11), 12)]

    def test_one_bit_twice_in_an_injection(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"line 3: the same bit: is also in line 2"):
            listed(tmp_path, 'Injection,Layer,TensorIndex,Bit\n5,a,"(1,)",0\n5,a,1,0\n')

    def test_problems_are_capped(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="1,000 rows") as caught:
            listed(tmp_path, "Injection,Layer,TensorIndex,Bit\n" + "x,a,0,0\n" * 1000)
        assert len(caught.value.problems) == 20

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "Injection: is missing"),
            (b"Injection,Layer,Bit,Bit\n", "Bit: is there twice"),
            (b"Injection,Layer,TensorIndex,Bit\n", "has no rows"),
            (b"\xff\xfe\x00", "not UTF-8"),
            (b'Injection,Layer,TensorIndex,Bit\n0,"a"b,0,0\n', "not CSV: line 2"),
            (b"Injection,Layer,TensorIndex,Bit\n0," + b"a" * 200_000 + b",0,0\n", "not CSV: line 2"),
        ],
    )
    def test_files_that_are_no_lists(self, tmp_path: Path, content: bytes, said: str) -> None:
        with pytest.raises(DataError, match=said):
            listed(tmp_path, content)

    def test_missing_and_too_large(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no readable list"):
            read_faults(tmp_path / "nowhere.csv")
        (tmp_path / "faults.csv").write_text(PUBLISHED)
        with pytest.raises(LimitError, match="larger than 50 bytes"):
            read_faults(tmp_path / "faults.csv", max_bytes=50)

    def test_bytes_are_a_list_too(self) -> None:
        assert parse_faults(PUBLISHED.encode(), "x.csv")[1] == ListedFault(1, "conv1", (7, 0, 2, 0), 5)
        with pytest.raises(DataError, match=r"'x\ufffd\.csv' has no rows"):
            parse_faults(PUBLISHED.splitlines(keepends=True)[0].encode(), "x\x1b.csv")
