"""From a request to a logged prediction. Nothing here imports Feast, MLflow, pandas or scikit-learn."""
