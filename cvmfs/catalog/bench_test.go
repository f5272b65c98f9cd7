package catalog

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/hash"
)

const benchRows = 200_000

// big makes a catalog with one directory of half the rows; the other half lies
// in directories of 100.
var big = sync.OnceValues(func() (string, error) {
	path := filepath.Join(bigDir, "big")
	return path, writeBig(path, benchRows)
})

func writeBig(path string, rows int) error {
	w, err := Create(path, NewCatalog{Revision: 1})
	if err != nil {
		return err
	}
	h := hash.Sum(hash.SHA1, []byte("x"))
	w.Add(Entry{Mode: 0o040755})
	w.Add(Entry{Path: "/flat", Mode: 0o040755})
	for i := range rows / 2 {
		dir := fmt.Sprintf("/d%05d", i/100)
		if i%100 == 0 {
			w.Add(Entry{Path: dir, Mode: 0o040755})
		}
		file := Entry{Path: fmt.Sprintf("/flat/file-%06d.nii.gz", i), Mode: 0o100644, Size: 1, Hash: h}
		w.Add(file)
		file.Path = fmt.Sprintf("%s/file-%06d.py", dir, i)
		w.Add(file)
	}
	return w.Close()
}

func openBig(t testing.TB) *Catalog {
	t.Helper()
	path, err := big()
	if err != nil {
		t.Fatal(err)
	}
	c, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func BenchmarkOpen(b *testing.B) {
	path, err := big()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		c, err := Open(path)
		if err != nil {
			b.Fatal(err)
		}
		c.Close()
	}
}

func BenchmarkLookup(b *testing.B) {
	c, ctx, i := openBig(b), context.Background(), 0
	for b.Loop() {
		n := i * 7919 % (benchRows / 2)
		i++
		if _, err := c.Lookup(ctx, fmt.Sprintf("/d%05d", n/100), fmt.Sprintf("file-%06d.py", n)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLookupNear(b *testing.B) {
	c, ctx, i := openBig(b), context.Background(), 0
	names := make([]string, 100)
	for n := range names {
		names[n] = fmt.Sprintf("file-%06d.py", n)
	}
	for b.Loop() {
		i++
		if _, err := c.Lookup(ctx, "/d00000", names[i%100]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkByID(b *testing.B) {
	c, ctx, i := openBig(b), context.Background(), int64(0)
	for b.Loop() {
		i++
		if _, err := c.ByID(ctx, 1+i*7919%benchRows); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkChildrenPage100(b *testing.B) {
	c, ctx, flat := openBig(b), context.Background(), HashPath("/flat")
	after := int64(0)
	for b.Loop() {
		n := 0
		err := c.Children(ctx, flat, after, func(r Row) bool { n++; after = r.ID; return n < 100 })
		if err != nil {
			b.Fatal(err)
		}
		if n < 100 {
			after = 0
		}
	}
}

func BenchmarkChildrenAll(b *testing.B) {
	c, ctx, flat := openBig(b), context.Background(), HashPath("/flat")
	for b.Loop() {
		n := 0
		if err := c.Children(ctx, flat, 0, func(Row) bool { n++; return true }); err != nil || n != benchRows/2 {
			b.Fatal(n, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(benchRows/2), "ns/entry")
}

func BenchmarkPathOf(b *testing.B) {
	c, ctx, i := openBig(b), context.Background(), int64(0)
	for b.Loop() {
		i++
		r, err := c.ByID(ctx, 1+i*7919%benchRows)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.PathOf(ctx, r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	dir, i := b.TempDir(), 0
	for b.Loop() {
		i++
		if err := writeBig(filepath.Join(dir, fmt.Sprint(i)), benchRows); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchRows, "ns/row")
}
