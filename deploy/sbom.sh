#!/usr/bin/env bash
# Writes what a built program is made of as CycloneDX 1.5 JSON: the crates that are linked, SQLite, which one
# of them brings along, and the system's libraries, DPDK's first of all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/common.sh
. deploy/common.sh

if [ $# -ne 2 ]; then
    say "usage: deploy/sbom.sh PROGRAM OUT" >&2
    exit 2
fi
PROGRAM=$1 OUT=$2
[ -x "$PROGRAM" ] || die "$PROGRAM is not there: cargo build --release"
command -v jq >/dev/null || die "jq is missing: apt-get install jq"
find_cargo

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Name and version of each crate that ends up in the program. Build scripts and macros do not.
run_cargo tree --quiet --locked -p bulkhead-gateway -e normal,no-proc-macro --prefix none --no-dedupe -f '{p}' |
    awk '{sub(/^v/, "", $2); print $1 " " $2}' | sort -u | jq -R . | jq -s . >"$work/linked.json"
run_cargo metadata --locked --format-version 1 --filter-platform "$(run_cargo -vV | sed -n 's/^host: //p')" >"$work/metadata.json"
# Checksums are the lock file's.
awk '/^name = / {name = $3} /^version = / {version = $3} /^checksum = / {gsub(/"/, "", name); gsub(/"/, "", version); gsub(/"/, "", $3); print name " " version " " $3}' \
    Cargo.lock | jq -R 'split(" ") | {(.[0] + " " + .[1]): .[2]}' | jq -s 'add' >"$work/checksums.json"

# The Debian package of each shared library, with the licences that its copyright file names.
system_libraries() {
    local library package version arch licences
    ldd "$PROGRAM" | awk '$2 == "=>" && $3 ~ /^\// {print $3} $1 ~ /^\// {print $1}' | while read -r library; do
        package=$(dpkg-query -S "$(readlink -f "$library")" 2>/dev/null || dpkg-query -S "$library" 2>/dev/null || true)
        package=${package%%: *}
        if [ -z "$package" ]; then
            jq -n --arg name "$(basename "$library")" '{name: $name, version: "unknown", arch: "", licences: []}'
            continue
        fi
        version=$(dpkg-query -W -f '${Version}' "$package")
        arch=$(dpkg-query -W -f '${Architecture}' "$package")
        licences=$(sed -n 's/^License: *\([^ ].*\)$/\1/p' "/usr/share/doc/${package%%:*}/copyright" 2>/dev/null | sort -u | jq -R . | jq -s .)
        jq -n --arg name "${package%%:*}" --arg version "$version" --arg arch "$arch" --argjson licences "$licences" \
            '{name: $name, version: $version, arch: $arch, licences: $licences}'
    done
}
system_libraries | jq -s 'unique_by(.name)' >"$work/system.json"

sqlite=$(jq -r '.packages[] | select(.name == "libsqlite3-sys") | .manifest_path' "$work/metadata.json" | head -n 1)
sqlite=$(sed -n 's/^#define SQLITE_VERSION  *"\(.*\)"/\1/p' "$(dirname "$sqlite")/sqlite3/sqlite3.h" | head -n 1)
[ -n "$sqlite" ] || die "the version of the bundled SQLite is not where it was"

when=$(date -u -d "@${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}" +%Y-%m-%dT%H:%M:%SZ)
mkdir -p "$(dirname "$OUT")"
# shellcheck disable=SC2016  # jq's variables
jq -S --arg when "$when" --arg sqlite "$sqlite" --arg distribution "$(. /etc/os-release && printf '%s-%s' "$ID" "${VERSION_ID:-}")" \
    --slurpfile linked "$work/linked.json" --slurpfile checksums "$work/checksums.json" --slurpfile system "$work/system.json" '
    ($linked[0] | map({(.): true}) | add) as $is_linked
    | def key: .name + " " + .version;
      def purl: "pkg:cargo/\(.name)@\(.version)";
      [.packages[] | select($is_linked[key])] as $crates
    | ($crates | map({(.id): purl}) | add) as $purl_of
    | ([$crates[] | select(.name == "bulkhead-gateway")][0]) as $top
    | ($system[0] | map(. + {purl: "pkg:deb/\($distribution | split("-")[0])/\(.name)@\(.version | @uri)?arch=\(.arch)&distro=\($distribution)"})) as $libraries
    | "pkg:generic/sqlite@\($sqlite)" as $sqlite_purl
    | {
        bomFormat: "CycloneDX", specVersion: "1.5", version: 1,
        metadata: {
            timestamp: $when,
            component: {type: "application", "bom-ref": ($top | purl), name: "bulkhead", version: $top.version, purl: ($top | purl), licenses: [{expression: $top.license}]}
        },
        components: (
            [$crates[] | select(.id != $top.id) | {
                type: "library", "bom-ref": purl, name, version, purl: purl,
                licenses: (if .license then [{expression: (.license | gsub("/"; " OR "))}] else [] end)
            } + (if $checksums[0][key] then {hashes: [{alg: "SHA-256", content: $checksums[0][key]}]} else {} end)
              + (if .repository then {externalReferences: [{type: "vcs", url: .repository}]} else {} end)]
            + [{type: "library", "bom-ref": $sqlite_purl, name: "sqlite", version: $sqlite, purl: $sqlite_purl, licenses: [{license: {name: "blessing"}}],
                description: "linked in by the crate libsqlite3-sys"}]
            + [$libraries[] | {type: "library", "bom-ref": .purl, name, version, purl, licenses: [.licences[] | {license: {name: .}}],
                description: "shared library of the system"}]
        ),
        dependencies: (
            [.resolve.nodes[] | select($purl_of[.id]) | {
                ref: $purl_of[.id],
                dependsOn: ([.deps[] | select(any(.dep_kinds[]; .kind == null)) | $purl_of[.pkg] // empty]
                    + (if .id == $top.id then [$libraries[].purl] else [] end)
                    + (if (.id | contains("libsqlite3-sys")) then [$sqlite_purl] else [] end) | unique)
            }]
        )
    }' "$work/metadata.json" >"$OUT"
say "$OUT: $(jq '.components | length' "$OUT") components, $(jq '[.components[] | select(.purl | startswith("pkg:deb"))] | length' "$OUT") of them the system's"
