"""Fixtures of every test: a third party's distribution on the path, and no state of the user."""

from __future__ import annotations

import multiprocessing
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from harness.scenarios.settings import PROFILES, Profile

THIRD_PARTY = str(Path(__file__).parent / "thirdparty")
sys.path.insert(0, THIRD_PARTY)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [THIRD_PARTY, os.environ.get("PYTHONPATH")]))
os.environ["OMP_NUM_THREADS"] = "1"
# Ray gives the parts of a node 15 to 30 s to start, which a busy machine may not keep.
os.environ |= {"RAY_raylet_start_wait_time_s": "180", "RAY_agent_register_timeout_ms": "180000"}


# A process of `smoke` takes seconds to start its interpreter. Tests about several processes say so.
cast(dict[str, Profile], PROFILES)["smoke"] = replace(PROFILES["smoke"], processes=1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork children from the process of the test, so that its patches hold in them."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr("harness.stages.child.multiprocessing.get_context", lambda start: fork)
