package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	iofs "io/fs"
)

// contentMemo is the memo's bucket of the hashes of files of the host.
const contentMemo = "host-content"

// ContentHash is the SHA-256 of an image that is a file of the host, which is read to its end the first time: no name
// that is made without doing so says that another computer has the very same bytes. It is kept as long as the file is not
// changed. Of several callers one reads. fs.ErrNotExist is returned for other images: they are named by their content.
func (s *Images) ContentHash(ctx context.Context, spec Spec) (string, error) {
	if spec.Kind != KindHostFile {
		return "", iofs.ErrNotExist
	}
	select {
	case s.hashing <- struct{}{}:
		defer func() { <-s.hashing }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if sum, ok := s.contents.Load(spec.identity()); ok {
		return sum.(string), nil
	}
	if s.memo != nil {
		if sum, ok := s.memo.Get(contentMemo, spec.identity()); ok && len(sum) == hex.EncodedLen(sha256.Size) {
			return string(sum), nil
		}
	}
	h := sha256.New()
	n, err := io.CopyBuffer(h, &wholeFile{ctx: ctx, file: &hostFile{s, spec}}, make([]byte, 1<<20))
	if err == nil && n != spec.Size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return "", err
	}
	sum := hex.EncodeToString(h.Sum(nil))
	s.contents.Store(spec.identity(), sum)
	if s.memo != nil {
		s.memo.Put(contentMemo, spec.identity(), []byte(sum))
	}
	return sum, nil
}

// wholeFile reads an image from its first byte to its last.
type wholeFile struct {
	ctx  context.Context
	file *hostFile
	at   int64
}

// Read implements io.Reader.
func (w *wholeFile) Read(p []byte) (int, error) {
	n, err := w.file.ReadAt(w.ctx, p, w.at)
	w.at += int64(n)
	if err == nil && n == 0 {
		err = io.EOF
	}
	return n, err
}
