package main

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// imageCache is where the images are kept, below the source tree. The number
// goes up when recipes change.
const imageCache = ".deps/demo/images-1"

// recipe says how an image is made and what it exposes, as in Neurodesk.
type recipe struct {
	app     string
	pkg     string // Debian's package
	bins    []string
	path    string            // DEPLOY_PATH: a directory of links to the commands
	links   []string          // what is in it
	deploy  map[string]string // DEPLOY_ENV_...
	summary string
}

var recipes = []recipe{
	{
		app: "dcm2niix", pkg: "dcm2niix", bins: []string{"dcm2niix", "dcm2niibatch"},
		deploy:  map[string]string{"DEPLOY_ENV_DCM2NIIX_DOC": "BASEPATH/usr/share/doc/dcm2niix"},
		summary: "dcm2niix converts DICOM images to NIfTI.",
	},
	{
		app: "niftitools", pkg: "nifti-bin", path: "/opt/niftitools/bin",
		links:   []string{"nifti_tool", "nifti1_tool", "nifti_stats"},
		deploy:  map[string]string{"DEPLOY_ENV_NIFTIDIR": "BASEPATH/opt/niftitools"},
		summary: "The NIfTI tools show and change NIfTI headers and data.",
	},
}

// ensureImages makes the tree of the repository at dir, in Neurodesk's layout,
// unless it is there. It becomes visible as a whole, or not at all.
func ensureImages(ctx context.Context, out *transcript, dir string) (made bool, err error) {
	if _, err := os.Stat(dir); err == nil {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return false, err
	}
	build, err := os.MkdirTemp(filepath.Dir(dir), "new.")
	if err != nil {
		return false, err
	}
	defer removeAll(build)
	fetcher := &apt{dir: filepath.Join(build, "apt")}
	containers := filepath.Join(build, "tree/containers")
	for _, r := range recipes {
		if err := r.make(ctx, out, fetcher, filepath.Join(build, r.app), containers); err != nil {
			return false, fmt.Errorf("%s: %w", r.app, err)
		}
	}
	if err := os.Rename(filepath.Join(build, "tree"), dir); err != nil {
		if _, statErr := os.Stat(dir); statErr != nil { // else another run was faster, and its images are as good
			return false, err
		}
	}
	return true, nil
}

// make builds one image and lays it out below containers.
func (r *recipe) make(ctx context.Context, out *transcript, fetcher *apt, scratch, containers string) error {
	out.say("%s: fetching the package and what it needs with apt-get", r.pkg)
	files, err := fetcher.download(ctx, filepath.Join(scratch, "deb"), r.pkg, "busybox-static")
	if err != nil {
		return err
	}
	version, err := upstreamVersion(ctx, files, r.pkg)
	if err != nil {
		return err
	}
	root := filepath.Join(scratch, "root")
	if err := unpack(ctx, files, root); err != nil {
		return err
	}
	if err := r.link(root); err != nil {
		return err
	}
	name := r.app + "_" + version + "_" + time.Now().Format("20060102")
	dir := filepath.Join(containers, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(scratch, r.app+".def"), []byte(r.definition()), 0o644); err != nil {
		return err
	}
	line := fmt.Sprintf("apptainer --quiet build --sandbox %s.simg %s.def", name, r.app)
	out.command(line)
	env := []string{ // nothing in ~/.apptainer
		"APPTAINER_CACHEDIR=" + filepath.Join(scratch, "cache"), "APPTAINER_CONFIGDIR=" + filepath.Join(scratch, "config"),
		"APPTAINER_TMPDIR=" + scratch,
	}
	words := strings.Fields(line)
	if _, err := capture(ctx, scratch, env, words[0], words[1:]...); err != nil {
		return err
	}
	image := filepath.Join(dir, name+".simg")
	if err := os.Rename(filepath.Join(scratch, name+".simg"), image); err != nil {
		return err
	}
	return r.describe(dir, image, name)
}

// link makes the directory of DEPLOY_PATH, where the recipe has one.
func (r *recipe) link(root string) error {
	if r.path == "" {
		return nil
	}
	dir := filepath.Join(root, r.path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, name := range r.links {
		if _, err := os.Stat(filepath.Join(root, "usr/bin", name)); err != nil {
			return err
		}
		if err := os.Symlink("/usr/bin/"+name, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// definition is what apptainer builds from, in the folder that has the packages'
// files in root. It has no %post: root of a virtual machine may lack the
// capabilities that one needs.
func (r *recipe) definition() string {
	var b strings.Builder
	b.WriteString("Bootstrap: localimage\nFrom: ./root\n\n%environment\n")
	search := "/usr/local/bin:/usr/bin:/bin"
	if r.path != "" {
		fmt.Fprintf(&b, "export DEPLOY_PATH=%s\n", r.path)
		search = r.path + ":" + search
	}
	if len(r.bins) > 0 {
		fmt.Fprintf(&b, "export DEPLOY_BINS=%s\n", strings.Join(r.bins, ":"))
	}
	for _, name := range slices.Sorted(maps.Keys(r.deploy)) {
		fmt.Fprintf(&b, "export %s=%s\n", name, r.deploy[name])
	}
	fmt.Fprintf(&b, "export PATH=%s\n", search)
	return b.String()
}

// describe puts beside the image what Neurodesk puts there: the exposed
// commands, the variables for the host, and the marks of the nested catalogs.
func (r *recipe) describe(dir, image, name string) error {
	var env strings.Builder
	for _, key := range slices.Sorted(maps.Keys(r.deploy)) {
		fmt.Fprintf(&env, "%s=%s\n", key, r.deploy[key])
	}
	commands := strings.Join(slices.Sorted(slices.Values(slices.Concat(r.links, r.bins))), "\n") + "\n"
	readme := fmt.Sprintf("# %s\n\n%s Made by the demo from Debian's package %s.\n", name, r.summary, r.pkg)
	files := map[string]string{
		filepath.Join(dir, "commands.txt"): commands,
		filepath.Join(dir, "env.txt"):      env.String(),
		filepath.Join(dir, "README.md"):    readme,
		filepath.Join(image, "README.md"):  readme,
	}
	for _, at := range []string{dir, image, filepath.Join(image, "usr"), filepath.Join(image, "usr/lib"), filepath.Join(image, "usr/share")} {
		files[filepath.Join(at, ".cvmfscatalog")] = ""
	}
	for file, text := range files {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// removeAll removes a tree although packages may bring directories that their
// owner cannot write to.
func removeAll(dir string) error {
	filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			os.Chmod(p, 0o755)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
