"""A results document with everything that reports must handle."""

from __future__ import annotations

import hashlib
from typing import Any

from harness.rundir.results import Results

HOSTILE = (
    "<script>alert('x')</script> \"q\" | a\nb \u202egnp.exe\u200f <!-- </td> `c` [l](http://evil.example) "
)
LONG = "L" * 10_000

ENVIRONMENT = {
    "host": "bench-1",
    "os": "Linux 6.8",
    "cpu": "Example CPU 3000",
    "cores": 2,
    "logical_cores": 4,
    "memory_bytes": 8_000_000_000,
    "gpus": [],
    "python": "3.12.1",
    "packages": {"torch": "2.15.0", "numpy": "2.1.0"},
}


def figure(value: float | None, spread: float = 0.02, n: int = 300, unit: str = "0–1", signature: str = "v1"):
    low, high = (None, None) if value is None else (value - spread, value + spread)
    return {"value": value, "low": low, "high": high, "n": n, "unit": unit, "signature": signature}


def speed(throughput: float, valid: bool = True) -> dict[str, Any]:
    shared = {
        "environment": "env1",
        "profile": "ci",
        "threads": 1,
        "processes": 3,
        "queries": 640,
        "seconds": 15.5,
        "valid": valid,
        "reasons": [] if valid else ["load of other processes 0.70 cores"],
    }
    offline = {**shared, "batch_size": 8, "throughput": figure(throughput, throughput / 20, 640, "samples/s")}
    p50 = figure(1 / throughput, 0.05 / throughput, 640, "s", "p50|order statistics")
    single = {**shared, "batch_size": 1, "latency": {"p50": p50, "p99": None}}
    return {"offline": offline, "single-stream": single}


def trial(task: str, variant: str, **changes: Any) -> dict[str, Any]:
    benchmark = {"translation": "gettext-de", "detection": "scenes-boxes", "segmentation": "scenes-masks"}[
        task
    ]
    record = {
        "id": hashlib.sha256(f"{task}{variant}".encode()).hexdigest()[:16],
        "benchmark": benchmark,
        "task": task,
        "adapter": variant.split("-")[0],
        "variant": variant,
        "settings": {"precision": "fp32", "batch_size": 8, "options": {"width": 32}},
        "dataset": {
            "name": "scenes",
            "options": {"seed": 1},
            "split": "test",
            "size": 300,
            "fingerprint": "f00d",
        },
        "checkpoint": {"name": f"{task}-small", "sha256": "ab" * 32, "recipe": "cd" * 8},
        "status": "complete",
        "environments": ["env1"],
        "cost": {"parameters": 590_123, "flops": 1.25e9, "peak_memory_bytes": 48_000_000},
    }
    return {**record, **changes}


def _detection(variant: str, ap: float, ips: float, **changes: Any) -> dict[str, Any]:
    phases = {name: figure(part / ips, 0.1 * part / ips, 64, "s", f"{name}|mean|t") for name, part in
              (("preprocess", 0.1), ("model", 0.7), ("postprocess", 0.2))}  # fmt: skip
    return trial(
        "detection",
        variant,
        metrics={"ap50": figure(ap), "ap": figure(ap / 2), "ap_small": figure(None)},
        per_class={
            "digit 3": {"ap50": figure(0.5, 0.09, 37), "ap": figure(None)},
            HOSTILE: {"ap50": figure(0.25, 0.05, 9), "ap": figure(0.125)},
        },
        speed=speed(ips),
        phases=phases,
        **changes,
    )


def document(run_id: str = "run-1") -> dict[str, Any]:
    """Return trials of three tasks: complete, partial, failed, undefined, not timed, with hostile names."""
    failure = {
        "first": 0,
        "last": 63,
        "samples": ["a", HOSTILE],
        "error": f"RuntimeError: {HOSTILE}",
        "attempts": 3,
    }
    bleu = {"bleu": figure(31.42, 1.6, 500, "0–100", "BLEU|nrefs:1"), "chrf": figure(55.1, 1.2, 500, "0–100")}
    trials = [
        trial("translation", "attention", metrics=bleu, speed=speed(120)),
        trial("translation", "lstm", metrics={"bleu": figure(24.0, 1.5, 500, "0–100", "BLEU|nrefs:1")}),
        _detection("yolo", 0.412, 320),
        _detection("ssd-b8", 0.520, 141),
        _detection("faster", 0.35, 96),
        _detection("throttled", 0.6, 900) | {"speed": speed(900, valid=False)},
        _detection(HOSTILE, 0.30, 200, reason=LONG, adapter=LONG)
        | {"status": "partial", "failures": [failure]},
        trial("segmentation", "fcn-8s", metrics={"miou": figure(None)}, speed=speed(50)),
        trial(
            "segmentation", "broken", status="failed", reason=f"worker died: {HOSTILE}", failures=[failure]
        ),
    ]
    return {
        "schema": "harness-results/3",
        "suite": "quickstart",
        "description": "Three tasks, real models.",
        "run": {
            "id": run_id,
            "started": "2025-03-01T10:00:00+00:00",
            "finished": "2025-03-01T10:02:30+00:00",
            "command": "harness run quickstart --set note='<b>'",
            "harness_version": "0.1.0",
            "git_revision": "0123456789abcdef0123456789abcdef01234567",
            "git_dirty": False,
            "executor": "ray",
            "workers": 2,
            "profile": "ci",
            "environment": "env1",
        },
        "environments": {"env1": ENVIRONMENT},
        "trials": trials,
        "skipped": [{"benchmark": "gettext-fr", "reason": "no catalogues on this machine"}],
        "pairs": [
            {
                "benchmark": "scenes-boxes",
                "metric": "ap50",
                "first": "yolo",
                "second": HOSTILE,
                "difference": figure(-0.112),
                "p": 0.001,
                "p_adjusted": 0.004,
            }
        ],
        "claims": [
            {
                "name": "longer",
                "claim": "attention.bleu > lstm.bleu",
                "benchmark": "gettext-de",
                "verdict": "inconclusive",
                "source": HOSTILE,
            }
        ],
    }


def results(run_id: str = "run-1") -> Results:
    return Results.model_validate(document(run_id))
