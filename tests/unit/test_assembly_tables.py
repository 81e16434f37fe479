"""The tables of the assembly benchmark say of each promise whether its numbers keep it."""

from __future__ import annotations

from tests.benchmarks.assembly.tables import BEGIN, END, report, verdicts, write_tables
from tests.benchmarks.assembly.texts import OWNERS, PUBLIC, UNSEEN


def line(arm: str, bpb: float, seed: int = 0, parameters: int = 100, **domains: float) -> dict:
    by_domain = {**dict.fromkeys((*OWNERS, PUBLIC, UNSEEN), bpb), **domains}
    mean = sum(by_domain[d] for d in (*OWNERS, PUBLIC)) / (len(OWNERS) + 1)
    sizes = {"parameters": parameters, "active_parameters": parameters}
    return {"arm": arm, "seed": seed, "bpb": by_domain, "mean_bpb": mean, **sizes}


LINES = [
    *(line("base", 3.0, seed) for seed in (0, 1)),
    *(line("assembly", value, parameters=500) for value in (2.0, 2.2)),
    line("own expert", 2.09), line("soup", 2.5), line("BTM ensemble", 2.0),
    line("assembly rank 2", 2.2, parameters=120), line("assembly rank 4", 2.11, parameters=140),
    line("assembly without chess", 2.1, chess=4.2),
]  # fmt: skip


def test_a_promise_is_kept_or_missed_by_what_the_arms_say():
    found = verdicts(LINES)
    assert "assembly: better than the base on every domain: yes" in found
    assert "assembly: better than soup on the mean: yes (-16.00 %)" in found
    assert "assembly: better than BTM ensemble on the mean: no (+5.00 %)" in found
    assert any(text.startswith("assembly: within 3 % of each owner's own expert") for text in found)
    worse = [*LINES[:2], line("assembly", 2.0, python=3.5), *LINES[4:]]
    assert verdicts(worse)[0].endswith("not on ['python']")
    assert any("own expert on its domain: no (python +67.5 %" in text for text in verdicts(worse))


def test_the_report_has_the_smallest_rank_that_is_good_enough_and_what_it_saves():
    text = report(LINES)
    assert "within 1 %: on the mean 4; by domain python 4" in text
    assert "2: 5%, 4: 10%" in text
    assert "| without chess | +0.0 |" in text and "+100.0" in text


def test_only_the_part_between_the_marks_changes(tmp_path):
    page = tmp_path / "results.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_tables(LINES, tmp_path)
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\nSeeds: 2.") and text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert (tmp_path / "assembly.svg").read_text().startswith("<svg")


def test_tables_of_a_run_that_just_began_have_what_is_there():
    assert "| base |" in report(LINES[:2])
