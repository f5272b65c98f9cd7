package main

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/fs/tree"
)

func TestBytesText(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1: "1 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB", 1 << 20: "1.0 MiB", 20 << 30: "20.0 GiB",
		1<<30 - 1: "1.0 GiB", 1 << 40: "1.0 TiB", 1 << 50: "1.0 PiB", math.MaxInt64: "8192.0 PiB", 1023 * 1024: "1023.0 KiB",
	} {
		if got := bytesText(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}

// TestStatusFitsTheScreen has the longest figures that may come.
func TestStatusFitsTheScreen(t *testing.T) {
	s := Status{
		PID: 4194304, Version: "v1.22.333-44-gabcdef012-dirty", Mountpoint: "/a/rather/long/mount/point/of/a/user/on/a/cluster", Uptime: 1e8,
		Sources: []SourceStatus{
			{FQRN: "neurodesk.ardc.edu.au", Revision: 123456, RootHash: strings.Repeat("a", 40) + "-shake128", Tag: "generic-2026-11-23T11:31:00Z-with-a-long-name",
				Hosts:        []HostStatus{{URL: "http://cvmfs-geoproximity.neurodesk.org/cvmfs/neurodesk.ardc.edu.au", Current: true}, {URL: "http://b"}},
				HTTPRequests: 123456789, HTTPBytes: 1 << 49, HTTPErrors: 1234567, Failovers: 123456, VerifyFailures: 123456},
			{FQRN: "bad.example.org", Error: "bad.example.org: manifest: the signature does not hold; ask the administrator of the repository, or look at the keys that the configuration names\x1b[31m"},
		},
		Index: tree.Progress{Apps: 1234, Commands: 98765, Pending: 12345},
		Cache: CacheStatus{Dir: "/var/lib/neurodeskfs/cache", Quota: 1 << 50, Used: 1<<50 - 1, Objects: 12345678, Hits: 1e12, Misses: 1e10, Evictions: 1e9, Degraded: true},
		Fuse:  FuseStatus{Total: 1e14, InFlight: 1000}, IOErrors: 1e9, RSS: 1 << 31,
		Memory: MemoryStatus{Heap: 1<<30 - 1, Limit: 1<<62 - 1, Buffers: 1 << 30, Blocks: 48 << 20, Degraded: 256 << 20, Held: cvmfs.Held{Catalogs: 1000}},
	}
	var out bytes.Buffer
	if err := s.print(&out); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		line = strings.TrimSuffix(line, "\n")
		if n := utf8.RuneCountInString(line); n > screenWidth {
			t.Errorf("%d columns: %s", n, line)
		}
		if strings.ContainsRune(line, 0x1b) || strings.HasSuffix(line, " ") {
			t.Errorf("%q", line)
		}
	}
	for _, want := range []string{"source       bad.example.org\n", "\n             ", "(1 of 2)\n", "12345 images are still to be read", "  warning    the cache disk fails"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("there is no %q in\n%s", want, out.String())
		}
	}
}

func TestRowFoldsBetweenWords(t *testing.T) {
	var out bytes.Buffer
	row(&out, "key", "%s", strings.Repeat("word ", 20))
	row(&out, "", "%s", strings.Repeat("x", 100))
	row(&out, "none", "")
	want := "key          " + strings.TrimSpace(strings.Repeat("word ", 13)) + "\n             " + strings.TrimSpace(strings.Repeat("word ", 7)) + "\n             " + strings.Repeat("x", 100) + "\nnone         \n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}
