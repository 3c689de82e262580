# The second half of deploy/quickstart.sh: how a plant that nobody wrote rules for gets them. It is
# watched, an allowlist is learnt, rehearsed beside the live traffic and enforced; then devices and
# people change. To be sourced by it, in the plant that it made.
# shellcheck shell=bash

STORY=$RUN/story
# An hour of observation takes so many seconds here: an edge has to come back in another hour to be
# learnt, and nobody wants to watch for a day.
HOUR_S=4
HOURS=9
NEW_ADDRESS=10.30.3.99

bulkhead() {
    local command=$1
    shift
    "$BULKHEAD" "$command" --config "$STORY/gateway.toml" "$@"
}

# expect_row WHAT EXPECTED DETAIL COMMAND...: what a command's exit status says: it works or is refused.
expect_row() {
    local what=$1 expected=$2 detail=$3 status=0 got
    shift 3
    "$@" >"$STORY/said" 2>&1 || status=$?
    case $status in 0) got=works ;; 1) got=refused ;; *) got="exit $status" ;; esac
    sed 's/^/    /' "$STORY/said" | head -n "${SHOWN:-12}"
    judge_row "$what" "$expected" "$got" "$detail"
}

# The work of the plant: each second the panel reads both controllers, the historian asks them, one
# controller tells the other, and the historian gives the time.
work_once() {
    local job
    for job in "hmi tcp plc-1:502" "hmi tcp plc-2:502" "hmi tcp historian:443" \
        "historian tcp plc-1:4840" "historian tcp plc-2:4840" \
        "plc-1 udp plc-2:2222" "plc-1 udp historian:123"; do
        # shellcheck disable=SC2086
        set -- $job
        ATTEMPTS=$((ATTEMPTS + 1))
        in_host "$1" "$HOST" ask "$2" "$(at "${3%:*}"):${3#*:}" >/dev/null 2>&1 || LOST=$((LOST + 1))
    done
}
declare -A MOVED=()
at() { printf '%s' "${MOVED[$1]:-${V4[$1]}}"; }

# work SECONDS: works so long; ATTEMPTS and LOST say how.
work() {
    local end=$((SECONDS + $1))
    ATTEMPTS=0 LOST=0
    while [ "$SECONDS" -lt "$end" ]; do
        work_once
        sleep 0.5
    done
}

# scan: the intruder tries what he knows on every device, once.
scan() {
    local host door
    for host in "${WIRES[@]}"; do
        for door in tcp:22 tcp:102 tcp:443 tcp:502 tcp:4840 udp:123 udp:2222; do
            in_host intruder timeout 0.5 "$HOST" ask "${door%:*}" "$(at "$host"):${door#*:}" >/dev/null 2>&1
        done
    done
}

# lease HOST ADDRESS: has it ask the plant's DHCP server for the address, and take it.
lease() {
    in_host "$1" "$HOST" lease "$2" >"$STORY/lease" 2>&1 || return
    ip -n "$(ns "$1")" -4 addr flush dev eth0
    ip -n "$(ns "$1")" addr add "$2/8" dev eth0
}

# serve_dhcp ADDRESS: a server that leases this one address.
serve_dhcp() {
    [ -z "${DHCP:-}" ] || { kill "$DHCP" && wait "$DHCP"; } 2>/dev/null
    ip netns exec "$(ns switch)" dnsmasq --keep-in-foreground --conf-file=/dev/null --port=0 \
        --user=root --interface=plant --dhcp-authoritative --no-ping --leasefile-ro --pid-file= \
        --dhcp-range="$1,$1,1h" >"$STORY/dhcp" 2>&1 </dev/null 8>&- &
    DHCP=$!
}

# json KEY FILE: the first number, word or text of that key.
json() { sed -nE "s/^.*\"$1\": ?\"?([^\",}]*)\"?.*$/\1/p" "$2" | head -n 1; }

head_line "7. Another plant, of which nobody knows who talks to whom"
say "The same devices, without a policy: the gateway starts again and only watches. What it sees goes to"
say "a process of its own, \`bulkhead learn\`. Here an hour of observation takes $HOUR_S seconds."
stop_gateway
install_packages dnsmasq-base || die "without a DHCP server no device can get a new address"
mkdir -p "$STORY/policy"
POLICIES=$STORY/policy
printf 'version: 1\ndefault: deny\n' >"$STORY/policy/00-guardrails.yaml"
configure "$STORY" observe <<TEXT

[records]
interval-s = 2

[learn]
period-s = $HOUR_S

[lockdown]
min-staged-s = 5
TEXT
start_gateway "$STORY"
ip netns exec "$(ns gateway)" "$BULKHEAD" learn --config "$STORY/gateway.toml" \
    >"$STORY/learn.log" 2>&1 </dev/null 8>&- &
LEARN=$!
ip -n "$(ns switch)" addr add 10.0.0.1/8 dev plant
serve_dhcp "${V4[plc-2]}"
lease plc-2 "${V4[plc-2]}" || die "no lease for plc-2: $(cat "$STORY/lease" "$STORY/dhcp")"
if start_console "$STORY"; then
    say "  Follow the story in a browser, and steer it there with --keep. This link works once:"
    say "    $BOLD$CONSOLE_LINK$PLAIN"
fi
say "  The plant works for $((HOURS * HOUR_S)) seconds. Meanwhile an intruder looks around:"
work $((3 * HOUR_S))
scan
lease plc-2 "${V4[plc-2]}"
work $(((HOURS - 3) * HOUR_S))
judge_row "work while the gateway watches: lost" 0 "$LOST" "of $ATTEMPTS requests"
kill -0 "$LEARN" 2>/dev/null || die "bulkhead learn ended: $(cat "$STORY/learn.log")"

head_line "8. What it saw, and what it proposes"
bulkhead devices || die "bulkhead devices does not answer"
bulkhead map || die "bulkhead map does not answer"
PROPOSAL=$STORY/staged/80-learned.yaml
mkdir -p "$STORY/staged"
cp "$STORY/policy/00-guardrails.yaml" "$STORY/staged/"
expect_row "bulkhead propose" works "policy text with its evidence" bulkhead propose --out "$PROPOSAL"
sed 's/^/    /' "$PROPOSAL"
rules=$(grep -c 'action: allow' "$PROPOSAL")
judge_row "a handful of rules" yes "$([ "$rules" -ge 3 ] && [ "$rules" -le 12 ] && echo yes || echo no)" "$rules rules"
mac=$(in_host intruder cat /sys/class/net/eth0/address)
judge_row "the intruder in what was learnt" 0 "$(grep -c "${V4[intruder]}\|$mac" "$PROPOSAL")" "he scanned, and is not learnt"
expect_row "bulkhead check accepts it" works "" "$BULKHEAD" check "$STORY/staged"

head_line "9. Rehearsed beside the live traffic"
expect_row "bulkhead stage" works "beside the policy in force" bulkhead stage "$STORY/staged"
work 3
scan
work 4
SHOWN=30 expect_row "bulkhead stage --status" works "what it would have blocked" bulkhead stage --status
bulkhead stage --status --json >"$STORY/tally" 2>&1
expect_row "bulkhead lockdown while it would cut somebody" refused "with its reasons" bulkhead lockdown
say "  All that it would cut is the intruder's. He is put away, and the rehearsal begins anew:"
expect_row "bulkhead quarantine" works "at once, before any lockdown" \
    bulkhead quarantine "${V4[intruder]}" --reason "scans the plant"
try intruder tcp plc-1 502 silent
expect_row "bulkhead stage, again" works "" bulkhead stage "$STORY/staged"
work 6

head_line "10. Locked down"
for host in "${WIRES[@]}"; do
    start "story-watch-$host" "$host" watch "${V4[intruder]}" "${V6[intruder]}"
done
expect_row "bulkhead lockdown" works "from watching to enforcing" \
    bulkhead lockdown --reason "rehearsed, nothing but the intruder is cut"
POLICIES=$STORY/staged
scan
work 5
judge_row "work after the lockdown: lost" 0 "$LOST" "of $ATTEMPTS requests"
for host in "${WIRES[@]}"; do
    stop "story-watch-$host"
    judge_row "packets of the intruder that reached $host" 0 "$(value counted <<<"$LAST")" \
        "of $(value frames <<<"$LAST") frames that arrived"
done
try engineer tcp plc-1 102 silent

head_line "11. Devices move, people need exceptions"
say "  plc-2 gets another address from the DHCP server:"
serve_dhcp "$NEW_ADDRESS"
lease plc-2 "$NEW_ADDRESS" || die "no lease for plc-2: $(cat "$STORY/lease" "$STORY/dhcp")"
MOVED[plc-2]=$NEW_ADDRESS
sleep 1
work 4
judge_row "work with plc-2 at $NEW_ADDRESS: lost" 0 "$LOST" "of $ATTEMPTS requests"
expect_row "bulkhead grant --for 2h" works "for the engineer, CHG-1042" \
    bulkhead grant --from "${V4[engineer]}" --to "${V4[plc-1]}" --service tcp/102 --for 2h \
    --reason "CHG-1042 new recipe"
try engineer tcp plc-1 102 answered
try engineer tcp plc-1 22 silent
grant=$(bulkhead grants --json 2>/dev/null | grep -oE '"name": ?"[^"]*"' | head -n 1 | cut -d'"' -f4)
expect_row "bulkhead grant --revoke" works "" bulkhead grant --revoke "${grant:-none}" --reason "done"
try engineer tcp plc-1 102 silent

head_line "12. Back, and the evidence"
SHOWN=20 expect_row "bulkhead history" works "" bulkhead history
expect_row "bulkhead rollback" works "to what was in force before" \
    bulkhead rollback --reason "the story ends"
SHOWN=40 expect_row "bulkhead audit" works "who changed what, when and why" bulkhead audit
expect_row "bulkhead audit verify" works "every line hangs on the one before" \
    "$BULKHEAD" audit verify "$STORY/state/audit.jsonl"
kill -0 "$CONSOLE" 2>/dev/null && console=serves || console=ended
judge_row "bulkhead console, beside all this" serves "$console" "${CONSOLE_LINK%%/setup*}"
kill "$LEARN" 2>/dev/null
wait "$LEARN" 2>/dev/null
judge_row "bulkhead learn, told to stop" 0 "$?" "its store stays"
kill "$DHCP" 2>/dev/null
wait "$DHCP" 2>/dev/null
