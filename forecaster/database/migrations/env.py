"""Alembic's entry point. It uses the connection in the configuration's attributes."""

from alembic import context

from forecaster.database.tables import METADATA

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    target_metadata=METADATA,
    version_table=attributes["version_table"],
    transactional_ddl=True,
)
context.run_migrations()
