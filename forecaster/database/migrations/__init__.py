"""Alembic's migrations: one file for each in `versions`."""
