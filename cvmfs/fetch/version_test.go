package fetch

import (
	"net/http"
	"strings"
	"testing"
)

func TestParseContentRange(t *testing.T) {
	for text, want := range map[string][3]int64{
		"bytes 0-0/1": {0, 0, 1}, " bytes 5-9/10 ": {5, 9, 10}, "bytes 0-9223372036854775806/9223372036854775807": {0, 1<<63 - 2, 1<<63 - 1},
	} {
		first, last, size, err := parseContentRange(text)
		if got := [3]int64{first, last, size}; err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "bytes", "bytes */10", "bytes 0-9/*", "bytes 9-5/10", "bytes 0-10/10", "bytes -1-5/10", "bytes +1-5/10", "bytes 0x1-5/10", "bits 0-5/10",
		"bytes 0-9223372036854775807/9223372036854775808", "bytes 1-2/3/4", "bytes 0-1-2/3",
	} {
		if first, last, size, err := parseContentRange(text); err == nil {
			t.Errorf("%q is taken for %d-%d/%d", text, first, last, size)
		}
	}
}

// FuzzDescribe: what an answer says of itself is a range inside of a file and one
// validator, which can be sent back as it is, or is refused.
func FuzzDescribe(f *testing.F) {
	f.Add("bytes 0-9/100", `"v1"`, "", "")
	f.Add("bytes 10-99/100", `W/"weak"`, "Mon, 02 Jan 2006 15:04:05 GMT", "identity")
	f.Add("bytes 0-9/100", `"`, "Monday, 02-Jan-06 15:04:05 MST", "gzip")
	f.Add("bytes 9-0/*", "", "yesterday", "")
	f.Fuzz(func(t *testing.T, contentRange, tag, modified, encoding string) {
		v, first, length, err := describe(http.Header{
			"Content-Range": {contentRange}, "Etag": {tag}, "Last-Modified": {modified}, "Content-Encoding": {encoding},
		})
		if err != nil {
			if text := err.Error(); len(text) > 1024 {
				t.Errorf("a reason of %d bytes", len(text))
			}
			return
		}
		if first < 0 || length < 1 || first+length < length || first+length > v.Size {
			t.Errorf("%q: %d bytes from %d on of %d", contentRange, length, first, v.Size)
		}
		if (v.ETag == "") == (v.LastModified == "") || len(v.ETag+v.LastModified) > maxValidator || strings.HasPrefix(v.ETag, "W/") {
			t.Errorf("%+v", v)
		}
		h := http.Header{}
		v.condition(h)
		if got := h.Get("If-Match") + h.Get("If-Unmodified-Since"); len(h) != 1 || got != v.ETag+v.LastModified {
			t.Errorf("%+v asks for %v", v, h)
		}
	})
}
