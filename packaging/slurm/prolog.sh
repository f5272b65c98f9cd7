#!/bin/sh
# prolog.sh: SLURM's Prolog on each node, as root: neurodeskfs is mounted while a job is there.
#
#   slurm.conf:  Prolog=/etc/slurm/neurodeskfs-prolog   Epilog=/etc/slurm/neurodeskfs-epilog   PrologFlags=Alloc
#
# Jobs that begin and end at once take turns at the lock; each leaves a file by its number, and the epilog of the last
# one unmounts. Run twice for a job, it does nothing the second time. A prolog that fails drains the node, so this one
# only writes to the log and lets the job begin, unless NEURODESK_PROLOG_STRICT=1.
#
# NEURODESK_MOUNT (/neurodesk), NEURODESKFS (the binary), NEURODESK_CONFIG (a file for --config) and NEURODESK_RUN
# (/run/neurodeskfs) may be set in /etc/default/neurodeskfs.
set -u
[ ! -r "${NEURODESK_DEFAULTS:-/etc/default/neurodeskfs}" ] || . "${NEURODESK_DEFAULTS:-/etc/default/neurodeskfs}"
mount=${NEURODESK_MOUNT:-/neurodesk} program=${NEURODESKFS:-/usr/local/bin/neurodeskfs} run=${NEURODESK_RUN:-/run/neurodeskfs}
unset NEURODESK_MOUNT

fail() {
    logger -t neurodeskfs "prolog of job ${SLURM_JOB_ID:-?}: $*" 2>/dev/null
    echo "neurodeskfs prolog: $*" >&2
    [ "${NEURODESK_PROLOG_STRICT:-0}" = 1 ] && exit 1
    exit 0
}

[ -n "${SLURM_JOB_ID:-}" ] || fail "SLURM_JOB_ID is not set: this is for slurm.conf's Prolog="
mkdir -p "$run/jobs" || fail "cannot make $run/jobs"
# A mount whose daemon was killed cannot be looked at, and mount clears it away.
grep -qF " $mount fuse.neurodeskfs " /proc/self/mounts || mkdir -p "$mount" || fail "cannot make $mount"
exec 9>"$run/lock" || fail "cannot open $run/lock"
flock 9 || fail "cannot lock $run/lock"
: >"$run/jobs/$SLURM_JOB_ID"
! "$program" status "$mount" >/dev/null 2>&1 9>&- || exit 0
# The daemon must not hold the lock (9>&-), and must not be in a cgroup that ends with the job or with slurmd: where
# systemd has the unit, it starts it.
if [ -d /run/systemd/system ] && systemctl cat neurodeskfs.service >/dev/null 2>&1; then
    said=$(systemctl start neurodeskfs.service 2>&1 9>&-) || fail "$said"
else
    said=$("$program" mount ${NEURODESK_CONFIG:+--config "$NEURODESK_CONFIG"} "$mount" 2>&1 9>&-) || fail "$said"
fi
