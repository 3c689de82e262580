#!/usr/bin/env bash
# An optimised gateway under full load with reloads every second. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/common.sh
. deploy/common.sh

if [ "${1:-}" = --help ] || [ "${1:-}" = -h ] || [[ ! ${1:-3600} =~ ^[0-9]+$ ]]; then
    cat <<'TEXT'
usage: tests/soak.sh [SECONDS]

Builds an optimised gateway and keeps it under full load between network namespaces over AF_XDP, as
root, for an hour or SECONDS, with another policy each second. Fails unless its memory stays flat, every
frame is accounted for at the end, and nothing forbidden arrived.

Environment:
  BULKHEAD_RESULTS  folder in which the account is written as soak.md.
  BULKHEAD_BIN      the gateway; default: target/release/bulkhead, built first.
TEXT
    [[ ${1:-} == -* ]]
    exit
fi
find_cargo
if [ -z "${BULKHEAD_BIN:-}" ]; then
    run_cargo build --release -p bulkhead-gateway
    export BULKHEAD_BIN=$PWD/target/release/bulkhead
fi
[ -z "${BULKHEAD_RESULTS:-}" ] || BULKHEAD_RESULTS=$(cd "$BULKHEAD_RESULTS" && pwd)
export BULKHEAD_RESULTS=${BULKHEAD_RESULTS:-} BULKHEAD_SOAK_S=${1:-3600}
E2E=$(run_cargo test -p bulkhead-tests --test e2e --no-run --message-format json |
    sed -n 's:.*"name"\:"e2e".*"executable"\:"\([^"]*\)".*:\1:p' | tail -n 1)
reserve_huge_pages 256 || warn "The gateway runs on ordinary pages."
trap release_huge_pages EXIT
"$E2E" --show-output --nocapture soak::
