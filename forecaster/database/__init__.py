"""The database of ledger, keys and jobs: SQLite beside the store, or Postgres; its tables, migrations and locks."""
