"""Alembic's entry: it runs on the connection that it is given."""

from alembic import context

from forecaster.database.tables import METADATA

given = context.config.attributes
context.configure(
    connection=given["connection"],
    target_metadata=METADATA,
    version_table=given["version_table"],
    transactional_ddl=True,
)
context.run_migrations()
