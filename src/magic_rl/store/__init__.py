"""The run directory: settings, metrics, episodes, checkpoints and saved players, never half-written."""
