package image

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	iofs "io/fs"
	"path"
	"slices"
	"strings"
)

const (
	maxCache     = 8 << 20 // bytes of ld.so.cache
	maxConf      = 64 << 10
	maxConfFiles = 256
)

// readCache reads /etc/ld.so.cache. One that is not there, or cannot be
// understood, holds nothing, as for ld.so.
func readCache(ctx context.Context, f Files) (map[string][]string, error) {
	b, err := f.optional(ctx, "/etc/ld.so.cache", maxCache)
	return parseCache(b), err
}

// optional reads the beginning of a file, nothing where there is none.
func (f Files) optional(ctx context.Context, name string, n int64) ([]byte, error) {
	at, err := f.Resolve(ctx, name)
	if errors.Is(err, iofs.ErrNotExist) || err == nil && !at.IsRegular() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return f.ReadFile(ctx, at.Path, n)
}

// parseCache reads the format that glibc has written since 2.2 (sysdeps/generic/
// dl-cache.h), which may stand behind an older one: a header of 48 bytes, an entry
// of 24 bytes for each library, and the strings that they refer to.
func parseCache(b []byte) map[string][]string {
	const header, entry, nameAt, pathAt = 48, 24, 4, 8
	at := bytes.Index(b, []byte("glibc-ld.so.cache1.1"))
	if at < 0 || len(b)-at < header {
		return nil
	}
	b = b[at:]
	var order binary.ByteOrder = binary.LittleEndian
	if b[28]&3 == 3 {
		order = binary.BigEndian
	}
	text := func(at uint32) string {
		if int64(at) >= int64(len(b)) {
			return ""
		}
		s, _, _ := bytes.Cut(b[at:], []byte{0})
		return string(s[:min(len(s), maxString)])
	}
	m := map[string][]string{}
	count := min(int(order.Uint32(b[20:])), (len(b)-header)/entry)
	room := maxCache // of texts: entries may all refer to the same one
	for i := 0; i < count && room > 0; i++ {
		e := b[header+i*entry:]
		name, file := text(order.Uint32(e[nameAt:])), text(order.Uint32(e[pathAt:]))
		room -= len(name) + len(file)
		if name != "" && path.IsAbs(file) {
			m[name] = append(m[name], file)
		}
	}
	return m
}

// readConf lists the directories of /etc/ld.so.conf and of what it includes.
func readConf(ctx context.Context, f Files) (dirs []string, err error) {
	todo := []string{"/etc/ld.so.conf"}
	for n := 0; n < len(todo) && n < maxConfFiles; n++ {
		b, err := f.optional(ctx, todo[n], maxConf)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(string(b)) {
			line, _, _ = strings.Cut(line, "#")
			words := strings.Fields(line)
			switch {
			case len(words) == 0:
			case words[0] == "include":
				for _, pattern := range words[1:] {
					more, err := f.glob(ctx, path.Dir(todo[n]), pattern)
					if err != nil {
						return nil, err
					}
					todo = append(todo, more...)
				}
			default:
				for _, dir := range strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\r\n,:", r) }) {
					if path.IsAbs(dir) && !slices.Contains(dirs, dir) {
						dirs = append(dirs, dir)
					}
				}
			}
		}
	}
	return dirs, nil
}

// glob finds the files that a pattern means, whose last part alone may have
// wild cards.
func (f Files) glob(ctx context.Context, base, pattern string) (list []string, err error) {
	if !path.IsAbs(pattern) {
		pattern = base + "/" + pattern
	}
	dir, err := f.Resolve(ctx, path.Dir(pattern))
	if errors.Is(err, iofs.ErrNotExist) || err == nil && !dir.IsDir() {
		return nil, nil
	}
	var names []string
	if err == nil {
		names, err = f.ReadDir(ctx, dir.Path, maxConfFiles)
	}
	slices.Sort(names)
	for _, name := range names {
		if ok, _ := path.Match(path.Base(pattern), name); ok && name[0] != '.' {
			list = append(list, path.Join(dir.Path, name))
		}
	}
	return list, err
}
