"""The `dyndepth` command: one subcommand per entry point of the group `dyndepth.commands`."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

from dyndepth_core.commands.output import printable

GROUP = "dyndepth.commands"
BAD_INPUT, INTERNAL, INTERRUPTED = 2, 70, 130  # 70: EX_SOFTWARE of sysexits.h; 130: 128 + SIGINT
# Python packages that commands need beside the base ones, and the extra that installs them.
EXTRAS = {
    "train": {"typer", "rich", "lightning", "rosbags", "tensorboard", "matplotlib"},
    "ros": {"rclpy", "sensor_msgs", "nav_msgs", "geometry_msgs", "std_msgs", "diagnostic_msgs"},
}
ABOUT = (
    "Depth images and point clouds from one camera, learned from plain video.\n\n"
    "A bag becomes a model in two steps: collect, train; doctor says beforehand whether it is fit "
    "for it. evaluate, predict and benchmark say what a model is worth, info where it comes from. "
    "Every command explains itself: dyndepth COMMAND --help."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 well, 2 bad input, 70 our fault, 130
    Ctrl-C.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app = build_app(arguments)
    except ModuleNotFoundError as error:
        say(_missing(error))
        return BAD_INPUT
    try:
        app(arguments, prog_name="dyndepth")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:  # before or after a command proper
        return _interrupted()
    return 0


def build_app(arguments: Sequence[str] = ()) -> Any:
    """The typer application; only the command named first in `arguments` is imported, if any is."""
    import typer

    _log_to_stderr()
    app = typer.Typer(
        name="dyndepth",
        help=ABOUT,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"dyndepth {version()}")
            raise typer.Exit

    @app.callback()
    def root(
        version: bool = typer.Option(
            False, "--version", help="Say the version.", callback=show_version, is_eager=True
        ),
    ) -> None:
        pass

    root.__doc__ = ABOUT
    points = {p.name: p for p in metadata.entry_points(group=GROUP)}
    if not points:
        say("no commands found: install the package (pip install -e '.[train]' in its folder)")
    named = arguments[0] if arguments and arguments[0] in points else None
    for name in sorted(points) if named is None else [named]:
        app.command(name)(_load(points[name]))
    return app


def version() -> str:
    """Version of the installed package."""
    try:
        return metadata.version("dyndepth")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn the exceptions of a command into one clear message and an exit code, never a traceback.

    ValueError, OSError and a missing extra: exit 2. Ctrl-C: 130. Anything else: 70, with the
    traceback when the environment variable DYNDEPTH_DEBUG is 1.
    """

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            function(*arguments, **options)
        except BrokenPipeError:  # `dyndepth ... | head` has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(0) from None
        except (ValueError, OSError) as error:
            _debug()
            say(error_text(error))
            raise SystemExit(BAD_INPUT) from None
        except ModuleNotFoundError as error:
            _debug()
            say(_missing(error))
            raise SystemExit(BAD_INPUT) from None
        except KeyboardInterrupt as stop:
            raise SystemExit(_interrupted(str(stop))) from None
        except Exception as error:
            _debug()
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{os.path.basename(last.filename)}:{last.lineno}"
            say(
                f"internal error, please report it: {type(error).__name__}: {error_text(error)} "
                f"({where}; DYNDEPTH_DEBUG=1 shows the traceback)"
            )
            raise SystemExit(INTERNAL) from None

    return run


def _load(point: metadata.EntryPoint) -> Callable[..., Any]:
    """The command of an entry point, or one in its place that says why it cannot run here."""
    try:
        command = guarded(point.load())
        # lines of a docstring are not those of the reader's terminal
        command.__doc__ = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(command) or "")
        return command
    except Exception as error:
        reason = _missing(error) if isinstance(error, ModuleNotFoundError) else error_text(error)

    def absent() -> None:
        raise ValueError(f"{point.name} cannot run here: {reason}")

    absent.__doc__ = f"(cannot run here: {reason})"
    return guarded(absent)


def _missing(error: ModuleNotFoundError) -> str:
    package = (error.name or str(error)).partition(".")[0]
    if package.startswith("dyndepth"):
        return f"{error.name} is not part of this installation: install dyndepth anew"
    extra = next((e for e, packages in EXTRAS.items() if package in packages), None)
    remedy = f"pip install 'dyndepth[{extra}]'" if extra else f"pip install {package}"
    if extra == "ros":
        remedy = f"source your ROS, or {remedy}"
    return f"the Python package {package} is not installed: {remedy}"


def error_text(error: BaseException) -> str:
    """Message of an exception; an OSError without its number."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _interrupted(text: str = "") -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a further Ctrl-C must not tear up the clean-up
    say(text or "interrupted", label="stopped")
    return INTERRUPTED


def _debug() -> None:
    if os.environ.get("DYNDEPTH_DEBUG") == "1":
        traceback.print_exc()


def say(text: str, label: str = "error") -> None:
    """One message on stderr, coloured where that is a terminal."""
    text = printable(text)
    try:
        from rich.console import Console
        from rich.text import Text

        head = Text(f"{label}: ", style="bold red" if label == "error" else "bold yellow")
        Console(stderr=True, soft_wrap=True).print(head + Text(text))
    except ModuleNotFoundError:
        sys.stderr.write(f"{label}: {text}\n")


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Bags and models put names of their own into messages."""
        return printable(super().format(record))


def _log_to_stderr() -> None:
    from rich.console import Console
    from rich.logging import RichHandler

    console = Console(stderr=True)
    handler: logging.Handler = logging.StreamHandler()  # a log file gets unbroken lines
    form = "%(levelname)s %(message)s"
    if console.is_terminal:
        handler, form = (
            RichHandler(console=console, show_path=False, show_time=False),
            "%(message)s",
        )
    level = os.environ.get("DYNDEPTH_LOG", "INFO").upper()
    handler.setFormatter(_Printable(form))
    logging.basicConfig(level=level, handlers=[handler])


if __name__ == "__main__":
    sys.exit(main())
