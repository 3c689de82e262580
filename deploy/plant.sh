# The plant of deploy/quickstart.sh: hosts, lines and gateway as namespaces and veth pairs, and what its
# hosts do. To be sourced by bash after deploy/common.sh; changes nothing when sourced.
# shellcheck shell=bash

# Everything is named after this process, so that two can run at once.
RUN_ROOT=/run/bulkhead-quickstart
RUN=$RUN_ROOT/$$
PREFIX=bhq-$$
METRICS=127.0.0.1:10469
# The log of the gateway that was started last, and the policy that it was started with.
LOG='' POLICIES=''
HOSTS=(hmi engineer intruder plc-1 plc-2 historian)
WIRES=(plc-1 plc-2 historian)
# The plant is flat: one broadcast domain, so every address is on-link.
declare -A V4 V6
while read -r host v4 v6; do V4[$host]=$v4 V6[$host]=$v6; done <<'TEXT'
hmi        10.20.0.11  fd00:20::11
plc-1      10.30.3.11  fd00:30::11
plc-2      10.30.3.12  fd00:30::12
historian  10.40.0.5   fd00:40::5
engineer   10.50.0.7   fd00:50::7
intruder   10.66.0.66  fd00:66::66
TEXT

ns() { printf '%s-%s' "$PREFIX" "$1"; }
in_host() { local host=$1 && shift && ip netns exec "$(ns "$host")" "$@"; }

# ---- beginning and end ---------------------------------------------------------------------------

# remove_plant PREFIX: ends what runs in the namespaces of one plant and removes them.
remove_plant() {
    local name pids
    # Whoever was told to end closes its ports itself; the others are ended after a second.
    for name in $(list_namespaces "$1"); do
        pids=$(ip netns pids "$name" 2>/dev/null)
        # shellcheck disable=SC2086  # one pid a word
        [ -z "$pids" ] || kill $pids 2>/dev/null
    done
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        pids=$(for name in $(list_namespaces "$1"); do ip netns pids "$name" 2>/dev/null; done)
        [ -n "$pids" ] || break
        sleep 0.1
    done
    # shellcheck disable=SC2086
    [ -z "$pids" ] || kill -9 $pids 2>/dev/null
    for name in $(list_namespaces "$1"); do ip netns del "$name" 2>/dev/null; done
}

list_namespaces() {
    local path
    for path in /run/netns/"$1"-*; do [ -e "$path" ] && printf '%s\n' "${path##*/}"; done
}

# started PID: when a process was started, in ticks since boot; nothing where there is none. Told
# apart by this, a process is never taken for an earlier one with the same number.
started() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# remove_leftovers: plants whose script is gone and that nobody wanted to keep; with --clean, the
# kept ones too.
remove_leftovers() {
    local path pid
    for path in /run/netns/bhq-*; do
        [ -e "$path" ] || continue
        pid=${path##*/bhq-} pid=${pid%%-*}
        if [ -n "$(started "$pid")" ] &&
            [ "$(started "$pid")" = "$(cat "$RUN_ROOT/$pid/started" 2>/dev/null)" ]; then continue; fi
        if [ -e "$RUN_ROOT/$pid/keep" ] && [ -z "$CLEAN" ]; then continue; fi
        say "Removing the plant that run $pid left behind."
        end_console "$RUN_ROOT/$pid"
        remove_plant "bhq-$pid"
        rm -rf "${RUN_ROOT:?}/$pid"
    done
}

# end_console FOLDER: the console that a kept plant left running, which is in no namespace. The process is
# told by when it started, too, so that no other one is ended.
end_console() {
    local pid began
    read -r pid began 2>/dev/null <"$1/console.pid" || return 0
    if [ -n "$began" ] && [ "$(started "$pid")" = "$began" ]; then kill "$pid" 2>/dev/null; fi
}

finish() {
    local status=$?
    trap - EXIT
    trap '' INT TERM
    if [ -n "$KEEP" ] && [ "$status" -eq 0 ] && [ -d "$RUN" ]; then
        touch "$RUN/keep"
        how_to_play
        exit 0
    fi
    if [ "$status" -ge 128 ]; then
        warn "Interrupted: the plant is taken down."
    elif [ "$status" -ne 0 ] && [ -s "$LOG" ]; then
        warn "The gateway's log ends with:"
        tail -n 25 "$LOG" >&2
    fi
    stop_console
    remove_plant "$PREFIX"
    rm -rf "$RUN"
    release_huge_pages
    exit "$status"
}

# ---- the plant -----------------------------------------------------------------------------------

# connect NS INTERFACE PEER_NS PEER_INTERFACE: a cable. Nothing is left to hardware that is not
# there, so that every frame is complete when the gateway sees it.
connect() {
    ip -n "$1" link add "$2" type veth peer name "$4" netns "$3" || die "a veth pair was refused"
    local end
    for end in "$1 $2" "$3 $4"; do
        # shellcheck disable=SC2086  # namespace and interface
        set -- $end
        ip netns exec "$1" ethtool -K "$2" rx off tx off gso off gro off tso off rxvlan off txvlan off >/dev/null
    done
}

# quiet_interface NS INTERFACE: up, and without a word of its own.
quiet_interface() {
    ip netns exec "$1" sh -c "echo 1 >/proc/sys/net/ipv6/conf/$2/disable_ipv6"
    ip -n "$1" link set "$2" up
}

make_plant() {
    local host number=0
    for host in gateway switch "${HOSTS[@]}"; do
        ip netns add "$(ns "$host")" || die "a namespace was refused"
        ip -n "$(ns "$host")" link set lo up
    done
    ip -n "$(ns switch)" link add plant type bridge mcast_snooping 0
    quiet_interface "$(ns switch)" plant
    for host in "${HOSTS[@]}"; do
        number=$((number + 1))
        if [[ " ${WIRES[*]} " == *" $host "* ]]; then
            connect "$(ns "$host")" eth0 "$(ns gateway)" "in-$host"
            connect "$(ns switch)" "$host" "$(ns gateway)" "out-$host"
            quiet_interface "$(ns gateway)" "in-$host"
            quiet_interface "$(ns gateway)" "out-$host"
        else
            connect "$(ns "$host")" eth0 "$(ns switch)" "$host"
        fi
        ip -n "$(ns switch)" link set "$host" master plant
        quiet_interface "$(ns switch)" "$host"
        in_host "$host" sh -c 'echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad
            echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_ra'
        ip -n "$(ns "$host")" link set eth0 address "02:1b:1d:00:00:0$number" up
        ip -n "$(ns "$host")" addr add "${V4[$host]}/8" dev eth0
        ip -n "$(ns "$host")" addr add "${V6[$host]}/16" dev eth0 nodad
    done
}

# The kernel takes up to a second to tell a host that its cable has carrier; until then the host sends
# into nothing.
links_are_up() {
    local host
    for host in "${HOSTS[@]}"; do
        ip -n "$(ns "$host")" -o link show eth0 | grep -q 'state UP' || return
        ip -n "$(ns switch)" -o link show "$host" | grep -q 'state UP' || return
    done
}

# configure FOLDER MODE: the configuration of a gateway whose files are in the folder. What standard
# input says comes after it.
configure() {
    local wire
    {
        printf 'policy = "policy"\nstate-dir = "state"\ncontrol-socket = "control.sock"\n'
        printf 'records-socket = "records.sock"\nlearn-dir = "learn"\n'
        printf 'clock = "trusted"   # this machine may have no NTP\n'
        # Everything here runs as root; an installed console has a user of its own.
        printf '\n[console]\nuser = "root"\n'
        printf '\n[metrics]\nlisten = "%s"\n' "$METRICS"
        for wire in "${WIRES[@]}"; do
            printf '\n[[wire]]\nname = "%s"\ninside = "in-%s"\noutside = "out-%s"\nmode = "%s"\n' \
                "$wire" "$wire" "$wire" "$2"
        done
        cat
    } >"$1/gateway.toml"
}

# start_gateway FOLDER: runs the gateway that is configured there, until its ports are up.
start_gateway() {
    LOG=$1/log
    "$BULKHEAD" check --config "$1/gateway.toml" >"$1/check" 2>&1 || {
        cat "$1/check" >&2
        die "the gateway refuses its configuration or its policy"
    }
    # Not through a function, so that the pid is the gateway's own.
    ip netns exec "$(ns gateway)" "$BULKHEAD" run --config "$1/gateway.toml" \
        >"$LOG" 2>&1 </dev/null 8>&- &
    GATEWAY=$!
    local tries
    for tries in $(seq 200); do
        in_host gateway "$HOST" get "$METRICS" /readyz >/dev/null 2>&1 && links_are_up && return
        kill -0 "$GATEWAY" 2>/dev/null || die "the gateway ended before it was ready"
        sleep 0.1
    done
    die "the gateway was not ready after $((tries / 10)) seconds"
}

# start_console FOLDER: the console of the gateway that is configured there, at a free port of this
# machine's loopback. CONSOLE_LINK is then the link that makes its first user; empty, with a warning, where
# it does not start.
CONSOLE='' CONSOLE_LINK=''
start_console() {
    "$BULKHEAD" console --config "$1/gateway.toml" --dir "$1/console" --listen 127.0.0.1:0 --plain-http \
        >"$1/console.log" 2>&1 </dev/null 8>&- &
    CONSOLE=$!
    printf '%s %s\n' "$CONSOLE" "$(started "$CONSOLE")" >"$RUN/console.pid"
    CONSOLE_LINK=''
    for _ in $(seq 100); do
        CONSOLE_LINK=$(grep -aoE 'http://[^ ]*/setup#[^ ]+' "$1/console.log" | head -n 1)
        [ -z "$CONSOLE_LINK" ] || return 0
        kill -0 "$CONSOLE" 2>/dev/null || break
        sleep 0.1
    done
    warn "bulkhead console did not start: $(tail -n 3 "$1/console.log")"
    CONSOLE=''
    return 1
}

stop_console() {
    [ -n "$CONSOLE" ] || return 0
    kill "$CONSOLE" 2>/dev/null
    wait "$CONSOLE" 2>/dev/null
    CONSOLE=''
}

stop_gateway() {
    kill "$GATEWAY" 2>/dev/null
    wait "$GATEWAY" 2>/dev/null
}

# ---- what is tried -------------------------------------------------------------------------------

FAILED=0
ROWS=()
# judge_row WHAT EXPECTED GOT DETAIL: one line now, one row of the table at the end.
judge_row() {
    local mark=${GREEN}ok$PLAIN
    if [ "$2" != "$3" ]; then mark=${RED}WRONG$PLAIN FAILED=$((FAILED + 1)); fi
    printf '  %-46s %-9s %-34s %s\n' "$1" "$3" "$4" "$mark"
    ROWS+=("$1|$2|$3|$4|$([ "$2" = "$3" ] && echo ok || echo WRONG)")
}

# the_rule FROM PROTOCOL TO: the rule that decides, as `bulkhead explain` tells it.
the_rule() {
    local packet
    case $2 in
    ping) packet="icmp echo-request ${V4[$1]} -> ${V4[$3]}" ;;
    ping6) packet="icmpv6 echo-request ${V6[$1]} -> ${V6[$3]}" ;;
    *6) packet="${2%%[/6]*} [${V6[$1]}]:40000 -> [${V6[$3]}]:${4}" ;;
    *) packet="$2 ${V4[$1]}:40000 -> ${V4[$3]}:$4" ;;
    esac
    "$BULKHEAD" explain --policy "$POLICIES" --json "$packet" 2>/dev/null |
        sed -n 's|^  "rule": "\([^"]*\)".*|\1|p'
}

# try FROM PROTOCOL TO PORT EXPECTED: protocol tcp, udp, ping, or the same with 6 for IPv6.
try() {
    local from=$1 protocol=$2 to=$3 port=$4 expected=$5 address got detail status=0
    case $protocol in
    ping6) address=${V6[$to]} ;;
    ping) address=${V4[$to]} ;;
    *6) address="[${V6[$to]}]:$port" ;;
    *) address="${V4[$to]}:$port" ;;
    esac
    detail=$(in_host "$from" "$HOST" ask "${protocol%6}" "$address" 2>&1) || status=$?
    got=${detail%% *}
    [ "$status" -ne 1 ] || got="error"
    judge_row "$from -> $to  ${protocol%6}${port:+/$port}$([[ $protocol == *6 ]] && echo ' over IPv6')" \
        "$expected" "$got" "$(the_rule "$from" "$protocol" "$to" "$port")"
}

# start NAME HOST ARGS...: plant-host in the background, once it says that it is ready.
declare -A JOBS=()
start() {
    local name=$1 host=$2
    shift 2
    ip netns exec "$(ns "$host")" "$HOST" "$@" >"$RUN/$name" 2>&1 </dev/null 8>&- &
    JOBS[$name]=$!
    for _ in $(seq 100); do
        grep -qs '^ready' "$RUN/$name" && return
        kill -0 "${JOBS[$name]}" 2>/dev/null || break
        sleep 0.05
    done
    die "$host could not $1: $(cat "$RUN/$name")"
}

# stop NAME: ends it and puts its last line into LAST. Not in a subshell, which could not wait for it.
LAST=''
stop() {
    kill "${JOBS[$1]}" 2>/dev/null
    wait "${JOBS[$1]}" 2>/dev/null
    unset "JOBS[$1]"
    LAST=$(tail -n 1 "$RUN/$1")
}

# value KEY: the number behind KEY= in standard input.
value() { sed -nE "s/(^|.* )$1=([0-9]+).*/\2/p"; }
