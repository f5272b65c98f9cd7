package image

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/neurodesk/neurodeskfs/cvmfs"
	"github.com/neurodesk/neurodeskfs/cvmfs/catalog"
)

// Magic attributes are made when they are read. They have the reference
// client's names (CernVM-FS 2.12, cpt-details, "Extended attributes"), and only
// the raw view has them. Every path has those that describe the repository and
// the daemon; files and links have theirs. As with CVMFS_MAGIC_XATTRS_VISIBILITY
// = rootonly, which is 2.12's default, only the repository's root directory
// lists them; by name they can be read everywhere they apply. A stored attribute
// of the same name is hidden where the magic one applies.
//
// Linux lets no user.* attribute of a symbolic link through (xattr_permission,
// fs/xattr.c): getfattr -h -n user.rawlink is ENODATA before we are asked. The
// namespace xfsroot is unknown to the kernel, which hands it on, so links are
// read with getfattr -h -n xfsroot.rawlink. Measured on 6.18.
//
// A long value comes in pages: NAME and NAME~0 are the first, NAME~N the Nth,
// NAME~? is "num_pages, COUNT". NAME@N is the same page below a line for people.

// pageBytes bounds a page; the kernel takes values of at most 64 KiB.
const pageBytes = 40000

// Process is what magic attributes tell of the daemon.
type Process struct {
	Version  string
	Started  time.Time
	IOErrors func() uint64 // requests answered with EIO so far
}

// About says what the magic attributes tell of the daemon. It must be called
// before the first request.
func (s *Images) About(p Process) {
	for _, raw := range s.raws {
		raw.view.process = p
	}
}

// errNotHere is returned by a magic attribute that the entry does not have.
var errNotHere = errors.New("the attribute does not apply")

// wholeMagic are the attributes of every path.
var wholeMagic = map[string]func(context.Context, *view) (string, error){
	"fqrn":          func(_ context.Context, v *view) (string, error) { return v.repo.FQRN(), nil },
	"revision":      func(_ context.Context, v *view) (string, error) { return decimal(v.repo.Head().Revision), nil },
	"root_hash":     func(_ context.Context, v *view) (string, error) { return v.repo.Head().Root.Hash.String(), nil },
	"tag":           func(_ context.Context, v *view) (string, error) { return v.repo.Tag(), nil },
	"expires":       func(_ context.Context, v *view) (string, error) { return expires(v.repo), nil },
	"repo_metainfo": func(ctx context.Context, v *view) (string, error) { return metaInfo(ctx, v.repo) },
	"host":          func(_ context.Context, v *view) (string, error) { return first(hosts(v.repo)), nil },
	"host_list":     func(_ context.Context, v *view) (string, error) { return strings.Join(hosts(v.repo), ";"), nil },
	"proxy":         func(_ context.Context, v *view) (string, error) { return currentProxy(v.repo), nil },
	"proxy_list":    func(_ context.Context, v *view) (string, error) { return proxyList(v.repo), nil },
	"external_url":  func(_ context.Context, v *view) (string, error) { return v.repo.ExternalURL(), nil },
	"nclg":          func(_ context.Context, v *view) (string, error) { return strconv.Itoa(v.repo.OpenCatalogs()), nil },
	"ndownload":     func(_ context.Context, v *view) (string, error) { return decimal(v.repo.Stats().Requests), nil },
	"rx":            func(_ context.Context, v *view) (string, error) { return decimal(v.repo.Stats().Bytes / 1024), nil },
	"nioerr":        func(_ context.Context, v *view) (string, error) { return decimal(v.process.ioErrors()), nil },
	"pid":           func(context.Context, *view) (string, error) { return strconv.Itoa(os.Getpid()), nil },
	"version":       func(_ context.Context, v *view) (string, error) { return v.process.Version, nil },
	"uptime":        func(_ context.Context, v *view) (string, error) { return minutes(time.Since(v.process.Started)), nil },
}

// entryMagic are the attributes of files and of links.
var entryMagic = map[string]func(context.Context, *view, cvmfs.Entry) (string, error){
	"hash":          hashOf,
	"lhash":         localHashOf,
	"chunks":        chunksOf,
	"chunk_list":    chunkListOf,
	"compression":   compressionOf,
	"external_file": func(_ context.Context, _ *view, e cvmfs.Entry) (string, error) { return flag(e, e.IsExternal()) },
	"direct_io": func(_ context.Context, _ *view, e cvmfs.Entry) (string, error) {
		return flag(e, e.Flags&catalog.FlagDirectIO != 0)
	},
	"rawlink": rawLink,
}

// magicNames lists what the repository's root directory shows.
var magicNames = func() []string {
	names := slices.Sorted(maps.Keys(wholeMagic))
	for i, n := range names {
		names[i] = "user." + n
	}
	return names
}()

// magic returns the value of the magic attribute name of ref. ok is false when
// there is none of that name there.
func (v *view) magic(ctx context.Context, ref cvmfs.Ref, name string) (value []byte, ok bool, err error) {
	base, page, known := parseMagic(name)
	if !known {
		return nil, false, nil
	}
	var text string
	if fn := wholeMagic[base]; fn != nil {
		text, err = fn(ctx, v)
	} else {
		var e cvmfs.Entry
		if e, err = v.repo.Stat(ctx, ref); err == nil {
			text, err = entryMagic[base](ctx, v, e)
		}
	}
	if err == nil {
		text, err = page.of(base, text)
	}
	if errors.Is(err, errNotHere) {
		return nil, false, nil
	}
	return []byte(text), err == nil, err
}

// pageRequest is what stands behind a magic attribute's name.
type pageRequest struct {
	people bool // with a line that says where to go on
	count  bool // the number of pages
	number int
}

// parseMagic takes an attribute's name apart; known is false when it is no
// magic one.
func parseMagic(name string) (base string, page pageRequest, known bool) {
	if name == "xfsroot.rawlink" {
		return "rawlink", page, true
	}
	base, known = strings.CutPrefix(name, "user.")
	if i := strings.IndexAny(base, "@~"); known && i >= 0 {
		page.people = base[i] == '@'
		number := base[i+1:]
		base = base[:i]
		if page.count = number == "?"; !page.count {
			n, err := strconv.ParseUint(number, 10, 31)
			known, page.number = err == nil, int(n)
		}
	}
	return base, page, known && (wholeMagic[base] != nil || entryMagic[base] != nil)
}

// of returns the page of text.
func (p pageRequest) of(base, text string) (string, error) {
	pages := paginate(text)
	switch {
	case p.count && p.people:
		return fmt.Sprintf("pages in all: %d; read user.%s@0 to user.%s@%d\n", len(pages), base, base, len(pages)-1), nil
	case p.count:
		return fmt.Sprintf("num_pages, %d", len(pages)), nil
	case p.number >= len(pages):
		return "", errNotHere
	case p.people:
		return fmt.Sprintf("# page %d; pages in all: %d; read user.%s@N for page N\n%s", p.number, len(pages), base, pages[p.number]), nil
	}
	return pages[p.number], nil
}

// paginate cuts text behind a line's end where it can.
func paginate(text string) []string {
	var pages []string
	for len(text) > pageBytes {
		n := strings.LastIndexByte(text[:pageBytes], '\n') + 1
		if n == 0 {
			n = pageBytes
		}
		pages = append(pages, text[:n])
		text = text[n:]
	}
	return append(pages, text)
}

func (p Process) ioErrors() uint64 {
	if p.IOErrors == nil {
		return 0
	}
	return p.IOErrors()
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }

func minutes(d time.Duration) string { return strconv.FormatInt(int64(d/time.Minute), 10) }

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// expires is in minutes, as with the reference client.
func expires(r *cvmfs.Repository) string {
	if r.Head().Pinned {
		return "never (fixed root catalog)"
	}
	return minutes(r.Expires())
}

// metaInfo says in words what is not there, as the reference client does.
func metaInfo(ctx context.Context, r *cvmfs.Repository) (string, error) {
	b, err := r.MetaInfo(ctx)
	if errors.Is(err, cvmfs.ErrNoMetaInfo) {
		return "metainfo not available", nil
	}
	return string(b), err
}

// hosts lists the servers, the one that is asked first in front.
func hosts(r *cvmfs.Repository) []string {
	var list []string
	at := 0
	for i, h := range r.Stats().Hosts {
		if h.Current {
			at = i
		}
		list = append(list, h.URL)
	}
	return append(list[at:len(list):len(list)], list[:at]...)
}

func currentProxy(r *cvmfs.Repository) string {
	for _, p := range r.Stats().Proxies {
		if p.Current {
			return p.URL
		}
	}
	return "DIRECT"
}

// proxyList writes the proxies as CVMFS_HTTP_PROXY has them.
func proxyList(r *cvmfs.Repository) string {
	var b strings.Builder
	group := 0
	for i, p := range r.Stats().Proxies {
		switch {
		case i == 0:
		case p.Group != group:
			b.WriteByte(';')
		default:
			b.WriteByte('|')
		}
		b.WriteString(p.URL)
		group = p.Group
	}
	return b.String()
}

func hashOf(_ context.Context, _ *view, e cvmfs.Entry) (string, error) {
	if e.Hash.IsZero() { // directories, links, and files that stand in chunks
		return "", errNotHere
	}
	return e.Hash.String(), nil
}

func localHashOf(ctx context.Context, v *view, e cvmfs.Entry) (string, error) {
	if e.Hash.IsZero() {
		return "", errNotHere
	}
	h, ok, err := v.repo.LocalHash(ctx, e)
	if err == nil && !ok {
		return "Not in cache", nil
	}
	return h.String(), err
}

func chunksOf(ctx context.Context, v *view, e cvmfs.Entry) (string, error) {
	if !e.IsRegular() {
		return "", errNotHere
	}
	chunks, err := v.repo.Chunks(ctx, e.Ref)
	return strconv.Itoa(len(chunks)), err
}

func chunkListOf(ctx context.Context, v *view, e cvmfs.Entry) (string, error) {
	if !e.IsRegular() {
		return "", errNotHere
	}
	chunks, err := v.repo.Chunks(ctx, e.Ref)
	var b strings.Builder
	b.WriteString("hash,offset,size\n")
	for _, c := range chunks {
		fmt.Fprintf(&b, "%s,%d,%d\n", c.Hash, c.Offset, c.Size)
	}
	return b.String(), err
}

func compressionOf(_ context.Context, _ *view, e cvmfs.Entry) (string, error) {
	switch {
	case !e.IsRegular():
		return "", errNotHere
	case e.Compression == catalog.Zlib:
		return "zlib", nil
	case e.Compression == catalog.None:
		return "none", nil
	}
	return fmt.Sprintf("unknown (%d)", e.Compression), nil
}

func flag(e cvmfs.Entry, set bool) (string, error) {
	switch {
	case !e.IsRegular():
		return "", errNotHere
	case set:
		return "1", nil
	}
	return "0", nil
}

func rawLink(_ context.Context, _ *view, e cvmfs.Entry) (string, error) {
	if !e.IsSymlink() {
		return "", errNotHere
	}
	return e.Symlink, nil
}
