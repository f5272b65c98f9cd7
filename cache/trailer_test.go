package cache

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func FuzzTrailer(f *testing.F) {
	var s sums
	s.add([]byte("content"))
	good := makeTrailer(keyFor(1), 7, s)
	f.Add(good[:], int64(71))
	f.Add(good[:], int64(70))
	f.Add(good[:63], int64(71))
	f.Add(make([]byte, trailerSize), int64(trailerSize))
	empty := makeTrailer(keyFor(1), 0, sums{})
	f.Add(empty[:], int64(trailerSize))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		n, sum, err := parseTrailer(b, keyFor(1), size)
		if err != nil {
			if !errors.Is(err, errDamaged) {
				t.Errorf("error of another kind: %v", err)
			}
			return
		}
		again := makeTrailer(keyFor(1), n, sum)
		if n < 0 || n+trailerSize != size || !bytes.Equal(again[:], b) {
			t.Errorf("took %x for %d bytes", b, size)
		}
	})
}

func TestTrailerCatchesEveryFlippedBit(t *testing.T) {
	var s sums
	s.add([]byte("content"))
	good := makeTrailer(keyFor(1), 7, s)
	if _, _, err := parseTrailer(good[:], keyFor(1), 71); err != nil {
		t.Fatal(err)
	}
	for bit := range trailerSize * 8 {
		b := good
		b[bit/8] ^= 1 << (bit % 8)
		if _, _, err := parseTrailer(b[:], keyFor(1), 71); !errors.Is(err, errDamaged) {
			t.Errorf("bit %d: %v", bit, err)
		}
	}
	if _, _, err := parseTrailer(good[:], keyFor(2), 71); !errors.Is(err, errDamaged) {
		t.Errorf("another key: %v", err)
	}
}

// damage alters an object's file; each must be found when the file is opened,
// without an index, and after a look at the folders.
var damages = map[string]func(path string) error{
	"empty":   func(p string) error { return os.Truncate(p, 0) },
	"shorter": func(p string) error { return os.Truncate(p, 500) },
	"longer":  func(p string) error { return os.Truncate(p, 1065) },
	"zeroed trailer": func(p string) error {
		return os.WriteFile(p, append(contentFor(keyFor(1), 1000), make([]byte, 64)...), 0o600)
	},
	"renamed": func(p string) error {
		return os.Rename(filepath.Join(filepath.Dir(filepath.Dir(p)), "02", keyFor(2)[2:]), p)
	},
	"directory": func(p string) error { os.Remove(p); return os.Mkdir(p, 0o700) },
	"link":      func(p string) error { os.Remove(p); return os.Symlink("/etc/passwd", p) },
	"dangling":  func(p string) error { os.Remove(p); return os.Symlink("nowhere", p) },
}

func TestDamagedFile(t *testing.T) {
	for name, damage := range damages {
		for _, when := range []string{"running", "closed", "no index"} {
			t.Run(name+"/"+when, func(t *testing.T) {
				dir := t.TempDir()
				d := openDisk(t, dir, Options{})
				fill(t, d, 1, 3, 1000)
				if when != "running" {
					d.Close()
				}
				if err := damage(onlyFile(d, keyFor(1))); err != nil {
					t.Fatal(err)
				}
				if when == "no index" {
					os.Remove(filepath.Join(dir, indexFile))
				}
				if when != "running" {
					d = openDisk(t, dir, Options{})
				}
				if cached(t, d, keyFor(1)) {
					t.Error("served")
				}
				if name != "renamed" {
					wantContent(t, d, keyFor(2), contentFor(keyFor(2), 1000))
				} else {
					cached(t, d, keyFor(2)) // so that it is missed
				}
				store(t, d, keyFor(1), contentFor(keyFor(1), 1000)).Close()
				wantContent(t, d, keyFor(1), contentFor(keyFor(1), 1000))
				checkAccounts(t, d)
			})
		}
	}
}

// flip changes one bit of the content and leaves length, trailer and time.
func flip(t *testing.T, path string) {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(path)
	b[100] ^= 4
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	os.Chtimes(path, fi.ModTime(), fi.ModTime())
}

func TestVerify(t *testing.T) {
	var log records
	d := openDisk(t, t.TempDir(), Options{Logger: log.logger()})
	fill(t, d, 0, 10, 1000)
	flip(t, onlyFile(d, keyFor(3)))
	flip(t, onlyFile(d, keyFor(7)))
	os.Truncate(onlyFile(d, keyFor(8)), 10)
	held, err := d.Open(keyFor(3))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	var last Progress
	r, err := d.Verify(context.Background(), func(p Progress) { last = p })
	if err != nil || len(r.Damaged) != 3 || r.Checked != 10 || last != r.Progress {
		t.Errorf("%+v, %v", r, err)
	}
	for i := range 10 {
		if cached(t, d, keyFor(i)) != (i != 3 && i != 7 && i != 8) {
			t.Errorf("object %d", i)
		}
	}
	if log.count("damaged object removed") != 3 {
		t.Error(log.String())
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := d.Verify(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// After another boot, what was written shortly before the last sign of life is
// read in full, once, when it is opened.
func TestContentCutByPowerLoss(t *testing.T) {
	dir := t.TempDir()
	d := openDisk(t, dir, Options{})
	fill(t, d, 0, 3, 1000)
	d.Close()
	flip(t, onlyFile(d, keyFor(1)))
	d = openDisk(t, dir, Options{})
	if !cached(t, d, keyFor(1)) {
		t.Error("same boot: content was read")
	}
	before := time.Now().Add(-time.Minute)
	for i := range 3 {
		os.Chtimes(onlyFile(d, keyFor(i)), before, before)
	}
	d.mu.Lock()
	d.state.boot, d.newState = "another boot", true
	d.mu.Unlock()
	d.Close()
	d = openDisk(t, dir, Options{})
	fill(t, d, 5, 6, 1000)
	d.Close() // the doubt outlives a restart in the same boot
	d = openDisk(t, dir, Options{})
	if cached(t, d, keyFor(1)) {
		t.Error("altered content served after a power loss")
	}
	wantContent(t, d, keyFor(2), contentFor(keyFor(2), 1000))
}

func TestDoubt(t *testing.T) {
	const min10 = int64(doubtBefore)
	for name, c := range map[string]struct {
		last         state
		fresh        bool
		boot         string
		since, until int64
	}{
		"new":                   {fresh: true, boot: "b", until: 9e15 - int64(doubtMargin)},
		"same boot":             {last: state{boot: "b", beat: 5e15}, boot: "b"},
		"same boot, doubt left": {last: state{boot: "b", beat: 5e15, since: 3, until: 4}, boot: "b", since: 3, until: 4},
		"other boot":            {last: state{boot: "a", beat: 5e15}, boot: "b", since: 5e15 - min10, until: 9e15 - int64(doubtMargin)},
		"other boot twice":      {last: state{boot: "a", beat: 5e15, since: 3, until: 4}, boot: "b", since: 3, until: 9e15 - int64(doubtMargin)},
		"clock behind":          {last: state{boot: "a", beat: 95e14}, boot: "b", since: 95e14 - min10, until: 95e14 + min10},
		"clock behind twice":    {last: state{boot: "a", beat: 5e14, since: 95e14, until: 96e14}, boot: "b", since: 5e14 - min10, until: 96e14},
		"boot not known":        {last: state{boot: "a", beat: 5e15}, until: 9e15 - int64(doubtMargin)},
	} {
		s := doubt(c.last, c.fresh, c.boot, 9e15)
		if s.since != c.since || s.until != c.until || s.boot != c.boot {
			t.Errorf("%s: %+v", name, s)
		}
	}
}
