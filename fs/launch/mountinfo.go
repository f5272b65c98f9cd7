package launch

import "strings"

// hostMount is one line of /proc/self/mountinfo (proc(5)): where, of which type, and the options of the
// file system itself.
type hostMount struct {
	point, fstype, super string
}

// parseMounts reads mountinfo. Lines that it does not understand are passed over.
func parseMounts(text string) []hostMount {
	var mounts []hostMount
	for line := range strings.Lines(text) {
		left, right, ok := strings.Cut(line, " - ")
		f := strings.Fields(left)
		r := strings.Fields(right)
		if !ok || len(f) < 6 || len(r) < 1 {
			continue
		}
		mounts = append(mounts, hostMount{unescapeOctal(f[4]), r[0], r[len(r)-1]})
	}
	return mounts
}

// unescapeOctal undoes the kernel's \ooo for blank, tab, newline and backslash.
func unescapeOctal(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && octal(s[i+1]) && octal(s[i+2]) && octal(s[i+3]) {
			out = append(out, (s[i+1]-'0')<<6|(s[i+2]-'0')<<3|(s[i+3]-'0'))
			i += 3
			continue
		}
		out = append(out, s[i])
	}
	return string(out)
}

func octal(c byte) bool { return c >= '0' && c <= '7' }

// topmost gives the type of the file system mounted last on exactly this path, "" where it is no mount point.
func topmost(mounts []hostMount, point string) string {
	for i := len(mounts) - 1; i >= 0; i-- {
		if mounts[i].point == point {
			return mounts[i].fstype
		}
	}
	return ""
}
