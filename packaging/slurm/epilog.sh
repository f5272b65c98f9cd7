#!/bin/sh
# epilog.sh: SLURM's Epilog on each node, as root: unmounts neurodeskfs when the last job has left. See prolog.sh.
# A mount that a process still uses is taken away at once and served until that one ends. Exit 0 always: an epilog that
# fails drains the node.
set -u
[ ! -r "${NEURODESK_DEFAULTS:-/etc/default/neurodeskfs}" ] || . "${NEURODESK_DEFAULTS:-/etc/default/neurodeskfs}"
mount=${NEURODESK_MOUNT:-/neurodesk} program=${NEURODESKFS:-/usr/local/bin/neurodeskfs} run=${NEURODESK_RUN:-/run/neurodeskfs}
unset NEURODESK_MOUNT
[ -n "${SLURM_JOB_ID:-}" ] && [ -e "$run/jobs/$SLURM_JOB_ID" ] || exit 0 # not ours, or done already
exec 9>"$run/lock" && flock 9 || exit 0
rm -f "$run/jobs/$SLURM_JOB_ID"
[ -z "$(ls -A "$run/jobs")" ] || exit 0
if [ -d /run/systemd/system ] && systemctl cat neurodeskfs.service >/dev/null 2>&1; then
    systemctl stop neurodeskfs.service 9>&-
else
    "$program" umount "$mount" 9>&-
fi 2>&1 | logger -t neurodeskfs 2>/dev/null
exit 0
