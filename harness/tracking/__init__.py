"""Runs in MLflow: an experiment a suite, a run a harness run, a child run a trial.

Nothing is only there: whatever MLflow loses is made again by `sync` from the run directory. MLflow itself
is imported by the functions that need it; importing this costs nothing.
"""

from harness.tracking.projection import SyncOutcome, sync
from harness.tracking.tracking_store import default_tracking_uri, ui_command

__all__ = ["SyncOutcome", "default_tracking_uri", "sync", "ui_command"]
