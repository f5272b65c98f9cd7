package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// The index holds four buckets. Each value ends in a CRC-32C over key and
// value, so that a flipped bit within a page costs that one value.
//
//	state    layout, boot, suspect: see state
//	objects  key -> size, last use (8 bytes each)
//	pins     key 0x00 owner -> nothing
//	meta     bucket 0x00 key -> value
var (
	bucketState   = []byte("state")
	bucketObjects = []byte("objects")
	bucketPins    = []byte("pins")
	bucketMeta    = []byte("meta")

	indexBuckets = [][]byte{bucketState, bucketObjects, bucketPins, bucketMeta}
)

// rec is what is known of an object on disk. size is the file's, trailer
// included; used orders last uses (ns since 1970, made strictly increasing).
// sound tells that this session wrote or summed the content.
type rec struct {
	size, used int64
	sound      bool
}

// pinID is one owner's pin of one key.
type pinID struct{ key, owner string }

// state is the session that wrote the index, and which objects it doubts.
type state struct {
	boot         string // of the kernel
	beat         int64  // time of the flush, ns since 1970
	since, until int64  // objects modified in this range are read in full when opened
}

// contents is all that is kept in memory of an index.
type contents struct {
	objs   map[string]rec // nil: they are loaded later
	pins   map[pinID]bool
	state  state
	fresh  bool // there was no index, or a damaged one
	reason error
}

// index is the bbolt file. Without one (db nil: no disk, no locks there) the
// cache works from memory, and looks at all files at each start.
type index struct {
	path string
	mode os.FileMode
	db   atomic.Pointer[bolt.DB]
}

// guard runs a bbolt operation so that damage, which bbolt answers with a
// panic or with a fault in its mapping, becomes errIndexDamaged.
func guard(fn func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer func() {
		debug.SetPanicOnFault(old)
		if r := recover(); r != nil {
			err = fmt.Errorf("cache: index: %v: %w", r, errIndexDamaged)
		}
	}()
	return fn()
}

// openIndex opens or makes the index and loads it. A damaged index is removed
// and made anew (fresh). When it cannot be made at all, the index has no file
// and reason says why; and no path either where it only cannot be opened now, so
// that it stays as it is. Of an index that was there the objects are not loaded if
// later is set.
func openIndex(path string, mode os.FileMode, later bool) (*index, contents) {
	x := &index{path: path, mode: mode}
	why := freeIndex(path, mode)
	if why == nil {
		why = checkIndexFile(path)
	}
	if why == nil {
		var c contents
		if why = x.open(false); why == nil {
			if c, why = x.load(); why == nil && !later {
				c.objs, why = x.objects()
			}
			if why == nil {
				return x, c
			}
			x.close()
		}
	}
	c := contents{objs: map[string]rec{}, pins: map[pinID]bool{}, fresh: true}
	if !errors.Is(why, fs.ErrNotExist) {
		c.reason = why
	}
	if isScarcity(why) {
		x.path = ""
		return x, c
	}
	if err := x.replace(); err != nil {
		c.reason = err
	}
	return x, c
}

// isScarcity tells what this process lacks, such as the address space that a batch
// system limits, from what is wrong with a file.
func isScarcity(err error) bool {
	for _, e := range []error{syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, errIndexHeld, berrors.ErrTimeout} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// open opens the file; empty: there is none yet.
func (x *index) open(empty bool) error {
	return guard(func() error {
		db, err := bolt.Open(x.path, x.mode, &bolt.Options{
			Timeout: time.Second, PageSize: indexPage,
			FreelistType: bolt.FreelistMapType, NoFreelistSync: true,
		})
		if err != nil {
			return fmt.Errorf("cache: open index: %w", err)
		}
		if err := db.View(complete); err == nil && !empty {
			x.db.Store(db) // writing nothing waits for no disk
			return nil
		}
		err = db.Update(func(tx *bolt.Tx) error {
			for _, b := range indexBuckets {
				if _, err := tx.CreateBucketIfNotExists(b); err != nil {
					return err
				}
			}
			if empty {
				return put(tx, bucketState, "layout", []byte(layoutText))
			}
			return nil
		})
		if err != nil {
			db.Close()
			return fmt.Errorf("cache: open index: %w", err)
		}
		x.db.Store(db)
		return nil
	})
}

// errIncomplete is returned by complete for an index that lacks a bucket.
var errIncomplete = errors.New("a bucket is missing")

func complete(tx *bolt.Tx) error {
	for _, b := range indexBuckets {
		if tx.Bucket(b) == nil {
			return errIncomplete
		}
	}
	return nil
}

// openReadOnly opens the file for view, if there is a sound one.
func (x *index) openReadOnly(path string, mode os.FileMode) {
	if checkIndexFile(path) != nil {
		return
	}
	_ = guard(func() error {
		db, err := bolt.Open(path, mode, &bolt.Options{Timeout: time.Second, ReadOnly: true})
		if err == nil {
			x.db.Store(db)
		}
		return err
	})
}

// replace starts an empty index. A damaged database that is open is left
// alone, not closed: other goroutines may be reading it, and after a panic
// its locks may be held for ever.
func (x *index) replace() error {
	x.db.Store(nil)
	if err := os.Remove(x.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cache: replace index: %w", err)
	}
	return x.open(true)
}

func (x *index) close() error {
	db := x.db.Swap(nil)
	if db == nil {
		return nil
	}
	return guard(db.Close)
}

func (x *index) view(fn func(*bolt.Tx) error) error {
	db := x.db.Load()
	if db == nil {
		return nil
	}
	return guard(func() error { return db.View(fn) })
}

func (x *index) update(fn func(*bolt.Tx) error) error {
	db := x.db.Load()
	if db == nil {
		return nil
	}
	return guard(func() error { return db.Update(fn) })
}

// seal appends the check of key and value to value.
func seal(key, value []byte) []byte {
	c := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
	return binary.LittleEndian.AppendUint32(value[:len(value):len(value)], c)
}

// unseal returns the value of a sealed one, in place; false when it is damaged.
func unseal(key, sealed []byte) ([]byte, bool) {
	n := len(sealed) - 4
	if n < 0 {
		return nil, false
	}
	c := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, sealed[:n])
	return sealed[:n:n], c == binary.LittleEndian.Uint32(sealed[n:])
}

// load reads what is kept in memory, but for the objects. Single damaged values are
// left out; an index of another layout is errIndexDamaged.
func (x *index) load() (contents, error) {
	c := contents{pins: map[pinID]bool{}}
	err := x.view(func(tx *bolt.Tx) error {
		st := tx.Bucket(bucketState)
		if l, ok := unseal([]byte("layout"), st.Get([]byte("layout"))); !ok || string(l) != layoutText {
			return fmt.Errorf("cache: index of another layout: %w", errIndexDamaged)
		}
		if v, ok := unseal([]byte("session"), st.Get([]byte("session"))); ok && len(v) >= 24 {
			c.state.beat = int64(binary.LittleEndian.Uint64(v))
			c.state.since = int64(binary.LittleEndian.Uint64(v[8:]))
			c.state.until = int64(binary.LittleEndian.Uint64(v[16:]))
			c.state.boot = string(v[24:])
		}
		return tx.Bucket(bucketPins).ForEach(func(k, sealed []byte) error {
			key, owner, two := strings.Cut(string(k), "\x00")
			if _, ok := unseal(k, sealed); ok && two && CheckKey(key) == nil {
				c.pins[pinID{key, owner}] = true
			}
			return nil
		})
	})
	return c, err
}

// objects reads what is known of the objects. There may be a million.
func (x *index) objects() (map[string]rec, error) {
	objs := map[string]rec{}
	err := x.view(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketObjects).ForEach(func(k, sealed []byte) error {
			v, ok := unseal(k, sealed)
			if ok && len(v) == 16 && CheckKey(string(k)) == nil {
				r := rec{size: int64(binary.LittleEndian.Uint64(v)), used: int64(binary.LittleEndian.Uint64(v[8:]))}
				if r.size >= trailerSize {
					objs[string(k)] = r
				}
			}
			return nil
		})
	})
	return objs, err
}

// change is what one flush writes. A nil value deletes.
type change struct {
	objs  map[string]*rec
	pins  map[pinID]bool
	meta  map[string][]byte
	state state
}

// writeBatch is how many objects one transaction writes. bbolt keeps the keys
// of a transaction in unsplit pages, where inserting costs more the more there are.
const writeBatch = 4000

// write puts ch into the index. A crash within leaves a part of it, which is
// as good as nothing: the state, which vouches for the rest, comes last.
func (x *index) write(ch change) error {
	keys := slices.Sorted(maps.Keys(ch.objs))
	for batch := range slices.Chunk(keys, writeBatch) {
		err := x.update(func(tx *bolt.Tx) error {
			for _, key := range batch {
				if err := put(tx, bucketObjects, key, ch.objs[key].encode()); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return x.update(func(tx *bolt.Tx) error {
		for id, on := range ch.pins {
			var v []byte
			if on {
				v = []byte{}
			}
			if err := put(tx, bucketPins, id.key+"\x00"+id.owner, v); err != nil {
				return err
			}
		}
		for key, v := range ch.meta {
			if err := put(tx, bucketMeta, key, v); err != nil {
				return err
			}
		}
		v := binary.LittleEndian.AppendUint64(nil, uint64(ch.state.beat))
		v = binary.LittleEndian.AppendUint64(v, uint64(ch.state.since))
		v = binary.LittleEndian.AppendUint64(v, uint64(ch.state.until))
		return put(tx, bucketState, "session", append(v, ch.state.boot...))
	})
}

// encode is r's value in the index, nil for no record.
func (r *rec) encode() []byte {
	if r == nil {
		return nil
	}
	v := binary.LittleEndian.AppendUint64(make([]byte, 0, 16), uint64(r.size))
	return binary.LittleEndian.AppendUint64(v, uint64(r.used))
}

func put(tx *bolt.Tx, bucket []byte, key string, v []byte) error {
	b := tx.Bucket(bucket)
	if v == nil {
		return b.Delete([]byte(key))
	}
	return b.Put([]byte(key), seal([]byte(key), v))
}
