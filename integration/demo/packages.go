package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// apt fetches packages without a trace in the system's apt: to its eyes nothing
// is installed, so it names all that a package needs, down to the C library.
type apt struct {
	dir   string // its private state
	fresh bool   // the package lists are our own, not the system's
}

func (a *apt) options(archives string) []string {
	options := []string{
		"-q", "-y",
		"-o", "Dir::State::status=" + filepath.Join(a.dir, "status"),
		"-o", "Dir::Cache=" + filepath.Join(a.dir, "cache"),
		"-o", "Dir::Cache::archives=" + archives,
		"-o", "Dir::Log=" + a.dir,
		"-o", "Debug::NoLocking=1",
		"-o", "APT::Sandbox::User=root", // else root's downloads are made by _apt, who may not enter our directory
		"-o", "APT::Install-Recommends=false",
		"-o", "APT::Keep-Downloaded-Packages=true",
		"-o", "Acquire::Retries=3",
		"-o", "Acquire::Languages=none",
	}
	if a.fresh {
		options = append(options, "-o", "Dir::State::lists="+filepath.Join(a.dir, "lists"))
	}
	return options
}

// download fetches packages and all that they depend on, and returns the files.
// apt checks their signatures. If the system's package lists are missing or too
// old, it fetches its own once.
func (a *apt) download(ctx context.Context, archives string, packages ...string) ([]string, error) {
	for _, dir := range []string{filepath.Join(a.dir, "lists/partial"), filepath.Join(a.dir, "cache"), filepath.Join(archives, "partial")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(filepath.Join(a.dir, "status"), nil, 0o644); err != nil {
		return nil, err
	}
	err := a.get(ctx, archives, append([]string{"--download-only", "install"}, packages...)...)
	if err != nil && !a.fresh && ctx.Err() == nil {
		a.fresh = true
		if updateErr := a.get(ctx, archives, "update"); updateErr != nil {
			return nil, errors.Join(err, updateErr)
		}
		err = a.get(ctx, archives, append([]string{"--download-only", "install"}, packages...)...)
	}
	if err != nil {
		return nil, err
	}
	return filepath.Glob(filepath.Join(archives, "*.deb"))
}

func (a *apt) get(ctx context.Context, archives string, words ...string) error {
	env := []string{"DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"}
	_, err := capture(ctx, a.dir, env, "apt-get", append(a.options(archives), words...)...)
	return err
}

// upstreamVersion is a package's version without epoch and Debian's revision, in
// the letters that an image's name may have.
func upstreamVersion(ctx context.Context, files []string, name string) (string, error) {
	for _, file := range files {
		if !strings.HasPrefix(filepath.Base(file), name+"_") {
			continue
		}
		version, err := capture(ctx, "", nil, "dpkg-deb", "-f", file, "Version")
		if err != nil {
			return "", err
		}
		return bareVersion(version), nil
	}
	return "", fmt.Errorf("apt-get fetched no package %s", name)
}

func bareVersion(version string) string {
	version = strings.TrimSpace(version)
	if _, after, ok := strings.Cut(version, ":"); ok {
		version = after
	}
	if i := strings.LastIndexByte(version, '-'); i > 0 {
		version = version[:i]
	}
	return strings.NewReplacer("~", ".", "+", ".", "_", ".").Replace(version)
}

// unpack makes a root file tree of packages: their files, a shell, and the
// files that apptainer puts the host's in place of.
func unpack(ctx context.Context, files []string, root string) error {
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		return err
	}
	for _, file := range files {
		if _, err := capture(ctx, "", nil, "dpkg-deb", "-x", file, root); err != nil {
			return err
		}
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} { // packages of newer releases have them in /usr only
		_, err := os.Lstat(filepath.Join(root, dir))
		_, usrErr := os.Lstat(filepath.Join(root, "usr", dir))
		if err != nil && usrErr == nil {
			if err := os.Symlink("usr/"+dir, filepath.Join(root, dir)); err != nil {
				return err
			}
		}
	}
	for _, name := range []string{"passwd", "group", "hosts", "resolv.conf", "localtime"} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), nil, 0o644); err != nil {
			return err
		}
	}
	if _, err := os.Stat(filepath.Join(root, "bin/busybox")); err != nil {
		return fmt.Errorf("the shell: %w", err)
	}
	return os.Symlink("busybox", filepath.Join(root, "bin/sh"))
}
