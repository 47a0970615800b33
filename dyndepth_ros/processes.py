"""Several ROS processes run by one command, on a graph of their own, none of which survives it."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

log = logging.getLogger(__name__)
# Domains that tests (1 to 100) and robots rarely use, clear of Linux's ephemeral ports.
DOMAINS = range(215, 232)
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
SHARED_MEMORY = 512 << 20  # bytes free in /dev/shm that the large segments need
NO_ROOM = (
    "%s is not used: /dev/shm has %d MB free and %d are needed, so large images may get lost. In "
    "docker: --shm-size=1g"
)
OLD_DISTROS = ("humble", "iron", "jazzy")
_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def own_domain() -> Iterator[int]:
    """A ROS domain that no other demo on this machine uses; ValueError when all are taken."""
    for domain in DOMAINS:
        with socket.socket() as claim:
            try:
                claim.bind(("127.0.0.1", 7400 + 250 * domain))
            except OSError:
                continue
            yield domain
            return
    raise ValueError(f"all ROS domains from {DOMAINS.start} to {DOMAINS.stop - 1} are in use")


def isolated_environment(domain: int) -> dict[str, str]:
    """Environment of processes that see each other and no robot: domain, this machine only.

    With a Fast DDS profile that holds large images, unless one is set or memory is short, which is
    said.
    """
    outside = ("ROS_DISCOVERY_SERVER", "ROS_NAMESPACE", "ROS_STATIC_PEERS")
    env = {k: v for k, v in os.environ.items() if k not in outside}
    # what lies in the working folder must not be imported in the place of a library
    env["PYTHONSAFEPATH"] = "1"
    root = str(Path(__file__).resolve().parents[1])
    env["PYTHONPATH"] = os.pathsep.join(p for p in (env.get("PYTHONPATH"), root) if p)
    env["ROS_DOMAIN_ID"] = str(domain)
    env["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    if env.get("ROS_DISTRO") == "humble":  # newer ones warn about it
        env["ROS_LOCALHOST_ONLY"] = "1"
    profile = find_share("config/fastdds.xml")
    if profile is None or any(env.get(v) for v in PROFILE_VARIABLES):
        return env
    if (free := _free_shared_memory()) <= SHARED_MEMORY:
        log.warning(NO_ROOM, profile, free >> 20, SHARED_MEMORY >> 20)
    else:
        # a sourced ROS names itself; without one this is the Python registry's Kilted
        old = env.get("ROS_DISTRO", "kilted") in OLD_DISTROS
        env.update({v: str(profile) for v in PROFILE_VARIABLES[: 1 + old]})
    return env


def _free_shared_memory() -> int:
    """Bytes free in /dev/shm, 0 where there is none."""
    try:
        stat = os.statvfs("/dev/shm")
    except OSError:
        return 0
    return stat.f_bavail * stat.f_frsize


def find_share(name: str) -> Path | None:
    """A file this package ships: in the source tree, or where it was installed."""
    places = [Path(__file__).resolve().parent.parent, Path(sys.prefix) / "share" / "dyndepth"]
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        places.append(Path(prefix) / "share" / "dyndepth")
    return next((p / name for p in places if (p / name).is_file()), None)


class Processes:
    """Children of a command, each with its own log file; leaving the context ends them all."""

    def __init__(self, logs: Path, env: dict[str, str]) -> None:
        self._logs, self._env = logs, env
        self._children: dict[str, subprocess.Popen] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Processes:
        # A terminal that closes or a `kill` shall sweep as Ctrl-C does.
        self._old = {s: signal.signal(s, _leave) for s in (signal.SIGTERM, signal.SIGHUP)}
        return self

    def __exit__(self, *_: object) -> None:
        impatient = signal.signal(signal.SIGINT, signal.SIG_IGN)  # sweep first, whoever insists
        for name in reversed(list(self._children)):
            self._signal(name, signal.SIGINT)
        for name in self._children:
            self.stop(name)
        for number, handler in {**self._old, signal.SIGINT: impatient}.items():
            signal.signal(number, handler)

    def start(self, name: str, module: str, **parameters: object) -> None:
        """Start a node of this package as `python -m module --ros-args -p ...`."""
        words = [w for k, v in parameters.items() for w in ("-p", f"{k}:={_yaml(v)}")]
        command = [sys.executable, "-m", module, "--ros-args", *words]
        with (self._logs / f"{name}.log").open("w") as log:
            self._children[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env,
                start_new_session=True, preexec_fn=_die_with_parent if _LIBC else None,
            )  # fmt: skip

    def running(self, name: str) -> bool:
        """Whether a child still runs."""
        return self._children[name].poll() is None

    def check(self, may_end: tuple[str, ...] = ()) -> None:
        """ValueError with the end of its log when a child ended that should not have."""
        for name, child in self._children.items():
            code = child.poll()
            if code is not None and (code != 0 or name not in may_end):
                raise ValueError(f"{name} ended with exit code {code}:\n{self.tail(name)}")

    def tail(self, name: str, lines: int = 12) -> str:
        """The last lines of a child's log."""
        log = self._logs / f"{name}.log"
        text = log.read_text(errors="replace").splitlines()[-lines:]
        return "\n".join(f"  {line}" for line in text) + f"\n  (all of it in {log})"

    def stop(self, name: str, patience: float = 10.0) -> int:
        """End a child, gently first; returns its exit code."""
        child = self._children[name]
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            self._signal(name, number)
            try:
                child.wait(patience)
                break
            except subprocess.TimeoutExpired:
                patience = 3.0
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # whatever it may have started itself
        return child.wait()

    def _signal(self, name: str, number: int) -> None:
        if self.running(name):
            with contextlib.suppress(ProcessLookupError):
                self._children[name].send_signal(number)


def wait_until(condition: object, patience: float, interval: float = 0.1) -> bool:
    """Poll a condition; False when it did not come true in time."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(interval)
    return True


def _leave(number: int, _: object) -> None:
    raise SystemExit(128 + number)


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value)  # ROS wants 2.0, not 2, for a double
    return str(value) if isinstance(value, int) else f"""'{str(value).replace("'", "''")}'"""


try:
    _LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
except OSError:
    _LIBC = None


def _die_with_parent() -> None:
    """In the child: when this command is killed outright, the kernel tells it to end."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
