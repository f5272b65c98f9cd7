package main

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestParseMountLines(t *testing.T) {
	const info = `40 22 0:45 / /mnt/a ro,nosuid shared:5 master:2 - fuse.neurodeskfs neurodeskfs ro,user_id=0
41 40 0:46 /x /mnt/a\040b rw - overlay overlay rw,lowerdir=/mnt/a/x,upperdir=/u
garbage
48 22 0:52 / /mnt/short - fuse.neurodeskfs
49 22 0:53 / /mnt/bare rw - tmpfs tmpfs
`
	want := []mountLine{
		{"40", "22", "0:45", "/mnt/a", "fuse.neurodeskfs", "ro,user_id=0"},
		{"41", "40", "0:46", `/mnt/a\040b`, "overlay", "rw,lowerdir=/mnt/a/x,upperdir=/u"},
		{"49", "22", "0:53", "/mnt/bare", "tmpfs", ""},
	}
	if got := parseMountLines([]byte(info)); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestReadingProc(t *testing.T) {
	if id := mountIDIn([]byte("pos:\t0\nflags:\t02000000\nmnt_id:\t29\nino:\t5\n")); id != "29" {
		t.Errorf("%q", id)
	}
	if id := mountIDIn([]byte("pos:\t0\n")); id != "" {
		t.Errorf("%q", id)
	}
	const text = `7f0000000000-7f0000001000 r--p 00000000 00:2d 12   /mnt/a/lib/x.so
7f0000001000-7f0000002000 r-xp 00001000 00:2d 12   /mnt/a/lib/x.so
7f0000002000-7f0000003000 r--p 00000000 00:2e 12   /mnt/b
7f0000003000-7f0000004000 rw-p 00000000 00:00 0
`
	if got := mappedFrom([]byte(text), "0:45"); !reflect.DeepEqual(got, []string{"/mnt/a/lib/x.so"}) {
		t.Errorf("%q", got)
	}
	if id, err := mountID("/proc/self/cwd"); err != nil || id == "" {
		t.Errorf("%q, %v", id, err)
	}
	if _, held := lookAtMount(t.TempDir()); held {
		t.Error("a mount was seen where there is none")
	}
}

func TestHolderNames(t *testing.T) {
	h := heldMount{dir: "/neurodesk"}
	link := filepath.Join(t.TempDir(), "link")
	for target, want := range map[string]string{
		"/neurodesk": "/neurodesk", "/neurodesk/bin": "/bin", "/neurodesk2/bin": "/neurodesk2/bin",
		"/": "/neurodesk", "/apps": "/apps", // as the kernel shows them of a mount that was taken away
	} {
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		if got := h.name(link); got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
		os.Remove(link)
	}
	if got := h.name(link); got != "?" {
		t.Errorf("no link: %s", got)
	}
}
