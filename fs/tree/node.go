package tree

import (
	"context"
	"fmt"
	"strings"

	"github.com/neurodesk/neurodeskfs/fs/volume"
)

// Stat implements volume.Volume.
func (t *Tree) Stat(_ context.Context, entry uint64) (volume.Attr, error) {
	if entry >= frozenBase {
		f, err := t.frozen.thaw(entry)
		return f.attr(), err
	}
	record, err := t.record(entry)
	if err != nil {
		return volume.Attr{}, err
	}
	switch record[0] {
	case recordDir:
		return t.dirAttr(), nil
	case recordLink:
		return linkAttr(target(record)), nil
	case recordLauncher:
		return launcherAttr(record)
	case recordFile:
		if f, ok := parseGenerated(record); ok {
			return f.attr(), nil
		}
	}
	return volume.Attr{}, fmt.Errorf("entry %d of the tree: %w", entry, volume.ErrStale)
}

// target is what a link's record points to.
func target(record string) string {
	return record[strings.LastIndexByte(record, 0)+1:]
}

// Readlink implements volume.Volume.
func (t *Tree) Readlink(_ context.Context, entry uint64) (string, error) {
	record, err := t.record(entry)
	if err != nil {
		return "", err
	}
	if record[0] != recordLink {
		return "", volume.ErrNotLink
	}
	return target(record), nil
}

// ReadAt implements volume.Volume.
func (t *Tree) ReadAt(_ context.Context, entry uint64, p []byte, off int64) (int, error) {
	if entry >= frozenBase {
		f, err := t.frozen.thaw(entry)
		return copyAt(p, string(f.content), off), err
	}
	record, err := t.record(entry)
	if err != nil {
		return 0, err
	}
	switch record[0] {
	case recordDir:
		return 0, volume.ErrIsDir
	case recordLauncher:
		return t.readLauncher(record, p, off)
	case recordFile:
		if f, ok := parseGenerated(record); ok {
			return copyAt(p, f.content, off), nil
		}
	}
	return 0, fmt.Errorf("entry %d of the tree: %w", entry, volume.ErrStale)
}

func copyAt(p []byte, content string, off int64) int {
	if off < 0 || off >= int64(len(content)) {
		return 0
	}
	return copy(p, content[off:])
}

// Guarded implements volume.Guarded: the directories that lead to repositories
// and images. What the tree's own files hold is in memory.
func (t *Tree) Guarded(entry uint64) bool {
	if entry >= frozenBase {
		return false
	}
	record, err := t.record(entry)
	path, isDir := strings.CutPrefix(record, dirRecord(""))
	if err != nil || !isDir {
		return false
	}
	for _, top := range []string{"apps", "cvmfs", "modules", "modules-tcl", "share", ".neurodeskfs/images", ".neurodeskfs/apps", ".neurodeskfs/locked"} {
		if path == top || strings.HasPrefix(path, top+"/") {
			return true
		}
	}
	return false
}

// Xattr implements volume.Volume; what is generated has no attributes.
func (t *Tree) Xattr(context.Context, uint64, string) ([]byte, error) { return nil, volume.ErrNoXattr }

// Xattrs implements volume.Volume.
func (t *Tree) Xattrs(context.Context, uint64) ([]string, error) { return nil, nil }
