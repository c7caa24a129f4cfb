"""The database of the ledger, API keys and jobs, on SQLite or Postgres: tables, migrations, locks and backups."""
