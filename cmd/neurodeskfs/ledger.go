package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"sync"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs"
)

// ledger is what a worker must know of the ones before it, besides the numbers
// of nodes: which revisions are shown. It is a file in memory that the supervisor
// hands to each worker. It has two places, written in turn, so that a worker that
// is killed while it writes leaves the former entry:
//
//	number (8 bytes), length (8), CRC-32C of the text (8), the text (JSON)
type ledger struct {
	file *os.File

	mu     sync.Mutex // guards what follows
	number uint64
	entry  ledgerEntry
}

// ledgerEntry is the whole state.
type ledgerEntry struct {
	Started time.Time      `json:"started"` // the mount
	Changed time.Time      `json:"changed"` // when listings changed last
	Sources []ledgerSource `json:"sources"` // as the configuration has them
}

type ledgerSource struct {
	Error string             `json:"error,omitempty"` // why it is not shown
	Head  *cvmfs.Head        `json:"head,omitempty"`  // what is shown, or is about to be
	Shown []cvmfs.CatalogRef `json:"shown,omitempty"` // root catalogs, oldest first
	// Moving is set while the kernel may not know all that changed.
	Moving bool `json:"moving,omitempty"`
	Back   bool `json:"back,omitempty"` // it can be opened now, and could not be
}

const (
	ledgerHeader = 24
	ledgerPlace  = 4 << 20 // bytes, header included
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func newLedgerFile() (*os.File, error) { return memoryFile("neurodeskfs-ledger") }

// openLedger reads the newest entry; an empty file has none.
func openLedger(f *os.File) (*ledger, error) {
	l := &ledger{file: f}
	return l, l.load()
}

// load reads what another worker has written since, which must have ended.
func (l *ledger) load() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.file
	for place := range int64(2) {
		var h [ledgerHeader]byte
		if _, err := f.ReadAt(h[:], place*ledgerPlace); err != nil {
			continue
		}
		number, length := binary.LittleEndian.Uint64(h[:]), binary.LittleEndian.Uint64(h[8:])
		if number <= l.number || length == 0 || length > ledgerPlace-ledgerHeader {
			continue
		}
		text := make([]byte, length)
		if _, err := f.ReadAt(text, place*ledgerPlace+ledgerHeader); err != nil || uint64(crc32.Checksum(text, castagnoli)) != binary.LittleEndian.Uint64(h[16:]) {
			continue
		}
		var e ledgerEntry
		if err := json.Unmarshal(text, &e); err != nil {
			return fmt.Errorf("ledger: %w", err)
		}
		l.number, l.entry = number, e
	}
	return nil
}

// read returns the entry.
func (l *ledger) read() ledgerEntry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entry
}

// write changes the entry. It is there for the next worker when write returns.
func (l *ledger) write(change func(*ledgerEntry)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.entry)
	text, err := json.Marshal(l.entry)
	if err == nil && len(text) > ledgerPlace-ledgerHeader {
		err = errors.New("too long")
	}
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	number := l.number + 1
	place := int64(number%2) * ledgerPlace
	var h [ledgerHeader]byte
	binary.LittleEndian.PutUint64(h[:], number)
	binary.LittleEndian.PutUint64(h[8:], uint64(len(text)))
	binary.LittleEndian.PutUint64(h[16:], uint64(crc32.Checksum(text, castagnoli)))
	// The header, in which the number is, comes last.
	if _, err = l.file.WriteAt(text, place+ledgerHeader); err == nil {
		_, err = l.file.WriteAt(h[:], place)
	}
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	l.number = number // else the next entry would be written over the only good one
	return nil
}
