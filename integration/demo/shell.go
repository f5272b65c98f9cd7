package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// commandTimeout bounds each command that the demo types.
const commandTimeout = 2 * time.Minute

// marker is the variable by which the demo knows its own processes again.
const marker = "NEURODESKFS_DEMO"

// transcript is what the demo prints.
type transcript struct {
	w      io.Writer
	broken context.CancelCauseFunc // nobody reads any more
}

// Write makes a transcript the output of commands.
func (t *transcript) Write(b []byte) (int, error) {
	n, err := t.w.Write(b)
	if err != nil {
		t.broken(fmt.Errorf("print the transcript: %w", err))
	}
	return n, err
}

func (t *transcript) step(title string)              { fmt.Fprintf(t, "\n== %s\n", title) }
func (t *transcript) say(format string, args ...any) { fmt.Fprintf(t, format+"\n", args...) }
func (t *transcript) command(line string)            { fmt.Fprintf(t, "$ %s\n", line) }

// shell types commands as one account in one directory.
type shell struct {
	out  *transcript
	who  account
	dir  string
	vars map[string]string
}

// newShell gives the account a bare environment in the demo's directory, so that
// no setting of the caller's changes what is shown, and nothing is written to a
// real home directory.
func newShell(out *transcript, who account, work string) *shell {
	return &shell{out: out, who: who, dir: filepath.Join(work, "data"), vars: map[string]string{
		"HOME": filepath.Join(work, "home"), "USER": who.name, "LOGNAME": who.name, "LANG": "C.UTF-8",
		"PATH": filepath.Join(work, "bin") + ":" + searchPath(), marker: work,
	}}
}

// run prints a line, runs it with /bin/sh and prints what it says. It returns
// what it said to stdout.
func (s *shell) run(ctx context.Context, line string) (string, error) {
	s.out.command(line)
	return s.do(ctx, line, s.out)
}

// quiet runs a line of which nothing is shown.
func (s *shell) quiet(ctx context.Context, line string) (string, error) {
	return s.do(ctx, line, io.Discard)
}

func (s *shell) do(ctx context.Context, line string, show io.Writer) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := command(ctx, "/bin/sh", "-c", line)
	cmd.Dir = s.dir
	for name, value := range s.vars {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Stdout, cmd.Stderr = io.MultiWriter(show, &stdout), io.MultiWriter(show, &stderr)
	cmd.SysProcAttr.Credential = s.who.credential
	err := runGroup(ctx, cmd)
	if err != nil && show == io.Discard {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", line, err)
	}
	return stdout.String(), err
}

// command prepares a process that leads a group of its own: a Ctrl-C at the
// terminal reaches the demo alone, which then ends the group.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// runGroup runs cmd, made by command, for at most commandTimeout. When it comes
// back before its end, nothing of its group is left.
func runGroup(ctx context.Context, cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	late := time.AfterFunc(commandTimeout, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err := cmd.Wait()
	if !late.Stop() {
		err = fmt.Errorf("no end after %v", commandTimeout)
	}
	if err != nil || ctx.Err() != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = errors.New("it ended, but left a process that holds its output")
	}
	return err
}

// capture runs a program of the machine as ourselves in dir; its output is part
// of the error when it fails.
func capture(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	var out bytes.Buffer
	cmd := command(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := runGroup(ctx, cmd); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", name, err, strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}
