#!/bin/sh
# At the first start of Postgres: Temporal gets a role of its own, which sees nothing of the database backupvm.
set -eu
psql --set ON_ERROR_STOP=1 --set password="$TEMPORAL_DB_PASSWORD" --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
create role temporal login createdb password :'password';
revoke all on database backupvm from public;
SQL
