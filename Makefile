# make help lists the targets. demo and test do their own set-up: they are the only command to type in a fresh clone.

PREFIX   ?= /usr/local
SBINDIR  ?= $(PREFIX)/sbin
UNITDIR  ?=
FUZZTIME ?= 30s
CASE     ?=
RUN      ?=
MINUTES  ?= 1
VERSION  ?= $(or $(shell git -c safe.directory='*' describe --tags --always --dirty 2>/dev/null),unknown)

export PATH := $(PATH):/usr/local/go/bin
# The version comes from git describe above; go's own stamping fails in a clone that belongs to somebody else.
export GOFLAGS := $(GOFLAGS) -buildvcs=false

LAUNCHER := cmd/neurodeskfs/embedded/launcher

.DEFAULT_GOAL := help
.PHONY: help deps build demo test race fuzz soak lint bench install clean

help: ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 18

deps: ## install what demo and test need and this machine lacks (Debian, Ubuntu); elsewhere name it
	@packaging/deps.sh

build: ## build the static binary bin/neurodeskfs (needs only Go)
	@mkdir -p $(dir $(LAUNCHER)) bin
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o $(LAUNCHER) ./cmd/launcher
	CGO_ENABLED=0 go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/neurodeskfs ./cmd/neurodeskfs

demo: deps build ## a real tool in a real image, run by its plain name from a mounted repository
	@go run ./integration/demo

test: deps build ## all tests, as root and as an ordinary user; CI=true lets none be left out
	@packaging/test.sh

race: deps build ## the integration tests with a program that the race detector watches; RUN=REGEXP picks
	@RACE=1 RUN='$(RUN)' packaging/test.sh

fuzz: build ## each fuzz target for FUZZTIME (30s)
	@packaging/fuzz.sh $(FUZZTIME)

soak: build ## 200 processes, dying workers and proxies, moving revisions, for MINUTES (1); a minute of kills
	@NEURODESKFS_BIN=$(CURDIR)/bin/neurodeskfs SOAK_MINUTES=$(MINUTES) NEURODESKFS_SOAK_SECONDS=60 \
	  go test -v -count=1 -timeout 0 -run '^(TestSoak|TestMountSurvivesKilledWorkers|TestMountInAPrivateNamespace)$$' ./integration

lint: build ## gofmt, go vet, staticcheck, govulncheck
	@packaging/lint.sh

bench: build ## the measurements; CASE=hot,launch picks, QUICK=1 is short, FULL=1 long
	@go run ./integration/bench $(CASE)

install: ## install below PREFIX (/usr/local), DESTDIR in front of it; UNITDIR=/etc/systemd/system places the unit too
	@[ -x bin/neurodeskfs ] || $(MAKE) --no-print-directory build
	install -D -m 755 bin/neurodeskfs $(DESTDIR)$(PREFIX)/bin/neurodeskfs
	install -d $(DESTDIR)$(SBINDIR)
	ln -sfn $(PREFIX)/bin/neurodeskfs $(DESTDIR)$(SBINDIR)/mount.neurodeskfs
	@[ -z "$(UNITDIR)" ] || { install -d $(DESTDIR)$(UNITDIR) && sed 's,/usr/local/,$(PREFIX)/,' packaging/systemd/neurodeskfs.service \
	  >$(DESTDIR)$(UNITDIR)/neurodeskfs.service && echo "$(UNITDIR)/neurodeskfs.service"; }
	@case $(SBINDIR) in /sbin|/usr/sbin) ;; *) \
	  echo "For mounts by /etc/fstab, mount(8) looks for mount.neurodeskfs in /sbin only: make install SBINDIR=/sbin" ;; esac

clean: ## remove what was built and downloaded
	rm -rf bin .deps $(LAUNCHER)
