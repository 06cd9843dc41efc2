"""Everything that a child process needs before it is forked; imported by the server that forks children.

Importing torch takes seconds, so the server does it once for all children of a run.
"""

import torch  # noqa: F401

import harness.stages.predict  # noqa: F401
from harness.process import end_with_parent

end_with_parent()
