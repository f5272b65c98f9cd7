package hash

import (
	"errors"
	"testing"
)

func TestTextForm(t *testing.T) {
	for _, s := range []string{
		"f6fd396542dd884dabf29d509ff6b7743ad25fab",
		"b9bd286c5ca4c984b03fdf9eefca2a262b3020db-shake128",
		"681a4949f044fd3dcbdeafc6ec2a28af00f6be1d-rmd160",
		"d41d8cd98f00b204e9800998ecf8427e",
	} {
		h, err := Parse(s)
		if err != nil || h.String() != s {
			t.Errorf("Parse(%q) = %v, %v", s, h, err)
		}
	}
	for _, s := range []string{"", "-", "f6", "F6fd396542dd884dabf29d509ff6b7743ad25fab",
		"f6fd396542dd884dabf29d509ff6b7743ad25fab-", "f6fd396542dd884dabf29d509ff6b7743ad25fab-sha1",
		"f6fd396542dd884dabf29d509ff6b7743ad25fabC", "d41d8cd98f00b204e9800998ecf8427e-rmd160",
		"zzfd396542dd884dabf29d509ff6b7743ad25fab"} {
		if _, err := Parse(s); !errors.Is(err, ErrSyntax) {
			t.Errorf("Parse(%q) = %v, want ErrSyntax", s, err)
		}
	}
}

func TestKnownSums(t *testing.T) {
	for a, want := range map[Algorithm]string{
		MD5:      "d41d8cd98f00b204e9800998ecf8427e",
		SHA1:     "da39a3ee5e6b4b0d3255bfef95601890afd80709",
		RMD160:   "9c1185a5c5e9fc54612808977ee8f548b2258d31-rmd160",
		SHAKE128: "7f9c2ba4e88f827d616045507605853ed73b8093-shake128",
	} {
		if got := Sum(a, nil).String(); got != want {
			t.Errorf("Sum(%d, nil) = %s, want %s", a, got, want)
		}
	}
}

func TestSumLeavesTheHashOpen(t *testing.T) {
	w := SHAKE128.New()
	w.Write([]byte("a"))
	w.Sum(nil)
	w.Write([]byte("b"))
	if Of(SHAKE128, w) != Sum(SHAKE128, []byte("ab")) {
		t.Error("Sum changed the running hash")
	}
}

func TestPath(t *testing.T) {
	h := Sum(SHAKE128, nil)
	if got, want := h.Path(Catalog), "data/7f/9c2ba4e88f827d616045507605853ed73b8093-shake128C"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := Sum(SHA1, nil).Path(File), "data/da/39a3ee5e6b4b0d3255bfef95601890afd80709"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
