package image

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/sylabs/sif/v2/pkg/sif"

	"github.com/neurodesk/neurodeskfs/fs/squashfs"
)

// ErrRefused is returned for a file that holds no tree that can be shown: no
// container image at all, or one that is encrypted or made to be written to.
var ErrRefused = errors.New("image cannot be used")

const (
	headSize       = 64 << 10 // bytes that are read first: SIF header and all descriptors of usual images
	maxScript      = 256      // bytes of the `#!` line before a squashfs
	maxDescriptors = 4096     // of a SIF; usual images have room for 48
	descriptorSize = 585      // bytes of one descriptor, as the format has it
)

// gocryptfsSquashfs is apptainer's number for what it encrypts without root; the
// library, which is SingularityCE's, does not know it.
const gocryptfsSquashfs sif.FSType = 6

// extent is a part of a file, bytes.
type extent struct {
	offset, size int64
	overlaid     bool // in a SIF that has an overlay partition too
}

// locate finds the squashfs in the file src of size bytes: the primary system
// partition of a SIF, all of the file, or what follows a short `#!` line. One
// request is sent, and for unusual SIFs another.
func locate(ctx context.Context, src squashfs.Source, size int64) (extent, error) {
	head, err := readHead(ctx, src, size)
	if err != nil {
		return extent{}, err
	}
	if isSIF(head) {
		return partition(ctx, src, head, size)
	}
	if bytes.HasPrefix(head, []byte("hsqs")) {
		return extent{size: size}, nil
	}
	if bytes.HasPrefix(head, []byte("#!")) {
		line := bytes.IndexByte(head[:min(len(head), maxScript)], '\n') + 1
		if line > 0 && bytes.HasPrefix(head[line:], []byte("hsqs")) {
			return extent{offset: int64(line), size: size - int64(line)}, nil
		}
	}
	return extent{}, fmt.Errorf("%w: it is neither a SIF file nor a squashfs. Fetch it again or, if it is another kind of image, build it again: apptainer build NEW.sif OLD", ErrRefused)
}

// readHead returns the first bytes of a file of size bytes.
func readHead(ctx context.Context, src squashfs.Source, size int64) ([]byte, error) {
	head := make([]byte, min(headSize, max(size, 0)))
	n, err := src.ReadAt(ctx, head, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return head[:n], err
}

// isSIF reports whether a file that begins with head is a SIF.
func isSIF(head []byte) bool { return len(head) > 42 && string(head[32:42]) == "SIF_MAGIC\x00" }

// container reads the descriptors of a SIF of size bytes, and finds its primary
// system partition.
func container(r *sifReader, size int64) (*sif.FileImage, sif.Descriptor, error) {
	if err := boundHeader(r.head, size); err != nil {
		return nil, sif.Descriptor{}, err
	}
	f, err := sif.LoadContainer(r)
	switch {
	case r.err != nil:
		return nil, sif.Descriptor{}, r.err
	case err != nil:
		return nil, sif.Descriptor{}, fmt.Errorf("%w: %w. Fetch it again, or build it anew", ErrRefused, err)
	}
	d, err := f.GetDescriptor(sif.WithPartitionType(sif.PartPrimSys))
	if err == nil {
		return f, d, nil
	}
	if _, ociErr := f.GetDescriptor(sif.WithDataType(sif.DataOCIRootIndex)); ociErr == nil {
		return nil, d, fmt.Errorf("%w: it is an OCI-SIF, of layers instead of one tree. Pull or build it again without --oci", ErrRefused)
	}
	return nil, d, fmt.Errorf("%w: the SIF has no primary system partition: %w", ErrRefused, err)
}

// partition is where a SIF has its tree.
func partition(ctx context.Context, src squashfs.Source, head []byte, size int64) (extent, error) {
	f, d, err := container(&sifReader{ctx: ctx, src: src, head: head}, size)
	if err != nil {
		return extent{}, err
	}
	kind, _, _, err := d.PartitionMetadata()
	switch {
	case err != nil:
		return extent{}, fmt.Errorf("%w: the SIF's system partition: %w", ErrRefused, err)
	case kind == sif.FsEncryptedSquashfs, kind == gocryptfsSquashfs:
		return extent{}, fmt.Errorf("%w: it is encrypted. Only the runtime can open it: apptainer exec --pem-path KEY", ErrRefused)
	case kind != sif.FsSquash:
		return extent{}, fmt.Errorf("%w: its system partition is %v, not squashfs. Build it again: apptainer build NEW.sif OLD.sif", ErrRefused, kind)
	}
	e := extent{offset: d.Offset(), size: d.Size()}
	if e.offset < 0 || e.size < 0 || e.offset > size || e.size > size-e.offset {
		return extent{}, fmt.Errorf("%w: its system partition lies outside the file of %d bytes: fetch it again", ErrRefused, size)
	}
	f.WithDescriptors(func(o sif.Descriptor) bool { // apptainer lays those of the same group over it
		_, kind, _, err := o.PartitionMetadata()
		e.overlaid = err == nil && kind == sif.PartOverlay && (d.GroupID() == 0 || o.GroupID() == d.GroupID())
		return e.overlaid
	})
	return e, nil
}

// boundHeader checks the counts of a SIF header, which the library believes.
func boundHeader(head []byte, size int64) error {
	const total, offset, length, end = 88, 96, 104, 128
	if len(head) < end {
		return fmt.Errorf("%w: the SIF header is cut off", ErrRefused)
	}
	number := func(at int) int64 { return int64(binary.LittleEndian.Uint64(head[at:])) }
	n, at, bytes := number(total), number(offset), number(length)
	if n < 0 || n > maxDescriptors || at < end || at > size || bytes < n*descriptorSize || bytes > size-at {
		return fmt.Errorf("%w: the SIF header is damaged (%d descriptors of %d bytes at %d)", ErrRefused, n, bytes, at)
	}
	return nil
}

// sifReader is what the library reads a SIF from. It lives as long as one call.
type sifReader struct {
	ctx    context.Context
	src    squashfs.Source
	head   []byte
	zeroes []int64 // positions of bytes that are read as zero
	err    error   // the source's first
}

func (r *sifReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.read(p, off)
	for _, at := range r.zeroes {
		if at >= off && at < off+int64(n) {
			p[at-off] = 0
		}
	}
	return n, err
}

func (r *sifReader) read(p []byte, off int64) (int, error) {
	if off >= 0 && off <= int64(len(r.head)) && int64(len(p)) <= int64(len(r.head))-off {
		return copy(p, r.head[off:]), nil
	}
	n, err := r.src.ReadAt(r.ctx, p, off)
	if err != nil && !errors.Is(err, io.EOF) && r.err == nil {
		r.err = err
	}
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (r *sifReader) Write([]byte) (int, error)      { return 0, errors.ErrUnsupported }
func (r *sifReader) Seek(int64, int) (int64, error) { return 0, errors.ErrUnsupported }
func (r *sifReader) Truncate(int64) error           { return errors.ErrUnsupported }
