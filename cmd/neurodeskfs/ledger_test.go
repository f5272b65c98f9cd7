package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs"
)

func newLedger(t testing.TB) (*ledger, *os.File) {
	t.Helper()
	f, err := newLedgerFile()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	l, err := openLedger(f)
	if err != nil {
		t.Fatal(err)
	}
	return l, f
}

func setRevision(n uint64, moving bool) func(*ledgerEntry) {
	return func(e *ledgerEntry) {
		e.Started = time.Unix(1, 0).UTC()
		e.Sources = []ledgerSource{{Head: &cvmfs.Head{Revision: n}, Moving: moving}}
	}
}

// TestLedgerFollows: a standby opens the ledger while another worker moves on; at
// its turn it must know the last move, and what it writes must be the newest.
func TestLedgerFollows(t *testing.T) {
	active, f := newLedger(t)
	standby, err := openLedger(f)
	if err != nil {
		t.Fatal(err)
	}
	for n := uint64(1); n <= 3; n++ {
		if err := active.write(setRevision(n, n == 3)); err != nil {
			t.Fatal(err)
		}
	}
	if err := standby.load(); err != nil {
		t.Fatal(err)
	}
	if e := standby.read(); !reflect.DeepEqual(e, active.read()) || !e.Sources[0].Moving {
		t.Errorf("it has %+v, not %+v", e, active.read())
	}
	if err := standby.write(setRevision(4, false)); err != nil {
		t.Fatal(err)
	}
	next, err := openLedger(f)
	if err != nil || next.read().Sources[0].Head.Revision != 4 || next.read().Sources[0].Moving {
		t.Errorf("the next worker has %+v, %v", next.read(), err)
	}
}

// TestLedgerFailedWrite: after a write that failed, as for want of memory, the next
// one does not touch the last good entry, which a kill then must leave.
func TestLedgerFailedWrite(t *testing.T) {
	l, f := newLedger(t)
	for n := uint64(1); n <= 2; n++ {
		if err := l.write(setRevision(n, false)); err != nil {
			t.Fatal(err)
		}
	}
	full, err := os.Open(os.DevNull) // refuses writes
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	l.file = full
	if err := l.write(setRevision(3, false)); err == nil {
		t.Fatal("it was written")
	}
	l.file = f
	last := readPlace(t, f, 0)
	if err := l.write(setRevision(4, false)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(readPlace(t, f, 0), last) {
		t.Error("the last good entry was written over")
	}
	if next, err := openLedger(f); err != nil || next.read().Sources[0].Head.Revision != 4 {
		t.Errorf("the next worker has %+v, %v", next.read(), err)
	}
}

// TestLedgerTornWrite: a worker that is killed at any byte of a write leaves the
// entry before.
func TestLedgerTornWrite(t *testing.T) {
	l, f := newLedger(t)
	var places [2][]byte // as they are after entries 2 and 3
	for n := uint64(1); n <= 3; n++ {
		if err := l.write(setRevision(n, false)); err != nil {
			t.Fatal(err)
		}
		places[n%2] = readPlace(t, f, n%2)
	}
	whole := places[1]
	if err := l.write(setRevision(4, false)); err != nil {
		t.Fatal(err)
	}
	if err := l.write(setRevision(5, false)); err != nil {
		t.Fatal(err)
	}
	last := readPlace(t, f, 1)
	for cut := range len(last) { // the text is written first, then the header
		torn := append([]byte(nil), whole...)
		copy(torn[ledgerHeader:], last[ledgerHeader:min(ledgerHeader+cut, len(last))])
		if rest := cut - (len(last) - ledgerHeader); rest > 0 {
			copy(torn, last[:rest])
		}
		if _, err := f.WriteAt(torn, ledgerPlace); err != nil {
			t.Fatal(err)
		}
		got, err := openLedger(f)
		if err != nil {
			t.Fatal(err)
		}
		if n := got.read().Sources[0].Head.Revision; n != 4 && string(torn) != string(last) {
			t.Errorf("%d bytes written: revision %d, want 4", cut, n)
		}
	}
}

func readPlace(t testing.TB, f *os.File, place uint64) []byte {
	t.Helper()
	b := make([]byte, 4096)
	n, err := f.ReadAt(b, int64(place)*ledgerPlace)
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return bytes.TrimRight(b[:n], "\x00")
}

// FuzzLedger: whatever stands in the file, it is an entry or an error, and can be
// written on.
func FuzzLedger(f *testing.F) {
	l, file := newLedger(f)
	if err := l.write(setRevision(1, true)); err != nil {
		f.Fatal(err)
	}
	f.Add(readPlace(f, file, 1))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, place []byte) {
		_, file := newLedger(t)
		if _, err := file.WriteAt(place, 0); err != nil {
			t.Fatal(err)
		}
		l, err := openLedger(file)
		if err != nil || l.number > 1<<62 {
			return // that many were never written
		}
		if err := l.write(setRevision(7, false)); err != nil {
			t.Fatal(err)
		}
		if l, err = openLedger(file); err != nil || l.read().Sources[0].Head.Revision != 7 {
			t.Errorf("%+v, %v", l.read(), err)
		}
	})
}
