"""Alembic's migrations, one file each in `versions`."""
