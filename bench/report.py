"""The run in words: the terminal's text, and the marked section of `bench/README.md`."""

from __future__ import annotations

from pathlib import Path

from bench.tables import (
    Report,
    Table,
    auto_table,
    calls_table,
    lag_table,
    markdown,
    money_table,
    paced_table,
    plain,
    start_table,
)

README = Path(__file__).resolve().parent / "README.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
_NOISE_SHARE = 0.10


def remarks(report: Report) -> list[str]:
    """What a reader must know beside the tables."""
    lines = [f"{name} was not in the run: {why.splitlines()[0]}" for name, why in report.absent.items()]
    lines += [f"{name} answered wrongly: {counts}" for name, counts in report.wrong.items()]
    bound = [
        f"{who} {case}" for who, cases in report.summary.items() for case, f in cases.items() if f.get("driver_bound")
    ]
    if bound:
        lines.append(f"*: generator and upstream used over 80% of their core and set the pace in: {', '.join(bound)}")
    noisy = max((f.get("foreign_share", 0.0) for cases in report.summary.values() for f in cases.values()), default=0.0)
    if noisy > _NOISE_SHARE:
        lines.append(
            f"other processes took up to {noisy:.0%} of the two cores during a case: latency figures are noisy"
        )
    lines += report.notes
    if report.records is not None:
        found = report.records
        lines.append(f"records: {found.sent} calls sent, {found.rows} recorded; {found.problem or 'each complete'}")
    if report.books is not None:
        lines.append(f"books: {report.books.told()}")
    return lines


def head(report: Report) -> list[str]:
    """What was run, when and where."""
    what = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    lines = [f"{report.when}, `{report.command}`, {report.rounds} round(s)", what, versions, report.pinning]
    return [line for line in lines if line]


def _tables(report: Report) -> list[Table]:
    """Those that have a row."""
    made = [make(report) for make in (calls_table, money_table, auto_table, start_table, lag_table, paced_table)]
    return [table for table in made if len(table) > 1]


def text(report: Report) -> str:
    """The whole report for a terminal."""
    tables = [plain(table) for table in _tables(report)]
    verdicts = [target.line() for target in report.targets()]
    parts = ["\n".join(head(report)), *tables, "\n".join(verdicts), "\n".join(remarks(report))]
    return "\n\n".join(part for part in parts if part)


def readme_section(report: Report) -> str:
    """What goes between the marks of `README.md`."""
    tables = [markdown(table) for table in _tables(report)]
    verdicts = "\n".join(f"- {target.line()}" for target in report.targets())
    notes = "\n".join(f"- {line}" for line in remarks(report))
    return "\n\n".join(["  \n".join(head(report)), *tables, "Targets:", verdicts, "Remarks:", notes])


def update_readme(report: Report, readme: Path = README) -> None:
    """Replace what stands between the marks. Raises ValueError when the marks are missing."""
    before, begin, rest = readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme} has no {BEGIN} ... {END} section to fill")
    readme.write_text(f"{before}{BEGIN}\n{readme_section(report)}\n{END}{after}")
