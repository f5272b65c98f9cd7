package cache

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// stores are the implementations; every case runs on each.
var stores = map[string]func(t *testing.T) Store{
	"disk":   func(t *testing.T) Store { return openDisk(t, t.TempDir(), Options{}) },
	"memory": func(t *testing.T) Store { return NewMemory(1 << 30) },
	"disk that cannot be written": func(t *testing.T) Store {
		return openDisk(t, t.TempDir(), Options{ReadOnly: true})
	},
	"disk in joint use":          func(t *testing.T) Store { return openDisk(t, t.TempDir(), Options{Joint: true}) },
	"disk larger than its quota": func(t *testing.T) Store { return openDisk(t, t.TempDir(), Options{Quota: 100}) },
}

// stats are those of any of the stores.
func stats(s Store) Stats { return s.(interface{ Stats() Stats }).Stats() }

var conformance = map[string]func(t *testing.T, s Store){
	"read": func(t *testing.T, s Store) {
		for _, size := range []int{0, 1, 63, 64, 65, 4096, 1 << 20} {
			key := keyFor(size)
			want := contentFor(key, size)
			o := store(t, s, key, want)
			defer o.Close()
			if o.Size() != int64(size) {
				t.Errorf("size %d, want %d", o.Size(), size)
			}
			wantContent(t, s, key, want)
			if b := o.Bytes(); (b == nil) != (o.s.f != nil) || b != nil && !bytes.Equal(b, want) {
				t.Errorf("Bytes %d, file %v", len(b), o.s.f)
			}
			p := make([]byte, 10)
			if n, err := o.ReadAt(p, int64(size)); n != 0 || err != io.EOF {
				t.Errorf("at the end: %d, %v", n, err)
			}
			if n, err := o.ReadAt(p, 1<<40); n != 0 || err != io.EOF {
				t.Errorf("far beyond: %d, %v", n, err)
			}
			if size >= 5 {
				if n, err := o.ReadAt(p, int64(size-5)); n != 5 || err != io.EOF || !bytes.Equal(p[:n], want[size-5:]) {
					t.Errorf("across the end: %d, %v", n, err)
				}
			}
			if _, err := o.ReadAt(p, -1); err == nil {
				t.Error("negative offset taken")
			}
		}
	},
	"miss": func(t *testing.T, s Store) {
		if _, err := s.Open(keyFor(1)); !errors.Is(err, ErrNotCached) {
			t.Error(err)
		}
		if _, err := s.Recheck(keyFor(1)); !errors.Is(err, ErrNotCached) {
			t.Error(err)
		}
		if st := stats(s); st.Misses != 1 || st.Hits != 0 {
			t.Errorf("%+v", st)
		}
	},
	"nothing before commit": func(t *testing.T, s Store) {
		w, err := s.Create(keyFor(1), -1)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, "abc")
		if cached(t, s, keyFor(1)) {
			t.Error("visible")
		}
		w.Abort()
		w.Abort()
		if _, err := io.WriteString(w, "d"); !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
		if _, err := w.Commit(); !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
		if cached(t, s, keyFor(1)) {
			t.Error("aborted object visible")
		}
	},
	"wrong size": func(t *testing.T, s Store) {
		w, _ := s.Create(keyFor(1), 3)
		if _, err := io.WriteString(w, "abcd"); !errors.Is(err, ErrSize) {
			t.Error(err)
		}
		io.WriteString(w, "ab")
		if _, err := w.Commit(); !errors.Is(err, ErrSize) {
			t.Error(err)
		}
		if cached(t, s, keyFor(1)) {
			t.Error("kept")
		}
	},
	"absurd announced size costs nothing": func(t *testing.T, s Store) {
		w, err := s.Create(keyFor(1), 1<<62)
		if err != nil {
			t.Fatal(err)
		}
		w.Abort()
	},
	"theirs is kept": func(t *testing.T, s Store) {
		a, _ := s.Create(keyFor(1), -1)
		b, _ := s.Create(keyFor(1), -1)
		io.WriteString(a, "same content")
		io.WriteString(b, "same content")
		oa, err := a.Commit()
		if err != nil {
			t.Fatal(err)
		}
		defer oa.Close()
		ob, err := b.Commit()
		if err != nil {
			t.Fatal(err)
		}
		defer ob.Close()
		if oa.s != ob.s {
			t.Error("two objects under one key")
		}
		a.Abort()
		b.Abort()
		wantContent(t, s, keyFor(1), []byte("same content"))
	},
	"handles are independent": func(t *testing.T, s Store) {
		a := store(t, s, keyFor(1), []byte("abc"))
		b, err := s.Open(keyFor(1))
		if err != nil {
			t.Fatal(err)
		}
		a.Close()
		a.Close()
		if _, err := a.ReadAt(make([]byte, 1), 0); !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
		if _, err := b.ReadAt(make([]byte, 3), 0); err != nil {
			t.Error(err)
		}
		b.Close()
		if n := stats(s).Open; n != 0 {
			t.Errorf("%d in use", n)
		}
	},
	"bad keys": func(t *testing.T, s Store) {
		for _, key := range []string{"", "short12", "../../../etc/passwd", "AB345678", ".b345678", "-b345678", "ab/45678",
			"ab\x0045678", "ab 45678", "abü45678", strings.Repeat("a", 129)} {
			if _, err := s.Open(key); !errors.Is(err, ErrKey) {
				t.Errorf("open %q: %v", key, err)
			}
			if _, err := s.Create(key, 1); !errors.Is(err, ErrKey) {
				t.Errorf("create %q: %v", key, err)
			}
		}
		for _, key := range []string{"ab345678", "0..-__..", strings.Repeat("z", 128)} {
			store(t, s, key, []byte(key)).Close()
		}
	},
	"many at once": func(t *testing.T, s Store) {
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 60 {
					key := keyFor((i*7 + g) % 20)
					want := contentFor(key, 3000)
					o, err := s.Open(key)
					if errors.Is(err, ErrNotCached) {
						w, err := s.Create(key, -1)
						if err != nil {
							t.Error(err)
							return
						}
						w.Write(want[:1000])
						w.Write(want[1000:])
						if o, err = w.Commit(); err != nil {
							t.Error(err)
							return
						}
					} else if err != nil {
						t.Error(err)
						return
					}
					got := make([]byte, 3000)
					if _, err := o.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s: wrong content, %v", key, err)
					}
					o.Close()
				}
			})
		}
		wg.Wait()
		if n := stats(s).Open; n != 0 {
			t.Errorf("%d in use", n)
		}
	},
}

func TestConformance(t *testing.T) {
	for name, open := range stores {
		for what, run := range conformance {
			t.Run(name+"/"+what, func(t *testing.T) { run(t, open(t)) })
		}
	}
}

func TestMemoryBound(t *testing.T) {
	m := NewMemory(300)
	fill(t, m, 0, 3, 100)
	cached(t, m, keyFor(0)) // used last
	held, _ := m.Open(keyFor(1))
	defer held.Close()
	fill(t, m, 3, 4, 100)
	for i, want := range []bool{true, true, false, true} {
		if cached(t, m, keyFor(i)) != want {
			t.Errorf("object %d: %v", i, !want)
		}
	}
	big := store(t, m, keyFor(9), make([]byte, 301))
	if !cached(t, m, keyFor(9)) {
		t.Error("large object not shared while in use")
	}
	big.Close()
	if cached(t, m, keyFor(9)) || m.Stats().UsedBytes != 300 {
		t.Errorf("large object kept: %+v", m.Stats())
	}
}

func TestTmpIsEmptyAfterWriters(t *testing.T) {
	d := openDisk(t, t.TempDir(), Options{Quota: 1000})
	fill(t, d, 0, 2, 100)
	store(t, d, keyFor(3), make([]byte, 2000)).Close() // larger than the quota
	w, _ := d.Create(keyFor(4), -1)
	w.Write(make([]byte, 10))
	w.Abort()
	if names, _ := os.ReadDir(filepath.Join(d.dir, tmpDir)); len(names) > 0 {
		t.Errorf("left in tmp: %v", names)
	}
	if cached(t, d, keyFor(3)) {
		t.Error("object larger than the quota kept")
	}
}
