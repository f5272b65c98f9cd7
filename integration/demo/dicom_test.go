package main

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// element is one data element as a reader finds it.
type element struct {
	tag   uint32
	vr    string
	value []byte
}

// readElements takes a file apart, from the DICM mark on.
func readElements(t *testing.T, file []byte) []element {
	t.Helper()
	if len(file) < 132 || string(file[128:132]) != "DICM" {
		t.Fatal("no preamble")
	}
	var list []element
	for b := file[132:]; len(b) > 0; {
		e := element{uint32(binary.LittleEndian.Uint16(b))<<16 | uint32(binary.LittleEndian.Uint16(b[2:])), string(b[4:6]), nil}
		size, head := int(binary.LittleEndian.Uint16(b[6:])), 8
		if e.vr == "OB" || e.vr == "OW" {
			if size != 0 {
				t.Fatalf("%08x: the reserved bytes are %#x", e.tag, size)
			}
			size, head = int(binary.LittleEndian.Uint32(b[8:])), 12
		}
		if head+size > len(b) {
			t.Fatalf("%08x: %d bytes, but the file has %d", e.tag, size, len(b)-head)
		}
		e.value, b = b[head:head+size], b[head+size:]
		list = append(list, e)
	}
	return list
}

func TestDICOM(t *testing.T) {
	instances := map[string]bool{}
	for slice := range dicomSlices {
		list := readElements(t, dicomSlice(slice))
		byTag := map[uint32][]byte{}
		for i, e := range list {
			if i > 0 && e.tag <= list[i-1].tag {
				t.Errorf("%08x comes after %08x", e.tag, list[i-1].tag)
			}
			if len(e.value)%2 != 0 {
				t.Errorf("%08x has %d bytes", e.tag, len(e.value))
			}
			if e.vr == "UI" && len(e.value) > 64 {
				t.Errorf("%08x: %q is too long", e.tag, e.value)
			}
			byTag[e.tag] = e.value
		}
		if !bytes.Equal(byTag[0x00020003], byTag[0x00080018]) {
			t.Errorf("the instance is %q in the head, %q in the data set", byTag[0x00020003], byTag[0x00080018])
		}
		instances[string(byTag[0x00080018])] = true
		pixels := byTag[0x7FE00010]
		if len(pixels) != 2*dicomRows*dicomColumns {
			t.Fatalf("%d bytes of pixels", len(pixels))
		}
		if got, want := binary.LittleEndian.Uint16(pixels[2*(7*dicomColumns+5):]), voxel(5, 7, slice); got != want {
			t.Errorf("slice %d has %d at column 5, row 7, not %d", slice, got, want)
		}
	}
	if len(instances) != dicomSlices {
		t.Errorf("%d slices have %d names", dicomSlices, len(instances))
	}
}

func TestBareVersion(t *testing.T) {
	for in, want := range map[string]string{
		"1.0.20220720-1+deb12u1\n": "1.0.20220720",
		"3.0.1-9":                  "3.0.1",
		"1:2.1.5-2":                "2.1.5",
		"2.0~rc1+dfsg-1":           "2.0.rc1.dfsg",
		"1_2":                      "1.2",
		"4.0":                      "4.0",
	} {
		if got := bareVersion(in); got != want {
			t.Errorf("%q: %q, not %q", in, got, want)
		}
	}
}
