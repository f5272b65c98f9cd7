package main

import (
	"maps"
	"testing"
)

func TestEnvFilesAreRead(t *testing.T) {
	got, err := parseEnv("export A='/m/it'\\''s $HOME'\nexport EMPTY=''\nexport EQ='a=b'\n")
	want := map[string]string{"A": "/m/it's $HOME", "EMPTY": "", "EQ": "a=b"}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := parseEnv("export A='x"); err == nil {
		t.Errorf("an open quote gives %q", got)
	}
}

func TestEnvOfCsh(t *testing.T) {
	got := cshText(map[string]string{"B": "it's", "A": "/a b"})
	if want := "setenv A '/a b';\nsetenv B 'it'\\''s';\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
