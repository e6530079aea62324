#!/bin/sh
# Creates the namespace that TEMPORAL_NAMESPACE names, and waits until the whole server knows it. May run at every start.
set -eu

# A server that has just started refuses for a while, and a new namespace is known everywhere only after some seconds.
retry() {
  left=30
  until "$@"; do
    left=$((left - 1))
    if [ "$left" -eq 0 ]; then
      echo "gave up after 60 s: $*" >&2
      exit 1
    fi
    sleep 2
  done
}

retry temporal operator cluster health
if ! temporal operator namespace describe --namespace "$TEMPORAL_NAMESPACE" >/dev/null 2>&1; then
  # Finished runs stay visible this long; what was backed up stays in Postgres for good.
  retry temporal operator namespace create --namespace "$TEMPORAL_NAMESPACE" --retention 30d
fi
retry temporal operator search-attribute list --namespace "$TEMPORAL_NAMESPACE"
