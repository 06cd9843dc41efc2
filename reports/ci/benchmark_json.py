"""bencher.json and benchmark.json: figures of a run for services that chart them over time.

Both contain only the metrics of complete trials and the valid speed measurements.
"""

from collections.abc import Iterator

from harness.files import json_text
from harness.rundir.results import Results, is_defined
from harness.task import Figure
from reports.figures import printed


def to_bencher(results: Results) -> str:
    """Return Bencher Metric Format: {benchmark: {measure: {value, lower_value, upper_value}}}.

    A benchmark is `BENCHMARK/VARIANT`; its measures are the metrics, throughputs and latency percentiles.
    """
    document: dict[str, dict[str, dict[str, float]]] = {}
    for trial, name, figure, _ in _figures(results):
        bounds = {"value": figure.value, "lower_value": figure.low, "upper_value": figure.high}
        document.setdefault(trial, {})[name] = {
            key: bound for key, bound in bounds.items() if bound is not None
        }
    return json_text(document)


def to_github_action_benchmark(results: Results) -> str:
    """Return metrics and throughputs in github-action-benchmark's `customBiggerIsBetter` format.

    That tool knows one direction per file, so figures of which lower is better, such as latencies, are not
    included.
    """
    return json_text(
        [
            {
                "name": f"{trial} {name}",
                "unit": figure.unit,
                "value": figure.value,
                "range": printed(figure).interval,
                "extra": f"n={figure.n}\n{figure.signature}",
            }
            for trial, name, figure, bigger_is_better in _figures(results)
            if bigger_is_better
        ]
    )


def _figures(results: Results) -> Iterator[tuple[str, str, Figure, bool]]:
    """Yield (trial, name of the figure, figure, whether higher is better)."""
    for trial in results.trials:
        label = f"{trial.benchmark}/{trial.variant}"
        figures = [(name, figure, figure.better != "lower") for name, figure in trial.metrics.items()]
        for name, scenario in trial.speed.items():
            if scenario.valid:
                measured = scenario.figures.items()
                figures += [(f"{name} {kind}", figure, kind == "throughput") for kind, figure in measured]
        if trial.status == "complete":
            yield from ((label, *entry) for entry in figures if is_defined(entry[1]))
