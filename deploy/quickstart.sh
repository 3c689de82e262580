#!/usr/bin/env bash
# A small plant behind a running Bulkhead, on this machine alone. See --help.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
# shellcheck source=deploy/common.sh
. deploy/common.sh

usage() {
    cat <<'TEXT'
usage: sudo deploy/quickstart.sh [--keep] [--help]
       sudo deploy/quickstart.sh --clean

Builds Bulkhead and puts it in front of three devices of a small plant, each on a wire of its own:

    hmi ───────┐            ┌──────────────────────┐
    engineer ──┤            │       bulkhead       │
    intruder ──┤            │                      │
               ├─ switch ───┼─── wire plc-1 ───────┼── plc-1
               │        ────┼─── wire plc-2 ───────┼── plc-2
               │        ────┼─── wire historian ───┼── historian
               └────────┘   └──────────────────────┘

Every host is a network namespace, every line a veth pair, and the gateway reaches them through
DPDK over AF_XDP, as it would reach network cards. It enforces deploy/examples/plant-line.yaml.
You see permitted and forbidden traffic meet it (TCP, UDP, ICMP, IPv4 and IPv6), then the policy
change under load, and at the end a table of what was proved. It takes a few minutes, most of them
to build; ten at most on a fresh machine.

  --keep   leave the plant and the gateway running to play with, and say how
  --clean  end what --keep left running

It needs root, for namespaces and huge pages, and puts everything back: namespaces and huge pages go
at the end, at Ctrl-C, and, after a crash, when it runs next. Packages that it had to install stay.
Where namespaces are not permitted (a container), the same plant and the same worker code run over
in-memory ports.

Exit status: 0 when every permitted packet arrived and no forbidden one did, else 1.
TEXT
}

KEEP='' CLEAN=''
while [ $# -gt 0 ]; do
    case $1 in
    --keep) KEEP=1 ;;
    --clean) CLEAN=1 ;;
    --help | -h) usage && exit 0 ;;
    *) usage >&2 && die "unknown argument: $1" ;;
    esac
    shift
done
is_root || die "this needs root, for network namespaces and huge pages. Type: sudo deploy/quickstart.sh"

# Everything is named after this process, so that two can run at once.
RUN_ROOT=/run/bulkhead-quickstart
RUN=$RUN_ROOT/$$
PREFIX=bhq-$$
METRICS=127.0.0.1:10469
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
        remove_plant "bhq-$pid"
        rm -rf "${RUN_ROOT:?}/$pid"
    done
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
    elif [ "$status" -ne 0 ] && [ -s "$RUN/log" ]; then
        warn "The gateway's log ends with:"
        tail -n 25 "$RUN/log" >&2
    fi
    remove_plant "$PREFIX"
    rm -rf "$RUN"
    release_huge_pages
    exit "$status"
}

remove_leftovers
if [ -n "$CLEAN" ]; then
    # The pages that a kept gateway held are free now.
    reserve_huge_pages 0 && release_huge_pages
    exit 0
fi
mkdir -p "$RUN"
started $$ >"$RUN/started"
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# ---- build ---------------------------------------------------------------------------------------

say "${BOLD}Bulkhead: a small plant, and a gateway that knows who may talk to whom$PLAIN"
head_line "1. Build"
find_cargo
install_packages build-essential pkg-config libdpdk-dev iproute2 ethtool ||
    die "without these packages the gateway cannot be built"
say "cargo build --release (a few minutes the first time)"
run_cargo build --release -p bulkhead-gateway -p bulkhead-tests --bins ||
    die "the build failed; its messages are above"
BIN=$PWD/target/release
BULKHEAD=$BIN/bulkhead
HOST=$BIN/plant-host

WHY=$(why_no_namespaces)
if [ -n "$WHY" ]; then
    warn "The plant cannot be built from namespaces: $WHY."
    warn "The same plant and the same worker code run over in-memory ports instead."
    trap - EXIT
    rm -rf "$RUN"
    exec "$BIN/memory-plant" --policy deploy/examples/plant-line.yaml
fi

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

start_gateway() {
    local wire
    mkdir -p "$RUN/policy"
    cp deploy/examples/plant-line.yaml "$RUN/policy/10-plant-line.yaml"
    {
        printf 'policy = "policy"\nstate-dir = "state"\ncontrol-socket = "control.sock"\n'
        printf 'clock = "trusted"   # this machine may have no NTP, and the rules here have no times\n'
        printf '\n[metrics]\nlisten = "%s"\n' "$METRICS"
        for wire in "${WIRES[@]}"; do
            printf '\n[[wire]]\nname = "%s"\ninside = "in-%s"\noutside = "out-%s"\nmode = "enforce"\n' \
                "$wire" "$wire" "$wire"
        done
    } >"$RUN/gateway.toml"
    "$BULKHEAD" check --config "$RUN/gateway.toml" >"$RUN/check" 2>&1 || {
        cat "$RUN/check" >&2
        die "the gateway refuses its configuration or its policy"
    }
    # Not through a function, so that the pid is the gateway's own.
    ip netns exec "$(ns gateway)" "$BULKHEAD" run --config "$RUN/gateway.toml" \
        >"$RUN/log" 2>&1 </dev/null 8>&- &
    GATEWAY=$!
    local tries
    for tries in $(seq 200); do
        in_host gateway "$HOST" get "$METRICS" /readyz >/dev/null 2>&1 && links_are_up && return
        kill -0 "$GATEWAY" 2>/dev/null || die "the gateway ended before it was ready"
        sleep 0.1
    done
    die "the gateway was not ready after $((tries / 10)) seconds"
}

head_line "2. The plant"
reserve_huge_pages 256 || warn "The gateway runs on ordinary pages: the same code, a little slower."
make_plant
start_gateway
usage | sed -n '/hmi ─/,/└──/p'
say
sed -n 's/.*port opened.*driver=\([A-Z_]*\).*/\1/p' "$RUN/log" | sort | uniq -c |
    while read -r count driver; do say "$count ports of the gateway are open over $driver."; done

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
    "$BULKHEAD" explain --policy "$RUN/policy" --json "$packet" 2>/dev/null |
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

head_line "3. Who may talk to whom"
say "Every host offers what an attacker would like to find, so that only the gateway says no."
for host in plc-1 plc-2 historian; do
    start "serve-$host" "$host" serve tcp/22 tcp/102 tcp/443 tcp/502 tcp/4840 udp/123 udp/2222
done
say
say "  what                                           outcome   rule that decided"
try hmi tcp plc-1 502 answered
try hmi tcp6 plc-2 502 answered
try hmi ping plc-1 '' answered
try hmi ping6 plc-2 '' answered
try hmi tcp historian 443 answered
try plc-1 udp plc-2 2222 answered
try plc-2 udp6 historian 123 answered
try historian tcp plc-1 4840 answered
try engineer tcp plc-1 443 answered
try hmi tcp plc-1 22 silent
try engineer tcp plc-1 502 refused
try engineer udp historian 2222 refused
try intruder tcp plc-1 502 silent
try intruder tcp6 plc-1 502 silent
try intruder udp plc-2 2222 silent
try intruder ping plc-1 '' silent
try intruder ping6 historian '' silent
# One compromised device reaches nothing that it never needed.
try plc-1 tcp plc-2 502 silent
try plc-1 tcp historian 22 silent
try historian udp plc-2 2222 silent

head_line "4. The policy changes under load"
say "Operators work (TCP, UDP and ICMP), the intruder knocks, and every packet of his that arrives is counted."
for host in "${WIRES[@]}"; do
    start "watch-$host" "$host" watch "${V4[intruder]}" "${V6[intruder]}"
done
start load-tcp hmi load tcp "${V4[plc-1]}:502" --rate 500
start load-udp plc-1 load udp "${V4[plc-2]}:2222" --rate 2000
start load-udp6 plc-2 load udp "[${V6[historian]}]:123" --rate 1000
start load-ping hmi load ping "${V4[plc-2]}" --rate 200
start knock intruder knock "tcp/${V4[plc-1]}:502" "tcp/${V4[plc-1]}:102" "tcp/${V4[plc-2]}:22" \
    "udp/${V4[plc-2]}:2222" "udp/[${V6[historian]}]:123" "ping/${V4[historian]}" "ping/${V6[plc-1]}"

POLICY=$RUN/policy/10-plant-line.yaml
WINDOW=$RUN/policy/05-window.yaml
# The engineer's window: a file of its own, which comes before the other in name order.
open_window() {
    cat >"$RUN/window.new" <<'YAML'
version: 1
rules:
  - name: engineer-programs-plc-1
    from: engineer
    to: plc-1
    service: tcp/102
    action: allow
    reason: CHG-1042 new recipe for line 3
YAML
    mv "$RUN/window.new" "$WINDOW"
}
reload() { "$BULKHEAD" reload --config "$RUN/gateway.toml" >"$RUN/reload" 2>&1; }

try engineer tcp plc-1 102 refused
say "  The operator opens a window for the engineer, and loads it:"
open_window
reload || die "the reload was refused: $(cat "$RUN/reload")"
sed 's/^/    /' "$RUN/reload"
try engineer tcp plc-1 102 answered
start session engineer session "${V4[plc-1]}:102"
sleep 1
say "  A file with a mistake changes nothing:"
cp "$POLICY" "$RUN/good"
sed 's/to: plcs/to: plcz/' "$RUN/good" >"$RUN/bad" && mv "$RUN/bad" "$POLICY"
if reload; then got=accepted; else got=refused; fi
sed 's/^/    /' "$RUN/reload" | head -n 5
judge_row "a policy that names an unknown group" refused "$got" "the old policy stays"
mv "$RUN/good" "$POLICY"
say "  The window closes: the session that it permitted ends, and 20 more changes follow."
rm "$WINDOW"
reload || die "the reload was refused: $(cat "$RUN/reload")"
sleep 1
stop session
judge_row "the engineer's open session" ended "${LAST%% *}" "after $(value exchanges <<<"$LAST") exchanges"
changes=0
for _ in $(seq 10); do
    open_window && reload && changes=$((changes + 1))
    rm -f "$WINDOW" && reload && changes=$((changes + 1))
done
judge_row "20 changes of the policy, all accepted" 20 "$changes" "load and knocking went on"
try engineer tcp plc-1 102 refused

head_line "5. What was lost, what leaked"
for job in load-tcp load-udp load-udp6 load-ping; do
    stop "$job"
    sent=$(value sent <<<"$LAST") lost=$(value lost <<<"$LAST") resent=$(value resent <<<"$LAST")
    [ "${sent:-0}" -gt 0 ] || lost="none sent"
    judge_row "$job: permitted requests lost" 0 "${lost:-?}" "of ${sent:-?}"
    # TCP repairs what is lost; a repair is a loss all the same.
    [ "$job" != load-tcp ] || judge_row "$job: segments sent again" 0 "${resent:-?}" ""
done
stop knock
judge_row "the intruder's attempts that were answered" 0 "$(value answered <<<"$LAST")" \
    "of $(value attempts <<<"$LAST")"
for host in "${WIRES[@]}"; do
    stop "watch-$host"
    judge_row "packets of the intruder that reached $host" 0 "$(value counted <<<"$LAST")" \
        "of $(value frames <<<"$LAST") frames that arrived"
done

sleep 0.5
in_host gateway "$HOST" get "$METRICS" /metrics >"$RUN/metrics" || die "the metrics endpoint does not answer"
total() { awk -v name="$1" '$1 ~ "^"name"([{]|$)" {n += $NF} END {printf "%d", n}' "$RUN/metrics"; }
received=$(total bulkhead_received_packets_total) originated=$(total bulkhead_originated_packets_total)
transmitted=$(total bulkhead_transmitted_packets_total) dropped=$(total bulkhead_dropped_packets_total)
held=$(total bulkhead_held_packets)
judge_row "received + originated - sent - dropped - held" 0 \
    "$((received + originated - transmitted - dropped - held))" \
    "$received + $originated - $transmitted - $dropped - $held"

how_to_play() {
    cat <<TEXT

The plant keeps running. Look at it:
  sudo $BULKHEAD status --config $RUN/gateway.toml
  sudo ip netns exec $(ns gateway) $HOST get $METRICS /metrics
  sudo ip netns exec $(ns hmi) $HOST ask tcp ${V4[plc-1]}:502
  sudo ip netns exec $(ns intruder) $HOST ask tcp ${V4[plc-1]}:502
Change $POLICY and watch:
  tail -f $RUN/log
End it:
  sudo deploy/quickstart.sh --clean
TEXT
}

head_line "6. What the gateway says"
"$BULKHEAD" status --config "$RUN/gateway.toml" || die "bulkhead status does not answer"

head_line "What was shown"
printf '  %-46s %-9s %-9s %-34s %s\n' what expected outcome 'rule or detail' ''
for row in "${ROWS[@]}"; do
    IFS='|' read -r what expected got detail mark <<<"$row"
    printf '  %-46s %-9s %-9s %-34s %s\n' "$what" "$expected" "$got" "$detail" "$mark"
done
say
say "Frames by port, drops by reason, hits by rule and latencies: http://$METRICS/metrics inside the"
say "gateway's namespace (try --keep); deploy/prometheus.yml scrapes a real one."
if [ "$FAILED" -gt 0 ]; then die "$FAILED of ${#ROWS[@]} expectations were not met"; fi
say "${GREEN}All ${#ROWS[@]} expectations met: nothing permitted was lost, nothing forbidden passed.$PLAIN"
