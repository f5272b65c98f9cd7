package trace

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
)

// Bounds of all traces that a Book keeps together. Text is what Keep takes.
const (
	MaxTraces = 1024
	MaxText   = 64 << 20 // bytes
)

// keeping is what is known of a trace that is kept.
type keeping struct {
	used time.Time
	size int64 // of its text, bytes
}

// learn looks, once, at what is kept: that takes a second where it is much, and who
// starts must not wait for it. mu is not held.
func (b *Book) learn() {
	b.learnt.Do(func() {
		kept := map[name]keeping{}
		b.o.Keep.Each(bucket, func(key string, text []byte) {
			var t struct{ Used time.Time } // what is no trace was never used
			_ = json.Unmarshal(text, &t)
			if now := time.Now(); t.Used.After(now) {
				t.Used = now // by a clock that was ahead: what is new must not go before it
			}
			image, command, _ := strings.Cut(key, "/")
			kept[name{image, command}] = keeping{t.Used, int64(len(text))}
		})
		b.mu.Lock()
		defer b.mu.Unlock()
		b.kept = kept
		for _, k := range kept {
			b.text += k.size
		}
	})
}

// get returns the trace that is kept. mu is held.
func (b *Book) get(n name) (t Trace, ok bool) {
	text, ok := b.o.Keep.Get(bucket, n.key())
	if !ok || json.Unmarshal(text, &t) != nil || t.check() != nil {
		return Trace{}, false
	}
	return t, true
}

// put keeps a trace, and lets go of those that were not used for longest. learn was
// called; mu is held.
func (b *Book) put(t Trace) {
	text, err := json.Marshal(t)
	if err != nil {
		b.o.Logger.Error("a trace cannot be kept", "command", t.Command, "err", err)
		return
	}
	b.o.Keep.Put(bucket, t.name().key(), text)
	b.text += int64(len(text)) - b.kept[t.name()].size
	b.kept[t.name()] = keeping{t.Used, int64(len(text))}
	for len(b.kept) > MaxTraces || b.text > MaxText {
		b.drop(slices.MinFunc(slices.Collect(maps.Keys(b.kept)), func(x, y name) int { return b.kept[x].used.Compare(b.kept[y].used) }))
	}
}

// drop removes a trace. mu is held.
func (b *Book) drop(n name) {
	b.o.Keep.Put(bucket, n.key(), nil)
	b.text -= b.kept[n].size
	delete(b.kept, n)
	delete(b.fetched, n)
}
