package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// present says which of the first n objects are there: "01.3" lacks number 2.
// It looks at the records, since opening would be a use.
func present(d *Disk, n int) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := ""
	for i := range n {
		if _, ok := d.objs[keyFor(i)]; ok {
			s += fmt.Sprint(i % 10)
		} else {
			s += "."
		}
	}
	return s
}

// Ten objects of 1000 bytes in all are the quota; high water is at 9.5 and low
// water at 8 of them.
func TestEvictionOrder(t *testing.T) {
	const size = 1000 - trailerSize
	for name, c := range map[string]struct {
		prepare func(t *testing.T, d *Disk) // after 8 objects, 0 first
		want    string
	}{
		"oldest first": {func(*testing.T, *Disk) {}, "..23456789"},
		"used ones last": {func(t *testing.T, d *Disk) {
			cached(t, d, keyFor(0))
			cached(t, d, keyFor(2))
		}, "0.2.456789"},
		"pinned ones never": {func(t *testing.T, d *Disk) {
			d.Pin(keyFor(0), "a")
			d.Pin(keyFor(0), "b")
			d.Unpin(keyFor(0), "a")
			d.Pin(keyFor(1), "a")
			d.Unpin(keyFor(1), "a")
		}, "0..3456789"},
		"open ones never": {func(t *testing.T, d *Disk) {
			o, err := d.Open(keyFor(0))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { o.Close() })
			for i := 1; i < 8; i++ {
				cached(t, d, keyFor(i))
			}
		}, "0..3456789"},
		"removed ones do not count": {func(t *testing.T, d *Disk) {
			if err := d.Remove(keyFor(5)); err != nil {
				t.Error(err)
			}
		}, "01234.6789"},
	} {
		t.Run(name, func(t *testing.T) {
			d := openDisk(t, t.TempDir(), Options{Quota: 10_000})
			fill(t, d, 0, 8, size)
			c.prepare(t, d)
			fill(t, d, 8, 10, size)
			eventually(t, "what is wanted stays", func() bool { return present(d, 10) == c.want })
			checkAccounts(t, d)
			if n := int64(strings.Count(c.want, ".")); c.want[5] == '5' && d.Stats().Evictions != n {
				t.Errorf("%+v", d.Stats())
			}
		})
	}
}

func TestEvictionOrderOutlivesRestart(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, dir, Options{})
	fill(t, d, 0, 10, 1000-trailerSize)
	for _, i := range []int{4, 1, 7} {
		cached(t, d, keyFor(i))
	}
	d.Close()
	d = openDisk(t, dir, Options{})
	done, err := d.Prune(context.Background(), 3000)
	if err != nil || done != (Removed{7, 7000}) || present(d, 10) != ".1..4..7.." {
		t.Errorf("%s %+v, %v", present(d, 10), done, err)
	}
	l := d.List()
	if len(l) != 3 || l[0].Key != keyFor(7) || l[2].Key != keyFor(4) || l[0].Size != 1000-trailerSize {
		t.Errorf("%+v", l)
	}
}

func TestQuotaBelowWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, dir, Options{})
	fill(t, d, 0, 10, 1000-trailerSize)
	d.Close()
	d = openDisk(t, dir, Options{Quota: 5000})
	eventually(t, "room is made at start", func() bool { return d.Stats().UsedBytes <= 4000 })
	if present(d, 10) != "......6789" {
		t.Error(present(d, 10))
	}
}

// Writers outrun nothing: what is used never passes the quota by more than the
// objects in use, however fast they come.
func TestQuotaHolds(t *testing.T) {
	const quota = 20_000
	d := openDisk(t, t.TempDir(), Options{Quota: quota})
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 100 {
				key := keyFor(g*1000 + i)
				o := store(t, d, key, contentFor(key, 936))
				if used := d.Stats().UsedBytes; used > quota+8*1000 {
					t.Errorf("%d bytes used", used)
				}
				o.Close()
			}
		})
	}
	wg.Wait()
	eventually(t, "all is settled", func() bool { return d.Stats().UsedBytes <= quota*95/100 })
	checkAccounts(t, d)
}

func TestAllInUse(t *testing.T) {
	d := openDisk(t, t.TempDir(), Options{Quota: 3000})
	var held []*Object
	for i := range 6 {
		held = append(held, store(t, d, keyFor(i), contentFor(keyFor(i), 1000)))
	}
	for i, o := range held {
		wantContent(t, d, keyFor(i), contentFor(keyFor(i), 1000))
		o.Close()
	}
	eventually(t, "room is made when they are closed", func() bool { return d.Stats().UsedBytes <= 3000 })
}

func TestClearAndRemove(t *testing.T) {
	ctx := context.Background()
	d := openDisk(t, t.TempDir(), Options{})
	fill(t, d, 0, 6, 100)
	if err := d.PinAll([]string{keyFor(1), keyFor(2)}, "app one"); err != nil {
		t.Fatal(err)
	}
	d.Pin(keyFor(2), "app two")
	d.Pin(keyFor(77), "app two") // not there yet
	o, _ := d.Open(keyFor(3))
	done, err := d.Clear(ctx, false)
	if err != nil || done.Objects != 3 || present(d, 6) != ".123.." {
		t.Errorf("%s %+v, %v", present(d, 6), done, err)
	}
	for _, key := range []string{keyFor(1), keyFor(2), keyFor(2)} {
		if err := d.Unpin(key, "app one"); err != nil {
			t.Error(err)
		}
	}
	if fmt.Sprint(d.Pins()) != fmt.Sprint([]Pinned{{keyFor(2), "app two", true}, {keyFor(77), "app two", false}}) {
		t.Errorf("%v, %v", d.Pins(), err)
	}
	if err := d.Remove(keyFor(3)); err != nil {
		t.Error(err)
	}
	if cached(t, d, keyFor(3)) {
		t.Error("removed object handed out")
	}
	if _, err := o.ReadAt(make([]byte, 100), 0); err != nil {
		t.Errorf("removed object in use: %v", err)
	}
	store(t, d, keyFor(3), contentFor(keyFor(3), 100)).Close()
	o.Close()
	wantContent(t, d, keyFor(3), contentFor(keyFor(3), 100))
	if err := d.Remove(keyFor(50)); !errors.Is(err, ErrNotCached) {
		t.Error(err)
	}
	if _, err = d.Clear(ctx, true); err != nil || d.Stats().Objects != 0 || d.Stats().Pinned != 0 {
		t.Errorf("%+v, %v", d.Stats(), err)
	}
	for _, owner := range []string{"", "a\x00b", strings.Repeat("o", 256)} {
		if err := d.Pin(keyFor(1), owner); !errors.Is(err, ErrSize) {
			t.Errorf("owner %q: %v", owner, err)
		}
	}
	if err := d.Pin("bad key!", "o"); !errors.Is(err, ErrKey) {
		t.Error(err)
	}
}

// TestPinsLeaveTheRestItsShare: pins above the low water mark do not make a removal
// take all else.
func TestPinsLeaveTheRestItsShare(t *testing.T) {
	const pins, more, small = 90, 80, 100 - trailerSize // there is room for 50 small ones
	d := openDisk(t, t.TempDir(), Options{Quota: 100_000})
	for i := range pins {
		if err := d.Pin(keyFor(i), "app"); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, d, 0, pins, 1000-trailerSize)
	for i := pins; i < pins+more; i++ {
		fill(t, d, i, i+1, small)
		if n := d.Stats().Objects - pins; n < min(i+1-pins, 40) {
			t.Fatalf("of %d objects beside the pins %d are left", i+1-pins, n)
		}
	}
	eventually(t, "the rest is within the quota", func() bool { return d.Stats().UsedBytes <= 95_000 })
}

// TestPinsAboveTheQuotaCostNoPassForEach: what comes beside them is removed, but not
// by one look at all records for each object.
func TestPinsAboveTheQuotaCostNoPassForEach(t *testing.T) {
	dir := t.TempDir()
	const pins, more, small = 101, 60, 100 - trailerSize // a hundredth of the quota is ten small ones
	for _, opts := range []Options{{Quota: 100_000}, {Quota: 100_000, Joint: true}} {
		d := openDisk(t, dir, opts)
		if !opts.Joint {
			for i := range pins {
				if err := d.Pin(keyFor(i), "app"); err != nil {
					t.Fatal(err)
				}
			}
			fill(t, d, 0, pins, 1000-trailerSize)
		}
		passes := func() int {
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.passes
		}
		before := passes()
		fill(t, d, pins, pins+more, small)
		if n := passes() - before; n < more/10-1 || n > 2*more/10+4 {
			t.Errorf("joint %v: %d passes for %d objects", opts.Joint, n, more)
		}
		if n := strings.Count(present(d, pins), "."); n > 0 {
			t.Errorf("joint %v: %d pinned objects are gone", opts.Joint, n)
		}
		eventually(t, "the rest is within a hundredth of the quota", func() bool { return d.Stats().UsedBytes <= pins*1000+1000 })
		d.Close()
	}
}

func TestPinsOutliveKill(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, dir, Options{FlushEvery: time.Hour})
	fill(t, d, 0, 1, 100)
	d.Pin(keyFor(0), "app")
	b, err := os.ReadFile(filepath.Join(dir, indexFile)) // what a kill would leave
	if err != nil {
		t.Fatal(err)
	}
	d.Unpin(keyFor(0), "app")
	d.Close()
	os.WriteFile(filepath.Join(dir, indexFile), b, 0o600)
	if d = openDisk(t, dir, Options{}); len(d.Pins()) != 1 {
		t.Error("pin lost")
	}
}

func TestAfterClose(t *testing.T) {
	d := openDisk(t, t.TempDir(), Options{})
	o := store(t, d, keyFor(1), contentFor(keyFor(1), 100))
	w, _ := d.Create(keyFor(2), -1)
	w.Write([]byte("abc"))
	d.Close()
	d.Close()
	if _, err := o.ReadAt(make([]byte, 100), 0); err != nil {
		t.Error(err)
	}
	o.Close()
	if _, err := d.Open(keyFor(1)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := d.Create(keyFor(1), 1); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := d.PutMeta("b", "k", nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := d.Pin(keyFor(1), "o"); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := d.Verify(context.Background(), nil); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	o2, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	if string(o2.Bytes()) != "abc" {
		t.Errorf("%q", o2.Bytes())
	}
	o2.Close()
	if err := d.Flush(); err != nil {
		t.Error(err)
	}
	if names, _ := os.ReadDir(filepath.Join(d.dir, tmpDir)); len(names) > 0 {
		t.Errorf("left in tmp: %v", names)
	}
}

// TestWhatWasInUseTillNowGoesLast, though it was opened before all others: a
// catalog that is held open all day.
func TestWhatWasInUseTillNowGoesLast(t *testing.T) {
	d := openDisk(t, t.TempDir(), Options{})
	held := store(t, d, keyFor(0), contentFor(keyFor(0), 936))
	for i := 1; i < 10; i++ {
		store(t, d, keyFor(i), contentFor(keyFor(i), 936)).Close()
	}
	held.Close()
	if r, err := d.Prune(context.Background(), 2000); err != nil || r.Objects != 8 {
		t.Errorf("%+v, %v", r, err)
	}
	for i := range 10 {
		if cached(t, d, keyFor(i)) != (i == 0 || i == 9) {
			t.Errorf("object %d", i)
		}
	}
}
