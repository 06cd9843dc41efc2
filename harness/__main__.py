"""`python -m harness`: the command line without the installed script."""

import sys

try:
    from harness.cli.app import main
except Exception as error:  # the interpreter of a cluster's node lacks a library, say
    # Python would exit with 1, which means a regression.
    sys.stderr.write(f"error: {sys.executable} cannot run the harness: {type(error).__name__}: {error}\n")
    sys.exit(3)

main()
