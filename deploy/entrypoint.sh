#!/bin/sh
# Runs its arguments as a command. For each variable NAME_FILE it sets NAME to the text of that file.
set -eu
for name in $(env | sed -n 's/^\(\(FORECASTER\|MLFLOW\)_[A-Z_]*\)_FILE=.*/\1/p'); do
  eval "file=\$${name}_FILE"
  [ -r "$file" ] || { echo "error: ${name}_FILE: $file cannot be read" >&2; exit 2; }
  export "$name=$(cat "$file")"
  unset "${name}_FILE"
done
exec "$@"
