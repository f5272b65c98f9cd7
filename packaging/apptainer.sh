#!/usr/bin/env bash
# apptainer.sh: install apptainer 1.1 or newer on Debian or Ubuntu (called by deps.sh, as root).
# usage: apptainer.sh            install it, unless a good one is in PATH; apt's lists are fresh
#        apptainer.sh --present  exit 0 if nothing is to be done, 1 if something is; changes nothing
# NEURODESKFS_PRIVATE_GLIBC=1    take the private glibc (below) without trying the small patch first
#
# The ways, in this order: the machine's own archive; on Ubuntu apptainer's own PPA; on Debian the package of Debian's
# development branch, which needs a newer glibc than Debian 12 has. All that it uses of that one are a few names, so
# elfcompat renames them; should a later build need more, it gets a glibc of its own in /opt, by patchelf. The system's
# glibc stays, and nothing of the development branch enters /etc/apt.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin
private_glibc=/opt/neurodeskfs-apptainer-glibc

say() { printf 'deps: %s\n' "$*"; }

# version_ok: is there an apptainer, does it start, and is it 1.1 or newer (the first that runs a user's directories and
# images without a setuid helper)?
version_ok() {
    local version major minor
    command -v apptainer >/dev/null || return 1
    version=$(apptainer version 2>/dev/null) || return 1
    IFS=.- read -r major minor _ <<<"$version"
    [[ $major =~ ^[0-9]+$ && $minor =~ ^[0-9]+$ ]] && ((major > 1 || (major == 1 && minor >= 1)))
}

capability_names=(chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable
    net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace
    sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control
    setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore)

# capabilities: those that this root has, as CAP_A,CAP_B; nothing where it has all that the kernel knows.
capabilities() {
    local have last i list=
    have=$((16#$(sed -n 's/^CapPrm:\s*//p' /proc/self/status)))
    last=$(cat /proc/sys/kernel/cap_last_cap)
    ((have != (1 << (last + 1)) - 1)) || return 0
    for i in "${!capability_names[@]}"; do
        ((have >> i & 1)) && list=$list,CAP_${capability_names[i]^^}
    done
    printf '%s' "${list#,}"
}

# config_file: the path that this build of apptainer was given.
config_file() { apptainer buildcfg 2>/dev/null | sed -n 's/^APPTAINER_CONF_FILE=//p'; }

# capabilities_ok: apptainer run by root asks the kernel for all capabilities and dies ("Requesting capability set ...")
# where root lacks one, as in many virtual machines and containers. Then its configuration must name those to ask for.
capabilities_ok() {
    [ "$(id -u)" != 0 ] || [ -z "$(capabilities)" ] ||
        grep -qE '^root default capabilities = (file|no)' "$(config_file)"
}

set_capabilities() {
    say "root lacks a capability here: $(config_file) gets 'root default capabilities = file'"
    sed -i -E 's/^(# *)?root default capabilities = .*/root default capabilities = file/' "$(config_file)"
    local out # a page of warnings that root may become root
    out=$(apptainer capability add --user root "$(capabilities)" 2>&1) || { printf '%s\n' "$out" >&2; return 1; }
}

from_archive() {
    say "apt-get install apptainer (this machine's archive has it)"
    apt_get install apptainer
}

from_ppa() {
    say "add-apt-repository ppa:apptainer/ppa, then apt-get install apptainer"
    apt_get install software-properties-common
    add-apt-repository -y ppa:apptainer/ppa >/dev/null
    apt_get update
    apt_get install apptainer
}

# fetch_from_sid DIR PACKAGE...: apt fetches the packages into DIR and checks their signatures; its lists and its cache
# are in DIR too.
fetch_from_sid() {
    local dir=$1 mirror out
    shift
    mirror=$(apt-get indextargets --format '$(SITE)' | awk '/\/debian\/?$/ && !n++')
    if [ -z "$mirror" ]; then
        say "apt's sources name no Debian mirror; install apptainer 1.1 or newer by hand, then try again"
        return 1
    fi
    mkdir -p "$dir"/{lists/partial,cache/archives/partial,none}
    : >"$dir/status"
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s sid main\n' "$mirror" >"$dir/sid.list"
    local -a options=(-o "Dir::Etc::sourcelist=$dir/sid.list" -o "Dir::Etc::sourceparts=$dir/none"
        -o "Dir::Etc::preferences=$dir/none/preferences" -o "Dir::Etc::preferencesparts=$dir/none"
        -o "Dir::State::lists=$dir/lists" -o "Dir::Cache=$dir/cache" -o "Dir::State::status=$dir/status"
        -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
        -o APT::Sandbox::User=root)
    out=$(apt-get -q "${options[@]}" update 2>&1) || true
    if [[ $out == *'Release file '*' is expired'* ]]; then
        say "the mirror's copy of the development branch is past its date (a frozen mirror?); its signature is checked all the same"
        options+=(-o Acquire::Check-Valid-Until=false)
    fi
    apt_get "${options[@]}" update
    (cd "$dir" && apt_get "${options[@]}" download "$@")
}

# fit_to_glibc DIR FILES...: make the programs below DIR/x run with this machine's glibc.
fit_to_glibc() {
    local dir=$1 file glibc unresolved
    glibc=$(getconf GNU_LIBC_VERSION)
    shift
    if [ -z "${NEURODESKFS_PRIVATE_GLIBC:-}" ] &&
        GOFLAGS= go run ./packaging/elfcompat -glibc "${glibc#glibc }" "$@" | sed "s,$dir/x,,; s/^/deps:   /"; then
        # versions only: libraries that are not here yet come with the package
        unresolved=$(ldd "$@" 2>&1 | grep -F "version \`" || true)
        [ -n "$unresolved" ] || return 0
        say "$unresolved"
    fi
    say "apptainer gets a glibc of its own in $private_glibc"
    fetch_from_sid "$dir" libc6
    apt_get install patchelf
    dpkg-deb -x "$dir"/libc6_*.deb "$dir/glibc"
    rm -rf "$dir/x" $private_glibc
    dpkg-deb -R "$dir"/apptainer_*.deb "$dir/x"
    install -d $private_glibc
    find "$dir"/glibc/usr/lib/*-linux-* -maxdepth 1 -name '*.so*' -exec cp -a {} $private_glibc/ \;
    for file; do
        case $file in *.so) continue ;; esac
        patchelf --set-interpreter "$(echo $private_glibc/ld-linux-*.so.*)" --force-rpath \
            --set-rpath "$private_glibc:/usr/lib/$(library_triplet)" "$file"
    done
}

# library_triplet: where the distribution keeps its libraries, such as x86_64-linux-gnu.
library_triplet() { basename "$(dirname "$(find /usr/lib /lib -name libc.so.6 -print -quit)")"; }

from_sid() {
    local control
    local -a programs
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    say "apptainer: fetching the package of Debian's development branch"
    fetch_from_sid "$dir" apptainer
    if apt-get -qq -s install "$dir"/apptainer_*.deb >/dev/null 2>&1; then
        say "it installs here as it is"
        apt_get install "$dir"/apptainer_*.deb
        return
    fi
    dpkg-deb -R "$dir"/apptainer_*.deb "$dir/x"
    mapfile -t programs < <(find "$dir/x/usr" -path '*/bin/apptainer' -o -name starter -o -name '*.so')
    say "fitting it to this machine's glibc"
    fit_to_glibc "$dir" "${programs[@]}"
    # libc6 as it is here; the network plug-ins (only for --net) and the long lists of sources are not needed
    control=$dir/x/DEBIAN/control
    sed -i -E 's/libc6 \(>= [^)]*\)/libc6/; s/containernetworking-plugins, //; /^(Static-)?Built-Using:/d
        s/^(Version: .*)$/\1+neurodeskfs/' "$control"
    (cd "$dir/x" && find usr var -type f -exec md5sum {} + >DEBIAN/md5sums)
    dpkg-deb --root-owner-group -Zgzip -z1 -b "$dir/x" "$dir/fitted.deb" >/dev/null
    chmod 755 "$dir"
    say "apt-get install apptainer $(sed -n 's/^Version: //p' "$control")"
    apt_get install --reinstall --allow-downgrades "$dir/fitted.deb"
}

# install_it picks the way first and then takes it, because bash ignores set -e in what || follows.
install_it() {
    . /etc/os-release
    if [ -n "$(apt-cache -q madison apptainer 2>/dev/null)" ]; then
        from_archive
    elif [ "${ID:-}" = ubuntu ]; then
        from_ppa
    else
        from_sid
    fi
}

main() {
    if [ "${1:-}" = --present ]; then
        version_ok && capabilities_ok
        return
    fi
    . packaging/apt.sh
    if ! version_ok; then
        install_it
        hash -r
        version_ok || { say "apptainer is installed but 'apptainer version' fails"; return 1; }
    fi
    capabilities_ok || set_capabilities
    # apptainer binds the machine's /etc/hosts into each container; a machine made by debootstrap has none
    [ -e /etc/hosts ] || printf '127.0.0.1 localhost\n' >/etc/hosts
    say "apptainer $(apptainer version) is ready"
}
main "$@"
