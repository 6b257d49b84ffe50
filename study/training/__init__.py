"""One network trained and evaluated; it knows neither Ray, Optuna nor MLflow."""
