package trace

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs"
)

func TestTheBookIsBounded(t *testing.T) {
	p := newPlace(t, 1)
	n := p.node(Options{})
	ahead := Trace{Repository: fqrn, Image: id, Command: "a", Objects: p.objects, Used: time.Now().AddDate(1, 0, 0)}
	text, err := json.Marshal(ahead) // by a clock that was
	if err != nil {
		t.Fatal(err)
	}
	n.o.Keep.Put(bucket, ahead.name().key(), text)
	var list []Trace
	for i := range MaxTraces + 5 {
		list = append(list, Trace{Repository: fqrn, Image: id, Command: fmt.Sprintf("c%04d", i), Objects: p.objects})
	}
	if err := n.Import(list); err != nil {
		t.Fatal(err)
	}
	if got := n.Traces(); len(got) != MaxTraces || got[len(got)-1].Command != fmt.Sprintf("c%04d", MaxTraces+4) || got[0].Command == ahead.Command {
		t.Errorf("%d traces", len(got))
	}
	const other = "f" + id
	n.o.Site = func(_ context.Context, image string) ([]byte, error) {
		return Format([]Trace{{Repository: fqrn, Image: image, Command: "bet", Objects: p.objects}})
	}
	if r, err := n.Replay(t.Context(), n.repo, other, "bet", func(cvmfs.Prefetched, int) {}); err != nil || r.There != 1 {
		t.Errorf("the site's, in a full book: %+v, %v", r, err)
	}
}

// TestTheBookIsBoundedInBytes, also the one that an earlier version left.
func TestTheBookIsBoundedInBytes(t *testing.T) {
	p := newPlace(t, 1)
	n := p.node(Options{})
	large := Trace{Repository: fqrn, Image: id}
	for i := range MaxObjects {
		large.Objects = append(large.Objects, numbered(i, 1))
	}
	text, err := json.Marshal(large)
	if err != nil {
		t.Fatal(err)
	}
	fit := MaxText / len(text)
	for i := range fit + 5 {
		large.Command, large.Used = fmt.Sprintf("c%04d", i), time.Unix(int64(i), 0)
		if text, err = json.Marshal(large); err != nil {
			t.Fatal(err)
		}
		n.o.Keep.Put(bucket, large.name().key(), text)
	}
	if err := n.Import([]Trace{{Repository: fqrn, Image: id, Command: "new", Objects: p.objects}}); err != nil {
		t.Fatal(err)
	}
	kept, size, first := 0, 0, ""
	n.o.Keep.Each(bucket, func(key string, text []byte) {
		kept++
		size += len(text)
		if _, command, _ := strings.Cut(key, "/"); first == "" || command < first {
			first = command
		}
	})
	if size > MaxText || kept < fit-1 || first == "c0000" || int64(size) != n.text || kept != len(n.kept) {
		t.Errorf("%d traces of %d bytes, the first is %s; counted %d of %d", kept, size, first, len(n.kept), n.text)
	}
}

// TestStartsOfNothingLeaveNothing: whoever announces thousands of commands, which
// there need not be, makes the book no larger.
func TestStartsOfNothingLeaveNothing(t *testing.T) {
	p := newPlace(t, 1)
	n := p.node(Options{})
	for i := range 2000 {
		n.Started(n.repo, id, fmt.Sprintf("c%d", i))
	}
	n.images.read(p.objects...)
	if got := len(n.Traces()); got != maxRuns {
		t.Errorf("%d traces, want %d", got, maxRuns)
	}
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() { // they look for a trace in the background
		n.mu.Lock()
		fetched := len(n.fetched)
		n.mu.Unlock()
		if fetched <= maxRuns {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d starts are remembered", fetched)
		}
	}
}
