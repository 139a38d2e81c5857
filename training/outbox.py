"""What MLflow is to be told: beside the training and never in its way.

Records go into a file below AISLE_HOME/tracking/outbox; a process of its own (training/tracking_writer.py)
reads them from there and tells MLflow, while the training works. So a server that is slow costs nothing, and
what one that is away has missed is told with the next run that gets through. The file is locked for as long
as the training or its writer lives: what nobody holds is for the next writer.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path

from training.runs import Record
from training.settings import Settings

ROOT = Path(__file__).parent.parent
WAIT_S = 3.0  # for the writer, when the run is over
# MLflow reports usage unless told not to (DO_NOT_TRACK=1 it does not take for a yes), and asks an absent
# server for minutes.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a process of 250 MB that runs no jobs of ours
}


def tracking_uri(environment: Settings, environ: Mapping[str, str] = os.environ) -> str:
    """Where runs are kept: MLFLOW_TRACKING_URI, MLflow's own variable, or SQLite below AISLE_HOME."""
    return environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{environment.tracking_folder / 'mlflow.db'}"


def without_secrets(text: str) -> str:
    """A URI may hold a password."""
    return re.sub(r"://[^/\s@]*@", "://...@", text)


class MlflowOutbox:
    """Writes records to a file, and starts the process that reads it with the first one."""

    def __init__(self, environment: Settings, *, wait_s: float = WAIT_S) -> None:
        self._environment = environment
        self._uri = tracking_uri(environment)
        self._wait_s = wait_s
        self._path = _outbox(environment, self._uri) / f"{uuid.uuid4().hex}.jsonl"
        self._file = -1
        self._writer: subprocess.Popen[bytes] | None = None

    def tell(self, record: Record) -> None:
        if self._writer is None:
            self._begin()
        line = (json.dumps(record, default=str) + "\n").encode()
        while line:
            line = line[os.write(self._file, line) :]

    def close(self) -> None:
        """Wait for the writer, but not for long. Raises where MLflow does not have the run by then."""
        if self._writer is None:
            return
        os.close(self._file)
        assert self._writer.stdin is not None
        self._writer.stdin.close()  # its end says that there is no more
        to = without_secrets(self._uri)
        try:
            code = self._writer.wait(self._wait_s)
        except subprocess.TimeoutExpired as error:
            why = f"{to} has not taken all of it {self._wait_s:g} s after its end; this goes on behind"
            raise TimeoutError(why) from error
        if code:
            said = self._complaints.read_text(errors="replace").strip().splitlines()
            why = without_secrets(said[-1]) if said else f"the writer ended with {code}"
            raise ConnectionError(f"{to}: {why}")

    @property
    def _complaints(self) -> Path:
        return self._path.with_suffix(".log")

    def _begin(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        with self._complaints.open("wb") as complaints:
            self._writer = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "training.tracking_writer",
                    str(self._path),
                    _artifacts(self._environment),
                ],
                cwd=ROOT,
                env={**QUIET, **os.environ, "MLFLOW_TRACKING_URI": self._uri},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                pass_fds=(self._file,),  # the lock is the writer's too
                start_new_session=True,  # Ctrl-C is the training's to answer
            )


def _outbox(environment: Settings, uri: str) -> Path:
    """A folder a server: what one has missed is not told to another."""
    return environment.tracking_folder / "outbox" / hashlib.sha256(uri.encode()).hexdigest()[:8]


def _artifacts(environment: Settings) -> str:
    """Where files of runs are kept beside a database of ours; of a server they are its own affair."""
    own = tracking_uri(environment).startswith("sqlite:")
    return (environment.tracking_folder / "artifacts").as_uri() if own else ""
