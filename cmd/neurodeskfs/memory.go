package main

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"runtime/metrics"

	"github.com/neurodesk/neurodeskfs/cvmfs"
)

// memoryLimit is the soft limit of Go's heap in bytes, which the buffers of
// large downloads would else exceed between two collections; $GOMEMLIMIT goes
// before it.
const memoryLimit = 80 << 20

// limitMemory sets the limit, unless the environment has one.
func limitMemory() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
}

// MemoryStatus says what the daemon keeps in memory, each part in bytes or in
// things of bounded size: the bounds stand where the parts are.
type MemoryStatus struct {
	Heap     uint64 `json:"heap_bytes"`       // Go's, without what it has free
	Limit    int64  `json:"heap_limit_bytes"` // soft
	Buffers  int64  `json:"request_buffers_bytes"`
	Blocks   int64  `json:"image_blocks_bytes"`   // of single-file images, inflated; at most 48 MiB
	Degraded int64  `json:"cache_degraded_bytes"` // objects that the failing cache disk does not take; at most 256 MiB
	cvmfs.Held
}

// memory looks at what is kept now.
func (d *daemon) memory() MemoryStatus {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	m := MemoryStatus{
		Heap: sample[0].Value.Uint64(), Limit: debug.SetMemoryLimit(-1),
		Blocks: d.images.BlockBytes(), Degraded: d.disk.Stats().MemoryBytes,
	}
	if live := d.session.Load(); live != nil {
		m.Buffers = live.Stats().SlotBytes
	}
	for _, s := range d.sources {
		if s.repo != nil {
			h := s.repo.Held()
			m.Catalogs += h.Catalogs
			m.Objects += h.Objects
			m.InMemory += h.InMemory
			m.Incoming += h.Incoming
			m.Files += h.Files
		}
	}
	return m
}

func (m MemoryStatus) print(out io.Writer, rss uint64) {
	row(out, "memory", "%s; heap %s of %s, image blocks %s, request buffers %s, objects coming in %s; %d catalogs open%s",
		bytesText(int64(rss)), bytesText(int64(m.Heap)), bytesText(m.Limit), bytesText(m.Blocks), bytesText(m.Buffers),
		bytesText(m.Incoming), m.Catalogs, degradedText(m.Degraded+m.InMemory))
}

// degradedText is said only while the cache disk fails.
func degradedText(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", %s instead of on the cache disk", bytesText(n))
}
