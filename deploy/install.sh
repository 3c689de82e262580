#!/usr/bin/env bash
# Puts Bulkhead on a machine of its own: looks for NICs, keeps the way by which you are logged in out of it,
# proposes wires and cores, and, with --apply, writes the configuration and binds NICs. Without --apply
# it only says what it would do. `--undo` gives bound NICs back to the kernel.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=deploy/common.sh
. ./common.sh
# The Debian package has this script in /usr/share/bulkhead, and has installed the program and its units.
PACKAGED=''
if [ "$PWD" = /usr/share/bulkhead ]; then PACKAGED=1; else cd ..; fi

usage() {
    cat <<'TEXT'
usage: install.sh [--apply] [--wire NAME=INSIDE,OUTSIDE]... [--management IFACE]... [--vfio]
                         [--workers N] [--binary FILE]
       install.sh --undo

  (nothing)              show the NICs, and what would be done
  --apply                do it: configuration, policy folder, huge pages, binary, units; nothing is started
  --wire NAME=IN,OUT     a wire between these interfaces, instead of the proposed ones
  --management IFACE     never touch this interface (the one by which you are logged in is known)
  --vfio                 bind the wires' NICs to vfio-pci (fastest); otherwise the kernel drives them (AF_XDP)
  --workers N            worker cores; by default one for each wire, as far as there are cores
  --binary FILE          the program; by default target/release/bulkhead, or that of the Debian package
  --undo                 give NICs back to their kernel drivers, as noted in /var/lib/bulkhead-install/bound-nics
  --root DIR             look for and write files below DIR (for images and tests)

What is there already is never overwritten: what is new goes beside it (gateway.toml.new); the program alone
is replaced.
TEXT
}

ROOT='' APPLY='' VFIO='' UNDO='' WORKERS='' BINARY=target/release/bulkhead
WIRES=() MANAGEMENT=()
while [ $# -gt 0 ]; do
    case $1 in
    --apply) APPLY=1 ;;
    --vfio) VFIO=1 ;;
    --undo) UNDO=1 ;;
    --wire | --management | --workers | --binary | --root)
        [ $# -ge 2 ] || die "$1 needs a value; --help says more"
        case $1 in
        --wire) WIRES+=("$2") ;;
        --management) MANAGEMENT+=("$2") ;;
        --workers) WORKERS=$2 ;;
        --binary) BINARY=$2 ;;
        --root) ROOT=${2%/} ;;
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
[[ $WORKERS =~ ^([1-9][0-9]?)?$ ]] || die "--workers $WORKERS: a number from 1 to 64"

NET=$ROOT/sys/class/net
# A folder of root's: what lies among the state of the gateway, the gateway's user can write.
BOUND=$ROOT/var/lib/bulkhead-install/bound-nics
[ -z "$APPLY$UNDO" ] || [ -n "$ROOT" ] || is_root || die "this needs root: sudo $0 ..."

# do_it WHAT COMMAND...: says it, and does it with --apply or --undo.
do_it() {
    local what=$1
    shift
    if [ -z "$APPLY$UNDO" ]; then
        say "  would: $what"
    else
        say "  $what"
        "$@"
    fi
}

# The last PCI address on the way to the device: that of a virtio NIC is one step above it.
pci_of() { readlink -f "$NET/$1/device" 2>/dev/null | grep -oE '[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]' | tail -n 1 || true; }
driver_of() { basename "$(readlink "$NET/$1/device/driver" 2>/dev/null || echo none)"; }
read_of() { cat "$1" 2>/dev/null || true; }

# Physical interfaces: those with a device behind them.
nics() {
    local path
    for path in "$NET"/*; do
        [ -e "$path/device" ] && basename "$path"
    done
    true
}

# The SSH client of this session. sudo hides the variable; the shell that it was called from still has it.
ssh_connection() {
    local pid=$$ found=${SSH_CONNECTION:-}
    while [ -z "$found" ] && [ "${pid:-0}" -gt 1 ]; do
        found=$(tr '\0' '\n' <"/proc/$pid/environ" 2>/dev/null | sed -n 's/^SSH_CONNECTION=//p' || true)
        pid=$(awk '/^PPid:/ {print $2}' "/proc/$pid/status" 2>/dev/null || true)
    done
    printf '%s' "$found"
}

RESERVED=()
is_reserved() {
    local name
    for name in "${RESERVED[@]}"; do [ "$name" != "$1" ] || return 0; done
    return 1
}

# Reserves the interfaces by which this machine is, or may be, reached, and whatever they are made of.
reserve() {
    local client='' server='' name lower queue
    read -r client _ server _ <<<"$(ssh_connection)" || true
    mapfile -t queue < <(
        printf '%s\n' "${MANAGEMENT[@]}"
        awk 'NR > 1 && $2 == "00000000" {print $1}' "$ROOT/proc/net/route" 2>/dev/null || true
        awk '$1 ~ /^0+$/ && $2 == "00" && $10 != "lo" {print $10}' "$ROOT/proc/net/ipv6_route" 2>/dev/null || true
        # Whatever has an address may be the way in; the gateway takes no interface that has one.
        ip -o addr show scope global 2>/dev/null | awk '{print $2}' || true
        # The interface of a link-local address follows it, and is all that says where it is; SSH sessions of
        # others count as well.
        for name in "$client" "$server"; do
            if [[ $name = *%* ]]; then printf '%s\n' "${name#*%}"; fi
        done
        ss -tnH state established '( sport = :22 )' 2>/dev/null | grep -oP '%\K[^]:\s]+' || true
        if [ -n "$client" ]; then
            ip route get "$client" 2>/dev/null | grep -oP '(?<=dev )\S+' || true
            ip -o addr show to "$server" 2>/dev/null | awk '{print $2}' || true
        fi
    )
    # A bond, bridge, VLAN or team stands on others, and these may on others again.
    while [ "${#queue[@]}" -gt 0 ]; do
        name=${queue[0]%@*} queue=("${queue[@]:1}")
        if [ -z "$name" ] || is_reserved "$name"; then continue; fi
        RESERVED+=("$name")
        for lower in "$NET/$name"/lower_*; do
            if [ -e "$lower" ] || [ -L "$lower" ]; then
                lower=$(basename "$lower")
                queue+=("${lower#lower_}")
            fi
        done
    done
}

if [ -n "$UNDO" ]; then
    [ -s "$BOUND" ] || die "$BOUND is not there or empty: nothing was bound by this script"
    # All of it before any of it: half a note is none.
    while read -r address driver name; do
        [[ $address =~ ^[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]$ && $driver =~ ^[A-Za-z0-9_-]+$ &&
            $name =~ ^[^[:space:]/]{1,15}$ ]] ||
            die "$BOUND is damaged: '$address $driver $name' is no NIC with its driver; bind it by hand: dpdk-devbind.py --status, --bind=DRIVER ADDRESS"
    done <"$BOUND"
    head_line "Giving NICs back to the kernel"
    while read -r address driver name; do
        do_it "$address back to $driver ($name)" dpdk-devbind.py --bind="$driver" "$address" ||
            die "$address could not be bound to $driver; what came before it is back"
    done <"$BOUND"
    rm -f "$BOUND"
    say "The interfaces have their names again; the configuration still names PCI addresses."
    exit 0
fi

reserve

head_line "Network interfaces"
mapfile -t ALL < <(nics)
[ "$((${#ALL[@]} + ${#WIRES[@]}))" -gt 0 ] || die "there is no physical NIC in this machine (virtual interfaces can be named with --wire)"
FREE=()
printf '%-12s %-14s %-12s %-9s %-5s %s\n' INTERFACE PCI DRIVER CARRIER NODE USE
for name in "${ALL[@]}"; do
    use=free
    if is_reserved "$name"; then
        use='management, or has an address: never touched'
    elif [ -L "$NET/$name/master" ]; then
        use="part of $(basename "$(readlink "$NET/$name/master")"): left alone"
    else
        FREE+=("$name")
    fi
    carrier=$(read_of "$NET/$name/carrier")
    printf '%-12s %-14s %-12s %-9s %-5s %s\n' "$name" "$(pci_of "$name")" "$(driver_of "$name")" \
        "$([ "$carrier" = 1 ] && echo yes || echo no)" "$(read_of "$NET/$name/device/numa_node")" "$use"
done

# Ports of one card belong together: its functions follow each other in the order of their addresses.
if [ "${#WIRES[@]}" -eq 0 ]; then
    mapfile -t SORTED < <(for name in "${FREE[@]}"; do printf '%s %s\n' "$(pci_of "$name")" "$name"; done | sort | awk '{print $NF}')
    for ((i = 0; i + 1 < ${#SORTED[@]}; i += 2)); do
        WIRES+=("wire-$((i / 2 + 1))=${SORTED[i]},${SORTED[i + 1]}")
    done
    [ "${#WIRES[@]}" -gt 0 ] || die "a wire needs two free NICs, and there are ${#FREE[@]}: add a NIC, or name interfaces with --wire"
fi

declare -A SEEN=()
NAMES=() INSIDES=() OUTSIDES=()
for wire in "${WIRES[@]}"; do
    [[ $wire =~ ^([a-z][a-z0-9-]{0,62})=([^,=]+),([^,=]+)$ ]] || die "--wire $wire: NAME=INSIDE,OUTSIDE, the name in a-z, 0-9 and -"
    NAMES+=("${BASH_REMATCH[1]}") INSIDES+=("${BASH_REMATCH[2]}") OUTSIDES+=("${BASH_REMATCH[3]}")
    for port in "${BASH_REMATCH[2]}" "${BASH_REMATCH[3]}"; do
        [ -e "$NET/$port" ] || die "--wire $wire: there is no interface $port"
        [ -z "${SEEN[$port]:-}" ] || die "$port is named twice"
        SEEN[$port]=1
        ! is_reserved "$port" || die "$port is how this machine is reached, or has an address: giving it to the gateway would cut you off. Name another interface."
        [ ! -L "$NET/$port/master" ] || die "$port belongs to $(basename "$(readlink "$NET/$port/master")"): ip link set $port nomaster, or name another interface."
    done
done

# Workers take the last cores of the memory node of the first wire's NIC, never the first core.
node=$(read_of "$NET/${INSIDES[0]}/device/numa_node")
list=$(read_of "$ROOT/sys/devices/system/node/node${node:--1}/cpulist")
[ -n "$list" ] || list=$(read_of "$ROOT/sys/devices/system/cpu/online")
mapfile -t CPUS < <(tr ',' '\n' <<<"$list" | awk -F- 'NF {for (i = $1; i <= (NF > 1 ? $2 : $1); i++) print i}' | awk '$1 > 0')
# One of two threads of a core: two workers on one core share what one has.
THREADS=()
declare -A CORE_TAKEN=()
for cpu in "${CPUS[@]}"; do
    first=$(read_of "$ROOT/sys/devices/system/cpu/cpu$cpu/topology/thread_siblings_list" | sed 's/[,-].*//')
    [ -n "$first" ] || first=$cpu
    if [ "$first" = 0 ] || [ -n "${CORE_TAKEN[$first]:-}" ]; then continue; fi
    CORE_TAKEN[$first]=1
    THREADS+=("$cpu")
done
[ -n "$WORKERS" ] || WORKERS=${#NAMES[@]}
if [ "$WORKERS" -gt "${#THREADS[@]}" ]; then WORKERS=${#THREADS[@]}; fi
CORES=''
if [ "$WORKERS" -gt 0 ]; then
    CORES=$(printf '%s\n' "${THREADS[@]}" | tail -n "$WORKERS" | paste -sd, -)
else
    WORKERS=1
    warn "There is no core to spare beside the first: the worker shares one with everything else."
fi

head_line "Proposal"
for i in "${!NAMES[@]}"; do
    say "  wire ${NAMES[i]}: inside ${INSIDES[i]}, outside ${OUTSIDES[i]}, observe"
done
say "  workers: $WORKERS${CORES:+, on the cores $CORES}"

port_name() {
    local address
    address=$(pci_of "$1")
    if [ -n "$VFIO" ] && [ -n "$address" ]; then printf '%s' "$address"; else printf '%s' "$1"; fi
}

configuration() {
    printf '# Written by deploy/install.sh; deploy/gateway.toml shows every key.\n'
    printf 'policy = "/etc/bulkhead/policy"\nrecords-group = "bulkhead-learn"\nworkers = %s\n' "$WORKERS"
    [ -z "$CORES" ] || printf 'cores = [%s]\npoll = "busy"\n' "${CORES//,/, }"
    for i in "${!NAMES[@]}"; do
        printf '\n[[wire]]\nname = "%s"\n# Towards the protected devices; swap the two if it is the other way round.\n' "${NAMES[i]}"
        printf 'inside = "%s"\noutside = "%s"\nmode = "observe"\n' "$(port_name "${INSIDES[i]}")" "$(port_name "${OUTSIDES[i]}")"
    done
}

# put FILE MODE: writes standard input to the file, or, where it is there with another text, beside it.
put() {
    local file=$1 mode=$2 text number=''
    text=$(cat; printf x)
    while [ -e "$file$number" ] && [ "$(cat "$file$number"; printf x)" != "$text" ]; do
        case $number in '') number=.new ;; .new) number=.new2 ;; *) number=.new$((${number#.new} + 1)) ;; esac
    done
    [ -z "$number" ] || warn "  $file is there already, and another: the new one is $file$number"
    install -d "$(dirname "$file")"
    printf '%s' "${text%x}" >"$file$number"
    chmod "$mode" "$file$number"
}

write_configuration() {
    # The services read it as users of their own; there is no secret in it.
    install -d -m 755 "$ROOT/etc/bulkhead" "$ROOT/etc/bulkhead/policy"
    # The package's configuration guards no wire: no gateway runs with it, so nothing is lost.
    if [ -n "$PACKAGED" ] && [ -e "$ROOT/etc/bulkhead/gateway.toml" ] &&
        ! grep -q '^ *\[\[ *wire' "$ROOT/etc/bulkhead/gateway.toml"; then
        rm -f "$ROOT/etc/bulkhead/gateway.toml"
    fi
    configuration | put "$ROOT/etc/bulkhead/gateway.toml" 644
    if ! ls "$ROOT"/etc/bulkhead/policy/*.yaml >/dev/null 2>&1; then
        printf 'version: 1\ndefault: deny\n' >"$ROOT/etc/bulkhead/policy/10-site.yaml"
    fi
}

# 2 MiB pages: some 25 for a wire with one worker, and as many again for each further one.
PAGES=$((((30 * ${#NAMES[@]} * WORKERS + 63) / 64) * 64))
write_huge_pages() {
    local reserved
    reserved=$(read_of "$ROOT/proc/sys/vm/nr_hugepages")
    if [ "${reserved:-0}" -ge "$PAGES" ]; then
        say "  $reserved huge pages are reserved already: left as they are"
        return
    fi
    printf 'vm.nr_hugepages = %s\n' "$PAGES" | put "$ROOT/etc/sysctl.d/60-bulkhead.conf" 644
    [ -n "$ROOT" ] || sysctl -q vm.nr_hugepages="$PAGES"
}

install_program() {
    install -D -m 755 "$BINARY" "$ROOT/usr/local/bin/bulkhead"
    local unit
    # The units of the gateway and the console name the group of the learning process: it comes with the
    # users of the first, and the console, which is to be enabled by hand, finds it there.
    for unit in bulkhead bulkhead-learn bulkhead-console; do
        put "$ROOT/etc/systemd/system/$unit.service" 644 <"deploy/$unit.service"
        put "$ROOT/usr/lib/sysusers.d/$unit.conf" 644 <"deploy/$unit.sysusers"
        [ -n "$ROOT" ] || systemd-sysusers "$unit.conf"
    done
    [ -n "$ROOT" ] || systemctl daemon-reload
}

# What the gateway's unit lacks for the way to the wire that was chosen: its user owns the NICs, or has what
# kernel interfaces take.
open_the_way() {
    local folder=deploy
    [ -d deploy ] || folder=.
    if [ -n "$VFIO" ]; then
        put "$ROOT/etc/udev/rules.d/60-bulkhead-vfio.rules" 644 <"$folder/60-bulkhead-vfio.rules"
        [ -n "$ROOT" ] || udevadm control --reload
    else
        put "$ROOT/etc/systemd/system/bulkhead.service.d/kernel-interfaces.conf" 644 <"$folder/kernel-interfaces.conf"
        [ -n "$ROOT" ] || systemctl daemon-reload
    fi
}

bind_nics() {
    local name address
    install -d -m 755 "$(dirname "$BOUND")"
    modprobe vfio-pci || die "the module vfio-pci cannot be loaded"
    for name in "${INSIDES[@]}" "${OUTSIDES[@]}"; do
        address=$(pci_of "$name")
        # mlx5 stays with its kernel driver and is named by its address all the same.
        if [ -z "$address" ] || [ "$(driver_of "$name")" = mlx5_core ]; then continue; fi
        printf '%s %s %s\n' "$address" "$(driver_of "$name")" "$name" >>"$BOUND"
        ip link set "$name" down
        dpdk-devbind.py --bind=vfio-pci "$address" || die "$address ($name) could not be bound: is the IOMMU on? 'deploy/install.sh --undo' gives the others back"
    done
}

head_line "$([ -n "$APPLY" ] && echo Installing || echo 'To do')"
if [ -n "$APPLY" ] && [ -z "$PACKAGED" ] && [ ! -x "$BINARY" ]; then die "$BINARY is not there: cargo build --release, or --binary FILE"; fi
do_it "write the configuration to $ROOT/etc/bulkhead" write_configuration
do_it "reserve $PAGES huge pages of 2 MiB in $ROOT/etc/sysctl.d/60-bulkhead.conf" write_huge_pages
[ -n "$PACKAGED" ] || do_it "install $BINARY and the units" install_program
if [ -n "$VFIO" ]; then WAY='the NICs'; else WAY='what kernel interfaces take'; fi
do_it "give the gateway's user $WAY" open_the_way
[ -z "$VFIO" ] || do_it "bind the wires' NICs to vfio-pci, noted in $BOUND" bind_nics
if [ -n "$CORES" ]; then
    say "  for you to do, then restart: keep other work off the workers' cores, in /etc/default/grub:"
    say "      isolcpus=$CORES nohz_full=$CORES rcu_nocbs=$CORES${VFIO:+ intel_iommu=on iommu=pt}"
fi
if [ -z "$APPLY" ]; then
    say ""
    say "Nothing was changed. The configuration would be:"
    configuration | sed 's/^/    /'
    say "Again with --apply to do it."
    exit 0
fi
head_line "Next"
say "  bulkhead doctor                     # what is still to be done"
say "  systemctl enable --now bulkhead     # every wire observes: it forwards all"
say "  bulkhead status"
