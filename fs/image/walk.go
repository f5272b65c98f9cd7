package image

import (
	"context"
	"fmt"
	"path"
)

// maxWalked bounds the names that Walk visits: an image may say that a directory
// holds itself.
const maxWalked = 20_000_000

// Walk calls fn for every node of the image, directories before what is in
// them, until it returns an error. A directory that turns up a second time is
// not entered again. ErrRefused is returned for an image without an end.
func (f Files) Walk(ctx context.Context, fn func(File) error) error {
	seen, todo := map[any]bool{}, []string{"/"}
	for n := 0; len(todo) > 0; {
		dir := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		var failed error
		err := f.tree.readDir(ctx, dir, func(name string, stat func() (File, error)) bool {
			var at File
			if at, failed = stat(); failed == nil {
				at.Path = path.Join(dir, name)
				failed = fn(at)
			}
			if n++; n > maxWalked {
				failed = fmt.Errorf("%w: it has more than %d names", ErrRefused, maxWalked)
			}
			if at.IsDir() && !seen[at.ID] {
				seen[at.ID] = true
				todo = append(todo, at.Path)
			}
			return failed == nil
		})
		if failed != nil {
			return failed
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// OpenHost opens the single-file image name of the host, an absolute path.
// close gives it back. ErrRefused is returned for a file that holds none.
func OpenHost(ctx context.Context, name string) (files Files, close func(), err error) {
	id, spec, err := IdentifyHost(name)
	if err != nil {
		return files, nil, err
	}
	s := New(nil, nil, func() []string { return nil }) // no bind points: the table is not asked
	root, err := s.Root(ctx, id, spec)
	if err != nil {
		s.Close()
		return files, nil, err
	}
	return VolumeFiles(root), s.Close, nil
}

// VerifyHost is VerifySIF of the host's file name, an absolute path.
func VerifyHost(ctx context.Context, name string, keys Keyring) (Signatures, error) {
	_, spec, err := IdentifyHost(name)
	if err != nil {
		return Signatures{}, err
	}
	s := New(nil, nil, nil)
	defer s.Close()
	src, size, _, err := s.hostFile(spec)
	if err != nil {
		return Signatures{}, err
	}
	return VerifySIF(ctx, src, size, keys)
}
