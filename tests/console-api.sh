#!/usr/bin/env bash
# The console's API against its own description: schemathesis over a real console. See --help.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
# shellcheck source=deploy/common.sh
. deploy/common.sh

VERSION=4.32.5 SEED=1 SECONDS_AT_MOST=${BULKHEAD_API_SECONDS:-25}

if [ "${1:-}" = --help ]; then
    cat <<TEXT
usage: tests/console-api.sh

Starts a gateway over devices that lead nowhere and its console, and has schemathesis $VERSION ask every
route of pipeline/console-app/openapi.json as an administrator's token: what fits the description, and what
does not. No answer may be an error of the server, or other than the description says. Which requests are
made follows from one seed. schemathesis comes from PyPI into target/schemathesis; where it cannot be
had the test is skipped.

Three routes are left out: /events, which does not end, /captures, which waits for packets, and the end of a
token, which would be that of the test.

BULKHEAD_BIN names the bulkhead binary; default: target/debug/bulkhead. BULKHEAD_API_SECONDS says for how long
requests are made up ($SECONDS_AT_MOST). Needs root for the gateway, as DPDK does.
TEXT
    exit 0
fi

BULKHEAD=${BULKHEAD_BIN:-$PWD/target/debug/bulkhead}
RUN=$(mktemp -d) PROCESSES=()
finish() {
    [ ${#PROCESSES[@]} -eq 0 ] || kill "${PROCESSES[@]}" 2>/dev/null
    wait
    rm -rf "$RUN"
}
trap finish EXIT

skip() {
    say "SKIPPED: the console's API against its description: $1"
    exit 0
}

is_root || skip "the gateway needs root"
VENV=$PWD/target/schemathesis-$VERSION
if [ ! -x "$VENV/bin/schemathesis" ]; then
    python3 -m venv "$VENV" >"$RUN/pip.log" 2>&1 || skip "python3 has no venv: $(tail -n 1 "$RUN/pip.log")"
    "$VENV/bin/pip" --quiet --disable-pip-version-check --retries 1 --timeout 10 install \
        "schemathesis==$VERSION" >"$RUN/pip.log" 2>&1 || {
        rm -rf "$VENV"
        skip "PyPI cannot be reached: $(tail -n 1 "$RUN/pip.log")"
    }
fi

# The bench's gateway, with a store in which twelve hosts of three groups talk.
python3 - "$RUN" <<'PYTHON' || die "the gateway's folder could not be made"
import pathlib, sys
sys.path.insert(0, "bench")
sys.dont_write_bytecode = True
import console
console.GROUPS = 3
folder = pathlib.Path(sys.argv[1])
console.make_store(folder / "store", 12, 60).close()
console.configure(folder, options=",no-rx=1")
PYTHON
cat >"$RUN/policy.yaml" <<'TEXT'
version: 1
groups:
  g0: [10.0.0.0/16]
  g1: [10.1.0.0/16]
rules:
  - {name: g0-to-g1, from: g0, to: g1, service: [tcp/443, tcp/80], action: allow, reason: CHG-1}
TEXT
"$BULKHEAD" run --config "$RUN/gateway.toml" >"$RUN/gateway.log" 2>&1 &
PROCESSES+=($!)
"$BULKHEAD" console --config "$RUN/gateway.toml" --plain-http >"$RUN/console.log" 2>&1 &
CONSOLE=$!
PROCESSES+=("$CONSOLE")
LINK=''
for _ in $(seq 100); do
    LINK=$(grep -aoE 'http://[^ ]*/setup#[^ ]+' "$RUN/console.log" | head -n 1)
    [ -z "$LINK" ] || break
    sleep 0.1
done
[ -n "$LINK" ] || die "the console did not start: $(cat "$RUN/console.log")"
HOST=${LINK%%/setup*}

# asked METHOD PATH [BODY]: the answer.
asked() {
    curl --silent --show-error --max-time 20 --cookie "$RUN/cookies" --cookie-jar "$RUN/cookies" \
        --request "$1" ${3:+--header 'content-type: application/json' --data "$3"} \
        ${CSRF:+--header "x-bulkhead-csrf: $CSRF"} "$HOST/api/v1$2"
}

CSRF=''
CSRF=$(asked POST /setup "{\"token\": \"${LINK#*#}\", \"user\": \"tester\", \"password\": \"for this test only\"}" |
    sed -nE 's/.*"csrf":"([^"]+)".*/\1/p')
[ -n "$CSRF" ] || die "the one-time link did not work"
TOKEN=$(asked POST /tokens "{\"name\": \"schemathesis\", \"scope\": \"admin\", \"expires\": \"$(
    date -u -d '+1 day' +%Y-%m-%dT%H:%M:%SZ
)\"}" | sed -nE 's/.*"secret":"([^"]+)".*/\1/p')
[ -n "$TOKEN" ] || die "there is no token"
for _ in $(seq 100); do
    case $(asked GET '/map/blast?device=10.0.0.1') in *'"steps"'*) break ;; esac
    sleep 0.2
done

# A token alone says who asks: a cookie beside it, forged for a test, would be rightly ignored.
python3 - pipeline/console-app/openapi.json "$RUN/openapi.json" <<'PYTHON' || die "the description could not be read"
import json, sys
document = json.load(open(sys.argv[1]))
del document["components"]["securitySchemes"]["session"]
for operations in document["paths"].values():
    for operation in operations.values():
        operation["security"] = [way for way in operation["security"] if "session" not in way]
json.dump(document, open(sys.argv[2], "w"))
PYTHON

# A device that is there, so that there is something to answer.
for path in blast neighbours; do
    printf '[[operations]]\ninclude-path = "/api/v1/map/%s"\nparameters = { device = "10.0.0.1" }\n' "$path"
done >"$RUN/schemathesis.toml"
# What is too large is refused before it is read: a refusal as good as any other.
printf '[checks.negative_data_rejection]\nexpected-statuses = [400, 401, 403, 404, 405, 409, 413, 415, 422, 429]\n' \
    >>"$RUN/schemathesis.toml"

# What is well-formed may still be refused (400, 404, 409): whether a policy or a filter makes sense no
# schema says. All else is a failure. One worker: two threads that parse in Python 3.11 may end in
# "AST constructor recursion depth mismatch" (https://github.com/python/cpython/issues/106905).
cd "$RUN" || exit 1
"$VENV/bin/schemathesis" run "$RUN/openapi.json" --url "$HOST" \
    --header "Authorization: Bearer $TOKEN" --seed "$SEED" --workers 1 --max-time "$SECONDS_AT_MOST" \
    --phases examples,coverage,fuzzing --checks all --exclude-checks positive_data_acceptance \
    --exclude-path /api/v1/events --exclude-path /api/v1/captures --exclude-operation-id end-token \
    --suppress-health-check all --request-timeout 20 --continue-on-failure --report junit \
    --report-junit-path "$RUN/report.xml" --output-sanitize false >"$RUN/schemathesis.log" 2>&1
STATUS=$?
cat "$RUN/schemathesis.log"
kill -0 "$CONSOLE" 2>/dev/null || {
    warn "the console ended: $(tail -n 3 "$RUN/console.log")"
    STATUS=1
}
# Had the token been lost on the way, nothing but refusals would have been tested.
curl --silent --fail --output /dev/null --header "Authorization: Bearer $TOKEN" "$HOST/api/v1/overview" || {
    warn "the token is not taken any more"
    STATUS=1
}
PASSED=$(grep -c '<testcase' "$RUN/report.xml")
FAILED=$(grep -cE '<(failure|error)' "$RUN/report.xml")
[ "$STATUS" -eq 0 ] || [ "$FAILED" -gt 0 ] || FAILED=1
printf 'test result: %s. %d passed; %d failed;\n' "$([ "$FAILED" -eq 0 ] && echo ok || echo FAILED)" \
    "$((PASSED > FAILED ? PASSED - FAILED : 0))" "$FAILED"
[ "$FAILED" -eq 0 ]
