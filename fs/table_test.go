package fs

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// openTable opens the table at path; the test closes it.
func openTable(t testing.TB, path string) *Table {
	t.Helper()
	table, err := tryTable(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	return table
}

func tryTable(path string) (*Table, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	table, err := OpenTable(f, nil)
	if err != nil {
		f.Close()
	}
	return table, err
}

func mustIntern(t testing.TB, table *Table, record string) uint64 {
	t.Helper()
	n, err := table.Intern(record)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTableNumbersOutliveTheDaemon(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nodes")
	table := openTable(t, path)
	records := []string{"a", "", "d\x00bin", strings.Repeat("x", 1<<20), "\xff\x00\n"}
	for i, r := range records {
		if n := mustIntern(t, table, r); n != uint64(i+1) {
			t.Errorf("record %d has number %d", i, n)
		}
	}
	if n, err := table.number(spaceVolumes, "a"); n != 1 || err != nil {
		t.Errorf("the two spaces are not counted apart: %d, %v", n, err)
	}
	again := openTable(t, path)
	for i, r := range records {
		if n := mustIntern(t, again, r); n != uint64(i+1) {
			t.Errorf("after a restart record %d has number %d", i, n)
		}
		if got, err := again.Record(uint64(i + 1)); got != r || err != nil {
			t.Errorf("record %d reads %.20q, %v", i+1, got, err)
		}
	}
	if n := mustIntern(t, again, "new"); n != 6 {
		t.Errorf("the next number is %d", n)
	}
	if key, err := again.record(spaceVolumes, 1); key != "a" || err != nil {
		t.Errorf("volume 1 is %q, %v", key, err)
	}
}

func TestTableKnowsWhatItNeverGave(t *testing.T) {
	table := openTable(t, filepath.Join(t.TempDir(), "nodes"))
	mustIntern(t, table, "a")
	for _, n := range []uint64{0, 2, 1 << 39, volume.MaxEntry, ^uint64(0)} {
		if _, err := table.Record(n); !errors.Is(err, volume.ErrStale) {
			t.Errorf("Record(%d): %v", n, err)
		}
	}
	if _, err := table.Intern(strings.Repeat("x", maxRecord+1)); err == nil {
		t.Error("a record that cannot be read again was taken")
	}
	if n := mustIntern(t, table, strings.Repeat("x", maxRecord)); n != 2 {
		t.Errorf("the longest record has number %d", n)
	}
}

// TestTableCutsATornTail writes every beginning of the last record, as a kill
// may leave it: the records before it keep their numbers.
func TestTableCutsATornTail(t *testing.T) {
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole")
	table := openTable(t, whole)
	mustIntern(t, table, "one")
	mustIntern(t, table, "two")
	keep := table.end
	mustIntern(t, table, "three")
	b, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	for n := keep; n < int64(len(b)); n++ {
		path := filepath.Join(dir, fmt.Sprint(n))
		if err := os.WriteFile(path, b[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		torn := openTable(t, path)
		if torn.end != keep {
			t.Errorf("cut at %d: the table ends at %d, not %d", n, torn.end, keep)
		}
		if got := mustIntern(t, torn, "other"); got != 3 {
			t.Errorf("cut at %d: the next number is %d", n, got)
		}
		if got, err := openTable(t, path).Record(3); got != "other" || err != nil {
			t.Errorf("cut at %d: number 3 reads %q, %v", n, got, err)
		}
	}
}

// TestTableRefusesDamage flips each byte of the records before the last. Were
// the rest cut off, the numbers that the kernel holds would be given anew.
func TestTableRefusesDamage(t *testing.T) {
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole")
	table := openTable(t, whole)
	for i := range 3 {
		mustIntern(t, table, fmt.Sprint("record ", i))
	}
	b, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(b) * 2 / 3 {
		bad := append([]byte{}, b...)
		bad[i] ^= 1
		path := filepath.Join(dir, fmt.Sprint("bad", i))
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := tryTable(path); err == nil {
			t.Errorf("a flipped bit at %d was taken for a torn tail", i)
		}
	}
}

func TestTableGivesOneNumberToManyCallers(t *testing.T) {
	table := openTable(t, filepath.Join(t.TempDir(), "nodes"))
	const callers, records = 8, 200
	got := make([][records]uint64, callers)
	var wait sync.WaitGroup
	for c := range callers {
		wait.Go(func() {
			for _, i := range rand.New(rand.NewPCG(uint64(c), 1)).Perm(records) {
				n, err := table.Intern(fmt.Sprint(i))
				if err != nil {
					t.Error(err)
					return
				}
				if r, err := table.Record(n); r != fmt.Sprint(i) || err != nil {
					t.Errorf("number %d reads %q, %v, not %d", n, r, err, i)
				}
				got[c][i] = n
			}
		})
	}
	wait.Wait()
	seen := map[uint64]bool{}
	for i, n := range got[0] {
		seen[n] = true
		for c := range callers {
			if got[c][i] != n {
				t.Fatalf("record %d has numbers %d and %d", i, n, got[c][i])
			}
		}
	}
	if len(seen) != records || seen[0] || len(table.spaces[spaceNodes].at) != records {
		t.Errorf("%d records have %d numbers", records, len(seen))
	}
}

// TestTableProbesPastEqualHashes gives a record the index key of another.
func TestTableProbesPastEqualHashes(t *testing.T) {
	table := openTable(t, filepath.Join(t.TempDir(), "nodes"))
	s := &table.spaces[spaceNodes]
	mustIntern(t, table, "first!")
	key, _, err := table.find(s, "second")
	if err != nil {
		t.Fatal(err)
	}
	s.index[key] = 1 // as if "first!" had hashed there
	if n := mustIntern(t, table, "second"); n != 2 {
		t.Fatalf("the second record has number %d", n)
	}
	if n := mustIntern(t, table, "second"); n != 2 {
		t.Errorf("found again it has number %d", n)
	}
	if n := mustIntern(t, table, "first!"); n != 1 {
		t.Errorf("the first has number %d", n)
	}
}

// failWrites makes the table's file one that cannot be written.
func failWrites(t *testing.T, table *Table, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	table.file.Close()
	table.file = f
}

// TestTableGoesOnInMemory when the disk does not take a number.
func TestTableGoesOnInMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nodes")
	table := openTable(t, path)
	mustIntern(t, table, "a")
	failWrites(t, table, path)
	for i, record := range []string{"a", "b", "c"} {
		if n := mustIntern(t, table, record); n != uint64(i+1) {
			t.Errorf("%s has number %d", record, n)
		}
		if got, err := table.Record(uint64(i + 1)); got != record || err != nil {
			t.Errorf("number %d is %q, %v", i+1, got, err)
		}
	}
}

// TestTableSpareOutlivesTheWorker: when the disk fails, the table goes on in the
// spare file, where the next worker finds all numbers: one that began to read
// before, as a standby, and one that begins after.
func TestTableSpareOutlivesTheWorker(t *testing.T) {
	for _, before := range []int{0, 1, 3} { // records that the disk has taken
		path := filepath.Join(t.TempDir(), "nodes")
		spare, err := memoryFile()
		if err == nil { // as a worker that was killed on the way to it has left it
			_, err = spare.WriteAt(bytes.Repeat([]byte("left"), 100), recordHeader)
		}
		if err != nil {
			t.Fatal(err)
		}
		open := func(how func(f, spare *os.File) (*Table, error)) *Table {
			f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			other, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", spare.Fd()), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			table, err := how(f, other)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { table.Close() })
			return table
		}
		active := open(OpenTable)
		for i := range before {
			mustIntern(t, active, fmt.Sprint("disk", i))
		}
		standby := open(LoadTable)
		failWrites(t, active, path)
		for i := range 3 {
			if n := mustIntern(t, active, fmt.Sprint("memory", i)); n != uint64(before+i+1) {
				t.Errorf("%d before: number %d is %d", before, before+i+1, n)
			}
		}
		if err := standby.Own(); err != nil {
			t.Fatal(err)
		}
		for name, next := range map[string]*Table{"standby": standby, "later": open(OpenTable)} {
			for n := range before + 3 {
				want := fmt.Sprint("disk", n)
				if n >= before {
					want = fmt.Sprint("memory", n-before)
				}
				if got, err := next.Record(uint64(n + 1)); got != want || err != nil {
					t.Errorf("%d before, %s: number %d is %q, %v; want %q", before, name, n+1, got, err, want)
				}
			}
		}
		if n := mustIntern(t, standby, "new"); n != uint64(before+4) {
			t.Errorf("%d before: the next number is %d", before, n)
		}
		spare.Close()
	}
}

// TestTableStopsAtAFailedWrite: a number that is written nowhere is never given.
func TestTableStopsAtAFailedWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nodes")
	table := openTable(t, path)
	mustIntern(t, table, "a")
	failWrites(t, table, path)
	table.inMemory = true // and that failed too
	for range 2 {
		if n, err := table.Intern("b"); err == nil {
			t.Fatalf("number %d was given without being written", n)
		}
	}
	if n := mustIntern(t, table, "a"); n != 1 {
		t.Errorf("what was written has number %d now", n)
	}
}

// record makes the bytes of one record, rightly or with another checksum.
func record(space byte, payload string, good bool) []byte {
	b := encodeRecord(space, payload)
	if !good {
		b[len(b)-1] ^= 1
	}
	return b
}

// FuzzTable opens any bytes: an error, or a table that opens again as it is.
func FuzzTable(f *testing.F) {
	f.Add([]byte{})
	f.Add(record(0, "raw\x00a.example.org", true))
	f.Add(append(record(1, "d\x00", true), record(1, "d\x00bin", true)...))
	f.Add(append(record(1, "d\x00", true), record(1, "same", false)...))
	f.Add(append(record(1, "same", true), record(1, "same", true)...))
	f.Add(append(record(1, "d\x00", true), 1, 0xff, 0xff, 0xff, 0xff))
	f.Add(record(2, "x", true))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "nodes")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		table, err := tryTable(path)
		if err != nil {
			return
		}
		defer table.Close()
		n := uint64(len(table.spaces[spaceNodes].at))
		if mustIntern(t, table, "brand new \x01") != n+1 && n == 0 {
			t.Error("the first number is not 1")
		}
		again, err := tryTable(path)
		if err != nil {
			t.Fatalf("a table that was opened does not open again: %v", err)
		}
		defer again.Close()
		for i := range n {
			a, err1 := table.Record(i + 1)
			b, err2 := again.Record(i + 1)
			if err1 != nil || err2 != nil || a != b {
				t.Fatalf("record %d: %q %v, then %q %v", i+1, a, err1, b, err2)
			}
		}
	})
}
