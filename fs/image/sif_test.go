package image

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sylabs/sif/v2/pkg/sif"

	"github.com/neurodesk/neurodeskfs/integration/golden"
)

// memory is a source in memory.
type memory []byte

func (m memory) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	if off < 0 || off >= int64(len(m)) {
		return 0, nil
	}
	return copy(p, m[off:]), nil
}

// makeSIF is a SIF with one primary system partition.
func makeSIF(t testing.TB, kind sif.FSType, content string) memory {
	t.Helper()
	return makeSIFOf(t, sif.DataPartition, content, sif.OptPartitionMetadata(kind, sif.PartPrimSys, "amd64"))
}

// withByte is a copy of file with another byte.
func withByte(file memory, at int, b byte) memory {
	file = bytes.Clone(file)
	file[at] = b
	return file
}

// makeSIFOf is a SIF with one object.
func makeSIFOf(t testing.TB, kind sif.DataType, content string, options ...sif.DescriptorInputOpt) memory {
	t.Helper()
	input, err := sif.NewDescriptorInput(kind, strings.NewReader(content), options...)
	if err != nil {
		t.Fatal(err)
	}
	var b sif.Buffer
	f, err := sif.CreateContainer(&b, sif.OptCreateWithDescriptors(input))
	if err == nil {
		err = f.UnloadContainer()
	}
	if err != nil {
		t.Fatal(err)
	}
	return memory(b.Bytes())
}

func TestLocate(t *testing.T) {
	const squash = "hsqs and so on"
	s := makeSIF(t, sif.FsSquash, squash)
	for name, c := range map[string]struct {
		file memory
		want string // from the place that is found
	}{
		"SIF":                  {s, squash},
		"bare squashfs":        {memory(squash), squash},
		"behind a script line": {memory("#!/usr/bin/env run-singularity\n" + squash), squash},
	} {
		e, err := locate(t.Context(), c.file, int64(len(c.file)))
		if err != nil || string(c.file[e.offset:e.offset+e.size]) != c.want {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
	for name, file := range map[string]memory{
		"nothing": nil, "text": memory("#!/bin/sh\necho no image\n"), "long line": memory("#!" + strings.Repeat("x", 1000) + "\nhsqs"), "no line": memory("#!hsqs"),
		"encrypted": makeSIF(t, sif.FsEncryptedSquashfs, squash), "ext3": makeSIF(t, sif.FsExt3, squash), "cut off": s[:100], "cut off descriptors": s[:200], "no data": s[:len(s)-len(squash)],
	} {
		if e, err := locate(t.Context(), file, int64(len(file))); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
}

// TestRefusalsSayWhatToDo: whoever brings such a file can mend it, or knows what
// can open it.
func TestRefusalsSayWhatToDo(t *testing.T) {
	for name, c := range map[string]struct {
		file   memory
		advice string
	}{
		"encrypted":                {makeSIF(t, sif.FsEncryptedSquashfs, "x"), "apptainer exec --pem-path"},
		"encrypted without a root": {makeSIF(t, 6, "x"), "apptainer exec --pem-path"},
		"ext3 in a SIF":            {makeSIF(t, sif.FsExt3, "x"), "apptainer build NEW.sif OLD.sif"},
		"ext3 of Singularity 2":    {memory("#!/usr/bin/env run-singularity\n" + strings.Repeat("\x00", 2048)), "apptainer build NEW.sif OLD"},
		"cut off at once":          {nil, "Fetch it again"},
		"a SIF of the future":      {withByte(makeSIF(t, sif.FsSquash, "x"), 43, '2'), "build it anew"},
		"OCI-SIF":                  {makeSIFOf(t, sif.DataOCIRootIndex, "{}"), "again without --oci"},
	} {
		if _, err := locate(t.Context(), c.file, int64(len(c.file))); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.advice) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLocateHostileHeader: the library makes what a header says.
func TestLocateHostileHeader(t *testing.T) {
	s := makeSIF(t, sif.FsSquash, "hsqs")
	for at := 80; at < 128; at += 8 {
		for _, n := range []int64{-1, -1 << 63, 1 << 40, 1<<63 - 1, 1 << 31, 4097, 0} {
			file := bytes.Clone(s)
			binary.LittleEndian.PutUint64(file[at:], uint64(n))
			e, err := locate(t.Context(), memory(file), int64(len(file)))
			if err == nil && (e.offset < 0 || e.size < 0 || e.offset+e.size > int64(len(file))) {
				t.Errorf("%d at %d: %+v", n, at, e)
			}
		}
	}
}

// FuzzLocate changes heads of real SIFs; the file goes on for more bytes of zero.
func FuzzLocate(f *testing.F) {
	f.Add([]byte("#!/usr/bin/env run-singularity\nhsqs"), uint32(100))
	f.Add(append(append(make([]byte, 32), "SIF_MAGIC\x0001\x00"...), make([]byte, 4096)...), uint32(0))
	for _, kind := range []sif.FSType{sif.FsSquash, sif.FsExt3, sif.FsEncryptedSquashfs} {
		f.Add([]byte(makeSIF(f, kind, "hsqs and so on")), uint32(0))
	}
	for _, head := range goldenHeads(f) {
		f.Add(head, uint32(100<<20))
	}
	f.Fuzz(func(t *testing.T, b []byte, more uint32) {
		size := int64(len(b)) + int64(more)
		e, err := locate(t.Context(), memory(b), size)
		if err == nil && (e.offset < 0 || e.size < 0 || e.offset > size || e.size > size-e.offset) {
			t.Errorf("%+v of %d bytes", e, size)
		}
	})
}

// goldenHeads are the heads of the SIFs of the golden flat repository, as
// apptainer wrote them; none where the golden data are missing.
func goldenHeads(f *testing.F) (heads [][]byte) {
	dir, _ := golden.Dir()
	files, _ := filepath.Glob(filepath.Join(dir, "neurodesk/galaxy.golden.test/data/*/*"))
	for _, name := range files {
		if head := inflatedHead(name); len(head) > 42 && string(head[32:42]) == "SIF_MAGIC\x00" {
			heads = append(heads, head)
		}
	}
	if len(heads) == 0 && os.Getenv("CI") == "true" {
		f.Fatal("no SIF in the golden flat repository in " + dir)
	}
	return heads[:min(len(heads), 8)]
}

// inflatedHead is the beginning of an object: header and descriptors of a SIF.
func inflatedHead(name string) []byte {
	file, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer file.Close()
	r, err := zlib.NewReader(file)
	if err != nil {
		return nil
	}
	head := make([]byte, 32<<10)
	n, _ := io.ReadFull(r, head)
	return head[:n]
}
