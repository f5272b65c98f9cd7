package cache

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
)

// metaPath is the file of one derived value in joint use.
func metaPath(dir, key string) string {
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(dir, metaDir, hex.EncodeToString(sum[:16]))
}

// encodeMeta is the file's content: the length of the key (4 bytes), the key, 1
// and the value or 0 for one that was deleted, and their check.
func encodeMeta(key string, value []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(key)))
	b = append(b, key...)
	if value == nil {
		return seal([]byte(key), append(b, 0))
	}
	return seal([]byte(key), append(append(b, 1), value...))
}

// decodeMeta undoes encodeMeta; ok is false for anything else. A value that was
// deleted is nil.
func decodeMeta(b []byte) (key string, value []byte, ok bool) {
	if len(b) < 4 {
		return "", nil, false
	}
	n := uint64(binary.LittleEndian.Uint32(b))
	if n > maxMetaKey || uint64(len(b)) < 4+n+1+4 {
		return "", nil, false
	}
	k := b[4 : 4+n]
	body, ok := unseal(k, b)
	if !ok {
		return "", nil, false
	}
	switch rest := body[4+n:]; {
	case rest[0] == 1:
		return string(k), bytes.Clone(rest[1:]), true
	case rest[0] == 0 && len(rest) == 1:
		return string(k), nil, true
	}
	return "", nil, false
}

// jointMeta reads one value of joint use; known is false when there is no file.
func (d *Disk) jointMeta(key string) (value []byte, known bool) {
	b, err := os.ReadFile(metaPath(d.dir, key))
	if err != nil {
		return nil, false
	}
	k, v, ok := decodeMeta(b)
	return v, ok && k == key
}

// jointMetas reads all of them; each key once.
func (d *Disk) jointMetas() map[string][]byte {
	all := map[string][]byte{}
	names, _ := filepath.Glob(filepath.Join(globQuote(d.dir), metaDir, "*"))
	for _, path := range names {
		if b, err := os.ReadFile(path); err == nil {
			if k, v, ok := decodeMeta(b); ok {
				all[k] = v
			}
		}
	}
	return all
}

// flushJointly writes the values that wait. flushMu is held.
func (d *Disk) flushJointly() error {
	d.mu.Lock()
	ch := d.pending
	d.pending = newChange()
	d.flushing, d.metaSize = ch.meta, 0
	d.mu.Unlock()
	ch.objs, ch.pins = map[string]*rec{}, map[pinID]bool{}
	var failed error
	for key, value := range ch.meta {
		if err := d.writeMeta(key, value); err != nil {
			failed = err
			continue
		}
		d.mu.Lock()
		delete(ch.meta, key)
		d.mu.Unlock()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flushing = nil
	d.putBack(ch)
	return failed
}

// writeMeta writes one value. Of one that was deleted a file remains only where the
// index, which nobody writes in joint use, has it.
func (d *Disk) writeMeta(key string, value []byte) error {
	if value == nil {
		if _, indexed := d.indexedMeta(key); !indexed {
			if err := os.Remove(metaPath(d.dir, key)); !isGone(err) {
				return err
			}
			return nil
		}
	}
	f, err := d.createTmp()
	if err != nil {
		return err
	}
	_, err = f.Write(encodeMeta(key, value))
	if err == nil {
		err = os.Rename(f.Name(), metaPath(d.dir, key))
	}
	if err != nil {
		discard(f)
		return err
	}
	return f.Close()
}

// takeOverMeta has the next flush put into the index what joint use left
// beside it, and then take that away. Called before any other goroutine runs.
func (d *Disk) takeOverMeta() {
	for key, value := range d.jointMetas() {
		d.pending.meta[key] = value
		d.metaSize += int64(len(key) + len(value))
	}
	d.foreign = true
	os.Remove(filepath.Join(d.dir, useFile)) // Close leaves it again
}

// dropForeign takes away what takeOverMeta took over, once it is in the index.
func (d *Disk) dropForeign() {
	if d.foreign {
		os.RemoveAll(filepath.Join(d.dir, metaDir))
		d.foreign = false
	}
}
