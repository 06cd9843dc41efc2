"""Drive the plan of a suite. The package is also the function `harness.run` (harness/api.py)."""

import sys

from harness import CallablePackage

sys.modules[__name__].__class__ = CallablePackage
