package session

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestParseMounts(t *testing.T) {
	const info = `22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:45 / /mnt/a ro,nosuid,nodev shared:5 master:2 - fuse.neurodeskfs neurodeskfs ro,user_id=0,max_read=131072
41 22 0:46 / /mnt/a\040b\011c\012d\134e\043 ro - fuse.neurodeskfs neurodeskfs ro
42 22 0:47 / /mnt/other ro - fuse.sshfs neurodeskfs ro
43 22 0:48 / /mnt/source ro - fuse.neurodeskfs else ro
44 22 0:49 / /mnt/over ro - fuse.neurodeskfs neurodeskfs ro
45 44 0:50 / /mnt/over rw - tmpfs tmpfs rw
46 22 0:51 / /mnt/twice ro - fuse.neurodeskfs neurodeskfs ro
47 46 0:1048575 / /mnt/twice ro - fuse.neurodeskfs neurodeskfs
garbage
48 22 0:52 / /mnt/short - fuse.neurodeskfs
`
	want := []MountInfo{
		{"/mnt/a", "/", []string{"ro", "nosuid", "nodev", "ro", "user_id=0", "max_read=131072"}, 45},
		{"/mnt/a b\tc\nd\\e#", "/", []string{"ro", "ro"}, 46},
		{"/mnt/twice", "/", []string{"ro", "ro"}, 51},
		{"/mnt/twice", "/", []string{"ro"}, 1048575},
	}
	got := parseMounts([]byte(info))
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if m := top(got, "/mnt/twice"); m == nil || m.Connection != 1048575 {
		t.Errorf("the upper of two mounts: %+v", m)
	}
	if m := top(got, "/mnt/over"); m != nil {
		t.Errorf("a mount that another covers: %+v", m)
	}
}

func FuzzParseMounts(f *testing.F) {
	own, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || len(own) == 0 {
		f.Fatal("no mountinfo", err)
	}
	f.Add(own)
	f.Add([]byte("41 22 0:46 / /mnt/a\\040b\\1 ro - fuse.neurodeskfs neurodeskfs ro\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, m := range parseMounts(data) {
			if m.Mountpoint == "" || len(m.Options) == 0 {
				t.Errorf("%+v", m)
			}
		}
	})
}

func TestResolveMountpoint(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"real/m", "elsewhere"} {
		if err := os.MkdirAll(filepath.Join(base, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{
		"parent": "real", "last": "real/m", "abs": filepath.Join(base, "real/m"),
		"twice": "last", "loop": "loop", "dangling": "nothing/here",
	} {
		if err := os.Symlink(target, filepath.Join(base, link)); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(filepath.Join(base, "elsewhere"))
	for in, want := range map[string]string{
		"real/m": "real/m", "parent/m": "real/m", "last": "real/m", "abs": "real/m", "twice": "real/m",
		"real/../real/./m/": "real/m", "real/absent": "real/absent", "loop": "", "dangling": "", "absent/m": "",
	} {
		for _, path := range []string{filepath.Join(base, in), filepath.Join("..", in)} {
			got, err := Resolve(path)
			if want == "" {
				if err == nil {
					t.Errorf("%s: %s, want an error", path, got)
				}
			} else if err != nil || got != filepath.Join(base, want) {
				t.Errorf("%s: %s, %v", path, got, err)
			}
		}
	}
	if got, err := Resolve("/"); got != "/" || err != nil {
		t.Errorf("/: %q, %v", got, err)
	}
	if _, err := Resolve(""); err == nil {
		t.Error("the empty path was taken")
	}
}
