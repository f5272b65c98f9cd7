package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

const networkRepo = "network.example.org"

// installed finds a server's program. Without it, or as an ordinary user, the test
// is skipped; in CI a missing program fails it.
func installed(t *testing.T, name string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can start " + name + " as it runs in life")
	}
	return serverProgram(t, name)
}

// serverProgram is installed for what an ordinary user can start too.
func serverProgram(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/usr/local/sbin") {
		if fi, err := os.Stat(filepath.Join(dir, name)); err == nil && fi.Mode()&0o111 != 0 {
			return filepath.Join(dir, name)
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed: run make deps", name)
	}
	t.Skip(name + " is not installed")
	return ""
}

// freePort is a port of the loopback interface on which nobody listens.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// server is a program that was started in the foreground.
type server struct {
	addr   string
	log    string // file of requests
	cmd    *exec.Cmd
	ended  chan struct{}
	output bytes.Buffer // to be read when it has ended
}

// start runs a server until the test ends, and returns when it listens.
func (s *server) start(t *testing.T, stop syscall.Signal) {
	t.Helper()
	s.cmd.Stdout, s.cmd.Stderr = &s.output, &s.output
	s.ended = make(chan struct{})
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(s.ended); s.cmd.Wait() }()
	t.Cleanup(func() {
		s.end(t, stop)
		if t.Failed() {
			t.Logf("%s wrote: %s", s.cmd.Path, s.output.String())
		}
	})
	eventually(t, s.cmd.Path+" listens", func() bool {
		select {
		case <-s.ended:
			t.Fatalf("%s has ended: %s", s.cmd.Path, s.output.String())
		default:
		}
		conn, err := net.Dial("tcp", s.addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// end stops the server, if it still runs, and waits for its end.
func (s *server) end(t *testing.T, signal syscall.Signal) {
	t.Helper()
	s.cmd.Process.Signal(signal)
	select {
	case <-s.ended:
	case <-time.After(10 * time.Second):
		t.Errorf("%s does not end by %v", s.cmd.Path, signal)
		s.cmd.Process.Kill()
		<-s.ended
	}
}

// lines are the lines of the log that contain all parts.
func (s *server) lines(t *testing.T, parts ...string) (lines []string) {
	t.Helper()
	b, err := os.ReadFile(s.log)
	if err != nil {
		t.Fatal(err)
	}
next:
	for line := range strings.Lines(string(b)) {
		for _, part := range parts {
			if !strings.Contains(line, part) {
				continue next
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// startNginx serves root as a Stratum 1 does; what slow names, at 2 MB/s.
func startNginx(t *testing.T, root, slow string) *server {
	t.Helper()
	program, dir := installed(t, "nginx"), shortDir(t)
	s := &server{addr: fmt.Sprintf("127.0.0.1:%d", freePort(t)), log: filepath.Join(dir, "access.log")}
	config := fmt.Sprintf(`daemon off; worker_processes 1; pid %[1]s/pid; error_log %[1]s/error.log;
events { worker_connections 256; }
http {
  access_log %[1]s/access.log; sendfile on; default_type application/octet-stream;
  client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  server { listen %[2]s; root %[3]s;
    location ~ %[4]s$ { limit_rate 2m; add_header Cache-Control "max-age=259200"; }
    location ~ /data/ { add_header Cache-Control "max-age=259200"; }
    location ~ /\.cvmfs(published|whitelist)$ { add_header Cache-Control "max-age=61"; } }
}
`, dir, s.addr, root, slow)
	s.cmd = exec.Command(program, "-c", writeConfig(t, dir, config), "-e", filepath.Join(dir, "error.log"))
	s.start(t, syscall.SIGTERM)
	return s
}

// startSquid starts a forward proxy for loopback with a cache in memory.
func startSquid(t *testing.T) *server {
	t.Helper()
	program, dir := installed(t, "squid"), shortDir(t)
	if err := os.Chmod(dir, 0o777); err != nil { // it runs as a user of its own
		t.Fatal(err)
	}
	s := &server{addr: fmt.Sprintf("127.0.0.1:%d", freePort(t)), log: filepath.Join(dir, "access.log")}
	config := fmt.Sprintf(`http_port %[2]s
http_access allow localhost
http_access deny all
cache_mem 128 MB
maximum_object_size_in_memory 32 MB
collapsed_forwarding on
pid_filename none
netdb_filename none
access_log stdio:%[1]s/access.log
cache_log %[1]s/cache.log
coredump_dir %[1]s
shutdown_lifetime 0 seconds
visible_hostname localhost
pinger_enable off
`, dir, s.addr)
	s.cmd = exec.Command(program, "-N", "-f", writeConfig(t, dir, config))
	s.start(t, syscall.SIGTERM)
	return s
}

func writeConfig(t *testing.T, dir, text string) string {
	t.Helper()
	file := filepath.Join(dir, "server.conf")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// site is a repository as files, with the sums of what is in it.
type site struct {
	root   string // of the web server
	key    string // file
	sums   map[string][sha256.Size]byte
	big    string // path of the big file
	object string // of the big file, below the repository's URL
}

// publishSite publishes small files and a big one, none of which can be compressed.
func publishSite(t *testing.T) *site {
	t.Helper()
	s := &site{root: shortDir(t), key: filepath.Join(shortDir(t), "key.pub"), sums: map[string][sha256.Size]byte{}, big: "big"}
	random := rand.NewChaCha8([32]byte{1})
	tree := cvmfstest.NewTree()
	add := func(path string, size int) {
		content := make([]byte, size)
		random.Read(content)
		tree.File(path, content, 0o644)
		s.sums[path] = sha256.Sum256(content)
	}
	for i := range 20 {
		add(fmt.Sprintf("dir%d/file%d", i%3, i), 50_000+i)
	}
	tree.Nested("dir1")
	add(s.big, 6_000_000)
	repo, err := cvmfstest.New(cvmfstest.Options{FQRN: networkRepo, Store: cvmfstest.NewDirStore(filepath.Join(s.root, "cvmfs", networkRepo))})
	if err != nil {
		t.Fatal(err)
	}
	rev, err := repo.Publish(t.Context(), tree, "")
	if err != nil {
		t.Fatal(err)
	}
	s.object = rev.Objects(s.big)[0]
	pem, err := repo.Keys.MasterPEM()
	if err == nil {
		err = os.WriteFile(s.key, pem, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// mount mounts the repository with a new cache.
func (s *site) mount(t *testing.T, proxies string, servers ...*server) *mounted {
	t.Helper()
	src := source{FQRN: networkRepo, Keys: s.key, Layout: "none", Proxies: proxies}
	for _, w := range servers {
		src.Servers = append(src.Servers, "http://"+w.addr+"/cvmfs/@fqrn@")
	}
	return mount(t, setup{Sources: []source{src}})
}

// read compares all files but the big one.
func (s *site) read(t *testing.T, m *mounted) {
	t.Helper()
	for path, want := range s.sums {
		if path == s.big {
			continue
		}
		b, err := os.ReadFile(m.Raw(networkRepo, path))
		if err != nil || sha256.Sum256(b) != want {
			t.Errorf("%s: %v, or another content", path, err)
		}
	}
}

// TestNetworkSecondNode: what one node has fetched, squid has for the next.
func TestNetworkSecondNode(t *testing.T) {
	s := publishSite(t)
	nginx, squid := startNginx(t, s.root, s.object), startSquid(t)
	first := s.mount(t, "http://"+squid.addr, nginx)
	s.read(t, first)
	requests := first.Status().Sources[0].HTTPRequests
	first.Unmount()
	var asked int
	eventually(t, "squid has logged all requests", func() bool {
		asked = len(squid.lines(t, networkRepo))
		return uint64(asked) == requests
	})
	served := len(nginx.lines(t, "GET /cvmfs/"+networkRepo))
	if served != asked || asked < len(s.sums)+3 || len(squid.lines(t, networkRepo, "HIT")) != 0 {
		t.Errorf("the first node: %d requests to squid, %d to nginx:\n%s", asked, served, strings.Join(squid.lines(t), ""))
	}

	second := s.mount(t, "http://"+squid.addr, nginx)
	s.read(t, second)
	requests = second.Status().Sources[0].HTTPRequests
	if r := second.Status().Sources[0]; r.HTTPErrors != 0 || r.VerifyFailures != 0 {
		t.Errorf("%+v", r)
	}
	second.Unmount()
	eventually(t, "squid has logged all requests", func() bool {
		return uint64(len(squid.lines(t, networkRepo))-asked) == requests
	})
	if hits := len(squid.lines(t, networkRepo, "HIT/200")); uint64(hits) != requests || len(nginx.lines(t, "GET /cvmfs/"+networkRepo)) != served {
		t.Errorf("the second node: %d hits of %d requests; nginx was asked %d times more:\n%s", hits, requests,
			len(nginx.lines(t, "GET /cvmfs/"+networkRepo))-served, strings.Join(squid.lines(t), ""))
	}
}

// TestNetworkSquidKilled: a read goes on by the next way when the proxy dies in
// the middle of its download.
func TestNetworkSquidKilled(t *testing.T) {
	for name, next := range map[string]bool{"another proxy": true, "DIRECT": false} {
		t.Run(name, func(t *testing.T) {
			s := publishSite(t)
			nginx, squid := startNginx(t, s.root, s.object), startSquid(t)
			proxies := "http://" + squid.addr + ";DIRECT"
			var other *server
			if next {
				other = startSquid(t)
				proxies = "http://" + squid.addr + ";http://" + other.addr
			}
			m := s.mount(t, proxies, nginx)
			before := m.Status().Sources[0].HTTPBytes
			type outcome struct {
				content []byte
				err     error
			}
			done := make(chan outcome, 1)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				b, err := exec.CommandContext(ctx, "cat", m.Raw(networkRepo, s.big)).Output()
				done <- outcome{b, err}
			}()
			eventually(t, "the download is under way", func() bool { return m.Status().Sources[0].HTTPBytes-before > 200_000 })
			if n := m.Status().Sources[0].HTTPBytes - before; n > 5_000_000 {
				t.Fatalf("%d bytes are there already: nginx was not slow", n)
			}
			squid.end(t, syscall.SIGKILL)
			got := <-done
			if got.err != nil || sha256.Sum256(got.content) != s.sums[s.big] {
				t.Errorf("%v, %d bytes", got.err, len(got.content))
			}
			if n := len(nginx.lines(t, s.object, " 200 6")); n != 1 {
				t.Errorf("nginx has sent the whole object %d times:\n%s", n, strings.Join(nginx.lines(t), ""))
			}
			if next && len(other.lines(t, s.object)) != 1 {
				t.Errorf("the next proxy was asked for:\n%s", strings.Join(other.lines(t), ""))
			}
			if log := m.Log(); strings.Count(log, "going on to the next server or proxy") != 1 {
				t.Errorf("the daemon logged:\n%s", log)
			}
			s.read(t, m)
			if st := m.Status(); st.IOErrors != 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}
