"""Search for good settings: trials of one study, in which several processes may take part. Needs Optuna, an extra."""
