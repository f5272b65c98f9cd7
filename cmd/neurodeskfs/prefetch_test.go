package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/neurodesk/neurodeskfs/cmd/config"
)

func TestPrefetchLineFitsTheScreen(t *testing.T) {
	b := newPrefetchBar(nil, true)
	for _, row := range []struct {
		s       step
		elapsed time.Duration
		want    string
	}{
		{step{What: "fsl/6.0.7.22_20260416", Checked: 1, Objects: 4, Bytes: 1 << 30, OfBytes: 4 << 30, Here: 1 << 29}, 8 * time.Second, "fsl/6.0.7.22_20260416 [==        ] 1.0 GiB of 4.0 GiB, 64.0 MiB/s, 0:48 left"},
		{step{What: "a/1", Objects: -1, OfBytes: 5 << 20}, time.Second, "a/1: looking, 5.0 MiB so far"},
		{step{What: "a/1", Checked: 2, Objects: 2, Bytes: 100, OfBytes: 100, Here: 100}, time.Second, "a/1 [==========] 100 B of 100 B"},
		{step{What: "the lists of all images"}, 0, "the lists of all images"},
		{step{What: strings.Repeat("\x1b", 99), Checked: 1, Objects: 9, Bytes: 1, OfBytes: 900 << 40}, time.Hour, ""},
	} {
		got := b.text(row.s, row.elapsed)
		if row.want != "" && got != row.want || strings.ContainsRune(got, '\x1b') {
			t.Errorf("%q, want %q", got, row.want)
		}
		if n := utf8.RuneCountInString(clip(got, screenWidth-1)); n >= screenWidth {
			t.Errorf("%d columns", n)
		}
	}
	if got := minutes(2*time.Hour + 3*time.Minute + 4*time.Second); got != "2:03:04" {
		t.Error(got)
	}
}

// TestPrefetchPlainLines: on what is no terminal a line comes now and then only.
func TestPrefetchPlainLines(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	b := newPrefetchBar(&out, false)
	b.now = func() time.Time { return now }
	for i := range 100 {
		b.step(step{What: "a/1", Checked: i, Objects: 100, Bytes: int64(i), OfBytes: 100})
		now = now.Add(time.Second)
	}
	if n := strings.Count(out.String(), "\n"); n < 8 || n > 10 || strings.ContainsAny(out.String(), "\r\x1b") {
		t.Errorf("%d lines: %q", n, out.String())
	}
}

// TestPrefetchWithoutADaemon needs none of what a supervisor keeps for its workers.
func TestPrefetchWithoutADaemon(t *testing.T) {
	dir := t.TempDir()
	images, file := filepath.Join(dir, "images"), filepath.Join(dir, "config.toml")
	if err := errors.Join(os.Mkdir(images, 0o755), os.WriteFile(file, fmt.Appendf(nil, "[[source]]\nkind = \"dir\"\npath = %q\n", images), 0o644)); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Cache.Dir = filepath.Join(dir, "cache")
	if _, err := prefetchHere(t.Context(), cfg, nil, wanted{apps: []string{"none"}}, func(step) {}); err == nil || !strings.Contains(err.Error(), "none") {
		t.Error(err)
	}
}
