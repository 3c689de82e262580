#!/usr/bin/env bash
# The console in a browser, over a real gateway with real traffic. See --help.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
# shellcheck source=deploy/common.sh
. deploy/common.sh
# shellcheck source=deploy/plant.sh
. deploy/plant.sh

usage() {
    cat <<'TEXT'
usage: tests/console.sh [--pictures] [--help]

Tests the console's web application: its units; in headless Chromium over a generated plant of 10,000
devices; and over the plant of the quickstart, with a gateway, its learning process and traffic, from the
one-time link through proposal, staging, lockdown and rollback to every page, each of which axe examines.

  --pictures  renew the pictures beside pipeline/console-app/README.md

BULKHEAD_BIN names the bulkhead binary; default: target/debug/bulkhead. The part over the real plant needs
root and network namespaces, and is skipped where they are not permitted.
TEXT
}

PICTURES=''
while [ $# -gt 0 ]; do
    case $1 in
    --pictures) PICTURES=1 ;;
    --help | -h) usage && exit 0 ;;
    *) usage >&2 && die "unknown argument: $1" ;;
    esac
    shift
done

KEEP='' STATUS=0
BULKHEAD=${BULKHEAD_BIN:-$PWD/target/debug/bulkhead}
HOST=$(dirname "$BULKHEAD")/plant-host

find_node || die "without Node the console's application cannot be tested"
[ -n "${CHROMIUM:-}" ] || [ -x /usr/bin/chromium ] || install_packages chromium ||
    die "without Chromium the console cannot be tested in a browser"
if ! build_console || ! console_packages; then die "the console's application does not build"; fi

# result NAME STATUS PASSED FAILED: one line as cargo test prints it, which tests/run.sh counts.
result() {
    local passed=${3:-0} failed=${4:-0}
    if [ "$2" -ne 0 ]; then
        STATUS=1
        [ "$failed" -gt 0 ] || failed=1
    fi
    printf '%s\ntest result: %s. %d passed; %d failed;\n' "$1" \
        "$([ "$failed" -eq 0 ] && echo ok || echo FAILED)" "$passed" "$failed"
}

units() {
    local report=$CONSOLE_APP/test-results/units.json status=0
    mkdir -p "$CONSOLE_APP/test-results"
    (cd "$CONSOLE_APP" && npx --no-install vitest run --reporter=default --reporter=json \
        --outputFile=test-results/units.json) || status=$?
    result "units of the console's application" "$status" \
        "$(sed -nE 's/.*"numPassedTests":([0-9]+).*/\1/p' "$report")" \
        "$(sed -nE 's/.*"numFailedTests":([0-9]+).*/\1/p' "$report")"
}

# browser NAME FILTER...: Playwright's tests whose file names match.
browser() {
    local name=$1 report=$CONSOLE_APP/test-results/report.json status=0
    shift
    rm -f "$report"
    (cd "$CONSOLE_APP" && npx --no-install playwright test "$@") || status=$?
    result "$name" "$status" "$(sed -nE 's/^ *"expected": ([0-9]+).*/\1/p' "$report" | tail -n 1)" \
        "$(sed -nE 's/^ *"unexpected": ([0-9]+).*/\1/p' "$report" | tail -n 1)"
}

# Traffic for as long as the plant is there: the panel and the historian ask the controllers.
keep_working() {
    while :; do
        for job in "hmi tcp plc-1 502" "hmi tcp plc-2 502" "hmi tcp historian 443" \
            "historian tcp plc-1 4840" "historian tcp plc-2 4840" "plc-1 udp historian 123"; do
            # shellcheck disable=SC2086
            set -- $job
            in_host "$1" "$HOST" ask "$2" "${V4[$3]}:$4" >/dev/null 2>&1
        done
        sleep 0.3
    done
}

real_plant() {
    is_root || return
    remove_leftovers
    mkdir -p "$RUN/policy"
    started $$ >"$RUN/started"
    trap finish EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    reserve_huge_pages 256 || warn "The gateway runs on ordinary pages."
    make_plant
    printf 'version: 1\ndefault: deny\n' >"$RUN/policy/00-guardrails.yaml"
    configure "$RUN" observe <<'TEXT'

[records]
interval-s = 1

[learn]
period-s = 3

[lockdown]
min-staged-s = 3
TEXT
    start_gateway "$RUN"
    ip netns exec "$(ns gateway)" "$BULKHEAD" learn --config "$RUN/gateway.toml" >"$RUN/learn.log" 2>&1 </dev/null 8>&- &
    local learn=$! worker host
    for host in plc-1 plc-2 historian; do
        start "serve-$host" "$host" serve tcp/22 tcp/102 tcp/443 tcp/502 tcp/4840 udp/123 udp/2222
    done
    keep_working &
    worker=$!
    start_console "$RUN" || die "the console did not start: $(cat "$RUN/console.log")"
    # Six periods: an edge has to come back to be learnt.
    sleep 20
    local job
    for job in 22 102; do in_host intruder timeout 0.5 "$HOST" ask tcp "${V4[plc-1]}:$job" >/dev/null 2>&1; done
    export CONSOLE_URL=${CONSOLE_LINK%%/setup*} CONSOLE_LINK
    browser "the story in the browser, over a real gateway" story
    browser "every page over a real gateway" pages report
    "$BULKHEAD" audit verify "$RUN/state/audit.jsonl"
    result "the audit log after the story" $? 1
    kill "$worker" "$learn" 2>/dev/null
    wait "$worker" "$learn" 2>/dev/null
    for host in "${!JOBS[@]}"; do stop "$host"; done
}

[ -z "$PICTURES" ] || export UPDATE_PICTURES=1
units
browser "the application over 10,000 generated devices" capture journeys pages report trust
unset UPDATE_PICTURES
WHY=$(why_no_namespaces)
if [ -n "$WHY" ]; then
    say "SKIPPED: the console over a real gateway: $WHY"
elif [ ! -x "$BULKHEAD" ] || [ ! -x "$HOST" ]; then
    die "build the gateway first: cargo build -p bulkhead-gateway -p bulkhead-tests --bins"
else
    real_plant
fi
exit "$STATUS"
