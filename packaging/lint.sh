#!/usr/bin/env bash
# lint.sh: gofmt, go vet, staticcheck and, where its database can be reached, govulncheck. Exit 1 if one has something
# to say. Go fetches and caches the two tools; they are no dependency of the module.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2
govulncheck=golang.org/x/vuln/cmd/govulncheck@v1.9.0
failed=0

# check NAME COMMAND...
check() {
    local name=$1 out
    shift
    if out=$("$@" 2>&1); then
        printf 'lint: %s: clean\n' "$name"
    else
        printf '%s\nlint: %s: the lines above\n' "$out" "$name"
        failed=1
    fi
}

formatted() {
    local files
    files=$(find . -name '*.go' -not -path '*/.*' -exec gofmt -l {} +)
    [ -z "$files" ] || { printf '%s: type gofmt -w\n' $files; return 1; }
}

vulnerabilities() {
    local out status=0
    out=$(go run $govulncheck ./... 2>&1) || status=$?
    # go run reports any failure as 1 and names the program's own status; 3: a vulnerability is reached
    if [ $status -eq 0 ]; then
        printf 'lint: govulncheck: clean\n'
    elif [[ $out == *"exit status 3"* ]]; then
        printf '%s\nlint: govulncheck: the lines above\n' "$out"
        failed=1
    else
        printf 'lint: govulncheck: not run: %s\n' "$(tail -n 1 <<<"${out%$'\n'exit status*}")"
    fi
}

check gofmt formatted
check 'go vet' go vet ./...
check staticcheck go run $staticcheck ./...
vulnerabilities
exit $failed
