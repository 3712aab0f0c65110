"""report.html of a run: what is in it, its charts, and how it is kept up to date."""
