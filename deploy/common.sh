# What deploy/quickstart.sh, tests/run.sh and .ci/run share: messages, packages, the Rust toolchain
# and huge pages. To be sourced by bash; changes nothing when sourced.
# shellcheck shell=bash

# Rust older than this cannot build the workspace (rust-version in Cargo.toml).
RUST_MINOR_NEEDED=85

# shellcheck disable=SC2034  # the scripts that source this use them
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    BOLD=$'\e[1m' RED=$'\e[31m' GREEN=$'\e[32m' YELLOW=$'\e[33m' BLUE=$'\e[36m' PLAIN=$'\e[0m'
else
    BOLD='' RED='' GREEN='' YELLOW='' BLUE='' PLAIN=''
fi

say() { printf '%s\n' "$*"; }
head_line() { printf '\n%s== %s%s\n' "$BOLD$BLUE" "$*" "$PLAIN"; }
warn() { printf '%s%s%s\n' "$YELLOW" "$*" "$PLAIN" >&2; }
die() {
    printf '%serror: %s%s\n' "$RED" "$*" "$PLAIN" >&2
    exit 1
}

is_root() { [ "$(id -u)" -eq 0 ]; }

# missing_packages NAME...: prints those that are not installed, one a line.
missing_packages() {
    local name
    for name in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] ||
            printf '%s\n' "$name"
    done
}

# install_packages NAME...: installs what is missing, saying so. Returns 1 where that is not
# possible, after having said why and what to type.
install_packages() {
    local missing
    if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
        warn "This is not a Debian-like system: the packages are not looked for. Needed are the"
        warn "equivalents of: $*"
        return 1
    fi
    mapfile -t missing < <(missing_packages "$@")
    [ "${#missing[@]}" -gt 0 ] || return 0
    if ! is_root; then
        warn "Packages are missing, and installing them needs root. Type:"
        warn "    sudo apt-get install --no-install-recommends ${missing[*]}"
        return 1
    fi
    say "Installing what is missing: ${missing[*]}"
    # No daemon that a package brings (Prometheus) may start on this machine only because a test
    # wants its programs.
    local deny=/usr/sbin/policy-rc.d made_deny=''
    if [ ! -e "$deny" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$deny" && chmod 755 "$deny" && made_deny=1
    fi
    local status=0 log
    log=$(mktemp)
    if ! { apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y install \
        --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
        tail -n 20 "$log" >&2
        warn "apt-get could not install: ${missing[*]}"
        status=1
    fi
    rm -f "$log"
    [ -z "$made_deny" ] || rm -f "$deny"
    return "$status"
}

# find_cargo: puts cargo on the PATH, also under sudo, where the caller's own PATH is lost, and
# checks its age.
find_cargo() {
    local home='' minor
    if ! command -v cargo >/dev/null; then
        [ -z "${SUDO_USER:-}" ] || home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
        for home in "$home" "${HOME:-/root}"; do
            if [ -n "$home" ] && [ -x "$home/.cargo/bin/cargo" ]; then
                PATH="$home/.cargo/bin:$PATH"
                break
            fi
        done
    fi
    command -v cargo >/dev/null ||
        die "cargo was not found. Install Rust from https://rustup.rs (1.$RUST_MINOR_NEEDED or newer), then run this again."
    minor=$(run_cargo --version | sed -n 's/^cargo 1\.\([0-9]*\).*/\1/p')
    [ -n "$minor" ] || die "cargo does not run: $(run_cargo --version 2>&1 | tail -n 1)"
    [ "$minor" -ge "$RUST_MINOR_NEEDED" ] ||
        die "Rust 1.$minor is too old: 1.$RUST_MINOR_NEEDED or newer is needed. Type: rustup update stable"
}

# run_cargo ARGS...: cargo, as the user who called sudo where that user owns the toolchain, so that
# neither target/ nor ~/.cargo ends up with files of root.
run_cargo() {
    local cargo
    cargo=$(command -v cargo)
    if is_root && [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ] &&
        [ "${cargo#"$(getent passwd "$SUDO_USER" | cut -d: -f6)/"}" != "$cargo" ]; then
        runuser -u "$SUDO_USER" -- env PATH="$PATH" \
            HOME="$(getent passwd "$SUDO_USER" | cut -d: -f6)" "$cargo" "$@"
    else
        "$cargo" "$@"
    fi
}

# The console's web application, which the build of the gateway embeds.
CONSOLE_APP=pipeline/console-app
# Node older than this cannot build it; Debian 12 has 18.
NODE_NEEDED=18

# as_owner COMMAND...: runs it as the user who called sudo where the sources are that user's, so that no
# file of root stays in them.
as_owner() {
    if is_root && [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ] &&
        [ "$(stat -c %U "$CONSOLE_APP")" = "$SUDO_USER" ]; then
        runuser -u "$SUDO_USER" -- env PATH="$PATH" \
            HOME="$(getent passwd "$SUDO_USER" | cut -d: -f6)" "$@"
    else
        "$@"
    fi
}

# find_node: sees to a Node and an npm that can build the application. Returns 1 where there are none,
# after having said why.
find_node() {
    local major
    if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
        install_packages nodejs npm || return 1
    fi
    major=$(node --version 2>/dev/null | sed -n 's/^v\([0-9]*\)\..*/\1/p')
    if [ "${major:-0}" -lt "$NODE_NEEDED" ]; then
        warn "Node ${major:-?} is too old for the console's application: $NODE_NEEDED or newer is needed."
        return 1
    fi
}

# console_packages: the application's libraries, exactly those of its lock file, where they are not there
# yet. Their install scripts are not run.
console_packages() {
    local installed=$CONSOLE_APP/node_modules/.package-lock.json
    if [ -e "$installed" ] && [ ! "$CONSOLE_APP/package-lock.json" -nt "$installed" ]; then return 0; fi
    say "npm ci (the console's libraries)"
    PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 as_owner npm --prefix "$CONSOLE_APP" ci --ignore-scripts \
        --no-audit --no-fund --loglevel=error </dev/null || return 1
    touch "$installed"
}

# build_console: builds the console's web application into its dist folder, unless that is newer than
# every source. Returns 1 where it cannot be built, after having said why: the gateway builds without
# it, and the console then says which command is missing.
build_console() {
    local built=$CONSOLE_APP/dist/index.html
    if [ -e "$built" ] && [ -z "$(find "$CONSOLE_APP" \( -name node_modules -o -name dist \
        -o -name test-results -o -name tests -o -name docs \) -prune -o -type f ! -name '*.md' \
        -newer "$built" -print -quit)" ]; then return 0; fi
    if ! find_node || ! console_packages; then
        warn "The console's web application is not built. Its API works without it."
        return 1
    fi
    say "npm run build (the console's web application)"
    as_owner npm --prefix "$CONSOLE_APP" run --silent build </dev/null || {
        warn "The console's web application does not build; its messages are above."
        return 1
    }
}

# Huge pages are shared by everything that runs at once: whoever reserves them holds a shared lock
# on a file of HUGE_FOLDER, the first one notes how many there were, the last one puts that number back. The
# folder is root's alone: in /run/lock anybody could note a number, which root would then put into force.
HUGE_PAGES=/proc/sys/vm/nr_hugepages
HUGE_FOLDER=/run/bulkhead-hugepages
HUGE_MOUNT=''

# reserve_huge_pages COUNT: sees to at least COUNT free huge pages of 2 MB where that is permitted.
# Returns 1 and says why where it is not.
reserve_huge_pages() {
    local wanted=$1 total free
    if [ ! -w "$HUGE_PAGES" ]; then
        warn "Huge pages cannot be reserved here ($HUGE_PAGES is not writable)."
        return 1
    fi
    [ -e "$HUGE_FOLDER" ] || mkdir -m 700 "$HUGE_FOLDER"
    if [ -L "$HUGE_FOLDER" ] || [ ! -O "$HUGE_FOLDER" ]; then
        warn "$HUGE_FOLDER belongs to somebody else: no huge pages are reserved. Remove it."
        return 1
    fi
    chmod 700 "$HUGE_FOLDER"
    exec 8>"$HUGE_FOLDER/lock"
    # A number that is still noted was left behind by a run that was killed: it is the true one.
    if flock -n -x 8 && ! noted_huge_pages >/dev/null; then cat "$HUGE_PAGES" >"$HUGE_FOLDER/before"; fi
    flock -s 8
    total=$(cat "$HUGE_PAGES")
    free=$(awk '/^HugePages_Free/ {print $2}' /proc/meminfo)
    if [ "$free" -lt "$wanted" ]; then
        echo $((total + wanted - free)) 2>/dev/null >"$HUGE_PAGES"
        free=$(awk '/^HugePages_Free/ {print $2}' /proc/meminfo)
    fi
    if [ "$free" -lt "$wanted" ]; then
        warn "Only $free of $wanted huge pages could be had: memory is short, fragmented, or this is a container."
        return 1
    fi
    if ! grep -q ' hugetlbfs ' /proc/mounts; then
        mkdir -p /dev/hugepages && mount -t hugetlbfs hugetlbfs /dev/hugepages 2>/dev/null &&
            HUGE_MOUNT=/dev/hugepages
    fi
    return 0
}

# noted_huge_pages: prints how many there were; fails where nobody has noted it.
noted_huge_pages() { grep -xE '[0-9]{1,9}' "$HUGE_FOLDER/before" 2>/dev/null; }

# release_huge_pages: the opposite; nothing changes while somebody else still needs them.
release_huge_pages() {
    { true >&8; } 2>/dev/null || return 0
    local before
    if flock -n -x 8 && before=$(noted_huge_pages); then
        [ -z "$HUGE_MOUNT" ] || umount "$HUGE_MOUNT" 2>/dev/null
        echo "$before" >"$HUGE_PAGES" && rm -f "$HUGE_FOLDER/before"
    fi
    exec 8>&-
}

# why_no_namespaces: prints why network namespaces, veth pairs or packet sockets cannot be used
# here, or nothing where they can.
why_no_namespaces() {
    local probe=bh-probe-$$ why=''
    if ! is_root; then
        printf 'not root\n'
        return
    fi
    if ! why=$(ip netns add "$probe" 2>&1); then
        printf 'network namespaces are not permitted here (%s)\n' "${why%%$'\n'*}"
        return
    fi
    if ! why=$(ip -n "$probe" link add probe0 type veth peer name probe1 2>&1); then
        printf 'veth pairs are not permitted here (%s)\n' "${why%%$'\n'*}"
    fi
    ip netns del "$probe" 2>/dev/null
}
