"""Four PNG charts of a run. matplotlib is imported here alone, and only when charts are drawn."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.tables import Report

_COLOURS = {
    "direct": "0.55",
    "gateway": "tab:blue",
    "nginx": "tab:green",
    "portkey": "tab:orange",
    "litellm": "tab:red",
    "mlflow": "tab:purple",
}
_SIZE_INCHES = (7.0, 4.0)


def draw(report: Report, out: Path, stamp: str) -> list[Path]:
    """Write the charts that this run has figures for; returns their paths."""
    mpl.use("agg")
    made = {
        "latency-added": _bars(
            report, "latency", ("added_p50_ms", "added_p99_ms"), "added latency, ms (open arrivals)"
        ),
        "cpu-per-call": _bars(report, "answers", ("cpu_ms",), "CPU ms per non-stream call"),
        "cpu-per-frame": _lines(report, "cpu_us", "CPU us per paced frame"),
        "inter-frame-p99": _lines(report, "gap_p99_ms", "inter-frame p99, ms (pace 20 ms)"),
    }
    written = []
    for name, figure in made.items():
        if figure is not None:
            path = out / f"{stamp}-{name}.png"
            figure.savefig(path, dpi=110)
            written.append(path)
    return written


def _bars(report: Report, case: str, names: tuple[str, ...], title: str) -> Figure | None:
    """One group of bars per contender."""
    shown = {
        contender: [cases[case][name] for name in names]
        for contender, cases in report.summary.items()
        if contender != "direct" and all(name in cases.get(case, {}) for name in names)
    }
    if not shown:
        return None
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        places = [i + (index - (len(names) - 1) / 2) * width for i in range(len(shown))]
        bars = axes.bar(places, [values[index] for values in shown.values()], width, label=_label(name))
        axes.bar_label(bars, fmt="%.3g", fontsize=8)
    # Rivals differ by orders of magnitude, which only a logarithmic axis shows; added latency may be negative.
    axes.set_yscale("log" if min(min(values) for values in shown.values()) > 0 else "linear")
    axes.set_xticks(range(len(shown)), list(shown))
    axes.set_title(title)
    if len(names) > 1:
        axes.legend(frameon=False)
    return figure


def _label(name: str) -> str:
    return name.removeprefix("added_").removesuffix("_ms")


def _lines(report: Report, name: str, title: str) -> Figure | None:
    """One line per contender over the number of streams."""
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    drawn = False
    for contender, cases in report.summary.items():
        if contender == "direct" and name == "cpu_us":
            continue
        points = [
            (int(case.removeprefix("paced-")), figures[name])
            for case, figures in cases.items()
            if case.startswith("paced-") and name in figures
        ]
        if points:
            drawn = True
            places, values = zip(*sorted(points), strict=True)
            axes.plot(places, values, marker="o", label=contender, color=_COLOURS.get(contender))
    if not drawn:
        return None
    streams = sorted(
        {
            int(case.removeprefix("paced-"))
            for cases in report.summary.values()
            for case in cases
            if case.startswith("paced-")
        }
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks(streams, [str(count) for count in streams])
    axes.minorticks_off()
    axes.set_xlabel("streams")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.set_title(title)
    axes.legend(frameon=False)
    return figure
