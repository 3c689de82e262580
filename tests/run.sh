#!/usr/bin/env bash
# Runs every test of Bulkhead. See --help.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
# shellcheck source=deploy/common.sh
. deploy/common.sh

usage() {
    cat <<'TEXT'
usage: tests/run.sh [--full] [--help]

Installs the Debian packages that are missing (as root), builds, and runs every test: units and
properties, golden cases, replays of captures, and the gateway itself, end to end, between network
namespaces over AF_XDP and AF_PACKET. At most 15 minutes on two cores.

  --full   also the long tests: 1,000 reloads under load, ten minutes of mixed load, and the others
           that say "only with --full"

The end-to-end tests need root, network namespaces and huge pages. What this machine does not
permit is skipped, counted, and listed with its reason at the end.

Environment:
  BULKHEAD_DATA  folder with captures and rule sets; default ../shared. Without it the tests that
                 need it are skipped, but with CI=true its absence is a failure.
  CI             true: nothing may be missing that a test needs from the data folder.
  BULKHEAD_BIN   the bulkhead binary to test end to end; default: the one built here.

Exit status: 0 when nothing failed. The whole output of the last run: target/test-run.log
TEXT
}

export BULKHEAD_FULL=''
while [ $# -gt 0 ]; do
    case $1 in
    --full) export BULKHEAD_FULL=1 ;;
    --help | -h) usage && exit 0 ;;
    *) usage >&2 && die "unknown argument: $1" ;;
    esac
    shift
done

PASSED=0 FAILED=0
LOG='' ONE=''
finish() {
    release_huge_pages
    rm -f "$ONE"
}
trap finish EXIT
trap 'exit 130' INT TERM

# What the tests of every crate need, and what only those of the running gateway do.
find_cargo
BUILD_PACKAGES=(build-essential pkg-config libdpdk-dev)
RUN_PACKAGES=(dpkg-dev jq openssh-client iproute2 ethtool curl python3-jsonschema python3-venv prometheus nftables nmap hping3 thc-ipv6 dnsmasq-base nfdump tshark faketime)
install_packages "${BUILD_PACKAGES[@]}" || die "DPDK and a C compiler are needed to build the gateway."
[ -z "$BULKHEAD_FULL" ] || RUN_PACKAGES+=(lintian debootstrap)
install_packages "${RUN_PACKAGES[@]}" || warn "The tests that need these programs are skipped."

export BULKHEAD_DATA=${BULKHEAD_DATA:-$PWD/../shared}
if [ -d "$BULKHEAD_DATA" ]; then
    BULKHEAD_DATA=$(cd "$BULKHEAD_DATA" && pwd)
elif [ "${CI:-}" = true ]; then
    die "CI=true, and the data folder $BULKHEAD_DATA is missing. Put it there or set BULKHEAD_DATA."
fi

mkdir -p target
LOG=$PWD/target/test-run.log
: >"$LOG" || die "cannot write $LOG (left by root? chown it, or remove it)."
[ -z "${SUDO_USER:-}" ] || chown "$SUDO_USER" target "$LOG"
ONE=$(mktemp)

# record STEP STATUS: adds the counts of the step whose output is in $ONE.
record() {
    local step=$1 status=$2 passed failed
    # cargo test prints one line a binary, nextest one for all.
    passed=$(sed -n 's/^test result: .* \([0-9]*\) passed;.*/\1/p
        s/^ *Summary .* \([0-9]*\) passed.*/\1/p' "$ONE" | awk '{n += $1} END {print n + 0}')
    failed=$(sed -n 's/^test result: .* \([0-9]*\) failed;.*/\1/p' "$ONE" | awk '{n += $1} END {print n + 0}')
    failed=$((failed + $(sed -n 's/^ *Summary .*tests\{0,1\} run: *\(.*\)/\1/p' "$ONE" |
        grep -oE '[0-9]+ (failed|timed out|exec failed)' | awk '{n += $1} END {print n + 0}')))
    # A step that broke before it could count (it does not compile) is one failure.
    if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi
    if [ "$failed" -gt 0 ]; then
        warn "$step: $failed failed:"
        # As cargo, then as Playwright and schemathesis name what failed and say why.
        grep -aE '^ *(FAIL|TIMEOUT|SIGABRT|SIGSEGV) |^test .* FAILED|^error|panicked at' "$ONE" | sort -u | head -n 40 >&2
        grep -aE -A 12 '^ *[0-9]+\) .*\.spec\.ts|^_+ .* _+$|^ *FAIL ' "$ONE" | head -n 100 >&2
    fi
    PASSED=$((PASSED + passed)) FAILED=$((FAILED + failed))
    cat "$ONE" >>"$LOG"
}

# run STEP COMMAND...: runs the command, shows one line for each test as it ends, and counts.
run() {
    local step=$1
    shift
    head_line "$step"
    "$@" </dev/null 2>&1 | tee "$ONE" |
        grep -aE --line-buffered '^ *(PASS|FAIL|TIMEOUT|SLOW|Compiling bulkhead|Finished|Summary|SKIPPED)|^test .*\.\.\. |^test result|^(error|warning: unused)|has been running for'
    record "$step" "${PIPESTATUS[0]}"
}

head_line "Building"
[ -z "$BULKHEAD_FULL" ] || deploy/package.sh --tools || warn "The tests of the Debian package are skipped."
build_console || warn "The gateway is built without the console's web application."
run_cargo build --workspace --all-targets || die "the workspace does not build"
# Folder, name and executable of every test target, one target a line.
TARGETS=$(run_cargo test --quiet --workspace --no-run --message-format json 2>/dev/null |
    sed -n 's:.*"manifest_path"\:"\([^"]*\)/Cargo.toml".*"target"\:{[^}]*"name"\:"\([^"]*\)".*"executable"\:"\([^"]*\)".*:\1 \2 \3:p')
E2E=$(printf '%s\n' "$TARGETS" | awk '$2 == "e2e" {print $3}')
[ -x "$E2E" ] || die "the end-to-end tests were not built; cargo said: $(run_cargo test --workspace --no-run 2>&1 | tail -n 3)"

each_target() {
    local folder name executable status=0
    while read -r folder name executable; do
        [ "$name" != e2e ] || continue
        (cd "$folder" && exec "$executable" --show-output </dev/null) || status=1
    done <<<"$TARGETS"
    return "$status"
}

if run_cargo nextest --version >/dev/null 2>&1; then
    run "Units, properties, golden cases and captures" run_cargo nextest run --workspace \
        --no-fail-fast --color never --success-output immediate --failure-output immediate \
        -E 'not binary(e2e)'
else
    run "Units, properties, golden cases and captures" each_target
fi
run "Examples in the documentation" run_cargo test --workspace --doc --no-fail-fast

# 1 GB: what one gateway takes for its packet buffers, with room for a second.
reserve_huge_pages 512 || warn "The gateway runs on ordinary pages, where it can."
# Not through cargo, which under sudo runs as the caller: these tests need root. One at a time,
# because they measure.
run "The gateway, end to end" "$E2E" --show-output --test-threads 1

# The plant of the quickstart, and its story from watching to lockdown, by the binaries built here. Each
# expectation is a test; where namespaces are not permitted a run in memory takes its place.
run_quickstart() {
    local folder status=0
    folder=$(dirname "$(dirname "$E2E")")
    deploy/quickstart.sh --binaries "$folder" 2>&1 | tee "$ONE" | grep -aE --line-buffered '^== |WRONG$|^error'
    status=${PIPESTATUS[0]}
    sed -i -E 's/^All ([0-9]+) expectations met.*/&\ntest result: ok. \1 passed; 0 failed;/
        s/^error: ([0-9]+) of ([0-9]+) expectations.*/&\ntest result: FAILED. 0 passed; \1 failed;/' "$ONE"
    record "The quickstart" "$status"
}
head_line "The quickstart, and its story"
if [ -z "$(why_no_namespaces)" ]; then run_quickstart; else say "SKIPPED: the quickstart: $(why_no_namespaces)" | tee -a "$LOG"; fi

# The console's web application: units, and every page in Chromium, over a real gateway where there can
# be one.
if find_node && { [ -n "${CHROMIUM:-}" ] || [ -x /usr/bin/chromium ] || install_packages chromium; }; then
    BULKHEAD_BIN=$(dirname "$(dirname "$E2E")")/bulkhead run "The console, in a browser" tests/console.sh
elif [ "${CI:-}" = true ]; then
    die "CI=true, and the console cannot be tested: Node and Chromium are needed."
else
    say "SKIPPED: the console in a browser: Node or Chromium is missing" | tee -a "$LOG"
fi

# Every route of its API, asked by what its description says.
BULKHEAD_BIN=$(dirname "$(dirname "$E2E")")/bulkhead run "The console's API against its description" tests/console-api.sh

# One line for each test that could not run: `SKIPPED: what: why`.
SKIPS=$(grep -ahE '^ *SKIPPED:? ' "$LOG" | sed -E 's/^ *SKIPPED:? /  /')
SKIPPED=$(printf '%s' "$SKIPS" | grep -c .)
if [ "$SKIPPED" -gt 0 ]; then
    head_line "Skipped, and why"
    printf '%s\n' "$SKIPS" | sort | uniq
fi
# A test that skips itself ends well: the test runner counted it as passed.
printf '\n%d passed, %d failed, %d skipped\n' "$((PASSED - SKIPPED))" "$FAILED" "$SKIPPED"
[ "$FAILED" -eq 0 ] || die "the whole output is in $LOG"
