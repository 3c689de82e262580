#!/usr/bin/env bash
# The console in a browser at 10,000 devices: first useful paint, frames a second, memory. See --help.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
# shellcheck source=deploy/common.sh
. deploy/common.sh

if [ "${1:-}" = --help ]; then
    cat <<'TEXT'
usage: bench/console.sh

Builds the console's web application and measures it in headless Chromium over a generated plant of
10,000 devices and 62 groups; over a real console where CONSOLE_URL names one (with CONSOLE_USER and
CONSOLE_PASSWORD). Frames are drawn by software, as they are where there is no graphics card.
TEXT
    exit 0
fi
[ -x /usr/bin/chromium ] || install_packages chromium || die "Chromium is needed to measure."
build_console || die "without the application there is nothing to measure"
console_packages || die "its libraries are needed to measure"
say "$(nproc) cores, $(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1), $(/usr/bin/chromium --version 2>/dev/null)," \
    "$(git rev-parse --short HEAD)"
cd "$CONSOLE_APP" || exit 1
figures=$(mktemp)
trap 'rm -f "$figures"' EXIT
BULKHEAD_BENCH=$figures npx --no-install playwright test scale >"$figures.log" 2>&1 || {
    tail -n 40 "$figures.log" >&2
    rm -f "$figures.log"
    die "the measurement broke off"
}
rm -f "$figures.log"
cat "$figures"
