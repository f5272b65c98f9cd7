#!/usr/bin/env bash
# deps.sh (make deps): install what the demo and the tests need and this machine lacks.
# usage: deps.sh            install (Debian, Ubuntu); elsewhere name what to install
#        deps.sh --list     print the table: need, probe, and the package's name for apt, dnf and zypper
# A run that finds nothing missing changes nothing and asks no server. Exit 1: something essential is missing.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

# One line for each part: need (essential: nothing works without it; test: some test or the demo wants it),
# probe (a command, a file, or static:COMMAND for a command that must be statically linked), then the package for
# apt, dnf and zypper (- where the distribution has none). A new part is one more line.
parts() {
    cat <<'TABLE'
essential  fusermount3            fuse3            fuse3             fuse3
essential  mksquashfs             squashfs-tools   squashfs-tools    squashfs
essential  /etc/ssl/certs         ca-certificates  ca-certificates   ca-certificates
test       gcc                    gcc              gcc               gcc
test       /usr/include/stdlib.h  libc6-dev        glibc-devel       glibc-devel
test       squashfuse             squashfuse       squashfuse        squashfuse
test       fuse-overlayfs         fuse-overlayfs   fuse-overlayfs    fuse-overlayfs
test       newuidmap              uidmap           shadow-utils      shadow
test       bwrap                  bubblewrap       bubblewrap        bubblewrap
test       static:busybox         busybox-static   busybox           busybox-static
test       getfattr               attr             attr              attr
test       xz                     xz-utils         xz                xz
test       curl                   curl             curl              curl
test       squid                  squid            squid             squid
test       slurmctld              slurm-wlm        -                 -
test       munged                 munge            munge             munge
test       nginx                  nginx-light      nginx             nginx
test       /usr/share/lmod/lmod/init/bash  lmod   Lmod              Lmod
test       tclsh                  tcl              tcl               tcl
test       /lib/systemd/systemd   systemd          systemd           systemd
test       python3                python3          python3           python3
TABLE
}

# Environment Modules. Debian's package and lmod's remove each other, so that it is unpacked beside the system.
modules=/usr/local/lib/environment-modules
modules_present() { [ -e $modules/usr/lib/modulecmd.tcl ] || [ -n "$(ls $modules/usr/lib/*/modulecmd.tcl 2>/dev/null)" ]; }
unpack_modules() {
    local dir
    modules_present && return
    say "unpack environment-modules into $modules"
    dir=$(mktemp -d)
    chmod 755 "$dir"
    (cd "$dir" && apt_get -o APT::Sandbox::User=root download environment-modules)
    rm -rf $modules.new
    dpkg -x "$dir"/environment-modules_*.deb $modules.new
    rm -rf $modules "$dir"
    mv $modules.new $modules
}

say() { printf 'deps: %s\n' "$*"; }

# present PROBE: is that part here?  Daemons live in /usr/sbin, which an ordinary user's PATH may not name.
present() {
    local cmd
    case $1 in
    /*) [ -e "$1" ] ;;
    static:*)
        cmd=$(command -v "${1#static:}") || return 1
        ! grep -qa '/ld-linux' <(head -c 8192 "$cmd") ;;
    *) command -v "$1" >/dev/null ;;
    esac
}

# missing COLUMN [NEED]: the packages (column 3 apt, 4 dnf, 5 zypper) of the parts that are not here.
missing() {
    local -a row
    while read -r -a row; do
        [ -z "${2:-}" ] || [ "${row[0]}" = "$2" ] || continue
        present "${row[1]}" || printf '%s\n' "${row[$1 - 1]}"
    done < <(parts) | grep -vx -e - | sort -u || true
}

# A package's post-install script starts its daemon, on a machine without systemd too. While we install, a policy
# says no; the machine's own policy, if it has one, is put back afterwards.
policy=/usr/sbin/policy-rc.d
policy_kept=
hold_daemons() {
    if [ -e $policy ] || [ -L $policy ]; then
        policy_kept=$policy.neurodeskfs-kept
        mv $policy $policy_kept
    fi
    trap release_daemons EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
}
release_daemons() {
    rm -f $policy
    [ -z "$policy_kept" ] || mv $policy_kept $policy
    trap - EXIT
}

install_with_apt() {
    local -a packages=("$@")
    say "apt-get install ${packages[*]}"
    hold_daemons
    apt_get install "${packages[@]}"
    release_daemons
}

# Where there is no apt we only tell: package names differ, and so does what an administrator allows.
name_what_is_missing() {
    local column=4 tool='dnf install' need
    if command -v zypper >/dev/null; then column=5 tool='zypper install'; fi
    need=$(missing $column)
    packaging/apptainer.sh --present || need="$need apptainer"
    if [ -z "${need// /}" ]; then
        say "nothing to do"
        return 0
    fi
    say "this script installs on Debian and Ubuntu only; here, type:  sudo $tool $(echo $need)"
    if [ -n "$(missing $column essential)" ] || ! packaging/apptainer.sh --present; then
        return 1
    fi
    say "nothing essential is missing; tests that need the above will say so"
}

# Ordinary users mount through fusermount3, which opens /dev/fuse with their rights.
check_fuse() {
    [ -e /dev/fuse ] || [ "$(id -u)" != 0 ] || modprobe fuse 2>/dev/null || true
    if [ ! -e /dev/fuse ]; then
        say "note: there is no /dev/fuse, so nothing can be mounted: load the kernel module (modprobe fuse), or start the container with --device /dev/fuse"
    elif [ "$(stat -c %a /dev/fuse)" != 666 ]; then
        if [ "$(id -u)" = 0 ]; then
            say "chmod 666 /dev/fuse, so that ordinary users can mount"
            chmod 666 /dev/fuse
        else
            say "note: /dev/fuse is closed to ordinary users; type:  sudo chmod 666 /dev/fuse"
        fi
    fi
}

# fusermount3 -u reads /etc/mtab, which debootstrap leaves out.
check_mtab() {
    [ ! -e /etc/mtab ] || return 0
    if [ "$(id -u)" = 0 ]; then
        say "link /etc/mtab to /proc/self/mounts, which fusermount3 reads"
        ln -s ../proc/self/mounts /etc/mtab
    else
        say "note: there is no /etc/mtab, so fusermount3 cannot unmount; type:  sudo ln -s ../proc/self/mounts /etc/mtab"
    fi
}

# A user's containers need user namespaces, which some systems switch off.
check_user_namespaces() {
    local key value
    for key in kernel/unprivileged_userns_clone=0 user/max_user_namespaces=0 kernel/apparmor_restrict_unprivileged_userns=1; do
        value=$(cat "/proc/sys/${key%=*}" 2>/dev/null) || continue
        [ "$value" != "${key#*=}" ] ||
            say "note: /proc/sys/${key%=*} is $value: ordinary users may be unable to start containers"
    done
}

main() {
    local -a packages
    PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/go/bin
    if [ "${1:-}" = --list ]; then parts; return; fi
    if ! command -v apt-get >/dev/null; then name_what_is_missing; return; fi
    mapfile -t packages < <(missing 3)
    if [ ${#packages[@]} -eq 0 ] && packaging/apptainer.sh --present && modules_present; then
        check_fuse
        check_mtab
        check_user_namespaces
        say "nothing to do: all parts are here"
        return
    fi
    if [ "$(id -u)" != 0 ]; then
        say "missing: ${packages[*]}$(packaging/apptainer.sh --present || echo ' apptainer')"
        say "installing needs root; type:  sudo env PATH=\"\$PATH\" $PWD/packaging/deps.sh"
        return 1
    fi
    . packaging/apt.sh
    exec 9>/run/neurodeskfs-deps.lock
    flock 9 # two runs at once would each take the other's policy-rc.d for the machine's own
    mapfile -t packages < <(missing 3)
    say "apt-get update"
    apt_get update
    [ ${#packages[@]} -eq 0 ] || install_with_apt "${packages[@]}"
    packaging/apptainer.sh
    unpack_modules
    check_fuse
    check_mtab
    check_user_namespaces
    say "done"
}
main "$@"
