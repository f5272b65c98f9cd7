package integration

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
	"github.com/neurodesk/neurodeskfs/integration/golden"
)

// xattr reads an extended attribute of path itself, links not followed.
func xattr(path, name string) (string, error) {
	b := make([]byte, 64<<10)
	n, err := unix.Lgetxattr(path, name, b)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}

func wantXattr(t *testing.T, path, name, want string) {
	t.Helper()
	got, err := xattr(path, name)
	if err != nil || got != want {
		t.Errorf("%s of %s: %q, %v, want %q", name, filepath.Base(path), got, err, want)
	}
}

func noXattr(t *testing.T, path, name string) {
	t.Helper()
	if got, err := xattr(path, name); !errors.Is(err, unix.ENODATA) {
		t.Errorf("%s of %s: %q, %v, want ENODATA", name, filepath.Base(path), got, err)
	}
}

func listXattrs(t *testing.T, path string) []string {
	t.Helper()
	b := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, b)
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b[:n]), "\x00"), "\x00")
}

// manifestField is what the newest manifest of a golden repository says.
func manifestField(t *testing.T, fqrn string, letter byte) string {
	t.Helper()
	b, err := os.ReadFile(golden.Path(t, goldenSet(t, fqrn), fqrn, ".cvmfspublished"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if line[0] == letter {
			return strings.TrimSuffix(line[1:], "\n")
		}
	}
	t.Fatalf("the manifest of %s has no field %c", fqrn, letter)
	return ""
}

// magicNames are what the repository's root directory lists, less the prefix.
var magicNames = strings.Fields("fqrn revision root_hash host host_list proxy proxy_list expires tag version pid uptime nioerr repo_metainfo " +
	"external_url nclg ndownload rx")

func isMagic(name string) bool {
	return slices.Contains(magicNames, strings.TrimPrefix(name, "user."))
}

// TestMountMagicXattrsOfTheRepository reads what every path has.
func TestMountMagicXattrsOfTheRepository(t *testing.T) {
	const fqrn = "alpha.golden.test"
	s := newStratum(t)
	src := s.Golden(fqrn)
	src.Servers = append(src.Servers, "http://127.0.0.1:9/cvmfs/@fqrn@")
	m := mount(t, setup{Sources: []source{src}})
	root := m.Raw(fqrn)
	pid := strconv.Itoa(m.Status().Worker.PID)
	for _, path := range []string{root, m.Raw(fqrn, "README.txt"), m.Raw(fqrn, "xattr")} {
		for name, want := range map[string]string{
			"fqrn": fqrn, "revision": manifestField(t, fqrn, 'S'), "root_hash": manifestField(t, fqrn, 'C'),
			"tag": "", "pid": pid, "nioerr": "0", "proxy": "DIRECT", "proxy_list": "DIRECT",
			"version": m.Status().Version, "uptime": "0",
			"host": s.RepositoryURL(fqrn), "host_list": s.RepositoryURL(fqrn) + ";http://127.0.0.1:9/cvmfs/" + fqrn,
		} {
			wantXattr(t, path, "user."+name, want)
		}
		if n, err := strconv.Atoi(must(t)(xattr(path, "user.expires"))); err != nil || n < 2 || n > 4 {
			t.Errorf("expires in %d minutes of 4, %v", n, err)
		}
		if meta := must(t)(xattr(path, "user.repo_metainfo")); !strings.Contains(meta, "{") {
			t.Errorf("repo_metainfo is %q", meta)
		}
	}
	listed := listXattrs(t, root)
	for _, name := range magicNames {
		if !slices.Contains(listed, "user."+name) {
			t.Errorf("user.%s is not listed: %v", name, listed)
		}
	}
	for _, name := range listed {
		if _, err := xattr(root, name); err != nil {
			t.Errorf("%s is listed and cannot be read: %v", name, err)
		}
	}
	for _, path := range []string{m.Raw(fqrn, "README.txt"), m.Raw(fqrn, "xattr"), m.Dir, m.Path("cvmfs")} {
		if names := listXattrs(t, path); len(names) > 0 {
			t.Errorf("%s lists %v", path, names)
		}
	}
	noXattr(t, m.Dir, "user.fqrn")
}

func must(t *testing.T) func(string, error) string {
	return func(s string, err error) string {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
		return s
	}
}

// TestMountMagicXattrsOfFiles reads what files and links have.
func TestMountMagicXattrsOfFiles(t *testing.T) {
	s := newStratum(t)
	tree := cvmfstest.NewTree()
	content := bytes.Repeat([]byte("0123456789abcdef"), 4<<10) // 64 KiB in 16 chunks
	tree.File("chunked", content, 0o644)
	small := tree.File("small", []byte("hello\n"), 0o644)
	small.Xattrs = map[string]string{"user.mine": "stays", "user.hash": "hidden", "user.rawlink": "stored"}
	tree.File("dir/empty", nil, 0o644)
	tree.Symlink("link", "$(NDTEST_UNSET:-small)")
	repo, _, src := s.publish(cvmfstest.Options{FQRN: "magic.example.org", ChunkSize: 4 << 10, Plain: true}, tree)
	m := mount(t, setup{Sources: []source{src}})
	at := func(p string) string { return m.Raw(repo.FQRN, p) }

	wantXattr(t, at("chunked"), "user.chunks", "16")
	wantXattr(t, at("small"), "user.chunks", "1")
	noXattr(t, at("dir"), "user.chunks")
	noXattr(t, at("chunked"), "user.hash") // it is not one object
	list := strings.Split(must(t)(xattr(at("chunked"), "user.chunk_list")), "\n")
	if len(list) != 18 || list[0] != "hash,offset,size" || !strings.HasSuffix(list[16], ",61440,4096") || list[17] != "" {
		t.Errorf("chunk_list is %q", list)
	}
	hash := must(t)(xattr(at("small"), "user.hash"))
	if len(hash) != 40 {
		t.Errorf("hash is %q", hash)
	}
	wantXattr(t, at("small"), "user.chunk_list", "hash,offset,size\n"+hash+",0,6\n")
	wantXattr(t, at("small"), "user.compression", "none")
	wantXattr(t, at("small"), "user.external_file", "0")
	wantXattr(t, at("small"), "user.lhash", "Not in cache")
	if n := s.Count(cvmfstest.Path(hash[2:])); n != 0 {
		t.Errorf("lhash fetched the object %d times", n)
	}
	if _, err := os.ReadFile(at("small")); err != nil {
		t.Error(err)
	}
	wantXattr(t, at("small"), "user.lhash", hash)

	// Stored ones stay, magic ones win, and what does not apply hides nothing.
	wantXattr(t, at("small"), "user.mine", "stays")
	wantXattr(t, at("small"), "user.rawlink", "stored")
	if names := listXattrs(t, at("small")); len(names) != 3 {
		t.Errorf("small lists %v", names)
	}
	wantXattr(t, at("link"), "xfsroot.rawlink", "$(NDTEST_UNSET:-small)")
	noXattr(t, at("link"), "user.rawlink") // the kernel refuses it
	noXattr(t, at("small"), "xfsroot.rawlink")
	noXattr(t, at("small"), "user.nothing")

	before := m.Status().Sources[0].HTTPRequests
	for _, name := range []string{"system.posix_acl_access", "btrfs.compression", "foo", "user"} {
		if _, err := xattr(at("small"), name); !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := m.Status().Sources[0].HTTPRequests; after != before {
		t.Errorf("absent attributes cost %d requests", after-before)
	}
	if r := m.Run("getfattr", "-d", "-m", "-", m.Raw(repo.FQRN)); r.Status != 0 || !strings.Contains(r.Stdout, `user.fqrn="magic.example.org"`) {
		t.Errorf("getfattr: %+v", r)
	}
}

// TestMountMagicXattrPages reads a value that is too long for one attribute.
func TestMountMagicXattrPages(t *testing.T) {
	const chunks = 2000
	s := newStratum(t)
	tree := cvmfstest.NewTree()
	tree.File("long", bytes.Repeat([]byte{7}, chunks*4096), 0o644)
	_, _, src := s.publish(cvmfstest.Options{FQRN: "pages.example.org", ChunkSize: 4096}, tree)
	m := mount(t, setup{Sources: []source{src}})
	long := m.Raw("pages.example.org", "long")

	var pages int
	if _, err := fmt.Sscanf(must(t)(xattr(long, "user.chunk_list~?")), "num_pages, %d", &pages); err != nil || pages < 2 {
		t.Fatalf("%d pages, %v", pages, err)
	}
	var all strings.Builder
	for i := range pages {
		page := must(t)(xattr(long, fmt.Sprintf("user.chunk_list~%d", i)))
		all.WriteString(page)
		if people := must(t)(xattr(long, fmt.Sprintf("user.chunk_list@%d", i))); !strings.HasPrefix(people, "# page ") || !strings.HasSuffix(people, "\n"+page) {
			t.Errorf("page %d for people begins %.80q", i, people)
		}
	}
	if n := strings.Count(all.String(), "\n"); n != chunks+1 {
		t.Errorf("all pages have %d lines", n)
	}
	wantXattr(t, long, "user.chunk_list", must(t)(xattr(long, "user.chunk_list~0")))
	wantXattr(t, long, "user.fqrn~0", "pages.example.org")
	wantXattr(t, long, "user.fqrn~?", "num_pages, 1")
	for _, name := range []string{"user.fqrn~1", fmt.Sprintf("user.chunk_list@%d", pages), "user.fqrn~", "user.fqrn~x", "user.fqrn~-1", "user.fqrn@99999999999", "user.nothing~0"} {
		noXattr(t, long, name)
	}
}

// TestMountKeepsCrawlersOut runs programs under a crawler's name.
func TestMountKeepsCrawlersOut(t *testing.T) {
	s := newStratum(t)
	src := s.Golden("neurodesk.golden.test")
	src.Layout = "neurodesk"
	m := mount(t, setup{Sources: []source{src}})
	m.Indexed()
	find := crawler(t, "find")
	requests := m.Status().Sources[0].HTTPRequests

	r := m.Run(find, m.Dir)
	for _, dir := range []string{"apps", "cvmfs", "modules", "modules-tcl", ".neurodeskfs/images"} {
		if !strings.Contains(r.Stdout, "/"+dir+"\n") || strings.Contains(r.Stdout, "/"+dir+"/") {
			t.Errorf("%s is not there, or not empty, to a crawler: %.500s (%s)", dir, r.Stdout, r.Stderr)
		}
	}
	if got := m.Status().Sources[0].HTTPRequests; got != requests {
		t.Errorf("a crawler made %d requests to the server", got-requests)
	}
	// Nothing that it was told is kept for others.
	if names, err := os.ReadDir(m.Path("apps")); err != nil || len(names) == 0 {
		t.Errorf("apps after a crawler: %v, %v", names, err)
	}
	readme := m.Raw("neurodesk.golden.test", "containers", "mrtrix3_3.0.3_20240515", "README.md")
	cat := crawler(t, "cat")
	if r := m.Run(cat, readme); r.Status == 0 || r.Stdout != "" {
		t.Errorf("a crawler read %q, status %d", r.Stdout, r.Status)
	}
	if b, err := os.ReadFile(readme); err != nil || len(b) == 0 {
		t.Errorf("README.md after a crawler: %q, %v", b, err)
	}
	if got := m.Status().IOErrors; got != 0 {
		t.Errorf("%d I/O errors", got)
	}
}

// crawler is a copy of a program of the host under the name updatedb.
func crawler(t *testing.T, program string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/usr/bin", program))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(shortDir(t), "updatedb")
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestMountCrawlersAreAChoice turns the list off.
func TestMountCrawlersAreAChoice(t *testing.T) {
	s := newStratum(t)
	m := mount(t, setup{Sources: []source{s.Golden("alpha.golden.test")}, Mount: "crawlers = []\n"})
	if r := m.Run(crawler(t, "cat"), m.Raw("alpha.golden.test", "README.txt")); r.Status != 0 || r.Stdout == "" {
		t.Errorf("%+v", r)
	}
	if _, err := os.ReadFile(m.Raw("alpha.golden.test", "absent")); !errors.Is(err, syscall.ENOENT) {
		t.Error(err)
	}
}
