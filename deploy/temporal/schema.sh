#!/bin/sh
# Creates Temporal's two databases, and brings their tables up to the version of this image. May run at every start.
set -eu
for kind in temporal visibility; do
  database=temporal
  if [ "$kind" = visibility ]; then database=temporal_visibility; fi
  sql_tool="temporal-sql-tool --plugin postgres12 --ep postgres --port 5432 --user temporal --db $database"
  $sql_tool create
  $sql_tool setup-schema -v 0.0
  $sql_tool update-schema -d "/etc/temporal/schema/postgresql/v12/$kind/versioned"
done
