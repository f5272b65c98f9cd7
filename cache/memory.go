package cache

import (
	"container/list"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

// maxMemoryObject is what one object in memory may take at most, in bytes,
// unless the bound is larger: beyond it a machine is better served by an error.
const maxMemoryObject = 1 << 30

// maxPrealloc bounds what is allocated for an announced size that may be wrong.
const maxPrealloc = 32 << 20

// Memory is a Store in memory. It keeps up to its bound in bytes, least
// recently used out first; objects in use are never dropped, and one that is
// larger than the bound lives as long as it is in use. Safe for concurrent use.
type Memory struct {
	limit                   int64
	hits, misses, evictions atomic.Int64

	mu   sync.Mutex // guards what follows, and shared.refs of its objects
	objs map[string]*list.Element
	lru  *list.List // of *shared, most recently used in front
	used int64      // objects of at most limit bytes
	open int
}

// NewMemory returns an empty store bounded to limit bytes.
func NewMemory(limit int64) *Memory {
	return &Memory{limit: max(limit, 0), objs: map[string]*list.Element{}, lru: list.New()}
}

// Open implements Store.
func (m *Memory) Open(key string) (*Object, error) {
	o, err := m.Recheck(key)
	if errors.Is(err, ErrNotCached) {
		m.misses.Add(1)
	}
	return o, err
}

// Recheck implements Store.
func (m *Memory) Recheck(key string) (*Object, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	if o := m.lookup(key); o != nil {
		m.hits.Add(1)
		return o, nil
	}
	return nil, fmt.Errorf("cache: %s: %w", key, ErrNotCached)
}

// lookup is Open without counting; nil when there is no such object.
func (m *Memory) lookup(key string) *Object {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.objs[key]
	if !ok {
		return nil
	}
	return m.take(e)
}

// take makes one more handle. mu is held.
func (m *Memory) take(e *list.Element) *Object {
	s := e.Value.(*shared)
	if s.refs == 0 {
		m.open++
	}
	s.refs++
	m.lru.MoveToFront(e)
	return &Object{s: s}
}

// Create implements Store.
func (m *Memory) Create(key string, size int64) (*Writer, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	return newWriter(key, size, nil, m), nil
}

// objectLimit is the size in bytes above which Memory takes no object.
func (m *Memory) objectLimit() int64 { return max(m.limit, maxMemoryObject) }

// commit stores data under key, or keeps what is there, and returns a handle.
func (m *Memory) commit(key string, data []byte) *Object {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.objs[key]; ok {
		return m.take(e)
	}
	s := &shared{key: key, data: data, size: int64(len(data)), from: m, bytes: true}
	if s.data == nil {
		s.data = []byte{}
	}
	e := m.lru.PushFront(s)
	m.objs[key] = e
	if s.size <= m.limit {
		m.used += s.size
	}
	o := m.take(e)
	m.trim()
	return o
}

// trim drops what is not in use until the rest is within the bound. mu is held.
func (m *Memory) trim() {
	for e := m.lru.Back(); e != nil && m.used > m.limit; {
		next := e.Prev()
		if e.Value.(*shared).refs == 0 {
			m.drop(e)
			m.evictions.Add(1)
		}
		e = next
	}
}

// drop forgets an object; handles of it read on. mu is held.
func (m *Memory) drop(e *list.Element) {
	s := m.lru.Remove(e).(*shared)
	delete(m.objs, s.key)
	if s.size <= m.limit {
		m.used -= s.size
	}
}

// remove forgets key and reports whether it was there.
func (m *Memory) remove(key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.objs[key]
	if ok {
		m.drop(e)
	}
	return ok
}

func (m *Memory) release(s *shared) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.refs--; s.refs > 0 {
		return
	}
	m.open--
	e, ok := m.objs[s.key]
	if !ok || e.Value.(*shared) != s {
		return
	}
	if s.size > m.limit {
		m.drop(e)
	}
	m.trim()
}

// Stats is a snapshot and never blocks on the disk.
func (m *Memory) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Stats{
		QuotaBytes: m.limit, UsedBytes: m.used, MemoryBytes: m.used, Objects: m.lru.Len(), Open: m.open,
		Hits: m.hits.Load(), Misses: m.misses.Load(), Evictions: m.evictions.Load(),
	}
}
