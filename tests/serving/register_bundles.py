"""Run in a process of its own: registers bundle directories with a real MLflow server. Prints versions and sources."""

from __future__ import annotations

import json
import sys

from mlflow import MlflowClient

uri, name, *directories = sys.argv[1:]
client = MlflowClient(uri, uri)
experiment = client.create_experiment("serving-tests")
client.create_registered_model(name)
registered = []
for number, directory in enumerate(directories):
    run = client.create_run(experiment)
    client.log_artifacts(run.info.run_id, directory, "serving")
    # Both ways of naming the artifacts that MLflow's own tools use.
    source = f"{run.info.artifact_uri}/serving" if number % 2 == 0 else f"runs:/{run.info.run_id}/serving"
    version = client.create_model_version(name, source, run_id=run.info.run_id)
    registered.append([version.version, version.source])
print(json.dumps(registered))
