#!/usr/bin/env bash
# A small plant behind a running Bulkhead, on this machine alone. See --help.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
# shellcheck source=deploy/common.sh
. deploy/common.sh
# shellcheck source=deploy/plant.sh
. deploy/plant.sh

usage() {
    cat <<'TEXT'
usage: sudo deploy/quickstart.sh [--keep] [--binaries FOLDER] [--help]
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
change under load. Then the story: the same plant without a policy is watched, an allowlist is learnt
while an intruder scans, rehearsed beside the live traffic, and enforced; a device moves, an engineer
gets a time-limited grant. At the end there is a table of what was proved. It takes a few minutes, most
of them to build; ten at most on a fresh machine.

  --keep   leave the plant and the gateway running to play with, and say how
  --clean  end what --keep left running
  --binaries FOLDER
           build nothing, and take bulkhead and plant-host from this folder

It needs root, for namespaces and huge pages, and puts everything back: namespaces and huge pages go
at the end, at Ctrl-C, and, after a crash, when it runs next. Packages that it had to install stay.
Where namespaces are not permitted (a container), the same plant and the same worker code run over
in-memory ports.

Exit status: 0 when every permitted packet arrived and no forbidden one did, else 1.
TEXT
}

KEEP='' CLEAN='' BIN=''
while [ $# -gt 0 ]; do
    case $1 in
    --keep) KEEP=1 ;;
    --clean) CLEAN=1 ;;
    --binaries) BIN=$(cd "${2:-}" 2>/dev/null && pwd) || die "--binaries: no such folder: ${2:-}" && shift ;;
    --help | -h) usage && exit 0 ;;
    *) usage >&2 && die "unknown argument: $1" ;;
    esac
    shift
done
is_root || die "this needs root, for network namespaces and huge pages. Type: sudo deploy/quickstart.sh"

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
if [ -z "$BIN" ]; then
    build_console || warn "The plant runs all the same."
    say "cargo build --release (a few minutes the first time)"
    run_cargo build --release -p bulkhead-gateway -p bulkhead-tests --bins ||
        die "the build failed; its messages are above"
    BIN=$PWD/target/release
fi
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

head_line "2. The plant"
reserve_huge_pages 256 || warn "The gateway runs on ordinary pages: the same code, a little slower."
make_plant
POLICIES=$RUN/policy
mkdir -p "$POLICIES"
cp deploy/examples/plant-line.yaml "$POLICIES/10-plant-line.yaml"
configure "$RUN" enforce </dev/null
start_gateway "$RUN"
usage | sed -n '/hmi ─/,/└──/p'
say
sed -n 's/.*port opened.*driver=\([A-Z_]*\).*/\1/p' "$LOG" | sort | uniq -c |
    while read -r count driver; do say "$count ports of the gateway are open over $driver."; done

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

The plant keeps running, and the gateway watches it. Look at it:
  sudo $BULKHEAD status --config $STORY/gateway.toml
  sudo ip netns exec $(ns gateway) $HOST get $METRICS /metrics
  sudo ip netns exec $(ns hmi) $HOST ask tcp ${V4[plc-1]}:502
  sudo ip netns exec $(ns intruder) $HOST ask tcp ${V4[plc-1]}:502
Lock it down again, as the story did, and watch:
  sudo $BULKHEAD stage $STORY/staged --config $STORY/gateway.toml
  sudo $BULKHEAD lockdown --config $STORY/gateway.toml
  tail -f $LOG
End it:
  sudo deploy/quickstart.sh --clean

Or do all of it in the console. Its first user is made by this one-time link, good for a day:
  ${CONSOLE_LINK:-the console did not start: $STORY/console.log}
TEXT
}

head_line "6. What the gateway says"
"$BULKHEAD" status --config "$RUN/gateway.toml" || die "bulkhead status does not answer"

# shellcheck source=deploy/story.sh
. deploy/story.sh

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
if [ -z "$KEEP" ]; then
    say "The console went with the plant. With --keep both stay, and its address and link stand here."
fi
say "${GREEN}All ${#ROWS[@]} expectations met: nothing permitted was lost, nothing forbidden passed.$PLAIN"
