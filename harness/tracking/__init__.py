"""Runs in MLflow: one experiment per suite, one MLflow run per harness run, one child run per trial.

MLflow is a projection of run directories: `sync` recreates everything that MLflow loses. MLflow is imported
only by the functions that need it, so importing this package is cheap.
"""

from harness.tracking.projection import SyncOutcome, sync
from harness.tracking.tracking_store import default_tracking_uri, served_views, ui_command

__all__ = ["SyncOutcome", "default_tracking_uri", "served_views", "sync", "ui_command"]
