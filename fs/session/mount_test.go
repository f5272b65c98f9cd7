package session

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMountShowsTypeAndSource(t *testing.T) {
	ways := map[string]func(dir string, o MountOptions) (*os.File, error){
		"as this user does": func(_ string, o MountOptions) (*os.File, error) { return Mount(t.Context(), o) },
		"fusermount3": func(dir string, o MountOptions) (*os.File, error) {
			return mountByHelper(t.Context(), dir, o)
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			if name == "fusermount3" && mayMount() && !initialNamespace() {
				t.Skip("setuid does not work in a private user namespace; mount(2) is the way there")
			}
			if _, err := findHelper(); name == "fusermount3" && err != nil && os.Getenv("CI") != "true" {
				t.Skip(err)
			}
			dir := mountDir(t)
			f, err := way(dir, MountOptions{Mountpoint: dir, DefaultPermissions: true, MaxRead: 65536,
				Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			mounts, err := FindMounts()
			if err != nil {
				t.Fatal(err)
			}
			m := top(mounts, dir)
			if m == nil {
				t.Fatalf("no mount of type %s and source %s at %s", FSType, FSName, dir)
			}
			for _, opt := range []string{"ro", "nosuid", "nodev", "default_permissions", "max_read=65536"} {
				if !slices.Contains(m.Options, opt) {
					t.Errorf("no %s in %v", opt, m.Options)
				}
			}
			if slices.Contains(m.Options, "allow_other") {
				t.Error("allow_other, unasked")
			}
			flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
			if err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("the descriptor is not close-on-exec: %#x, %v", flags, err)
			}
			if flags, err = unix.FcntlInt(f.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
				t.Errorf("the descriptor does not block: %#x, %v", flags, err)
			}
		})
	}
}

// initialNamespace tells whether user ids are mapped one to one, in full.
func initialNamespace() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && slices.Equal(strings.Fields(string(b)), []string{"0", "0", "4294967295"})
}

func TestAllowOther(t *testing.T) {
	dir := mountDir(t)
	f, err := Mount(t.Context(), MountOptions{Mountpoint: dir, AllowOther: true})
	if err == nil {
		defer f.Close()
		mounts, _ := FindMounts()
		if m := top(mounts, dir); m == nil || !slices.Contains(m.Options, "allow_other") {
			t.Errorf("%+v", m)
		}
		return
	}
	if mayMount() {
		t.Fatal(err)
	}
	// An ordinary user where user_allow_other is not set.
	if !errors.Is(err, ErrNoFuse) || !strings.Contains(err.Error(), "/etc/fuse.conf") ||
		!strings.Contains(err.Error(), "user_allow_other") {
		t.Errorf("the message does not help: %v", err)
	}
}

func TestMountpointChecks(t *testing.T) {
	dir := mountDir(t)
	file := filepath.Join(filepath.Dir(dir), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		file:                      unix.ENOTDIR,
		filepath.Join(dir, "no"):  fs.ErrNotExist,
		filepath.Join(file, "no"): unix.ENOTDIR,
	} {
		if _, err := Mount(t.Context(), MountOptions{Mountpoint: path}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	for _, n := range []int{-1, 1, MaxRead + 1} {
		if _, err := Mount(t.Context(), MountOptions{Mountpoint: dir, MaxRead: n}); err == nil {
			t.Errorf("max_read of %d was taken", n)
		}
	}
	if _, err := Unmount(t.Context(), dir); !errors.Is(err, ErrNotMounted) {
		t.Errorf("Unmount: %v", err)
	}
	if is, err := IsMounted(dir); is || err != nil {
		t.Errorf("IsMounted: %t, %v", is, err)
	}
}

func TestMountedAlready(t *testing.T) {
	m := serve(t, newMemFS())
	if _, err := Mount(t.Context(), MountOptions{Mountpoint: m.dir}); !errors.Is(err, ErrMounted) {
		t.Errorf("a second mount: %v", err)
	}
	link := filepath.Join(filepath.Dir(m.dir), "link")
	if err := os.Symlink("m", link); err != nil {
		t.Fatal(err)
	}
	if is, err := IsMounted(link); !is || err != nil {
		t.Errorf("through a link: %t, %v", is, err)
	}
	if lazy, err := Unmount(t.Context(), link); lazy || err != nil {
		t.Errorf("Unmount through a link: lazy %t, %v", lazy, err)
	}
	m.wait(t)
}

func TestDeadMount(t *testing.T) {
	dir := mountDir(t)
	f, err := Mount(t.Context(), MountOptions{Mountpoint: dir})
	if err != nil {
		t.Fatal(err)
	}
	f.Close() // what the death of a daemon does
	if _, err := Mount(t.Context(), MountOptions{Mountpoint: dir}); !errors.Is(err, ErrDeadMount) {
		t.Fatalf("%v, want %v", err, ErrDeadMount)
	}
	if is, err := IsMounted(dir); !is || err != nil {
		t.Errorf("IsMounted: %t, %v", is, err)
	}
	if _, err := Unmount(context.Background(), dir); err != nil {
		t.Fatal(err)
	}
	if f, err = Mount(t.Context(), MountOptions{Mountpoint: dir}); err != nil {
		t.Fatalf("after the clean-up: %v", err)
	}
	f.Close()
}

func TestMountpointOfAnyBytes(t *testing.T) {
	dir := filepath.Join(mountDir(t), "a b\t\n\\#\xff")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := Mount(t.Context(), MountOptions{Mountpoint: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	defer Unmount(context.Background(), dir)
	if is, err := IsMounted(dir); !is || err != nil {
		t.Errorf("IsMounted: %t, %v", is, err)
	}
	if _, err := Unmount(context.Background(), dir); err != nil {
		t.Error(err)
	}
	if is, _ := IsMounted(dir); is {
		t.Error("still mounted")
	}
}

func TestBusyUnmountIsLazy(t *testing.T) {
	fs := newMemFS()
	content := pattern("held", 300000)
	fs.file(fs.root(), "held", content)
	m := serve(t, fs)
	fd, err := unix.Open(filepath.Join(m.dir, "held"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	held := os.NewFile(uintptr(fd), "held")
	defer held.Close()
	lazy, err := Unmount(t.Context(), m.dir)
	if !lazy || err != nil {
		t.Fatalf("lazy %t, %v", lazy, err)
	}
	if is, _ := IsMounted(m.dir); is {
		t.Error("still mounted")
	}
	buf := make([]byte, len(content))
	if n, err := held.ReadAt(buf, 0); err != nil || string(buf[:n]) != content {
		t.Errorf("the open file: %d bytes, %v", n, err)
	}
	if closed(m.done) {
		t.Error("the session ended while a file was open")
	}
	held.Close()
	m.wait(t)
}

func TestNoFuseMessages(t *testing.T) {
	for errno, want := range map[unix.Errno]string{
		unix.ENOENT: "modprobe fuse", unix.ENODEV: "modprobe fuse", unix.ENXIO: "--device /dev/fuse",
		unix.EACCES: "chmod 666 /dev/fuse", unix.EPERM: "chmod 666 /dev/fuse",
	} {
		err := deviceError(errno)
		if !errors.Is(err, ErrNoFuse) || !errors.Is(err, errno) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", errno, err)
		}
	}
	dirs := helperDirs
	defer func() { helperDirs = dirs }()
	helperDirs = []string{t.TempDir()}
	t.Setenv("PATH", t.TempDir())
	if _, err := findHelper(); !errors.Is(err, ErrNoFuse) || !strings.Contains(err.Error(), "install the package fuse3") {
		t.Errorf("no fusermount3: %v", err)
	}
	old := filepath.Join(helperDirs[0], "fusermount")
	if err := os.WriteFile(old, []byte("#!/bin/sh\necho refused >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if path, err := findHelper(); path != old || err != nil {
		t.Errorf("%s, %v", path, err)
	}
	_, err := mountByHelper(t.Context(), t.TempDir(), MountOptions{})
	if err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a helper that refuses: %v", err)
	}
	if err := os.WriteFile(old, []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := mountByHelper(t.Context(), t.TempDir(), MountOptions{}); err == nil {
		t.Error("a helper that sends nothing was believed")
	}
}
