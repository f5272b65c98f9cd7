package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// signedImages makes, with apptainer, a folder with an image that is signed, one
// that is not, and one that was signed and then altered; and a keyring.
func signedImages(t *testing.T) (dir, keyring string) {
	t.Helper()
	top := shortDir(t)
	dir = filepath.Join(top, "shelf")
	keys := filepath.Join(top, "keys")
	script := fmt.Sprintf(`set -e
export APPTAINER_KEYSDIR='%[1]s/keys'
mkdir -p '%[1]s/root/bin' '%[1]s/root/usr/local/bin' '%[1]s/root/etc' '%[1]s/shelf'
cp /bin/busybox '%[1]s/root/bin/'
ln -s busybox '%[1]s/root/bin/sh'
ln -s busybox '%[1]s/root/bin/test'
printf '#!/bin/sh\necho it runs\n' > '%[1]s/root/usr/local/bin/hello'
chmod 755 '%[1]s/root/usr/local/bin/hello'
cd '%[1]s/shelf'
apptainer --quiet build good_1.0_20240101.sif '%[1]s/root'
cp good_1.0_20240101.sif plain_1.0_20240101.sif
apptainer key newpair --name Ann --email ann@example.org --comment test --password '' --push=false --bit-length 2048
apptainer sign --keyidx 0 good_1.0_20240101.sif
cp good_1.0_20240101.sif altered_1.0_20240101.sif
printf X | dd of=altered_1.0_20240101.sif bs=1 seek=500000 conv=notrunc
chmod 644 * "$APPTAINER_KEYSDIR/pgp-public"
chmod 755 "$APPTAINER_KEYSDIR"
`, top)
	if r := run(t, exec.Command("bash", "-c", script)); r.Status != 0 {
		t.Fatal(r.Stderr)
	}
	return dir, filepath.Join(keys, "pgp-public")
}

// flatShelf publishes the images of a folder as a flat repository.
func flatShelf(t *testing.T, dir string) source {
	t.Helper()
	tree := cvmfstest.NewTree()
	for _, app := range []string{"good", "plain", "altered"} {
		b, err := os.ReadFile(filepath.Join(dir, app+"_1.0_20240101.sif"))
		if err != nil {
			t.Fatal(err)
		}
		tree.File("all/"+app+":1.0_20240101", b, 0o644)
	}
	_, _, src := newStratum(t).publish(cvmfstest.Options{FQRN: "signed.example.org", ChunkSize: 1 << 18}, tree)
	src.Layout = "flat"
	return src
}

// TestLaunchVerifiedImages: of single-file images in every kind of source, those
// without a good signature are used with a warning, or are not used, as the
// configuration says; whoever starts one is told why.
func TestLaunchVerifiedImages(t *testing.T) {
	needApptainer(t)
	dir, keyring := signedImages(t)
	list := "good_1.0_20240101.sif\nplain_1.0_20240101.sif\naltered_1.0_20240101.sif\n"
	if err := os.WriteFile(filepath.Join(dir, "list.txt"), []byte(list), 0o644); err != nil {
		t.Fatal(err)
	}
	sources := map[string]source{"folder": {Kind: "dir", Path: dir}, "http": shelfSource(startFileServer(t, dir).addr), "flat": flatShelf(t, dir)}
	for name, src := range sources {
		t.Run(name+", required", func(t *testing.T) {
			s := setup{Sources: []source{src}, Verify: fmt.Sprintf("mode = \"require\"\nkeyring = %q\n", keyring)}
			m := mount(t, s)
			m.Indexed()
			if r := m.Run(m.Path("apps/good/default/bin/hello")); r.Status != 0 || r.Stdout != "it runs\n" {
				t.Errorf("the signed image: %+v", r)
			}
			for app, why := range map[string]string{"plain": "it has no signature", "altered": "it is not what was signed"} {
				r := m.Run(m.Path("apps", app, "default/bin", app))
				if r.Status != 125 || !strings.Contains(r.Stderr, why) || !strings.Contains(r.Stderr, keyring) || !strings.Contains(r.Stderr, app) {
					t.Errorf("%s: %+v", app, r)
				}
				if exists(m.Path("apps", app, "default/bin/hello")) {
					t.Errorf("%s: its commands are shown", app)
				}
				if _, err := os.ReadDir(m.Path("apps", app, "default/rootfs/bin")); err == nil {
					t.Errorf("%s: its files are shown", app)
				}
				r = neurodeskfs(t, "exec", "--mount", m.Dir, app, "--", "sh", "-c", "echo it runs")
				if r.Status != 125 || strings.Contains(r.Stdout, "it runs") || !strings.Contains(r.Stderr, why) {
					t.Errorf("exec %s: %+v", app, r)
				}
			}
			r := neurodeskfs(t, "status", m.Dir)
			if !strings.Contains(r.Stdout, "require: 1 images have a good one, 2 do not") || !strings.Contains(r.Stdout, "plain") {
				t.Errorf("status: %s", r.Stdout)
			}
		})
	}
	t.Run("locked", func(t *testing.T) { checkLockedRefusal(t, sources["flat"], keyring) })
	t.Run("warned of", func(t *testing.T) {
		m := mount(t, setup{Sources: []source{sources["folder"]}, Verify: fmt.Sprintf("mode = \"warn\"\nkeyring = %q\n", keyring)})
		m.Indexed()
		for range 2 {
			for _, app := range []string{"good", "plain"} {
				if r := m.Run(m.Path("apps", app, "default/bin/hello")); r.Status != 0 || r.Stdout != "it runs\n" || r.Stderr != "" {
					t.Errorf("%s: %+v", app, r)
				}
			}
		}
		eventually(t, "both were verified", func() bool {
			return strings.Contains(neurodeskfs(t, "status", m.Dir).Stdout, "warn: 1 images have a good one, 1 do not")
		})
		if n := strings.Count(m.Log(), "an image has no good signature"); n != 1 {
			t.Errorf("%d warnings", n)
		}
	})
	t.Run("no keyring", func(t *testing.T) {
		for text, want := range map[string]string{
			"mode = \"require\"\n":                                 "keyring is missing",
			"mode = \"require\"\nkeyring = \"/etc/passwd\"\n":      "gpg --export",
			"mode = \"sometimes\"\n":                               `mode "sometimes" is not known`,
			"mode = \"warn\"\nkeyring = \"/does/not/exist.asc\"\n": "no such file",
		} {
			if r := refused(t, setup{Sources: []source{sources["folder"]}, Verify: text}); r.Status != 2 || !strings.Contains(r.Stderr, want) {
				t.Errorf("%q: %+v", text, r)
			}
		}
	})
}

// checkLockedRefusal starts commands of an image that was locked before signatures
// were required: among today's images, and in its revision only.
func checkLockedRefusal(t *testing.T, src source, keyring string) {
	t.Helper()
	file := filepath.Join(shortDir(t), "neurodesk.lock")
	before := mount(t, setup{Sources: []source{src}})
	before.Indexed()
	wantRun(t, 0, "lock", "--mount", before.Dir, "--file", file, "plain")
	m := mount(t, setup{Sources: []source{src}, Verify: fmt.Sprintf("mode = \"require\"\nkeyring = %q\n", keyring)})
	m.Indexed()
	for _, version := range []string{"1.0", "0.9"} { // of the second only the revision is left
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(strings.Replace(string(text), `version = "1.0"`, fmt.Sprintf("version = %q", version), 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		r := neurodeskfs(t, "exec", "--mount", m.Dir, "--lock", file, "plain", "--", "sh", "-c", "echo it runs")
		if r.Status != 125 || r.Stdout != "" || !strings.Contains(r.Stderr, "it has no signature") {
			t.Errorf("version %s: %+v", version, r)
		}
		c := m.Command(m.Path("bin/plain"))
		c.Env = append(c.Env, "NEURODESK_LOCK="+file)
		if r := run(t, c); r.Status != 125 || !strings.Contains(r.Stderr, "it has no signature") || !strings.Contains(r.Stderr, keyring) {
			t.Errorf("version %s by its name: %+v", version, r)
		}
	}
}
