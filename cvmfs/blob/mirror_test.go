package blob

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// down makes a shelf answer nothing but errors, or what it has again.
func (s *shelf) down(yes bool) {
	s.set(func(s *shelf) {
		s.fault = nil
		if yes {
			s.fault = func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusBadGateway); return true }
		}
	})
}

// TestMirrors: what the first place cannot deliver comes from the next one, list
// and blocks, and the second is remembered as long as it works.
func TestMirrors(t *testing.T) {
	first, second := newShelf(t, 3*BlockSize), newShelf(t, 3*BlockSize)
	d := newDaemon()
	b := d.open(t, first, second)
	r := find(t, b)
	if log := second.asked(); len(log) != 0 {
		t.Errorf("the second was asked for %q while the first answers", log)
	}
	first.down(true)
	if got, err := readAll(t.Context(), r); err != nil || !bytes.Equal(got, first.content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if log := second.asked(); len(log) != 2 {
		t.Errorf("the second was asked for %q: the two blocks that were missing", log)
	}
	first.asked()
	if changed, err := b.Refresh(t.Context()); changed || !strings.Contains(err.Error(), "502") {
		t.Errorf("the list is at the first only: %v, %v", changed, err)
	}
	if _, err := b.Find(t.Context(), "b.sif"); err != nil {
		t.Error(err)
	}
	if log := first.asked(); len(log) != 0 {
		t.Errorf("the first was asked for %q, though the second works", log)
	}
	if hosts := b.Status().Net.Hosts; len(hosts) != 2 || hosts[0].Current || !hosts[1].Current || strings.Contains(hosts[1].URL, "signed") {
		t.Errorf("%+v", hosts)
	}
}

// TestMirrorOfAnotherVersion: a mirror that has another version is none, and
// while the one that has it may come back, nothing is said to be replaced.
func TestMirrorOfAnotherVersion(t *testing.T) {
	first, second := newShelf(t, 3*BlockSize), newShelf(t, 3*BlockSize)
	second.set(func(s *shelf) { s.content, s.etag = random(2, 3*BlockSize), `"v2"` })
	d := newDaemon()
	b := d.open(t, first, second)
	r := find(t, b)
	first.down(true)
	p := make([]byte, 10)
	if n, err := r.ReadAt(t.Context(), p, BlockSize); n != 0 || err == nil || errors.Is(err, ErrChanged) {
		t.Errorf("%d bytes, %v", n, err)
	}
	first.down(false)
	if got, err := readAll(t.Context(), r); err != nil || !bytes.Equal(got, first.content) {
		t.Errorf("when it is back: %d bytes, %v", len(got), err)
	}
	if text := d.log.String(); strings.Contains(text, "was replaced") {
		t.Error(text)
	}
	other := b.Open(File{Name: "c.sif", Version: r.file.Version})
	first.set(func(s *shelf) { s.etag = `"v3"` })
	if n, err := other.ReadAt(t.Context(), p, 0); n != 0 || !errors.Is(err, ErrChanged) {
		t.Errorf("neither has it: %d bytes, %v", n, err)
	}
}

// TestMirrorTakesOverTheFirstLook: of a file that nobody knows yet any version will
// do, also where the first place told of its own and then broke off.
func TestMirrorTakesOverTheFirstLook(t *testing.T) {
	first, second := newShelf(t, 2*BlockSize), newShelf(t, 2*BlockSize)
	second.set(func(s *shelf) { s.etag = `"v2"` })
	first.set(func(s *shelf) {
		s.fault = func(w http.ResponseWriter, _ *http.Request) bool {
			cutOff(w, fmt.Sprintf("bytes 0-%d/%d", BlockSize-1, 2*BlockSize))
			return true
		}
	})
	if got, err := readAll(t.Context(), find(t, newDaemon().open(t, first, second))); err != nil || !bytes.Equal(got, second.content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
