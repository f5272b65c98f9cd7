package fs

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/maphash"
	"io"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// Table numbers volumes and the nodes that have no number by themselves. It is
// an append-only file, so that what the kernel was told outlives the daemon: a
// number is written before it is given away, and a write(2) that has returned
// survives any kill. Its life is the mount's, since an unmounted kernel has
// forgotten every number. Safe for concurrent use.
type Table struct {
	mu      sync.RWMutex // guards all below
	file    *os.File
	end     int64
	spaces  [numberSpaces]space
	failure error // the first failed write; nothing is numbered after it

	spare    *os.File // where it goes on when the disk fails; nil: in a file of its own
	inMemory bool     // the disk has failed
}

// The two number spaces; the values stand in the file.
const (
	spaceVolumes = iota
	spaceNodes
	numberSpaces
)

// space holds where each record lies, in 16 bytes for each, and a hash index.
type space struct {
	at    []extent          // number-1 -> record
	index map[uint64]uint32 // maphash of the record -> number; probed linearly
}

type extent struct {
	offset int64
	length uint32
}

const (
	recordHeader = 13      // space (1), length (4), CRC-32C of the payload (4), CRC-32C of these 9 (4)
	maxRecord    = 1 << 22 // generated files are records
)

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	tableSeed  = maphash.MakeSeed()
)

// errTorn is what readRecord returns for a record that the file does not hold to its end.
var errTorn = errors.New("torn record")

// OpenTable reads the table in f, which it owns from now on. What a kill left
// half-written at the end is cut off: that number was never given away. Any
// other damage is an error, since what stands behind it was given away, and
// would come to mean something else.
//
// spare, if it is not nil, is an empty file in memory where the table goes on
// when f cannot be written any more, so that whoever opens both finds all
// numbers.
func OpenTable(f, spare *os.File) (*Table, error) {
	t, err := LoadTable(f, spare)
	if err == nil {
		err = t.Own()
	}
	return t, err
}

// LoadTable reads a table that another process still writes. Own must follow,
// when that one has ended, before the table is used.
func LoadTable(f, spare *os.File) (*Table, error) {
	t := &Table{file: f, spare: spare}
	t.reset()
	return t, t.load()
}

// Follow reads what was written since LoadTable, so that less is left to Own.
func (t *Table) Follow() error {
	if t.spareBegun() {
		return nil // Own begins anew
	}
	return t.load()
}

// Own reads what was written since LoadTable and makes the table this process's.
func (t *Table) Own() error {
	if t.spareBegun() {
		t.file, t.inMemory = t.spare, true
		t.reset()
	}
	if err := t.load(); err != nil {
		return err
	}
	st, err := t.file.Stat()
	if err == nil && st.Size() > t.end { // else there is nothing to wait for the disk for
		err = t.file.Truncate(t.end)
	}
	if err != nil {
		return fmt.Errorf("fs: node table: %w", err)
	}
	return nil
}

func (t *Table) reset() {
	t.end = 0
	for i := range t.spaces {
		t.spaces[i] = space{index: map[uint64]uint32{}}
	}
}

// spareBegun reports whether the table goes on in the spare file: its first
// header is written last.
func (t *Table) spareBegun() bool {
	if t.spare == nil {
		return false
	}
	var h [recordHeader]byte
	_, err := t.spare.ReadAt(h[:], 0)
	return err == nil && crc32.Checksum(h[:9], castagnoli) == binary.LittleEndian.Uint32(h[9:])
}

// load reads the records behind those that are known.
func (t *Table) load() error {
	st, err := t.file.Stat()
	if err != nil {
		return fmt.Errorf("fs: node table: %w", err)
	}
	const ahead = 256 << 10
	in := bufio.NewReaderSize(io.NewSectionReader(t.file, t.end, st.Size()-t.end), ahead)
	var payload []byte
	for t.end < st.Size() {
		var kind int
		kind, payload, err = readRecord(in, payload)
		if errors.Is(err, errTorn) {
			break
		}
		if err != nil {
			return fmt.Errorf("fs: node table: at byte %d: %w", t.end, err)
		}
		s := &t.spaces[kind]
		s.at = append(s.at, extent{t.end + recordHeader, uint32(len(payload))})
		key := maphash.Bytes(tableSeed, payload)
		for s.index[key] != 0 { // of another record: none is in the file twice
			key++
		}
		s.index[key] = uint32(len(s.at))
		t.end += recordHeader + int64(len(payload))
	}
	return nil
}

// readRecord checks and returns the next record, in buf if it has the room, or
// fails with errTorn where the file ends before.
func readRecord(in io.Reader, buf []byte) (kind int, payload []byte, err error) {
	var h [recordHeader]byte
	if err := fill(in, h[:]); err != nil {
		return 0, nil, err
	}
	n := binary.LittleEndian.Uint32(h[1:])
	if crc32.Checksum(h[:9], castagnoli) != binary.LittleEndian.Uint32(h[9:]) || int(h[0]) >= numberSpaces || n > maxRecord {
		return 0, nil, errors.New("damaged header")
	}
	payload = slices.Grow(buf[:0], int(n))[:n]
	if err := fill(in, payload); err != nil {
		return 0, nil, err
	}
	if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(h[5:]) {
		return 0, nil, errors.New("damaged record")
	}
	return int(h[0]), payload, nil
}

func fill(in io.Reader, b []byte) error {
	_, err := io.ReadFull(in, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errTorn
	}
	return err
}

// find returns record's number, or the free index key where it belongs.
func (t *Table) find(s *space, record string) (key uint64, number uint32, err error) {
	for key = maphash.String(tableSeed, record); ; key++ {
		number = s.index[key]
		if number == 0 {
			return key, 0, nil
		}
		if s.at[number-1].length != uint32(len(record)) {
			continue
		}
		have, err := t.get(s, uint64(number))
		if err != nil {
			return 0, 0, err
		}
		if have == record {
			return key, number, nil
		}
	}
}

func (t *Table) get(s *space, number uint64) (string, error) {
	if number == 0 || number > uint64(len(s.at)) {
		return "", fmt.Errorf("fs: node %d: %w", number, volume.ErrStale)
	}
	e := s.at[number-1]
	b := make([]byte, e.length)
	if _, err := t.file.ReadAt(b, e.offset); err != nil {
		return "", fmt.Errorf("fs: node table: %w", err)
	}
	return string(b), nil
}

func (t *Table) record(space int, number uint64) (string, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.get(&t.spaces[space], number)
}

func (t *Table) number(space int, record string) (uint64, error) {
	t.mu.RLock()
	_, n, err := t.find(&t.spaces[space], record)
	t.mu.RUnlock()
	if n != 0 || err != nil {
		return uint64(n), err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &t.spaces[space]
	key, n, err := t.find(s, record)
	if n != 0 || err != nil {
		return uint64(n), err
	}
	if t.failure != nil {
		return 0, t.failure
	}
	if len(record) > maxRecord {
		return 0, fmt.Errorf("fs: node table: record of %d bytes is too long", len(record))
	}
	b := encodeRecord(byte(space), record)
	if err := t.append(b); err != nil {
		// Numbers already given stay good; a torn record is cut off at the next start.
		t.failure = fmt.Errorf("fs: node table: %w", err)
		return 0, t.failure
	}
	s.at = append(s.at, extent{t.end + recordHeader, uint32(len(record))})
	t.end += int64(len(b))
	s.index[key] = uint32(len(s.at))
	return uint64(len(s.at)), nil
}

// append writes b behind the last record. Where the disk cannot take it, full or
// gone, the table goes on in memory, in a file that lives as the first one did.
// mu is held.
func (t *Table) append(b []byte) error {
	_, err := t.file.WriteAt(b, t.end)
	if err == nil || t.inMemory {
		return err
	}
	f, memErr := t.spare, error(nil)
	if f == nil {
		f, memErr = memoryFile()
	}
	if memErr == nil {
		memErr = f.Truncate(0) // a worker that was killed on its way here has left something
	}
	if memErr != nil {
		return err
	}
	// The first header comes last: until it is there, the disk's is the table.
	_, memErr = io.Copy(io.NewOffsetWriter(f, recordHeader), io.NewSectionReader(t.file, recordHeader, max(0, t.end-recordHeader)))
	if memErr == nil && t.end > 0 {
		_, memErr = f.WriteAt(b, t.end)
	}
	var first [recordHeader]byte
	if t.end == 0 {
		_, memErr = f.WriteAt(b[recordHeader:], recordHeader)
		copy(first[:], b)
	} else if memErr == nil {
		_, memErr = t.file.ReadAt(first[:], 0)
	}
	if memErr == nil {
		_, memErr = f.WriteAt(first[:], 0)
	}
	if memErr != nil {
		return fmt.Errorf("%w; and in memory: %w", err, memErr)
	}
	t.file, t.inMemory = f, true
	return nil
}

// memoryFile is a file without a name in memory.
func memoryFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("nodes", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fs: node table: %w", err)
	}
	return os.NewFile(uintptr(fd), "nodes"), nil
}

func encodeRecord(space byte, record string) []byte {
	b := make([]byte, recordHeader+len(record))
	b[0] = space
	binary.LittleEndian.PutUint32(b[1:], uint32(len(record)))
	copy(b[recordHeader:], record)
	binary.LittleEndian.PutUint32(b[5:], crc32.Checksum(b[recordHeader:], castagnoli))
	binary.LittleEndian.PutUint32(b[9:], crc32.Checksum(b[:9], castagnoli))
	return b
}

// Intern implements volume.Table.
func (t *Table) Intern(record string) (uint64, error) { return t.number(spaceNodes, record) }

// Record implements volume.Table.
func (t *Table) Record(entry uint64) (string, error) { return t.record(spaceNodes, entry) }

// Each implements volume.Table. It reads the file in large pieces: there may be a
// million records.
func (t *Table) Each(prefix string, fn func(entry uint64, record string) bool) error {
	const ahead = 256 << 10
	var piece []byte
	begin := int64(0) // where it lies in the file
	for number := uint64(1); ; number++ {
		t.mu.RLock()
		at := t.spaces[spaceNodes].at
		if number > uint64(len(at)) {
			t.mu.RUnlock()
			return nil
		}
		e, file, written := at[number-1], t.file, t.end
		t.mu.RUnlock()
		end := e.offset + int64(e.length)
		if end > begin+int64(len(piece)) {
			size := int(max(int64(e.length), min(ahead, written-e.offset))) // no record that is just being written
			piece, begin = slices.Grow(piece[:0], size)[:size], e.offset
			if _, err := file.ReadAt(piece, begin); err != nil {
				return fmt.Errorf("fs: node table: %w", err)
			}
		}
		record := piece[e.offset-begin : end-begin]
		if len(record) >= len(prefix) && string(record[:len(prefix)]) == prefix && !fn(number, string(record)) {
			return nil
		}
	}
}

// Close closes the file.
func (t *Table) Close() error {
	if t.spare != nil && t.spare != t.file {
		t.spare.Close()
	}
	return t.file.Close()
}
