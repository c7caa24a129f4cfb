#!/bin/sh
# Creates the two databases. Each has its own role, which cannot see the other. Runs once, on an empty volume.
set -eu

# $1: the name of the role and of its database; $2: the file with its URL, whose password has no URL-encoded character
create() {
  password=$(sed 's|^[^:]*://[^:]*:\([^@]*\)@.*|\1|' "$2")
  # A here document: the arguments of a process would show the password.
  psql -v ON_ERROR_STOP=1 --no-psqlrc --quiet --username "$POSTGRES_USER" --dbname postgres <<SQL
\set password '$password'
CREATE ROLE $1 LOGIN PASSWORD :'password';
CREATE DATABASE $1 OWNER $1;
REVOKE ALL ON DATABASE $1 FROM PUBLIC;
SQL
}

create forecaster "$FORECASTER_DATABASE_URL_FILE"
create mlflow "$MLFLOW_BACKEND_STORE_URI_FILE"
