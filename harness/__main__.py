"""`python -m harness`: the command line without the installed script."""

import sys

try:
    from harness.cli.app import main
except Exception as error:  # for example, the interpreter of a cluster node lacks a library
    # Python would exit with code 1, which means a regression.
    sys.stderr.write(f"error: {sys.executable} cannot run the harness: {type(error).__name__}: {error}\n")
    sys.stderr.write("on a cluster, start Ray with the `bin` folder of its environment first on PATH\n")
    sys.exit(3)

main()
