"""The report's tables: which figures make which column, as rows of text. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bench.auto_router import LANGS
from bench.books import Audit
from bench.cases import OPERATOR, Figures
from bench.records import Verdict
from bench.summary import PerRound, Summary, Target, targets
from gateway.route.auto.verdict import CLASSES

_NONE = "-"


class Report(msgspec.Struct, frozen=True):
    """Everything a run found, as it is written to `bench/out/`."""

    command: str
    when: str
    machine: dict[str, str]
    pinning: str
    rounds: int
    summary: Summary
    per_round: PerRound
    start: dict[str, Figures]
    absent: dict[str, str]
    versions: dict[str, str]
    notes: list[str]
    wrong: dict[str, dict[str, int]]
    records: Verdict | None
    books: Audit | None = None
    probes: dict[str, Figures] = {}

    def targets(self) -> list[Target]:
        """The gateway's promises against this run."""
        return targets(self.summary, self.start, self.probes)


Table = list[list[str]]
_CALLS: Sequence[tuple[str, str, str, str]] = (
    # heading, case, figure, format
    ("req/s", "answers", "req_s", ",.0f"),
    ("CPU ms/call", "answers", "cpu_ms", ".3f"),
    ("added p50 ms", "latency", "added_p50_ms", ".2f"),
    ("added p99 ms", "latency", "added_p99_ms", ".2f"),
    ("burst CPU ms/stream", "burst", "cpu_ms", ".3f"),
    ("burst frames/s", "burst", "frames_s", ",.0f"),
    ("h2 CPU ms/call", "h2", "cpu_ms", ".3f"),
    ("TLS up CPU ms/call", "tls-answers", "cpu_ms", ".3f"),
)
_START: Sequence[tuple[str, str, str]] = (
    ("ready s", "ready_s", ".2f"),
    ("first answer s", "first_answer_s", ".2f"),
    ("RSS idle MiB", "rss_idle_mib", ".0f"),
    ("RSS loaded MiB", "rss_loaded_mib", ".0f"),
    ("RSS after MiB", "rss_after_mib", ".0f"),
)
_PACED: Sequence[tuple[str, str, str]] = (
    ("added first p50 ms", "added_first_p50_ms", ".2f"),
    ("added first p99 ms", "added_first_p99_ms", ".2f"),
    ("gap p99 ms", "gap_p99_ms", ".2f"),
    ("x direct", "gap_ratio", ".2f"),
    ("frames/s", "frames_s", ",.0f"),
    ("stalls", "stalls", ".0f"),
    ("CPU us/frame", "cpu_us", ".1f"),
    ("server core", "server_share", ".0%"),
    ("driver core", "driver_share", ".0%"),
)
_LAG: Sequence[tuple[str, str, str]] = (
    ("loop p50 ms", "loop_lag_p50_ms", "<= {:g}"),
    ("loop p99 ms", "loop_lag_p99_ms", "<= {:g}"),
    ("ticks", "loop_lag_count", "{:.0f}"),
    ("commit p50 ms", "commit_lag_p50_ms", "<= {:g}"),
    ("commit p99 ms", "commit_lag_p99_ms", "<= {:g}"),
    ("batches", "commit_lag_count", "{:.0f}"),
)


def _cell(figures: Figures, name: str, form: str) -> str:
    return format(figures[name], form) if name in figures else _NONE


def calls_table(report: Report) -> Table:
    """One row per contender: non-stream calls, bursts, HTTP/2 and TLS. `*`: the driver's side set the pace."""
    rows = [["", *(heading for heading, *_ in _CALLS)]]
    for contender, cases in report.summary.items():
        row = [contender]
        for _, case, name, form in _CALLS:
            figures = (
                {}
                if contender == "direct" and name in ("cpu_ms", "added_p50_ms", "added_p99_ms")
                else cases.get(case, {})
            )
            bound = name in ("req_s", "frames_s") and figures.get("driver_bound")
            row.append(_cell(figures, name, form) + ("*" if bound else ""))
        rows.append(row)
    return rows


def money_table(report: Report) -> Table:
    """What admission and settlement cost by themselves, and the limiter; and of a whole call, over the operator's."""
    admission, limiter = report.probes.get("admission", {}), report.probes.get("limiter", {})
    rows = [
        ("admission + hold + settle", admission.get("files_us")),
        ("- open: estimate, limits, hold, headers", admission.get("open_us")),
        ("- book: charge, record, journal line", admission.get("book_us")),
        ("- close: hand over, metrics", admission.get("close_us")),
        ("the same without files", admission.get("bare_us")),
    ]
    for name, us in limiter.items():
        keys = int(name.removeprefix("keys_").removesuffix("_us"))
        rows.append((f"limiter, {keys:,} key{'s' if keys > 1 else ''}", us))
    shown = [[label, f"{us:.2f}", f"{1e6 / us:,.0f}"] for label, us in rows if us is not None]
    pair = report.summary.get("gateway", {}).get(OPERATOR, {})
    if "tenant_us" in pair:
        label = f"a call on the prepaid key over the operator's (x {pair['tenant_ratio']:.3f})"
        shown.append([label, f"{pair['tenant_us']:.2f}", _NONE])
    return [["our own line", "CPU us/call", "calls/s"], *shown]


def auto_table(report: Report) -> Table:
    """How often the auto router is right, by class: of the half it was tuned on and of the half nobody looked at."""
    auto = report.probes.get("auto", {})
    names = [name for name in ("accuracy", "lowest_class", *CLASSES, *LANGS) if f"heldout_{name}" in auto]
    rows = [["auto router, right on", "held out", "dev"]]
    rows += [[name, f"{auto[f'heldout_{name}']:.3f}", f"{auto[f'dev_{name}']:.3f}"] for name in names]
    if "classify_us" in auto:
        rows.append(["2 KB prompt: verdict, CPU us", f"{auto['classify_us']:.1f}", _NONE])
        rows.append(["2 KB prompt: reading it, CPU us", f"{auto['read_us']:.1f}", _NONE])
    return rows


def lag_table(report: Report) -> Table:
    """How late the gateway's loop and its commits were in each case."""
    rows = [["lag under load", *(heading for heading, *_ in _LAG)]]
    for case, figures in report.summary.get("gateway", {}).items():
        if "loop_lag_count" in figures:
            rows.append([case, *(form.format(figures[name]) if name in figures else _NONE for _, name, form in _LAG)])
    return rows


def start_table(report: Report) -> Table:
    """One row per server: start-up time and memory."""
    rows = [["", *(heading for heading, *_ in _START)]]
    for contender, figures in report.start.items():
        loaded = [case.get("rss_max_mib", 0.0) for case in report.summary.get(contender, {}).values()]
        known = {**figures, "rss_loaded_mib": max(loaded)} if any(loaded) else figures
        rows.append([contender, *(_cell(known, name, form) for _, name, form in _START)])
    return rows


def paced_table(report: Report) -> Table:
    """One row per concurrency and contender in the field's load shape."""
    rows = [["streams", "", *(heading for heading, *_ in _PACED)]]
    names = list(dict.fromkeys(c for cases in report.summary.values() for c in cases if "paced-" in c))
    for case in names:
        for contender, cases in report.summary.items():
            if case not in cases:
                continue
            figures = dict(cases[case])
            if contender == "direct":
                for name in ("added_first_p50_ms", "added_first_p99_ms", "gap_ratio", "cpu_us", "server_share"):
                    figures.pop(name, None)
            label = case.removeprefix("paced-").replace("tls-paced-", "TLS up ")
            rows.append([label, contender, *(_cell(figures, name, form) for _, name, form in _PACED)])
    return rows


def plain(table: Table) -> str:
    """Aligned columns for a terminal."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown(table: Table) -> str:
    """The same as a Markdown table."""
    head, *rows = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([head, "|" + "|".join(["---"] + ["---:"] * (len(table[0]) - 1)) + "|", *rows])
