package squashfs

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
)

// benchTree has 2,000 small files, a large directory, and a file of programs.
func benchTree(b *testing.B) string {
	t := newTree(b)
	for i := range 2000 {
		t.file(fmt.Sprintf("d%02d/f%04d", i%50, i), t.text(200+i))
	}
	for i := range 5000 {
		t.file(fmt.Sprintf("large/f%04d", i), nil)
	}
	var programs bytes.Buffer
	for programs.Len() < 32<<20 {
		p, err := os.ReadFile("/proc/self/exe")
		if err != nil {
			b.Fatal(err)
		}
		programs.Write(p)
	}
	t.file("big", programs.Bytes()[:32<<20])
	return t.root
}

func BenchmarkMetadata(b *testing.B) {
	m := readImage(b, mksquashfs(b, benchTree(b)))
	ctx := context.Background()
	f := openMemory(b, m, Options{})
	all, err := readTree(ctx, f)
	if err != nil {
		b.Fatal(err)
	}
	large := fileEntry(b, f, "large")
	var entries []uint64
	for dir := range 50 {
		err := f.ReadDir(ctx, fileEntry(b, f, fmt.Sprintf("d%02d", dir)), 0, func(e Entry) bool {
			entries = append(entries, e.Entry)
			return true
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	b.Run("Stat", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := f.Stat(ctx, entries[i*7%len(entries)]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("Lookup/5000", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := f.Lookup(ctx, large, fmt.Sprintf("f%04d", i*37%5000)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ReadDir/5000", func(b *testing.B) {
		for b.Loop() {
			n := 0
			if err := f.ReadDir(ctx, large, 0, func(Entry) bool { n++; return true }); err != nil || n != 5000 {
				b.Fatal(n, err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/5000, "ns/entry")
	})
	b.Run("WalkCold", func(b *testing.B) {
		for b.Loop() {
			f := openMemory(b, m, Options{})
			names := walkStat(b, f, f.Root())
			if names != len(all)-1 {
				b.Fatal(names)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(all)), "ns/node")
	})
}

// walkStat stats all that is below dir and returns how much that is.
func walkStat(b *testing.B, f *FS, dir uint64) int {
	n := 0
	err := f.ReadDir(context.Background(), dir, 0, func(e Entry) bool {
		a, err := f.Stat(context.Background(), e.Entry)
		if err != nil {
			b.Fatal(err)
		}
		if n++; a.Mode&0o170000 == 0o040000 {
			n += walkStat(b, f, e.Entry)
		}
		return true
	})
	if err != nil {
		b.Fatal(err)
	}
	return n
}

func BenchmarkRead(b *testing.B) {
	dir := benchTree(b)
	for _, c := range allCompressors {
		b.Run(c, func(b *testing.B) {
			m := readImage(b, mksquashfs(b, dir, "-comp", c))
			for _, parallel := range []int{1, 2} {
				b.Run(fmt.Sprintf("sequential/%d", parallel), func(b *testing.B) {
					f := openMemory(b, m, Options{Parallel: parallel})
					big := fileEntry(b, f, "big")
					p := make([]byte, 1<<20)
					b.SetBytes(32 << 20)
					for b.Loop() {
						f.Forget()
						for off := int64(0); off < 32<<20; off += int64(len(p)) {
							if n, err := f.ReadAt(context.Background(), big, p, off); err != nil || n != len(p) {
								b.Fatal(n, err)
							}
						}
					}
				})
			}
			f := openMemory(b, m, Options{Cache: NewCache(Limits{Data: 64 << 20})})
			big := fileEntry(b, f, "big")
			b.Run("random hot", func(b *testing.B) {
				rng := rand.New(rand.NewPCG(1, 2))
				p := make([]byte, 4096)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := f.ReadAt(context.Background(), big, p, rng.Int64N(32<<20)); err != nil {
						b.Fatal(err)
					}
				}
			})
		})
	}
}
