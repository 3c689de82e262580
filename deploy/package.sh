#!/usr/bin/env bash
# Builds the Debian package of the gateway in one command. See --help.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/common.sh
. deploy/common.sh

CARGO_DEB_VERSION=3.8.0

usage() {
    cat <<TEXT
usage: deploy/package.sh [--no-build] [--profile release|dev] [--out FOLDER] [--sign KEY]
       deploy/package.sh [--no-build] [--profile release|dev] --stage FOLDER
       deploy/package.sh --tools

Builds bulkhead, writes man pages, completions and the SBOM, packs them with cargo-deb
$CARGO_DEB_VERSION (built into target/tools where it is not installed), and lets lintian look at it where that is
installed. The package: target/debian/bulkhead_VERSION_ARCH.deb

  --no-build       pack the program that is built already
  --profile NAME   release (the default) or dev
  --out FOLDER     where the package goes
  --sign KEY       sign it with this ssh key: bulkhead_VERSION_ARCH.deb.sig, which anybody checks with
                   ssh-keygen -Y verify -f TRUSTED -I WHO -n bulkhead-package -s FILE.sig <FILE
  --stage FOLDER   only write there what goes into the package beside the program, for which no cargo-deb is needed
  --tools          only build cargo-deb, where it is not there
TEXT
}

TOOLS='' BUILD=1 PROFILE=release OUT=target/debian KEY='' STAGE=target/package ONLY_STAGE=''
while [ $# -gt 0 ]; do
    case $1 in
    --no-build) BUILD='' ;;
    --tools) TOOLS=1 ;;
    --profile | --out | --sign | --stage)
        [ $# -ge 2 ] || die "$1 needs a value; --help says more"
        case $1 in
        --profile) PROFILE=$2 ;;
        --out) OUT=$2 ;;
        --sign) KEY=$2 ;;
        --stage) STAGE=$2 ONLY_STAGE=1 ;;
        esac
        shift
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *) die "unknown argument '$1'; --help says more" ;;
    esac
    shift
done

find_cargo
for tool in dpkg-deb dpkg-shlibdeps jq gzip; do
    command -v "$tool" >/dev/null || die "$tool is missing: apt-get install dpkg-dev jq gzip"
done

PATH=$PATH:$PWD/target/tools/bin
if [ -z "$ONLY_STAGE" ] && ! command -v cargo-deb >/dev/null; then
    say "Building cargo-deb $CARGO_DEB_VERSION, once"
    run_cargo install --quiet --locked --version "$CARGO_DEB_VERSION" --root target/tools cargo-deb
fi
[ -z "$TOOLS" ] || exit 0

TARGET=${CARGO_TARGET_DIR:-target}
FOLDER=$TARGET/$PROFILE
[ "$PROFILE" != dev ] || FOLDER=$TARGET/debug
if [ -n "$BUILD" ]; then
    head_line "Building"
    BULKHEAD_COMMIT=$(git rev-parse --short=12 HEAD 2>/dev/null || true) \
        run_cargo build --locked --profile "$PROFILE" -p bulkhead-gateway
fi
[ -x "$FOLDER/bulkhead" ] || die "$FOLDER/bulkhead is not there: leave --no-build out"

head_line "What goes into the package"
if [ -z "$ONLY_STAGE" ]; then
    rm -rf "$STAGE"
elif [ -z "$STAGE" ] || [ -n "$(ls -A "$STAGE" 2>/dev/null)" ]; then
    die "--stage '$STAGE': name a folder that is not there yet, or is empty"
fi
mkdir -p "$STAGE"/{man,completions,units,sysusers,scripts,share,doc,etc}
# Of the same age as the source, so that two builds are the same.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
VERSION=$("$FOLDER/bulkhead" version --json | jq -r .version)

"$FOLDER/bulkhead" manual --out "$STAGE/man" >/dev/null
gzip -9n "$STAGE"/man/*.1
"$FOLDER/bulkhead" completions bash >"$STAGE/completions/bulkhead"
"$FOLDER/bulkhead" completions zsh >"$STAGE/completions/_bulkhead"
"$FOLDER/bulkhead" completions fish >"$STAGE/completions/bulkhead.fish"

# The same units and scripts as without a package, with the package's places.
for unit in deploy/*.service; do
    sed 's:/usr/local/bin/:/usr/bin/:g' "$unit" >"$STAGE/units/$(basename "$unit")"
done
for file in deploy/*.sysusers; do
    cp "$file" "$STAGE/sysusers/$(basename "$file" .sysusers).conf"
done
for file in install.sh common.sh kernel-interfaces.conf 60-bulkhead-vfio.rules alerts.yml alerts.test.yml prometheus.yml; do
    cp "deploy/$file" "$STAGE/share/$file"
done
cp -r deploy/dashboards deploy/examples "$STAGE/share/"
cp deploy/README.md "$STAGE/doc/README.md"
cp deploy/gateway.toml "$STAGE/doc/gateway.toml.example"
# Every key, and no wire: nothing can be started by accident.
sed -E 's/^(\[\[wire\]\]|name = |inside = |outside = )/#\1/' deploy/gateway.toml >"$STAGE/etc/gateway.toml"
cp deploy/debian/10-site.yaml "$STAGE/etc/10-site.yaml"

UNITS=$(cd "$STAGE/units" && printf '%s ' *.service)
SYSUSERS=$(cd "$STAGE/sysusers" && printf '%s ' *.conf)
USERS=$(awk '$1 == "u" || $1 == "g" {print $2}' "$STAGE"/sysusers/*.conf | sort -u | tr '\n' ' ')
STATE=$(sed -n 's:^StateDirectory=:/var/lib/:p' "$STAGE"/units/*.service | sort -u | tr '\n' ' ')
for script in postinst prerm postrm; do
    sed -e "s:@UNITS@:${UNITS% }:g" -e "s:@SYSUSERS@:${SYSUSERS% }:g" -e "s:@USERS@:${USERS% }:g" \
        -e "s:@STATE@:${STATE% }:g" "deploy/debian/$script" >"$STAGE/scripts/$script"
done

printf 'bulkhead (%s) stable; urgency=medium\n\n  * What changed: CHANGELOG.md beside this file.\n\n -- %s  %s\n' \
    "$VERSION" "$(sed -n 's/^maintainer = "\(.*\)"/\1/p' pipeline/gateway/Cargo.toml)" \
    "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$STAGE/doc/changelog.gz"
gzip -9nc CHANGELOG.md >"$STAGE/doc/CHANGELOG.md.gz"
deploy/sbom.sh "$FOLDER/bulkhead" "$STAGE/doc/bulkhead.cdx.json"
[ -z "$ONLY_STAGE" ] || exit 0

head_line "Packing"
mkdir -p "$OUT"
DEB=$(run_cargo deb -p bulkhead-gateway --no-build --profile "$PROFILE" --strip --no-dbgsym --output "$OUT/" --quiet | tail -n 1)
[ -f "$DEB" ] || die "cargo-deb made no package"
dpkg-deb --info "$DEB" | sed -n 's/^ \(Package\|Version\|Depends\|Installed-Size\):/  \1:/p'

if command -v lintian >/dev/null; then
    head_line "lintian"
    # Run as whoever calls, root in containers too.
    lintian --allow-root --fail-on error,warning --display-info --tag-display-limit 0 "$DEB" ||
        die "lintian found what is above; correct it, or write why it is right into deploy/debian/lintian-overrides"
    say "no errors, no warnings"
fi

if [ -n "$KEY" ]; then
    rm -f "$DEB.sig"
    ssh-keygen -q -Y sign -n bulkhead-package -f "$KEY" "$DEB"
    say "$DEB.sig"
fi
say "$DEB"
