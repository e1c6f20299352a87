from typing import Any

import pytest

from memsparse.evaluation.paper import THEIRS, comparison, paper_tables


def result(judge: float | None = None, *, partial: bool = False, f1: float = 0.5) -> dict[str, Any]:
    def estimate(value: float | None) -> dict[str, Any]:
        return {"value": value, "low": value, "high": value, "n": 0 if value is None else 7}

    metrics = {"f1": estimate(f1), "judge": estimate(judge)}
    peer = {"f1": estimate(0.25)}
    return {"corpus": {"tokens": 1234}, "partial": partial, "systems": {"memsparse": metrics, "bm25": peer}}


def cells(text: str, row: str, section: str) -> list[list[str]]:
    part = next(part for part in text.split("## ") if part.startswith(section))
    lines = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1, "every row has every column"
    return [line for line in lines if line[0] == row]


def test_the_copied_rows_have_the_averages_the_paper_prints() -> None:
    for table in paper_tables().values():
        assert len(table.rows) == 9
        for column, mean in enumerate(table.mean):
            computed = sum(row[column] for row in table.rows.values()) / len(table.rows)
            assert computed == pytest.approx(mean, abs=0.0011), table.columns[column]


def test_every_row_is_complete_and_both_tables_agree_on_the_papers_model() -> None:
    same, large = paper_tables()["same_backbone"], paper_tables()["large_backbone"]
    for table in (same, large):
        assert len(set(table.columns)) == len(table.columns) == len(table.mean)
        assert {len(row) for row in table.rows.values()} == {len(table.columns)}
        assert "README" in table.citation
    assert same.rows.keys() == large.rows.keys() == same.tokens.keys()
    for name in same.rows:
        assert same.score(name, THEIRS) == large.score(name, THEIRS)
    assert same.score("hotpotqa", THEIRS) == 4.061
    assert same.score("triviaqa_06M", THEIRS) is None


def test_ours_stand_beside_theirs() -> None:
    text = comparison({"hotpotqa": result(4.1), "musique": result()}, ["hotpotqa", "musique", "ms_100M"])
    [row] = cells(text, "hotpotqa", "MSA against RAG on the same")
    assert row[1:4] == ["1.35M", "4.100", "+0.039"]
    assert (row[4], row[-1]) == ("2.252", "4.061")
    [row] = cells(text, "musique", "MSA against RAG with larger")
    assert row[1:5] == ["-", "-", "-", "1.988"]
    assert not cells(text, "ms_100M", "MSA against RAG on the same"), "the paper's tables have no such row"
    assert not cells(text, "mean", "MSA against RAG on the same"), "an average over other rows is none"


def test_what_was_measured_is_shown_by_system() -> None:
    text = comparison({"hotpotqa": result(4.0, partial=True)}, ["hotpotqa", "ms_100M"])
    rows = cells(text, "hotpotqa (partial)", "Measured")
    assert [row[2] for row in rows] == ["memsparse", "bm25"]
    assert rows[0][1:5] == ["1,234", "memsparse", "7", "4.00 [4.00, 4.00]"]
    assert rows[1][4] == "-"
    assert "50.0 [50.0, 50.0]" in rows[0]
    assert cells(text, "ms_100M", "Measured") == [["ms_100M", *["-"] * 10]]


def test_the_average_needs_every_row() -> None:
    names = list(paper_tables()["same_backbone"].rows)
    whole = comparison({name: result(3.0) for name in names}, names)
    [row] = cells(whole, "mean", "MSA against RAG on the same")
    assert (row[2], row[3], row[-1]) == ("3.000", "-0.760", "3.760")
    assert not cells(
        comparison({name: result(3.0) for name in names[1:]}, names), "mean", "MSA against RAG on"
    )
