"""The `harness` command: groups the subcommands and turns errors into messages and exit codes."""

import errno
import os
import select
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from harness.cli.catalogue import catalogue_app
from harness.cli.compare import compare_app
from harness.cli.doctor import doctor_app
from harness.cli.downloads import commands as download_commands
from harness.cli.jobs import jobs_app
from harness.cli.options import SECTIONS
from harness.cli.results import results_app
from harness.cli.score import score_app
from harness.cli.streams import VisibleStream, redirect_to_null
from harness.cli.suites import suites_app
from harness.cli.supervisor import supervise
from harness.errors import FULL_DISK, HarnessError, InfrastructureError, UsageError
from harness.process import leave_removed_folder

GREETING = """Which model, at what accuracy, at what speed, on this hardware, and is the difference real?

Run models on benchmark suites in this process or on a Ray cluster, compute BLEU, mAP, mIoU and speed with
intervals, log to MLflow, and compare runs."""

EXAMPLES = """\b
Examples:
  harness run quickstart                                  run a shipped suite, write its report
  harness compare runs/quickstart --baseline runs/main    exit with code 1 on a regression
  harness score detection --annotations coco.json --predictions mine.json"""

SUPERVISED = {"calibrate", "plan", "run", "train", "validate", "verify"}  # commands that import plug-ins
SIGPIPE_EXIT_CODE = 141  # exit code that a shell reports for a process ended by a closed pipe


class Group(TyperGroup):
    """List the commands by section, and turn errors that users can cause into one line and an exit code."""

    def make_context(self, *arguments: Any, **extra: Any) -> Any:
        with _ending_without_stdout():
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: Any) -> Any:
        with _ending_without_stdout():
            try:
                return super().invoke(ctx)
            except HarnessError as error:
                sys.stderr.write(f"error: {error}\n")
                raise typer.Exit(error.exit_code) from None
            except KeyboardInterrupt:
                sys.stderr.write("interrupted; the same command resumes\n")
                raise typer.Exit(130) from None
            except (Exception, SystemExit) as error:  # a plug-in may call sys.exit
                # Exit code 1 means a regression: an internal error must not look like one.
                if hasattr(error, "exit_code") or _stdout_is_closed() or _is_of_a_full_disk(error):
                    raise
                if os.environ.get("HARNESS_DEBUG"):
                    traceback.print_exc()
                elif isinstance(error, OSError) and error.filename:  # such as a folder in place of a file
                    sys.stderr.write(f"error: {str(error.filename)[:200]}: {error.strerror}\n")
                    if error.errno == errno.ENAMETOOLONG:
                        raise typer.Exit(UsageError.exit_code) from None
                else:
                    message = f"{type(error).__name__}: {error}"
                    sys.stderr.write(f"internal error: {message} (set HARNESS_DEBUG=1 to see where)\n")
                raise typer.Exit(HarnessError.exit_code) from None

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        for section, names in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(80)) for name in names])


@contextmanager
def _ending_without_stdout() -> Iterator[None]:
    """Exit as `cat` does if the pipe's reader has ended (`harness list | head -1`) or the disk is full."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        if _is_of_a_full_disk(error):
            sys.stderr.write(f"error: standard output or a temporary file: {error.strerror}\n")
        elif not isinstance(error, BrokenPipeError) or not _stdout_is_closed():
            raise
        redirect_to_null(sys.stdout)  # Python flushes it once more at exit
        code = SIGPIPE_EXIT_CODE if isinstance(error, BrokenPipeError) else InfrastructureError.exit_code
        raise typer.Exit(code) from None


def _is_of_a_full_disk(error: BaseException) -> bool:
    """Return whether a file without a name could not be written, such as standard output."""
    return isinstance(error, OSError) and error.errno in FULL_DISK and not error.filename


def _stdout_is_closed() -> bool:
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError):  # stdout is not a file, as in tests
        return False


app = typer.Typer(
    cls=Group,
    help=GREETING,
    epilog=EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help starts twice as fast, and reads the same in a log
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for commands in (suites_app, results_app, compare_app, jobs_app, catalogue_app, doctor_app):
    app.add_typer(commands)
app.add_typer(score_app, name="score")
app.add_typer(download_commands("data"), name="data")
app.add_typer(download_commands("weights"), name="weights")


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        sys.stdout.write(f"harness {version('harness')}\n")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Define the options of `harness` itself."""


def main() -> None:
    """Run the command line."""
    # Python has no stdout if its descriptor is closed (`>&-`): the exit code must still be the command's.
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        setattr(sys, name, VisibleStream(stream))
    leave_removed_folder()
    if cache := os.environ.get("HARNESS_CACHE"):
        os.environ["HARNESS_CACHE"] = str(Path(cache).absolute())  # children may change their folder
    if {*sys.argv[1:2]} & SUPERVISED and hasattr(signal, "sigwaitinfo"):
        supervise()
    app()
