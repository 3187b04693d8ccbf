"""Scripts in processes of their own that need not import PyTorch anew: each is forked from one process that has.

A process of Python that is to train or to segment takes 5 s of a core before it does anything. Here it is forked from a
server that has imported what scripts import and has loaded the engine; it is as killable, interruptible and alone with
its files as one that was started, and tells apart nothing but its parent. What is about the start itself, or about the
memory of a process, starts one.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_LONGEST = 1 << 20
# What only some scripts import, in seconds: before the first of these is forked.
_FURTHER = {
    "train_network.py": ("monai.networks.nets", "monai.inferers", "monai.losses"),
    "searching.py": ("micronet.training.search.study",),
}


class Forked:
    """A forked process: what tests use of `subprocess.Popen`."""

    def __init__(self, pid, status, pipes):
        self.pid, self._status, self.returncode = pid, status, None
        self.stdin, self.stdout, self.stderr = pipes

    def poll(self):
        return self._await(0)

    def wait(self, timeout=None):
        if self._await(timeout) is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout)
        return self.returncode

    def _await(self, seconds):
        if self.returncode is None and select.select([self._status], [], [], seconds)[0]:
            code = os.waitstatus_to_exitcode(int(os.read(self._status, 32) or b"-1"))
            os.close(self._status)
            self.returncode = code
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def communicate(self, typed=None, timeout=None):
        """Give it its input, read all that it says, wait for its end."""
        if self.stdin is not None and not self.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.write(typed or "")
                self.stdin.close()
        said = {}
        readers = [
            threading.Thread(target=lambda stream=stream: said.update({stream: stream.read()}), daemon=True)
            for stream in (self.stdout, self.stderr)
            if stream is not None and not stream.closed
        ]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        for stream in said:
            stream.close()
        return said.get(self.stdout), said.get(self.stderr)


def fork(command, *, cwd=None, env=None, stdin=None, stdout=None, stderr=None, terminal=False):
    """Run [script, arguments ...] in a forked process; the other arguments are those of `subprocess.Popen`, text.

    Parameters
    ----------
    terminal : bool
        Its standard input is a terminal that becomes its own, in a session of its own.
    """
    if not hasattr(os, "fork"):  # Windows starts one
        environment = (os.environ if env is None else env) | {"PYTHONIOENCODING": "utf-8"}
        words = [sys.executable, *map(str, command)]
        streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        return subprocess.Popen(words, cwd=cwd, env=environment, text=True, encoding="utf-8", **streams)
    mine, theirs, opened = [], [], []
    for number, wish in enumerate((stdin, stdout, stderr)):
        if wish == subprocess.PIPE:
            ends = os.pipe()
            own = ends[1] if number == 0 else ends[0]
            theirs.append(ends[0] if number == 0 else ends[1])
            mine.append(os.fdopen(own, "w" if number == 0 else "r", encoding="utf-8"))
            opened.append(theirs[-1])
        else:
            if wish == subprocess.DEVNULL:
                opened.append(os.open(os.devnull, os.O_RDWR))
                wish = opened[-1]
            elif wish == subprocess.STDOUT:
                wish = theirs[1]
            theirs.append(number if wish is None else wish if isinstance(wish, int) else wish.fileno())
            mine.append(None)
    status, told = os.pipe()
    request = {
        "command": [str(part) for part in command],
        "cwd": str(cwd or Path.cwd()),
        "env": dict(os.environ if env is None else env),
        "terminal": terminal,
    }
    server = _server()
    socket.send_fds(server, [json.dumps(request).encode() + b"\n"], [*theirs, told])
    for number in (*opened, told):
        os.close(number)
    return Forked(int(server.recv(32)), status, mine)


@functools.cache
def _server():
    """Start the server of this process; it ends with it."""
    here, there = socket.socketpair()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
    process = subprocess.Popen(
        [sys.executable, __file__, str(there.fileno())],
        pass_fds=[there.fileno()],
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        env=environment,
        cwd=ROOT,
    )
    there.close()

    def end():
        here.close()
        process.wait()

    atexit.register(end)
    return here


def _prepare():
    """Import what scripts import, and load what they compute with."""
    import infer
    import train_micronet
    import train_micrornet
    import train_network
    from micronet.app import launch, segmenting
    from micronet.networks import engine
    from micronet.report import figure, preview
    from micronet.segment import job
    from micronet.training import session, trainer

    for work in ("training", "forward"):
        engine.make_ready(work)
    gc.collect()
    gc.freeze()
    return (
        infer,
        train_micronet,
        train_micrornet,
        train_network,
        launch,
        segmenting,
        figure,
        preview,
        job,
        session,
        trainer,
    )


@functools.cache
def _prepare_further(script):
    for module in _FURTHER.get(script, ()):
        with contextlib.suppress(ImportError):  # an extra that is not installed
            importlib.import_module(module)
    gc.collect()
    gc.freeze()


def _serve(connection):
    """Fork what is asked for; return, in the forked process, what it is to do."""
    statuses = {}

    def reap(*_):
        for pid in list(statuses):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                with contextlib.suppress(BrokenPipeError):
                    os.write(statuses[pid], str(status).encode())
                os.close(statuses.pop(pid))

    while True:
        while not select.select([connection], [], [], 0.02 if statuses else None)[0]:
            reap()
        data, files, _, _ = socket.recv_fds(connection, _LONGEST, 4)
        if not data:
            os._exit(0)
        while not data.endswith(b"\n"):
            data += connection.recv(_LONGEST)
        *streams, told = files
        _prepare_further(Path(json.loads(data)["command"][0]).name)
        pid = os.fork()
        if pid == 0:
            connection.close()
            for each in (*statuses.values(), told):
                os.close(each)
            return json.loads(data), streams
        for each in streams:
            os.close(each)
        statuses[pid] = told
        connection.send(str(pid).encode())


def _become(request, streams):
    """Be the process that was asked for; return its script."""
    for number, each in enumerate(streams):
        os.dup2(each, number)
    for each in streams:
        if each > 2:
            os.close(each)
    if request["terminal"]:
        import fcntl
        import termios

        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C reaches it
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.stdin, sys.stdout = (open(number, mode, encoding="utf-8") for number, mode in ((0, "r"), (1, "w")))
    if "PYTHONUNBUFFERED" in os.environ:
        sys.stdout.reconfigure(line_buffering=True)
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    sys.argv = request["command"]
    return sys.argv[0]


def _run(script):
    """Run a script as Python does, and end as Python does, but for taking all modules apart, which takes 0.4 s."""
    code = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as left:
        code = left.code
        if not isinstance(code, int | None):
            sys.stderr.write(f"{code}\n")
            code = 1
    except KeyboardInterrupt:
        raise  # Python ends itself by that signal
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    _prepared = _prepare()
    _run(_become(*_serve(socket.socket(fileno=int(sys.argv[1])))))
