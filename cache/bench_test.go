package cache

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func BenchmarkHit(b *testing.B) {
	d := openDisk(b, b.TempDir(), Options{})
	fill(b, d, 0, 256, 4096)
	b.Run("closed", func(b *testing.B) {
		p := make([]byte, 4096)
		for i := 0; b.Loop(); i++ {
			o, err := d.Open(keyFor(i % 256))
			if err != nil {
				b.Fatal(err)
			}
			o.ReadAt(p, 0)
			o.Close()
		}
	})
	b.Run("in use", func(b *testing.B) {
		held, _ := d.Open(keyFor(0))
		defer held.Close()
		for b.Loop() {
			o, err := d.Open(keyFor(0))
			if err != nil {
				b.Fatal(err)
			}
			o.Close()
		}
	})
	b.Run("bare open, fstat, pread, close", func(b *testing.B) { // what a file system asks for anyway
		p := make([]byte, 4096)
		for i := 0; b.Loop(); i++ {
			f, err := os.Open(onlyFile(d, keyFor(i%256)))
			if err != nil {
				b.Fatal(err)
			}
			f.Stat()
			f.ReadAt(p, 0)
			f.Close()
		}
	})
	b.Run("miss", func(b *testing.B) {
		for b.Loop() {
			d.Open(keyFor(1000))
		}
	})
}

func BenchmarkCommit(b *testing.B) {
	d := openDisk(b, b.TempDir(), Options{Quota: 64 << 20})
	for _, size := range []int{64 << 10, 8 << 20} {
		content := contentFor(keyFor(0), size)
		b.Run(fmt.Sprintf("%d KiB", size>>10), func(b *testing.B) {
			b.SetBytes(int64(size))
			for i := 0; b.Loop(); i++ {
				store(b, d, keyFor(i), content).Close()
			}
		})
	}
}

// BenchmarkStart opens a cache of 100,000 objects: with its index, and without.
func BenchmarkStart(b *testing.B) {
	const n = 100_000
	dir := b.TempDir()
	d, err := Open(dir, Options{})
	if err != nil {
		b.Fatal(err)
	}
	fill(b, d, 0, n, 1)
	d.Close()
	for _, name := range []string{"index", "no index"} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if name == "no index" {
					os.Remove(filepath.Join(dir, indexFile))
				}
				d, err := Open(dir, Options{})
				if err != nil {
					b.Fatal(err)
				}
				d.Settle(context.Background())
				if s := d.Stats(); s.Objects != n {
					b.Fatalf("%+v", s)
				}
				d.Close()
			}
		})
	}
}
