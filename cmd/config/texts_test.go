package config

import (
	"encoding/json"
	"slices"
	"testing"
)

// TestTextsOfAnEarlierVersion: a daemon that is upgraded hands over its
// configuration as it knows it, with one text where there may be several now.
func TestTextsOfAnEarlierVersion(t *testing.T) {
	for text, want := range map[string]Texts{
		`""`: nil, `null`: nil, `[]`: nil, `"http://a/@image@"`: {"http://a/@image@"}, `["http://a","http://b"]`: {"http://a", "http://b"},
	} {
		var got Texts
		if err := json.Unmarshal([]byte(text), &got); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v; want %v", text, got, err, want)
		}
	}
	if err := json.Unmarshal([]byte(`{"a":1}`), new(Texts)); err == nil {
		t.Error("an object is no list of texts")
	}
}

// TestOneTextForAList: a single server or key need not stand in brackets.
func TestOneTextForAList(t *testing.T) {
	c, err := Parse([]byte("[[source]]\nfqrn = \"a.example.org\"\nservers = \"http://h/cvmfs/@fqrn@\"\npublic_keys = \"/k.pub\"\n"))
	if err != nil || !slices.Equal(c.Sources[0].Servers, List{"http://h/cvmfs/a.example.org"}) || !slices.Equal(c.Sources[0].PublicKeys, List{"/k.pub"}) {
		t.Errorf("%+v, %v", c, err)
	}
}
