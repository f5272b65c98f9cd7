package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/neurodesk/neurodeskfs/cache"
)

func TestServant(t *testing.T) {
	s, err := findServant("")
	if err != nil || s.uid == 0 || s.name != "neurodeskfs" && s.name != "nobody" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := findServant("no-such-user"); exitStatus(err) != exitUsage || !strings.Contains(err.Error(), "user =") {
		t.Error(err)
	}
	if s, err := findServant("root"); err != nil || s.uid != 0 || strings.Contains(strings.Join(s.confinement("/c"), " "), "--as") {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestServantOwnsTheCache: what an earlier version left as root is the servant's,
// and nothing outside.
func TestServantOwnsTheCache(t *testing.T) {
	s := rootsServant(t)
	top := t.TempDir()
	made := filepath.Join(top, "made") // as MkdirAll made it
	dir := filepath.Join(made, "cache")
	if err := os.MkdirAll(made, 0o700); err != nil {
		t.Fatal(err)
	}
	disk, err := cache.Open(dir, cache.Options{Quota: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.own(dir); !errors.Is(err, cache.ErrLocked) {
		t.Errorf("a cache in use is given away: %v", err)
	}
	if err := disk.Close(); err != nil {
		t.Fatal(err)
	}
	outside, shared := filepath.Join(top, "outside"), filepath.Join(top, "shared")
	link, hard := filepath.Join(dir, "link"), filepath.Join(dir, "hard")
	for _, err := range []error{os.WriteFile(outside, nil, 0o600), os.Symlink(outside, link), os.WriteFile(shared, nil, 0o600), os.Link(shared, hard)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time there is nothing to do
		if err := s.own(dir); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]int{
		dir: s.uid, filepath.Join(dir, "objects"): s.uid, filepath.Join(dir, "index.db"): s.uid, link: s.uid, outside: 0, hard: 0, made: 0,
	} {
		var st syscall.Stat_t
		if err := syscall.Lstat(path, &st); err != nil || int(st.Uid) != want {
			t.Errorf("%s belongs to %d, %v; want %d", path, st.Uid, err, want)
		}
	}
	if info, err := os.Stat(made); err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("%v, %v: the servant cannot reach its cache", info.Mode(), err)
	}
}

// TestServantsCacheIsTakenOnce: root's jobs that begin at once all find their
// servant's cache, though the worker of one is at work there before another is
// through with it.
func TestServantsCacheIsTakenOnce(t *testing.T) {
	s := rootsServant(t)
	for range 10 {
		dir := t.TempDir()
		for i := range 200 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i, ".log")), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var jobs, through sync.WaitGroup
		through.Add(4)
		for range 4 {
			jobs.Go(func() {
				err := s.own(dir)
				if err != nil {
					t.Error(err)
				}
				through.Done()
				disk, err := cache.Open(dir, cache.Options{Quota: 1 << 20, Joint: true})
				if err != nil {
					t.Error(err)
					return
				}
				through.Wait()
				if err := disk.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		jobs.Wait()
	}
}

// TestServantIsGivenNothingByALink: where the servant may write, it could put a
// link to root's own in the place of its cache.
func TestServantIsGivenNothingByALink(t *testing.T) {
	s := rootsServant(t)
	for _, row := range []struct{ of, want int }{{s.uid, 0}, {0, s.uid}} {
		top := t.TempDir()
		roots, link := filepath.Join(top, "roots"), filepath.Join(top, "link")
		for _, err := range []error{os.Mkdir(roots, 0o755), os.Symlink(roots, link), os.Lchown(link, row.of, row.of)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		err := s.own(link)
		info, statErr := os.Stat(roots)
		if statErr != nil || owner(info) != row.want || (err == nil) != (row.of == 0) {
			t.Errorf("by a link of %d: the folder belongs to %d, %v", row.of, owner(info), err)
		}
	}
}

// TestServantTakesNoForeignFolder: a folder that is no cache stays its owner's.
func TestServantTakesNoForeignFolder(t *testing.T) {
	dir := t.TempDir()
	thesis := filepath.Join(dir, "thesis.tex")
	if err := os.WriteFile(thesis, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := servant{"somebody", os.Geteuid() + 1, os.Getegid() + 1}
	if err := s.own(dir); os.Geteuid() == 0 && !errors.Is(err, cache.ErrLayout) {
		t.Error(err)
	}
	if info, err := os.Stat(thesis); err != nil || owner(info) != os.Geteuid() {
		t.Errorf("%v: given away", err)
	}
}

func TestMapped(t *testing.T) {
	table := filepath.Join(t.TempDir(), "uid_map")
	if err := os.WriteFile(table, []byte("         0       1000          1\n         1     100000      65536\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[int]bool{0: true, 1: true, 65534: true, 65536: true, 65537: false} {
		if mapped(table, id) != want {
			t.Errorf("%d", id)
		}
	}
}

func TestDeniedIsExplainedOnce(t *testing.T) {
	d := &daemon{as: "nobody"}
	err := d.explainDenied(failure{exitUntrusted, &fs.PathError{Op: "open", Path: "/root/key", Err: syscall.EACCES}})
	if text := d.explainDenied(err).Error(); strings.Count(text, "user nobody") != 1 || strings.Contains(text, "\n") || exitStatus(err) != exitUntrusted {
		t.Error(text)
	}
	d.as = ""
	if plain := d.explainDenied(fs.ErrPermission); plain != fs.ErrPermission {
		t.Error(plain)
	}
}

// rootsServant is the servant that root has by default. Only root can give files away.
func rootsServant(t *testing.T) servant {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("nobody else can give files away")
	}
	s, err := findServant("")
	if err != nil {
		t.Fatal(err)
	}
	return s
}
