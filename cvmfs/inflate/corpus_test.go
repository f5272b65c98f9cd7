package inflate

import (
	"bytes"
	"compress/flate"
	"compress/zlib"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/integration/golden"
)

// goldenObjects returns the stored bytes of the objects without suffix, which
// are zlib streams made by the CVMFS server tools.
func goldenObjects(tb testing.TB) [][]byte {
	tb.Helper()
	root := golden.Path(tb, "neurodesk", "neurodesk.golden.test", "data")
	names, err := filepath.Glob(filepath.Join(root, "??", strings.Repeat("?", 38)))
	if err != nil || len(names) == 0 {
		tb.Fatalf("no golden objects in %s: %v", root, err)
	}
	var objects [][]byte
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			tb.Fatal(err)
		}
		objects = append(objects, b)
	}
	return objects
}

// goldenClasses sorts the contents of the golden objects by kind.
func goldenClasses(tb testing.TB) map[string][][]byte {
	tb.Helper()
	classes := map[string][][]byte{}
	for _, z := range goldenObjects(tb) {
		b := mustStd(tb, z)
		kind := "other"
		switch {
		case bytes.HasPrefix(b, []byte("\x7fELF")):
			kind = "elf"
		case len(b) > 16 && b[1] == 0x0d && b[2] == '\r' && b[3] == '\n':
			kind = "pyc"
		case bytes.Contains(b, []byte("import ")) && bytes.Contains(b, []byte("def ")):
			kind = "py"
		case bytes.IndexByte(b, 0) < 0 && len(b) > 512:
			kind = "text"
		}
		classes[kind] = append(classes[kind], b)
	}
	return classes
}

// mustStd decodes z with the standard library.
func mustStd(tb testing.TB, z []byte) []byte {
	tb.Helper()
	r, err := zlib.NewReader(bytes.NewReader(z))
	if err != nil {
		tb.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// compress makes a zlib stream at the level; flushes > 0 puts so many sync
// flushes into it.
func compress(tb testing.TB, b []byte, level, flushes int) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w, err := zlib.NewWriterLevel(&buf, level)
	if err != nil {
		tb.Fatal(err)
	}
	step := len(b)/(flushes+1) + 1
	for len(b) > 0 {
		n := min(step, len(b))
		if _, err := w.Write(b[:n]); err != nil {
			tb.Fatal(err)
		}
		if b = b[n:]; len(b) > 0 {
			if err := w.Flush(); err != nil {
				tb.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// plain is the corpus made at test time: this test's own program, Go sources,
// and artificial data of every period and many sizes.
func plain(tb testing.TB) map[string][]byte {
	tb.Helper()
	m := map[string][]byte{"empty": {}, "one": {7}, "zeros": make([]byte, 1<<18)}
	exe, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	elf, err := os.ReadFile(exe)
	if err != nil {
		tb.Fatal(err)
	}
	m["elf"] = elf[:min(len(elf), 1<<19)]
	m["text"] = goSource(tb)
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 80_000)
	for i := range noise {
		noise[i] = byte(rnd.Uint32())
	}
	m["random"] = noise
	skew := make([]byte, 80_000) // long codes: each value half as frequent as the one before
	for i := range skew {
		skew[i] = byte(min(20, bitsZero(rnd.Uint32())) * 7)
	}
	m["skew"] = skew
	for _, n := range []int{1023, 1024, 4096, smallOut - 1, smallOut, smallOut + 1, smallOut + 299, smallOut + 301} {
		m["text"+itoa(n)] = m["text"][:n]
		m["elf"+itoa(n)] = elf[n : 2*n]
	}
	for period := 1; period <= 20; period++ {
		b := make([]byte, 10_000+period)
		copy(b, noise[:period])
		for i := period; i < len(b); i++ {
			b[i] = b[i-period]
			if i%613 == 0 {
				b[i] = byte(i)
			}
		}
		m["period"+itoa(period)] = b
	}
	return m
}

func bitsZero(x uint32) (n int) {
	for ; x&1 == 0 && n < 32; x >>= 1 {
		n++
	}
	return n
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + itoa(n%10)
}

// goRoot is where the Go tree is installed.
func goRoot(tb testing.TB) string {
	tb.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// goSource is about 512 KB of the Go tree's source, or of this package's where
// the tree is not installed.
func goSource(tb testing.TB) []byte {
	tb.Helper()
	var b []byte
	for _, pattern := range []string{filepath.Join(goRoot(tb), "src", "*", "*.go"), "*.go"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			tb.Fatal(err)
		}
		for _, name := range names {
			if len(b) > 1<<19 {
				break
			}
			s, err := os.ReadFile(name)
			if err != nil {
				tb.Fatal(err)
			}
			b = append(b, s...)
		}
	}
	return b
}

var levels = []int{flate.HuffmanOnly, flate.DefaultCompression, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
