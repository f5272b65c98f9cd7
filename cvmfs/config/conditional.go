package config

import "errors"

// maxIfs bounds ifs within ifs.
const maxIfs = 16

var errCondition = errors.New("a condition that needs a shell")

// conditional reads an if whose conditions can be told without a shell, and takes
// over what the branch that holds sets. Those of the configuration that CVMFS comes
// with can: the servers of each domain stand in one. ok is false, and nothing was
// read, for any other.
func (r *reader) conditional() (ok bool, err error) {
	if r.depth == maxIfs {
		return false, nil
	}
	r.depth++
	defer func() { r.depth-- }()
	i, line := r.i, r.line
	r.mute++
	ok = r.branches() == nil
	r.mute--
	if ok && r.mute > 0 {
		return true, nil
	}
	r.i, r.line = i, line
	if !ok {
		return false, nil
	}
	return true, r.branches()
}

// branches goes from the if at i to behind its fi.
func (r *reader) branches() error {
	taken := false
	for word := "if"; word != "fi"; {
		r.i += len(word)
		holds := word == "else"
		var err error
		if !holds {
			holds, err = r.condition()
		}
		if err == nil {
			word, err = r.branch(holds && !taken)
		}
		if err != nil || word == "" {
			return err
		}
		taken = taken || holds
	}
	r.i += len("fi")
	return nil
}

// branch reads commands up to the word that ends them, which it returns; "": a
// return has ended the whole text.
func (r *reader) branch(run bool) (word string, err error) {
	if !run {
		r.mute++
		defer func() { r.mute-- }()
	}
	for {
		r.blank(true)
		switch word = r.name(); {
		case r.i == len(r.text) && r.mute == 0:
			return "", nil
		case r.i == len(r.text):
			return "", errors.New(`"fi" is missing`)
		case (word == "elif" || word == "else" || word == "fi") && r.ends(r.i+len(word)):
			return word, nil
		}
		if err := r.command(); err != nil {
			return "", err
		}
	}
}

// condition reads [ A = B ], [ A != B ], [ -n A ] or [ -z A ], and the then behind it.
// A variable that is not set is empty.
func (r *reader) condition() (holds bool, err error) {
	r.mute++
	defer func() { r.mute-- }()
	var words []string
	for len(words) < 5 && (len(words) == 0 || words[len(words)-1] != "]") {
		r.blank(false)
		word, odd, err := r.value()
		if err != nil || odd != "" {
			return false, errCondition
		}
		words = append(words, word)
	}
	if r.blank(true); r.name() != "then" || words[0] != "[" || words[len(words)-1] != "]" {
		return false, errCondition
	}
	r.i += len("then")
	switch {
	case len(words) == 5 && (words[2] == "=" || words[2] == "=="):
		return words[1] == words[3], nil
	case len(words) == 5 && words[2] == "!=":
		return words[1] != words[3], nil
	case len(words) == 4 && (words[1] == "-n" || words[1] == "-z"):
		return (words[2] == "") == (words[1] == "-z"), nil
	}
	return false, errCondition
}
