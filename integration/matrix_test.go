package integration

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// leastFaults is how many rows the README's fault matrix must have.
const leastFaults = 40

// TestFaultMatrix: each test that the README's fault matrix names exists, also the
// row of a table test, and is not left out by its own first line.
func TestFaultMatrix(t *testing.T) {
	root := sourceRoot(t)
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(readme), "\n## What happens when\n")
	section, _, _ = strings.Cut(section, "\n## ")
	if !ok {
		t.Fatal("the README has no section \"What happens when\"")
	}
	sources := testSources(t, root)
	rows, seen := 0, map[string]bool{}
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "| ") || len(cells) != 3 || !strings.Contains(cells[2], "`") {
			continue
		}
		rows++
		fault := strings.TrimSpace(cells[0])
		if seen[fault] {
			t.Errorf("%q stands there twice", fault)
		}
		seen[fault] = true
		for _, quoted := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[2], -1) {
			if !tested(sources, quoted[1]) {
				t.Errorf("%q: there is no test %s", fault, quoted[1])
			}
		}
	}
	if rows < leastFaults {
		t.Errorf("%d rows, want %d", rows, leastFaults)
	}
}

// testSources are the texts of all test files.
func testSources(t *testing.T, root string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && p != root {
			return filepath.SkipDir
		}
		if strings.HasSuffix(p, "_test.go") {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			list = append(list, string(b))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// tested reports whether a test, TestX or TestX/row, is there.
func tested(sources []string, name string) bool {
	name, row, isRow := strings.Cut(name, "/")
	for _, text := range sources {
		if strings.Contains(text, "\nfunc "+name+"(t *testing.T)") || strings.Contains(text, "\nfunc "+name+"(f *testing.F)") {
			if !isRow || strings.Contains(text, strconv.Quote(row)) {
				return true
			}
		}
	}
	return false
}

func TestTheMatrixBites(t *testing.T) {
	sources := []string{"package x\n\nfunc TestA(t *testing.T) {\n\"one\"\n}\n"}
	for name, want := range map[string]bool{"TestA": true, "TestA/one": true, "TestA/two": false, "TestB": false} {
		if tested(sources, name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}
