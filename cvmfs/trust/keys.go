package trust

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Keys are master keys. Any one of them may have signed a whitelist.
type Keys []*rsa.PublicKey

// LoadKeys reads master keys from PEM files; of a directory, it reads the files
// *.pub in it. Errors wrap ErrKeys, and what the operating system said, and name
// the file. That there is no key at all is an error too.
func LoadKeys(paths ...string) (Keys, error) {
	var all Keys
	for _, p := range paths {
		files, err := keyFiles(p)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			k, err := loadKeyFile(f)
			if err != nil {
				return nil, err
			}
			all = append(all, k...)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: no file given: set public_keys to the repository's key (a PEM file or a directory of *.pub)", ErrKeys)
	}
	return all, nil
}

// keyFiles is p itself, or the keys in the directory p, in the order of their names.
func keyFiles(p string) ([]string, error) {
	st, err := os.Stat(p)
	if err != nil {
		return nil, fmt.Errorf("%w: look for it: %w", ErrKeys, err)
	}
	if !st.IsDir() {
		return []string{p}, nil
	}
	entries, err := os.ReadDir(p)
	if err != nil {
		return nil, fmt.Errorf("%w: read the directory of keys: %w", ErrKeys, err)
	}
	var files []string
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".pub" {
			files = append(files, filepath.Join(p, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%w: no *.pub file in directory %s", ErrKeys, p)
	}
	return files, nil
}

func loadKeyFile(path string) (Keys, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeys, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeys, err)
	}
	k, err := ParseKeys(b)
	if err != nil {
		return nil, fmt.Errorf("file %s: %w", path, err)
	}
	return k, nil
}

// ParseKeys reads one or more RSA public keys in PEM, as PKIX ("PUBLIC KEY") or
// PKCS#1 ("RSA PUBLIC KEY"). Errors wrap ErrKeys.
func ParseKeys(b []byte) (Keys, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("%w: more than %d bytes: this is no key file", ErrKeys, MaxSize)
	}
	var all Keys
	for {
		p, rest := pem.Decode(b)
		if p == nil {
			break
		}
		k, err := parseKey(p)
		if err != nil {
			return nil, fmt.Errorf("%w: key %d: %w", ErrKeys, len(all)+1, err)
		}
		all, b = append(all, k), rest
	}
	if len(all) == 0 {
		return nil, fmt.Errorf(`%w: no "BEGIN PUBLIC KEY" in it`, ErrKeys)
	}
	return all, nil
}

func parseKey(p *pem.Block) (*rsa.PublicKey, error) {
	switch p.Type {
	case "RSA PUBLIC KEY":
		k, err := x509.ParsePKCS1PublicKey(p.Bytes)
		if err != nil {
			return nil, err
		}
		return k, checkKey(k)
	case "PUBLIC KEY":
		return parsePKIX(p.Bytes)
	}
	return nil, fmt.Errorf("a %.40q where a public key was expected", p.Type)
}

func parsePKIX(der []byte) (*rsa.PublicKey, error) {
	v, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	k, ok := v.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("it is a %T, CVMFS signs by RSA", v)
	}
	return k, checkKey(k)
}
