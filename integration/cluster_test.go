package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cluster is a SLURM of one node, with a munge of its own, all on loopback and
// all in one folder.
type cluster struct {
	t    *testing.T
	dir  string // its own
	home string // the user's, who submits
	user *syscall.Credential
}

// newCluster starts munged, slurmctld and slurmd. Jobs are those of nobody. Lines
// KEY=VALUE of slurm.conf take the place of ours.
func newCluster(t *testing.T, lines ...string) *cluster {
	t.Helper()
	munged, slurmctld, slurmd := installed(t, "munged"), installed(t, "slurmctld"), installed(t, "slurmd")
	const nobody = 65534
	c := &cluster{t: t, dir: shortDir(t), home: shortDir(t), user: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if err := os.Chown(c.home, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	key := make([]byte, 1024)
	for i := range key {
		key[i] = byte(i * 7)
	}
	c.write("munge.key", string(key), 0o400)
	c.write("cgroup.conf", "CgroupPlugin=cgroup/v1\nConstrainCores=no\nConstrainRAMSpace=no\n", 0o644) // without, slurmd exits
	c.write("slurm.conf", c.config(lines), 0o644)
	at := func(name string) string { return filepath.Join(c.dir, name) }
	c.write("job_container.conf", "AutoBasePath=true\nBasePath="+at("jobs")+"\n", 0o644)
	c.serve(munged, "--foreground", "--force", "--key-file="+at("munge.key"), "--socket="+at("munge.sock"), "--pid-file="+at("munged.pid"),
		"--log-file="+at("munged.log"), "--seed-file="+at("munged.seed"), "--num-threads=4")
	eventually(t, "munged listens", func() bool { return exists(at("munge.sock")) })
	c.serve(slurmctld, "-D", "-f", at("slurm.conf"))
	c.serve(slurmd, "-D", "-f", at("slurm.conf"))
	if !poll(30*time.Second, func() bool {
		r := c.as(nil, "sinfo", "-h", "-o", "%T")
		return strings.TrimSpace(r.Stdout) == "idle"
	}) {
		t.Fatalf("the node is not idle:\n%s\n%s", readText(at("slurmctld.log")), readText(at("slurmd.log")))
	}
	return c
}

func readText(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func (c *cluster) write(name, text string, mode os.FileMode) {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		c.t.Fatal(err)
	}
}

// config is slurm.conf: one node with 64 CPUs, whatever the machine has.
func (c *cluster) config(lines []string) string {
	host, err := os.Hostname()
	if err != nil {
		c.t.Fatal(err)
	}
	host, _, _ = strings.Cut(host, ".")
	text := strings.NewReplacer("@DIR", c.dir, "@HOST", host, "@CTLD", strconv.Itoa(freePort(c.t)), "@SLURMD", strconv.Itoa(freePort(c.t))).Replace(`ClusterName=test
SlurmctldHost=@HOST(127.0.0.1)
SlurmctldPort=@CTLD
SlurmdPort=@SLURMD
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=@DIR/munge.sock
StateSaveLocation=@DIR/ctld
SlurmdSpoolDir=@DIR/d
SlurmctldPidFile=@DIR/slurmctld.pid
SlurmdPidFile=@DIR/slurmd.pid
SlurmctldLogFile=@DIR/slurmctld.log
SlurmdLogFile=@DIR/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
SlurmdParameters=config_overrides
MessageTimeout=90
BatchStartTimeout=90
TCPTimeout=30
NodeName=@HOST NodeAddr=127.0.0.1 CPUs=64 RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=@HOST Default=YES MaxTime=INFINITE State=UP
`)
	for _, line := range lines {
		key, _, _ := strings.Cut(line, "=")
		text = regexp.MustCompile("(?m)^"+key+"=.*\n").ReplaceAllString(text, "") + line + "\n"
	}
	return text
}

// hooks makes the prolog and the epilog those of packaging, for a mount at m.
func (c *cluster) hooks(m, config string) {
	c.t.Helper()
	source := sourceRoot(c.t)
	c.write("defaults", fmt.Sprintf("NEURODESK_MOUNT=%s NEURODESKFS=%s NEURODESK_CONFIG=%s NEURODESK_RUN=%s/run\n",
		m, program(c.t), config, c.dir), 0o644)
	for _, name := range []string{"prolog", "epilog"} {
		c.write(name, fmt.Sprintf("#!/bin/sh\nexport NEURODESK_DEFAULTS=%s/defaults NEURODESK_PROLOG_STRICT=1 TMPDIR=%s\nexec %s/packaging/slurm/%s.sh >>%s/hooks.log 2>&1\n",
			c.dir, runDir, source, name, c.dir), 0o755)
	}
	conf := readText(filepath.Join(c.dir, "slurm.conf"))
	flags := "PrologFlags=Alloc\n"
	if strings.Contains(conf, "PrologFlags=") {
		flags = ""
	}
	c.write("slurm.conf", conf+fmt.Sprintf("Prolog=%s/prolog\nEpilog=%s/epilog\n", c.dir, c.dir)+flags, 0o644)
	cmd := exec.Command("scontrol", "reconfigure")
	cmd.Env = append(os.Environ(), "SLURM_CONF="+filepath.Join(c.dir, "slurm.conf"))
	if r := run(c.t, cmd); r.Status != 0 {
		c.t.Fatalf("scontrol reconfigure: %+v", r)
	}
}

// serve runs a daemon until the test ends.
func (c *cluster) serve(name string, args ...string) {
	c.t.Helper()
	for _, dir := range []string{"ctld", "d"} {
		if err := os.MkdirAll(filepath.Join(c.dir, dir), 0o755); err != nil {
			c.t.Fatal(err)
		}
	}
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "SLURM_CONF="+filepath.Join(c.dir, "slurm.conf"))
	log, err := os.Create(filepath.Join(c.dir, filepath.Base(name)+".out"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		kill := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
		defer kill.Stop()
		cmd.Wait()
		if c.t.Failed() {
			c.t.Logf("%s:\n%s", name, readText(log.Name()))
		}
	})
}

// as runs one of SLURM's commands as the user.
func (c *cluster) as(env []string, name string, args ...string) result {
	c.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + c.home, "HOME=" + c.home, "USER=nobody",
		"SLURM_CONF=" + filepath.Join(c.dir, "slurm.conf")}, env...)
	cmd.Dir = c.home
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.user}
	return run(c.t, cmd)
}

// submit sends a job script off and returns its number.
func (c *cluster) submit(script string, args ...string) string {
	c.t.Helper()
	file := filepath.Join(c.home, "job.sh")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		c.t.Fatal(err)
	}
	r := c.as(nil, "sbatch", append(append([]string{"--parsable", "--output=" + c.home + "/%A.%a.out"}, args...), file)...)
	if r.Status != 0 {
		c.t.Fatalf("sbatch: %+v", r)
	}
	return strings.TrimSpace(r.Stdout)
}

// ended waits until a job has left the queue and gives what it wrote.
func (c *cluster) ended(job string) string {
	c.t.Helper()
	if !poll(80*time.Second, func() bool {
		r := c.as(nil, "squeue", "-h", "-j", job)
		return strings.TrimSpace(r.Stdout) == ""
	}) {
		c.t.Fatalf("job %s does not end: %s", job, readText(filepath.Join(c.dir, "slurmd.log")))
	}
	var b strings.Builder
	files, _ := filepath.Glob(filepath.Join(c.home, job+".*.out"))
	for _, f := range files {
		b.WriteString(readText(f))
	}
	return b.String()
}
