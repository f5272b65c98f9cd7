package cache

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// filledDir is a closed cache of n objects, with pins and values.
func filledDir(t *testing.T, n int) string {
	t.Helper()
	dir := t.TempDir()
	d, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, d, 0, n, 100)
	for i := range 40 {
		if err := d.PutMeta("volumes", fmt.Sprintf("key %d", i), bytes.Repeat([]byte{byte(i)}, 400)); err != nil {
			t.Fatal(err)
		}
	}
	d.PutMeta("traces", "large", bytes.Repeat([]byte("x"), 20_000))
	if err := d.Pin(keyFor(3), "test"); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// checkServes opens dir and expects all n objects right, no value altered, and
// the index usable afterwards.
func checkServes(t *testing.T, dir string, n int) {
	t.Helper()
	for range 2 {
		d, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		checkAccounts(t, d)
		if s := d.Stats(); s.Objects != n {
			t.Errorf("%d objects, want %d", s.Objects, n)
		}
		for i := range n {
			wantContent(t, d, keyFor(i), contentFor(keyFor(i), 100))
		}
		d.ForEachMeta("volumes", func(k string, v []byte) error {
			var i int
			fmt.Sscanf(k, "key %d", &i)
			if !bytes.Equal(v, bytes.Repeat([]byte{byte(i)}, 400)) {
				t.Errorf("value %q altered", k)
			}
			return nil
		})
		if err := d.Flush(); err != nil {
			t.Error(err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

var pageDamages = map[string]func(page []byte, r *rand.Rand){
	"zeroed":  func(p []byte, _ *rand.Rand) { clear(p) },
	"flipped": func(p []byte, _ *rand.Rand) { p[0] ^= 0xff; p[8] ^= 0xff; p[20] ^= 0xff; p[40] ^= 0xff },
	"inverted": func(p []byte, _ *rand.Rand) {
		for i := range p {
			p[i] = ^p[i]
		}
	},
	"some bits": func(p []byte, r *rand.Rand) {
		for range 4 {
			p[r.IntN(300)] ^= 1 << r.IntN(8)
		}
	},
}

func TestDamagedIndex(t *testing.T) {
	const n = 120
	dir := filledDir(t, n)
	path := filepath.Join(dir, indexFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pages := 0
	r := rand.New(rand.NewPCG(1, 2))
	for at := 0; at+indexPage <= len(good) && pages < 40; at += indexPage {
		if at > 2*indexPage && !bytes.ContainsFunc(good[at:at+indexPage], func(c rune) bool { return c != 0 }) {
			continue // never written
		}
		pages++
		for name, damage := range pageDamages {
			b := bytes.Clone(good)
			damage(b[at:at+indexPage], r)
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			checkServes(t, dir, n)
			if t.Failed() {
				t.Fatalf("page %d %s", at/indexPage, name)
			}
		}
	}
	if pages < 8 {
		t.Errorf("only %d pages tried", pages)
	}
	for name, b := range map[string][]byte{
		"empty": {}, "cut": good[:len(good)/2], "cut within a page": good[:indexPage+100], "one page": good[:indexPage],
		"text": []byte(strings.Repeat("no index at all\n", 4096)),
	} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		checkServes(t, dir, n)
		if t.Failed() {
			t.Fatal(name)
		}
	}
	os.Remove(path)
	checkServes(t, dir, n)
}

// TestTheCheckCopiesNoPages: whoever takes over a mount waits for it.
func TestTheCheckCopiesNoPages(t *testing.T) {
	path := filepath.Join(t.TempDir(), indexFile)
	x, _ := openIndex(path, 0o600, false)
	ch := newChange()
	for i := range 5000 {
		ch.objs[keyFor(i)] = &rec{size: 100}
	}
	if err := errors.Join(x.write(ch), x.close()); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	pages := fi.Size() / indexPage
	allocs := testing.AllocsPerRun(5, func() {
		if err := checkIndexFile(path); err != nil {
			t.Fatal(err)
		}
	})
	if pages < 200 || allocs > float64(pages)/4 {
		t.Errorf("%.0f allocations for %d pages", allocs, pages)
	}
}

func TestDamagedIndexIsLoggedOnce(t *testing.T) {
	dir := filledDir(t, 20)
	os.WriteFile(filepath.Join(dir, indexFile), make([]byte, 64<<10), 0o600)
	var log records
	d := openDisk(t, dir, Options{Logger: log.logger()})
	if log.count("index is unusable") != 1 || log.count("level=WARN") != 1 || log.count("all cache objects were looked at") != 1 {
		t.Error(log.String())
	}
	if len(d.Pins()) != 0 || d.Stats().Objects != 20 {
		t.Errorf("%v, %+v", d.Pins(), d.Stats())
	}
}

// TestAnIndexThatCannotBeOpenedNowStays, with the pins in it, for the next start.
func TestAnIndexThatCannotBeOpenedNowStays(t *testing.T) {
	dir := filledDir(t, 20) // one is pinned
	held := holdIndex(t, dir)
	inTheWay := filepath.Join(dir, tmpDir, heldCopy)
	if err := os.MkdirAll(filepath.Join(inTheWay, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	var log records
	d := openDisk(t, dir, Options{Logger: log.logger(), FlushEvery: time.Millisecond})
	if log.count("cannot be opened now") != 1 || d.Stats().Objects != 20 {
		t.Errorf("%+v, %s", d.Stats(), log.String())
	}
	fill(t, d, 20, 25, 100)
	if err := d.Remove(keyFor(4)); err != nil {
		t.Error(err)
	}
	if err := d.Pin(keyFor(5), "app"); err == nil || d.Stats().Pinned != 1 {
		t.Errorf("a pin that is on no disk: %v, %+v", err, d.Stats())
	}
	d.Close()
	held.Close()
	if d = openDisk(t, dir, Options{}); len(d.Pins()) != 1 || d.Stats().Objects != 24 {
		t.Errorf("then: pins %v, %+v", d.Pins(), d.Stats())
	}
}

func FuzzPages(f *testing.F) {
	dir := f.TempDir()
	d, err := Open(dir, Options{})
	if err != nil {
		f.Fatal(err)
	}
	fill(f, d, 0, 100, 10)
	d.Close()
	good, err := os.ReadFile(filepath.Join(dir, indexFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint16(0), []byte{1}, uint16(100), []byte{2})
	f.Add(uint16(indexPage*2), []byte{0xff, 0, 0xff}, uint16(indexPage*3+10), []byte{2})
	f.Fuzz(func(t *testing.T, at uint16, p []byte, at2 uint16, p2 []byte) {
		b := bytes.Clone(good)
		copy(b[min(int(at), len(b)):], p)
		copy(b[min(int(at2), len(b)):], p2)
		err := checkPages(b)
		if err != nil {
			if !errors.Is(err, errIndexDamaged) {
				t.Errorf("error of another kind: %v", err)
			}
			return
		}
		path := filepath.Join(t.TempDir(), indexFile)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		x, _ := openIndex(path, 0o600, false) // must not panic, nor what follows
		ch := newChange()
		for i := range 50 {
			ch.objs[keyFor(i)] = &rec{size: 100}
		}
		x.write(ch)
		x.close()
	})
}

// The index breaks while it is in use: the next flush makes it anew, with pins.
func TestIndexDamagedWhileOpen(t *testing.T) {
	dir := t.TempDir()
	var log records
	d := openDisk(t, dir, Options{FlushEvery: time.Hour, Logger: log.logger()})
	fill(t, d, 0, 50, 100)
	d.PutMeta("b", "k", []byte("v"))
	if err := d.Pin(keyFor(1), "test"); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, indexFile), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := d.GetMeta("b", "k"); !errors.Is(err, ErrNotCached) {
		t.Error(err)
	}
	d.PutMeta("b", "k2", []byte("v2"))
	if err := d.Flush(); err != nil {
		t.Fatal(err)
	}
	d.Close()
	d = openDisk(t, dir, Options{})
	if p := d.Pins(); len(p) != 1 || p[0] != (Pinned{keyFor(1), "test", true}) {
		t.Errorf("%+v", p)
	}
	if v, err := d.GetMeta("b", "k2"); string(v) != "v2" {
		t.Error(err)
	}
}

func TestMeta(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, dir, Options{})
	for pass := range 3 {
		if pass == 1 {
			d.Flush()
		}
		if pass == 2 {
			d.Close()
			d = openDisk(t, dir, Options{})
		}
		if pass == 0 {
			for _, k := range []string{"b", "a", "c", "empty"} {
				if err := d.PutMeta("volumes", k, []byte("value " + k)[:min(7, len(k)*7)]); err != nil {
					t.Fatal(err)
				}
			}
			d.PutMeta("volumes", "empty", nil)
			d.PutMeta("volumes2", "a", []byte("other"))
			d.DeleteMeta("volumes", "c")
		}
		if v, err := d.GetMeta("volumes", "a"); err != nil || string(v) != "value a" {
			t.Errorf("pass %d: %q, %v", pass, v, err)
		}
		if v, err := d.GetMeta("volumes", "empty"); err != nil || v == nil || len(v) != 0 {
			t.Errorf("pass %d: %q, %v", pass, v, err)
		}
		if _, err := d.GetMeta("volumes", "c"); !errors.Is(err, ErrNotCached) {
			t.Errorf("pass %d: %v", pass, err)
		}
		var keys []string
		err := d.ForEachMeta("volumes", func(k string, v []byte) error {
			keys = append(keys, k)
			return d.PutMeta("volumes", k, v)
		})
		if err != nil || strings.Join(keys, " ") != "a b empty" {
			t.Errorf("pass %d: %v, %v", pass, keys, err)
		}
	}
	for _, err := range []error{
		d.PutMeta("b", "k", make([]byte, maxMetaValue+1)), d.PutMeta("", "k", nil), d.PutMeta("b", "", nil),
		d.PutMeta("a\x00b", "k", nil), d.PutMeta("b", strings.Repeat("k", 5000), nil),
	} {
		if !errors.Is(err, ErrSize) {
			t.Error(err)
		}
	}
	for i := range 20 { // beyond what may wait
		if err := d.PutMeta("big", fmt.Sprint(i), make([]byte, maxMetaValue)); err != nil {
			t.Fatal(err)
		}
	}
	d.mu.Lock()
	if d.metaSize > metaFlushAt+maxMetaValue {
		t.Errorf("%d bytes wait", d.metaSize)
	}
	d.mu.Unlock()
}

func TestFlushedByTheClock(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		d, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		d.PutMeta("b", "k", []byte("v"))
		time.Sleep(6 * time.Second) // of the bubble's clock
		synctest.Wait()
		d.mu.Lock()
		if len(d.pending.meta) != 0 {
			t.Error("not flushed")
		}
		d.mu.Unlock()
		d.Close()
	})
}

// TestUsesAreFlushedOnceAMinute: an object that is read all the time costs no page of
// the index every five seconds.
func TestUsesAreFlushedOnceAMinute(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		d, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		fill(t, d, 0, 1, 100)
		flushes := 0
		for range 36 {
			time.Sleep(5 * time.Second) // of the bubble's clock
			synctest.Wait()
			d.mu.Lock()
			if len(d.pending.objs) == 0 {
				flushes++
			}
			d.mu.Unlock()
			if !cached(t, d, keyFor(0)) {
				t.Error("it is gone")
			}
		}
		if flushes != 3 {
			t.Errorf("%d flushes in three minutes, want 3", flushes)
		}
	})
}
