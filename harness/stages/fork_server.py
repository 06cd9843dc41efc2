"""Everything that a child process needs before it is forked; imported by the server that forks children.

Importing torch takes seconds, so the server does it once for all children of a run.
"""

import torch
from torch.utils.flop_counter import FlopCounterMode

import harness.scenarios.offline
import harness.stages.measure
import harness.stages.predict  # noqa: F401
from harness.process import end_with_parent

with FlopCounterMode(display=False):
    torch.zeros(1).add(1)  # the first counted operation imports a second's worth of modules
end_with_parent()
