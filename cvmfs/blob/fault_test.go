package blob

import (
	"bytes"
	"errors"
	"fmt"
	iofs "io/fs"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/fetch"
)

// TestFaults: what a server does wrong is no content, and leaves nothing behind.
func TestFaults(t *testing.T) {
	part := func(w http.ResponseWriter, span string, body []byte) {
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Content-Range", span)
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		w.WriteHeader(http.StatusPartialContent)
		w.Write(body)
	}
	second := fmt.Sprintf("bytes %d-%d/%d", BlockSize, 2*BlockSize-1, 2*BlockSize)
	for name, c := range map[string]struct {
		fault func(w http.ResponseWriter, r *http.Request) bool
		want  string // in the error
	}{
		"404":           {func(w http.ResponseWriter, r *http.Request) bool { http.NotFound(w, r); return true }, "404"},
		"500":           {func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(500); return true }, "500"},
		"range ignored": {func(_ http.ResponseWriter, r *http.Request) bool { r.Header.Del("Range"); return false }, "must answer ranges"},
		"ETag gone": {func(w http.ResponseWriter, r *http.Request) bool {
			r.Header.Del("If-Match")
			hideETag(w, r, second)
			return true
		}, "neither a strong ETag"},
		"another range": {func(w http.ResponseWriter, r *http.Request) bool {
			part(w, fmt.Sprintf("bytes 0-%d/%d", BlockSize-1, 2*BlockSize), random(3, BlockSize))
			return true
		}, "got the range"},
		"shorter range": {func(w http.ResponseWriter, r *http.Request) bool {
			part(w, fmt.Sprintf("bytes %d-%d/%d", BlockSize, BlockSize+9, 2*BlockSize), random(3, 10))
			return true
		}, "got the range"},
		"no range": {func(w http.ResponseWriter, r *http.Request) bool { part(w, "", random(3, BlockSize)); return true }, "Content-Range"},
		"silly range": {func(w http.ResponseWriter, r *http.Request) bool {
			part(w, "bytes 9-1/5", random(3, BlockSize))
			return true
		}, "Content-Range"},
		"short": {func(w http.ResponseWriter, r *http.Request) bool {
			part(w, second, random(3, BlockSize-1))
			return true
		}, "ended early"},
		"long": {func(w http.ResponseWriter, r *http.Request) bool {
			part(w, second, random(3, BlockSize+1))
			return true
		}, "longer than expected"},
		"cut off": {func(w http.ResponseWriter, r *http.Request) bool { cutOff(w, second); return true }, "after 100 bytes"},
		"another length": {func(w http.ResponseWriter, r *http.Request) bool {
			part(w, fmt.Sprintf("bytes %d-%d/%d", BlockSize, 2*BlockSize-1, 3*BlockSize), random(3, BlockSize))
			return true
		}, "another version"},
		"gzip": {func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Encoding", "gzip")
			part(w, second, random(3, BlockSize))
			return true
		}, "Content-Encoding"},
		"a login page": {func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "<html>log in</html>")
			return true
		}, "must answer ranges"},
		"redirect loop": {func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, r.URL.Path+"x", http.StatusFound)
			return true
		}, "302"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t, 2*BlockSize)
			b := newDaemon().open(t, s)
			r := find(t, b)
			s.set(func(s *shelf) { s.fault = c.fault })
			p := make([]byte, 10)
			n, err := r.ReadAt(t.Context(), p, BlockSize)
			if n != 0 || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%d bytes, error %v, want %q", n, err, c.want)
			}
			s.set(func(s *shelf) { s.fault = nil })
			if errors.Is(err, ErrChanged) { // a look says that it was not
				if _, err := b.Refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := readAll(t.Context(), r); err != nil || !bytes.Equal(got, s.content) {
				t.Errorf("when it is mended: %d bytes, %v", len(got), err)
			}
		})
	}
}

func hideETag(w http.ResponseWriter, _ *http.Request, span string) {
	w.Header().Set("Content-Range", span)
	w.Header().Set("Content-Length", fmt.Sprint(BlockSize))
	w.WriteHeader(http.StatusPartialContent)
	w.Write(random(3, BlockSize))
}

func cutOff(w http.ResponseWriter, span string) {
	w.Header().Set("ETag", `"v1"`)
	w.Header().Set("Content-Range", span)
	w.Header().Set("Content-Length", fmt.Sprint(BlockSize))
	w.WriteHeader(http.StatusPartialContent)
	w.Write(random(3, 100))
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// TestOneFaultIsNoFailure: a request that fails once is made again.
func TestOneFaultIsNoFailure(t *testing.T) {
	s := newShelf(t, 2*BlockSize)
	r := find(t, newDaemon().open(t, s))
	failed := false
	s.set(func(s *shelf) {
		s.fault = func(w http.ResponseWriter, _ *http.Request) bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			if !failed {
				failed = true
				w.WriteHeader(503)
				return true
			}
			return false
		}
	})
	if got, err := readAll(t.Context(), r); err != nil || !bytes.Equal(got, s.content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestValidators: of files without a strong ETag the time of change counts.
func TestValidators(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, c := range map[string]struct {
		etag     string
		modified time.Time
		ok       bool
	}{
		"strong ETag": {`"x"`, time.Time{}, true}, "Last-Modified": {"", at, true}, "weak ETag and Last-Modified": {`W/"x"`, at, true},
		"weak ETag": {`W/"x"`, time.Time{}, false}, "nothing": {"", time.Time{}, false}, "long ETag": {`"` + strings.Repeat("x", 300) + `"`, time.Time{}, false},
	} {
		s := newShelf(t, BlockSize+1)
		s.set(func(s *shelf) { s.etag, s.modified = c.etag, c.modified })
		b := newDaemon().open(t, s)
		f, err := b.Find(t.Context(), "a.sif")
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !c.ok {
			if !strings.Contains(err.Error(), "ETag") {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		r := b.Open(f)
		if got, err := readAll(t.Context(), r); err != nil || !bytes.Equal(got, s.content) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if f.ETag != "" {
			continue
		}
		s.set(func(s *shelf) { s.modified = at.Add(time.Hour) })
		if changed, err := b.Refresh(t.Context()); err != nil || !changed {
			t.Errorf("%s: a changed file: %v, %v", name, changed, err)
		}
	}
}

func TestRedirects(t *testing.T) {
	s := newShelf(t, BlockSize+1)
	s.set(func(s *shelf) {
		s.fault = func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasPrefix(r.URL.Path, "/x/") {
				return false
			}
			http.Redirect(w, r, "/moved/a", http.StatusFound)
			return true
		}
	})
	r := find(t, newDaemon().open(t, s))
	if got, err := readAll(t.Context(), r); err != nil || !bytes.Equal(got, s.content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestAbsentFiles(t *testing.T) {
	s := newShelf(t, 10)
	d := newDaemon()
	b := d.open(t, s)
	find(t, b)
	s.set(func(s *shelf) { s.content = nil })
	if changed, err := b.Refresh(t.Context()); err != nil || !changed {
		t.Errorf("a file that went: %v, %v", changed, err)
	}
	if _, err := b.Find(t.Context(), "a.sif"); !errors.Is(err, iofs.ErrNotExist) || !strings.Contains(err.Error(), "/x/a.sif") {
		t.Errorf("%v", err)
	}
	for _, status := range []int{http.StatusOK, http.StatusRequestedRangeNotSatisfiable} { // nginx, and object stores
		s.set(func(s *shelf) {
			s.fault = func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(status); return true }
		})
		if _, err := newDaemon().open(t, s).Find(t.Context(), "a.sif"); err == nil || errors.Is(err, iofs.ErrNotExist) || !strings.Contains(err.Error(), "is empty") {
			t.Errorf("an empty file, %d: %v", status, err)
		}
	}
}

// TestIndex: the list is fetched once, again by Refresh, and remembered.
func TestIndex(t *testing.T) {
	s, d := newShelf(t, 10), newDaemon()
	b := d.open(t, s)
	for range 2 {
		if text, err := b.Index(t.Context()); err != nil || text != "a.sif\n" {
			t.Errorf("%q, %v", text, err)
		}
	}
	if changed, err := b.Refresh(t.Context()); err != nil || changed {
		t.Errorf("the same list: %v, %v", changed, err)
	}
	s.set(func(s *shelf) { s.list = "<!DOCTYPE html>\n<html>" })
	if changed, err := b.Refresh(t.Context()); err == nil || changed {
		t.Errorf("a web page: %v, %v", changed, err)
	}
	s.set(func(s *shelf) { s.list = "b.sif\n" })
	if changed, err := b.Refresh(t.Context()); err != nil || !changed {
		t.Errorf("another list: %v, %v", changed, err)
	}
	s.Close()
	if text, err := d.open(t, s).Index(t.Context()); err != nil || text != "b.sif\n" || !strings.Contains(d.log.String(), "cannot be fetched") {
		t.Errorf("offline: %q, %v", text, err)
	}
	if text, err := newDaemon().open(t, s).Index(t.Context()); !errors.Is(err, fetch.ErrOffline) {
		t.Errorf("offline, the first time: %q, %v", text, err)
	}
}

func TestCheckURL(t *testing.T) {
	for text, ok := range map[string]bool{
		"https://h/p/@image@.sif": true, "http://h/@image@": true, "https://h/p/@image@.sif?token=a%2Fb": true, "https://h/@image@/image.sif": true,
		"": false, "h/@image@": false, "ftp://h/@image@": false, "https://h/p": false, "https://h/@image@/@image@": false, "https://h/p?f=@image@": false, "https://@image@/x": false,
	} {
		if err := CheckURL(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestPlaces: what gives access is in no name that people or logs see, and does
// not make another file of one.
func TestPlaces(t *testing.T) {
	b := &Bucket{o: Options{URLs: []string{"https://me:secret@h/p/@image@.sif?token=secret"}}}
	c := &Bucket{o: Options{URLs: []string{"https://h/p/@image@.sif"}}}
	if got := b.Place("a+b c:1"); got != "https://h/p/a%2Bb%20c:1.sif" {
		t.Error(got)
	}
	if f := (File{Name: "a", Version: fetch.Version{ETag: `"x"`, Size: 1}}); b.ID(f) != c.ID(f) || len(b.ID(f)) != 40 {
		t.Errorf("%s, %s", b.ID(f), c.ID(f))
	}
}
