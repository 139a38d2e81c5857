"""Records of runs (training/runs.py), told to an MLflow tracking store."""

from __future__ import annotations

import base64
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INVALID_PARAMETER_VALUE, ErrorCode
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_NAME

from training.runs import Record

EXPERIMENT = "aisle"
KEY = "aisle.run"  # the tag that a run is found by
_KIND = {"mlflow.experimentKind": "custom_model_development"}  # which of its pages MLflow shows
_VALUE_CHARS = 500  # of a setting or a tag
_PARAMS, _METRICS = 100, 1_000  # what MLflow takes of a batch
_REFUSED = {ErrorCode.Name(code) for code in (BAD_REQUEST, INVALID_PARAMETER_VALUE)}


class MlflowRuns:
    """Tells a store (MLFLOW_TRACKING_URI) of runs. A record that it refuses is left out, and in `refused`;
    a store that does not answer raises."""

    def __init__(self, artifacts: str = "") -> None:
        """`artifacts` is where files of a new experiment are kept; "" leaves that to the store."""
        self.refused: list[str] = []
        self._client = MlflowClient()
        self._experiment = _experiment(self._client, artifacts)
        self._runs: dict[str, str] = {}  # MLflow's name of each key that has not ended
        self._metrics: dict[str, list[Metric]] = {}
        self._last_ms = 0

    def tell(self, record: Record) -> None:
        """Metrics wait until `flush`, or for a record of another kind."""
        self._last_ms = record["at_ms"]
        if "metrics" in record:
            self._metrics.setdefault(record["run"], []).extend(
                Metric(name, value, record["at_ms"], record["step"])
                for name, value in record["metrics"].items()
            )
            return
        self.flush()
        with self._or_refused():
            self._tell(record)

    def flush(self) -> None:
        """Metrics that wait, in as few requests as can be."""
        waiting, self._metrics = self._metrics, {}
        for key in waiting.keys() & self._runs.keys():
            metrics = waiting[key]
            for at in range(0, len(metrics), _METRICS):
                with self._or_refused():
                    self._client.log_batch(self._runs[key], metrics=metrics[at : at + _METRICS])

    def close(self) -> None:
        """Who was not said to have ended was killed."""
        self.flush()
        for run_id in self._runs.values():
            self._client.set_terminated(run_id, "KILLED", end_time=self._last_ms)
        self._runs.clear()

    def _tell(self, record: Record) -> None:
        key = record["run"]
        if "begin" in record:
            self._runs[key] = self._found(key) or self._begun(record)
        run_id = self._runs.get(key)
        if run_id is None:  # its beginning was refused
            return
        if "settings" in record:
            self._settings(run_id, record["settings"])
        if "tags" in record:
            tags = [RunTag(name, str(value)[:_VALUE_CHARS]) for name, value in record["tags"].items()]
            self._client.log_batch(run_id, tags=tags)
        if "dataset" in record:
            self._dataset(run_id, **record["dataset"])
        if "file" in record:
            self._file(run_id, record["file"], base64.b64decode(record["content"]))
        if "name" in record and "begin" not in record:
            self._client.update_run(run_id, name=record["name"])
        if "end" in record:
            self._client.set_terminated(run_id, record["end"], end_time=record["at_ms"])
            del self._runs[key]

    @contextmanager
    def _or_refused(self) -> Iterator[None]:
        try:
            yield
        except MlflowException as error:
            if error.error_code not in _REFUSED:
                raise
            self.refused.append(str(error).strip().partition("\n")[0])

    def _found(self, key: str) -> str:
        """A run that a writer before this one began to tell of."""
        found = self._client.search_runs([self._experiment], f"tags.`{KEY}` = '{key}'", max_results=1)
        return found[0].info.run_id if found else ""

    def _begun(self, record: Record) -> str:
        kind = record["begin"]
        tags = {KEY: record["run"], "kind": kind, MLFLOW_SOURCE_NAME: f"python -m training {kind}"}
        if record["parent"] in self._runs:
            tags[MLFLOW_PARENT_RUN_ID] = self._runs[record["parent"]]
        run = self._client.create_run(
            self._experiment, start_time=record["at_ms"], tags=tags, run_name=record["name"]
        )
        return str(run.info.run_id)

    def _settings(self, run_id: str, settings: dict[str, Any]) -> None:
        told = [Param(name, str(value)[:_VALUE_CHARS]) for name, value in settings.items()]
        for at in range(0, len(told), _PARAMS):
            self._client.log_batch(run_id, params=told[at : at + _PARAMS])

    def _dataset(self, run_id: str, name: str, fingerprint: str, source: str) -> None:
        dataset = Dataset(
            name=name, digest=fingerprint[:12], source_type="local", source=json.dumps({"uri": source})
        )
        self._client.log_inputs(run_id, datasets=[DatasetInput(dataset)])

    def _file(self, run_id: str, name: str, content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            self._client.log_artifact(run_id, str(path))


def _experiment(client: MlflowClient, artifacts: str) -> str:
    """The experiment's id: of MLFLOW_EXPERIMENT_NAME, MLflow's own variable, or EXPERIMENT."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            made = client.create_experiment(name, artifact_location=artifacts or None, tags=_KIND)
            return str(made)
        except MlflowException:  # another run made it in the meantime
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return str(found.experiment_id)
