"""Everything that a child process needs before it is forked; imported by the server that forks children.

Importing torch and torchvision takes seconds, so the server does it once for all children of a run.
"""

# ruff: noqa: E402
import signal

from harness.process import end_with_parent

end_with_parent()
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, also during the imports below

import torch  # noqa: F401
import torchvision.ops  # noqa: F401

import harness.scenarios.offline
import harness.stages.measure
import harness.stages.predict  # noqa: F401
from harness import environment

environment.describe()  # caches the hardware and packages for all children
