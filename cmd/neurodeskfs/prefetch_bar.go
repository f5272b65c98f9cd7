package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// plainPause is the time between two lines of progress on what is no terminal.
const plainPause = 10 * time.Second

// prefetchBar shows how far prefetch is: one line that is drawn over on a
// terminal, elsewhere a plain line now and then.
type prefetchBar struct {
	bar
	plain io.Writer // nil: no lines
	now   func() time.Time
	what  string
	began time.Time // of what
	next  time.Time // plain line
}

func newPrefetchBar(out io.Writer, quiet bool) *prefetchBar {
	b := &prefetchBar{bar: newBar(out), now: time.Now}
	if b.bar.out == nil && !quiet {
		b.plain = out
	}
	return b
}

func (b *prefetchBar) step(s step) {
	now := b.now()
	if s.What != b.what {
		b.what, b.began, b.next = s.What, now, now.Add(plainPause)
	}
	text := b.text(s, now.Sub(b.began))
	switch {
	case b.bar.out != nil:
		fmt.Fprintf(b.bar.out, "\r\x1b[K%s", clip(text, screenWidth-1))
	case b.plain != nil && now.After(b.next):
		b.next = now.Add(plainPause)
		fmt.Fprintln(b.plain, text)
	}
}

// text is the line: what, how much of how much, how fast, how much longer.
func (b *prefetchBar) text(s step, elapsed time.Duration) string {
	what := visible(s.What)
	switch {
	case s.OfBytes == 0 && s.Objects <= 0:
		return what
	case s.Objects < 0:
		return fmt.Sprintf("%s: looking, %s so far", clip(what, 40), bytesText(s.OfBytes))
	}
	const width = 10
	done := width
	if s.OfBytes > 0 {
		done = int(width * s.Bytes / s.OfBytes)
	}
	line := fmt.Sprintf("%s [%s%s] %s of %s", clip(what, 24), strings.Repeat("=", done), strings.Repeat(" ", width-done), bytesText(s.Bytes), bytesText(s.OfBytes))
	fetched := s.Bytes - s.Here
	if fetched <= 0 || elapsed <= 0 {
		return line
	}
	rate := float64(fetched) / elapsed.Seconds()
	left := time.Duration(float64(s.OfBytes-s.Bytes)/rate) * time.Second
	return line + fmt.Sprintf(", %s/s, %s left", bytesText(int64(rate)), minutes(left))
}

// minutes writes a time as minutes and seconds, 1:05, or 2:03:04.
func minutes(d time.Duration) string {
	s := int64(d / time.Second)
	if s < 3600 {
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	}
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}

func (r PrefetchReport) print(out io.Writer) {
	for _, i := range r.Images {
		if i.Objects == 0 {
			fmt.Fprintf(out, "%s: lies in a folder of this machine, nothing is to be fetched\n", i.Image)
			continue
		}
		fmt.Fprintf(out, "%s: %s in %d objects, of which %s in %d were fetched\n", i.Image, bytesText(i.Bytes), i.Objects, bytesText(i.FetchedBytes), i.Fetched)
	}
	fmt.Fprintf(out, "all of it is in %s\n", visible(r.To))
}
