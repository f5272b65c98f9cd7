package tree

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// frozenFile is a file in memory, as a supervisor keeps it.
func frozenFile(t *testing.T) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("frozen", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "frozen")
	t.Cleanup(func() { f.Close() })
	return f
}

func thawOpen(t *testing.T, f *os.File) *frozenFiles {
	t.Helper()
	z, err := openFrozen(f)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// TestFrozenOutliveTheWorker: what one worker has frozen the next ones read, and
// none gives its number again, though half of it was given back.
func TestFrozenOutliveTheWorker(t *testing.T) {
	f := frozenFile(t)
	at := time.Unix(1_700_000_000, 123)
	content := func(i int) []byte { return bytes.Repeat(fmt.Appendf(nil, "file %d ", i), 1+i%7*200) }
	given := map[uint64]int{}
	var order []uint64
	freeze := func(z *frozenFiles, i int) {
		n, err := z.freeze(content(i), at.Add(time.Duration(i)))
		if err != nil {
			t.Fatal(err)
		}
		if was, ok := given[n]; ok || n < frozenBase {
			t.Fatalf("file %d has number %d, as file %d", i, n, was)
		}
		given[n], order = i, append(order, n)
	}
	i := 0
	for range 4 { // workers
		z := thawOpen(t, f)
		for range keepFrozen * 3 / 4 {
			freeze(z, i)
			i++
		}
	}
	z := thawOpen(t, f)
	for place, n := range order {
		got, err := z.thaw(n)
		switch want := given[n]; {
		case place < len(order)-keepFrozen:
			if !errors.Is(err, volume.ErrStale) {
				t.Errorf("file %d was given back and reads %d bytes, %v", want, len(got.content), err)
			}
		case err != nil || !bytes.Equal(got.content, content(want)) || !got.mtime.Equal(at.Add(time.Duration(want))):
			t.Errorf("file %d: %d bytes of %s, %v", want, len(got.content), got.mtime, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Blocks*512 > (keepFrozen+8)*2*frozenPage*2 {
		t.Errorf("%d bytes of memory are in use, %v", st.Blocks*512, err)
	}
}

// TestFrozenTornWrite: a file whose header was never written is none, and the
// next one lies behind it.
func TestFrozenTornWrite(t *testing.T) {
	f := frozenFile(t)
	first, err := thawOpen(t, f).freeze([]byte("whole"), time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("torn"), 3*frozenPage+100); err != nil {
		t.Fatal(err)
	}
	z := thawOpen(t, f)
	if _, err := z.thaw(frozenBase + 3); !errors.Is(err, volume.ErrStale) {
		t.Errorf("what is torn: %v", err)
	}
	next, err := z.freeze([]byte("next"), time.Unix(2, 0))
	if err != nil || next < frozenBase+4 {
		t.Errorf("number %d, %v", next, err)
	}
	for n, want := range map[uint64]string{first: "whole", next: "next"} {
		if got, err := z.thaw(n); err != nil || string(got.content) != want {
			t.Errorf("number %d: %q, %v", n, got.content, err)
		}
	}
	if _, err := z.freeze(make([]byte, maxFrozen+1), time.Unix(3, 0)); err == nil {
		t.Error("a file beyond the bound was taken")
	}
}
