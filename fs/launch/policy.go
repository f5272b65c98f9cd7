package launch

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// MaxPolicyFile is the size in bytes above which launch.json is refused.
const MaxPolicyFile = 1 << 20

// ErrPolicy is returned when launch.json cannot be understood.
var ErrPolicy = errors.New("not a usable launch policy")

// Policy is the site's word on how commands start: .neurodeskfs/launch.json, written by the mount. Zero values mean the
// defaults given here.
type Policy struct {
	Mountpoint string               `json:"mountpoint,omitempty"` // where the tree is mounted; "" = two levels above the launcher
	AppPolicy                       // for all apps
	Apps       map[string]AppPolicy `json:"apps,omitempty"` // additions for one app, by its name
}

// AppPolicy holds the keys that may be given for all apps and for one.
type AppPolicy struct {
	Runtime        string            `json:"runtime,omitempty" toml:"runtime"`                 // auto (default), apptainer, singularity, bwrap; either of the two in the middle forbids NEURODESK_RUNTIME=bwrap
	RuntimeCommand []string          `json:"runtime_command,omitempty" toml:"runtime_command"` // words that start the runtime; default: found in PATH
	Env            string            `json:"env,omitempty" toml:"env"`                         // clean (default): the allow-list; host: all that is not harmful
	Pass           []string          `json:"pass,omitempty" toml:"pass"`                       // globs of names, added to the allow-list
	Set            map[string]string `json:"set,omitempty" toml:"set"`                         // variables set inside
	Binds          []string          `json:"binds,omitempty" toml:"binds"`                     // SRC[:DST[:OPTS]]
	GPU            string            `json:"gpu,omitempty" toml:"gpu"`                         // auto (default), on, off
	Args           []string          `json:"args,omitempty" toml:"args"`                       // more options for the runtime
	WritableTmpfs  bool              `json:"writable_tmpfs,omitempty" toml:"writable_tmpfs"`   // the image's tree can be written to; lost at the end
	Contain        bool              `json:"contain,omitempty" toml:"contain"`                 // no automatic binds but cwd and $HOME
}

// mountpoint is M: where the policy does not say it, it is told by the launcher's directory; "" = not known.
func (p Policy) mountpoint(launcher string) string {
	if p.Mountpoint == "" && path.Base(launcher) == ".neurodeskfs" {
		return path.Dir(launcher)
	}
	return p.Mountpoint
}

// DefaultPolicy is what holds where no launch.json lies beside the launcher.
func DefaultPolicy() Policy {
	return Policy{AppPolicy: AppPolicy{Runtime: "auto", Env: "clean", GPU: "auto"}}
}

// ParsePolicy reads launch.json. Keys that it does not know are ignored: the mount may be newer. Errors wrap ErrPolicy.
func ParsePolicy(text []byte) (Policy, error) {
	p := DefaultPolicy()
	if len(text) > MaxPolicyFile {
		return p, fmt.Errorf("%w: larger than %d bytes", ErrPolicy, MaxPolicyFile)
	}
	var plain bool
	if p.Mountpoint, plain = soleMountpoint(string(text)); !plain {
		if err := json.Unmarshal(text, &p); err != nil {
			return DefaultPolicy(), fmt.Errorf("%w: %w", ErrPolicy, err)
		}
	}
	if err := p.validate(); err != nil {
		return DefaultPolicy(), err
	}
	return p, nil
}

// soleMountpoint reads the launch.json of most sites, which have nothing to say: as Format writes it, in a tenth of the time.
func soleMountpoint(text string) (string, bool) {
	rest, begun := strings.CutPrefix(text, "{\n  \"mountpoint\": \"")
	point, ended := strings.CutSuffix(rest, "\"\n}\n")
	if !begun || !ended || !plainText(point) || strings.ContainsAny(point, `"\`) {
		return "", false
	}
	return point, true
}

// Format gives the text of launch.json.
func (p Policy) Format() ([]byte, error) {
	if err := p.validate(); err != nil {
		return nil, err
	}
	text, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("launch: write policy: %w", err)
	}
	return append(text, '\n'), nil
}

func (p Policy) validate() error {
	if p.Mountpoint != "" && (!path.IsAbs(p.Mountpoint) || path.Clean(p.Mountpoint) != p.Mountpoint) {
		return fmt.Errorf("%w: mountpoint is no clean absolute path", ErrPolicy)
	}
	if err := p.AppPolicy.validate(); err != nil {
		return err
	}
	for name, a := range p.Apps {
		if err := a.validate(); err != nil {
			return fmt.Errorf("app %s: %w", clip(name), err)
		}
	}
	return nil
}

func (a AppPolicy) validate() error {
	for _, e := range []struct {
		key, value string
		allowed    []string
	}{
		{"runtime", a.Runtime, []string{"", "auto", "apptainer", "singularity", "bwrap"}},
		{"env", a.Env, []string{"", "clean", "host"}},
		{"gpu", a.GPU, []string{"", "auto", "on", "off"}},
	} {
		if !slices.Contains(e.allowed, e.value) {
			return fmt.Errorf("%w: %s is %q, want one of %s", ErrPolicy, e.key, clip(e.value), strings.Join(e.allowed[1:], ", "))
		}
	}
	for name, value := range a.Set {
		if !validName(name) || strings.IndexByte(value, 0) >= 0 {
			return fmt.Errorf("%w: set: %q is no variable", ErrPolicy, clip(name))
		}
	}
	for _, list := range [][]string{a.RuntimeCommand, a.Binds, a.Args} {
		for _, word := range list {
			if strings.IndexByte(word, 0) >= 0 || word == "" {
				return fmt.Errorf("%w: an empty word or a NUL byte in runtime_command, binds or args", ErrPolicy)
			}
		}
	}
	for _, glob := range a.Pass {
		if _, err := path.Match(glob, ""); err != nil {
			return fmt.Errorf("%w: pass: bad pattern %q", ErrPolicy, clip(glob))
		}
	}
	return nil
}

// For merges what holds for all apps with what holds for this one: single values are replaced, lists and maps are added to.
func (p Policy) For(app string) AppPolicy {
	a := p.AppPolicy
	b, ok := p.Apps[app]
	if !ok {
		return a
	}
	pick := func(to *string, from string) {
		if from != "" {
			*to = from
		}
	}
	pick(&a.Runtime, b.Runtime)
	pick(&a.Env, b.Env)
	pick(&a.GPU, b.GPU)
	if len(b.RuntimeCommand) > 0 {
		a.RuntimeCommand = b.RuntimeCommand
	}
	a.Pass = slices.Concat(a.Pass, b.Pass)
	a.Binds = slices.Concat(a.Binds, b.Binds)
	a.Args = slices.Concat(a.Args, b.Args)
	a.WritableTmpfs = a.WritableTmpfs || b.WritableTmpfs
	a.Contain = a.Contain || b.Contain
	set := map[string]string{}
	for _, m := range []map[string]string{a.Set, b.Set} {
		for k, v := range m {
			set[k] = v
		}
	}
	a.Set = set
	return a
}
