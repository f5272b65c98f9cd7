package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
)

// The series that the demo makes: slices of an MR volume in which every voxel's
// value tells its place, so that a single one shows whether it is right.
const (
	dicomColumns, dicomRows, dicomSlices = 64, 64, 8

	explicitLittleEndian = "1.2.840.10008.1.2.1"       // PS3.5 A.2
	mrImageStorage       = "1.2.840.10008.5.1.4.1.1.4" // PS3.4 B.5
	uidRoot              = "2.25.3106201873112974"     // PS3.5 B.2: anybody may make these
)

// voxel is the value at a column, a row and a slice, from 0: at most 32,767.
func voxel(column, row, slice int) uint16 {
	return uint16(column + dicomColumns*(row+dicomRows*slice))
}

// writeDICOM makes the series in dir: one file for each slice, no person.
func writeDICOM(dir string) error {
	for slice := range dicomSlices {
		name := filepath.Join(dir, fmt.Sprintf("IM%04d.dcm", slice+1))
		if err := os.WriteFile(name, dicomSlice(slice), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// elements is a list of DICOM data elements, explicit VR little endian (PS3.5
// chapter 7), which must come in the order of their tags.
type elements struct{ bytes.Buffer }

// put adds an element. tag is group and element, such as 0x00280010.
func (e *elements) put(tag uint32, vr string, value []byte) {
	if len(value)%2 == 1 { // every value has an even length
		pad := byte(' ')
		if vr == "UI" || vr == "OB" {
			pad = 0
		}
		value = append(value, pad)
	}
	e.number(uint16(tag>>16), uint16(tag))
	e.WriteString(vr)
	switch vr {
	case "OB", "OW":
		e.number(uint16(0), uint32(len(value)))
	default:
		e.number(uint16(len(value)))
	}
	e.Write(value)
}

func (e *elements) text(tag uint32, vr, value string) { e.put(tag, vr, []byte(value)) }

func (e *elements) short(tag uint32, value uint16) {
	e.put(tag, "US", binary.LittleEndian.AppendUint16(nil, value))
}

func (e *elements) number(values ...any) {
	for _, v := range values {
		binary.Write(e, binary.LittleEndian, v) // a buffer takes all
	}
}

// dicomSlice is one file: preamble, file meta information, data set (PS3.10).
func dicomSlice(slice int) []byte {
	instance := fmt.Sprintf("%s.1.%d", uidRoot, slice+1)
	var meta elements
	meta.put(0x00020001, "OB", []byte{0, 1})
	meta.text(0x00020002, "UI", mrImageStorage)
	meta.text(0x00020003, "UI", instance)
	meta.text(0x00020010, "UI", explicitLittleEndian)
	meta.text(0x00020012, "UI", uidRoot)

	var file elements
	file.Write(make([]byte, 128))
	file.WriteString("DICM")
	file.put(0x00020000, "UL", binary.LittleEndian.AppendUint32(nil, uint32(meta.Len())))
	file.Write(meta.Bytes())
	describeSeries(&file, instance)
	describeSlice(&file, slice)
	var pixels []byte
	for row := range dicomRows {
		for column := range dicomColumns {
			pixels = binary.LittleEndian.AppendUint16(pixels, voxel(column, row, slice))
		}
	}
	file.put(0x7FE00010, "OW", pixels)
	return file.Bytes()
}

// describeSeries adds the groups 0008 to 0018: what was done.
func describeSeries(f *elements, instance string) {
	f.text(0x00080008, "CS", `ORIGINAL\PRIMARY\M\ND`)
	f.text(0x00080016, "UI", mrImageStorage)
	f.text(0x00080018, "UI", instance)
	f.text(0x00080020, "DA", "20240102")
	f.text(0x00080022, "DA", "20240102")
	f.text(0x00080030, "TM", "101500")
	f.text(0x00080032, "TM", "101500")
	f.text(0x00080060, "CS", "MR")
	f.text(0x00080070, "LO", "SIEMENS")
	f.text(0x0008103E, "LO", "demo_t1")
	f.text(0x00100010, "PN", "DEMO^NOBODY")
	f.text(0x00100020, "LO", "demo")
	f.text(0x00180023, "CS", "3D")
	f.text(0x00180050, "DS", "3")
	f.text(0x00180080, "DS", "500")
	f.text(0x00180081, "DS", "10")
	f.text(0x00180087, "DS", "3")
	f.text(0x00180088, "DS", "3")
	f.text(0x00181030, "LO", "demo_t1")
	f.text(0x00181314, "DS", "70")
	f.text(0x00185100, "CS", "HFS")
}

// describeSlice adds the groups 0020 and 0028: where the slice lies, and what
// its pixels mean.
func describeSlice(f *elements, slice int) {
	f.text(0x0020000D, "UI", uidRoot+".2")
	f.text(0x0020000E, "UI", uidRoot+".3")
	f.text(0x00200010, "SH", "1")
	f.text(0x00200011, "IS", "2")
	f.text(0x00200012, "IS", "1")
	f.text(0x00200013, "IS", fmt.Sprint(slice+1))
	f.text(0x00200032, "DS", fmt.Sprintf(`-64\-64\%d`, 3*slice))
	f.text(0x00200037, "DS", `1\0\0\0\1\0`)
	f.text(0x00200052, "UI", uidRoot+".4")
	f.short(0x00280002, 1)
	f.text(0x00280004, "CS", "MONOCHROME2")
	f.short(0x00280010, dicomRows)
	f.short(0x00280011, dicomColumns)
	f.text(0x00280030, "DS", `2\2`)
	f.short(0x00280100, 16)
	f.short(0x00280101, 16)
	f.short(0x00280102, 15)
	f.short(0x00280103, 0)
	f.text(0x00281052, "DS", "0")
	f.text(0x00281053, "DS", "1")
}
