# apt.sh: sourced by deps.sh and apptainer.sh: apt-get without questions, patient with locks and networks.

export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8

# apt_get ARGUMENTS: what it prints is shown only when it fails. The lock of the package lists, unlike dpkg's, has no
# waiting of its own in apt, and a mirror may be in the middle of an update: hence the three attempts.
apt_get() {
    local attempt out command=
    for command; do # the first word that is neither -o nor its value
        case $command in -o | *=*) ;; *) break ;; esac
    done
    for attempt in 1 2 3; do
        if out=$(apt-get -q -y -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 -o APT::Install-Recommends=false \
            -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@" 2>&1); then
            return 0
        fi
        [ "$attempt" = 3 ] || sleep $((attempt * 5))
    done
    printf '%s\n' "$out" >&2
    printf 'deps: apt-get %s failed; the lines above say why\n' "$command" >&2
    return 1
}
