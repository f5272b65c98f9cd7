package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/neurodesk/neurodeskfs/cvmfs/cvmfstest"
)

// prose is text that deflates to less than half, as programs do: words
// of a vocabulary, some much more often than others, with a number here and
// there. The same seed gives the same text.
func prose(seed uint64, size int) []byte {
	r := rand.New(rand.NewPCG(seed, 7))
	vocabulary := make([]string, 4096)
	for i := range vocabulary {
		word := make([]byte, 3+r.IntN(8))
		for j := range word {
			word[j] = byte('a' + r.IntN(26))
		}
		vocabulary[i] = string(word) + " "
	}
	text := make([]byte, 0, size+16)
	for len(text) < size {
		x := r.Float64()
		text = append(text, vocabulary[int(x*x*x*4096)]...)
		if r.IntN(12) == 0 {
			text = fmt.Appendf(text, "%d\n", r.Uint32())
		}
	}
	return text[:size]
}

// hotTree is 1,000 small files, one folder of 250 entries, and a large file,
// both as a tree to publish and on disk at dir.
func (b *bench) hotTree(dir string, large int) (*cvmfstest.Tree, error) {
	tree := cvmfstest.NewTree()
	put := func(name string, text []byte) error {
		tree.File(name, text, 0o644)
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		return os.WriteFile(file, text, 0o644)
	}
	text := prose(1, 1<<20)
	for i := range 1000 {
		at := i * 997
		if err := put(fmt.Sprintf("small/%02d/file%03d", i/50, i), text[at:at+2000+i*12]); err != nil {
			return nil, err
		}
	}
	for i := range 250 {
		if err := put(fmt.Sprintf("folder/entry-%03d.txt", i), text[i:i+100]); err != nil {
			return nil, err
		}
	}
	return tree, put("large", prose(2, large))
}

// manyEntries is a tree of n entries, folders of 99 files each, with a nested
// catalog for each hundredth folder or so, as repositories have them.
func manyEntries(n int) *cvmfstest.Tree {
	tree := cvmfstest.NewTree()
	for folder := range n / 100 {
		part := fmt.Sprintf("part%03d", folder/100)
		if folder%100 == 0 {
			tree.Nested(part)
		}
		for file := range 99 {
			tree.File(fmt.Sprintf("%s/folder%05d/file-%02d.dat", part, folder, file), []byte{'0' + byte(file%10)}, 0o644)
		}
	}
	return tree
}

// manyImages is a repository in Neurodesk's layout with n apps. Each has a
// command with the app's name and nine others; each image starts two nested
// catalogs, as the real ones do.
func manyImages(n int) *cvmfstest.Tree {
	tree := cvmfstest.NewTree()
	var log strings.Builder
	for i := range n {
		app := appName(i)
		name := app + "_1.2.3_20240515"
		dir := "containers/" + name
		image := dir + "/" + name + ".simg"
		fmt.Fprintf(&log, "%s categories:image reconstruction,\n", name)
		commands := app + "\n"
		for k := range 9 {
			commands += otherCommand(i, k) + "\n"
		}
		tree.File(dir+"/commands.txt", []byte(commands), 0o644)
		tree.File(dir+"/env.txt", []byte("DEPLOY_ENV_HOME_OF_"+strings.ToUpper(app)+"=BASEPATH/opt/"+app+"\n"), 0o644)
		tree.File(dir+"/README.md", []byte("# "+app+"\n"), 0o644)
		tree.File(image+"/.singularity.d/env/90-environment.sh", []byte("export DEPLOY_PATH=/opt/"+app+"/bin\n"), 0o755)
		for line := range strings.Lines(commands) {
			tree.File(image+"/opt/"+app+"/bin/"+strings.TrimSpace(line), []byte("#!/bin/sh\n"), 0o755)
		}
		tree.Nested(dir)
		tree.Nested(image)
	}
	tree.File("neurocommand/cvmfs/log.txt", []byte(log.String()), 0o644)
	return tree
}

func appName(i int) string         { return fmt.Sprintf("app%03dx", i) }
func otherCommand(i, k int) string { return fmt.Sprintf("tool%03dpart%d", i, k) }
