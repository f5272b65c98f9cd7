// Package check examines one container image for its author: does what it
// declares exist, can it start, and how will it look in a mount. It reads the
// image's tree in process; nothing of the image runs, nothing is mounted.
package check

import (
	"cmp"
	"context"
	"errors"
	iofs "io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/neurodesk/neurodeskfs/fs/image"
)

// Subject is an image to be examined.
type Subject struct {
	Name  string // for people
	App   string // what the mount calls it
	Files image.Files
	// CommandsTxt and EnvTxt are what lies beside the image; nil: no such file.
	CommandsTxt, EnvTxt []byte
	// Others are the apps of a mount that have a command, without this one; nil:
	// there is no mount to compare with.
	Others func(command string) []string
	// Verify checks the image's PGP signatures; nil: nobody asks.
	Verify func(context.Context) (image.Signatures, error)
	// Raw is false where the tree is shown by a mount, which adds mount points.
	Raw bool
}

// Report is what was found. Faults alone are wrong; the rest is good to know.
type Report struct {
	Image        string   `json:"image"`
	App          string   `json:"app"`
	Architecture string   `json:"architecture,omitempty"` // of the image's shell, or of its first program
	Sources      []string `json:"declared_by"`            // commands.txt, DEPLOY_PATH, ...
	Commands     []string `json:"commands"`               // all that are declared
	Faults       []Fault  `json:"faults"`
	Signers      []string `json:"signed_by"`               // where signatures were to be checked
	Driver       []string `json:"needs_of_the_gpu_driver"` // libraries that only the host can bring
	Hidden       []Hidden `json:"not_in_bin"`
	Shared       []Shared `json:"shared_names"`
	Compared     bool     `json:"compared_with_a_mount"`
	MountPoints  []string `json:"missing_mount_points"`
	Bytes        int64    `json:"bytes"`   // of all files, as stat shows them, hard links once
	Entries      int      `json:"entries"` // files, directories, links
	Largest      []Part   `json:"largest"`
}

// Fault is something wrong, and the commands that it hits; none: all of the image.
type Fault struct {
	Problem  string   `json:"problem"`
	Commands []string `json:"commands"`
}

// Hidden is a command that never stands in M/bin.
type Hidden struct {
	Command string `json:"command"`
	Why     string `json:"why"`
}

// Shared is a command that other apps of the mount have too.
type Shared struct {
	Command string   `json:"command"`
	Apps    []string `json:"apps"`
}

// Part is how much of an image a directory holds.
type Part struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
}

// run is one examination.
type run struct {
	Subject
	report Report
	linker *image.Linker
	faults map[string]int // problem -> index in report.Faults
}

// Image examines an image. Errors are those of reading it; what is wrong with
// it is in the report.
func Image(ctx context.Context, s Subject) (Report, error) {
	r := &run{Subject: s, faults: map[string]int{}}
	r.report = Report{
		Image: s.Name, App: s.App, Sources: []string{}, Commands: []string{}, Faults: []Fault{}, Signers: []string{}, Driver: []string{}, Hidden: []Hidden{}, Shared: []Shared{},
		MountPoints: []string{}, Largest: []Part{}, Compared: s.Others != nil,
	}
	var err error
	if r.linker, err = image.NewLinker(ctx, s.Files); err != nil {
		return r.report, err
	}
	for _, step := range []func(context.Context) error{r.signatures, r.architecture, r.commands, r.variables, r.mountPoints, r.sizes} {
		if err := step(ctx); err != nil {
			return r.report, err
		}
	}
	return r.report, nil
}

// fault notes what is wrong; commands with the same fault share it.
func (r *run) fault(problem string, command ...string) {
	i, known := r.faults[problem]
	if !known {
		i = len(r.report.Faults)
		r.faults[problem] = i
		r.report.Faults = append(r.report.Faults, Fault{problem, []string{}})
	}
	for _, c := range command {
		if !slices.Contains(r.report.Faults[i].Commands, c) {
			r.report.Faults[i].Commands = append(r.report.Faults[i].Commands, c)
		}
	}
}

// signatures notes who signed the image.
func (r *run) signatures(ctx context.Context) error {
	if r.Verify == nil {
		return nil
	}
	s, err := r.Verify(ctx)
	if errors.Is(err, image.ErrUnsigned) || errors.Is(err, image.ErrAltered) {
		r.fault("signature: " + err.Error())
		return nil
	}
	for _, k := range s.Signers {
		r.report.Signers = append(r.report.Signers, k.Name+" "+k.Fingerprint)
	}
	return err
}

// architecture is that of the image's shell. Without one there is nothing to
// compare with.
func (r *run) architecture(ctx context.Context) error {
	s, err := r.linker.Start(ctx, "/bin/sh")
	if err != nil {
		return err
	}
	r.report.Architecture = s.Architecture
	if len(s.Files) == 0 {
		r.fault("/bin/sh is not in the image: apptainer's own scripts need it")
	}
	return nil
}

// variables checks where the variables that the image wants to be set on the
// host point to: DEPLOY_ENV_NAME=BASEPATH/...
func (r *run) variables(ctx context.Context) error {
	vars, err := r.Files.Environment(ctx)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(r.EnvTxt)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			vars[name] = value
		}
	}
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		at, ours := strings.CutPrefix(vars[name], "BASEPATH/")
		if !ours || !strings.HasPrefix(name, "DEPLOY_ENV_") || strings.ContainsAny(at, " :") {
			continue
		}
		if _, err := r.Files.Resolve(ctx, "/"+at); errors.Is(err, iofs.ErrNotExist) {
			r.fault(name + " names " + path.Clean("/"+at) + ", which is not in the image")
		} else if err != nil {
			return err
		}
	}
	return nil
}

// usualMountPoints are the directories that Neurocontainers makes in every image
// (GLOBAL_MOUNT_POINT_LIST of its builder), so that a site's file systems can be
// bound where the runtime has neither overlay nor underlay.
var usualMountPoints = strings.Fields(`/afm01 /afm02 /cvmfs /90days /30days /QRISdata /RDS /data /short /proc_temp /TMPDIR
	/nvme /neurodesktop-storage /local /gpfs1 /working /winmounts /state /tmp /autofs /cluster /local_mount /scratch
	/clusterdata /nvmescratch`)

// mountPoints lists those that are missing.
func (r *run) mountPoints(ctx context.Context) error {
	if !r.Raw {
		return nil
	}
	for _, name := range usualMountPoints {
		at, err := r.Files.Resolve(ctx, name)
		if errors.Is(err, iofs.ErrNotExist) || err == nil && !at.IsDir() {
			r.report.MountPoints = append(r.report.MountPoints, name)
		} else if err != nil {
			return err
		}
	}
	return nil
}

const (
	largestParts = 10
	partDepth    = 2 // /usr/lib, not /usr/lib/x
)

// sizes adds up what lies below the directories of the first two levels.
func (r *run) sizes(ctx context.Context) error {
	sum := map[string]int64{}
	linked := map[any]bool{}
	err := r.Files.Walk(ctx, func(f image.File) error {
		r.report.Entries++
		if !f.IsRegular() || f.Nlink > 1 && linked[f.ID] {
			return nil
		}
		if f.Nlink > 1 {
			linked[f.ID] = true
		}
		r.report.Bytes = add(r.report.Bytes, f.Size)
		part := part(f.Path)
		sum[part] = add(sum[part], f.Size)
		return nil
	})
	if err != nil {
		return err
	}
	for name, size := range sum {
		r.report.Largest = append(r.report.Largest, Part{name, size})
	}
	slices.SortFunc(r.report.Largest, func(a, b Part) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), strings.Compare(a.Path, b.Path))
	})
	r.report.Largest = r.report.Largest[:min(len(r.report.Largest), largestParts)]
	return nil
}

// add adds sizes that an image may say are anything.
func add(a, b int64) int64 {
	if sum := a + max(b, 0); sum >= 0 {
		return sum
	}
	return 1<<63 - 1
}

// part is the directory to which a file counts.
func part(name string) string {
	dirs := strings.Split(path.Dir(name), "/")
	return "/" + path.Join(dirs[1:min(len(dirs), partDepth+1)]...)
}
