#!/usr/bin/env bash
# test.sh (make test): vet, the unit tests, the integration tests, those that are for ordinary users once more as one,
# and in CI each fuzz target for a few seconds. Every stage runs, whatever failed before it; exit 1 if one failed. Up to
# three tests that fail, as by a time-out on a busy machine, are run once more; those that pass then are named at the end.
#
# CI=true              golden data must be there; each fuzz target runs for FUZZTIME (3s)
# FULL=1               more of the images that mksquashfs can make
# STRICT=1             what fails once has failed
# FUZZTIME=TIME        run the fuzz targets for that time, out of CI too
# RACE=1               (make race) the integration tests alone, with a program that the race detector watches, but for
#                      out_of_watch below; RUN=REGEXP picks
# NEURODESKFS_GOLDEN   the golden data, default ../shared/golden
#
# The tests get: NEURODESKFS_BIN, the built binary; NEURODESKFS_GOLDEN; TMPDIR, a folder that is removed afterwards.
# As root, tests named TestMount..., TestLaunch... and TestGolden... run a second time as the user nduser, who is made
# when missing. As an ordinary user only those run, as that user.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin
user=nduser
user_tests='^Test(Mount|Launch|Golden)'
golden=$(readlink -m "${NEURODESKFS_GOLDEN:-../shared/golden}")
export NEURODESKFS_GOLDEN=$golden
GOCACHE=$(go env GOCACHE) # it would follow XDG_CACHE_HOME, which stages change
export GOCACHE
work=$(mktemp -d /tmp/ndt.XXXXXX) # short: a socket's path has at most 107 bytes
chmod 755 "$work"
failed=()
unstable=()

say() { printf 'test: %s\n' "$*"; }

# ours: the processes that were started by this run, by the TMPDIR that they inherited.
ours() { grep -lzE "^TMPDIR=$work/" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3 || true; }

# mounts: mount points below our folder, the deepest first.
mounts() { awk -v w="$work/" 'index($5, w) == 1 { print $5 }' /proc/self/mountinfo | tac; }

# leftovers: what a stage left behind fails the run, and goes away.
leftovers() {
    local mount pid
    while read -r mount; do
        say "FAILED: $1 left a mount behind: $mount"
        failed+=("$1: mount left behind")
        umount -l "$mount" 2>/dev/null || fusermount3 -uz "$mount" || true
    done < <(mounts)
    for pid in $(ours); do
        say "FAILED: $1 left process $pid behind: $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null)"
        failed+=("$1: process left behind")
        kill -9 "$pid" 2>/dev/null || true
    done
}

clean_up() {
    local status=$?
    trap - EXIT
    leftovers 'the run' || true
    rm -rf --one-file-system "$work" || say "could not remove $work"
    exit $status
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# stage NAME COMMAND...: run it with its own TMPDIR and a log of which the summary lines are shown, and the rest where
# it failed. Tests run with -v, so that the log tells what was skipped.
stage() {
    local name=$1 log=$work/log.${1// /-} status start=$SECONDS tests
    shift
    say "== $name"
    mkdir -p "$work/tmp"
    logged "$log" "$@"
    grep -E '^(ok|FAIL|PASS|fuzz: ([0-9]+ |FAILED)|made )' "$log" || true
    [ $status = 0 ] || unlike_passed "$log"
    leftovers "$name"
    tests=$(excusable "$log")
    if [ $status != 0 ] && [ -n "$tests" ]; then
        say "== $name, once more: $tests"
        logged "$log-again" "$@" -run "^(${tests// /|})\$"
        [ $status = 0 ] && unstable+=("$tests") || unlike_passed "$log-again"
        leftovers "$name"
    fi
    [ $status = 0 ] || failed+=("$name")
    slowest "$log"
    say "== $name: $(grep -cE '^ *--- PASS' "$log" || true) passed," \
        "$(grep -cE '^ *--- FAIL' "$log" || true) failed," \
        "$(grep -cE '^ *--- SKIP' "$log" || true) skipped, exit status $status, $((SECONDS - start)) s"
}

# logged LOG COMMAND...: run it with its own TMPDIR and what it prints in LOG, and set status.
logged() {
    local log=$1
    shift
    set +e # a command that is tested by || would run without set -e
    (
        set -e
        export TMPDIR=$work/tmp
        "$@"
    ) >"$log" 2>&1 </dev/null
    status=$?
    set -e
}

# unlike_passed: a log without what says that all is well.
unlike_passed() { grep -vE '^ *(=== (RUN|PAUSE|CONT|NAME)|--- PASS|ok  )|\[no test(s to run| files)\]' "$1" || true; }

# excusable: the tests that failed in a log, if they are few and nothing worse is in it: a data race, a panic, a package
# that cannot be built, something left behind.
excusable() {
    local -a tests
    mapfile -t tests < <(sed -nE 's/^--- FAIL: (Test[A-Za-z0-9_]*) .*/\1/p' "$1" | sort -u)
    if [ "${STRICT:-}" = 1 ] || [ ${#tests[@]} -eq 0 ] || [ ${#tests[@]} -gt 3 ] ||
        grep -qE 'DATA RACE|^panic:|^fatal error:|\[(build|setup) failed\]|^the run left' "$1"; then
        return 0
    fi
    echo "${tests[@]}"
}

# slowest: the five tests of a log that took longest.
slowest() {
    sed -nE 's/^--- (PASS|FAIL): ([^ ]+) \(([0-9.]+)s\)$/\3 \2/p' "$1" | sort -rn |
        awk 'NR <= 5 && $1 >= 5 { printf "test: %7.1f s %s\n", $1, $2 }' # reads to the end: a SIGPIPE would end the run
}

# unwatched: the race detector watches our code and what it calls, but for SQLite and the decompressors: they share nothing
# between goroutines, and being watched makes them twenty times slower.
unwatched=()
for library in modernc.org github.com/klauspost/compress github.com/ulikunitz/xz github.com/pierrec/lz4 compress; do
    unwatched+=("-gcflags=$library/...=-race=false")
done

unit() {
    local -a packages
    mapfile -t packages < <(go list ./... | grep -vE '/integration(/|$)')
    if command -v "$(go env CC)" >/dev/null; then
        CGO_ENABLED=1 go test -v -race "${unwatched[@]}" -shuffle=on -timeout 20m "$@" "${packages[@]}"
    else
        say "no C compiler: without the race detector"
        go test -v -shuffle=on -timeout 20m "$@" "${packages[@]}"
    fi
}

# out_of_watch: tests of how much memory something takes, or of what is done within a time.
out_of_watch='^(TestMountMemoryIsFlat|TestLaunchCold|TestSoak)$'

# watched builds program and launcher with the race detector, which says what it finds on stderr: there the tests look
# for it.
watched() {
    CGO_ENABLED=1 go build -race -trimpath -o "$work/launcher" ./cmd/launcher
    echo "{\"Replace\": {\"$PWD/cmd/neurodeskfs/embedded/launcher\": \"$work/launcher\"}}" >"$work/overlay.json"
    CGO_ENABLED=1 go build -race "${unwatched[@]}" -overlay "$work/overlay.json" -trimpath -o "$work/watched/neurodeskfs" ./cmd/neurodeskfs
}

integration() {
    NEURODESKFS_BIN=${program:-$PWD/bin/neurodeskfs} XDG_CACHE_HOME=$work/tmp/cache \
        go test -v -count=1 -p 1 -timeout 25m "$@" ./integration/... # one after another: a container of one holds mounts of another
}

as_user() {
    if command -v runuser >/dev/null; then
        runuser -u $user -- "$@"
    else
        setpriv --reuid $user --regid $user --init-groups -- "$@"
    fi
}

# integration_as_user: the test binary, what it reads and the program are copied to where the user can read them, for
# the clone may lie below a closed home directory. HOME is the account's own, as in life; caches are this run's.
integration_as_user() {
    local home=$work/u readable=$golden tests=${2:-$user_tests} # behind -run
    id $user >/dev/null 2>&1 || { useradd -m -s /bin/bash $user && echo "made the user $user"; }
    mkdir -p "$home"/{tmp,cache,config,data,tree/integration}
    go test -c -o "$home/integration.test" ./integration
    cp bin/neurodeskfs "$home/neurodeskfs"
    cp go.mod "$home/tree/"
    [ ! -d integration/testdata ] || cp -r integration/testdata "$home/tree/integration/"
    chown -R $user: "$home"
    if [ -d "$golden" ] && ! as_user test -r "$golden/README.md"; then
        readable=$home/golden
        cp -r "$golden" "$readable"
        chown -R $user: "$readable"
    fi
    cd "$home/tree/integration"
    as_user env -i PATH="$PATH" LANG="${LANG:-C.UTF-8}" CI="${CI:-}" USER=$user LOGNAME=$user SHELL=/bin/bash \
        HOME="$(getent passwd $user | cut -d: -f6)" TMPDIR="$home/tmp" XDG_CACHE_HOME="$home/cache" \
        XDG_CONFIG_HOME="$home/config" XDG_DATA_HOME="$home/data" APPTAINER_CACHEDIR="$home/cache/apptainer" \
        NEURODESKFS_BIN="$home/neurodeskfs" NEURODESKFS_GOLDEN="$readable" \
        "$home/integration.test" -test.v -test.count=1 -test.timeout 15m -test.run "$tests"
}

run_all() {
    if [ "${RACE:-}" = 1 ]; then
        run_watched
        return
    fi
    stage vet go vet ./...
    stage unit unit
    if [ ! -d integration ]; then
        say "no folder integration: its tests are left out"
    elif [ "$(id -u)" = 0 ]; then
        stage 'integration as root' integration
        stage "integration as $user" integration_as_user
    else
        say "not root: the integration tests that need root are left out"
        stage "integration as $(id -un)" integration -run "$user_tests"
    fi
    if [ "${CI:-}" = true ] || [ -n "${FUZZTIME:-}" ]; then
        stage fuzz packaging/fuzz.sh "${FUZZTIME:-3s}"
    fi
}

# run_watched: the tests of root, or of an ordinary user.
run_watched() {
    local tests=${RUN:-.}
    [ "$(id -u)" = 0 ] || tests=${RUN:-$user_tests}
    export GORACE='history_size=3 atexit_sleep_ms=0' # or each command would end a second late
    program=$work/watched/neurodeskfs
    stage 'build with the race detector' watched
    say "left out: $out_of_watch"
    stage 'integration, watched' integration -timeout 90m -skip "$out_of_watch" -run "$tests"
}

# verdict: the last lines; the very last names what was not run.
verdict() {
    local skipped
    skipped=$(cat "$work"/log.* | sed -nE 's/^ *--- SKIP: ([^ ]+).*/\1/p' | sort -u | paste -sd ' ')
    [ ${#unstable[@]} -eq 0 ] || say "UNSTABLE, passed when run once more: ${unstable[*]}"
    [ ${#failed[@]} -eq 0 ] || say "FAILED: $(printf '%s; ' "${failed[@]}")"
    if [ ! -d "$golden" ]; then
        [ "${CI:-}" != true ] || failed+=('golden data')
        say "NOT RUN for lack of golden data (../shared/golden or \$NEURODESKFS_GOLDEN): ${skipped:-every test that compares with it}"
    elif [ -n "$skipped" ]; then
        say "skipped: $skipped"
    fi
    [ ${#failed[@]} -eq 0 ] || return 1
    [ ! -d "$golden" ] || say "all passed in $SECONDS s"
}

run_all
verdict
