package inflate

import (
	"bytes"
	stdflate "compress/flate"
	"io"
	"math"
	"testing"
	"time"

	kflate "github.com/klauspost/compress/flate"
)

// stream is one raw deflate stream and the size of its output.
type stream struct {
	z    []byte
	size int
}

// benchClasses returns the classes of the table in the package comment.
func benchClasses(tb testing.TB) ([]string, map[string][]stream) {
	const most = 4 << 20 // bytes of output in a class
	raw := goldenClasses(tb)
	names := []string{"elf128k", "elf", "py", "pyc", "text", "4k", "1k", "stored", "zeros"}
	m := map[string][]stream{}
	add := func(class string, b []byte, size int) {
		level := 6
		if class == "stored" {
			level = 0
		}
		for len(b) > 0 {
			n := min(size, len(b))
			total := 0
			for _, s := range m[class] {
				total += s.size
			}
			if total < most && (n == size || size > 4096) {
				z := compress(tb, b[:n], level, 0)
				m[class] = append(m[class], stream{z[zlibHeader : len(z)-zlibTrailer], n})
			}
			b = b[n:]
		}
	}
	for _, b := range raw["elf"] {
		add("elf128k", b, 128<<10)
		add("elf", b, len(b))
		add("stored", b, 128<<10)
	}
	for _, class := range []string{"py", "pyc", "text"} {
		for _, b := range raw[class] {
			if len(b) >= 2048 {
				add(class, b, len(b))
			}
		}
	}
	for i := range max(len(raw["py"]), len(raw["elf"]), len(raw["pyc"])) {
		for _, class := range []string{"py", "elf", "pyc"} {
			if list := raw[class]; i < len(list) {
				b := list[i][:min(len(list[i]), 16<<10)]
				add("4k", b, 4096)
				add("1k", b[:min(len(b), 4096)], 1024)
			}
		}
	}
	add("zeros", make([]byte, 4<<20), 128<<10)
	return names, m
}

// BenchmarkRatio decodes each class in turn with the standard library, with
// klauspost/compress and with this package, many times in short turns, and
// takes each stream's best time: ratios then repeat even on a busy machine.
func BenchmarkRatio(b *testing.B) {
	names, classes := benchClasses(b)
	buf := make([]byte, 64<<20)
	src := bytes.NewReader(nil)
	std := stdflate.NewReader(src)
	klaus := kflate.NewReader(src)
	readers := []func(s stream) error{
		func(s stream) error { return readFull(std, std.(stdflate.Resetter).Reset, src, buf, s) },
		func(s stream) error { return readFull(klaus, klaus.(kflate.Resetter).Reset, src, buf, s) },
		func(s stream) error { _, err := Raw(buf[:s.size:s.size], s.z); return err },
	}
	logs := 0.0
	for _, name := range names {
		b.Run(name, func(b *testing.B) {
			mbps := measure(b, classes[name], readers)
			b.ReportMetric(mbps[0], "std-MB/s")
			b.ReportMetric(mbps[1], "klauspost-MB/s")
			b.ReportMetric(mbps[2], "own-MB/s")
			b.ReportMetric(mbps[2]/mbps[1], "ratio")
			b.ReportMetric(0, "ns/op")
			switch name {
			case "elf128k", "py", "pyc", "text":
				logs += math.Log(mbps[2]/mbps[1]) / 4
			}
		})
	}
	b.Run("mean", func(b *testing.B) { // geometric, over the four above
		for b.Loop() {
		}
		b.ReportMetric(math.Exp(logs), "ratio")
		b.ReportMetric(0, "ns/op")
	})
}

func readFull(r io.Reader, reset func(io.Reader, []byte) error, src *bytes.Reader, buf []byte, s stream) error {
	src.Reset(s.z)
	if err := reset(src, nil); err != nil {
		return err
	}
	_, err := io.ReadFull(r, buf[:s.size])
	return err
}

// measure returns MB of output a second of each reader.
func measure(b *testing.B, streams []stream, readers []func(stream) error) []float64 {
	const rounds = 5
	total, mbps := 0, make([]float64, len(readers))
	for _, s := range streams {
		total += s.size
	}
	for b.Loop() {
		spent := make([]time.Duration, len(readers))
		for at := 0; at < len(streams); {
			end, size := at, 0 // a turn takes in 64 KB or more
			for ; end < len(streams) && size < 64<<10; end++ {
				size += streams[end].size
			}
			best := make([]time.Duration, len(readers))
			for range rounds {
				for i, read := range readers {
					start := time.Now()
					for _, s := range streams[at:end] {
						if err := read(s); err != nil {
							b.Fatal(err)
						}
					}
					if d := time.Since(start); best[i] == 0 || d < best[i] {
						best[i] = d
					}
				}
			}
			for i := range best {
				spent[i] += best[i]
			}
			at = end
		}
		for i := range mbps {
			mbps[i] = max(mbps[i], float64(total)/1e6/spent[i].Seconds())
		}
	}
	return mbps
}
