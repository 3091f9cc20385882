"""The pipelines as Airflow DAGs: wiring only; every task is one call of a plain function of another room."""
