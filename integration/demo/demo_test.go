package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/integration/checkout"
)

// newDemo needs the built program and the images. Without a network there may
// be none; in CI that is a failure.
func newDemo(t *testing.T, w *strings.Builder) *demo {
	t.Helper()
	root, err := checkout.Dir()
	if err == nil {
		_, err = os.Stat(filepath.Join(root, "bin/neurodeskfs"))
	}
	if err == nil {
		err = needCommands("apptainer", "apt-get", "dpkg-deb")
	}
	if err == nil {
		_, err = ensureImages(t.Context(), &transcript{w: w, broken: func(error) {}}, filepath.Join(root, imageCache))
	}
	if err != nil && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return &demo{out: &transcript{w: w, broken: func(error) {}}}
}

// checkNothingLeft looks for mounts, processes and files after the clean-up.
func checkNothingLeft(t *testing.T, d *demo) {
	t.Helper()
	if err := d.cleanUp(); err != nil {
		t.Error(err)
	}
	if left := d.leftovers(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if _, err := os.Lstat(d.work); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left: %s (%v)", d.work, err)
	}
}

func TestDemo(t *testing.T) {
	var w strings.Builder
	d := newDemo(t, &w)
	if err := d.play(t.Context()); err != nil {
		t.Error(err)
	}
	checkNothingLeft(t, d)
	if t.Failed() {
		t.Log(w.String())
	}
}

// TestStopped ends the demo while the mount, or a tool, waits for the server.
func TestStopped(t *testing.T) {
	for _, name := range []string{"mount", "tool"} {
		t.Run(name, func(t *testing.T) {
			var w strings.Builder
			d := newDemo(t, &w)
			before, during := []func(context.Context) error{d.prepare, d.publish}, d.mountIt
			if name == "tool" {
				before, during = append(before, d.mountIt), d.firstRun
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			for _, step := range before {
				if err := step(ctx); err != nil {
					t.Fatal(errors.Join(err, d.cleanUp()))
				}
			}
			d.site.server.Inject(cvmfstest.All, 0, cvmfstest.Hang(nil))
			go func() {
				d.site.server.Wait(ctx, func(s cvmfstest.Stats) bool { return s.InFlight > 0 })
				cancel()
			}()
			if err := during(ctx); err == nil {
				t.Errorf("the demo was not stopped")
			}
			checkNothingLeft(t, d)
			if t.Failed() {
				t.Log(w.String())
			}
		})
	}
}
