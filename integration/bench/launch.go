package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
)

// What the launch cases start: a shell script of one line in the smallest golden
// image, so that the start is all there is.
const (
	launchTool    = "dcm2niix"
	launchApp     = launchTool + "_1.0.20220720_20250601"
	launchImage   = "containers/" + launchApp + "/" + launchApp + ".simg"
	launchCommand = "dcm2niix-build"
	launchProgram = "/opt/dcm2niix-1.0.20220720/bin/" + launchCommand
	launchSays    = "build 20250601"
)

// launchRounds is how often each way is measured.
func (b *bench) launchRounds() int { return b.rounds(5, 20) }

// benchLaunch compares a warm start through M/bin with the ways people start
// containers. All take turns.
func benchLaunch(ctx context.Context, b *bench) error {
	s, err := b.goldenSite()
	if err != nil {
		return err
	}
	m, err := b.mount(ctx, s, mountOptions{})
	if err != nil {
		return err
	}
	rootfs, sif, err := b.localImages(ctx, m.raw(launchImage))
	if err != nil {
		return err
	}
	start := func(name, runtime string, args ...string) way {
		return way{name, func(ctx context.Context) (float64, error) {
			cmd := b.command(ctx, args[0], args[1:]...)
			cmd.Env = append(cmd.Env, "NEURODESK_RUNTIME="+runtime)
			took, err := timed(ctx, launchSays, cmd)
			return took * 1e3, err
		}}
	}
	command := filepath.Join(m.dir, "bin", launchCommand)
	ways := []way{
		start("M/bin", "apptainer", command),
		start("exec SIF", "", "apptainer", "exec", "--cleanenv", sif, launchCommand),
		start("exec dir", "", "apptainer", "exec", "--cleanenv", rootfs, launchCommand),
	}
	bwrap := b.has("bwrap")
	if bwrap {
		ways = append(ways, start("M/bin, bwrap", "bwrap", command), start("bwrap dir", "", bwrapWords(rootfs, launchProgram)...),
			start("bwrap, mount", "", bwrapWords(m.raw(launchImage), launchProgram)...))
	}
	figures, err := interleave(ctx, true, b.launchRounds(), ways)
	if err != nil {
		return err
	}
	b.add("M/bin, apptainer", "ms").ours(figures[0]...).against(ways[1].name, figures[1]...).aim(atMost("ratio", 0.6))
	b.add("M/bin, apptainer", "ms").ours(figures[0]...).against(ways[2].name, figures[2]...)
	if bwrap {
		b.add("M/bin, bwrap", "ms").ours(figures[3]...).against(ways[1].name, figures[1]...).aim(atMost("ours", 8), atMost("ratio", 0.08))
		b.add("M/bin, bwrap", "ms").ours(figures[3]...).against(ways[4].name, figures[4]...)
		b.add("bwrap on the mount", "ms").ours(figures[5]...).against(ways[4].name, figures[4]...)
	}
	if _, err := m.healthy(ctx); err != nil {
		return err
	}
	return b.launcherAlone(ctx, s)
}

// bwrapWords start a program in a root directory, with nothing of ours but the
// working directory.
func bwrapWords(rootfs string, program ...string) []string {
	return append([]string{
		"bwrap", "--ro-bind", rootfs, "/", "--proc", "/proc", "--dev", "/dev", "--ro-bind", "/tmp", "/tmp",
	}, program...)
}

// localImages copies an image from the mount to the local file system, as a
// folder and as a SIF.
func (b *bench) localImages(ctx context.Context, image string) (rootfs, sif string, err error) {
	rootfs, sif = filepath.Join(b.scratch, "rootfs"), filepath.Join(b.scratch, "image.sif")
	if _, err := b.run(ctx, "cp", "-r", "--preserve=mode,links", image, rootfs); err != nil {
		return "", "", err
	}
	_, err = b.run(ctx, "apptainer", "--quiet", "build", sif, rootfs)
	return rootfs, sif, err
}

// launcherAlone measures the launcher with a runtime that does nothing: what it
// takes from its exec to the runtime's, which is both together less the runtime
// alone. With a neurodesk.lock it has that to read, and to look for the image there.
func (b *bench) launcherAlone(ctx context.Context, s *site) error {
	nothing, err := exec.LookPath("true")
	if err != nil {
		return err
	}
	m, err := b.mount(ctx, s, mountOptions{config: fmt.Sprintf("[launch]\nruntime_command = [%q]\n", nothing)})
	if err != nil {
		return err
	}
	if err := m.indexed(ctx); err != nil {
		return err
	}
	locked := filepath.Join(b.scratch, "locked")
	if err := b.makeDir(locked); err != nil {
		return err
	}
	if _, err := b.run(ctx, b.program("neurodeskfs"), "lock", "--mount", m.dir, "--file", filepath.Join(locked, "neurodesk.lock"), launchTool); err != nil {
		return err
	}
	start := func(name, dir string, args ...string) way {
		return way{name, func(ctx context.Context) (float64, error) {
			cmd := b.command(ctx, args[0], args[1:]...)
			cmd.Dir = dir
			took, err := timed(ctx, "", cmd)
			return took * 1e3, err
		}}
	}
	command := filepath.Join(m.dir, "bin", launchCommand)
	figures, err := interleave(ctx, true, b.launchRounds(), []way{
		start("launcher", b.scratch, command), start("launcher with a lock", locked, command), start("true", b.scratch, nothing),
	})
	if err != nil {
		return err
	}
	for i, name := range []string{"launcher alone", "launcher with lock"} {
		difference := make([]float64, len(figures[i]))
		for k := range difference {
			difference[k] = figures[i][k] - figures[2][k]
		}
		b.add(name, "ms").ours(difference...).aim(atMost("ours", 2.5))
	}
	return m.unmount(ctx)
}
