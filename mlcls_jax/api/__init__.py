"""The Python API; `import mlcls_jax` offers all of it, and imports it when it is first used."""
