#!/usr/bin/env bash
# fuzz.sh [TIME]: run every fuzz target of the tree for TIME (30s) each, as many at once as there are processors, one
# worker for each. A package is built once for all of its targets. Exit 1 if one failed.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
time=${1:-30s}
work=$(mktemp -d "${TMPDIR:-/tmp}/fuzz.XXXXXX")
trap 'rm -rf "$work"' EXIT
corpus=$(go env GOCACHE)/fuzz/$(go list -m) # where go test -fuzz keeps what it found
export time work corpus

# targets: one line "PACKAGE-DIRECTORY NAME" for each.
targets() {
    find . -name '*_test.go' -not -path '*/.*' -exec grep -HoE '^func Fuzz[A-Za-z0-9_]*' {} + |
        sed -E 's,^\./(.*)/[^/]*:func ,\1 ,' | sort
}

# one DIRECTORY NAME: what it printed ends in a line "fuzz: ..." of one write, for several run at once.
one() {
    local dir=$1 name=$2 binary=$work/${1//\//-}.test status try output
    for try in 1 2 3; do
        status=0
        # minimizing a long input may take a minute, which the time does not count
        output=$(cd "$dir" && "$binary" -test.run '^$' -test.fuzz "^$name\$" -test.fuzztime "$time" -test.parallel 1 \
            -test.fuzzminimizetime 1x -test.fuzzcachedir "$corpus/$dir" 2>&1) || status=$?
        # Go's fuzzer now and then fails by its own deadline, with no input that failed: that is no finding
        if [ $status = 0 ] || ! grep -q '^    context deadline exceeded$' <<<"$output" || grep -q 'Failing input' <<<"$output"; then
            break
        fi
        output+=$'\n'"fuzz: $name ended by the fuzzer's own deadline (try $try): once more"
    done
    if [ $status = 0 ]; then
        printf '%s\n' "$(tail -n 2 <<<"$output")"$'\n'"fuzz: $name in $dir: passed"
    else
        printf '%s\n' "$(tail -n 25 <<<"$output")"$'\n'"fuzz: FAILED: $name in $dir (the input is in its testdata/fuzz)"
        return 1
    fi
}
export -f one

mapfile -t all < <(targets)
for dir in $(printf '%s\n' "${all[@]}" | cut -d ' ' -f 1 | uniq); do
    go test -c -fuzz . -o "$work/${dir//\//-}.test" "./$dir"
done
if ! printf '%s\n' "${all[@]}" | xargs -P "$(nproc)" -L 1 bash -c 'one "$@"' one; then
    exit 1
fi
printf 'fuzz: %d targets passed\n' ${#all[@]}
