package cache

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// scanners is how many folders are looked at side by side.
const scanners = 4

// scan brings the records in line with the folders: files that are not known
// are checked and adopted or removed, records without a file go. It costs one
// listing for each folder; thorough, after a power loss or without an index,
// also the check of each file's trailer. The cache serves meanwhile.
func (d *Disk) scan(thorough bool) {
	defer close(d.scanned)
	start := time.Now()
	d.look(thorough)
	d.scanDone()
	if s := d.Stats(); thorough && s.Objects > 0 {
		d.log.Info("all cache objects were looked at", "dir", d.dir, "objects", s.Objects, "size", s.UsedBytes, "dur", time.Since(start))
	}
}

// look is scan's look at the folders.
func (d *Disk) look(thorough bool) {
	known := map[string][]string{}
	for key := range d.records() {
		known[key[:2]] = append(known[key[:2]], key)
	}
	top, err := os.ReadDir(filepath.Join(d.dir, objectsDir))
	if err != nil && !isGone(err) {
		d.log.Warn("cache objects cannot be listed", "dir", d.dir, "err", err)
		return
	}
	for _, e := range top {
		if e.IsDir() && len(e.Name()) == 2 {
			if _, ok := known[e.Name()]; !ok {
				known[e.Name()] = nil // visited all the same
			}
		} else if !e.IsDir() {
			os.Remove(filepath.Join(d.dir, objectsDir, e.Name()))
		}
	}
	work := make(chan string)
	var wg sync.WaitGroup
	for range scanners {
		wg.Go(func() {
			for folder := range work {
				d.scanFolder(folder, known[folder], thorough)
			}
		})
	}
feed:
	for folder := range known {
		select {
		case work <- folder:
		case <-d.quit:
			break feed
		}
	}
	close(work)
	wg.Wait()
}

func (d *Disk) scanDone() {
	d.mu.Lock()
	d.scanning = false
	over := d.overHigh()
	d.room.Broadcast()
	d.mu.Unlock()
	if over {
		d.kickEvict()
	}
}

// scanFolder looks at objects/FOLDER. keys are those known before it was listed.
func (d *Disk) scanFolder(folder string, keys []string, thorough bool) {
	dir := filepath.Join(d.dir, objectsDir, folder)
	names, err := readNames(dir)
	if err != nil && !isGone(err) {
		d.log.Warn("cache folder cannot be listed", "dir", dir, "err", err)
		return
	}
	there := make(map[string]bool, len(names))
	for _, name := range names {
		if d.interrupted(context.Background()) != nil {
			return
		}
		key := folder + name
		there[key] = true
		if CheckKey(key) != nil {
			os.Remove(filepath.Join(dir, name)) // a directory with something in it stays
			continue
		}
		d.mu.Lock()
		r, ok := d.objs[key]
		d.mu.Unlock()
		if !ok || thorough && !r.sound {
			d.adopt(key)
		}
	}
	for _, key := range keys {
		if !there[key] {
			d.forgetMissing(key)
		}
	}
}

func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// adopt checks key's file by its trailer and puts it on record, or removes it.
func (d *Disk) adopt(key string) {
	st := d.stripe(key)
	st.Lock()
	defer st.Unlock()
	path := objectPath(d.dir, key)
	t, err := openTrailer(key, path)
	if err != nil {
		d.refused(key, path, err)
		return
	}
	t.f.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.objs[key]
	if ok && r.size == t.length+trailerSize {
		return
	}
	if !ok {
		r.used = min(lastUse(t.fi), d.tick())
	}
	r.size = t.length + trailerSize
	d.setRec(key, r)
}

// forgetMissing drops the record of a file that is not there.
func (d *Disk) forgetMissing(key string) {
	st := d.stripe(key)
	st.Lock()
	defer st.Unlock()
	if _, err := os.Lstat(objectPath(d.dir, key)); isGone(err) {
		d.mu.Lock()
		d.dropRec(key)
		d.mu.Unlock()
	}
}

// Settle waits until the look at the folders after start is over: from then on
// Stats.UsedBytes is exact. It fails with ctx's error only.
func (d *Disk) Settle(ctx context.Context) error {
	select {
	case <-d.scanned:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
