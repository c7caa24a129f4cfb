#!/bin/sh
# Makes the two databases, each of a role of its own that cannot see the other; run once, on an empty volume.
set -eu

# $1: the role and its database; $2: the file with its URL, whose password has no character that URLs would encode
make() {
  password=$(sed 's|^[^:]*://[^:]*:\([^@]*\)@.*|\1|' "$2")
  # a here document, so that no process' arguments show it
  psql -v ON_ERROR_STOP=1 --no-psqlrc --quiet --username "$POSTGRES_USER" --dbname postgres <<SQL
\set password '$password'
CREATE ROLE $1 LOGIN PASSWORD :'password';
CREATE DATABASE $1 OWNER $1;
REVOKE ALL ON DATABASE $1 FROM PUBLIC;
SQL
}

make forecaster "$FORECASTER_DATABASE_URL_FILE"
make mlflow "$MLFLOW_BACKEND_STORE_URI_FILE"
