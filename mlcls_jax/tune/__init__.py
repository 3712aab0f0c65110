"""The command that searches for better values of a config, by Optuna."""
