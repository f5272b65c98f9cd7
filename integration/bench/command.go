package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// commandTimeout bounds each command.
const commandTimeout = 10 * time.Minute

// group prepares a process that leads a group of its own: a Ctrl-C at the
// terminal reaches us alone, and we end the group.
func group(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// environment is bare, so that no setting of the caller's changes what is
// measured and nothing is written to a real home directory.
func (b *bench) environment() []string {
	search := "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
	if p, err := exec.LookPath("apptainer"); err == nil && !strings.Contains(search+":", filepath.Dir(p)+":") {
		search += ":" + filepath.Dir(p)
	}
	home := filepath.Join(b.work, "home")
	return []string{
		"HOME=" + home, "USER=" + b.who.name, "LOGNAME=" + b.who.name, "LANG=C.UTF-8", "PATH=" + search,
		"APPTAINER_CACHEDIR=" + home + "/.apptainer-cache", "APPTAINER_TMPDIR=" + home, b.marker(),
	}
}

// command prepares a command of the account's, in the case's directory.
func (b *bench) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := group(ctx, name, args...)
	cmd.Dir = b.scratch
	cmd.Env = b.environment()
	cmd.SysProcAttr.Credential = b.who.credential
	return cmd
}

// run runs a command as the account and returns what it said to stdout.
func (b *bench) run(ctx context.Context, name string, args ...string) (string, error) {
	return capture(ctx, b.command(ctx, name, args...))
}

// runSelf runs a command as ourselves: for root, what only root can.
func (b *bench) runSelf(ctx context.Context, name string, args ...string) (string, error) {
	cmd := b.command(ctx, name, args...)
	cmd.SysProcAttr.Credential = nil
	return capture(ctx, cmd)
}

func capture(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	late := time.AfterFunc(commandTimeout, func() { cmd.Cancel() })
	err := cmd.Start()
	if err == nil {
		err = cmd.Wait()
	}
	if !late.Stop() {
		err = fmt.Errorf("no end after %v", commandTimeout)
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil {
		if errors.Is(err, exec.ErrWaitDelay) {
			err = errors.New("it ended, but left a process that holds its output")
		}
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// timed runs a command as the account and returns the seconds that it took. Its
// output must contain want.
func (b *bench) timed(ctx context.Context, want, name string, args ...string) (float64, error) {
	return timed(ctx, want, b.command(ctx, name, args...))
}

func timed(ctx context.Context, want string, cmd *exec.Cmd) (float64, error) {
	started := time.Now()
	out, err := capture(ctx, cmd)
	took := time.Since(started).Seconds()
	if err == nil && !strings.Contains(out, want) {
		err = fmt.Errorf("%s: it said %q, where %q must be", strings.Join(cmd.Args, " "), out, want)
	}
	return took, err
}

// ask runs the worker as the account and returns the figure that it found.
func (b *bench) ask(ctx context.Context, args ...string) (float64, error) {
	return b.askWith(ctx, nil, args...)
}

func (b *bench) askWith(ctx context.Context, env []string, args ...string) (float64, error) {
	cmd := b.command(ctx, b.program("worker"), append([]string{workerWord}, args...)...)
	cmd.Env = append(cmd.Env, env...)
	out, err := capture(ctx, cmd)
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(out), 64)
}

// way is one of the things that are compared: a name, and one measurement.
type way struct {
	name    string
	measure func(context.Context) (float64, error)
}

// interleave measures each way in turn, rounds times, after a turn that does not
// count if warm is set. The result has one list for each way.
func interleave(ctx context.Context, warm bool, rounds int, ways []way) ([][]float64, error) {
	figures := make([][]float64, len(ways))
	for round := range rounds + 1 {
		if round == 0 && !warm {
			continue
		}
		for i, w := range ways {
			f, err := w.measure(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", w.name, err)
			}
			if round > 0 {
				figures[i] = append(figures[i], f)
			}
		}
	}
	return figures, nil
}

// copyFiles copies plain files to dir, for the account.
func (b *bench) copyFiles(dir string, files ...string) error {
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		to := filepath.Join(dir, filepath.Base(f))
		if err := os.WriteFile(to, text, 0o644); err != nil {
			return err
		}
		if err := os.Chown(to, b.who.uid, b.who.gid); err != nil {
			return err
		}
	}
	return nil
}
