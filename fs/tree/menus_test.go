package tree

import (
	"encoding/xml"
	"strings"
	"testing"
)

// TestMenus: entries of images that are there, each by its own command or by the
// image's shell, and the categories that they are in.
func TestMenus(t *testing.T) {
	tree := newSite(t, listedRepository).open()
	complete(t, tree)
	for path, want := range map[string]string{
		desktopDir:   "neurodesk-fsleyesGUI-fsl-6.0.7.16.desktop neurodesk-odd-GUI-fsl-6.0.7.4.desktop neurodesk-unbalancedGUI-fsl-6.0.7.4.desktop",
		directoryDir: "neurodesk-Q-----x-.directory neurodesk-functional-imaging.directory neurodesk.directory",
		menuDir:      "neurodesk.menu",
		"share":      "applications desktop-directories menus",
	} {
		if got := strings.Join(list(t, tree, path), " "); got != want {
			t.Errorf("ls %s: %s, want %s", path, got, want)
		}
	}
	const shell = "Exec=/m/.neurodeskfs/launcher /m/.neurodeskfs/apps/fsl/6.0.7.4_20240101 -c "
	for file, want := range map[string]string{
		"fsleyesGUI-fsl-6.0.7.16":   "Exec=/m/apps/fsl/6.0.7.16_20250501/bin/bet\n",
		"odd-GUI-fsl-6.0.7.4":       shell + `"bash run.sh '/opt/a b/' \\$HOME 100%%"` + "\n",
		"unbalancedGUI-fsl-6.0.7.4": shell + `"bash 'x"` + "\n",
	} {
		got := read(t, tree, desktopDir+"/neurodesk-"+file+".desktop")
		if !strings.Contains(got, want) || !strings.Contains(got, "\nCategories=X-Neurodesk;X-Neurodesk-Q-----x-;X-Neurodesk-functional-imaging;\n") {
			t.Errorf("%s: %s\nwant %s", file, got, want)
		}
		for line := range strings.Lines(got) {
			if key, _, ok := strings.Cut(line, "="); line != "[Desktop Entry]\n" && (!ok || strings.Trim(key, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-") != "") {
				t.Errorf("%s: the line %q", file, line)
			}
		}
	}
	var parsed struct {
		Menu struct {
			Name string
			Menu []struct {
				Name      string
				Directory string
				Include   struct{ Category string }
			}
		}
	}
	if err := xml.Unmarshal([]byte(read(t, tree, menuDir+"/neurodesk.menu")), &parsed); err != nil {
		t.Fatal(err)
	}
	if m := parsed.Menu.Menu; parsed.Menu.Name != "Neurodesk" || len(m) != 2 || m[0].Name != `Q<&> "x"` || m[0].Include.Category != "X-Neurodesk-Q-----x-" || m[1].Directory != "neurodesk-functional-imaging.directory" {
		t.Errorf("%+v", parsed)
	}
	if got := read(t, tree, directoryDir+"/neurodesk-functional-imaging.directory"); !strings.Contains(got, "\nName=functional imaging\n") {
		t.Error(got)
	}
}

// TestMenuEntriesStay: an image that is published anew gives another file to its own
// entries alone.
func TestMenuEntriesStay(t *testing.T) {
	s := newSite(t, listedRepository)
	tree := s.open()
	complete(t, tree)
	node := func(entry string) uint64 { return find(t, tree, desktopDir+"/neurodesk-"+entry+".desktop").Entry }
	const stays, changes = "fsleyesGUI-fsl-6.0.7.16", "odd-GUI-fsl-6.0.7.4"
	was := []uint64{node(stays), node(changes)}
	s.content.File("containers/fsl_6.0.7.4_20240101/README.md", []byte("anew"), 0o644)
	s.publish()
	if _, err := tree.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	if is := []uint64{node(stays), node(changes)}; is[0] != was[0] || is[1] == was[1] {
		t.Errorf("nodes %d, before it %d", is, was)
	}
}

// TestMenusWithoutLists: a repository that says nothing has no menu.
func TestMenusWithoutLists(t *testing.T) {
	tree := newSite(t, repository).open()
	complete(t, tree)
	for _, path := range []string{desktopDir, directoryDir, menuDir} {
		if got := list(t, tree, path); len(got) > 0 {
			t.Errorf("ls %s: %v", path, got)
		}
	}
}

func TestEntryNames(t *testing.T) {
	for label, want := range map[string]string{
		"fsl": "app fsl", "fsleyesGUI-fsl": "app fsleyesGUI-fsl fsl", "napari GUI-napari": "app napari GUI-napari napari", "a-b-c": "app a-b-c b-c c",
	} {
		if got := strings.Join(namesIn("app", label), " "); got != want {
			t.Errorf("%s: %s, want %s", label, got, want)
		}
	}
}

// readDesktop undoes the two rules of a desktop entry's Exec.
func readDesktop(t *testing.T, value string) (args []string) {
	t.Helper()
	if strings.ContainsAny(value, "\n\r\t") {
		t.Fatalf("%q is not one line", value)
	}
	line := strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\t`, "\t", `\r`, "\r", `\s`, " ").Replace(value)
	for line != "" {
		var word string
		if line[0] == '"' {
			word, line = readQuotedWord(t, line)
		} else {
			word, line, _ = strings.Cut(line, " ")
			line = " " + line
		}
		args = append(args, strings.ReplaceAll(word, "%%", "%"))
		line = strings.TrimPrefix(line, " ")
	}
	return args
}

func readQuotedWord(t *testing.T, s string) (value, rest string) {
	t.Helper()
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:]
		case c == '$' || c == '`':
			t.Fatalf("%q has a bare %q", s, c)
		case c == '\\':
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	t.Fatalf("%q has no end", s)
	return "", ""
}

func checkDesktop(t *testing.T, s string) {
	args := []string{"launcher", s, "-c", "x"}
	if got := readDesktop(t, desktopExec(args)); strings.Join(got, "\x00") != strings.Join(args, "\x00") {
		t.Errorf("%q became %s, which is %q", args, desktopExec(args), got)
	}
	if strings.ContainsAny(desktopString(s), "\n\r\t") || strings.Trim(fileName(s), plainBytes) != "" || strings.Contains(fileName(s), "/") {
		t.Errorf("%q: %q, %q", s, desktopString(s), fileName(s))
	}
	e := menu([]string{oneLine(s)})
	if err := xml.Unmarshal(e, new(struct{})); err != nil {
		t.Errorf("%q: %v in %s", s, err, e)
	}
}

func TestDesktopQuotes(t *testing.T) {
	for _, s := range awkward {
		checkDesktop(t, s)
	}
}

func FuzzDesktop(f *testing.F) {
	for _, s := range awkward {
		f.Add(s)
	}
	f.Fuzz(checkDesktop)
}

// FuzzApps reads changed lists of apps: no text of theirs breaks a line.
func FuzzApps(f *testing.F) {
	f.Add([]byte(testApps))
	f.Fuzz(func(t *testing.T, b []byte) {
		var c catalogue
		if c.parseApps(b) != nil {
			return
		}
		parseEntries(c.apps, func(e menuEntry, names []string, version, _ string) {
			for _, s := range append(append([]string{e.label, e.exec, version}, names[1:]...), e.categories...) {
				if strings.ContainsAny(s, "\n\r\x00") {
					t.Errorf("%q has more than a line", s)
				}
			}
		})
	})
}
