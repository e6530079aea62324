#!/usr/bin/env bash
# What `npm test` does: makes the machine ready, then runs the checks and all tests. The tests with libvirt run beside the others,
# since they mostly wait for guests; what they say comes at the end, in full when one of them failed.
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/setup.sh test
npm run check

report=$(mktemp)
npx vitest run --project libvirt >"$report" 2>&1 </dev/null &
libvirt=$!
trap 'kill "$libvirt" 2>/dev/null || true; rm -f "$report"' EXIT

status=0
npx vitest run --project '!libvirt' || status=$?
if wait "$libvirt"; then
  tail -n 6 "$report"
else
  status=1
  cat "$report"
fi
exit "$status"
