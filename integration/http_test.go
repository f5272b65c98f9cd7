package integration

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// startFileServer serves a directory as object storage does: plain files, by
// ranges, with ETags.
func startFileServer(t *testing.T, root string) *server {
	t.Helper()
	program, dir := serverProgram(t, "nginx"), shortDir(t)
	s := &server{addr: fmt.Sprintf("127.0.0.1:%d", freePort(t)), log: filepath.Join(dir, "access.log")}
	config := fmt.Sprintf(`daemon off; worker_processes 1; pid %[1]s/pid; error_log %[1]s/error.log;
events { worker_connections 256; }
http {
  log_format ranges '$request $status "$http_range" $body_bytes_sent';
  access_log %[1]s/access.log ranges; sendfile on; default_type application/octet-stream;
  client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  server { listen %[2]s; root %[3]s; }
}
`, dir, s.addr, root)
	s.cmd = exec.Command(program, "-c", writeConfig(t, dir, config), "-e", filepath.Join(dir, "error.log"))
	s.start(t, syscall.SIGTERM)
	return s
}

// imageShelf is a directory with the golden single-file images and a list of
// them, partly as in Neurodesk's log.txt.
func imageShelf(t *testing.T) (dir string, raw *mounted) {
	t.Helper()
	src := newStratum(t).Golden("galaxy.golden.test")
	src.Layout = "flat"
	raw = mount(t, setup{Sources: []source{src}})
	dir = filepath.Join(shortDir(t), "shelf")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	list := "# images\n"
	for _, row := range goldenImageRows(t) {
		name := path.Base(row.path)
		copyImage(t, raw, name, filepath.Join(dir, name))
		list += name + " categories:image formats,statistics,\n"
	}
	copyImage(t, raw, "dcm2niix:1.0.20220720--h2bc3f7f_1", filepath.Join(dir, "dcm2niix_1.0.20220720_20240101.simg"))
	list += "dcm2niix_1.0.20220720_20240101.simg\n./gone_1.0_20240101.sif\nREADME.md\n"
	if err := os.WriteFile(filepath.Join(dir, "list.txt"), []byte(list), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, raw
}

// shelfSource is a shelf on a server.
func shelfSource(addr string) source {
	return source{Kind: "http", Name: "shelf", URL: "http://" + addr + "/@image@", Index: "http://" + addr + "/list.txt"}
}

// TestGoldenImagesOverHTTP types each command of the golden list in images that
// a web server has, as root and as an ordinary user.
func TestGoldenImagesOverHTTP(t *testing.T) {
	needApptainer(t)
	dir, _ := imageShelf(t)
	nginx := startFileServer(t, dir)
	m := mount(t, setup{Sources: []source{shelfSource(nginx.addr)}})
	m.Indexed()
	for at, want := range map[string]string{
		"apps":          "busybox dcm2niix gone mrtrix3 nifti-bin oddfiles oldtool pytools",
		"bin":           "dcm2niix gone mrtrix3 nifti-bin oddfiles oldtool pytools", // busybox is the host's
		"apps/dcm2niix": "1.0.20220720 1.0.20220720--h2bc3f7f_0 1.0.20220720--h2bc3f7f_1 1.0.20220720_20240101 default",
		"apps/gone":     "1.0 1.0_20240101 default",
		"cvmfs":         "",
	} {
		if got := names(t, m.Path(at)); got != want {
			t.Errorf("ls %s: %q, want %q", at, got, want)
		}
	}
	for _, name := range strings.Fields(names(t, m.Path("bin"))) { // as ls -l does
		if fi, err := os.Stat(m.Path("bin", name)); err != nil || fi.Size() == 0 {
			t.Errorf("bin/%s: %v, %v", name, fi, err)
		}
	}
	if log := nginx.lines(t); len(log) != 1 || !strings.Contains(log[0], "/list.txt") {
		t.Errorf("listings asked for:\n%s", strings.Join(log, ""))
	}
	if exists(m.Path("apps/gone/1.0_20240101/rootfs")) || names(t, m.Path("apps/gone")) != "default" && exists(m.Path("apps/gone/default/bin")) {
		t.Error("an image that the server does not have is shown")
	}
	t.Run("rows", func(t *testing.T) {
		for i, row := range goldenCommands(t, "galaxy.golden.test") {
			app := strings.Replace(path.Base(row.image), ":", "/", 1)
			for _, uid := range []int{0, 1000} {
				t.Run(fmt.Sprintf("%02d %s as %d", i+1, path.Base(row.command), uid), func(t *testing.T) {
					t.Parallel()
					checkAs(t, row, m.imageCommand(t, row, app), uid)
				})
			}
		}
	})
	checkBlocksOnce(t, nginx)
	sif, err := hashFile(m.Path("apps/mrtrix3/default/image.sif"))
	want, wantErr := hashFile(filepath.Join(dir, "mrtrix3:3.0.3--h4bd325d_0"))
	if err != nil || wantErr != nil || sif != want {
		t.Errorf("image.sif is not the image: %v, %v", err, wantErr)
	}
	checkShelfCommands(t, m, nginx)
}

// checkBlocksOnce: no part of any image was asked for twice.
func checkBlocksOnce(t *testing.T, s *server) {
	t.Helper()
	seen := map[string]bool{}
	for _, line := range s.lines(t, " 206 ") {
		request, _, _ := strings.Cut(line, "\" ")
		if seen[request] {
			t.Errorf("asked for twice: %s", line)
		}
		seen[request] = true
	}
	if len(seen) < 20 {
		t.Errorf("%d requests by range only", len(seen))
	}
}

// checkShelfCommands asks our own commands about the source.
func checkShelfCommands(t *testing.T, m *mounted, nginx *server) {
	t.Helper()
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"list", "--mount", m.Dir}, []string{"mrtrix3 ", "3.0.3--h4bd325d_0", "20240101"}},
		{[]string{"search", "--mount", m.Dir, "mrtrix"}, []string{"mrtrix3"}},
		{[]string{"info", "--mount", m.Dir, "mrtrix3"}, []string{"http://" + nginx.addr + "/mrtrix3:3.0.3--h4bd325d_0", "mrinfo"}},
		{[]string{"which", "--all", "--mount", m.Dir, "dcm2niix"}, []string{"dcm2niix/1.0.20220720_20240101", "dcm2niix/1.0.20220720--h2bc3f7f_0"}},
		{[]string{"status", m.Dir}, []string{"source       shelf", "images at  http://" + nginx.addr + "/@image@"}},
		{[]string{"reload", m.Dir}, []string{"shelf is shown as its list and its images are now"}},
		{[]string{"config", "validate", m.Config}, []string{"sources: shelf"}},
		{[]string{"config", "show", "--config", m.Config}, []string{`kind = "http"`, `index = "http://` + nginx.addr + `/list.txt"`}},
	} {
		r := neurodeskfs(t, c.args...)
		for _, want := range c.want {
			if r.Status != 0 || !strings.Contains(r.Stdout, want) {
				t.Errorf("%q: status %d, no %q in\n%s%s", c.args, r.Status, want, r.Stdout, r.Stderr)
			}
		}
	}
	r := neurodeskfs(t, "doctor", "--network", "--config", m.Config, "--cache", shortDir(t))
	if !strings.Contains(r.Stdout, "ok    shelf server") || strings.Contains(r.Stdout, "fail  shelf") {
		t.Errorf("doctor: %s%s", r.Stdout, r.Stderr)
	}
	lock := filepath.Join(shortDir(t), "neurodesk.lock")
	if r := wantRun(t, 0, "lock", "--mount", m.Dir, "--file", lock, "dcm2niix/1.0.20220720_20240101"); !strings.Contains(r.Stdout, "runs as long as shelf has this very file") {
		t.Errorf("lock: %+v", r)
	}
	if r := wantRun(t, 0, "lock", "--check", "--mount", m.Dir, "--file", lock); !strings.Contains(r.Stdout, "the same") {
		t.Errorf("lock --check: %+v", r)
	}
	wantRun(t, 0, "exec", "--mount", m.Dir, "--lock", lock, "dcm2niix", "--", "true")
	r = neurodeskfs(t, "check", "--mount", m.Dir, "mrtrix3")
	for _, want := range []string{"image.sif", "declared by DEPLOY_PATH", "dwigradcheck"} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("check: no %q in %+v", want, r)
		}
	}
	// The files in bin say nothing of the images: the launcher finds out.
	if r := m.Run(m.Path("bin/dcm2niix"), "--version"); !strings.Contains(r.Stdout, "dcm2niiX version") || r.Stderr != "" {
		t.Errorf("bin/dcm2niix: %+v", r)
	}
	if r := m.Run(m.Path("bin/gone")); r.Status != 127 || !strings.Contains(r.Stderr, "the server does not have its image, http://"+nginx.addr+"/gone_1.0_20240101.sif") {
		t.Errorf("bin/gone: %+v", r)
	}
	b, err := os.ReadFile(m.Path("modules/mrtrix3/3.0.3--h4bd325d_0.lua"))
	if err != nil || !strings.Contains(string(b), "image formats") {
		t.Errorf("the module has no categories: %v\n%s", err, b)
	}
}

// TestMountHTTPImageIsReplaced: what runs from an image that was replaced on the
// server gets what is cached and else an error, with one line in the log; new
// look-ups show the new one, within one refresh.
func TestMountHTTPImageIsReplaced(t *testing.T) {
	dir, raw := imageShelf(t)
	nginx := startFileServer(t, dir)
	m := mount(t, setup{Sources: []source{shelfSource(nginx.addr)}})
	m.Indexed()
	root, err := filepath.EvalSymlinks(m.Path("apps/mrtrix3/default/rootfs"))
	if err != nil {
		t.Fatal(err)
	}
	sif, err := os.Open(m.Path("apps/mrtrix3/default/image.sif"))
	if err != nil {
		t.Fatal(err)
	}
	defer sif.Close()
	st, err := sif.Stat()
	if err != nil {
		t.Fatal(err)
	}
	replaced := filepath.Join(dir, "mrtrix3:3.0.3--h4bd325d_0")
	copyImage(t, raw, "pytools:3.11--pyhdfd78af_0", replaced)
	if n, err := sif.ReadAt(make([]byte, 10), st.Size()/2); n != 0 || err == nil {
		t.Errorf("%d bytes of the middle, which is not cached: %v", n, err)
	}
	if _, err := sif.ReadAt(make([]byte, 10), 0); err != nil {
		t.Errorf("the beginning, which is cached: %v", err)
	}
	eventually(t, "the new image is shown", func() bool {
		now, err := filepath.EvalSymlinks(m.Path("apps/mrtrix3/default/rootfs"))
		return err == nil && now != root
	})
	got, err := hashFile(m.Path("apps/mrtrix3/default/image.sif"))
	want, wantErr := hashFile(replaced)
	if err != nil || wantErr != nil || got != want {
		t.Errorf("image.sif is not the new image: %v, %v", err, wantErr)
	}
	if n := strings.Count(m.Log(), "was replaced on the server"); n != 1 {
		t.Errorf("%d lines in the log", n)
	}
}

// TestMountHTTPOffline: what is cached goes on working without the server, after
// a new mount too; without a cache status says what is wrong.
func TestMountHTTPOffline(t *testing.T) {
	dir, _ := imageShelf(t)
	nginx := startFileServer(t, dir)
	src := shelfSource(nginx.addr)
	m := mount(t, setup{Sources: []source{src}})
	m.Indexed()
	const file = "apps/busybox/default/rootfs/bin/busybox"
	want, err := hashFile(m.Path(file))
	if err != nil {
		t.Fatal(err)
	}
	m.Unmount()
	nginx.end(t, syscall.SIGTERM)
	again := mount(t, setup{Sources: []source{src}, Cache: m.Cache})
	again.Indexed()
	if got, err := hashFile(again.Path(file)); err != nil || got != want {
		t.Errorf("offline: %v", err)
	}
	if !strings.Contains(names(t, again.Path("apps")), "mrtrix3") {
		t.Errorf("apps: %s", names(t, again.Path("apps")))
	}
	empty := mount(t, setup{Sources: []source{src}})
	eventually(t, "status says that the list cannot be had", func() bool {
		return strings.Contains(empty.Status().Sources[0].Error, "the list of images")
	})
	if r := neurodeskfs(t, "status", empty.Dir); !strings.Contains(r.Stdout, "offline") || !strings.Contains(r.Stdout, nginx.addr) {
		t.Errorf("status: %s", r.Stdout)
	}
}

// TestMountHTTPServerWithoutRanges: a server that cannot answer ranges is no
// object storage, and the message says so.
func TestMountHTTPServerWithoutRanges(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/list.txt" {
			fmt.Fprintln(w, "tool_1.0_20240101.sif")
			return
		}
		w.Write(slices.Repeat([]byte("x"), 100000))
	}))
	defer s.Close()
	m := mount(t, setup{Sources: []source{shelfSource(strings.TrimPrefix(s.URL, "http://"))}})
	m.Indexed()
	if _, err := os.Stat(m.Path("apps/tool/default/rootfs")); err == nil {
		t.Error("the image is shown")
	}
	if log := m.Log(); !strings.Contains(log, "the server must answer ranges") || !strings.Contains(log, "tool_1.0_20240101") {
		t.Errorf("the log does not say why:\n%s", log)
	}
}
