"""Web page and JSON endpoint for a trained run."""
