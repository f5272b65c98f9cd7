package cache

import "testing"

// TestBeginDelaysTheObjects: who takes over answers before it has loaded what the
// index says of a million objects, and loses nothing of it.
func TestBeginDelaysTheObjects(t *testing.T) {
	dir := t.TempDir()
	const objects, size = 300, 1000
	d := openDisk(t, dir, Options{})
	fill(t, d, 0, objects, size)
	if err := d.Pin(keyFor(7), "test"); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	begin := make(chan struct{})
	d, err := Open(dir, Options{Begin: begin})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if s := d.Stats(); s.Objects != 0 || s.Pinned != 1 || !s.Scanning {
		t.Errorf("before it begins: %+v", s)
	}
	o, err := d.Open(keyFor(3)) // which is found all the same
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.Remove(keyFor(4)); err != nil {
		t.Error(err)
	}
	d.mu.Lock()
	used := d.objs[keyFor(3)].used
	d.mu.Unlock()
	close(begin)
	if err := d.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := d.Stats(); s.Objects != objects-1 || s.UsedBytes != (objects-1)*(size+trailerSize) {
		t.Errorf("then: %+v", s)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.objs[keyFor(3)].used != used || d.objs[keyFor(5)].used == 0 || d.objs[keyFor(5)].used >= used {
		t.Errorf("last uses: %d of what was opened meanwhile, before %d; %d of another", d.objs[keyFor(3)].used, used, d.objs[keyFor(5)].used)
	}
}
