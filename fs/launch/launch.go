// Package launch starts a command of an image as if it were installed on the host.
//
// M/bin/bet is a small text file (Command) whose `#!` line names the launcher in M/.neurodeskfs. The kernel runs
//
//	launcher M/bin/bet ARGS...
//
// and Main reads that file, reads the site's Policy from launch.json beside the launcher, gathers facts about the Host,
// and lets Plan, which is pure, decide on program, options, binds and environment. Then it replaces itself by the
// runtime: no shell, no process of ours stays behind, so exit status and signals are the tool's own.
//
//	command file --+
//	launch.json ---+--> Plan --> Exec (path, argv, env) --> execve(2)
//	Host ----------+                                    \-> bwrap, adopted
//
// bwrap is the exception. It would turn a death by signal into an exit status and keep signals to itself, so the launcher
// stays as the parent of the tool (sandbox), hands signals on, and ends as the tool does. The tool dies with it.
//
// Under bwrap a tool sees what it sees under apptainer, environment, accounts and places to write to included. README.md
// lists what differs, under bwrap and under singularity, and TestLaunchConformance compares. What bwrap cannot do at all
// (writable_tmpfs, the GPU's libraries, options of the runtime other than binds and --env) goes to apptainer, or is refused
// where there is none.
//
// The launcher starts millions of times a day. It imports the standard library and the TOML parser only, starts no goroutine (but one under
// bwrap), and looks at nothing below the top level of the host's file system, so that no automounter is woken. What it asks of the mount
// is answered by the kernel's caches: the command file, launch.json, the head of the program, and where the command file gives
// no path, the image's environment scripts.
package launch

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"
)

// PolicyFile is the name of the policy, in the launcher's own directory.
const PolicyFile = "launch.json"

// Main is the launcher: argv as the kernel gives it to a `#!` interpreter. It does not come back when all is well; else it
// has written one line to stderr and gives the exit status.
func Main(argv []string, stderr io.Writer) int {
	if len(argv) < 2 {
		say(stderr, "the launcher is started by the command files in bin/, not by hand")
		return StatusError
	}
	err := start(argv, stderr)
	var exit *Exit
	if !errors.As(err, &exit) {
		exit = &Exit{StatusError, fmt.Sprintf("%s: %v", path.Base(argv[1]), err)}
	}
	say(stderr, exit.Message)
	return exit.Code
}

// say writes a line of ours. What it quotes may be anybody's, whom no terminal shall obey.
func say(stderr io.Writer, text string) {
	fmt.Fprintln(stderr, "neurodeskfs: "+strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text))
}

func start(argv []string, stderr io.Writer) error {
	text, err := readBounded(argv[1], MaxCommandFile)
	if err != nil {
		return fmt.Errorf("read command file: %w; is the mount still there?", err)
	}
	cmd, err := ParseCommand(text)
	if err != nil {
		return fmt.Errorf("%s: %w; run `neurodeskfs doctor`", clip(argv[1]), err)
	}
	policy, dir, err := LoadPolicy(argv[0])
	if err != nil {
		return err
	}
	h := RealHost(dir)
	if cmd.Default {
		var warn []string
		cmd, _, warn, err = h.ApplyPins(policy.mountpoint(dir), cmd)
		for _, w := range warn {
			say(stderr, w)
		}
		if err != nil {
			refused(err, "", cmd, argv[2:], h, stderr)
			return err
		}
		if cmd, err = h.Look(policy.mountpoint(dir), cmd); err != nil {
			return err
		}
	}
	return Run(policy, cmd, argv[2:], h, stderr)
}

// Run plans one start and replaces this process by it; under bwrap it stays, hands signals on and ends as the tool does.
// Within a container of the same image there is nothing to plan. It comes back only with an error: an *Exit, or that of
// execve(2). To be called once, by a process that has nothing else to do.
// Warnings and the line of NEURODESK_DEBUG go to stderr.
func Run(policy Policy, cmd Command, args []string, h Host, stderr io.Writer) error {
	if h.inside(cmd) {
		return native(policy.mountpoint(h.Launcher), cmd, args, h, stderr)
	}
	announce(cmd, h) // before Plan, which reads of the image
	e, err := Plan(policy, cmd, args, h)
	if err != nil {
		refused(err, "", cmd, args, h, stderr)
		return err
	}
	for _, w := range e.Warnings {
		say(stderr, w)
	}
	if e.Debug {
		fmt.Fprintln(stderr, e.Line())
	}
	began := time.Now()
	note := func(exit *int) {
		if err := record(e.Runtime, cmd, args, h, began, exit); err != nil {
			say(stderr, err.Error())
		}
	}
	if e.Runtime == runtimeBwrap.Name() {
		var status syscall.WaitStatus
		if status, err = e.run(); err == nil {
			code := exitCode(status)
			note(&code)
			End(status)
		}
	} else {
		note(nil)
		err = syscall.Exec(e.Path, e.Argv, e.Env)
	}
	err = e.notStarted(clip(cmd.Command), err)
	refused(err, e.Runtime, cmd, args, h, stderr)
	return err
}

// notStarted says what can be done about an error of starting the runtime.
func (e *Exec) notStarted(command string, err error) error {
	what := "have " + e.Runtime + " installed anew"
	switch {
	case errors.Is(err, ErrContainer):
		return &Exit{StatusError, fmt.Sprintf("%s: %v (its message is above); try NEURODESK_RUNTIME=apptainer, or run `neurodeskfs doctor`", command, err)}
	case errors.Is(err, syscall.E2BIG):
		what = "the arguments and the environment are too long together: give fewer files at once"
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOMEM):
		what = "a limit of this session or machine is reached: `ulimit -a` shows yours"
	}
	return &Exit{StatusError, fmt.Sprintf("%s: start %s: %v; %s", command, e.Path, err, what)}
}

// refused records a start that did not come to the tool, where starts are recorded.
func refused(err error, runtime string, cmd Command, args []string, h Host, stderr io.Writer) {
	code := StatusError
	var exit *Exit
	if errors.As(err, &exit) {
		code = exit.Code
	}
	if err := record(runtime, cmd, args, h, time.Now(), &code); err != nil {
		say(stderr, err.Error())
	}
}

// LoadPolicy reads launch.json from the launcher's directory, which it also gives: that of argv0 where the file is there
// (the `#!` line), else that of the running program. Without the file the defaults hold. Errors name the file.
func LoadPolicy(argv0 string) (Policy, string, error) {
	var dirs []string
	if path.IsAbs(argv0) {
		dirs = append(dirs, path.Dir(argv0))
	}
	if exe, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(exe))
	}
	for _, dir := range dirs {
		file := path.Join(dir, PolicyFile)
		text, err := readBounded(file, MaxPolicyFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Policy{}, dir, fmt.Errorf("read launch policy: %w", err)
		}
		p, err := ParsePolicy(text)
		if err != nil {
			return Policy{}, dir, fmt.Errorf("%s: %w; ask whoever runs the mount", file, err)
		}
		return p, dir, nil
	}
	if len(dirs) == 0 {
		return DefaultPolicy(), "", nil
	}
	return DefaultPolicy(), dirs[0], nil
}

// readBounded reads a file of at most limit bytes and one more, so that the parsers see that it is too long.
func readBounded(name string, limit int) ([]byte, error) {
	return readAt(name, 0, limit+1)
}
