"""report.html of a run: its contents, its charts and its updates during training."""
