package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("CACHE_TEST_CHILD"); dir != "" {
		if os.Getenv("CACHE_TEST_JOINT") != "" {
			runJointChild(dir)
		}
		runChild(dir)
		return
	}
	code := m.Run()
	if n := leakedGoroutines(); code == 0 && n != "" {
		fmt.Fprintln(os.Stderr, "goroutines left behind:\n"+n)
		code = 1
	}
	os.Exit(code)
}

// leakedGoroutines lists the goroutines of a Disk that did not end.
func leakedGoroutines() string {
	buf := make([]byte, 1<<20)
	for deadline := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
		s := string(buf[:runtime.Stack(buf, true)])
		if !strings.Contains(s, "cache.(*Disk)") {
			return ""
		}
		if time.Now().After(deadline) {
			return s
		}
	}
}

// keyFor names object i; the content follows from the key.
func keyFor(i int) string { return fmt.Sprintf("%02x%038x-shake128", i%256, i) }

// contentFor is size bytes that follow from key.
func contentFor(key string, size int) []byte {
	var seed [32]byte
	copy(seed[:], key)
	b := make([]byte, size)
	rand.NewChaCha8(seed).Read(b)
	return b
}

// records collects what was logged.
type records struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *records) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *records) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func (r *records) count(s string) int { return strings.Count(r.String(), s) }

func (r *records) logger() *slog.Logger { return slog.New(slog.NewTextHandler(r, nil)) }

// openDisk opens dir, settles, and at the end checks that nothing is wrong.
func openDisk(t testing.TB, dir string, opts Options) *Disk {
	t.Helper()
	d, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Settle(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Close()
		checkDir(t, dir)
	})
	return d
}

// checkDir opens a closed cache and checks accounting and content.
func checkDir(t testing.TB, dir string) {
	t.Helper()
	d, err := Open(dir, Options{})
	if err != nil {
		t.Errorf("reopen: %v", err)
		return
	}
	defer d.Close()
	r, err := d.Verify(context.Background(), nil)
	if err != nil || len(r.Damaged)+len(r.Unreadable) > 0 {
		t.Errorf("verify: %+v, %v", r, err)
	}
	checkAccounts(t, d)
}

// checkAccounts compares Stats with the files.
func checkAccounts(t testing.TB, d *Disk) {
	t.Helper()
	if d.readOnly != nil {
		return
	}
	for deadline := time.Now().Add(5 * time.Second); ; runtime.Gosched() {
		var n int
		var size int64
		filepath.Walk(filepath.Join(d.dir, objectsDir), func(_ string, fi os.FileInfo, err error) error {
			if err == nil && fi.Mode().IsRegular() {
				n++
				size += fi.Size()
			}
			return nil
		})
		s := d.Stats()
		if s.UsedBytes == size && s.Objects == n {
			checkPinnedSize(t, d)
			return
		}
		if time.Now().After(deadline) { // not a removal under way, whose file goes first
			t.Errorf("accounts: %d bytes in %d objects; files: %d in %d", s.UsedBytes, s.Objects, size, n)
			return
		}
	}
}

// checkPinnedSize adds up what is pinned.
func checkPinnedSize(t testing.TB, d *Disk) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	var sum int64
	for key := range d.pinned {
		sum += d.objs[key].size
	}
	if sum != d.pinnedSize {
		t.Errorf("accounts: %d bytes are pinned, counted as %d", sum, d.pinnedSize)
	}
}

// store commits content under key.
func store(t testing.TB, s Store, key string, content []byte) *Object {
	t.Helper()
	w, err := s.Create(key, int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	o, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// fill commits objects [from, to) of size bytes each, in order, and closes them.
func fill(t testing.TB, s Store, from, to, size int) {
	t.Helper()
	for i := from; i < to; i++ {
		store(t, s, keyFor(i), contentFor(keyFor(i), size)).Close()
	}
}

// wantContent opens key and compares.
func wantContent(t testing.TB, s Store, key string, want []byte) {
	t.Helper()
	o, err := s.Open(key)
	if err != nil {
		t.Errorf("%s: %v", key, err)
		return
	}
	defer o.Close()
	got, err := io.ReadAll(io.NewSectionReader(o, 0, o.Size()))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes, want %d, %v", key, len(got), len(want), err)
	}
}

func cached(t testing.TB, s Store, key string) bool {
	t.Helper()
	o, err := s.Open(key)
	if err != nil {
		if !errors.Is(err, ErrNotCached) {
			t.Errorf("%s: %v", key, err)
		}
		return false
	}
	o.Close()
	return true
}

// eventually polls until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// onlyFile is the path of key's object.
func onlyFile(d *Disk, key string) string { return objectPath(d.dir, key) }
