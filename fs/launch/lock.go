package launch

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

// LockFile is the name of the file that says which image of which app a directory's work is done with.
const LockFile = "neurodesk.lock"

// MaxLockFile is the size in bytes above which a lock file is refused.
const MaxLockFile = 1 << 20

// ErrLock is returned when a lock file cannot be understood; the text names the line or the app.
var ErrLock = errors.New("not a usable lock file")

const lockComment = "# Which container images the work in this directory is done with: see `neurodeskfs lock --help`.\n"

// Lock is a neurodesk.lock: at most one image for each app.
type Lock struct {
	Apps []Locked `toml:"app" json:"apps"`
}

// Locked is one image, named so that the very same one is found again: by its content, and by the root catalog of a
// revision that has it. Whoever may write a lock file decides by RootHash what runs: all else of that revision is verified
// by hashes that chain down from it, as from a signed manifest, but no signature stands behind it.
type Locked struct {
	Name       string `toml:"name" json:"name"`                                 // the app
	Version    string `toml:"version" json:"version"`                           // free-form
	Date       string `toml:"date,omitempty" json:"date,omitempty"`             // of the build; "" where an image has none
	Image      string `toml:"image,omitempty" json:"image,omitempty"`           // path in the repository or on the server, or of a local file
	Hash       string `toml:"hash,omitempty" json:"hash,omitempty"`             // of the image's content, of object storage of URL, ETag and length; "": not locked yet
	SHA256     string `toml:"sha256,omitempty" json:"sha256,omitempty"`         // of the bytes of a local single-file image, whose Hash means nothing on another computer
	Repository string `toml:"repository,omitempty" json:"repository,omitempty"` // "" for a local image
	Revision   uint64 `toml:"revision,omitempty" json:"revision,omitempty"`     // for people
	RootHash   string `toml:"root_hash,omitempty" json:"root_hash,omitempty"`   // root catalog of that revision
}

// Build is the name of the image's directory in M/apps/NAME.
func (l Locked) Build() string { return BuildName(l.Version, l.Date) }

// ParseLock reads a lock file. Keys that it does not know are ignored: a newer program may have written them. Errors wrap
// ErrLock.
func ParseLock(text []byte) (Lock, error) {
	var l Lock
	if len(text) > MaxLockFile {
		return l, fmt.Errorf("%w: larger than %d bytes", ErrLock, MaxLockFile)
	}
	if _, err := toml.Decode(string(text), &l); err != nil {
		var where toml.ParseError
		if errors.As(err, &where) {
			return Lock{}, fmt.Errorf("%w: line %d: %s", ErrLock, where.Position.Line, oneLine(where.Message))
		}
		return Lock{}, fmt.Errorf("%w: %s", ErrLock, oneLine(err.Error()))
	}
	if err := l.validate(); err != nil {
		return Lock{}, err
	}
	return l, nil
}

// Format gives the text of the file, or an error that wraps ErrLock; ParseLock is its inverse.
func (l Lock) Format() ([]byte, error) {
	if err := l.validate(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString(lockComment)
	e := toml.NewEncoder(&b)
	e.Indent = ""
	if err := e.Encode(l); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLock, err)
	}
	return b.Bytes(), nil
}

func (l Lock) validate() error {
	seen := map[string]bool{}
	for i, a := range l.Apps {
		if err := a.validate(); err != nil {
			return fmt.Errorf("%w: app %d (%s): %w", ErrLock, i+1, clip(a.Name), err)
		}
		if seen[a.Name] {
			return fmt.Errorf("%w: %s is there twice", ErrLock, clip(a.Name))
		}
		seen[a.Name] = true
	}
	return nil
}

func (l Locked) validate() error {
	for _, f := range []struct{ key, value string }{{"name", l.Name}, {"version", l.Version}} {
		if !pathPart(f.value) {
			return fmt.Errorf("%s %q cannot stand in M/apps", f.key, clip(f.value))
		}
	}
	switch {
	case strings.Trim(l.Date, "0123456789") != "" || len(l.Date) > 8:
		return fmt.Errorf("date %q is none: write YYYYMMDD", clip(l.Date))
	case !plainText(l.Image) || l.Image != "" && (!path.IsAbs(l.Image) || path.Clean(l.Image) != l.Image):
		return fmt.Errorf("image %q is no clean absolute path", clip(l.Image))
	case !hashLike(l.Hash):
		return fmt.Errorf("hash %q is none", clip(l.Hash))
	case l.SHA256 != "" && (len(l.SHA256) != 64 || strings.Trim(l.SHA256, "0123456789abcdef") != ""):
		return fmt.Errorf("sha256 %q is none", clip(l.SHA256))
	case !hashLike(l.RootHash):
		return fmt.Errorf("root_hash %q is none", clip(l.RootHash))
	case strings.Trim(l.Repository, letters+".-_") != "" || len(l.Repository) > 255:
		return fmt.Errorf("repository %q is no repository's name", clip(l.Repository))
	case l.RootHash != "" && (l.Hash == "" || l.Repository == "" || l.Image == ""):
		return errors.New("root_hash has no use without hash, repository and image")
	case l.Revision > 1<<62:
		return errors.New("revision is out of range")
	case l.RootHash != "" && len(l.Place()) > maxPlace:
		return fmt.Errorf("image %q is too long a path", clip(l.Image))
	}
	return nil
}

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

// pathPart tells what can be one component of a path, and one word of a message.
func pathPart(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= 255 && !strings.Contains(s, "/") && plainText(s)
}

func plainText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// hashLike accepts a hash as CVMFS writes it, or nothing. What it means is the daemon's to say.
func hashLike(s string) bool { return strings.Trim(s, letters+"-") == "" && len(s) <= 80 }

// maxPlace is the longest name of a file, bytes.
const maxPlace = 255

var (
	placeEscape   = strings.NewReplacer("%", "%25", "/", "%2F")
	placeUnescape = strings.NewReplacer("%25", "%", "%2F", "/")
)

// Place is the name below M/.neurodeskfs/locked under which the daemon shows the image from its locked revision:
// HASH@ROOT_HASH@REPOSITORY@PATH with % and / of the path written %25 and %2F.
func (l Locked) Place() string {
	return strings.Join([]string{l.Hash, l.RootHash, l.Repository, placeEscape.Replace(l.Image)}, "@")
}

// ContentFile is the name of the file in M/.neurodeskfs/images/HASH that holds Locked.SHA256 of a local single-file
// image, for which the first look reads all of it; other images have none.
const ContentFile = "sha256"

// ContentHash is the SHA-256 of the local single-file image that a mount names by hash; errors are those of reading it,
// and fs.ErrNotExist for other images.
func (h *Host) ContentHash(mountpoint, hash string) (string, error) {
	text, err := h.readAll(path.Join(mountpoint, ".neurodeskfs/images", hash, ContentFile), 65)
	return strings.TrimSuffix(string(text), "\n"), err
}

// ShownAs reports whether the image that a mount shows as hash is the locked one. A local image has another hash on
// every computer: its bytes tell.
func (l Locked) ShownAs(h *Host, mountpoint, hash string) bool {
	if l.Hash == hash {
		return true
	}
	if l.SHA256 == "" || !pathPart(hash) {
		return false
	}
	sum, err := h.ContentHash(mountpoint, hash)
	return err == nil && sum == l.SHA256
}

// ParsePlace is the inverse of Place: it gives hash, root hash, repository and path. ok is false for a name that Place
// does not make.
func ParsePlace(name string) (l Locked, ok bool) {
	f := strings.SplitN(name, "@", 4)
	if len(f) != 4 {
		return l, false
	}
	l = Locked{Name: "x", Version: "x", Hash: f[0], RootHash: f[1], Repository: f[2], Image: placeUnescape.Replace(f[3])}
	ok = l.RootHash != "" && l.validate() == nil && l.Place() == name
	l.Name, l.Version = "", ""
	return l, ok
}
