"""Simulate the warm-up: its duration, the effect that is left, and the share wrongly called unsteady.

Simulates passes on a virtual clock, with the rule of `harness.scenarios.warm_up` under the profile `ci`. A
pass takes PASS · (1 + GAIN · e^(−t/CONSTANT)) seconds, times log-normal noise. Contention is another process
that is busy in 30% of the phases of .3 s on average, in which a pass takes up to twice as long.
"""

import argparse

import numpy as np

from harness.scenarios.settings import PROFILES
from harness.scenarios.warm_up import WarmUp, warm_up

MACHINES = {  # seconds per pass, noise, whether there is contention
    "5 ms, noise 2%": (0.005, 0.02, False),
    "5 ms, noise 2%, contention": (0.005, 0.02, True),
    "50 ms, noise 1%": (0.05, 0.01, False),
    "50 ms, noise 5%, contention": (0.05, 0.05, True),
    "0.3 s, noise 3%": (0.3, 0.03, False),
    "2 s, noise 2%": (2.0, 0.02, False),
    "2 s, noise 10%": (2.0, 0.10, False),
}
EFFECTS = {  # gain, time constant in s
    "steady from the start": (0.0, 10.0),
    "30% faster, 0.5 s": (0.3, 0.5),
    "10% faster, 10 s": (0.1, 10.0),
    "30% faster, 10 s": (0.3, 10.0),
    "10% faster, 30 s": (0.1, 30.0),
}


def simulate(
    seconds: float, noise: float, contention: bool, gain: float, constant: float, seed: int
) -> WarmUp:
    """Warm up once."""
    generator = np.random.default_rng(seed)
    now = busy_until = 0.0
    busy = False

    def run_pass() -> int:
        nonlocal now, busy_until, busy
        if now >= busy_until:
            busy, busy_until = generator.random() < 0.3, now + generator.exponential(0.3)
        slower = 1 + generator.random() if contention and busy else 1.0
        now += seconds * slower * (1 + gain * np.exp(-now / constant)) * np.exp(noise * generator.normal())
        return 16

    return warm_up(run_pass, lambda: round(now * 1e9), PROFILES["ci"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=100, help="warm-ups per row")
    tries = parser.parse_args().tries
    print("| pass | model | seconds, median and p90 | left at the end, median and p95 | unsteady |")
    print("|---|---|---|---|---|")
    for machine, (seconds, noise, contention) in MACHINES.items():
        for effect, (gain, constant) in EFFECTS.items():
            ended = [simulate(seconds, noise, contention, gain, constant, seed) for seed in range(tries)]
            took = np.array([warm.seconds for warm in ended])
            left = 100 * gain * np.exp(-took / constant)
            unsteady = sum(not warm.stable for warm in ended)
            print(
                f"| {machine} | {effect} | {np.median(took):.1f}, {np.quantile(took, 0.9):.1f} "
                f"| {np.median(left):.2f}%, {np.quantile(left, 0.95):.2f}% | {unsteady} of {tries} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
