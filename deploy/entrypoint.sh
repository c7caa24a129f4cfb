#!/bin/sh
# Starts what it is given. A variable NAME_FILE makes NAME the text of that file: secrets come as files.
set -eu
for name in $(env | sed -n 's/^\(\(FORECASTER\|MLFLOW\)_[A-Z_]*\)_FILE=.*/\1/p'); do
  eval "file=\$${name}_FILE"
  [ -r "$file" ] || { echo "error: ${name}_FILE: $file cannot be read" >&2; exit 2; }
  export "$name=$(cat "$file")"
  unset "${name}_FILE"
done
exec "$@"
