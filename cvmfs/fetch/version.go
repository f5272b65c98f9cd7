package fetch

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// ErrChanged is returned when all servers have another version of a file than
// the one that was asked for. It comes with ErrContent.
var ErrChanged = errors.New("the file on the server is another version now")

// Version tells one version of a file at a URL from all others (RFC 9110,
// section 8.8). The zero value is not known yet.
type Version struct {
	ETag         string // strong, with its quotes; "" where the server gives none
	LastModified string // as the server writes it; only where there is no ETag
	Size         int64  // of the whole file, bytes
}

// maxValidator bounds what a server may write as ETag or Last-Modified, bytes.
const maxValidator = 256

// condition asks the server for this version only. If-Range would have it send
// all of another version.
func (v Version) condition(h http.Header) {
	switch {
	case v.ETag != "":
		h.Set("If-Match", v.ETag)
	case v.LastModified != "":
		h.Set("If-Unmodified-Since", v.LastModified)
	}
}

// describe reads of which version of a file an answer with status 206 has a
// part, and which.
func describe(h http.Header) (v Version, first, length int64, err error) {
	if e := h.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return v, 0, 0, fmt.Errorf("it is sent with Content-Encoding %.60q", e)
	}
	text := h.Get("Content-Range")
	var last int64
	if first, last, v.Size, err = parseContentRange(text); err != nil {
		return v, 0, 0, fmt.Errorf("Content-Range %.60q: %w", text, err)
	}
	tag := h.Get("ETag")
	if len(tag) >= 2 && len(tag) <= maxValidator && tag[0] == '"' && tag[len(tag)-1] == '"' {
		v.ETag = tag
		return v, first, last - first + 1, nil
	}
	v.LastModified = h.Get("Last-Modified")
	if _, err := http.ParseTime(v.LastModified); err != nil || len(v.LastModified) > maxValidator {
		return v, 0, 0, errors.New("neither a strong ETag nor Last-Modified says which version of the file it is: have the server send one")
	}
	return v, first, last - first + 1, nil
}

// parseContentRange reads "bytes FIRST-LAST/SIZE".
func parseContentRange(s string) (first, last, size int64, err error) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(s), "bytes ")
	span, total, ok2 := strings.Cut(rest, "/")
	from, to, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, 0, errors.New("it is not understood")
	}
	for _, n := range []struct {
		text string
		to   *int64
	}{{from, &first}, {to, &last}, {total, &size}} {
		u, err := strconv.ParseUint(n.text, 10, 63)
		if err != nil {
			return 0, 0, 0, errors.New("it is not understood")
		}
		*n.to = int64(u)
	}
	if first > last || last >= size {
		return 0, 0, 0, errors.New("it makes no sense")
	}
	return first, last, size, nil
}

// versioned checks the head of an answer to a request for a version, and
// returns how many bytes follow. A version that is not known yet is filled in;
// then the part may end where the file does.
func (t *try) versioned(resp *http.Response) (length int64, f *failure) {
	want, ranged := t.req.Version, t.req.Range
	switch {
	case resp.StatusCode == http.StatusPartialContent:
	case resp.ContentLength == 0:
		return 0, t.empty()
	default:
		return 0, &failure{reason: "the range asked for was ignored: the server must answer ranges", reached: true}
	}
	got, first, length, err := describe(resp.Header)
	if err != nil {
		return 0, t.badContent(nil, err.Error())
	}
	known := *want != Version{}
	if known && got != *want {
		return 0, t.changed(fmt.Sprintf("asked for %s, got %s", want, got))
	}
	if first != ranged[0] || length != min(ranged[1], got.Size-first) {
		return 0, t.badContent(nil, fmt.Sprintf("asked for %d bytes from %d on, got the range %.60q", ranged[1], ranged[0], resp.Header.Get("Content-Range")))
	}
	*want = got
	return length, nil
}

// empty is the failure of a file in which there is nothing.
func (t *try) empty() *failure {
	return &failure{reason: "the file is empty: it must be uploaded again", reached: true}
}

// changed is the failure of an answer that is of another version.
func (t *try) changed(reason string) *failure {
	return t.badContent(fmt.Errorf("%w: %w: %s", ErrContent, ErrChanged, reason), reason)
}

// String names the version for messages.
func (v Version) String() string {
	if v.ETag != "" {
		return fmt.Sprintf("ETag %s, %d bytes", v.ETag, v.Size)
	}
	return fmt.Sprintf("Last-Modified %s, %d bytes", v.LastModified, v.Size)
}
