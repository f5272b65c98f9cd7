package inflate

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"
)

func TestAgainstStd(t *testing.T) {
	for name, b := range plain(t) {
		for _, level := range levels {
			for _, flushes := range []int{0, 3} {
				if len(b) > 1<<17 && (flushes > 0 || level > 1 && level != 6) {
					continue
				}
				z := compress(t, b, level, flushes)
				out := bytes.Repeat([]byte{0xee}, len(b)+400)
				n, err := Zlib(out[:len(b)], append(z, 1, 2, 3))
				if err != nil || n != len(z) || !bytes.Equal(out[:len(b)], b) {
					t.Fatalf("%s level %d flushes %d: consumed %d of %d, %v", name, level, flushes, n, len(z), err)
				}
				if bytes.Count(out[len(b):], []byte{0xee}) != 400 {
					t.Fatalf("%s level %d: bytes behind the output were written", name, level)
				}
			}
		}
	}
}

func TestGolden(t *testing.T) {
	for _, z := range goldenObjects(t) {
		want := mustStd(t, z)
		got := make([]byte, len(want))
		if n, err := Zlib(got, z); err != nil || n != len(z) || !bytes.Equal(got, want) {
			t.Fatalf("consumed %d of %d: %v", n, len(z), err)
		}
	}
}

// TestPrefixes cuts streams at every byte.
func TestPrefixes(t *testing.T) {
	data := plain(t)
	for _, name := range []string{"empty", "one", "text1024", "elf4096", "period1", "period5"} {
		for _, level := range []int{-2, 0, 1, 6} {
			z := compress(t, data[name], level, 1)
			for _, extra := range []int{0, 20_000} {
				dst := make([]byte, len(data[name])+extra)
				for n := range z {
					consumed, err := Zlib(dst, z[:n])
					if !errors.Is(err, ErrTruncated) && !(extra > 0 && len(z)-n <= zlibTrailer && errors.Is(err, ErrTooShort)) {
						t.Fatalf("%s level %d, %d of %d bytes: %v", name, level, n, len(z), err)
					}
					if consumed > n {
						t.Fatalf("consumed %d of %d bytes", consumed, n)
					}
				}
			}
		}
	}
}

func TestSizes(t *testing.T) {
	b := goSource(t)[:100_000]
	for _, size := range []int{0, 1, 100, 300, 1024, smallOut - 1, smallOut, smallOut + 1, 10_000, 100_000} {
		for _, level := range []int{0, 1, 6} {
			z := compress(t, b[:size], level, 0)
			for _, off := range []int{-5000, -301, -300, -299, -258, -1, 0, 1, 299, 300, 5000} {
				if size+off < 0 {
					continue
				}
				dst := make([]byte, size+off)
				_, err := Zlib(dst, z)
				n, consumed, maxErr := ZlibMax(dst, z)
				switch {
				case off == 0 && err != nil:
					t.Errorf("size %d: %v", size, err)
				case off < 0 && !(errors.Is(err, ErrTooLong) && errors.Is(err, ErrSize) && errors.Is(err, ErrCorrupt)):
					t.Errorf("size %d in %d: %v", size, size+off, err)
				case off < 0 && !errors.Is(maxErr, ErrTooLong):
					t.Errorf("size %d in at most %d: %v", size, size+off, maxErr)
				case off > 0 && !(errors.Is(err, ErrTooShort) && errors.Is(err, ErrSize) && errors.Is(err, ErrCorrupt)):
					t.Errorf("size %d in %d: %v", size, size+off, err)
				case off >= 0 && (maxErr != nil || n != size || consumed != len(z) || !bytes.Equal(dst[:n], b[:size])):
					t.Errorf("size %d in at most %d: %d bytes, %v", size, size+off, n, maxErr)
				}
			}
		}
	}
}

func TestFrame(t *testing.T) {
	good := compress(t, []byte("some text, some text"), 6, 0)
	change := func(at int, v byte) []byte {
		b := bytes.Clone(good)
		b[at] = v
		return b
	}
	for _, c := range []struct {
		name   string
		src    []byte
		reason string
	}{
		{"no input", nil, "truncated"},
		{"one byte", good[:1], "truncated"},
		{"no body", good[:2], "truncated"},
		{"method 7", []byte{0x77, 0x85}, "header"},
		{"window of 64 KB", []byte{0x88, 0x1c}, "header"},
		{"wrong check", change(1, good[1]^1), "header"},
		{"dictionary", []byte{0x78, 0xbb, 0, 0, 0, 1, 3, 0, 0, 0, 0, 1}, "dictionary"},
		{"wrong sum", change(len(good)-1, good[len(good)-1]^1), "Adler-32"},
		{"half a sum", good[:len(good)-2], "truncated"},
	} {
		_, err := Zlib(make([]byte, 20), c.src)
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if n, err := ZlibNoSum(make([]byte, 20), change(len(good)-1, 0)); err != nil || n != len(good) {
		t.Errorf("without the sum: %d, %v", n, err)
	}
	var e *Error
	if _, err := Raw(make([]byte, 9), []byte{7}); !errors.As(err, &e) || e.In != 1 || e.Out != 0 {
		t.Errorf("offsets of %v", err)
	}
}

func TestConcurrent(t *testing.T) {
	data := plain(t)
	var wg sync.WaitGroup
	for _, name := range []string{"text1024", "elf4096", "period7", "skew", "zeros", "random"} {
		z := compress(t, data[name], 6, 0)
		for range 2 {
			wg.Go(func() {
				dst := make([]byte, len(data[name]))
				for range 10 {
					if _, err := Zlib(dst, z); err != nil || !bytes.Equal(dst, data[name]) {
						t.Errorf("%s: %v", name, err)
					}
					_, _ = Zlib(dst, z[:len(z)/2])
				}
			})
		}
	}
	wg.Wait()
}
