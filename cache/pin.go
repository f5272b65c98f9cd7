package cache

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

const maxOwner = 255

// Pinned is one owner's pin of one key.
type Pinned struct {
	Key, Owner string
	Present    bool // the object is in the cache
}

// Pin keeps key from being evicted until owner unpins it. The object need not
// be there yet. Several owners may pin a key; pinning twice is as once. The pin
// is on disk when Pin returns nil, and outlives restarts but not the loss of
// the index. An error of the disk leaves it valid for this session, but Writable's.
// For many keys at once use PinAll. ErrKey, ErrSize: bad key or owner (1 to 255
// bytes without NUL).
func (d *Disk) Pin(key, owner string) error { return d.PinAll([]string{key}, owner) }

// PinAll pins many keys with one write. A bad key or owner pins none.
func (d *Disk) PinAll(keys []string, owner string) error { return d.setPins(keys, owner, true) }

// Unpin ends owner's pin of key; one that is not there is no error.
func (d *Disk) Unpin(key, owner string) error { return d.setPins([]string{key}, owner, false) }

func (d *Disk) setPins(keys []string, owner string, on bool) error {
	if owner == "" || len(owner) > maxOwner || strings.Contains(owner, "\x00") {
		return fmt.Errorf("cache: pin of owner %q: want 1 to %d bytes: %w", owner, maxOwner, ErrSize)
	}
	for _, key := range keys {
		if err := CheckKey(key); err != nil {
			return err
		}
	}
	if err := d.Writable(); err != nil {
		return err
	}
	if d.opts.Joint {
		return fmt.Errorf("cache: pin: running jobs use the directory: try when they have ended: %w", ErrLocked)
	}
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return fmt.Errorf("cache: pin: %w", ErrClosed)
	}
	for _, key := range keys {
		d.setPin(pinID{key, owner}, on)
	}
	d.mu.Unlock()
	err := d.Flush()
	if err == nil && d.index.db.Load() == nil {
		err = errors.New("cache: pin: there is no index to keep it in, as the log says: it holds until the next start")
	}
	return err
}

// setPin puts or ends one pin. mu is held.
func (d *Disk) setPin(id pinID, on bool) {
	if d.pins[id] == on {
		return
	}
	d.pending.pins[id] = on
	if on {
		d.pins[id] = true
		d.countPin(id.key, 1)
		return
	}
	delete(d.pins, id)
	d.countPin(id.key, -1)
}

// countPin counts a pin of key that came or, by -1, went. mu is held.
func (d *Disk) countPin(key string, by int) {
	was := d.pinned[key]
	switch now := was + by; {
	case now == 0:
		delete(d.pinned, key)
		d.pinnedSize -= d.objs[key].size
	default:
		d.pinned[key] = now
		if was == 0 {
			d.pinnedSize += d.objs[key].size
		}
	}
}

// Pins lists all pins, by key and owner.
func (d *Disk) Pins() []Pinned {
	d.mu.Lock()
	list := make([]Pinned, 0, len(d.pins))
	for id := range d.pins {
		_, there := d.objs[id.key]
		list = append(list, Pinned{id.key, id.owner, there})
	}
	d.mu.Unlock()
	slices.SortFunc(list, func(a, b Pinned) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Owner, b.Owner))
	})
	return list
}
