// Command demo (make demo) shows the main job from end to end, with nothing but
// this machine: it makes two images from Debian packages with apptainer,
// publishes them in a Stratum 1 of its own on the loopback interface, mounts
// that repository and runs the tools by their plain names.
//
// It is a transcript that checks itself: each command is printed before it runs,
// and where an output, a file or a number of HTTP requests is not what it must
// be, the demo says so and ends with status 1. Whatever happens, it takes away
// its mount, its processes and its files; only the images stay, in .deps/demo.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/neurodesk/neurodeskfs/integration/checkout"
)

// errStopped is the cause when a signal ends the demo.
var errStopped = errors.New("stopped")

func main() { os.Exit(run()) }

func run() int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() { cancel(fmt.Errorf("%w by %v", errStopped, <-signals)) }()
	// Without this a reader that goes away (make demo | head) would kill us before we can clean up. A caught signal
	// is reset in our children, an ignored one is not.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)

	started := time.Now()
	d := &demo{out: &transcript{w: os.Stdout, broken: cancel}}
	err := d.play(ctx)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil && !errors.Is(err, errStopped) {
		d.showLog()
	}
	err = errors.Join(err, d.cleanUp())
	switch {
	case errors.Is(err, errStopped):
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		return 130
	case err != nil:
		fmt.Fprintf(os.Stderr, "demo: FAILED: %v\n", err)
		return 1
	}
	d.out.say("Nothing is left: no mount, no process, no file but the images in %s. It took %.1f s.", imageCache, time.Since(started).Seconds())
	return 0
}

// demo is one run.
type demo struct {
	out   *transcript
	root  string // of the source tree
	work  string // temporary directory; "" as long as there is none
	mount string // the mount point, in work
	shell *shell // whoever types the commands
	site  *site  // the repository and its server; nil as long as there is none
	first results
}

// play runs the steps in order.
func (d *demo) play(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		d.prepare, d.publish, d.mountIt, d.firstRun, d.showStatus, d.secondRun, d.unmountIt,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// prepare looks for what the demo needs, and makes its directory and its images.
func (d *demo) prepare(ctx context.Context) error {
	var err error
	if d.root, err = checkout.Dir(); err != nil {
		return err
	}
	if err := needCommands("apptainer", "apt-get", "dpkg-deb"); err != nil {
		return err
	}
	d.out.step("1. Two container images, made by apptainer from Debian's packages dcm2niix and nifti-bin")
	tree := filepath.Join(d.root, imageCache)
	made, err := ensureImages(ctx, d.out, tree)
	if err != nil {
		return fmt.Errorf("make the images: %w", err)
	}
	if !made {
		d.out.say("They are there from an earlier run, in %s (make clean removes them).", imageCache)
	}
	return d.makeWorkplace(ctx)
}

// makeWorkplace makes the temporary directory. The tree may lie where the user
// who types the commands cannot look, so the program is copied.
func (d *demo) makeWorkplace(ctx context.Context) error {
	who := chooseAccount(ctx)
	// not $TMPDIR: the mount point stands in #! lines, which must be short and without blanks
	work, err := os.MkdirTemp("/tmp", "nd-demo.")
	if err != nil {
		return err
	}
	d.work, d.mount = work, filepath.Join(work, "neurodesk")
	if err := os.Chmod(work, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"bin", "home", "cache", "neurodesk", "data"} {
		dir := filepath.Join(work, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := os.Chown(dir, who.uid, who.gid); err != nil {
			return err
		}
	}
	program, err := os.ReadFile(filepath.Join(d.root, "bin/neurodeskfs"))
	if err != nil {
		return fmt.Errorf("the program is not built, type make demo: %w", err)
	}
	if err := os.WriteFile(filepath.Join(work, "bin/neurodeskfs"), program, 0o755); err != nil {
		return err
	}
	d.shell = newShell(d.out, who, work)
	return nil
}
