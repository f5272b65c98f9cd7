package launch

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
)

// mountOp is one step in which bwrap makes the root: an option and its operands.
type mountOp struct {
	flag string
	args []string
	fed  bool // the first operand is a descriptor
}

// composer lays an image out so that every bind has a place to be mounted on.
//
// The image is read-only and often lacks a place (HOME=/root/x, a cwd below /srv). A directory that lacks one is
// "opened": bwrap mounts an empty one in its place and shows each entry of the image's in it. All else of the image is
// mounted in one piece.
type composer struct {
	image  imageTree
	opened map[string]bool
	placed []Bind // Dst is the place in the image, links resolved
	room   int    // how many entries of opened directories can be shown
}

// place finds where a destination lies once the image's links are followed. What is missing is opened for.
func (c *composer) place(dst string) (string, error) {
	if host, ok := c.below(dst); ok { // within a bind: nothing can be made there without writing to the host
		if _, err := c.image.host.Stat(host); err != nil {
			return "", fmt.Errorf("%s has no place to be mounted on: make %s first", dst, host)
		}
		return dst, nil
	}
	at, rest := "/", strings.Split(strings.Trim(path.Clean(dst), "/"), "/")
	for i, part := range rest {
		next, fi, err := c.image.resolve(path.Join(at, part))
		switch {
		case err == nil && (fi.IsDir() || i == len(rest)-1):
			at = next
			continue
		case err == nil:
			return "", fmt.Errorf("%s cannot be mounted: the image has a file %s", dst, next)
		case !errors.Is(err, fs.ErrNotExist):
			return "", fmt.Errorf("%s cannot be mounted: %w", dst, err)
		}
		if _, err := c.image.lstat(path.Join(at, part)); err == nil {
			return "", fmt.Errorf("%s cannot be mounted: %s is a dangling link in the image", dst, path.Join(at, part))
		}
		c.opened[at] = true
		return path.Join(append([]string{at}, rest[i:]...)...), nil
	}
	return at, nil
}

// below tells which path of the host a destination within an earlier bind is.
func (c *composer) below(dst string) (string, bool) {
	for i := len(c.placed) - 1; i >= 0; i-- {
		if b := c.placed[i]; within(dst, b.Dst) && dst != b.Dst {
			return path.Join(b.Src, dst[len(b.Dst):]), true
		}
	}
	return "", false
}

// add places one bind.
func (c *composer) add(b Bind) error {
	dst, err := c.place(b.Dst)
	if err == nil {
		b.Dst = dst
		c.placed = append(c.placed, b)
	}
	return err
}

// last is the place of the bind added last.
func (c *composer) last() string { return c.placed[len(c.placed)-1].Dst }

// openedDirs are the opened directories, each behind those above it.
func (c *composer) openedDirs() []string { return slices.Sorted(maps.Keys(c.opened)) }

// close gives the steps that make the opened directories read-only, save those that a bind covers.
func (c *composer) close() (ops []mountOp) {
	for _, dir := range c.openedDirs() {
		if !slices.ContainsFunc(c.placed, func(b Bind) bool { return within(dir, b.Dst) }) {
			ops = append(ops, mountOp{flag: "--remount-ro", args: []string{dir}})
		}
	}
	return ops
}

// base gives the steps that show the image itself.
func (c *composer) base() (ops []mountOp, err error) {
	if !c.opened["/"] {
		ops = []mountOp{{flag: "--ro-bind", args: []string{c.image.root, "/"}}}
	}
	for _, dir := range c.openedDirs() {
		if dir != "/" { // that is empty from the beginning
			ops = append(ops, mountOp{flag: "--tmpfs", args: []string{dir}})
		}
		if ops, err = c.open(ops, dir); err != nil {
			return nil, err
		}
	}
	return ops, nil
}

// open shows the entries of one opened directory, save those that a bind covers.
func (c *composer) open(ops []mountOp, dir string) ([]mountOp, error) {
	entries, err := c.image.host.ReadDir(path.Join(c.image.root, dir), c.room+1)
	if err != nil {
		return nil, fmt.Errorf("read %s of the image: %w", dir, err)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		source := path.Join(c.image.root, name)
		switch {
		case len(ops) > c.room:
			return nil, fmt.Errorf("%s of the image has too many entries for a place to be made in it", dir)
		case c.opened[name] || slices.ContainsFunc(c.placed, func(b Bind) bool { return b.Dst == name }):
		case e.Type()&fs.ModeSymlink != 0:
			target, err := c.image.host.Readlink(source)
			if err != nil {
				return nil, fmt.Errorf("read the link %s of the image: %w", name, err)
			}
			ops = append(ops, mountOp{flag: "--symlink", args: []string{target, name}})
		default:
			ops = append(ops, mountOp{flag: "--ro-bind", args: []string{source, name}})
		}
	}
	return ops, nil
}
