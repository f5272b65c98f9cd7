package fs

import "errors"

// EachNode calls fn with the id of each node that entries lists, of all volumes
// that were ever given a number. What goes wrong with one volume leaves the others.
func (f *FS) EachNode(entries func(volume string) ([]uint64, error), fn func(id uint64) error) error {
	var errs []error
	for number, key := range f.opts.Table.volumes() {
		list, err := entries(key)
		errs = append(errs, err)
		for _, entry := range list {
			if entry <= entryMask {
				errs = append(errs, fn(uint64(number+1)<<entryBits|entry))
			}
		}
	}
	return errors.Join(errs...)
}

// volumes lists the keys in the order of their numbers, which begin at 1.
func (t *Table) volumes() []string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	s := &t.spaces[spaceVolumes]
	keys := make([]string, len(s.at))
	for i := range keys {
		keys[i], _ = t.get(s, uint64(i+1)) // one that cannot be read is nobody's key
	}
	return keys
}
