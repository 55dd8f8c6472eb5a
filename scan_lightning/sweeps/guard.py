"""Runs a trial's command for a worker, and ends it with all its processes when the worker asks or dies.

A program of its own, on the standard library alone: ``python guard.py SECONDS COMMAND...``. The worker holds the other
end of the standard input; when that closes, for whatever reason, the command gets SIGTERM, and SIGKILL after the
seconds.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from types import FrameType

NOT_FOUND = 127


def end(group: int, grace: float, ended: threading.Event) -> None:
    """End a group of processes.

    Args:
        group: Its number.
        grace: Seconds between SIGTERM and SIGKILL.
        ended: Set when the first process of the group has ended.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGTERM)
        if not ended.wait(grace):
            os.killpg(group, signal.SIGKILL)


def main(arguments: list[str]) -> int:
    """Run a command until it ends or the standard input closes.

    Args:
        arguments: Seconds of grace, then the command.

    Returns:
        Exit status of the command; 128 and the number of the signal that ended it.
    """
    grace, command = float(arguments[0]), arguments[1:]
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, ask)
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603
    except OSError as error:
        print(f"cannot run {command[0]}: {error.strerror}", file=sys.stderr)
        return NOT_FOUND
    ended = threading.Event()

    def listen() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 1024):
                pass
        asked.set()

    def enforce() -> None:
        asked.wait()
        end(process.pid, grace, ended)

    for task in (listen, enforce):
        threading.Thread(target=task, daemon=True).start()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # its number stays taken until the group has ended, too
    ended.set()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    status = process.wait()
    return 128 - status if status < 0 else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
